"""SIGHUP: the tokens of a file are read again, and nothing ends but what they let in no more."""

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests import postgres
from tests.server_process import ServerProcess

KEPT, TAKEN, NEW = "a-token-that-stays-there", "a-token-that-is-taken-out", "a-token-that-is-put-in"
TOLD = r"reloaded the tokens; (\d+) were removed"


def status(port: int, token: str) -> int:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/api/tables", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(asked) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@contextmanager
def following(port: int, token: str) -> Iterator[ClientConnection]:
    with connect(
        f"ws://127.0.0.1:{port}/ws",
        proxy=None,
        subprotocols=[Subprotocol("changefeed.v1")],
        additional_headers={"Authorization": f"Bearer {token}"},
    ) as client:
        assert json.loads(client.recv())["type"] == "hello"
        yield client


@pytest.mark.parametrize("processes", [1, 2])
def test_a_token_that_is_taken_out_is_good_no_more(processes: int, tmp_path: Path):
    file = tmp_path / "tokens"
    file.write_text(f"{KEPT}\n{TAKEN}\n")
    flags = ("--port", "0", "--token-file", str(file), "--processes", str(processes))
    with ServerProcess(tmp_path, *flags, DATABASE_URL=postgres.new_database()) as server:
        port = server.port()
        with following(port, KEPT) as kept, following(port, TAKEN) as taken:
            file.write_text(f"{KEPT}\n{NEW}\n")
            server.send(signal.SIGHUP)
            for _ in range(processes):
                assert server.until_said(TOLD)[1] == "1"
            assert [status(port, token) for token in (KEPT, TAKEN, NEW)] == [200, 401, 200]
            with pytest.raises(ConnectionClosed) as closed:
                taken.recv(timeout=30)
            assert closed.value.rcvd
            assert closed.value.rcvd.code == 4419
            kept.send(json.dumps({"type": "subscribe"}))
            assert json.loads(kept.recv(timeout=30))["type"] == "hello"
            file.write_text("short\n")
            server.send(signal.SIGHUP)
            for _ in range(processes):
                server.until_said(r"could not reload the tokens: --token-file .+: line 1: ")
            assert [status(port, token) for token in (KEPT, NEW)] == [200, 200]


def test_without_anything_to_read_again_it_ends_nothing(tmp_path: Path):
    with ServerProcess(tmp_path, "--port", "0", DATABASE_URL=postgres.new_database()) as server:
        port = server.port()
        server.send(signal.SIGHUP)
        assert status(port, KEPT) == 200
        assert server.stop()[0] == 0
