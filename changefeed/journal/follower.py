"""Follows the journal, and publishes its changes. Knows no client.

A NOTIFY only wakes it; the journal is the truth. A sweep every few seconds finds what no NOTIFY announced, such as
two-phase commits, or commits before a crash that lost PostgreSQL's queue. While one page is being published,
and for a few milliseconds after a read began, the next wake-ups become one. While the lease holds
(changefeed/journal/lease.py) writers send no NOTIFY, and it reads every few milliseconds; after it ever more seldom,
since a transaction that saw it may commit at any time. Of several processes one reads, and hands its pages to the
others (changefeed/journal/exchange.py).
"""

import asyncio
import contextlib
import enum
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import psycopg2

from changefeed.backoff import backoff
from changefeed.change.gap import Gap
from changefeed.journal.cursor import Place
from changefeed.journal.entries import JournalReplaced
from changefeed.journal.exchange import HandedPage, PageExchange
from changefeed.journal.horizon import Horizon
from changefeed.journal.journal import Journal, LostPast, WrongJournal
from changefeed.journal.journal_health import JournalHealth
from changefeed.journal.lease import Lease
from changefeed.journal.loss_reports import LossReports, by_table
from changefeed.journal.page_cache import Page, PageCache
from changefeed.postgres.pool import DatabaseUnavailable
from changefeed.turns import Floor, TurnSize

logger = logging.getLogger("changefeed.follower")

SWEEP_SECONDS = 2.0
# The least time between two reads. So one read covers many commits, and the cost of reading does not grow with their
# number. A commit after a lull is read at once.
READ_FLOOR_SECONDS = 0.004
# After the lease a pause is this share of the time that has passed since, up to the sweep's. So what commits then is
# found within half that time, whatever wakes the follower meanwhile.
AFTER_LEASE_SHARE = 0.5
# How many entries are in the cache from the start, for clients that reconnect after a restart.
RECALLED_ENTRIES = 20_000
# How many of the newest changes are checked after a lost connection: does PostgreSQL still have them?
PROVEN_CHANGES = 1_000

REPLACED = "the journal was replaced: restored, or installed again; only tables that are watched in it are recorded"
REMOVED = "the journal was removed: nothing is recorded until it is installed again, and tables are watched again"
RETAINED = "the server was away for longer than the journal's retention"


class Cause(enum.StrEnum):
    """Why the journal is read."""

    NOTIFY = "notify"
    LEASE = "lease"  # while the lease holds
    AFTER_LEASE = "after_lease"  # for transactions that saw the lease and committed later
    SWEEP = "sweep"
    SIBLING = "sibling"  # to catch up with the pages of another process


class Follower:
    """Publishes every page that comes to the journal, in parts: publish(part, cursor of its end).

    delivered() is awaited after each: it returns once every client was sent the part. `turn` sizes the parts.
    Callbacks: on_looked(has_journal) when it has looked for a journal; before_first(cache) when its place is known, and
    again if PostgreSQL's past was replaced; forget_cursors() when earlier cursors become invalid; tell_gap(gap) for
    lost changes; on_state() when `trouble` changes, or whether there is a journal; on_lost_past() when PostgreSQL has
    another past, perhaps because it is another server, which not all connections have reached yet. drained() is awaited
    between the pages of a big batch, so that sockets keep up.
    """

    def __init__(
        self,
        journal: Journal,
        lease: Lease,
        exchange: PageExchange,
        *,
        publish: Callable[[Page, str], None],
        delivered: Callable[[], Awaitable[None]],
        turn: TurnSize,
        before_first: Callable[[PageCache], None],
        forget_cursors: Callable[[], None],
        tell_gap: Callable[[Gap], None],
        drained: Callable[[], Awaitable[None]],
        on_looked: Callable[[bool], None] = lambda _: None,
        on_state: Callable[[], None] = lambda: None,
        on_lost_past: Callable[[], None] = lambda: None,
    ) -> None:
        self.cache: PageCache | None = None  # None while there is no journal
        self.lease = lease
        self.exchange = exchange
        self.losses = LossReports(journal, tell_gap)
        self.reads = dict.fromkeys(Cause, 0)  # of the journal, since the start
        self.read_until = 0.0  # epoch seconds: what was committed before is published
        self._journal = journal
        self._publish = publish
        self._delivered = delivered
        self._turn = turn
        self._before_first = before_first
        self._forget_cursors = forget_cursors
        self._tell_gap = tell_gap
        self._drained = drained
        self._on_looked = on_looked
        self._health = JournalHealth(on_state)
        self._on_lost_past = on_lost_past
        self._floor = Floor(READ_FLOOR_SECONDS)
        self._known = asyncio.Event()
        self._stirred = asyncio.Event()  # set when the next read may be due
        exchange.on_news, exchange.on_left = self._stirred.set, self.wake
        self._woken_at: float | None = None  # monotonic: since then the journal may have news that no read looked for
        self._moved = asyncio.Event()
        self._reconnected = asyncio.Event()
        self._is_identified = False
        self._began_at = 0.0  # monotonic: what was committed before is in the batch at the edge, or an earlier one
        self._owed: Gap | None = None
        self._deleted: tuple[int, int, int] | None = None  # by retention, as of the last read: Horizon.extent
        self._cause = Cause.SWEEP  # of the next read
        self._leased_until = float("-inf")  # as of the last read under the lease, of any server

    @property
    def trouble(self) -> str | None:
        """Why a commit now would not be delivered; None if it would."""
        return self._health.trouble

    @property
    def behind_seconds(self) -> float:
        """How many seconds ago, at most, everything committed by then was published."""
        return 0.0 if self.cache is None else max(0.0, time.time() - self.read_until)

    @property
    def behind_transactions(self) -> int:
        """How many transaction ids PostgreSQL had assigned, at the last read, since the newest change read."""
        return 0 if self.cache is None else max(0, self._journal.horizon.present.xmax - self.cache.edge.batch.xmax)

    @property
    def edge(self) -> Place | None:
        """The place up to which the journal is published; None without a journal."""
        return self.cache.edge if self.cache else None

    def wake(self) -> None:
        """Called when the journal may have news."""
        now = time.monotonic()
        if self._woken_at is None and self._began_at + self.exchange.lateness_seconds <= now:
            self._woken_at = now
        self._stirred.set()

    def reidentify(self) -> None:
        """Called when PostgreSQL is back after a lost connection: it may be another server now."""
        self._is_identified = False
        self._reconnected.set()
        self.wake()

    @property
    def is_known(self) -> bool:
        """Whether it is known if there is a journal, and from where it is published."""
        return self._known.is_set()

    async def until_known(self, deadline_seconds: float) -> bool:
        """Waits until it is known whether there is a journal; False after the deadline."""
        await _wait(self._known, deadline_seconds)
        return self._known.is_set()

    async def until_moved(self) -> None:
        """Returns after the next page was read, even if it is empty."""
        self._moved.clear()
        await self._moved.wait()

    async def run(self) -> None:
        """Follows the journal until cancelled."""
        delays = backoff()
        handed: HandedPage | None = None
        while True:
            self._reconnected.clear()
            try:
                await self._read_on(handed)
            except JournalReplaced:
                self._is_identified, handed = False, None
            except (DatabaseUnavailable, psycopg2.Error, WrongJournal) as error:
                self._is_identified, handed = False, None
                self._health.fail(error)
                await _wait(self._reconnected, next(delays))
            else:
                delays = backoff()
                self._health.recover(has_journal=self.cache is not None)
                handed = await self._until_next_read()

    async def _until_next_read(self) -> HandedPage | None:
        """Waits until the next read is due, or until another process hands over a page."""
        waits_since = time.monotonic()
        pause_seconds, cause = self._pause()
        while self._is_identified and not self.exchange.must_prove:
            if self.cache and (handed := self.exchange.next_for(self.cache.edge)):
                return handed
            self._stirred.clear()
            due_at = waits_since + pause_seconds
            if pause_seconds and self._woken_at is not None and self._woken_at < due_at:
                due_at, cause = self._woken_at, Cause.NOTIFY
            left_seconds = due_at + self.exchange.patience_seconds - time.monotonic()
            if left_seconds <= 0:
                self.exchange.leave()
                break
            await _wait(self._stirred, left_seconds)
        self._cause = cause
        await asyncio.sleep(self._floor.left_seconds)
        return None

    def _pause(self) -> tuple[float, Cause]:
        """For how long to wait for a NOTIFY before the next read, and why that is due then."""
        if self.cache and not self.cache.edge.is_batch_end:
            return 0.0, self._cause
        if self.lease.is_held:
            self._leased_until = time.monotonic()
            return 0.0, Cause.LEASE
        since_lease = time.monotonic() - self._leased_until
        pause_seconds = min(max(since_lease * AFTER_LEASE_SHARE, READ_FLOOR_SECONDS), SWEEP_SECONDS)
        return pause_seconds, Cause.SWEEP if pause_seconds == SWEEP_SECONDS else Cause.AFTER_LEASE

    async def _read_on(self, handed: HandedPage | None) -> None:
        """Publishes the page that another process handed over, or reads what has come since the edge."""
        if self.cache is None:
            self._woken_at = None
        # A journal may be installed at any time.
        if not self._is_identified or self.cache is None or self.exchange.must_prove:
            began_at, handed = time.monotonic(), None
            with self._health.reading():
                await self._identify()
            self.exchange.prove(self._journal.page_kind, began_at)
        cache = self.cache
        if cache is None:
            self.lease.note(0, 0, None)
        elif handed and handed.fits(cache.edge):
            await self._publish_handed(handed, cache)
        else:
            await self._read(handed)

    async def _publish_handed(self, handed: HandedPage, cache: PageCache) -> None:
        horizon = await self._journal.take_over(handed.horizon)
        await self._journal.confirm(handed.page)
        self.exchange.taken_over += 1
        self._begin(handed.began_at)
        await self._pass_on(handed.page, cache, horizon, handed.lease_ms)
        # Several pages may wait: everything else runs in between.
        await (asyncio.sleep(0) if cache.edge.is_batch_end else self._drained())

    async def _read(self, handed: HandedPage | None) -> None:
        """Reads from the journal up to the end of a batch: of the handed page's, or else of the present."""
        self._floor.begin()
        if self.cache and self.cache.edge.is_batch_end:  # the rest of a batch is as old as the batch
            self._begin(handed.began_at if handed else time.monotonic())
        cause, upto = (Cause.SIBLING, handed.page.batch) if handed else (self._cause, None)
        while cache := self.cache:
            self.reads[cause] += 1
            try:
                with self._health.reading():
                    page = await self._journal.read(cache.edge, upto)
            except LostPast:
                await self._go_back(cache, ())
                upto = None
                continue
            if upto and page.batch == upto and page.batch.witness != upto.witness:
                upto = None  # of another past, as far as can be known
                continue
            horizon, lease_ms = self._journal.horizon, self._journal.lease_ms
            if not handed:
                self.exchange.hand_on(page, horizon, lease_ms, self._began_at)
            await self._pass_on(page, cache, horizon, lease_ms)
            await self.lease.keep()
            if cache.edge.is_batch_end:
                return
            await self._drained()

    def _begin(self, began_at: float) -> None:
        """Begins a batch that has everything that was committed before."""
        self._began_at = max(self._began_at, began_at)
        if self._woken_at is not None and self._woken_at <= began_at + self.exchange.lateness_seconds:
            self._woken_at = None

    async def _pass_on(self, page: Page, cache: PageCache, horizon: Horizon, lease_ms: int | None) -> None:
        """Publishes the page, and sends a gap for what is missing, as of `horizon`."""
        # What retention had deleted by the last read, or before this began, cannot be what was still to be read then.
        has_deleted = self._deleted not in (None, horizon.extent)
        self._deleted, began_publishing_at = horizon.extent, time.monotonic()
        if has_deleted and horizon.hides_from(cache.edge):
            since = datetime.fromtimestamp(self.read_until, UTC)
            self.losses.tell(RETAINED, cache.edge, self._journal.encode(page.end), since)
        self.losses.count(page.changes)
        await self._publish_in_parts(page, cache)
        await self.losses.report_unrecorded(cache.edge, _wall_clock(self._began_at))
        self.exchange.note_publishing(time.monotonic() - began_publishing_at)
        self.lease.note(len({change.xid for change in page.changes}), len(horizon.present.xip), lease_ms)
        if page.end.is_batch_end:
            self.read_until = _wall_clock(self._began_at).timestamp()

    async def _publish_in_parts(self, page: Page, cache: PageCache) -> None:
        """Publishes the page in parts, so that everything else runs in between."""
        rest: Page | None = page
        while rest:
            part, rest = rest.split(self._turn.count)
            cache.append(part)
            self._moved.set()
            if part.changes:
                self._turn.begin()
                # Behind the last change itself, so that a cursor names one whose loss would be noticed.
                self._publish(part, part.changes[-1].cursor or self._journal.encode(part.end))
                await self._delivered()
                self._turn.end(len(part.changes))
            if rest:
                await self._drained()

    async def _identify(self) -> None:
        """Finds the journal, and whether it and its past are still the ones that were followed."""
        before = self._journal.epoch
        has_journal = await self._journal.identify()
        self._on_looked(has_journal)
        if self.cache is not None and self._journal.is_named(before):
            missing = await self._journal.missing(self.cache.newest(PROVEN_CHANGES))
            if missing or not await self._journal.proves(self.cache.edge_proven):
                await self._go_back(self.cache, missing)
            self._is_identified = True
            return
        if self.cache is not None:
            why = REPLACED if has_journal else REMOVED
            logger.warning("%s; earlier cursors are refused", why)
            self._start_over(Gap(why))
        if has_journal and self._known.is_set():
            # There was none a moment ago, so everything in it is new, but what was restored with it.
            cache = PageCache(self._journal.encode_batch, self._journal.before_first)
            self._stand_at_edge_of(cache)
            self.losses.begin(None)
            logger.info("following the journal, which was installed just now")
        elif has_journal:
            await self._remember()
            self._deleted = self._journal.horizon.extent
        self._is_identified = True
        self._known.set()
        self._health.recover(has_journal=self.cache is not None)
        if self._owed:
            # Not before its place is known, so that a client that reads the tables again now misses nothing.
            self._tell_gap(self._owed)
            self._owed = None

    async def _remember(self) -> None:
        """Reads the newest entries into the cache; publishing begins after them."""
        began_at = datetime.now(UTC)
        page = await self._journal.newest(RECALLED_ENTRIES)
        cache = PageCache(self._journal.encode_batch, page.start)
        cache.append(page)
        while not page.end.is_batch_end:
            page = await self._journal.read(cache.edge)
            cache.append(page)
        self.losses.begin(began_at)
        self._stand_at_edge_of(cache)
        logger.info("following the journal")

    def _stand_at_edge_of(self, cache: PageCache) -> None:
        self._forget_cursors()
        self._before_first(cache)
        self.cache = cache

    async def _go_back(self, cache: PageCache, missing: Sequence[int]) -> None:
        """PostgreSQL has lost commits. Continues from the last batch that still exists, if any.

        Clients get a gap for what they were sent since then, followed by what PostgreSQL has now instead.
        """
        began_at = time.monotonic()
        self._on_lost_past()
        self._journal.forget_proofs()
        if not missing and await self._journal.proves(cache.edge_proven):
            return  # an old connection led to a server that had gone on separately
        lost = set(missing)
        for snapshot in cache.ends():
            kept, sent = cache.up_to(snapshot)
            if await self._journal.proves(kept.edge_proven) and not lost.intersection(
                c.id for c in kept.newest(PROVEN_CHANGES)
            ):
                break
        else:
            kept, sent = None, cache.newest(PROVEN_CHANGES)
        counts = Counter(change.table for change in sent)
        why = (
            "PostgreSQL has lost commits, as by a crash with synchronous_commit = off, a failover or a restore of "
            f"older files; up to {len(sent)} of the sent changes are undone: {by_table(counts)}"
        )
        self.losses.warn(why)
        now = datetime.now(UTC)
        since = min((change.at for change in sent), default=now.timestamp())
        gap = Gap(why, since=datetime.fromtimestamp(since, UTC), until=now)
        if kept is None:
            self._start_over(gap)
            await self._identify()
        else:
            self._stand_at_edge_of(kept)
            table = next(iter(counts)) if len(counts) == 1 else None
            self._tell_gap(replace(gap, from_cursor=self._journal.encode(kept.edge), table=table))
        self.exchange.prove(self._journal.page_kind, began_at)
        self._moved.set()

    def _start_over(self, owed: Gap) -> None:
        """Forgets its place; the gap is sent once it has a place again."""
        self._forget_cursors()
        self._owed = owed
        self.cache = self._journal.on_lost = self._deleted = None
        self._known.clear()


def _wall_clock(moment: float) -> datetime:
    """The time of a moment of the monotonic clock."""
    return datetime.fromtimestamp(time.time() - (time.monotonic() - moment), UTC)


async def _wait(event: asyncio.Event, most_seconds: float) -> bool:
    """Waits for the event; whether it was set in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(most_seconds):
            await event.wait()
    return event.is_set()
