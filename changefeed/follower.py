"""Wake-ups in, published changes out: follows the journal from where the server stands, for ever. Knows no client.

A NOTIFY only wakes it; the journal is the truth. A sweep every few seconds finds what no NOTIFY announced, such as what
was committed by a two-phase commit, or while PostgreSQL lost its queue in a crash. While one page is being published
the next wake-ups become one.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import psycopg2

from changefeed.backoff import backoff
from changefeed.database import DatabaseUnavailable, one_line
from changefeed.gap import Gap
from changefeed.journal import BEGINNING, Journal, WrongJournal
from changefeed.memory import Memory, Page

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 2.0
# With a full disk each statement may be one that could not be journaled. The clients are told of each, the log is not.
LOSS_WARNING_SECONDS = 10.0
# How much of the journal is in memory from the start, for clients that come back after a restart.
REMEMBERED_ENTRIES = 20_000


class Follower:
    """Publishes every page that comes to the journal: publish(page, cursor of its end).

    before_first(place) runs once, when it is known from where on it publishes; tell_gap(gap) says what was lost;
    drained() is awaited between the pages of a big batch, so that sockets keep up.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        publish: Callable[[Page, str], None],
        before_first: Callable[[Memory], Awaitable[None]],
        tell_gap: Callable[[Gap], None],
        drained: Callable[[], Awaitable[None]],
    ) -> None:
        self.memory: Memory | None = None  # None while there is no journal
        self.read_until = 0.0  # epoch seconds: what was committed before is published
        self._journal = journal
        self._publish = publish
        self._before_first = before_first
        self._tell_gap = tell_gap
        self._drained = drained
        self._known = asyncio.Event()
        self._woken = asyncio.Event()
        self._moved = asyncio.Event()
        self._reconnected = asyncio.Event()
        self._is_identified = False
        self._warned_at = float("-inf")  # of losses; monotonic

    def wake(self) -> None:
        """Something may have come to the journal."""
        self._woken.set()

    def reidentify(self) -> None:
        """PostgreSQL is back after its connection was lost: it may be another one now."""
        self._is_identified = False
        self._reconnected.set()
        self.wake()

    async def until_known(self, deadline_seconds: float) -> bool:
        """Waits until it is known whether there is a journal; False when the deadline was over before."""
        await _wait(self._known, deadline_seconds)
        return self._known.is_set()

    async def until_moved(self) -> None:
        """Returns when the next page was read, if there was anything in it or not."""
        self._moved.clear()
        await self._moved.wait()

    async def run(self) -> None:
        """Follows until cancelled."""
        delays, complaint = backoff(), ""
        while True:
            self._reconnected.clear()
            try:
                await self._read_on()
                delays, complaint = backoff(), ""
            except (DatabaseUnavailable, psycopg2.Error, WrongJournal) as error:
                self._is_identified = False
                if complaint != (complaint := one_line(error)):
                    # That the database is away the listener says.
                    level = logging.INFO if isinstance(error, DatabaseUnavailable) else logging.WARNING
                    logger.log(level, "the journal cannot be read: %s; trying again until it can", complaint)
                await _wait(self._reconnected, next(delays))
            else:
                await _wait(self._woken, SWEEP_SECONDS)

    async def _read_on(self) -> None:
        self._woken.clear()
        if not self._is_identified or self.memory is None:  # one may be installed at any time
            await self._identify()
        memory = self.memory
        if memory is None:
            return
        # What was left over of a batch is as old as that.
        began = time.time() if memory.edge.previous == memory.edge.batch else self.read_until
        while True:
            page = await self._journal.read(memory.edge)
            if memory.edge != BEGINNING and self._journal.losses.concern(memory.edge):
                end = self._journal.encode(page.end)
                self._tell("the server was away for longer than the journal's retention", memory, end)
            memory.append(page)
            self._moved.set()
            if page.changes:
                self._publish(page, self._journal.encode(page.end))
            if page.end.previous == page.end.batch:
                self.read_until = began
                return
            await self._drained()

    async def _identify(self) -> None:
        """Finds the journal, and whether it is still the one that was followed."""
        before = self._journal.epoch
        has_journal = await self._journal.identify()
        if self.memory is not None and before == self._journal.epoch:
            self._is_identified = True
            return
        if self.memory is not None:
            logger.warning("the journal is another one than before; cursors from before are refused")
            self._tell_gap(Gap("the journal is another one than before: restored, or installed anew"))
            self.memory = self._journal.on_lost = None
            self._known.clear()
        if has_journal and self._known.is_set():
            # There was none a moment ago: everything in it is news.
            self.memory = Memory(self._journal.encode_batch, BEGINNING)
            self._journal.on_lost = self._tell_lost
        elif has_journal:
            await self._remember()
        self._is_identified = True
        self._known.set()

    async def _remember(self) -> None:
        """Reads the newest entries into memory; publishing begins after them."""
        memory = Memory(self._journal.encode_batch, await self._journal.newest(REMEMBERED_ENTRIES))
        page = await self._journal.read(memory.edge)
        memory.append(page)
        while page.end.previous != page.end.batch:
            page = await self._journal.read(memory.edge)
            memory.append(page)
        self._journal.on_lost = self._tell_lost  # what was lost before, those who come back with a cursor are told
        await self._before_first(memory)
        self.memory = memory
        logger.info("following the journal")

    def _tell_lost(self, count: int) -> None:
        self._tell(f"{count} statements could not be journaled; PostgreSQL's log says why", self.memory)

    def _tell(self, why: str, memory: Memory | None, end: str | None = None) -> None:
        if time.monotonic() >= self._warned_at + LOSS_WARNING_SECONDS:
            self._warned_at = time.monotonic()
            logger.warning("changes are missing: %s", why)
        now = datetime.now(UTC)
        self._tell_gap(Gap(why, self._journal.encode(memory.edge) if memory else None, end, now, now))


async def _wait(event: asyncio.Event, most_seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(most_seconds):
            await event.wait()
