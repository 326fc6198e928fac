"""A stop accepts no client, drains what was sent, and spreads the reconnects."""

import contextlib
import http.client
import json
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from app.starting import bind
from app.stopping import spread_seconds
from changefeed.postgres.named_queries import read_script
from tests import ROOT, postgres
from tests.server_process import ServerProcess

BIG_ROWS = 24
BIG_ROW = "INSERT INTO orders (note) SELECT repeat('x', 1000000) || i FROM generate_series(1, %s) i"


@pytest.fixture
def conninfo() -> str:
    made = postgres.new_database()
    for statement in (
        read_script("install.sql"),
        "CREATE TABLE orders (id bigserial PRIMARY KEY, note text)",
        "SELECT changefeed.watch('orders')",
    ):
        postgres.execute(made, statement)
    return made


@contextlib.contextmanager
def served(folder: Path, conninfo: str, *flags: str) -> Iterator[tuple[ServerProcess, int]]:
    with ServerProcess(folder, "--port", "0", "--channels", "*", *flags, DATABASE_URL=conninfo) as server:
        yield server, server.port()


def client_of(port: int, path: str = "/ws", *, protocol: bool = False, queue: int | None = None) -> ClientConnection:
    """With a `queue`, it reads no further while that many frames wait to be taken."""
    subprotocols = [Subprotocol("changefeed.v1")] if protocol else None
    return connect(
        f"ws://127.0.0.1:{port}{path}",
        subprotocols=subprotocols,
        proxy=None,
        max_queue=queue,
        max_size=None,
        close_timeout=1,
    )


def rest_of(client: ClientConnection) -> list[str]:
    """What still comes, up to the end."""
    frames = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            frames.append(str(client.recv()))
    return frames


def until_refused(port: int) -> None:
    with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
        while True:
            socket.create_connection(("127.0.0.1", port)).close()


def test_each_protocol_announces_the_stop(tmp_path: Path, conninfo: str):
    with served(tmp_path, conninfo) as (server, port), contextlib.ExitStack() as stack:
        followers = [stack.enter_context(client_of(port, protocol=True)) for _ in range(5)]
        others = [stack.enter_context(client_of(port, path)) for path in ("/ws", "/ws/activity", "/listen/people")]
        stream = http.client.HTTPConnection("127.0.0.1", port)
        stream.request("GET", "/events")
        answer = stream.getresponse()
        assert server.stop()[0] == 0
        delays = []
        for client in followers:
            last = json.loads(rest_of(client)[-1])
            assert last.keys() == {"type", "reconnect_in_ms"}
            assert last["type"] == "going_away"
            delays.append(last["reconnect_in_ms"])
        assert all(0 <= delay <= 1000 for delay in delays)
        assert len(set(delays)) > 1
        for client in others:
            assert not [frame for frame in rest_of(client) if "going_away" in frame]
        for client in (*followers, *others):
            assert (client.close_code, client.close_reason) == (1001, "the server is stopping")
        retries = re.findall(r"^retry: (\d+)$", answer.read().decode(), re.MULTILINE)
        assert len(retries) == 2
        assert int(retries[-1]) <= 1000
        stream.close()


@pytest.mark.parametrize(("clients", "least", "most"), [(0, 0.5, 1), (100, 0.5, 1), (10_000, 10, 30)])
def test_a_crowd_is_spread_by_its_size(clients: int, least: float, most: float):
    assert least <= spread_seconds(clients) <= most


def test_a_stop_drains_slow_clients_and_accepts_none(tmp_path: Path, conninfo: str):
    with (
        served(tmp_path, conninfo, "--outbox-limit-bytes", str(1 << 28)) as (server, port),
        client_of(port, protocol=True, queue=1) as slow,
        client_of(port) as quick,
    ):
        postgres.execute(conninfo, BIG_ROW, [BIG_ROWS])
        for _ in range(BIG_ROWS):
            quick.recv()
        server.begin_to_stop()
        until_refused(port)
        messages = [json.loads(frame) for frame in rest_of(slow)]
        ids = [change["data"]["id"] for message in messages for change in message.get("changes", ())]
        assert ids == list(range(1, BIG_ROWS + 1))
        assert messages[-1]["type"] == "going_away"
        assert slow.close_code == 1001
        assert server.ended()[0] == 0


def test_a_client_that_never_reads_is_not_waited_for_for_ever(tmp_path: Path, conninfo: str):
    with (
        served(tmp_path, conninfo, "--outbox-limit-bytes", str(1 << 28)) as (server, port),
        client_of(port, queue=1),
        client_of(port) as quick,
    ):
        postgres.execute(conninfo, BIG_ROW, [BIG_ROWS])
        for _ in range(BIG_ROWS):
            quick.recv()
        code, said = server.stop()
    assert (code, "Traceback" in said) == (0, False)


def test_every_process_tells_its_clients(tmp_path: Path, conninfo: str):
    with served(tmp_path, conninfo, "--processes", "2") as (server, port), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client_of(port, protocol=True)) for _ in range(20)]
        assert server.stop()[0] == 0
        for client in clients:
            assert json.loads(rest_of(client)[-1])["type"] == "going_away"
            assert client.close_code == 1001


@pytest.mark.skipif(sys.platform == "darwin", reason="its kernel keeps 128 at most (kern.ipc.somaxconn)")
def test_a_crowd_may_knock_at_once():
    [door] = bind("127.0.0.1", 0)
    with door, contextlib.ExitStack() as stack:
        for _ in range(500):  # nobody accepts
            stack.enter_context(socket.create_connection(door.getsockname(), timeout=10))


def test_as_many_files_may_be_open_as_the_system_lets():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    program = (
        "import resource; from process.open_files import raise_limit;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (200, {hard}));"
        "print(raise_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    root = ROOT
    said = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True).stdout
    assert said == f"{'inf' if hard == resource.RLIM_INFINITY else hard} ({hard}, {hard})\n"


def test_a_client_limit_above_the_open_files_is_reported(tmp_path: Path, conninfo: str):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= 1_000_000:
        pytest.skip("the system lets a process open a million files")
    with served(tmp_path, conninfo, "--client-limit", "1000000") as (server, _):
        assert server.stop()[0] == 0
    with ServerProcess(tmp_path, "--port", "0", "--client-limit", "1000000", DATABASE_URL=conninfo) as server:
        server.until_said(rf"WARNING .*--client-limit 1000000 is more than the {hard} files")
