"""Reports changes that the journal does not have: each as a gap, and together in the log. Knows no client."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from changefeed.change.change import Change, without_losses
from changefeed.change.gap import Gap
from changefeed.journal.cursor import Place
from changefeed.journal.journal import Journal

logger = logging.getLogger("changefeed.follower")

# The least time between two such log lines: with a full disk, no statement may be recorded. Clients get every gap.
WARNING_SECONDS = 10.0
TABLES_NAMED = 5  # in a text

UNRECORDED = "some statements could not be recorded; PostgreSQL's log says why"


class LossReports:
    """tell_gap(gap) sends one to the clients."""

    def __init__(self, journal: Journal, tell_gap: Callable[[Gap], None]) -> None:
        self.reported = 0  # lost statements since the start, of which clients were sent gaps
        self._journal = journal
        self._tell_gap = tell_gap
        self._warned_at = float("-inf")  # monotonic
        self._unrecorded = 0  # statements since the last report of which the journal has not even a loss
        self._losing: frozenset[int] = frozenset()  # the transactions of which one may have lost it, and not be over

    def note_unrecorded(self, count: int) -> None:
        """Called when a read finds that `count` more statements were lost of which the journal has not even a loss."""
        self._unrecorded += count

    async def report_unrecorded(self, edge: Place) -> None:
        """Reports the loss at once, and again after the losing transaction: until then, the table has its old state."""
        if not (self._unrecorded or self._losing):
            return
        running = await self._journal.running()
        if self._unrecorded:
            self.reported += self._unrecorded
            self._unrecorded, self._losing = 0, self._losing | running
            self.tell(UNRECORDED, edge)
        elif not self._losing & running:
            self._losing = frozenset()
            self.tell(UNRECORDED, edge)

    def count(self, changes: Sequence[Change]) -> None:
        """Counts and logs the losses among the changes; clients get their gaps with the changes."""
        if without_losses(changes) is changes:
            return
        counts = Counter(change.table for change in changes if change.is_loss and not change.finding)
        if counts:
            self.reported += counts.total()
            self.warn(f"statements could not be recorded or read ({by_table(counts)}); PostgreSQL's log says why")

    def tell(self, why: str, edge: Place, end: str | None = None) -> None:
        """Logs it, and sends a gap that begins at `edge`."""
        self.warn(why)
        now = datetime.now(UTC)
        self._tell_gap(Gap(why, self._journal.encode(edge), end, now, now))

    def warn(self, why: str) -> None:
        """Logs it, unless something was logged a moment ago."""
        if time.monotonic() >= self._warned_at + WARNING_SECONDS:
            self._warned_at = time.monotonic()
            logger.warning("changes are missing: %s", why)


def by_table(counts: Counter[str]) -> str:
    """How many of which tables, as text."""
    return ", ".join(f"{count} of {table}" for table, count in counts.most_common(TABLES_NAMED))
