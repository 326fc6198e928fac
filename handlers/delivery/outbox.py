"""Sends bytes to one client; holds what the client does not read yet, up to a bound.

The caller encodes frames once for all clients. A stuck client costs the bound, and slows none: when its outbox is full
it is closed, and resumes from its cursor later.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable

from tornado.iostream import IOStream, StreamClosedError


def _ignore() -> None: ...


class Outbox:
    """Writes to `stream` in order. Calls on_full() once, when more than `limit_bytes` wait.

    Calls on_drained() when the kernel has taken everything after it had not.
    """

    __slots__ = (
        "_drained",
        "_is_closed",
        "_is_writing",
        "_limit_bytes",
        "_on_full",
        "_stream",
        "_waiting",
        "on_drained",
        "waiting_bytes",
    )

    def __init__(self, stream: IOStream, limit_bytes: int, on_full: Callable[[], None]) -> None:
        self._stream = stream
        self._limit_bytes = limit_bytes
        self._on_full = on_full
        self.on_drained: Callable[[], None] = _ignore
        self._waiting: list[bytes] = []
        self._is_writing = False
        self._is_closed = False
        self._drained: asyncio.Future[None] | None = None
        self.waiting_bytes = 0

    @property
    def is_busy(self) -> bool:
        """Whether the kernel has not yet taken all that was sent."""
        return self._is_writing

    def send(self, buffer: bytes) -> None:
        """Never blocks and never raises. Bytes for a closed client are dropped."""
        if self._is_closed or not buffer:
            return
        if not self._is_writing:
            self._write(buffer)
            return
        self._waiting.append(buffer)
        self.waiting_bytes += len(buffer)
        if self.waiting_bytes > self._limit_bytes:
            self.close()
            self._on_full()

    async def drained(self) -> None:
        """Returns once everything is written, or never will be."""
        if self._is_writing and not self._is_closed:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    def close(self) -> None:
        """Drops what waits, and sends nothing more."""
        self._is_closed = True
        self._waiting.clear()
        self.waiting_bytes = 0
        self._tell_drained()

    def abort(self) -> None:
        """Also ends the connection, after one last write of what the kernel takes at once."""
        self.close()
        self._stream.close()

    def _write(self, buffer: bytes) -> None:
        rest = self._send_now(buffer)
        if not rest:
            return
        try:
            written = self._stream.write(rest)
        except StreamClosedError:
            self.close()
            return
        if self._stream.writing():
            self._is_writing = True
            written.add_done_callback(lambda _: self._on_written())

    def _send_now(self, buffer: bytes) -> memoryview:
        """Writes to the socket directly, since the stream's own write costs far more. Returns the rest.

        Bytes that Tornado still has to write go first. An error is ignored here: it occurs again in the stream, which
        handles it.
        """
        stream, sent = self._stream, 0
        if not stream.closed() and not stream.writing() and not isinstance(stream.socket, ssl.SSLSocket):
            with contextlib.suppress(OSError):
                sent = stream.socket.send(buffer)
        return memoryview(buffer)[sent:]

    def _on_written(self) -> None:
        self._is_writing = False
        if self._waiting:
            buffer = b"".join(self._waiting)
            self._waiting.clear()
            self.waiting_bytes = 0
            self._write(buffer)
        if not self._is_writing:
            self._tell_drained()
            self.on_drained()

    def _tell_drained(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None
