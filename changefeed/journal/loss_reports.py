"""Reports changes that the journal does not have: each as a gap, and together in the log. Knows no client."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from changefeed.change.change import Change, without_losses
from changefeed.change.gap import Gap
from changefeed.journal.cursor import Place
from changefeed.journal.journal import Journal

logger = logging.getLogger("changefeed.follower")

# The least time between two such log lines: with a full disk, no statement may be recorded. Clients get every gap.
WARNING_SECONDS = 10.0
TABLES_NAMED = 5  # in a text
RISES_KEPT = 1_000

UNRECORDED = "some statements could not be recorded; PostgreSQL's log says why"


@dataclass(frozen=True)
class _Rise:
    """The counter of statements of which the journal has not even a loss rose between these times, if known."""

    before: int
    after: int
    since: datetime | None
    until: datetime


class LossReports:
    """tell_gap(gap) sends one to the clients."""

    def __init__(self, journal: Journal, tell_gap: Callable[[Gap], None]) -> None:
        self.reported = 0  # lost statements since the start, of which clients were sent gaps
        self._journal = journal
        self._tell_gap = tell_gap
        self._warned_at = float("-inf")  # monotonic
        self._rises: deque[_Rise] = deque(maxlen=RISES_KEPT)  # the newest last
        self._counted_at: datetime | None = None  # when the last read began that found no more than is in _rises
        self._told = 0  # what the counter had reached by the last report
        self._losing: frozenset[int] = frozenset()  # the transactions of which one may have lost it, and not be over
        self._losing_after = 0  # what the counter was before the first loss that is to be reported again

    def begin(self, counted_at: datetime | None) -> None:
        """Begins to report what is not counted yet. Clients that resume learn of earlier losses by their cursors.

        `counted_at` is when the read began that found the number so far, if there was one.
        """
        self._told, self._losing = self._journal.horizon.lost_statements, frozenset()
        self._rises.clear()
        self._counted_at = counted_at
        if self._told:
            self._rises.append(_Rise(0, self._told, None, datetime.now(UTC)))
        self._journal.on_lost = self.note_unrecorded

    def note_unrecorded(self, count: int) -> None:
        """Called when a read finds that `count` more statements were lost of which the journal has not even a loss."""
        after = self._journal.horizon.lost_statements
        self._rises.append(_Rise(after - count, after, self._counted_at, datetime.now(UTC)))

    async def report_unrecorded(self, edge: Place, read_began_at: datetime) -> None:
        """Reports the loss at once, and again after the losing transaction: until then, the table has its old state.

        Called after a page was read: before the counter rises again, it was last seen when that read began.
        """
        counted, self._counted_at = self._journal.horizon.lost_statements, read_began_at
        if counted == self._told and not self._losing:
            return
        running = await self._journal.running()
        if counted > self._told:
            if not self._losing:
                self._losing_after = self._told
            told, self._told = self._told, counted
            self.reported += counted - told
            self._losing |= running
            self._tell_unrecorded(told, edge)
        elif not self._losing & running:
            self._losing = frozenset()
            self._tell_unrecorded(self._losing_after, edge)

    def unrecorded_after(self, counted: int, cursor: str | None) -> Gap:
        """The gap at this cursor for what was lost after the counter had reached `counted`."""
        total = self._journal.horizon.lost_statements
        rise = next((rise for rise in self._rises if rise.before <= counted < rise.after), None)
        until = self._rises[-1].until if self._rises else None
        return Gap(UNRECORDED, cursor, None, rise.since if rise else None, until, skipped=total - counted)

    def _tell_unrecorded(self, counted: int, edge: Place) -> None:
        self.warn(UNRECORDED)
        self._tell_gap(self.unrecorded_after(counted, self._journal.encode(edge)))

    def count(self, changes: Sequence[Change]) -> None:
        """Counts and logs the losses among the changes; clients get their gaps with the changes."""
        if without_losses(changes) is changes:
            return
        counts = Counter(change.table for change in changes if change.is_loss and not change.finding)
        if counts:
            self.reported += counts.total()
            self.warn(f"statements could not be recorded or read ({by_table(counts)}); PostgreSQL's log says why")

    def tell(self, why: str, edge: Place, end: str, since: datetime) -> None:
        """Logs it, and sends a gap that begins at `edge`, where the server was at `since`."""
        self.warn(why)
        self._tell_gap(Gap(why, self._journal.encode(edge), end, since, datetime.now(UTC)))

    def warn(self, why: str) -> None:
        """Logs it, unless something was logged a moment ago."""
        if time.monotonic() >= self._warned_at + WARNING_SECONDS:
            self._warned_at = time.monotonic()
            logger.warning("changes are missing: %s", why)


def by_table(counts: Counter[str]) -> str:
    """How many of which tables, as text."""
    return ", ".join(f"{count} of {table}" for table, count in counts.most_common(TABLES_NAMED))
