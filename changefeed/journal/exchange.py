"""Hands pages of the journal from the process that read them to others, so that reading costs PostgreSQL once.

Knows no database and no socket: how messages travel is the caller's. Any may be lost, or come late, since the journal
is the truth:

- The process that reads a page hands it on. A process follows the lowest number below its own from which pages come.
- A page fits if it starts exactly where this process has published to. If not, this process reads from the journal up
  to the end of the page's batch, where the next page starts.
- A process that has waited for a page for SIBLING_PATIENCE_SECONDS longer than it would have waited to read, or learns
  that the other one has ended, reads for itself, as if it were alone.
- A process that is slow to publish hands on no pages, so that it holds up no other.

So what a process publishes, and every place that it gives out, is what it would have read. All else it decides for
itself: what was lost, whether the past is still the one that it knows, whether it is ready.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import msgspec

from changefeed.journal.cursor import Place
from changefeed.journal.horizon import Deleted, Horizon
from changefeed.journal.page_cache import Page

# More than a read takes while all is well, so that a slow PostgreSQL is not read by all.
SIBLING_PATIENCE_SECONDS = 0.5
# Processes receive a NOTIFY at different times: a page may have the news that this process received this long after the
# other one had begun to read it.
LATENESS_SECONDS = 0.1
# A process that took this long to publish a page hands on none for a while.
BUSY_SECONDS = 0.1
BUSY_PAUSE_SECONDS = 2.0
# What may wait in a process that is busy publishing. If there is more, it reads for itself up to the newest.
WAITING_LIMIT_BYTES = 16 << 20

# Equal for the same journal, read by the same version of the server with the same settings.
PageKind = tuple[str, ...]


class HandedPage(msgspec.Struct, array_like=True, frozen=True):
    """A page, and what its reader knew after it had read it. Times are those of the machine's monotonic clock."""

    kind: PageKind
    proven_at: float  # when its reader had last made sure that the journal and its past are those that it knew
    began_at: float  # what was committed before is in this batch, or an earlier one
    page: Page
    horizon: Horizon  # of `deleted` only the number
    lease_ms: int | None
    is_whole: bool = True  # else the changes were left out, as they are too large

    def fits(self, edge: Place) -> bool:
        """Whether the page is what a process that has published up to `edge` would read next."""
        start = self.page.start
        witnesses = {start.batch.witness, edge.batch.witness} - {0}  # two of them are of different pasts
        return self.is_whole and start == edge and len(witnesses) < 2

    @property
    def batch_end(self) -> Place:
        return Place.after(self.page.batch)

    def leads_on_from(self, edge: Place) -> bool:
        """Whether its batch ends beyond `edge`, at a place that can be proven."""
        return bool(self.page.batch.witness) and edge != self.batch_end and edge.is_within(self.batch_end)


class PageExchange:
    """The pages of one process, `number`, and of its siblings. By default there are none.

    send(message) sends to the processes with higher numbers, and returns false if the message is too large. can_lead()
    says whether this process receives news at once, so that others may rely on it. on_news() is called when next_for()
    or must_prove may have another answer, on_left() when this process must read for itself.
    """

    def __init__(
        self,
        number: int = 1,
        send: Callable[[bytes], bool] | None = None,
        can_lead: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.taken_over = 0  # pages, since the start
        self.on_news: Callable[[], None] = lambda: None
        self.on_left: Callable[[], None] = lambda: None
        self._number = number
        self._send = send
        self._can_lead = can_lead
        self._clock = clock
        self._leads = False
        self._busy_until = float("-inf")
        self._followed: int | None = None
        self._waiting: deque[tuple[int, HandedPage]] = deque()  # with the sizes of their messages
        self._waiting_bytes = 0
        self._kind: PageKind | None = None
        self._proof_began_at = self._proven_at = self._other_proven_at = float("-inf")
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(HandedPage).decode

    @property
    def patience_seconds(self) -> float:
        """How much longer to wait for a page than to wait before reading."""
        return 0.0 if self._followed is None else SIBLING_PATIENCE_SECONDS

    @property
    def lateness_seconds(self) -> float:
        """How much later than the process that reads this one may receive news."""
        return 0.0 if self._followed is None else LATENESS_SECONDS

    @property
    def must_prove(self) -> bool:
        """Whether the followed process has made sure of the journal and its past later than this one."""
        return self._other_proven_at > self._proof_began_at

    def prove(self, kind: PageKind | None, began_at: float) -> None:
        """Called when this process has made sure of them, from `began_at` on; kind is None if no page may be shared."""
        self._forget()  # the pages may be of another past
        self._kind = kind
        self._proof_began_at, self._proven_at = began_at, self._clock()

    def hand_on(self, page: Page, horizon: Horizon, lease_ms: int | None, began_at: float) -> None:
        """Hands a page that was read from the journal to the siblings."""
        if self._send is None:
            return
        led, self._leads = self._leads, self._clock() >= self._busy_until and self._can_lead()
        if self._kind is None or not self._leads:
            if led:
                self._send(b"")
            return
        known = replace(horizon, deleted=Deleted(horizon.deleted.number))
        handed = HandedPage(self._kind, self._proven_at, began_at, page, known, lease_ms)
        if not self._send(self._encode(handed)):
            without = msgspec.structs.replace(handed, page=replace(page, changes=[]), is_whole=False)
            self._send(self._encode(without))

    def note_publishing(self, seconds: float) -> None:
        """Notes how long this process took to publish a page."""
        if seconds > BUSY_SECONDS:
            self._busy_until = self._clock() + BUSY_PAUSE_SECONDS

    def receive(self, number: int, message: bytes) -> None:
        """Takes a message that process `number` sent; an empty one says that it sends no more, or has ended."""
        if not message and number == self._followed:
            self.leave()
            self.on_left()
        elif message and number < self._number and (self._followed is None or number <= self._followed):
            try:
                handed = self._decode(message)
            except msgspec.DecodeError:
                return  # of another version of the server, with which that process was restarted
            if handed.kind == self._kind:
                self._note(number, len(message), handed)

    def next_for(self, edge: Place) -> HandedPage | None:
        """The next page that fits a process that has published up to `edge`, or leads on from there, if any."""
        while self._waiting:
            size, handed = self._waiting.popleft()
            self._waiting_bytes -= size
            if handed.fits(edge) or handed.leads_on_from(edge):
                return handed
        return None

    def leave(self) -> None:
        """Follows no process until the next page comes."""
        self._followed = None
        self._forget()

    def _note(self, number: int, size: int, handed: HandedPage) -> None:
        if number != self._followed or self._waiting_bytes + size > WAITING_LIMIT_BYTES:
            self._forget()
        self._followed = number
        self._other_proven_at = max(self._other_proven_at, handed.proven_at)
        self._waiting.append((size, handed))
        self._waiting_bytes += size
        self.on_news()

    def _forget(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0
