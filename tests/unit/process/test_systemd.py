"""What the server tells systemd, on a socket as systemd has it: that it is ready, lives, stops, and when it hangs, nothing."""

import asyncio
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.testing import AsyncTestCase, ExpectLog, gen_test

from process.supervisor import MISSED_BEATS_LIMIT, Supervisor
from process.systemd import ServiceManager
from tests import postgres
from tests.server_process import ServerProcess

WATCHDOG_USEC = "100000"
# Blocks the main thread and no other: a watchdog that is fed from a thread would live on. Not by print(): a signal that comes
# while a line is logged would find the stream in use, and the line be said without a hang.
HANGS_AT_SIGUSR1 = """
import os, signal, time
def hang(*_):
    os.write(2, b"hangs\\n")
    time.sleep(3600)
signal.signal(signal.SIGUSR1, hang)
"""


class Systemd:
    """The receiving end of a datagram socket."""

    def __init__(self, name: str) -> None:
        """`name` begins with @ for an abstract one."""
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)

    def next(self, within_seconds: float = 60) -> list[str]:
        self._socket.settimeout(within_seconds)
        return self._socket.recv(4096).decode().split("\n")

    def until(self, *lines: str) -> list[str]:
        """The first datagram in which all of them stand."""
        while not set(lines) <= set(told := self.next()):
            pass
        return told

    def drain(self) -> list[list[str]]:
        told = []
        while True:
            try:
                told.append(self.next(0))
            except BlockingIOError:
                return told

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest) -> Iterator[Systemd]:
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("only Linux has abstract names")
    # Below /tmp itself: the name of a socket may be no longer than a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="feed-", dir="/tmp") as folder:
        made = Systemd(f"{folder}/notify" if request.param == "path" else f"@{folder}")
        yield made
        made.close()


def served(folder: Path, systemd: Systemd, *flags: str, **environ: str) -> ServerProcess:
    environ = {"DATABASE_URL": postgres.new_database(), **environ}
    return ServerProcess(
        folder, "--port", "0", *flags, NOTIFY_SOCKET=systemd.name, WATCHDOG_USEC=WATCHDOG_USEC, **environ
    )


@pytest.mark.parametrize("processes", ["1", "2"])
def test_it_tells_that_it_is_ready_lives_and_stops(tmp_path: Path, systemd: Systemd, processes: str):
    with served(tmp_path, systemd, "--processes", processes) as server:
        systemd.until("READY=1")
        server.port()  # is said only then
        systemd.until("READY=1", "WATCHDOG=1")
        while not any(line.endswith("connected to PostgreSQL; 0 clients are connected") for line in systemd.next()):
            pass
        server.begin_to_stop()
        systemd.until("STOPPING=1")
        assert server.ended()[0] == 0
        assert not [told for told in systemd.drain() if "READY=1" in told]


def test_a_lost_database_does_not_fail_the_liveness_check(tmp_path: Path, systemd: Systemd):
    cluster = postgres.start()
    try:
        with served(tmp_path, systemd, DATABASE_URL=cluster.conninfo) as server:
            server.port()
            cluster.stop("immediate")
            for _ in range(2):
                systemd.until("WATCHDOG=1", "STATUS=not connected to PostgreSQL; 0 clients are connected")
    finally:
        postgres.discard(cluster)


def test_a_server_that_hangs_tells_nothing(tmp_path: Path, systemd: Systemd):
    (tmp_path / "sitecustomize.py").write_text(HANGS_AT_SIGUSR1)
    with served(tmp_path, systemd, PYTHONPATH=str(tmp_path)) as server:
        systemd.until("READY=1", "WATCHDOG=1")
        server.send(signal.SIGUSR1)
        server.until_said("hangs")
        systemd.drain()
        with pytest.raises(TimeoutError):
            systemd.next(within_seconds=1)


def test_child_processes_cannot_notify_systemd():
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1", "PATH": "/bin"}
    ServiceManager(environ)
    assert environ == {"PATH": "/bin"}


def test_a_watchdog_of_another_process_is_not_fed(systemd: Systemd):
    ServiceManager({"NOTIFY_SOCKET": systemd.name, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).ready()
    assert systemd.next() == ["READY=1", "STATUS=starting"]


@pytest.mark.parametrize("name", ["", "/nowhere/at/all", "vsock:2:1"])
def test_without_systemd_the_server_continues(name: str):
    manager = ServiceManager({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000"})
    manager.ready()
    manager.stopping()


WORKER = """
import asyncio, time
from process.supervisor import SupervisorLink
async def work():
    parent = await SupervisorLink.find()
    parent.say_ready()
    if parent.orders["is_first_start"]:
        time.sleep(3600)
    hearing = asyncio.create_task(parent.attend(tell=dict))
    await asyncio.sleep(parent.orders["seconds"])
asyncio.run(work())
"""


class ProcessesCase(AsyncTestCase):
    @gen_test(timeout=60)
    async def test_a_hanging_process_is_replaced_and_no_other(self) -> None:
        ended: asyncio.Queue[int] = asyncio.Queue()
        stopping, beat_seconds = asyncio.Event(), 0.1
        processes = Supervisor(
            (sys.executable, "-c", WORKER),
            1,
            orders={"seconds": 2 * MISSED_BEATS_LIMIT * beat_seconds},
            ended=ended.put_nowait,
            beat_seconds=beat_seconds,
        )
        with (
            ExpectLog("changefeed.processes", "process 1 .* has hung for 1.2 s; killing it"),
            ExpectLog("changefeed.processes", "process 1 .* ended by SIGKILL"),
            ExpectLog("changefeed.processes", "process 1 .* ended with code 0"),
        ):
            running = asyncio.create_task(processes.run(stopping, lambda: None))
            for _ in range(2):
                await ended.get()
            stopping.set()
            await running
