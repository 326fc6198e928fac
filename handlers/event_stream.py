"""The feed over HTTP, as Server-Sent Events: /events. A browser's EventSource resumes by itself (Last-Event-ID)."""

import asyncio
import socket
import sys

from handlers.dialects import STREAM, STREAM_HEARTBEAT
from handlers.expiry import Expiry
from handlers.feed_client import FeedClient
from handlers.feed_query import parse_query
from handlers.gate import Need
from handlers.outbox import Outbox

HEARTBEAT_SECONDS = 15.0


# TCP_USER_TIMEOUT of Linux is in milliseconds, TCP_RXT_CONNDROPTIME of macOS in seconds.
DROP_OPTION = (getattr(socket, "TCP_USER_TIMEOUT", 0x80), 30_000 if sys.platform == "linux" else 30)


def give_up_dead_peers(connection: socket.socket) -> None:
    """An event stream has no pong: who acknowledges no heartbeat is gone 45 s after he fell silent, by TCP itself."""
    connection.setsockopt(socket.IPPROTO_TCP, *DROP_OPTION)


class EventStreamHandler(FeedClient):
    """A client of the feed; each event's id is the cursor after it, and an event `gap` tells of one."""

    needs = Need.TOKEN
    dialect = STREAM

    async def get(self) -> None:
        last = self.request.headers.get("Last-Event-ID")
        fields = self.query_fields()
        query = parse_query({**fields, "since": [last]} if last else fields, self.rights)
        start = await self.prepare_start(query)
        self.feed.admission.check(self.request.remote_ip)
        self._stream = stream = self.detach()
        closed = asyncio.Event()
        stream.set_close_callback(closed.set)
        stream.set_nodelay(True)
        give_up_dead_peers(stream.socket)
        self.outbox = Outbox(stream, self.feed.settings.outbox_limit_bytes, self.give_up, self.on_drained)
        self.feed.admission.enter(self.request.remote_ip, "feed")
        self.outbox.send(self._head())
        self.begin(start)
        assert self.identity
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
            self.feed.admission.leave(self.request.remote_ip, "feed")
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
