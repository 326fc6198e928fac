"""PostgreSQL, a server, writers at a gentle pace, and followers on each transport that refuse what is lost or doubled."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Awaitable
from typing import Any, Self

import psutil

from changefeed.postgres.named_queries import read_script
from tests.oracle.ground import Ground, Start
from tests.oracle.transports import PlainReader, ProtocolReader, StreamReader, get
from tests.soak import load
from tests.soak.followers import Follower, at_work

CHANGES_PER_SECOND = 60.0
WELL_SECONDS = 90.0  # on a machine however busy
FLAGS = (
    *("--watch", "public.load", "--watch", "public.wide"),
    *("--outbox-limit-bytes", "262144", "--request-seconds", "5"),
)
DEFINITION = read_script("install.sql") + load.DEFINITION + "; CREATE TABLE wide (id bigint PRIMARY KEY, filler text)"

USUAL = Start(FLAGS)


class Plain(Follower, PlainReader):
    query = "&table=load"
    is_timed = True


class Protocol(Follower, ProtocolReader):
    query = "&table=load"


class Events(Follower, StreamReader):
    query = "&table=load"


class Site(Ground):
    """One server; everything at work as long as the block runs."""

    options = {"fsync": "off"}  # noqa: RUF012  # what is stopped here is PostgreSQL, never the machine
    kinds: tuple[type[Follower], ...] = (Plain, Protocol, Events)

    def __init__(self, start: Start = USUAL) -> None:
        super().__init__(DEFINITION, {"server": start})
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            await self._set_to_work()
        except BaseException:
            await self.__aexit__(*sys.exc_info())
            raise
        return self

    async def _set_to_work(self) -> None:
        self.server = self.servers[0]
        cursor = await self._first_cursor()
        self.followers = [kind(kind.__name__, self.servers, cursor) for kind in self.kinds]
        self.load = load.Load(self.conninfo, CHANGES_PER_SECOND)
        await self._stack.enter_async_context(at_work(*self.followers))
        self._stack.enter_context(self.load)
        await self.until_well()

    async def __aexit__(self, *raised: Any) -> None:
        try:
            await self._stack.__aexit__(*raised)
        finally:
            await super().__aexit__(*raised)

    async def until_well(self) -> float:
        """Seconds until each follower has what is written up to now, and something written from now on."""
        begun, before = time.monotonic(), sum(self.load.written)
        due: list[int] | None = None
        while True:
            written = self.load.written
            if due is None and sum(written) > before:
                due = written
            if due and all(follower.has_all(due) for follower in self.followers):
                return time.monotonic() - begun
            if time.monotonic() > begun + WELL_SECONDS:
                behind = ", ".join(f"{one.name} {one.behind(written)}" for one in self.followers)
                raise AssertionError(f"not well after {WELL_SECONDS:g} s: missing {behind}\n{self.server.tail()}")
            self.load.check()
            self.server.check()
            await asyncio.sleep(0.002)

    async def latest(self, attack: Awaitable[Any]) -> float:
        """Seconds that the change which took longest was on its way while `attack` went on."""
        plain = self.followers[0]
        plain.delays.clear()
        await attack
        await self.until_well()
        return max(plain.delays)

    async def until_clients(self, count: int) -> None:
        """Until no more are connected to the feed, for the server itself."""
        async with asyncio.timeout(WELL_SECONDS):
            while json.loads((await get(self.server.port, "/api/status"))[1])["clients"]["feed"] > count:
                pass  # each is a request, which waits for its answer

    def memory_bytes(self) -> int:
        return int(psutil.Process(self.server.pid).memory_info().rss)

    async def _first_cursor(self) -> str:
        """Of when all is watched, and nothing written yet."""
        while True:
            with contextlib.suppress(OSError, EOFError):
                status, answer = await get(self.server.port, "/api/status")
                if status == 200 and len(json.loads(answer)["watched"]) == 2:
                    status, answer = await get(self.server.port, "/api/changes")
                    return str(json.loads(answer)["cursor"])
            self.server.check()
