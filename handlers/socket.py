"""What both WebSockets share: a registry per class, an origin check, and an outbox with a bound.

Messages are framed by the caller, once for all clients. A client whose kernel buffer is full gets its frames into its
own outbox; when that is full too it is closed, so that it slows nobody and the server's memory has a bound.
"""

import logging
from collections import deque
from typing import Any, ClassVar, Self, cast

from tornado.iostream import IOStream, StreamClosedError
from tornado.websocket import WebSocketHandler

from handlers.base import ApiError, BaseHandler

logger = logging.getLogger(__name__)

TRY_AGAIN_LATER = 1013  # the registered close code for a client that may come back (IANA WebSocket registry)
GOING_AWAY = 1001


class BaseSocket(WebSocketHandler, BaseHandler):
    """A client. Each subclass has its own `clients`, those that are open now."""

    clients: ClassVar[set[Self]]

    def __init_subclass__(cls) -> None:
        cls.clients = set()

    def initialize(self) -> None:
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._is_writing = False

    async def get(self, *args: Any, **kwargs: Any) -> None:
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            raise ApiError(400, "not_a_websocket", 'this path is a WebSocket; connect with new WebSocket("ws://…")')
        await super().get(*args, **kwargs)

    def check_origin(self, origin: str) -> bool:
        allowed = self.feed.settings.allow_origin
        if "*" in allowed or origin.lower() in allowed or super().check_origin(origin):
            return True
        raise ApiError(
            403, "foreign_origin", f"pages of {origin[:100]} may not connect; start the server with --allow-origin"
        )

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        # Before the handshake is done this is an ordinary HTTP answer.
        BaseHandler.write_error(self, status_code, **kwargs)

    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)
        type(self).clients.add(self)

    def on_close(self) -> None:
        type(self).clients.discard(self)
        self._outbox.clear()
        self._outbox_bytes = 0

    def send(self, frames: bytes) -> None:
        """Sends whole frames, now or when the client has read what came before. Never blocks, never raises."""
        if self._is_writing:
            self._outbox.append(frames)
            self._outbox_bytes += len(frames)
            if self._outbox_bytes > self.feed.settings.outbox_limit_bytes:
                self._give_up()
        else:
            self._write(frames)

    def _write(self, frames: bytes) -> None:
        # Under Tornado's write_message, which would frame anew for each client; a test pins what is relied on here.
        if self.ws_connection is None or self.ws_connection.is_closing():
            return
        stream = cast(IOStream, cast(Any, self.ws_connection).stream)
        try:
            written = stream.write(frames)
        except StreamClosedError:
            return  # on_close follows
        if stream.writing():
            self._is_writing = True
            written.add_done_callback(lambda _: self._flush())

    def _flush(self) -> None:
        self._is_writing = False
        if self._outbox:
            frames = b"".join(self._outbox)
            self._outbox.clear()
            self._outbox_bytes = 0
            self._write(frames)

    def _give_up(self) -> None:
        logger.info("closed a client that did not read: more than %d bytes waited for it", self._outbox_bytes)
        type(self).clients.discard(self)
        self._outbox.clear()
        self._outbox_bytes = 0
        self.close(TRY_AGAIN_LATER, "the outbox is full: read faster, or ask for less")

    @classmethod
    def close_all(cls, reason: str) -> None:
        for client in list(cls.clients):
            client.close(GOING_AWAY, reason)
