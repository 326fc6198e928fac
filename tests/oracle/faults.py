"""What goes wrong: one coroutine for each kind of fault, with all that it breaks mended at its end."""

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable

import psutil
import psycopg2

from changefeed.journal.lease import LEASE_MS, QUERIES
from tests.oracle.ground import Ground, wait
from tests.oracle.reader import Reader

TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'psqlisten2websocket' AND (query ~ '^(LISTEN|UNLISTEN|NOTIFY)') = ANY (%s)
"""


class Faults:
    """Each kind by its name; `pause` is never set, what waits on it waits for its time."""

    def __init__(self, ground: Ground, readers: list[Reader], draw: random.Random) -> None:
        self._ground = ground
        self._readers = readers
        self._draw = draw
        self._pause = asyncio.Event()
        self._servers_in_use = {server.name: asyncio.Lock() for server in ground.servers}
        self.kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "listener terminated": lambda: self._terminate([True]),
            "pool terminated": lambda: self._terminate([False]),
            "all connections terminated": lambda: self._terminate([True, False]),
            "PostgreSQL stopped immediately": lambda: self._restart("immediate"),
            "PostgreSQL restarted": lambda: self._restart("fast"),
            "PostgreSQL's process killed": ground.crash_backend,
            "server killed": lambda: self._server(signal.SIGKILL),
            "server stopped": lambda: self._server(signal.SIGTERM),
            "server frozen": self._freeze,
            "process killed": lambda: self._process(signal.SIGKILL),
            "process frozen": lambda: self._process(signal.SIGSTOP),
            "line cut": self._cut,
            "line deaf": self._deafen,
            "clients cut": self._cut_clients,
            "server and PostgreSQL killed": self._kill_both,
            "several cuts": self._cut_again_and_again,
            "lease": self._hold_lease,
        }

    async def _terminate(self, which: list[bool]) -> None:
        async with self._ground.lock:
            await asyncio.to_thread(self._ground.query, TERMINATE, (which,))

    async def _restart(self, mode: str) -> None:
        await self._ground.restart_postgres(mode, self._draw.choice((0, 0, 0.3, 1.5)), self._pause)

    async def _server(self, number: signal.Signals) -> None:
        server = self._draw.choice(self._ground.servers)
        async with self._servers_in_use[server.name]:
            server.check()
            await asyncio.to_thread(server.kill, number)
            await wait(self._pause, self._draw.choice((0, 0, 0.2, 1.5)))
            server.start()

    async def _freeze(self) -> None:
        server = self._draw.choice(self._ground.servers)
        async with self._servers_in_use[server.name]:
            server.send(signal.SIGSTOP)
            await wait(self._pause, self._draw.uniform(0.1, 5))
            server.send(signal.SIGCONT)

    async def _process(self, number: signal.Signals) -> None:
        """To one of the processes that share a port, which reads the journal for the others or does not."""
        server = self._ground.servers[-1]
        async with self._servers_in_use[server.name]:
            workers = server.workers()
            # A server whose first process dies before it is ready ends; the others start after that one is ready.
            if len(workers) > 1:
                worker = self._draw.choice(workers)
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.send_signal(number)
                    if number is signal.SIGSTOP:
                        await wait(self._pause, self._draw.uniform(0.1, 5))
                        worker.send_signal(signal.SIGCONT)

    async def _cut(self) -> None:
        self._draw.choice(self._ground.servers).line.cut()

    async def _deafen(self) -> None:
        line = self._draw.choice(self._ground.servers).line
        line.go_deaf()
        # Long enough for a canary to be missed; what is deaf for less is noticed by a query's deadline only.
        await wait(self._pause, self._draw.uniform(5, 9))
        line.hear_again()

    async def _cut_clients(self) -> None:
        for reader in self._readers:
            reader.cut.set()

    async def _kill_both(self) -> None:
        await asyncio.gather(self._server(signal.SIGKILL), self._restart("immediate"))

    async def _hold_lease(self) -> None:
        """As another server would that reads often, and then gives it back or dies."""
        for ms in (LEASE_MS, LEASE_MS, self._draw.choice((LEASE_MS, 0))):
            with contextlib.suppress(psycopg2.DatabaseError):  # PostgreSQL is away, or goes
                await asyncio.to_thread(self._ground.query, QUERIES["take lease"], {"ms": ms})
                await asyncio.to_thread(self._ground.query, QUERIES["announce lease"])
            await wait(self._pause, self._draw.uniform(0.1, 1))

    async def _cut_again_and_again(self) -> None:
        for _ in range(5):
            await self._cut()
            await wait(self._pause, self._draw.uniform(0.01, 0.4))
