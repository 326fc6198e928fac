"""PostgreSQL, the servers, and the lines between them, each of which can be broken."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg2
from psycopg2.extensions import make_dsn

from changefeed.postgres.embedded import EmbeddedPostgres
from changefeed.postgres.named_queries import read_script
from tests import leftovers
from tests.postgres import connect, execute
from tests.proxy import Proxy
from tests.server_process import SERVER, free_port

OPTIONS = {
    "fsync": "off",  # what is stopped here is PostgreSQL, never the machine
    "deadlock_timeout": "100ms",
    # What was rolled back lately is forgotten in a crash, and its transaction ids are given out again.
    "wal_writer_delay": "10s",
    "max_prepared_transactions": "20",
}
_TROUBLE = ("Traceback", " ERROR ", " CRITICAL ", "never retrieved", "was never awaited")


@dataclass(frozen=True)
class Start:
    """How a server is started: its flags, what stands before the command, and variables beside the usual ones."""

    flags: tuple[str, ...]
    before: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)


class Server:
    """`python server.py` behind a line of its own to PostgreSQL; killed and started any number of times."""

    def __init__(self, name: str, folder: Path, conninfo: str, start: "Start") -> None:
        self.name = name
        self.port = free_port()
        self.line = Proxy(conninfo)
        self.log = folder / f"{name}.log"
        self._folder = folder
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(*self._start.before, sys.executable, str(SERVER), "--database-url", self.line.conninfo),
                    *("--port", str(self.port), "--database-wait-seconds", "600", *self._start.flags),
                ],
                cwd=self._folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self._folder), **self._start.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def workers(self) -> list[psutil.Process]:
        """The processes of --processes that run now; none if it serves by itself."""
        with contextlib.suppress(psutil.NoSuchProcess, AssertionError):
            return psutil.Process(self.pid).children()
        return []

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends it and waits until it is gone."""
        if process := self._process:
            workers = self.workers()
            self._process = None  # what ends now was meant to
            process.send_signal(number)
            try:
                code = process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(f"the server {self.name} did not end within 20 s of {number.name}") from None
            if number is signal.SIGTERM and code not in (0, -number):  # the latter when it had only just been started
                raise AssertionError(f"the server {self.name} ended with {code} on SIGTERM")
            # They end with their parent, and hold the port until then.
            _, left = psutil.wait_procs(workers, 20)
            if left:
                raise AssertionError(f"{len(left)} processes of the server {self.name} did not end with it within 20 s")

    def check(self) -> None:
        """It runs, and its log tells of no mistake of its own."""
        if self._process and self._process.poll() is not None:
            raise AssertionError(f"the server {self.name} ended by itself:\n{self.tail()}")
        text = self.log.read_text("utf-8", "replace")
        if found := [word for word in _TROUBLE if word in text]:
            at = text.index(found[0])
            raise AssertionError(f"the log of the server {self.name} says:\n{text[max(0, at - 500) : at + 4000]}")

    def tail(self) -> str:
        return self.log.read_text("utf-8", "replace")[-3000:]


class Ground:
    """One cluster, one database made by `definition`, servers by their names.

    `crashes` is odd while PostgreSQL is down, or about to be.
    """

    options: Mapping[str, str] = OPTIONS

    def __init__(self, definition: str, servers: Mapping[str, Start]) -> None:
        self.folder = leftovers.new_folder("oracle-")
        self.cluster = EmbeddedPostgres(self.folder / "postgres", self.options)
        self.crashes = 0
        self.lock = asyncio.Lock()  # of PostgreSQL's coming and going
        self._definition = definition
        self._starts = servers

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.cluster.start)
        self.conninfo = str(make_dsn(self.cluster.conninfo, dbname="postgres"))
        execute(self.conninfo, self._definition)
        self.servers = [Server(name, self.folder, self.conninfo, start) for name, start in self._starts.items()]
        for server in self.servers:
            await server.line.start()
            server.start()
        return self

    async def __aexit__(self, *_: Any) -> None:
        for server in self.servers:
            with contextlib.suppress(AssertionError):
                server.kill()
            await server.line.close()
        await asyncio.to_thread(self.cluster.stop, "immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def query(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        return execute(self.conninfo, statement, parameters)

    def cursor_of_another_journal(self) -> str:
        """Of a database of its own."""
        self.query("CREATE DATABASE another")
        another = str(make_dsn(self.conninfo, dbname="another"))
        execute(another, read_script("install.sql"))
        [(cursor,)] = execute(another, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT changefeed.cursor()")
        return str(cursor)

    async def restart_postgres(self, mode: str, down_seconds: float, pause: asyncio.Event) -> None:
        async with self.lock:
            self.crashes += 1
            await asyncio.to_thread(self.cluster.stop, mode)
            await wait(pause, down_seconds)
            await asyncio.to_thread(self.cluster.start)
            self.crashes += 1

    async def crash_backend(self) -> None:
        """SIGKILL to one of PostgreSQL's processes: all others end too, and it recovers by itself."""
        async with self.lock:
            self.crashes += 1
            await asyncio.to_thread(self._crash_backend)
            self.crashes += 1

    def _crash_backend(self) -> None:
        victim, witness = connect(self.conninfo), connect(self.conninfo)
        try:
            os.kill(victim.info.backend_pid, signal.SIGKILL)
            # Where libpq noticed it in writing there is no SQLSTATE, and psycopg2 raises a plain DatabaseError.
            with contextlib.suppress(psycopg2.DatabaseError):
                # Until PostgreSQL has noticed, and ended all others.
                witness.cursor().execute("SELECT pg_sleep(60)")
        finally:
            victim.close()
            witness.close()
        deadline = time.monotonic() + 30
        while True:
            try:
                self.query("SELECT 1")
                return
            except psycopg2.DatabaseError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Waits for the event, but not longer; whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
