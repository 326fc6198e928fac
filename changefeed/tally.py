"""Changes in, counts by table and action out: totals, and a bucket for each second. Knows no socket and no clock.

All counts given out are absolute, never differences, so that whoever reads one twice, or misses one, is still right.
"""

from collections import OrderedDict
from collections.abc import Iterable
from datetime import UTC, datetime

from changefeed.change import ACTIONS, Change

STEP_SECONDS = 1
KEPT_BUCKETS = 900
# Payloads name their tables themselves, so the number of names must have a bound; the rest is counted under one name.
TABLE_LIMIT = 1_000
OTHER_TABLES = "(other tables)"

Counts = list[int]  # in the order of ACTIONS
_INDEX = {action: index for index, action in enumerate(ACTIONS)}


class Tally:
    """Counts since `since`, and the last KEPT_BUCKETS seconds one by one."""

    def __init__(self, now: float) -> None:
        self.since = datetime.fromtimestamp(now, UTC)
        self.totals: dict[str, Counts] = {}
        self.foreign = 0
        self.not_json = 0
        self._buckets: OrderedDict[int, dict[str, Counts]] = OrderedDict()
        self._touched_tables: set[str] = set()
        self._touched_buckets: set[int] = set()

    def count(self, changes: Iterable[Change], now: float) -> None:
        """Counts changes that arrived at `now` (epoch seconds)."""
        at = int(now)
        bucket = self._buckets.get(at)
        if bucket is None:
            bucket = self._buckets[at] = {}
            while len(self._buckets) > KEPT_BUCKETS:
                oldest, _ = self._buckets.popitem(last=False)
                self._touched_buckets.discard(oldest)
        for change in changes:
            if change.is_foreign:
                self.foreign += 1
                continue
            table, index = change.table, _INDEX[change.action]
            total = self.totals.get(table)
            if total is None:
                if len(self.totals) >= TABLE_LIMIT:
                    table = OTHER_TABLES
                total = self.totals.setdefault(table, [0] * len(ACTIONS))
            total[index] += 1
            bucket.setdefault(table, [0] * len(ACTIONS))[index] += 1
            self._touched_tables.add(table)
        self._touched_buckets.add(at)

    def buckets(self, since: float) -> list[dict[str, object]]:
        """The buckets that end after `since`, oldest first; one in which nothing changed is left out."""
        return [
            {"at": at, "counts": counts} for at, counts in self._buckets.items() if counts and at + STEP_SECONDS > since
        ]

    def take_touched(self) -> tuple[dict[str, Counts], list[dict[str, object]]]:
        """The totals and buckets that changed since this was last called: what the next activity message says."""
        totals = {table: self.totals[table] for table in self._touched_tables}
        buckets: list[dict[str, object]] = [
            {"at": at, "counts": self._buckets[at]} for at in sorted(self._touched_buckets) if self._buckets.get(at)
        ]
        self._touched_tables.clear()
        self._touched_buckets.clear()
        return totals, buckets
