"""Counts changes by table and action: totals, and buckets of 1, 10 and 60 seconds. Knows no socket or clock.

All counts are absolute, never differences, so that a reader who gets one twice, or misses one, is still right.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from changefeed.change.change import ACTIONS, Change
from changefeed.counts.buckets import NONE, Buckets, Counts
from changefeed.counts.delays import delay_index

# Beyond these bounds changes are counted under one name. Any role of the database can send a payload with a made-up
# table, or create tables. So names that only payloads contain have bounds of their own, and cannot displace the
# journal's tables.
TABLE_LIMIT = 1_000  # for the journal's tables, and again for those that only payloads name
OTHER_TABLES = "(other tables)"
UNKNOWN_LIMIT = 200
UNKNOWN_TABLES = "(unknown tables)"
STEPS = {1: 900, 10: 360, 60: 1440}  # seconds of a bucket -> how many are kept: a quarter of an hour, an hour, a day

_INDEX = {action: index for index, action in enumerate(ACTIONS)}


class Tally:
    """Counts since `since`, in total and by bucket (STEPS), and the delays of each bucket's changes.

    `since` is when the server started, or the time of the oldest change that was loaded from the journal. Plain
    notifications are stored nowhere, so they are always counted from the server's start. `is_table` says whether the
    database has a table of a name that only payloads contain.
    """

    def __init__(self, now: float, is_table: Callable[[str], bool] = lambda table: False) -> None:
        self.since = datetime.fromtimestamp(now, UTC)
        self.totals: dict[str, Counts] = {}
        self._is_table = is_table
        # The names that only payloads contain: of existing tables, and of those that may be made up.
        self._by_payload: set[str] = set()
        self._unknown: set[str] = set()
        self.foreign = 0
        self.not_json = 0
        self.withheld = 0  # payloads, see --payload
        self.by_step = {step: Buckets(step, kept) for step, kept in STEPS.items()}
        # How far PostgreSQL's clock, which stamps the changes, is ahead. None: unknown, and so are the delays.
        self.database_ahead_seconds: float | None = None
        self._touched_tables: set[str] = set()

    def count(self, changes: Iterable[Change], now: float) -> None:
        """Counts changes at the time of their statement; those without one at `now`, in epoch seconds.

        A `now` of 0 means that another process published them before.
        """
        for (table, action, at), count in _sums(changes).items():
            if not table:
                self.foreign += count
                continue
            # Only the journal's changes have a time of their own.
            name = self._known(table) if at else self._told(table)
            self._add(name, _INDEX[action], count, at or now)
            if at and now and self.database_ahead_seconds is not None:
                index = delay_index(now + self.database_ahead_seconds - at)
                for buckets in self.by_step.values():
                    buckets.add_delay(now, index, count)

    def load(self, step_seconds: int, at: float, table: str, action: str, count: int, first_at: float) -> None:
        """Counts earlier changes of the journal, as one step that begins at `at`, and in the coarser steps.

        `first_at` is the time of the first of them.
        """
        table, index = self._known(table), _INDEX[action]
        self.totals[table][index] += count
        self.since = min(self.since, datetime.fromtimestamp(first_at, UTC))
        for step, buckets in self.by_step.items():
            if step >= step_seconds:
                buckets.add(at, table, index, count)

    def add_before(self, loaded: "Tally") -> None:
        """Adds the counts of `loaded`, which must not be used afterwards."""
        for table, counts in loaded.totals.items():
            known = self.totals.get(table, NONE)
            self.totals[table] = [one + other for one, other in zip(known, counts, strict=True)]
            self._by_payload.discard(table)
            self._unknown.discard(table)
        self.since = min(self.since, loaded.since)
        for step, buckets in self.by_step.items():
            buckets.add_before(loaded.by_step[step])

    def reset(self, now: float) -> None:
        """Forgets all counts, because the journal they belong to is gone."""
        self.restore(Tally(now).dump())
        self._touched_tables.clear()

    def dump(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "since": self.since.timestamp(),
            "totals": self.totals,
            "heard": sorted(self._by_payload),
            "unknown": sorted(self._unknown),
            "foreign": self.foreign,
            "not_json": self.not_json,
            "withheld": self.withheld,
            "by_step": {str(step): buckets.dump() for step, buckets in self.by_step.items()},
        }

    def restore(self, dumped: Mapping[str, Any]) -> None:
        """Takes the state of a dump(), and forgets all earlier counts."""
        self.since = datetime.fromtimestamp(dumped["since"], UTC)
        self.totals = dict(dumped["totals"])
        self._by_payload = set(dumped["heard"])
        self._unknown = set(dumped["unknown"])
        self.foreign = dumped["foreign"]
        self.not_json = dumped["not_json"]
        self.withheld = dumped["withheld"]
        for step, buckets in self.by_step.items():
            buckets.restore(dumped["by_step"][str(step)])

    def set_database_ahead(self, seconds: float) -> None:
        self.database_ahead_seconds = seconds

    def database_now(self) -> float:
        """Epoch seconds by PostgreSQL's clock; by ours until that is known."""
        return time.time() + (self.database_ahead_seconds or 0.0)

    def take_touched_totals(self) -> dict[str, Counts]:
        """The totals that changed since the last call."""
        totals = {table: self.totals[table] for table in self._touched_tables}
        self._touched_tables.clear()
        return totals

    def _add(self, table: str, index: int, count: int, at: float) -> None:
        self.totals[table][index] += count
        self._touched_tables.add(table)
        for buckets in self.by_step.values():
            buckets.add(at, table, index, count)

    def _known(self, table: str) -> str:
        """The name under which a table of the journal is counted."""
        self._by_payload.discard(table)
        self._unknown.discard(table)
        if table not in self.totals and len(self.totals) - len(self._by_payload) - len(self._unknown) >= TABLE_LIMIT:
            table = OTHER_TABLES
        self.totals.setdefault(table, [0] * len(ACTIONS))
        return table

    def _told(self, table: str) -> str:
        """The name under which a table is counted that only payloads name."""
        if table in self.totals:
            return table
        if self._is_table(table):
            names, table = self._by_payload, table if len(self._by_payload) < TABLE_LIMIT else OTHER_TABLES
        else:
            names, table = self._unknown, table if len(self._unknown) < UNKNOWN_LIMIT else UNKNOWN_TABLES
        names.add(table)
        self.totals.setdefault(table, [0] * len(ACTIONS))
        return table


def _sums(changes: Iterable[Change]) -> dict[tuple[str, str, float], int]:
    """How many changes there are of each table, action and time.

    The rows of a statement follow each other and have the same key, so a sum is looked up only when the key changes.
    """
    sums: dict[tuple[str, str, float], int] = {}
    table, action, at, count = "", "", 0.0, 0
    for change in changes:
        if change.table == table and change.action == action and change.at == at:
            count += change.count
        else:
            sums[table, action, at] = sums.get((table, action, at), 0) + count
            table, action, at, count = change.table, change.action, change.at, change.count
    sums[table, action, at] = sums.get((table, action, at), 0) + count
    return sums
