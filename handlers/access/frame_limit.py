"""A client's frames in, those that are not too many out: the bound on what one may send on a socket."""

import asyncio
import time
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketProtocol13

from handlers.access.rate import BURST_SECONDS

LAST_WORDS_SECONDS = 1.0  # in which the close frame is to arrive, before what was not read ends the connection
FRAMES_BETWEEN_RESTS = 50


class MeteredProtocol(WebSocketProtocol13):
    """Counts every frame, also one that is no message, since each costs; a test pins what is relied on in Tornado.

    In each span of BURST_SECONDS a client has so many seconds' worth. Of one who sends more nothing more is read. The
    handler says how many frames and bytes one `may_send` in a second, and has stop_talking() to close the socket.
    """

    handler: Any
    # Of the class until something comes: ten thousand clients that say nothing are not to cost more.
    _span_ends_at = 0.0
    _frames = 0
    _bytes_before = 0

    async def _receive_frame_loop(self) -> None:
        """As Tornado's, but for the counting. (To wrap _receive_frame() would cost each idle client a coroutine.)"""
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
