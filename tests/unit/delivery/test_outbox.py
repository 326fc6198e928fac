"""The outbox on real sockets: what it relies on in Tornado's stream, its order, its bound."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from tornado.iostream import IOStream

from handlers.delivery.outbox import Outbox

BIG = 8 << 20  # more than the kernel takes for a client that does not read


class Line:
    """An outbox, and the far end of its connection."""

    def __init__(self, limit_bytes: int = 1 << 20) -> None:
        near, self.far = socket.socketpair()
        self.far.setblocking(False)
        self.stream = IOStream(near)
        self.calls: list[str] = []
        self.outbox = Outbox(self.stream, limit_bytes, lambda: self.calls.append("full"))
        self.outbox.on_drained = lambda: self.calls.append("drained")

    async def read(self, count: int) -> bytes:
        got = bytearray()
        while len(got) < count and (part := await asyncio.get_running_loop().sock_recv(self.far, 1 << 20)):
            got += part
        return bytes(got)

    def close(self) -> None:
        self.stream.close()
        self.far.close()


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_a_reading_client_is_written_to_at_once(loop: asyncio.Runner):
    async def run() -> None:
        line = Line()
        line.outbox.send(b"one")
        line.outbox.send(b"two")
        assert not line.stream.writing()
        assert not line.outbox.is_busy
        assert line.far.recv(100) == b"onetwo"
        line.close()

    loop.run(run())


def test_what_the_kernel_does_not_take_waits_and_arrives_in_order(loop: asyncio.Runner):
    async def run() -> None:
        line = Line(BIG + 3)
        sent = [bytes([number]) * BIG for number in (1, 2)] + [b"end"]
        for buffer in sent:
            line.outbox.send(buffer)
        assert (line.outbox.is_busy, line.outbox.waiting_bytes) == (True, BIG + 3)
        assert await line.read(2 * BIG + 3) == b"".join(sent)
        await line.outbox.drained()
        assert (line.calls, line.outbox.waiting_bytes, line.outbox.is_busy) == (["drained"], 0, False)
        line.close()

    loop.run(run())


def test_what_tornado_has_still_to_write_goes_first(loop: asyncio.Runner):
    async def run() -> None:
        line = Line()
        line.stream.write(b"x" * BIG)
        assert line.stream.writing()
        line.outbox.send(b"after")
        assert (await line.read(BIG + 5)).endswith(b"xafter")
        line.close()

    loop.run(run())


def test_a_full_outbox_reports_once_and_takes_no_more(loop: asyncio.Runner):
    async def run() -> None:
        line = Line(limit_bytes=10)
        line.outbox.send(b"x" * BIG)
        for _ in range(5):
            line.outbox.send(b"12345")
        assert line.calls == ["full"]
        assert line.outbox.waiting_bytes == 0
        line.close()

    loop.run(run())


def test_a_gone_client_is_no_error(loop: asyncio.Runner):
    async def run() -> None:
        line = Line()
        line.far.close()
        line.outbox.send(b"into the void")
        line.outbox.send(b"and again")
        await line.outbox.drained()
        line.stream.close()
        line.outbox.send(b"and again")
        assert line.calls in ([], ["drained"])

    loop.run(run())
