"""A client that follows the feed, over whichever transport: where it begins, how it catches up, how it goes live.

It is live, and gets every broadcast, as soon as it stands where the server does; until then it reads pages from memory,
or from the journal where memory does not reach back, each as fast as it takes them. So a change comes once, and none is
left out between the past and the present.
"""

import abc
import asyncio
from collections.abc import Sequence
from typing import ClassVar

import psycopg2

from changefeed.change import Change
from changefeed.cursor import NotACursor, Place
from changefeed.database import DatabaseUnavailable
from changefeed.gap import Gap
from changefeed.hub import RECENT_LIMIT
from changefeed.journal import ForeignCursor
from changefeed.memory import Memory, Page
from handlers.base import ApiError, BaseHandler
from handlers.dialects import PLAIN, Dialect
from handlers.feed import Feed
from handlers.outbox import Outbox

JOURNAL_DEADLINE_SECONDS = 5.0
SLICE_CHANGES = 500
# How long the feed waits for its slowest client between two pages of a big batch.
PATIENCE_SECONDS = 0.1


async def until_journal_known(feed: Feed) -> None:
    """Raises ApiError where the server does not know yet which journal there is: a cursor may be good or not."""
    if not await feed.follower.until_known(JOURNAL_DEADLINE_SECONDS):
        raise ApiError(503, "not_ready", "the server has not reached PostgreSQL yet; try again")


class FeedClient(BaseHandler):
    """A subclass says its `dialect` and has an `outbox`; the class keeps those connected, and those that are live."""

    connected: ClassVar[set["FeedClient"]] = set()
    clients: ClassVar[set["FeedClient"]] = set()
    dialect: Dialect
    outbox: Outbox
    _catching_up: "asyncio.Task[None] | None" = None
    _has_ended = False

    @classmethod
    def broadcast(cls, changes: Sequence[Change], cursor: str | None) -> None:
        """Sends the changes to every live client: encoded once for each dialect, one write a client."""
        buffers: dict[Dialect, bytes] = {}
        for client in tuple(cls.clients):
            buffer = buffers.get(client.dialect)
            if buffer is None:
                buffer = buffers[client.dialect] = client.dialect.changes(changes, cursor)
            client.outbox.send(buffer)

    @classmethod
    def tell_gap(cls, gap: Gap) -> None:
        """Tells those who can be told that changes may have been lost."""
        for client in tuple(cls.clients):
            client.outbox.send(client.dialect.gap(gap))

    @classmethod
    async def drained(cls) -> None:
        """Between the pages of a big batch: until every live client took what it got, but not for long."""
        busy = [asyncio.ensure_future(client.outbox.drained()) for client in cls.clients if client.outbox.is_busy]
        if busy:
            await asyncio.wait(busy, timeout=PATIENCE_SECONDS)
            for waiting in busy:
                waiting.cancel()
        else:
            await asyncio.sleep(0)

    async def read_query(self, since: str | None) -> None:
        """Understands where the client wants to begin. Raises ApiError, while it can still be answered so."""
        self._place: Place | None = None
        self._gap: Gap | None = None
        self._replay = self._replay_argument()
        if since is None:
            return
        await until_journal_known(self.feed)
        try:
            self._place = self.feed.journal.decode(since)
        except NotACursor as error:
            raise ApiError(400, "not_a_cursor", str(error)) from None
        except ForeignCursor as error:
            self._gap = Gap(str(error), from_cursor=since)
        else:
            if self.feed.journal.losses.concern(self._place):
                self._gap = Gap("the cursor is older than what the journal keeps", from_cursor=since)
        if self._gap and self.dialect is PLAIN:
            raise ApiError(
                410, "gap", f"{self._gap.why}; connect without since, or with changefeed.v1 to be told in the socket"
            )

    def begin(self) -> None:
        """Starts the feed on the open transport."""
        if self._has_ended:
            return  # the client was gone before the transport was open
        FeedClient.connected.add(self)
        if self._gap:
            self.outbox.send(self.dialect.gap(self._gap))
        if self._place is None:
            if self._replay:
                self._send(self.feed.hub.newest(self._replay), None)
            FeedClient.clients.add(self)
        else:
            self._catching_up = asyncio.create_task(self._catch_up(self._place))

    def end(self) -> None:
        """The transport is closed, perhaps before it was open."""
        self._has_ended = True
        if self not in FeedClient.connected:
            return
        FeedClient.connected.discard(self)
        FeedClient.clients.discard(self)
        self.outbox.close()
        if self._catching_up:
            self._catching_up.cancel()

    @abc.abstractmethod
    def leave(self, reason: str) -> None:
        """Closes the transport, for a reason that the client may read."""

    @property
    def starting_cursor(self) -> str | None:
        """Where the client begins, None where there is no journal."""
        memory = self.feed.follower.memory
        if memory is None:
            return None
        return self.feed.journal.encode(self._place or memory.edge)

    def _replay_argument(self) -> int:
        text = self.get_query_argument("replay", "0")
        if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= RECENT_LIMIT):
            raise ApiError(400, "bad_replay", f"replay is a whole number from 0 to {RECENT_LIMIT}")
        return int(text)

    async def _catch_up(self, place: Place) -> None:
        follower = self.feed.follower
        while True:
            memory = follower.memory
            if memory is None:
                # The journal went away, which everybody live was told of.
                self.outbox.send(self.dialect.gap(Gap("there is no journal any more")))
                break
            page = await self._next_page(memory, place)
            if page is None:
                await follower.until_moved()
                continue
            for begin in range(0, len(page.changes), SLICE_CHANGES):
                part = page.changes[begin : begin + SLICE_CHANGES]
                end = page.end if begin + SLICE_CHANGES >= len(page.changes) else self._within(page, part[-1])
                self._send(part, self.feed.journal.encode(end))
                await self.outbox.drained()
            place = page.end
            if place == memory.edge and memory is follower.memory:
                break  # nothing was awaited since: no page comes in between
        FeedClient.clients.add(self)

    async def _next_page(self, memory: Memory, place: Place) -> Page | None:
        """What follows; None where it must be waited for."""
        if page := memory.page_after(place):
            return page
        edge = memory.edge.previous
        if memory.is_beyond_edge(place) or not place.batch.is_within(edge):
            return None
        try:
            page = await self.feed.journal.read(place, upto=edge)
        except (DatabaseUnavailable, psycopg2.Error):
            return None  # the follower says so in the log, and moves when it is back
        if self.feed.journal.losses.concern(place):
            self.outbox.send(self.dialect.gap(Gap("retention took changes away that were about to be read")))
        return page

    def _send(self, changes: Sequence[Change], cursor: str | None) -> None:
        self.outbox.send(self.dialect.changes(changes, cursor))

    @staticmethod
    def _within(page: Page, change: Change) -> Place:
        return Place(page.previous, page.batch, change.id)
