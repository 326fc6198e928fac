"""Finds where a client's feed starts, or raises ApiError; the same for every transport. Knows no client."""

from dataclasses import dataclass, replace

from changefeed.change.gap import Gap
from changefeed.journal.cursor import NotACursor, Place
from changefeed.journal.entries import JournalReplaced
from changefeed.journal.journal import ForeignCursor
from changefeed.rows.query import RowsQuery
from changefeed.rows.reading import Reading
from changefeed.selection.rights import Grants
from changefeed.selection.subscription import BadSubscription, Subscription, UncheckedRight
from handlers.access.errors import ApiError, database_needed, journal_replaced, not_a_cursor
from handlers.access.refusals import UNCHECKED_RIGHT
from handlers.delivery.dialects import PLAIN, SSE, V1, Dialect
from handlers.feed.query import FeedQuery
from handlers.feed.replay import Replay
from handlers.feed.rows import refusal, rows_query
from handlers.http.context import ServerContext

JOURNAL_DEADLINE_SECONDS = 5.0
SSE_DEADLINE_SECONDS = 1.0  # an EventSource gets a delay, and reconnects by itself
DELETED = "retention deleted changes after the cursor, or they may have been sent in another order before"
LOST_PAST = "the cursor belongs to a past that PostgreSQL has lost: by a crash, a failover, or restored files"


@dataclass(frozen=True)
class Start:
    """A checked request. Without a place, the client starts with the next change, or with `rows` and the changes after.

    `reported_extent` is Horizon.extent when the gap was found: what is not reported again. `replay` has
    the changes that such a client is sent first, if it asked for some.
    """

    query: FeedQuery
    place: Place | None = None
    gap: Gap | None = None
    reported_extent: tuple[int, int, int] | None = None
    replay: Replay | None = None
    rows: RowsQuery | None = None


async def prepare_start(context: ServerContext, query: FeedQuery, dialect: Dialect) -> Start:
    """Checks the request and finds its place. Raises ApiError."""
    if query.conflates and dialect is not V1:
        raise ApiError(400, "bad_slow", "slow=conflate needs the subprotocol changefeed.v1, which can report gaps")
    # The greeting has a place after which nothing is missed.
    await until_journal_known(context, SSE_DEADLINE_SECONDS if dialect is SSE else JOURNAL_DEADLINE_SECONDS)
    await check_subscription(context, query.subscription, needs_keys=query.conflates)
    rows = await _rows(context, query, dialect) if query.rows else None
    if rows:
        query = replace(query, subscription=rows.subscription)
    if query.since is None:
        return Start(query, replay=await _replay(context, query), rows=rows)
    place, gap = await find_place(context, query.since, query.subscription)
    if rows and gap:
        return Start(query, gap=gap, reported_extent=context.journal.horizon.extent, rows=rows)
    if gap and dialect is PLAIN:
        why = f"{gap.why}; connect without since, or with changefeed.v1 to get the gap as a message"
        raise ApiError(410, "gap", why)
    extent = context.journal.horizon.extent if gap else None
    return Start(query, place, gap, extent, None if place else await _replay(context, query))


async def _replay(context: ServerContext, query: FeedQuery) -> Replay | None:
    if not query.replay:
        return None
    replay = Replay(context.hub, context.select(query.subscription))
    await replay.examine()
    return replay


async def _rows(context: ServerContext, query: FeedQuery, dialect: Dialect) -> RowsQuery:
    if dialect is PLAIN:
        raise ApiError(400, "bad_rows", "rows=true needs the subprotocol changefeed.v1, or /events")
    if query.replay:
        raise ApiError(400, "bad_rows", "rows=true begins with the rows as they are: leave replay out")
    return await rows_query(context, query.subscription)


async def check_subscription(context: ServerContext, subscription: Subscription, *, needs_keys: bool = False) -> None:
    """Raises ApiError if no change can ever match the subscription."""
    try:
        with database_needed("the tables cannot be looked up"):
            if needs_keys:
                await context.catalog.until_read()
            await context.catalog.check(subscription)
    except BadSubscription as error:
        raise refusal(context, error) from None
    note_unchecked(context, subscription.within)


def note_unchecked(context: ServerContext, grants: Grants) -> UncheckedRight | None:
    """Logs and returns what is wrong with the rights if they name tables with filters that cannot be checked.

    Such a client gets its other tables.
    """
    found = context.catalog.unchecked(grants)
    if not found:
        return None
    error = UncheckedRight(found)
    context.authenticator.refusals.tell(UNCHECKED_RIGHT, error.private)
    return error


async def until_journal_known(context: ServerContext, deadline_seconds: float | None = None) -> None:
    """Waits until the journal is known, which decides if a cursor is valid. Raises ApiError after the deadline."""
    if not await context.follower.until_known(
        JOURNAL_DEADLINE_SECONDS if deadline_seconds is None else deadline_seconds
    ):
        raise ApiError(503, "not_ready", "the journal is not known yet, see the server's log; try again")


async def find_place(context: ServerContext, since: str, subscription: Subscription) -> tuple[Place | None, Gap | None]:
    """The cursor's place, and the gap after it if changes are gone. Without a place the client starts now.

    Raises ApiError if the cursor is invalid, or if its validity is not known yet.
    """
    try:
        place = context.journal.decode(since, subscription.within)
    except NotACursor as error:
        raise not_a_cursor(error) from None
    except ForeignCursor as error:
        return None, Gap(str(error), from_cursor=since)
    epoch, cache = context.journal.epoch, context.follower.cache
    if cache is None or not cache.proves(place):
        with database_needed("the journal cannot be read"):
            try:
                is_proven = await context.journal.proves(place)
            except JournalReplaced:
                raise journal_replaced() from None
        if context.journal.epoch != epoch:
            return await find_place(context, since, subscription)  # the journal was replaced a moment ago
        if not is_proven:
            return None, Gap(LOST_PAST, from_cursor=since)
    return place, _missed_since(context, place, since, subscription)


def cursor_of(context: ServerContext, start: Start) -> str | None:
    """The cursor at which the client starts; None without a journal, and before rows, which have their own."""
    cache = context.follower.cache
    if cache is None or start.rows:
        return None
    cursor = context.journal.encode(start.place or cache.edge_proven)
    return context.select(start.query.subscription).cursor(cursor)


def is_current(context: ServerContext, reading: Reading) -> bool:
    """Whether a client that begins now misses no gap if it follows from this reading on.

    No gap was sent since the reading began (Readings.outdate), so only what retention deleted is left to be asked for.
    """
    if reading.place is None or reading.cursor is None:
        return True
    return _missed_since(context, reading.place, reading.cursor, reading.query.subscription) is None


def _missed_since(context: ServerContext, place: Place, cursor: str, subscription: Subscription) -> Gap | None:
    """The gap for a client that resumes from this cursor, which names the place, if changes can no longer be read."""
    journal, horizon, cache = context.journal, context.journal.horizon, context.follower.cache
    # What the server remembers is not missing.
    is_hidden = horizon.hides_from(place) and (cache is None or cache.page_after(place) is None)
    if is_hidden or journal.may_differ_after(place):
        # Its end may be that of a change that one may not see.
        until = None if subscription.is_restricted else horizon.deleted_until
        return Gap(DELETED, from_cursor=cursor, until=until)
    if place.losses < horizon.lost_statements:
        gap = context.follower.losses.unrecorded_after(place.losses, cursor)
        # They may be of tables that one may not see.
        return Gap(gap.why, from_cursor=cursor) if subscription.is_restricted else gap
    return context.lookout.missed_since(place, cursor, subscription)
