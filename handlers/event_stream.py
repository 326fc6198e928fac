"""The feed over HTTP, as Server-Sent Events: /events. A browser's EventSource resumes by itself (Last-Event-ID)."""

import asyncio

from handlers.dialects import STREAM, STREAM_HEARTBEAT
from handlers.expiry import Expiry
from handlers.feed_client import FeedClient
from handlers.feed_query import parse_query
from handlers.gate import Need
from handlers.http_server import give_up_who_does_not_read
from handlers.outbox import Outbox

HEARTBEAT_SECONDS = 15.0
# An event stream has no pong: who takes no heartbeat is gone 45 s after he fell silent.
GIVE_UP_SECONDS = 30.0


class EventStreamHandler(FeedClient):
    """A client of the feed; each event's id is the cursor after it, and an event `gap` tells of one."""

    needs = Need.TOKEN
    is_for_clients = True
    dialect = STREAM

    async def get(self) -> None:
        last = self.request.headers.get("Last-Event-ID")
        fields = self.query_fields()
        query = parse_query({**fields, "since": [last]} if last else fields, self.rights)
        start = await self.prepare_start(query)
        assert self.identity
        admission, holder = self.feed.admission, self.identity.holder
        admission.check(self.request.remote_ip, holder)
        self._stream = stream = self.detach()
        if stream.closed():
            return  # the client was gone before its start was found
        closed = asyncio.Event()
        stream.set_close_callback(closed.set)
        stream.set_nodelay(True)
        give_up_who_does_not_read(stream.socket, GIVE_UP_SECONDS)
        self.outbox = Outbox(stream, self.feed.settings.outbox_limit_bytes, self.give_up, self.on_drained)
        admission.enter(self.request.remote_ip, "feed")
        admission.enter_with(holder)
        self.outbox.send(self._head())
        self.begin(start)
        expiry = Expiry(self.identity, stream.close)  # the client comes back, and is told by a 401
        try:
            while not closed.is_set():
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await closed.wait()
                except TimeoutError:
                    self.outbox.send(STREAM_HEARTBEAT)
        finally:
            expiry.cancel()
            admission.leave(self.request.remote_ip, "feed", holder)
            self.end()
            stream.close()

    def leave(self, reason: str) -> None:
        self._stream.close()

    def give_up(self) -> None:
        self.feed.deliveries.outbox_full("feed")
        self._stream.close()

    def _head(self) -> bytes:
        """Written below Tornado's response, whose transforms would frame and compress anew for each client.

        The answer has no length; it ends with the connection (RFC 9112, 6.3).
        """
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")
        self.set_header("Connection", "close")
        headers = "".join(f"{name}: {value}\r\n" for name, value in self._headers.get_all())
        return f"HTTP/1.1 200 OK\r\n{headers}\r\nretry: 1000\n\n".encode()
