"""Limits the frames that a client may send on a WebSocket."""

import asyncio
import time
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketProtocol13

from handlers.access.rate import BURST_SECONDS

LAST_WORDS_SECONDS = 1.0  # for the close frame to arrive, before the unread rest resets the connection
FRAMES_BETWEEN_RESTS = 50


class FrameLimitProtocol(WebSocketProtocol13):
    """Counts every frame, even those that are no message, since each costs. A test pins what this uses of Tornado.

    In each span of BURST_SECONDS a client may send that many seconds' worth. After more, the server reads nothing more
    from it. The handler's `may_send` gives the frames and bytes per second; its stop_talking() closes the socket.
    """

    handler: Any
    # Class attributes until a frame comes, so that ten thousand silent clients do not cost more.
    _span_ends_at = 0.0
    _frames = 0
    _bytes_before = 0

    async def _receive_frame_loop(self) -> None:
        """Tornado's loop with counting. (Wrapping _receive_frame() would cost each idle client a coroutine.)"""
        try:
            while not self.client_terminated:
                before = self._wire_bytes_in
                await self._receive_frame()
                if self._is_too_much(before):
                    self.handler.stop_talking()
                    await asyncio.sleep(LAST_WORDS_SECONDS)
                    self._abort()
                if self._frames % FRAMES_BETWEEN_RESTS == 0:
                    await asyncio.sleep(0)
        except StreamClosedError:
            self._abort()
        finally:
            self.handler.on_ws_connection_close(self.close_code, self.close_reason)

    def _is_too_much(self, bytes_before: int) -> bool:
        now = time.monotonic()
        if now >= self._span_ends_at:
            self._span_ends_at = now + BURST_SECONDS
            self._frames, self._bytes_before = 0, bytes_before
        self._frames += 1
        frames: int
        frames, size = self.handler.may_send
        return self._frames > frames * BURST_SECONDS or self._wire_bytes_in - self._bytes_before > size * BURST_SECONDS
