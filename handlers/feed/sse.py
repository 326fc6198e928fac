"""The feed over HTTP, as Server-Sent Events: /events. A browser's EventSource resumes by itself (Last-Event-ID)."""

import asyncio
import random
import re

from handlers.access.authentication import Need
from handlers.access.errors import ApiError
from handlers.delivery.dialects import STREAM, STREAM_HEARTBEAT, stream_head, stream_refusal
from handlers.delivery.outbox import Outbox
from handlers.feed.client import FeedClient
from handlers.feed.query import parse_query
from handlers.feed.start import Start, cursor_of, prepare_start
from handlers.http.base import RETRY_AFTER_SECONDS, BaseHandler
from handlers.http.server import set_tcp_user_timeout

COMMENT_INTERVAL_SECONDS = 15.0
# An event stream has no pong: who takes no heartbeat is gone 45 s after he fell silent.
GIVE_UP_SECONDS = 30.0
RETRY_MS = (500, 1500)  # when a lost stream comes back: at random in between, so that a crowd does not come as one
REFUSED_SPREAD_MS = 1000  # the same for those that were told a second in which to come back
EVENT_STREAM = "text/event-stream"
_SAFE_IN_A_LINE = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


class EventStreamHandler(BaseHandler):
    """A client of the feed; each event's id is the cursor after it, and an event `gap` tells of one.

    An EventSource never comes back after another status than 200 (WHATWG HTML, 9.2.3). So a refusal that passes is, for
    whoever accepts nothing but a stream, a stream that ends: with an event `error`, and `retry`.
    """

    needs = Need.TOKEN
    is_for_clients = True
    outbox: Outbox

    async def get(self) -> None:
        fields = self.query_fields()
        last = self._last_event_id()
        query = parse_query({**fields, "since": [last]} if last else fields, self.rights)
        start = await prepare_start(self.context, query, STREAM)
        assert self.identity
        self.context.admission.check(self.request.remote_ip, self.identity.holder)
        self._stream = stream = self.detach()
        if stream.closed():
            return  # the client was gone before its start was found
        closed = asyncio.Event()
        stream.set_close_callback(closed.set)
        stream.set_nodelay(True)
        set_tcp_user_timeout(stream.socket, GIVE_UP_SECONDS)
        self.outbox = Outbox(stream, self.context.settings.outbox_limit_bytes, self.give_up)
        admitted = self.admit("feed", self.identity, stream.close)  # who comes back then is told by a 401
        self.outbox.send(self._head(start))
        client = FeedClient(self.context, self, STREAM, start)
        try:
            while not closed.is_set():
                try:
                    async with asyncio.timeout(COMMENT_INTERVAL_SECONDS):
                        await closed.wait()
                except TimeoutError:
                    self.outbox.send(STREAM_HEARTBEAT)
        finally:
            client.end()
            admitted.leave()
            stream.close()

    def leave(self, reason: str) -> None:
        self._stream.close()

    def give_up(self) -> None:
        self.context.deliveries.outbox_full("feed")
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
        self.finish(stream_refusal(error.fields, last if is_safe else None, retry_ms))

    def _last_event_id(self) -> str | None:
        """The header; or else a query field of that name, however written, as polyfills send it."""
        if said := self.request.headers.get("Last-Event-ID"):
            return said
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
        """Written below Tornado's response, whose transforms would frame and compress anew for each client.

        The answer has no length; it ends with the connection (RFC 9112, 6.3). Until the gap is told by which a client
        begins, the cursor that it came with stands.
        """
        self._set_stream_headers()
        self.set_header("Connection", "close")
        headers = "".join(f"{name}: {value}\r\n" for name, value in self._headers.get_all())
        cursor = start.query.since if start.gap else cursor_of(self.context, start)
        return f"HTTP/1.1 200 OK\r\n{headers}\r\n".encode() + stream_head(cursor, random.randint(*RETRY_MS))
