"""A program that follows the feed, and the server that it follows."""

import asyncio
import contextlib
import inspect
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from tests import leftovers, postgres
from tests.feed_case import ORDERS
from tests.server_process import ServerProcess, free_port

Result = TypeVar("Result")

TIMEOUT_SECONDS = 60
TOKEN = "0123456789abcdef0123456789abcdef"


def node() -> str:
    """The Node that `make test` installs beside Python, else that of the search path."""
    found = shutil.which("node", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert found, "Node is needed: make test installs it"
    return found


def run_to_the_end(main: Coroutine[Any, Any, Result]) -> Result:
    """As asyncio.run(), which would cancel connections that are being closed because the loop over a feed was left."""

    async def run() -> Result:
        try:
            return await main
        finally:
            await asyncio.sleep(0)  # Python closes a generator to which nothing refers in a task of its own
            while closing := [task for task in asyncio.all_tasks() if not inspect.iscoroutine(task.get_coro())]:
                await asyncio.wait(closing)

    return asyncio.run(run())


class Follower:
    """An example that prints a line for each change."""

    def __init__(self, *command: str, **environ: str) -> None:
        self._process = subprocess.Popen(
            command,
            env={"PATH": os.environ["PATH"], **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            encoding="utf-8",
        )
        leftovers.started(self._process)
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)

    def line(self) -> str:
        """Waits for the next line that tells of no probe."""
        while "probe" in (line := self._lines.get(timeout=TIMEOUT_SECONDS)):
            pass
        return line

    def until_placed(self, write: Callable[[str], None]) -> None:
        """Writes probes until it prints one: who is connected may not be placed yet."""
        while self._lines.empty():
            write("INSERT INTO orders (id, status) SELECT coalesce(min(id), 0) - 1, 'probe' FROM orders")

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # curl too
        self._process.wait()
        leftovers.ended(self._process)
        self._reader.join()
        assert self._process.stdout
        self._process.stdout.close()


class Orders:
    """A watched table, and the server that is started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.conninfo = postgres.new_database()
        self._folder = folder
        self._port = free_port()
        self.write(ORDERS)
        self._server = self._started()

    def _started(self) -> ServerProcess:
        flags = ("--database-url", self.conninfo, "--watch", "public.orders", "--port", str(self._port))
        server = ServerProcess(self._folder, *flags, TOKEN=TOKEN)
        server.port()
        return server

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._port}"

    def restart(self) -> None:
        self._server.kill()
        self._server = self._started()

    def write(self, statement: str) -> None:
        postgres.execute(self.conninfo, statement)

    def close(self) -> None:
        self._server.kill()
