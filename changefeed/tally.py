"""Changes in, counts by table and action out: totals, and buckets of seconds and of minutes. Knows no socket or clock.

All counts given out are absolute, never differences, so that whoever reads one twice, or misses one, is still right.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from changefeed.change import ACTIONS, Change

# Payloads name their tables themselves, so the number of names must have a bound; the rest is counted under one name.
TABLE_LIMIT = 1_000
OTHER_TABLES = "(other tables)"

Counts = list[int]  # in the order of ACTIONS
BucketMessage = dict[str, object]
_INDEX = {action: index for index, action in enumerate(ACTIONS)}


class Buckets:
    """The counts of the last `kept` steps of `step_seconds`, by epoch second of their beginning, table and action."""

    def __init__(self, step_seconds: int, kept: int) -> None:
        self.step_seconds = step_seconds
        self.window_seconds = step_seconds * kept
        self.kept = kept
        self._counts: dict[int, dict[str, Counts]] = {}
        self._newest = 0

    def add(self, at: float, table: str, index: int, count: int) -> int | None:
        """The bucket that it was counted in; None where that is past."""
        begins = int(at) // self.step_seconds * self.step_seconds
        if begins > self._newest:
            self._newest = begins
            self._forget_old()
        elif begins <= self._newest - self.window_seconds:
            return None
        bucket = self._counts.setdefault(begins, {})
        counts = bucket.get(table)
        if counts is None:
            counts = bucket[table] = [0] * len(ACTIONS)
        counts[index] += count
        return begins

    def since(self, at: float) -> list[BucketMessage]:
        """The buckets that end after `at`, oldest first; one in which nothing changed is left out."""
        return [self.message(begins) for begins in sorted(self._counts) if begins + self.step_seconds > at]

    def message(self, begins: int) -> BucketMessage:
        return {"at": begins, "counts": self._counts.get(begins, {})}

    def dump(self) -> dict[str, dict[str, Counts]]:
        return {str(begins): bucket for begins, bucket in self._counts.items()}

    def restore(self, dumped: Mapping[str, dict[str, Counts]]) -> None:
        self._counts = {int(begins): bucket for begins, bucket in dumped.items()}
        self._newest = max(self._counts, default=0)

    def __contains__(self, begins: int) -> bool:
        return begins in self._counts

    def _forget_old(self) -> None:
        if len(self._counts) > self.kept:
            oldest = self._newest - self.window_seconds
            self._counts = {begins: bucket for begins, bucket in self._counts.items() if begins > oldest}


class Tally:
    """Counts since `since`: in all, of each of the last 900 seconds, and of each of the last 1440 minutes.

    That is when the server started, or the oldest change of the journal that was loaded. What was notified without a
    journal is counted since the server started in any case: nobody kept it.
    """

    def __init__(self, now: float) -> None:
        self.since = datetime.fromtimestamp(now, UTC)
        self.totals: dict[str, Counts] = {}
        self.foreign = 0
        self.not_json = 0
        self.seconds = Buckets(1, 900)
        self.minutes = Buckets(60, 1440)
        self._touched_tables: set[str] = set()
        self._touched_seconds: set[int] = set()

    def count(self, changes: Iterable[Change], now: float) -> None:
        """Counts changes by the time of their statement, or else by `now` (epoch seconds)."""
        counts: dict[tuple[str, str, float], int] = {}
        for change in changes:
            alike = (change.table, change.action, change.at)  # all rows of a statement are
            counts[alike] = counts.get(alike, 0) + change.count
        for (table, action, at), count in counts.items():
            if table:
                self._add(table, _INDEX[action], count, at or now)
            else:
                self.foreign += count

    def load(self, at: float, table: str, action: str, count: int, first_at: float, *, into_minutes: bool) -> None:
        """Counts what the journal held before: the minutes and totals by its minutes, the seconds by its seconds.

        `first_at` is when the first of them happened.
        """
        table, index = self._known(table), _INDEX[action]
        if into_minutes:
            self.totals[table][index] += count
            self.minutes.add(at, table, index, count)
            self.since = min(self.since, datetime.fromtimestamp(first_at, UTC))
        else:
            self.seconds.add(at, table, index, count)

    def take_touched(self) -> tuple[dict[str, Counts], list[BucketMessage]]:
        """The totals and seconds that changed since this was last called: what the next activity message says."""
        totals = {table: self.totals[table] for table in self._touched_tables}
        buckets = [self.seconds.message(begins) for begins in sorted(self._touched_seconds)]
        self._touched_tables.clear()
        self._touched_seconds.clear()
        return totals, buckets

    def dump(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "since": self.since.timestamp(),
            "totals": self.totals,
            "foreign": self.foreign,
            "not_json": self.not_json,
            "seconds": self.seconds.dump(),
            "minutes": self.minutes.dump(),
        }

    def restore(self, dumped: Mapping[str, Any]) -> None:
        """Becomes what was dumped; what was counted before is forgotten."""
        self.since = datetime.fromtimestamp(dumped["since"], UTC)
        self.totals = dict(dumped["totals"])
        self.foreign = dumped["foreign"]
        self.not_json = dumped["not_json"]
        self.seconds.restore(dumped["seconds"])
        self.minutes.restore(dumped["minutes"])

    def _add(self, table: str, index: int, count: int, at: float) -> None:
        table = self._known(table)
        self.totals[table][index] += count
        self._touched_tables.add(table)
        self.minutes.add(at, table, index, count)
        second = self.seconds.add(at, table, index, count)
        if second is not None:
            self._touched_seconds.add(second)
            if len(self._touched_seconds) > self.seconds.kept:  # nobody takes them
                self._touched_seconds = {touched for touched in self._touched_seconds if touched in self.seconds}

    def _known(self, table: str) -> str:
        if table not in self.totals:
            if len(self.totals) >= TABLE_LIMIT:
                table = OTHER_TABLES
            self.totals.setdefault(table, [0] * len(ACTIONS))
        return table
