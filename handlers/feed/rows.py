"""What the routes that give rows share: their queries, their refusals as errors, the messages. Knows no transport."""

import asyncio
import contextlib
import http
from collections.abc import Iterator
from functools import partial

from changefeed.rows.query import RowsQuery, SortKey
from changefeed.rows.reading import Reading
from changefeed.rows.refusal import Reason, RowsRefused
from changefeed.selection.subscription import BadSubscription, Subscription, UncheckedRight
from handlers.access.errors import ApiError, database_needed, journal_replaced, no_journal
from handlers.access.refusals import UNCHECKED_RIGHT
from handlers.delivery.dialects import Dialect
from handlers.delivery.outbox import Outbox
from handlers.http.context import ServerContext

# A client that takes nothing for so long is closed: what it was to get is kept for it.
ROWS_STALL_SECONDS = 60.0
STATUSES = {
    Reason.BAD_ROWS: http.HTTPStatus.BAD_REQUEST,
    Reason.BAD_ORDER: http.HTTPStatus.BAD_REQUEST,
    Reason.TOO_MANY_ROWS: http.HTTPStatus.BAD_REQUEST,
    Reason.TOO_MANY_BYTES: http.HTTPStatus.BAD_REQUEST,
    Reason.CANNOT_READ: http.HTTPStatus.FORBIDDEN,
    Reason.NOT_WATCHED: http.HTTPStatus.NOT_FOUND,
    Reason.UNREADABLE_ROW: http.HTTPStatus.CONFLICT,
    Reason.TOO_SLOW: http.HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.BUSY: http.HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.ALTERED: http.HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.UNAVAILABLE: http.HTTPStatus.SERVICE_UNAVAILABLE,
}


@contextlib.contextmanager
def refusals_as_errors(*, is_restricted: bool) -> Iterator[None]:
    """Turns a refusal in the block into an ApiError, for clients with limited rights one that names no roles."""
    try:
        yield
    except RowsRefused as refused:
        message = refused.message if is_restricted or not refused.private else refused.private
        raise ApiError(STATUSES[refused.reason], str(refused.reason), message) from None


async def rows_query(
    context: ServerContext, subscription: Subscription, order: tuple[SortKey, ...] = (), limit: int | None = None
) -> RowsQuery:
    """The query for the rows of the subscription. Raises ApiError."""
    if context.follower.cache is None:
        is_away = context.lookout.was_watched(lambda table: subscription.names((table,)))
        raise journal_replaced() if is_away else no_journal()
    try:
        with (
            database_needed("the tables cannot be looked up"),
            refusals_as_errors(is_restricted=subscription.is_restricted),
        ):
            return await context.readings.query(subscription, order, limit)
    except BadSubscription as error:
        raise refusal(context, error) from None


def refusal(context: ServerContext, error: BadSubscription) -> ApiError:
    """The answer to a client whose subscription can match nothing; if its token is the reason, the log says so."""
    if isinstance(error, UncheckedRight):
        context.authenticator.refusals.tell(UNCHECKED_RIGHT, error.private)
    return ApiError(http.HTTPStatus.BAD_REQUEST, error.code, str(error))


async def send_rows(reading: Reading, outbox: Outbox, dialect: Dialect) -> None:
    """Sends the rows at the client's pace. Raises RowsRefused, and TimeoutError if it takes none for too long."""
    async for part in reading.parts():
        cursor = reading.cursor if part.is_last else None
        encoded = reading.once(
            (dialect, part.number, part.is_last),
            partial(dialect.rows, reading.query.table, part.rows, cursor),
        )
        outbox.send(encoded)
        async with asyncio.timeout(ROWS_STALL_SECONDS):
            await outbox.drained()
        await asyncio.sleep(0)
