"""A client that follows the feed, over any transport: it starts at a place, catches up, and goes live.

While it catches up, a client reads pages from the cache, or from the journal if that does not reach back, at its own
pace. Once it is where the server is, it is live and gets every broadcast. So each change is sent once, and none is
missing between the past and the present.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

import psycopg2

from changefeed.change.change import Change
from changefeed.change.gap import Gap
from changefeed.journal.cursor import Place
from changefeed.journal.entries import JournalReplaced
from changefeed.journal.journal import ForeignCursor, LostPast
from changefeed.journal.page_cache import Page, PageCache
from changefeed.owners import Owner
from changefeed.postgres.pool import DatabaseUnavailable
from changefeed.rows.query import RowsQuery
from changefeed.rows.reading import Reading
from changefeed.selection.conflation import Conflation
from changefeed.selection.subscription import BadSubscription, Selection, UncheckedRight
from changefeed.turns import Work
from handlers.access.errors import ApiError
from handlers.access.refusals import UNCHECKED_RIGHT
from handlers.delivery.audiences import Audience
from handlers.delivery.dialects import PLAIN, SSE, Dialect, frames, gap_within
from handlers.delivery.live_clients import LiveClient
from handlers.delivery.outbox import Outbox
from handlers.feed.query import FeedQuery
from handlers.feed.rows import refusals_as_errors, send_rows
from handlers.feed.start import DELETED, LOST_PAST, Start, cursor_of, is_current, note_unchecked
from handlers.http.context import ServerContext

logger = logging.getLogger("handlers.feed_client")

SLICE_CHANGES = 500
PICKED_AT_ONCE = 16  # changes, before a look at the clock: a filter may take half a millisecond for each
# What a page costs in addition to its changes, in changes. In a slow feed each page has one or two: a client that read
# one page per turn of the loop would hardly be faster than the feed itself.
PAGE_COST_CHANGES = 20
CONFLATED = "nothing, if you want the newest state of each row; without slow=conflate every change is sent"


class Transport(Protocol):
    """A client's open connection, made by a handler."""

    outbox: Outbox

    def leave(self, reason: str) -> None:
        """Closes the connection, with a reason that the client may read."""

    def give_up(self) -> None:
        """Closes the connection, because the client does not keep up."""

    def refuse_rows(self, error: ApiError) -> None:
        """Sends the error and closes the connection."""


class FeedClient:
    """Follows the feed on an open transport, from `start` until end()."""

    def __init__(
        self,
        context: ServerContext,
        transport: Transport,
        dialect: Dialect,
        start: Start,
        owner: Owner,
        reading: Reading | None = None,
    ) -> None:
        self.dialect = dialect
        self.outbox = transport.outbox
        self.outbox.on_drained = self._on_drained
        self.leave = transport.leave
        self._give_up = transport.give_up
        self._transport = transport
        self._owner = owner
        self._rows = contextlib.ExitStack()  # holds the reading whose rows are being sent
        self._context = context
        self._live_clients = context.live_clients
        self._audience: Audience[LiveClient] | None = None  # None unless the client is live
        self._catching_up: asyncio.Task[None] | None = None
        self._conflation: Conflation | None = None
        self._conflated_to: str | None = None
        self._reading: Reading | None = None
        self._reported_extent: tuple[int, int, int] | None = None  # of what retention deleted
        self._live_clients.add(self)
        self._begin(start, reading)

    def resubscribe(self, start: Start) -> None:
        """Changes the subscription, once the live clients are settled().

        A client that is still catching up goes on, unless `start` names another place.
        """
        is_reading = self._reading is not None or start.rows
        if self._audience is None and start.place is None and not start.gap and not is_reading:
            self._subscribe(start.query)
        else:
            self._stop_following()
            self._begin(start)

    def go_away(self, delay_ms: int) -> None:
        """Sends when to reconnect, and nothing after that: the server stops."""
        self._stop_following()
        self.outbox.send(self.dialect.going_away(delay_ms))

    def end(self) -> None:
        """Called when the transport is closed."""
        self._live_clients.discard(self)
        self._stop_following()
        self.outbox.close()

    def receive(self, buffer: bytes) -> bool:
        """What is broadcast to the client's audience, encoded; False where it is to be held back."""
        if self._conflation is not None and self.outbox.is_busy:
            return False
        self.outbox.send(buffer)
        if self.outbox.is_busy:
            self._live_clients.note_busy(self)
        return True

    def hold_back(self, changes: Sequence[Change], cursor: str | None) -> None:
        """What is broadcast to the client's audience, to be sent conflated when the outbox is empty."""
        assert self._conflation is not None
        self._conflation.add(changes)
        self._context.delivery_counts.count_held_back(len(changes))
        self._conflated_to = cursor
        if self._conflation.bytes > self._context.settings.outbox_limit_bytes:
            self._conflation = None
            self._give_up()

    def forget_held_back(self) -> None:
        """Drops the changes that are held back for conflation; the caller sends a gap."""
        if self._conflation:
            changes, skipped = self._conflation.take()
            self._context.delivery_counts.count_conflated(skipped + len(changes))

    def trouble(self) -> BadSubscription | None:
        """Why no change can match the subscription any more, if so."""
        trouble = self._context.catalog.trouble(self.selection.subscription)
        if isinstance(trouble, UncheckedRight):
            self._context.authenticator.refusals.tell(UNCHECKED_RIGHT, trouble.private)
        else:
            note_unchecked(self._context, self.selection.subscription.within)  # the client gets its other tables
        return trouble

    @property
    def is_catching_up(self) -> bool:
        return self._catching_up is not None

    def _on_drained(self) -> None:
        """Called when the client has read everything: sends the newest state of the rows that it missed."""
        self._live_clients.note_drained(self)
        if self._conflation is None:
            return
        changes, skipped = self._conflation.take()
        if skipped:
            self._context.delivery_counts.count_conflated(skipped)
            why = f"{skipped} changes were replaced by newer ones of the same rows, because the client did not keep up"
            gap = Gap(why, to_cursor=self._conflated_to, what_to_do=CONFLATED, skipped=skipped)
            self.outbox.send(self.dialect.gap(gap))
        if changes:
            self._send(changes, self._conflated_to)

    def _begin(self, start: Start, reading: Reading | None = None) -> None:
        self._subscribe(start.query)
        self._reported_extent = start.reported_extent
        if start.gap:
            self.outbox.send(self.dialect.gap(start.gap))
            if start.place is None and self.dialect is SSE and (cursor := cursor_of(self._context, start)):
                self.outbox.send(self.dialect.place(cursor))  # what the greeting of changefeed.v1 has already
        if start.place is not None:
            self._catching_up = asyncio.create_task(self._catch_up_or_leave(start.place))
            return
        if start.rows:
            self._begin_rows(start.rows, reading)
            return
        if start.replay:
            self._send(start.replay.newest(start.query.replay), None)
        self._go_live()

    def _subscribe(self, query: FeedQuery) -> None:
        self.selection = self._context.select(query.subscription)
        self._conflation = Conflation(self._context.catalog.key) if query.conflates else None

    def _go_live(self) -> None:
        self._audience = self._live_clients.join(self)

    def _begin_rows(self, query: RowsQuery, reading: Reading | None) -> None:
        """Sends the rows and then the changes after them. `reading` is the transport's, if it has one."""
        readings = self._context.readings
        try:
            with refusals_as_errors(is_restricted=query.subscription.is_restricted):
                held = (
                    readings.held(reading, self._owner)
                    if reading
                    else readings.reading(query, self._owner, partial(is_current, self._context))
                )
                self._reading = self._rows.enter_context(held)
        except ApiError as error:
            self._transport.refuse_rows(error)
            return
        self._catching_up = asyncio.create_task(self._follow_rows(self._reading))

    async def _follow_rows(self, reading: Reading) -> None:
        try:
            with refusals_as_errors(is_restricted=reading.query.subscription.is_restricted):
                await send_rows(reading, self.outbox, self.dialect)
            # Raises ForeignCursor if the journal was replaced meanwhile.
            place = self._context.journal.decode(str(reading.cursor))
        except ApiError as error:
            self._transport.refuse_rows(error)
        except TimeoutError:
            self._give_up()
        except ForeignCursor:
            self.leave("the journal was replaced; reconnect")
        except Exception:
            logger.exception("closed a client whose rows could not be sent")
            self.leave("the server failed; reconnect")
        else:
            self._release_rows()
            await self._catch_up_or_leave(place)

    def _release_rows(self) -> None:
        self._rows.close()
        self._reading = None

    def _stop_following(self) -> None:
        self._release_rows()
        if self._audience:
            self._live_clients.leave(self, self._audience)
            self._audience = None
        if self._catching_up:
            self._catching_up.cancel()
            self._catching_up = None

    async def _catch_up_or_leave(self, place: Place) -> None:
        try:
            await self._catch_up(place)
        except Exception:
            logger.exception("closed a client that failed to catch up; it may reconnect with its cursor")
            self.leave("the server failed; reconnect with your cursor")

    async def _catch_up(self, place: Place) -> None:
        follower, journal = self._context.follower, self._context.journal
        is_told, spent, resumed_at = True, 0, place
        followed, epoch = follower.cache, journal.epoch
        while True:
            cache = follower.cache
            if cache is None:
                # The journal was removed; live clients were sent a gap already.
                self.outbox.send(self.dialect.gap(Gap("there is no journal any more")))
                break
            if cache is not followed:
                # The journal, or its past, was replaced, which was reported. Goes on if the place is still valid.
                followed = cache
                if journal.epoch != epoch or not await self._is_proven(cache, place):
                    place = cache.edge
                epoch = journal.epoch
            try:
                page = await self._next_page(cache, place, is_resumed=place is resumed_at)
            except LostPast:
                if told := gap_within(self.selection, Gap(LOST_PAST)):
                    self.outbox.send(self.dialect.gap(told))
                place = cache.edge
                continue
            if page is None:
                await follower.until_moved()
                continue
            if cache is not follower.cache:
                continue  # the page belongs to a journal, or a past, that was replaced meanwhile
            for part, end in _slices(page):
                picked = await self._pick(part)
                if cache is not follower.cache:
                    break
                is_told = bool(picked)
                self._send(picked, self.selection.cursor(journal.encode(end)))
                place = end
                await self.outbox.drained()
                spent += len(part) + PAGE_COST_CHANGES
                if spent >= SLICE_CHANGES:
                    spent = 0
                    await asyncio.sleep(0)  # lets others run, even if the client reads as fast as the cache can be read
                if cache is not follower.cache:
                    break
            else:
                place = page.end
            if place == cache.edge and cache is follower.cache:
                if not is_told or self.selection.subscription.is_restricted:
                    self.outbox.send(self.dialect.place(str(self.selection.cursor(journal.encode(cache.edge_proven)))))
                break  # nothing was awaited since, so no page can come in between
        self._catching_up = None
        self._go_live()

    async def _is_proven(self, cache: PageCache, place: Place) -> bool:
        """Whether the place is still valid, even if the cache does not reach back to it."""
        try:
            return cache.proves(place) or await self._context.journal.proves(place)
        except (DatabaseUnavailable, psycopg2.Error, JournalReplaced):
            return False

    async def _next_page(self, cache: PageCache, place: Place, *, is_resumed: bool) -> Page | None:
        """The page after the place; None if it has to wait for one. `is_resumed` says that it is the cursor's place."""
        if page := cache.page_after(place):
            return page
        edge = cache.edge.previous
        if cache.is_beyond_edge(place) or not place.batch.is_within(edge):
            return None
        try:
            page = await self._context.journal.read_for_client(self._owner, place, upto=edge)
        except (DatabaseUnavailable, psycopg2.Error, JournalReplaced):
            return None  # the follower logs it, and moves on when the database is back
        horizon = self._context.journal.horizon
        # What this server sent before follows one order.
        has_gap = self._context.journal.has_gap_after(place) if is_resumed else horizon.hides_from(place)
        if has_gap and horizon.extent != self._reported_extent:
            self._reported_extent = horizon.extent
            if self.dialect is PLAIN:  # has no message for gaps: its cursor will be answered with 410
                self.leave(DELETED)
                return None
            self.outbox.send(self.dialect.gap(Gap(DELETED)))
        return page

    async def _pick(self, changes: Sequence[Change]) -> Sequence[Change]:
        """What the client is to get of past changes, by the subscription that it has once that is found out."""
        while True:
            picked: list[Change] = []
            selection = self.selection
            await self._live_clients.catching_up.do(_pick_into(picked, selection, changes), self._owner)
            if selection is self.selection:
                return picked

    def _send(self, changes: Sequence[Change], cursor: str | None) -> None:
        if changes:
            self._context.delivery_counts.count_past(len(changes))
            is_restricted = self.selection.subscription.is_restricted
            self.outbox.send(frames(self.dialect, changes, cursor, is_restricted=is_restricted))


def _slices(page: Page) -> Iterator[tuple[Sequence[Change], Place]]:
    """Yields the changes of a page, some at a time, each with the place after them."""
    for begin in range(0, len(page.changes), SLICE_CHANGES):
        part = page.changes[begin : begin + SLICE_CHANGES]
        is_last = begin + SLICE_CHANGES >= len(page.changes)
        yield part, page.end if is_last and not page.digest else page.place_after(part[-1])


def _pick_into(picked: list[Change], selection: Selection, changes: Sequence[Change]) -> Work:
    for begin in range(0, len(changes), PICKED_AT_ONCE):
        picked += selection.pick(changes[begin : begin + PICKED_AT_ONCE])
        yield
