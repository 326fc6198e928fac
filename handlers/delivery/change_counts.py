"""The tally in, how many changes there were since the server started out: numbers that never fall. Knows no metric.

Every process counts every change, in its own time, so the number is the greatest that any of them has. The tally also
holds what the journal held at the start, which is no news, and what was taken over from another process.
"""

from collections.abc import Callable

from changefeed.change.change import ACTIONS
from changefeed.counts.tally import OTHER_TABLES, Tally
from process.shared_numbers import NumberKey, SharedNumbers

TABLE_LIMIT_BYTES = 127  # of a schema's name, a dot and a table's; only a payload can have more
NAME = "changefeed_changes_total"
DROPPED = "changefeed_payloads_dropped_total"


class ChangeCounts:
    """Writes into `meters`, by table and action."""

    def __init__(self, tally: Tally, meters: SharedNumbers) -> None:
        self._tally = tally
        self._meters = meters
        self._offsets: dict[NumberKey, float] = {}  # what to add to the tally's number

    def begin(self) -> None:
        """The tally was taken over from another process: from now on the numbers go on from where they stand."""
        known: dict[NumberKey, float] = {}
        for part in self._meters.everywhere():
            for key, value in part.items():
                if key[0] in (NAME, DROPPED):
                    known[key] = max(value, known.get(key, 0))
        totals = self._totals()
        self._offsets = {key: known.get(key, 0) - totals.get(key, 0) for key in known.keys() | totals.keys()}

    def leave_out(self, what: Callable[[], None]) -> None:
        """Does something to the tally that is no news, such as adding what happened before."""
        before = self._totals()
        what()
        after = self._totals()
        for key in before.keys() | after.keys():
            self._offsets[key] = self._offsets.get(key, 0) + before.get(key, 0) - after.get(key, 0)

    def sample(self) -> None:
        for key, total in self._totals().items():
            meter = self._meters.meter(*key)
            meter.set(max(meter.value, total + self._offsets.get(key, 0)))

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
