"""Faults of clients. Each gives the seconds that the latest change for the others was on its way meanwhile."""

import asyncio
import contextlib
import gzip
import json
import random
import re
import struct
import zlib
from typing import Any

from tests.faults.site import Site
from tests.oracle.transports import get
from tests.raw_client import BINARY_FRAME, CLOSE_FRAME, PING_FRAME, TEXT_FRAME, RawClient, frame

STUCK = 20
HUGE_BYTES = 100 << 20
SLOW = 300
SLOW_SECONDS = 8.0  # longer than --request-seconds here
ROW_BYTES = 10 << 20
# What the server may take more of while somebody sends it more than it wants.
MEMORY_BYTES = 16 << 20
CLOSED_SECONDS = 30.0

FIN, RSV1 = 0x80, 0x40

MALFORMED: dict[str, bytes] = {
    "an unknown opcode": frame(FIN | 0x3, b"?"),
    "a reserved bit": frame(TEXT_FRAME | 0x20, b"{}"),
    "a long ping": frame(PING_FRAME, b"x" * 200),
    "a ping in pieces": frame(PING_FRAME & ~FIN, b"x"),
    "a continuation of nothing": frame(FIN | 0x0, b"x"),
    "a text within a text": frame(TEXT_FRAME & ~FIN, b"x") + frame(TEXT_FRAME, b"y"),
    "no UTF-8": frame(TEXT_FRAME, b"\xff\xfe"),
    "a length of 2^63": struct.pack("!BBQ", TEXT_FRAME, 0x80 | 127, 1 << 63) + b"mask",
    "a close frame of one byte": frame(CLOSE_FRAME, b"x"),
    "no frame": b"GET / HTTP/1.1\r\n\r\n" * 20,
    "noise": random.Random(7).randbytes(4096),
}
GARBAGE: dict[str, bytes] = {
    "two lengths": b"POST /api/session HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\nhello",
    "a length and chunks": b"POST /api/session HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
    "an odd encoding": b"POST /api/session HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a chunk of -1": b"POST /api/session HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "a length of +5": b"POST /api/session HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n two\r\n\r\n",
    "a zero byte in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
    "a bare CR": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "headers of 1 MB": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n",
    "a version of its own": b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "noise": random.Random(7).randbytes(4096) + b"\r\n\r\n",
}


async def clients_stuck(site: Site) -> float:
    """20 clients that read nothing, while 20 MB are written."""
    before = await _dropped(site)
    clients = [RawClient(site.server.port) for _ in range(STUCK)]
    for client in clients:
        await client.connect("/ws")

    async def attack() -> None:
        statement = "INSERT INTO wide SELECT n, repeat('x', 1000) FROM generate_series(1, 20000) AS n"
        await asyncio.to_thread(site.query, statement)
        await site.until_clients(len(site.followers))  # who reads before is stuck no more
        assert await _dropped(site) - before == STUCK
        await asyncio.to_thread(site.query, "TRUNCATE wide")

    return await site.latest(attack())


async def frames_malformed(site: Site) -> float:
    """11 kinds of frames that RFC 6455 forbids, and noise, on sockets that are open."""
    return await site.latest(_send_each(site, MALFORMED, is_socket=True))


async def requests_malformed(site: Site) -> float:
    """16 kinds of requests that are none: smuggled ones, too long ones, other protocols, noise."""
    return await site.latest(_send_each(site, GARBAGE, is_socket=False))


async def _send_each(site: Site, pieces: dict[str, bytes], *, is_socket: bool) -> None:
    for name, piece in pieces.items():
        client = RawClient(site.server.port, little_room=False)
        await (client.connect("/ws", protocol=True) if is_socket else client.open())
        with contextlib.suppress(OSError):  # it is closed while we still write
            await client.send(piece)
        try:
            answer = await _answer(client)
        except TimeoutError:
            raise AssertionError(f"the server keeps a connection open after {name}") from None
        assert answer.count(b"HTTP/1.1 200") == 0 or is_socket, (name, answer)


async def messages_huge(site: Site) -> float:
    """Messages of 100 MB: in one frame, and in pieces of 60 kB."""

    async def attack() -> None:
        before = site.memory_bytes()
        chunk = bytes(60 << 10)
        whole = struct.pack("!BBQ", BINARY_FRAME, 0x80 | 127, HUGE_BYTES) + b"mask"
        pieces = [frame(BINARY_FRAME & ~FIN, chunk), *[frame(0x0, chunk)] * (HUGE_BYTES // len(chunk))]
        for parts in ([whole, *[chunk] * (HUGE_BYTES // len(chunk))], pieces):
            client = RawClient(site.server.port)
            await client.connect("/ws", protocol=True)
            sent = 0
            with contextlib.suppress(OSError):
                async with asyncio.timeout(CLOSED_SECONDS):
                    for part in parts:
                        await client.send(part)
                        sent += len(part)
            assert sent < HUGE_BYTES / 2, "the server took it"
            client.close()
        _check_memory(site, before)

    return await site.latest(attack())


async def requests_slow(site: Site) -> float:
    """300 requests of which a byte comes now and then, with `--request-seconds 5`; others come in meanwhile."""

    async def attack() -> None:
        clients = [RawClient(site.server.port) for _ in range(SLOW)]
        for client in clients:
            await client.open()
            await client.send(b"GET /ws HTTP/1.1\r\nX: ")
        loop = asyncio.get_running_loop()
        until = loop.time() + SLOW_SECONDS
        while loop.time() < until:
            for client in clients:
                with contextlib.suppress(OSError):
                    await client.send(b"x")
            status, _ = await get(site.server.port, "/readyz")
            assert status == 200, status
            one = RawClient(site.server.port)
            await one.connect("/ws?table=wide")
            one.close()
        for client in clients:
            await _answer(client)

    return await site.latest(attack())


async def bombs_compressed(site: Site) -> float:
    """100 MB of zeros in 100 kB: as a compressed frame, though nobody agreed on that, and as a compressed body."""

    async def attack() -> None:
        before = site.memory_bytes()
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        deflated = packer.compress(bytes(HUGE_BYTES)) + packer.flush(zlib.Z_SYNC_FLUSH)
        for bomb in (deflated[:-4], deflated[: 32 << 10]):
            client = RawClient(site.server.port, little_room=False)
            head = await client.connect("/ws", True, "Sec-WebSocket-Extensions: permessage-deflate\r\n")
            assert "extensions" not in head.lower(), head
            with contextlib.suppress(OSError):
                await client.send_frame(TEXT_FRAME | RSV1, bomb)
            await _closed(client)
        body = gzip.compress(bytes(HUGE_BYTES))
        client = RawClient(site.server.port, little_room=False)
        await client.open()
        await client.send(
            b"PUT /api/tables/public.load/watch HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\n"
            b"Content-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        assert b"HTTP/1.1 413" in await _answer(client)
        _check_memory(site, before)

    return await site.latest(attack())


async def row_huge(site: Site) -> float:
    """A row of 10 MB is written, and comes to a client of each transport."""
    clients = [RawClient(site.server.port, little_room=False) for _ in range(2)]
    await clients[0].connect("/ws?table=wide")
    await clients[1].connect("/ws?table=wide", protocol=True)

    async def attack() -> None:
        await asyncio.to_thread(site.query, "INSERT INTO wide VALUES (0, repeat('x', %s))", (ROW_BYTES,))
        async with asyncio.timeout(CLOSED_SECONDS):
            plain, typed = [await _first_as_large(client) for client in clients]
        for change in (plain, typed["changes"][0]):
            assert len(change["data"]["filler"]) == ROW_BYTES
        await asyncio.to_thread(site.query, "DELETE FROM wide")

    return await site.latest(attack())


async def _first_as_large(client: RawClient) -> dict[str, Any]:
    """The first message of more than ROW_BYTES."""
    async for _, payload in client.frames():
        if len(payload) > ROW_BYTES:
            return json.loads(payload)
    raise AssertionError("the server closed the connection")


async def _dropped(site: Site) -> float:
    """How many clients the server closed because they did not read."""
    _, metrics = await get(site.server.port, "/metrics")
    line = re.search(
        r'^changefeed_clients_dropped_total\{kind="feed",reason="outbox_full"\} (\S+)$', metrics.decode(), re.M
    )
    return float(line[1]) if line else 0.0


async def _closed(client: RawClient) -> int | None:
    async with asyncio.timeout(CLOSED_SECONDS):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            return await client.until_closed()
    return None


async def _answer(client: RawClient) -> bytes:
    """All that is said until the connection ends."""
    said = b""
    async with asyncio.timeout(CLOSED_SECONDS):
        with contextlib.suppress(OSError):
            while taken := await client.read():
                said += taken
    client.close()
    return said


def _check_memory(site: Site, before_bytes: int) -> None:
    more = site.memory_bytes() - before_bytes
    assert more < MEMORY_BYTES, f"the server's memory grew by {more >> 20} MB"
