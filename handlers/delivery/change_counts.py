"""Counts changes since the server started, from the tally: numbers that never fall. Knows no metric.

Every process counts every change, each at its own pace, so the number is the greatest of them. The tally also holds the
journal's earlier changes, which do not count here, and what was taken over from another process.
"""

from collections.abc import Callable

from changefeed.change.change import ACTIONS
from changefeed.counts.tally import OTHER_TABLES, Tally
from process.shared_numbers import NumberKey, SharedNumbers

TABLE_LIMIT_BYTES = 127  # of schema, dot and table; only a made-up payload can have more
NAME = "changefeed_changes_total"
DROPPED = "changefeed_payloads_dropped_total"


class ChangeCounts:
    """Writes the counts into `numbers`, by table and action."""

    def __init__(self, tally: Tally, numbers: SharedNumbers) -> None:
        self._tally = tally
        self._numbers = numbers
        self._offsets: dict[NumberKey, float] = {}  # added to the tally's numbers

    def begin(self) -> None:
        """Called after the tally was taken over from another process: counts on from the present numbers."""
        known: dict[NumberKey, float] = {}
        for part in self._numbers.everywhere():
            for key, value in part.items():
                if key[0] in (NAME, DROPPED):
                    known[key] = max(value, known.get(key, 0))
        totals = self._totals()
        self._offsets = {key: known.get(key, 0) - totals.get(key, 0) for key in known.keys() | totals.keys()}

    def leave_out(self, what: Callable[[], None]) -> None:
        """Calls `what`, and leaves out the changes that it adds to the tally, such as those from before the start."""
        before = self._totals()
        what()
        after = self._totals()
        for key in before.keys() | after.keys():
            self._offsets[key] = self._offsets.get(key, 0) + before.get(key, 0) - after.get(key, 0)

    def sample(self) -> None:
        for key, total in self._totals().items():
            number = self._numbers.number(*key)
            number.set(max(number.value, total + self._offsets.get(key, 0)))

    def _totals(self) -> dict[NumberKey, float]:
        totals: dict[NumberKey, float] = {
            (DROPPED, "not_json"): self._tally.not_json,
            (DROPPED, "withheld"): self._tally.withheld,
        }
        for table, counts in self._tally.totals.items():
            shown = table if len(table.encode()) <= TABLE_LIMIT_BYTES else OTHER_TABLES
            for action, count in zip(ACTIONS, counts, strict=True):
                if count:
                    totals[NAME, shown, action] = totals.get((NAME, shown, action), 0) + count
        return totals
