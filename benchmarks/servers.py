"""Who is measured, how each is started, and what its process costs. Knows no scenario."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from benchmarks.crowd import CouldNot
from benchmarks.publisher import Source

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"
_PEERS_PYTHON = str(PEERS / ".venv" / "bin" / "python")
_START_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """`command` gets the port as its last argument; `source` is how the changes that it is measured with are written."""

    name: str
    command: tuple[str, ...]
    source: Source = Source.NOTIFY

    @property
    def is_installed(self) -> bool:
        return all(shutil.which(word) or Path(word).exists() for word in self.command if "/" in word)


# All clients of a benchmark come from one address.
_OURS = (sys.executable, str(ROOT / "server.py"), "--clients-per-second-per-address", "0", "--port")
OURS_BY_NOTIFY = Server("ours, by NOTIFY", _OURS)
OURS_BY_JOURNAL = Server("ours, by the journal", _OURS, Source.JOURNAL)
TORNADO = Server("Tornado, as written first", (_PEERS_PYTHON, str(PEERS / "tornado_first.py")))
WEBSOCKETS = Server("Python websockets + asyncpg", (_PEERS_PYTHON, str(PEERS / "websockets_asyncpg.py")))
NODE = Server("Node ws + pg", ("node", str(PEERS / "ws_pg.js")))
SERVERS = (WEBSOCKETS, TORNADO, NODE, OURS_BY_NOTIFY, OURS_BY_JOURNAL)


class RunningServer:
    """A server as a process of its own, from when it serves until the end of the block."""

    def __init__(self, server: Server, environment: Mapping[str, str]) -> None:
        self._server = server
        self._environment = {"PATH": os.environ["PATH"], **environment}
        self.port = _free_port()

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="feed-")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self, *, until_serving: bool = True) -> None:
        """Also once more after kill(), on the same port."""
        self._said = Path(self._folder.name) / "said"
        with self._said.open("wb") as said:
            self._process = psutil.Popen(
                [*self._server.command, str(self.port)],
                cwd=self._folder.name,  # no .env of the project's folder is read
                env={"HOME": self._folder.name, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        deadline = time.monotonic() + _START_SECONDS
        while until_serving and not re.search(rf"http://127\.0\.0\.1:{self.port}/", self.said):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise CouldNot(f"did not start: {self.said.strip().splitlines()[-1:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def cpu_seconds(self) -> float:
        """Of all its processes."""
        return sum(float(times.user + times.system) for times in (one.cpu_times() for one in self._family()))

    @property
    def memory_bytes(self) -> int:
        return sum(int(one.memory_info().rss) for one in self._family())

    def _family(self) -> list[psutil.Process]:
        return [self._process, *self._process.children()]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
