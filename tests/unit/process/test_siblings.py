"""Messages between processes: they come in order and whole, or not at all; and no sender waits."""

import asyncio
from collections.abc import Iterator

import pytest

from process import siblings
from process.shared_numbers import shared_memory
from process.siblings import Siblings, bells, tell_ended

COUNT = 3


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Siblings]]:
    """Three processes, with small rings."""
    monkeypatch.setattr(siblings, "RING_BYTES", 4096)
    with shared_memory(COUNT, 4096) as descriptor, bells(COUNT) as rung:
        yield [Siblings(number, rung, descriptor) for number in range(1, COUNT + 1)]


class Inbox:
    """What a process has received."""

    def __init__(self, process: Siblings) -> None:
        self.received: list[tuple[int, bytes]] = []
        self._process = process
        self._came = asyncio.Event()

    async def __aenter__(self) -> "Inbox":
        self._receiving = self._process.receiving(self._take)
        self._receiving.__enter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._receiving.__exit__(None, None, None)

    def _take(self, number: int, message: bytes) -> None:
        self.received.append((number, message))
        self._came.set()

    async def until(self, count: int) -> list[tuple[int, bytes]]:
        while len(self.received) < count:
            self._came.clear()
            await self._came.wait()
        return self.received

    async def until_received(self, last: tuple[int, bytes]) -> list[tuple[int, bytes]]:
        while last not in self.received:
            await self.until(len(self.received) + 1)
        return self.received


def test_a_message_reaches_the_processes_with_higher_numbers(group: list[Siblings]):
    async def exchange() -> None:
        first, second, third = group
        assert [process.has_receivers for process in group] == [True, True, False]
        async with Inbox(first) as to_first, Inbox(second) as to_second, Inbox(third) as to_third:
            assert first.send(b"one")
            assert second.send(b"two")
            assert third.send(b"three")
            assert first.send(b"four")
            assert await to_third.until(3) == [(1, b"one"), (2, b"two"), (1, b"four")]
            assert await to_second.until(2) == [(1, b"one"), (1, b"four")]
            assert to_first.received == []

    asyncio.run(exchange())


def test_overwritten_messages_are_not_received(group: list[Siblings]):
    async def exchange() -> None:
        messages = [bytes([number]) * 1000 for number in range(1, 11)]
        for message in messages:
            assert group[0].send(message)
        async with Inbox(group[1]) as inbox:
            group[0].send(b"last")
            received = [message for _, message in await inbox.until_received((1, b"last"))]
            assert received == [message for message in messages if message in received] + [b"last"]
            assert len(received) < len(messages)

    asyncio.run(exchange())


def test_a_message_larger_than_the_ring_is_refused(group: list[Siblings]):
    assert group[0].send(b"x" * 4096)
    assert not group[0].send(b"x" * 4097)


def test_a_process_that_receives_nothing_holds_up_no_sender(group: list[Siblings]):
    async def exchange() -> None:
        for number in range(20_000):  # more than a pipe takes
            group[0].send(b"%d" % number)
        async with Inbox(group[1]) as late:
            await late.until(1)
            group[0].send(b"at last")
            await late.until_received((1, b"at last"))

    asyncio.run(exchange())


def test_the_parent_reports_which_process_has_ended(group: list[Siblings]):
    async def exchange() -> None:
        async with Inbox(group[1]) as to_second, Inbox(group[2]) as to_third:
            group[0].send(b"one")
            tell_ended(1, group[0]._bells)
            assert await to_second.until(2) == [(1, b"one"), (1, b"")]
            assert await to_third.until(2) == [(1, b"one"), (1, b"")]

    asyncio.run(exchange())


def test_a_process_alone_sends_nothing():
    alone = Siblings()
    assert not alone.has_receivers
    with alone.receiving(lambda number, message: None):
        pass
