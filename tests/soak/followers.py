"""Clients that must get each change once, in its order, however often they leave: those of the oracle, which count here."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from time import time
from typing import Any

from tests.oracle.ground import Server
from tests.oracle.reader import LINES, Dropped, FeedFailed, Reader
from tests.oracle.replica import Change
from tests.oracle.transports import PlainReader, PollingReader, ProtocolReader, StreamReader
from tests.soak.load import CYCLE, WRITERS, group_of, number_of

Wanted = Callable[[int], bool]
NEVER_LEAVES = (1e9, 1e9)  # seconds


class Follower(Reader):
    """Beside a transport, which it is mixed with. `delays` has how long each change took from its statement to here."""

    # How long it stays, and how long it is away; seconds.
    stays = NEVER_LEAVES
    away = (0.0, 0.1)
    is_timed = False
    wanted: Wanted = staticmethod(lambda number: True)

    def __init__(self, name: str, servers: list[Server], cursor: str) -> None:
        super().__init__(name, random.Random(name), servers, cursor, is_slow=False)
        self.delays: list[float] = []
        self._due = [self._next(-1) for _ in range(WRITERS)]

    def has_all(self, written: list[int]) -> bool:
        """Whether it got everything that it wants of what is written."""
        return all(due >= upto for due, upto in zip(self._due, written, strict=True))

    def behind(self, written: list[int]) -> int:
        return sum(max(0, upto - due) for due, upto in zip(self._due, written, strict=True))

    async def run(self) -> None:
        [server] = self._servers
        while True:
            with contextlib.suppress(Dropped, *LINES):
                async with self._connection(server) as arriving:
                    self.connections += 1
                    async with asyncio.timeout(self._draw.uniform(*self.stays)):
                        await self._take_all(arriving)
            await asyncio.sleep(self._draw.uniform(*self.away))

    async def _take_all(self, arriving: AsyncIterator[list[Change]]) -> None:
        async for changes in arriving:
            for change in changes:
                self.take(change)
            self._all_taken()

    def take(self, change: Change) -> None:
        row: dict[str, Any] = change["data"]
        number, writer = number_of(change), row["writer"]
        if number != self._due[writer] or change["action"] != CYCLE[number % 3]:
            what = "came twice" if number < self._due[writer] else "came too early: changes before it are missing"
            raise FeedFailed(
                f"{self.name}: number {number} of writer {writer} {what}, {self._due[writer]} is due", change
            )
        self._due[writer] = self._next(number)
        self.cursor = change["cursor"]
        self.taken += 1
        if self.is_timed:
            self.delays.append(time() - datetime.fromisoformat(change["at"]).timestamp())

    def _next(self, number: int) -> int:
        number += 1
        while not self.wanted(number):
            number += 1
        return number


class Plain(Follower, PlainReader):
    is_timed = True


class Protocol(Follower, ProtocolReader):
    is_timed = True


class OneGroup(Follower, ProtocolReader):
    query = "&table=load&filter=grp=eq.3"
    wanted = staticmethod(lambda number: group_of(number) == 3)


class Updates(Follower, ProtocolReader):
    query = "&action=UPDATE&columns=writer,id,number"
    wanted = staticmethod(lambda number: CYCLE[number % 3] == "UPDATE")


class Events(Follower, StreamReader):
    is_timed = True


class Resuming(Follower, PlainReader):
    stays, away = (3.0, 20.0), (0.0, 15.0)


class ResumingEvents(Follower, StreamReader):
    stays, away = (3.0, 20.0), (0.0, 15.0)


class Polling(Follower, PollingReader):
    stays, away = (3.0, 20.0), (0.0, 3.0)


FOLLOWERS = (Plain, Protocol, OneGroup, Updates, Events, Resuming, ResumingEvents, Polling)


@contextlib.asynccontextmanager
async def at_work(*workers: Any) -> AsyncIterator[None]:
    """They run as long as the block does. What one of them refuses ends the block, as an AssertionError."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(worker.run()) for worker in workers]
            yield
            for task in tasks:
                task.cancel()
    except* AssertionError as failures:
        raise AssertionError("; ".join(map(str, failures.exceptions))) from None
