"""A database with a watched table in, how fast a client that comes back catches up from the journal out."""

import json
import socket
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.crowd import CouldNot
from benchmarks.servers import RunningServer, Server
from benchmarks.writer import INSERT, Run

DEADLINE_SECONDS = 300.0


@dataclass(frozen=True)
class CaughtUp:
    changes: int
    seconds: float
    peak_memory_bytes: int  # of the server, with the statement and the catch-up

    @property
    def per_second(self) -> float:
        return self.changes / self.seconds


def catch_up(server: Server, environment: Mapping[str, str], run: Run, rows: int) -> CaughtUp:
    """A statement of `rows` rows passes through the server, then a client comes back with a cursor from before it."""
    run("TRUNCATE changefeed.journal")
    run(INSERT.format(name="journaled", rows=1))
    with RunningServer(server, environment) as running:
        port, peak = running.port, 0
        cursor = _get(port, "/api/changes")["cursor"]
        run(INSERT.format(name="journaled", rows=rows))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while _inserted(_get(port, "/api/activity")["totals"]) < rows + 1:
            peak = max(peak, running.memory_bytes)
            if time.monotonic() > deadline:
                raise CouldNot(f"{rows:,} changes did not come within {DEADLINE_SECONDS:g} s")
        begun = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port)) as stream:
            stream.sendall(
                f"GET /ws?since={cursor} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
            seen, rest, look_at = 0, b"", begun
            while seen < rows:
                taken = stream.recv(1 << 20)
                assert taken, "the server closed the socket"
                seen += (rest + taken).count(b'"cursor": "')
                rest = taken[-10:]
                if time.perf_counter() > look_at:
                    peak, look_at = max(peak, running.memory_bytes), look_at + 0.1
        return CaughtUp(rows, time.perf_counter() - begun, max(peak, running.memory_bytes))


def _inserted(totals: Mapping[str, list[int]]) -> int:
    return sum(counts[0] for table, counts in totals.items() if table.endswith(".journaled"))


def _get(port: int, path: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}{path}") as answer:
        return json.load(answer)
