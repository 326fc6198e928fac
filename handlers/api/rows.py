"""/api/rows?table=…: the rows of a table, and the cursor from which the changes go on that these rows lack."""

import asyncio
import json
from typing import cast

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from changefeed.rows.query import RowsQuery, parse_order
from changefeed.rows.reading import BETWEEN, Reading
from handlers.access.authentication import Need
from handlers.access.errors import ApiError, whole_number
from handlers.feed.query import parse_query
from handlers.feed.rows import ROWS_STALL_SECONDS, refusals_as_errors, rows_query
from handlers.feed.start import until_journal_known
from handlers.http.base import ApiHandler
from handlers.http.compression import PIECE_BYTES

MOST_ROWS = 99_999_999  # of `limit`; --rows-limit is what counts
LINES = "application/x-ndjson"


class RowsHandler(ApiHandler):
    """{"rows": […], "cursor": "…"}, once all are read: so a refusal has its status.

    With `Accept: application/x-ndjson` a line for each row, as they are read, and a last one, which is
    {"cursor": "…", "is_last": true} or, if the reading fails, {"error": …}.
    """

    needs = Need.TOKEN
    query_names = ("table", "filter", "columns", "order", "limit")

    async def get(self) -> None:
        text = self.get_query_argument("limit", "")
        limit = whole_number("limit", text, 0, MOST_ROWS) if text else None
        asked = parse_query(self.query_fields(), self.rights).subscription
        with refusals_as_errors(is_restricted=asked.is_restricted):
            order = parse_order(self.query_fields().get("order", []))
        await until_journal_known(self.context)
        query = await rows_query(self.context, asked, order, limit)
        await self._answer(query)

    async def _answer(self, query: RowsQuery) -> None:
        is_restricted = query.subscription.is_restricted
        assert self.identity
        readings = self.context.readings
        expiry = self.context.authenticator.expiries.watch(self.identity, self._close)
        try:
            with refusals_as_errors(is_restricted=is_restricted), readings.reading(query, self.owner) as reading:
                if LINES in self.request.headers.get("Accept", "").lower():
                    await self._send_lines(reading)
                else:
                    await reading.until_over()
                    await self._send_object(reading)
        finally:
            expiry.cancel()

    def _close(self) -> None:
        cast(HTTP1Connection, self.request.connection).close()
        self.end()

    async def _send_object(self, reading: Reading) -> None:
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.write('{"rows":[')
        between = b""
        async for part in reading.parts():
            if part.rows:
                await self._send(between + part.rows.replace(BETWEEN, b","))
                between = b","
        self.finish(f'],"cursor":{json.dumps(reading.cursor)}}}')

    async def _send_lines(self, reading: Reading) -> None:
        self.set_header("Content-Type", f"{LINES}; charset=UTF-8")
        try:
            with refusals_as_errors(is_restricted=reading.query.subscription.is_restricted):
                async for part in reading.parts():
                    if part.rows:
                        # JSON has line breaks only between values, where a space means the same.
                        flat = part.rows.replace(b"\r", b" ").replace(b"\n", b" ")
                        await self._send(flat.replace(BETWEEN, b"\n") + b"\n")
            last: dict[str, object] = {"cursor": reading.cursor, "is_last": True}
        except ApiError as error:
            if not self._headers_written:
                raise
            last = dict(error.fields)
        self.finish(json.dumps(last) + "\n")

    async def _send(self, part: bytes) -> None:
        """Waits until the client has taken it; one that does not is closed.

        In pieces, since Tornado compresses each in one turn of the loop.
        """
        try:
            for at in range(0, len(part), PIECE_BYTES):
                self.write(part[at : at + PIECE_BYTES])
                async with asyncio.timeout(ROWS_STALL_SECONDS):
                    await self.flush()
                await asyncio.sleep(0)  # which flush() may not do
        except TimeoutError:
            cast(HTTP1Connection, self.request.connection).close()
            raise StreamClosedError from None
