"""A client that follows the feed, over whichever transport: where it begins, how it catches up, how it goes live.

It is live, and gets every broadcast, as soon as it stands where the server does; until then it reads pages from memory,
or from the journal where memory does not reach back, each as fast as it takes them. So a change comes once, and none is
left out between the past and the present.
"""

import abc
import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import psycopg2

from changefeed.change import Change
from changefeed.conflation import Conflation
from changefeed.cursor import NotACursor, Place
from changefeed.database import DatabaseUnavailable, one_line
from changefeed.entries import JournalReplaced
from changefeed.follower import UNJOURNALED
from changefeed.gap import Gap
from changefeed.hub import RECENT_LIMIT
from changefeed.journal import ForeignCursor, LostPast
from changefeed.memory import Memory, Page
from changefeed.subscription import BadSubscription, Selection, Subscription
from handlers.audiences import Audience, Audiences
from handlers.base import BaseHandler
from handlers.dialects import MAY_BE_LOST, PLAIN, PROTOCOL, Dialect, frames, message_frame
from handlers.errors import ApiError
from handlers.feed import Feed
from handlers.feed_query import FeedQuery
from handlers.outbox import Outbox

logger = logging.getLogger(__name__)

JOURNAL_DEADLINE_SECONDS = 5.0
TAKEN_AWAY = "retention took changes away that were about to be read"
LOST_PAST = "the cursor is of a past that PostgreSQL has lost: by a crash, a failover, or files that were put back"
SLICE_CHANGES = 500
# What a page costs beside its changes, in changes. In a gentle feed each has one or two: who caught up by one page a
# turn of the loop would hardly be faster than the feed itself.
PAGE_COST_CHANGES = 20
# How long the feed waits, in a burst, for clients that have not taken what they were sent: so long where all of them
# are busy, since then it is the machine that is, and next to nothing for one among many. Who takes longer is not waited
# for again until he has taken everything.
PATIENCE_SECONDS = 0.5
LEAST_PATIENCE_SECONDS = 0.01
CONFLATED = "nothing, if the newest state of each row is what you want; without slow=conflate every change comes"
# How many audiences are looked through for what is gone, in one turn of the loop.
TROUBLE_SLICE = 20
# How far behind the cursor may stay of a client that nothing is sent to, because nothing is what it asked for.
PLACE_INTERVAL_SECONDS = 15.0


async def until_journal_known(feed: Feed) -> None:
    """Raises ApiError where the server does not know yet which journal there is: a cursor may be good or not."""
    if not await feed.follower.until_known(JOURNAL_DEADLINE_SECONDS):
        trouble = None if feed.gate.tokens.are_required else feed.not_ready_reason
        raise ApiError(503, "not_ready", f"{trouble or 'the journal is not known yet'}; try again")


async def find_place(feed: Feed, since: str, subscription: Subscription) -> tuple[Place | None, Gap | None]:
    """The place that a cursor names, and what whoever holds it has missed for good. No place: he begins anew.

    Raises ApiError for what is no cursor, and where it cannot be known yet what has become of it.
    """
    try:
        place = feed.journal.decode(since, subscription.within)
    except NotACursor as error:
        raise ApiError(400, "not_a_cursor", str(error)) from None
    except ForeignCursor as error:
        return None, Gap(str(error), from_cursor=since)
    memory = feed.follower.memory
    if memory is None or not memory.proves(place):
        try:
            is_proven = await feed.journal.proves(place)
        except (DatabaseUnavailable, psycopg2.Error) as error:
            raise ApiError(503, "database_unavailable", f"the journal cannot be read: {one_line(error)}") from None
        if not is_proven:
            return None, Gap(LOST_PAST, from_cursor=since)
    return place, missed_since(feed, place, since, subscription)


def gap_within(selection: Selection, gap: Gap) -> Gap | None:
    """The gap as a client of this selection may be told of it: that there is one, but not what was in it.

    None where it is of a table that the client did not ask for or may not see.
    """
    if gap.table and not selection.subscription.concerns(gap.table, gap.columns):
        return None
    if not selection.subscription.is_bounded:
        return gap
    begin, end = selection.cursor(gap.from_cursor), selection.cursor(gap.to_cursor)
    return replace(gap, why=MAY_BE_LOST, from_cursor=begin, to_cursor=end)


def missed_since(feed: Feed, place: Place, cursor: str, subscription: Subscription) -> Gap | None:
    """What somebody who comes back with this cursor, which names the place, cannot be given any more."""
    if feed.journal.losses.concern(place):
        return Gap("the cursor is older than what the journal keeps", from_cursor=cursor)
    if place.losses < feed.journal.losses.statements:
        return Gap(UNJOURNALED, from_cursor=cursor)
    return feed.lookout.missed_since(place, cursor, subscription)


async def check_subscription(feed: Feed, subscription: Subscription, *, needs_keys: bool = False) -> None:
    """Raises ApiError for one that no change can ever fit."""
    try:
        if needs_keys:
            await feed.catalog.until_read()
        await feed.catalog.check(subscription)
    except BadSubscription as error:
        raise ApiError(400, error.code, str(error)) from None
    except DatabaseUnavailable as error:
        raise ApiError(503, "database_unavailable", f"the tables cannot be looked up: {one_line(error)}") from None


@dataclass(frozen=True)
class Start:
    """What a client asked for, once it is known to be possible. Without a place it begins now."""

    query: FeedQuery
    place: Place | None = None
    gap: Gap | None = None


class FeedClient(BaseHandler):
    """A subclass says its `dialect` and has an `outbox`; the class keeps those connected, and those that are live."""

    connected: ClassVar[set["FeedClient"]] = set()
    audiences: ClassVar[Audiences["FeedClient"]] = Audiences()
    # Live ones whose outbox is not empty, and since when (monotonic).
    busy: ClassVar[dict["FeedClient", float]] = {}
    newest_cursor: ClassVar[str | None] = None
    _telling_trouble: ClassVar["asyncio.Task[None] | None"] = None
    dialect: Dialect
    outbox: Outbox
    _audience: "Audience[FeedClient] | None" = None  # while it is live
    _conflation: Conflation | None = None
    _catching_up: "asyncio.Task[None] | None" = None
    _has_ended = False

    @classmethod
    def broadcast(cls, changes: Sequence[Change], cursor: str | None) -> int:
        """Sends the changes to every live client that asked for them: encoded once an audience, one write a client.

        How many deliveries that were, one being one change to one client.
        """
        deliveries = 0
        for audience, picked in cls.audiences.route(changes):
            shown = audience.selection.cursor(cursor)
            buffer = frames(audience.dialect, picked, shown, is_bounded=audience.selection.subscription.is_bounded)
            audience.told = cursor
            deliveries += len(picked) * len(audience.clients)
            for client in tuple(audience.clients):
                client.receive(picked, buffer, shown)
        cls.newest_cursor = cursor or cls.newest_cursor
        return deliveries

    @classmethod
    def tell_gap(cls, gap: Gap) -> None:
        """Tells those who can be told that changes may have been lost."""
        for audience in cls.audiences:
            if within := gap_within(audience.selection, gap):
                told = audience.dialect.gap(within)
                for client in tuple(audience.clients):
                    client.outbox.send(told)
        for client in cls.connected:
            if client._catching_up and (within := gap_within(client._selection, gap)):
                client.outbox.send(client.dialect.gap(within))

    @classmethod
    def forget_cursors(cls) -> None:
        """Those given so far are of another journal, or of a past that is lost."""
        cls.newest_cursor = None

    @classmethod
    def look_again(cls) -> None:
        """The tables were read anew: their columns may be others. Who asked for what is gone is told, once."""
        cls.audiences.look_again()
        if cls._telling_trouble:
            cls._telling_trouble.cancel()
        cls._telling_trouble = asyncio.ensure_future(cls._tell_trouble())
        for client in cls.connected:
            client._selection.look_again()

    @classmethod
    async def _tell_trouble(cls) -> None:
        for number, audience in enumerate(cls.audiences):
            if number % TROUBLE_SLICE == 0:
                await asyncio.sleep(0)
            client = next(iter(audience.clients), None)
            if client is None or audience.dialect is not PROTOCOL:
                continue
            trouble = client.feed.catalog.trouble(audience.selection.subscription)
            if trouble and trouble.code != audience.trouble:
                told = message_frame("error", code=trouble.code, message=str(trouble))
                for each in tuple(audience.clients):
                    each.outbox.send(told)
            audience.trouble = trouble.code if trouble else ""

    @classmethod
    def tell_places(cls) -> None:
        """Moves the cursors of those that nothing was sent to while changes went by that they did not ask for.

        Who may not know that some did gets another cursor each time, whether any did or not.
        """
        newest = cls.newest_cursor
        for audience in cls.audiences:
            if newest and (audience.told != newest or audience.selection.subscription.is_bounded):
                audience.told = newest
                shown = audience.selection.cursor(newest)
                assert shown
                for client in tuple(audience.clients):
                    client.receive((), audience.dialect.place(shown), shown)

    @classmethod
    async def keep_telling_places(cls) -> None:
        while True:
            await asyncio.sleep(PLACE_INTERVAL_SECONDS)
            cls.tell_places()

    @classmethod
    def rest(cls) -> Coroutine[Any, Any, None] | None:
        """What to wait for before more is broadcast, so that clients that read keep up; None where they do."""
        patience = max(LEAST_PATIENCE_SECONDS, PATIENCE_SECONDS * len(cls.busy) / max(1, len(cls.connected)))
        due = time.monotonic() - patience
        waited_for = [client for client, since in cls.busy.items() if since > due]
        return cls._until_drained(waited_for, patience) if waited_for else None

    @classmethod
    async def drained(cls) -> None:
        """Between the pages of a big batch."""
        await (cls.rest() or asyncio.sleep(0))

    @staticmethod
    async def _until_drained(clients: Sequence["FeedClient"], patience: float) -> None:
        waits = [asyncio.ensure_future(client.outbox.drained()) for client in clients]
        await asyncio.wait(waits, timeout=patience)
        for waiting in waits:
            waiting.cancel()

    async def prepare_start(self, query: FeedQuery) -> Start:
        """Raises ApiError where that cannot be had."""
        if query.conflates and self.dialect is not PROTOCOL:
            raise ApiError(
                400, "bad_slow", "slow=conflate needs the subprotocol changefeed.v1, which tells what is left out"
            )
        await check_subscription(self.feed, query.subscription, needs_keys=query.conflates)
        await until_journal_known(self.feed)  # who is greeted has a place from which on nothing is missed
        if query.since is None:
            return Start(query)
        place, gap = await find_place(self.feed, query.since, query.subscription)
        start = Start(query, place, gap)
        if start.gap and self.dialect is PLAIN:
            why = start.gap.why
            raise ApiError(410, "gap", f"{why}; connect without since, or with changefeed.v1 to be told in the socket")
        return start

    def begin(self, start: Start) -> None:
        """Starts the feed on the open transport, or anew with another subscription."""
        if self._has_ended:
            return  # the client was gone before the transport was open
        FeedClient.connected.add(self)
        self._stop_following()
        self._subscribe(start.query)
        if start.gap:
            self.outbox.send(self.dialect.gap(start.gap))
        if start.place is not None:
            self._catching_up = asyncio.create_task(self._catch_up_or_leave(start.place))
            return
        if start.query.replay:
            newest = self._selection.pick(self.feed.hub.newest(RECENT_LIMIT))
            self._send(newest[-start.query.replay :], None)
        self._go_live()

    def subscribe_anew(self, start: Start) -> None:
        """Another subscription. Who is still catching up, and does not ask to begin elsewhere, goes on doing so."""
        if self._audience is None and start.place is None and not start.gap:
            self._subscribe(start.query)
        else:
            self.begin(start)

    def go_away(self, delay_ms: int) -> None:
        """The server stops: nothing more is sent, but when to come back."""
        self._stop_following()
        self.outbox.send(self.dialect.going_away(delay_ms))

    def end(self) -> None:
        """The transport is closed, perhaps before it was open."""
        self._has_ended = True
        if self in FeedClient.connected:
            FeedClient.connected.discard(self)
            FeedClient.busy.pop(self, None)
            self._stop_following()
            self.outbox.close()

    def receive(self, changes: Sequence[Change], buffer: bytes, cursor: str | None) -> None:
        """What is broadcast to the client's audience, and the same encoded."""
        if self._conflation is None or not self.outbox.is_busy:
            self.outbox.send(buffer)
            if self.outbox.is_busy and self not in FeedClient.busy:
                FeedClient.busy[self] = time.monotonic()
            return
        self._conflation.add(changes)
        self.feed.deliveries.hold_back(len(changes))
        self._conflated_to = cursor
        if self._conflation.bytes > self.feed.settings.outbox_limit_bytes:
            self._conflation = None
            self.give_up()

    def on_drained(self) -> None:
        """The client has taken all that was sent, and may be sent what it missed, as that is now."""
        FeedClient.busy.pop(self, None)
        if self._conflation is None:
            return
        changes, skipped = self._conflation.take()
        if skipped:
            self.feed.deliveries.conflated(skipped)
            why = f"{skipped} changes were left out for newer ones of the same rows, because the client did not keep up"
            gap = Gap(why, to_cursor=self._conflated_to, what_to_do=CONFLATED, skipped=skipped)
            self.outbox.send(self.dialect.gap(gap))
        if changes:
            self._send(changes, self._conflated_to)

    @abc.abstractmethod
    def leave(self, reason: str) -> None:
        """Closes the transport, for a reason that the client may read."""

    @abc.abstractmethod
    def give_up(self) -> None:
        """Closes the transport of a client that does not keep up."""

    def cursor_of(self, start: Start) -> str | None:
        """Where the client begins, None where there is no journal."""
        memory = self.feed.follower.memory
        if memory is None:
            return None
        cursor = self.feed.journal.encode(start.place or memory.edge)
        return self._select(start.query).cursor(cursor)

    def _select(self, query: FeedQuery) -> Selection:
        return self.feed.catalog.select(query.subscription, self.feed.journal.seal_for(query.subscription.within))

    def _subscribe(self, query: FeedQuery) -> None:
        self._selection = self._select(query)
        self._conflation = Conflation(self.feed.catalog.key) if query.conflates else None

    def _go_live(self) -> None:
        self._audience = FeedClient.audiences.join(self, self.dialect, self._selection)

    def _stop_following(self) -> None:
        if self._audience:
            FeedClient.audiences.leave(self, self._audience)
            self._audience = None
        if self._catching_up:
            self._catching_up.cancel()
            self._catching_up = None

    async def _catch_up_or_leave(self, place: Place) -> None:
        try:
            await self._catch_up(place)
        except Exception:
            logger.exception("a client could not be brought up to date; it is closed and may come back by its cursor")
            self.leave("the server made a mistake; come back by your cursor")

    async def _catch_up(self, place: Place) -> None:
        follower, journal = self.feed.follower, self.feed.journal
        is_told, spent = True, 0
        followed = follower.memory
        while True:
            memory = follower.memory
            if memory is None:
                # The journal went away, which everybody live was told of.
                self.outbox.send(self.dialect.gap(Gap("there is no journal any more")))
                break
            if memory is not followed:
                # Another journal, or another past of the same, which was told; goes on where the place is still good.
                followed = memory
                if not memory.proves(place):
                    place = memory.edge
            try:
                page = await self._next_page(memory, place)
            except LostPast:
                if told := gap_within(self._selection, Gap(LOST_PAST)):
                    self.outbox.send(self.dialect.gap(told))
                place = memory.edge
                continue
            if page is None:
                await follower.until_moved()
                continue
            for begin in range(0, len(page.changes), SLICE_CHANGES):
                part = page.changes[begin : begin + SLICE_CHANGES]
                end = page.end if begin + SLICE_CHANGES >= len(page.changes) else self._within(page, part[-1])
                picked = self._selection.pick(part)
                is_told = bool(picked)
                self._send(picked, self._selection.cursor(journal.encode(end)))
                await self.outbox.drained()
                spent += len(part) + PAGE_COST_CHANGES
                if spent >= SLICE_CHANGES:
                    spent = 0
                    await asyncio.sleep(0)  # a client that reads as fast as memory can be read is not the only one
            place = page.end
            if place == memory.edge and memory is follower.memory:
                if not is_told or self._selection.subscription.is_bounded:
                    self.outbox.send(self.dialect.place(str(self._selection.cursor(journal.encode(place)))))
                break  # nothing was awaited since: no page comes in between
        self._catching_up = None
        self._go_live()

    async def _next_page(self, memory: Memory, place: Place) -> Page | None:
        """What follows; None where it must be waited for."""
        if page := memory.page_after(place):
            return page
        edge = memory.edge.previous
        if memory.is_beyond_edge(place) or not place.batch.is_within(edge):
            return None
        try:
            page = await self.feed.journal.read_for_client(place, upto=edge)
        except (DatabaseUnavailable, psycopg2.Error, JournalReplaced):
            return None  # the follower says so in the log, and moves when it is back
        if self.feed.journal.losses.concern(place):
            if self.dialect is PLAIN:  # which cannot be told: 410 will be the answer to its cursor
                self.leave(TAKEN_AWAY)
                return None
            self.outbox.send(self.dialect.gap(Gap(TAKEN_AWAY)))
        return page

    def _send(self, changes: Sequence[Change], cursor: str | None) -> None:
        if changes:
            self.feed.deliveries.catch_up(len(changes))
            is_bounded = self._selection.subscription.is_bounded
            self.outbox.send(frames(self.dialect, changes, cursor, is_bounded=is_bounded))

    @staticmethod
    def _within(page: Page, change: Change) -> Place:
        return Place(page.previous, page.batch, change.id)
