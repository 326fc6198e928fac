"""A client below any library: reads only on request, and may write what no client should. Knows no test."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator

TEXT_FRAME, BINARY_FRAME, CLOSE_FRAME, PING_FRAME, PONG_FRAME = 0x81, 0x82, 0x88, 0x89, 0x8A  # each with FIN


class RawClient:
    """One TCP connection. With `little_room` the kernel takes next to nothing for a client that does not read."""

    def __init__(self, port: int, *, little_room: bool = True, address: str = "127.0.0.1") -> None:
        self._port = port
        self._socket = socket.socket()
        self._socket.bind((address, 0))
        if little_room:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.setblocking(False)

    async def open(self) -> None:
        await asyncio.get_running_loop().sock_connect(self._socket, ("127.0.0.1", self._port))

    async def connect(self, path: str, protocol: bool = False, more_headers: str = "") -> str:
        """As a WebSocket; the head of the answer. Raises ConnectionError where it is refused."""
        await self.open()
        offer = "Sec-WebSocket-Protocol: changefeed.v1\r\n" if protocol else ""
        await self.send(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\nSec-WebSocket-Version: 13\r\n{offer}{more_headers}\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            taken = await asyncio.get_running_loop().sock_recv(self._socket, 1)
            if not taken:
                raise ConnectionError(f"the server closed the connection after {head!r}")
            head += taken
        if b" 101 " not in head.splitlines()[0]:
            raise ConnectionRefusedError(head.decode())
        return head.decode()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def send_frame(self, first_byte: int, payload: bytes = b"", *, is_masked: bool = True) -> None:
        await self.send(frame(first_byte, payload, is_masked=is_masked))

    async def read(self, most_bytes: int = 1 << 16) -> bytes:
        """What is there; b"" at the end of the connection."""
        return await asyncio.get_running_loop().sock_recv(self._socket, most_bytes)

    async def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """Reads, at last: each frame's first byte and payload, up to the end of the connection."""
        reader, writer = await asyncio.open_connection(sock=self._socket, limit=1 << 22)
        try:
            while head := await reader.read(1):
                [length] = await reader.readexactly(1)
                if length >= 126:
                    size, form = (2, "!H") if length == 126 else (8, "!Q")
                    [length] = struct.unpack(form, await reader.readexactly(size))
                yield head[0], await reader.readexactly(length)
        finally:
            writer.close()

    async def until_closed(self) -> int | None:
        """Reads up to the end of the connection; the code of the close frame, if one came."""
        code = None
        async for first_byte, payload in self.frames():
            if first_byte == CLOSE_FRAME and len(payload) >= 2:
                [code] = struct.unpack("!H", payload[:2])
        return code

    def close(self) -> None:
        self._socket.close()

    def abort(self) -> None:
        """Ends it with a RST instead of a FIN."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


def frame(first_byte: int, payload: bytes = b"", *, is_masked: bool = True) -> bytes:
    """As RFC 6455, 5.2, has it; a client's is masked."""
    mask_bit = 0x80 if is_masked else 0
    length = len(payload)
    if length < 126:
        head = bytes((first_byte, mask_bit | length))
    elif length < 1 << 16:
        head = struct.pack("!BBH", first_byte, mask_bit | 126, length)
    else:
        head = struct.pack("!BBQ", first_byte, mask_bit | 127, length)
    if not is_masked:
        return head + payload
    mask = os.urandom(4)
    repeated = (mask * (length // 4 + 1))[:length]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + mask + masked.to_bytes(length, "big")
