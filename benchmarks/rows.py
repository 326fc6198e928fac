"""A table in, how fast clients get its rows, and what that takes: prints a Markdown table.

`python -m benchmarks.rows --help` lists the options.
"""

import argparse
import asyncio
import re
import statistics
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tornado.websocket import websocket_connect

from benchmarks.crowd import raise_file_limit
from benchmarks.database import Database, database
from benchmarks.publisher import Publisher, Source
from benchmarks.servers import OURS_BY_JOURNAL, RunningServer

CHANGES_PER_SECOND = 1_000  # while the first row of a small table is awaited
SETTLE_SECONDS = 1.0  # before a client comes
SMALL_ROWS, CROWD_ROWS = 100, 1_000
NOTE_BYTES = 150  # of a row, which so has some 200
SAMPLE_SECONDS = 0.02  # of the server's memory
_READINGS = re.compile(r'^changefeed_rows_readings_total{[^}]*ended="complete"[^}]*} (\S+)$', re.MULTILINE)
_SAMPLED_SECONDS = 2.0  # each process writes its metrics every second


@dataclass(frozen=True)
class Reading:
    """What one client was sent."""

    first_seconds: float
    last_seconds: float
    rows: int


async def read_rows(port: int, table: str) -> Reading:
    """From the handshake's beginning. Rows are counted, not parsed: the server is measured, and not its clients."""
    begun = time.perf_counter()
    url = f"ws://127.0.0.1:{port}/ws?table={table}&rows=true"
    socket = await websocket_connect(url, subprotocols=["changefeed.v1"], max_message_size=1 << 30)
    rows, first = 0, 0.0
    while True:
        message = str(await socket.read_message())
        if message.startswith('{"type":"hello"'):
            continue
        assert message.startswith('{"type":"rows"'), message[:200]
        first = first or time.perf_counter() - begun
        rows += message.count('"note":')
        if '"is_last":true' in message[-1000:]:
            socket.close()
            return Reading(first, time.perf_counter() - begun, rows)


def make(opened: Database, table: str, rows: int) -> None:
    opened.execute(f"CREATE TABLE {table} (LIKE orders INCLUDING ALL); SELECT changefeed.watch('{table}')")
    note = f"repeat('x', {NOTE_BYTES})"
    opened.execute(f"INSERT INTO {table} SELECT id, id % 100, id, {note} FROM generate_series(1, {rows}) AS id")
    opened.execute(f"TRUNCATE changefeed.journal; ANALYZE {table}")


async def first_row(port: int, times: int) -> float:
    """The median of clients that come one after the other."""
    return statistics.median([(await read_rows(port, "small")).first_seconds for _ in range(times)])


async def with_memory(server: RunningServer, work: Callable[[], Awaitable[Reading]]) -> tuple[Reading, int]:
    """What the work returns, and how much more memory the server took at most."""
    before = peak = server.memory_bytes
    task = asyncio.ensure_future(work())
    while not task.done():
        peak = max(peak, server.memory_bytes)
        await asyncio.wait([task], timeout=SAMPLE_SECONDS)
    return task.result(), peak - before


def by_hand(opened: Database, table: str) -> float:
    """Seconds for the same texts without a server between."""
    begun = time.perf_counter()
    opened.execute(f"SELECT to_json(r)::text FROM {table} AS r")
    return time.perf_counter() - begun


async def crowd(port: int, clients: int) -> tuple[float, float]:
    """Seconds until all of them have all rows, and how many readings that took."""
    before = await asyncio.to_thread(_readings, port)
    begun = time.perf_counter()
    found = await asyncio.gather(*(read_rows(port, "shown") for _ in range(clients)))
    seconds = time.perf_counter() - begun
    assert {reading.rows for reading in found} == {CROWD_ROWS}
    return seconds, await asyncio.to_thread(_readings, port) - before


def _readings(port: int) -> float:
    time.sleep(_SAMPLED_SECONDS)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return sum(map(float, _READINGS.findall(answer.read().decode())))


def measure(opened: Database, rows: int, clients: int, times: int) -> dict[str, Any]:
    """The figures by what they are of."""
    for table, count in (("small", SMALL_ROWS), ("shown", CROWD_ROWS), ("large", rows)):
        make(opened, table, count)
    with RunningServer(OURS_BY_JOURNAL, opened.environment) as server, Publisher(opened.conninfo) as publisher:
        port = server.port
        begun = server.cpu_seconds
        large, memory = asyncio.run(with_memory(server, lambda: read_rows(port, "large")))
        large_cpu, direct, begun = server.cpu_seconds - begun, by_hand(opened, "large"), server.cpu_seconds
        seconds, readings = asyncio.run(crowd(port, clients))
        crowd_cpu = server.cpu_seconds - begun
        quiet = asyncio.run(first_row(port, times))
        publisher.paced(Source.JOURNAL, 60 * CHANGES_PER_SECOND, CHANGES_PER_SECOND)
        time.sleep(SETTLE_SECONDS)
        busy = asyncio.run(first_row(port, times))
    assert large.rows == rows
    return {
        f"{SMALL_ROWS} rows: the first one, while nothing is written": f"{quiet * 1000:.1f} ms",
        f"the same, at {CHANGES_PER_SECOND:,} changes/s": f"{busy * 1000:.1f} ms",
        f"{rows:,} rows to one client: the last one": f"{large.last_seconds:.2f} s, {large_cpu:.2f} s of the server's processor time",
        "the same texts by psycopg2, without a server": f"{direct:.2f} s",
        "memory that the server took for that": f"{memory / 1e6:.0f} MB",
        f"{CROWD_ROWS:,} rows to {clients:,} clients at once: all have all": f"{seconds:.1f} s, {crowd_cpu:.1f} s of the server's",
        "readings for that": f"{readings:.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.rows", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="of the large table (default: 100000)")
    parser.add_argument("--clients", type=int, default=1_000, help="that come at once (default: 1000)")
    parser.add_argument("--times", type=int, default=21, help="a first row is awaited (default: 21)")
    options = parser.parse_args()
    raise_file_limit(2 * options.clients)
    with database() as opened:
        print("| rows, then changes | |\n|---|---|")
        for name, figure in measure(opened, options.rows, options.clients, options.times).items():
            print(f"| {name} | {figure} |")


if __name__ == "__main__":
    main()
