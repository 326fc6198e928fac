"""Finds a change by its cursor, for permalinks, and a place in the journal by a time, for replays."""

import math

from changefeed.change.change import Change
from changefeed.journal.cursor import NotACursor, Place
from changefeed.journal.entries import JournalReplaced
from changefeed.journal.journal import BEGINNING, ForeignCursor, LostPast
from changefeed.postgres.named_queries import load_queries
from changefeed.selection.subscription import Selection, Subscription
from handlers.access.authentication import Need
from handlers.access.errors import ApiError, database_needed, journal_replaced, no_journal, not_a_cursor
from handlers.feed.start import LOST_PAST, check_subscription, until_journal_known
from handlers.http.base import ApiHandler

QUERIES = load_queries("server.sql")
STATEMENT_SECONDS = 120.0  # how long a statement may take to write its entries, which all have the time of its start


class _PlacesHandler(ApiHandler):
    needs = Need.TOKEN
    waits_its_turn = True

    async def get(self) -> None:
        await until_journal_known(self.context)
        if self.context.follower.cache is None:
            raise no_journal()
        try:
            with database_needed("the journal cannot be read"):
                await self.answer()
        except JournalReplaced:
            raise journal_replaced() from None
        except LostPast:
            raise ApiError(404, "foreign_cursor", LOST_PAST) from None

    def selection(self) -> Selection:
        """Selects everything that the caller may see."""
        return self.context.select(Subscription(within=self.rights.tables))

    async def answer(self) -> None:
        raise NotImplementedError


class ChangeHandler(_PlacesHandler):
    """Answers with the change that has this `cursor`, as clients were sent it."""

    query_names = ("cursor",)

    async def answer(self) -> None:
        await check_subscription(
            self.context, self.selection().subscription
        )  # which makes sure that the columns are known
        change = await self._find(self.get_query_argument("cursor", ""))
        if change is None:
            raise ApiError(404, "aged_out", "the journal no longer keeps this change")
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        await self.finish_large(change.text)

    async def _find(self, cursor: str) -> Change | None:
        try:
            place = self.context.journal.decode(cursor, self.rights.tables)
        except NotACursor as error:
            raise not_a_cursor(error) from None
        except ForeignCursor as error:
            raise ApiError(404, "foreign_cursor", str(error)) from None
        # A cursor is exclusive: the change is the first one after the place with the previous id.
        try:
            page = await self.context.journal.read_for_client(
                self.owner, Place(place.previous, place.batch, place.id - 1)
            )
        except (LostPast, JournalReplaced):
            raise ApiError(
                404, "lost", "PostgreSQL has lost this change: by a crash, a failover or a restore"
            ) from None
        found = [change for change in page.changes[:1] if change.id == place.id]
        return next(iter(self.selection().pick(found)), None)


class PlaceHandler(_PlacesHandler):
    """Answers {"cursor": …}, before all recorded changes since `at`, in epoch seconds."""

    query_names = ("at",)

    async def answer(self) -> None:
        at = self._seconds(self.get_query_argument("at", ""))
        cache = self.context.follower.cache
        assert cache is not None
        [(first_id,)] = await self.context.request_pool.fetch(
            QUERIES["first since"], {"at": at, "margin": STATEMENT_SECONDS}
        )
        edge = cache.edge
        place = edge if first_id is None else Place(BEGINNING.previous, edge.batch, first_id - 1)
        self.finish({"cursor": self.selection().cursor(self.context.journal.encode(place))})

    @staticmethod
    def _seconds(text: str) -> float:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < 1e11:
            raise ApiError(400, "bad_time", "at must be a time in epoch seconds")
        return seconds
