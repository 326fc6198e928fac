"""/events: the feed as Server-Sent Events over HTTP. A browser's EventSource resumes by itself (Last-Event-ID)."""

import asyncio
import contextlib
import random
import re
from functools import partial

from changefeed.rows.query import RowsQuery
from changefeed.rows.reading import Reading
from handlers.access.authentication import Need
from handlers.access.errors import ApiError
from handlers.delivery.dialects import SSE, SSE_HEARTBEAT, sse_head, sse_refusal
from handlers.delivery.outbox import Outbox
from handlers.feed.client import FeedClient
from handlers.feed.query import parse_stream_query
from handlers.feed.rows import refusals_as_errors
from handlers.feed.start import Start, cursor_of, is_current, prepare_start
from handlers.http.base import RETRY_AFTER_SECONDS, BaseHandler
from handlers.http.server import set_tcp_user_timeout

COMMENT_INTERVAL_SECONDS = 15.0
# An event stream has no pong: a client that takes no heartbeat is closed 45 s after its last sign.
GIVE_UP_SECONDS = 30.0
RETRY_MS = (
    500,
    1500,
)  # the delay before a lost stream reconnects: random in between, so that a crowd does not return all at once
REFUSED_SPREAD_MS = 1000  # the same, added to the delay that a refused stream is given
EVENT_STREAM = "text/event-stream"
_SAFE_IN_A_LINE = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


class EventStreamHandler(BaseHandler):
    """A client of the feed. Each event's id is the cursor after it; an event `gap` reports a gap.

    An EventSource never reconnects after another status than 200 (WHATWG HTML, 9.2.3). So a client that accepts only a
    stream gets a temporary refusal as a stream that ends, with an event `error` and a `retry`.
    """

    needs = Need.TOKEN
    is_for_clients = True
    outbox: Outbox

    async def get(self) -> None:
        fields = self.query_fields()
        last = self._last_event_id()
        query = parse_stream_query({**fields, "since": [last]} if last else fields, self.rights)
        start = await prepare_start(self.context, query, SSE)
        assert self.identity
        self.context.admission.check(self.request.remote_ip, self.identity.holder)
        with contextlib.ExitStack() as held:
            reading = await self._read(start.rows, held) if start.rows else None
            self._stream = self.detach()
            if not self._stream.closed():  # else the client left before its start was found
                await self._serve(start, reading, held)

    async def _read(self, query: RowsQuery, held: contextlib.ExitStack) -> Reading | None:
        """The rows, all read: so a refusal has its status, after which an EventSource does not come back."""
        with refusals_as_errors(is_restricted=query.subscription.is_restricted):
            readings = self.context.readings
            reading = held.enter_context(readings.reading(query, self.owner, partial(is_current, self.context)))
            await reading.until_over()
        return reading

    async def _serve(self, start: Start, reading: Reading | None, held: contextlib.ExitStack) -> None:
        assert self.identity
        stream, closed = self._stream, asyncio.Event()
        stream.set_close_callback(closed.set)
        stream.set_nodelay(True)
        set_tcp_user_timeout(stream.socket, GIVE_UP_SECONDS)
        self.outbox = Outbox(stream, self.context.settings.outbox_limit_bytes, self.give_up)
        admitted = self.admit("feed", self.identity, stream.close)  # a client that reconnects then gets a 401
        self.outbox.send(self._head(start))
        client = FeedClient(self.context, self, SSE, start, self.owner, reading)
        held.close()  # the client holds the reading until it has the rows
        try:
            while not closed.is_set():
                try:
                    async with asyncio.timeout(COMMENT_INTERVAL_SECONDS):
                        await closed.wait()
                except TimeoutError:
                    self.outbox.send(SSE_HEARTBEAT)
        finally:
            client.end()
            admitted.leave()
            stream.close()

    def leave(self, reason: str) -> None:
        self._stream.close()

    def refuse_rows(self, error: ApiError) -> None:
        self.outbox.send(sse_refusal(error.fields, None, random.randint(*RETRY_MS)))
        self._stream.close()

    def give_up(self) -> None:
        self.context.delivery_counts.count_outbox_full("feed")
        self._stream.close()

    def answer_error(self, error: ApiError) -> None:
        if error.status_code < 500 or EVENT_STREAM not in self.request.headers.get("Accept", "").lower():
            super().answer_error(error)
            return
        if error.retry_after_seconds:
            retry_ms = error.retry_after_seconds * 1000 + random.randint(0, REFUSED_SPREAD_MS)
        else:
            retry_ms = random.randint(*(seconds * 1000 for seconds in RETRY_AFTER_SECONDS))
        last = self._last_event_id()
        is_safe = last is not None and _SAFE_IN_A_LINE.fullmatch(last)
        self.set_status(200)
        self._set_stream_headers()
        self.finish(sse_refusal(error.fields, last if is_safe else None, retry_ms))

    def _last_event_id(self) -> str | None:
        """The header's value, else that of the query field as polyfills write it."""
        if header := self.request.headers.get("Last-Event-ID"):
            return header
        said_in_query = [
            terms[-1]
            for name, terms in self.query_fields().items()
            if name.lower().replace("-", "").replace("_", "") == "lasteventid"
        ]
        return said_in_query[-1] if said_in_query and said_in_query[-1] else None

    def _set_stream_headers(self) -> None:
        self.set_header("Content-Type", f"{EVENT_STREAM}; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")

    def _head(self, start: Start) -> bytes:
        """The answer's head, written past Tornado, whose transforms would encode each event once per client.

        The answer has no length; it ends with the connection (RFC 9112, 6.3). If the client starts with a gap, its own
        cursor stays valid until the gap is sent.
        """
        self._set_stream_headers()
        self.set_header("Connection", "close")
        headers = "".join(f"{name}: {value}\r\n" for name, value in self._headers.get_all())
        cursor = start.query.since if start.gap else cursor_of(self.context, start)
        return f"HTTP/1.1 200 OK\r\n{headers}\r\n".encode() + sse_head(cursor, random.randint(*RETRY_MS))
