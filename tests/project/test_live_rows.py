"""rows() of the clients, in Node and in Python, while others write in every way: always what the table has."""

import asyncio
import json
import pickle
import queue
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import pytest
from psqlisten2websocket_client import Refused, rows

from changefeed.postgres.named_queries import read_script
from tests import ROOT, postgres
from tests.following import TIMEOUT_SECONDS, Follower, node, run_to_the_end
from tests.server_process import ServerProcess, free_port

SEED = 1  # others have been tried
ROUNDS = 10
STATEMENTS = 12  # of a round
ROW_LIMIT = 20  # of a statement
TABLE = "CREATE TABLE items (id bigint PRIMARY KEY DEFERRABLE, n integer, name text)"
FILTER = "n=lt.5"

# Prints the rows whenever one comes that marks the end of a round: its id is negative.
PROGRAM = f"""
import {{ rows }} from '{(ROOT / "frontend" / "dist" / "client.js").as_uri()}';

const printed = new Set();
const items = rows(process.argv[2], {{ table: 'items', filter: '{FILTER}' }});
items.subscribe(({{ list }}) => {{
  for (const {{ id }} of list) {{
    if (id >= 0 || printed.has(id)) continue;
    printed.add(id);
    console.log(JSON.stringify(list));
  }}
}});
"""


class Ground:
    """A watched table of random items, and the server that is started again on the same port."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._port = free_port()
        self._choose = random.Random(seed)
        self._marks = 0
        self.conninfo = postgres.new_database()
        self.write(TABLE)
        self.write(read_script("install.sql"))
        self.write(f"SELECT changefeed.watch('items', row_limit => {ROW_LIMIT})")
        self.start()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._port}/ws"

    def start(self) -> None:
        self._server = ServerProcess(self._folder, "--database-url", self.conninfo, "--port", str(self._port))
        self._server.port()

    def kill(self) -> None:
        self._server.kill()

    def write(self, statement: str) -> list[tuple[Any, ...]]:
        return postgres.execute(self.conninfo, statement)

    def write_at_random(self, *, restarts: bool) -> None:
        for _ in range(self._choose.randint(1, STATEMENTS)):
            self.write(self._statement())
        if restarts:
            self.kill()
            self.write(self._statement())
            if self._choose.random() < 0.3:
                self.write("UPDATE changefeed.meta SET epoch = gen_random_uuid()")  # as after a restore: a gap
            self.start()

    def _statement(self) -> str:
        low, by, n = self._choose.randrange(60), self._choose.randint(1, 3), self._choose.randrange(10)
        several = f"id BETWEEN {low} AND {low + 8} AND id >= 0"
        weights = {
            f"INSERT INTO items SELECT i, i % 10, 'new' FROM generate_series({low}, {low + 5}) AS i "
            "WHERE NOT EXISTS (SELECT FROM items WHERE id = i)": 6,
            f"UPDATE items SET n = {n}, name = name || 'u' WHERE {several}": 4,
            f"UPDATE items SET id = id + {by} WHERE id >= {low}": 2,  # each key to the place of the next
            f"UPDATE items SET id = {2 * low + 8} - id WHERE {several}": 3,  # turned around
            f"DELETE FROM items WHERE {several} AND id % 2 = 0": 3,
            "TRUNCATE items": 1,
            f"INSERT INTO items SELECT i, i % 10, 'many' FROM generate_series(1000, {1000 + 2 * ROW_LIMIT}) AS i "
            "WHERE NOT EXISTS (SELECT FROM items WHERE id = i)": 1,
            "UPDATE items SET n = (n + 5) % 10 WHERE id >= 0": 1,
        }
        [chosen] = self._choose.choices(list(weights), list(weights.values()))
        return chosen

    def mark(self) -> list[Any]:
        """Ends a round; what the client is to have then."""
        self._marks += 1
        self.write(f"INSERT INTO items VALUES (-{self._marks}, 0, 'mark')")
        return [list(row) for row in self.write("SELECT id, n, name FROM items WHERE n < 5 ORDER BY id")]


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(tmp_path, SEED)
    yield ground
    ground.kill()


class Client(Protocol):
    def rows(self) -> list[dict[str, Any]]:
        """Those at the end of a round."""


def values_of(found: list[dict[str, Any]]) -> list[Any]:
    return sorted([row["id"], row["n"], row["name"]] for row in found)


def play(ground: Ground, client: Client) -> None:
    for turn in range(ROUNDS):
        expected = ground.mark()
        assert values_of(client.rows()) == expected, f"round {turn}"
        ground.write_at_random(restarts=turn % 3 == 2)


class NodeClient:
    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self._follower.line())
        return found


@pytest.mark.timeout(300)
def test_the_rows_in_node_are_always_those_of_the_table(ground: Ground, tmp_path: Path):
    ground.write_at_random(restarts=False)
    (tmp_path / "program.mjs").write_text(PROGRAM)
    follower = Follower(node(), str(tmp_path / "program.mjs"), ground.url)
    try:
        play(ground, NodeClient(follower))
    finally:
        follower.stop()


class PythonClient:
    """Runs rows() in a thread of its own."""

    def __init__(self, url: str) -> None:
        self._found: queue.Queue[list[dict[str, Any]]] = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._following = self._loop.create_task(self._follow(url))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._following)
        except asyncio.CancelledError:
            self._loop.close()

    async def _follow(self, url: str) -> None:
        printed: set[Any] = set()
        async for items in rows(url, "items", filter=FILTER):
            for id in [id for id in items if id < 0 and id not in printed]:  # type: ignore[operator]
                printed.add(id)
                self._found.put([dict(row) for row in items.values()])

    def rows(self) -> list[dict[str, Any]]:
        return self._found.get(timeout=TIMEOUT_SECONDS)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._following.cancel)
        self._thread.join()


@pytest.mark.timeout(300)
def test_the_rows_in_python_are_always_those_of_the_table(ground: Ground):
    ground.write_at_random(restarts=False)
    client = PythonClient(ground.url)
    try:
        play(ground, client)
    finally:
        client.stop()


class Worker:
    """An example that keeps the rows in a file: killed after each round, and started again before the next one's end."""

    def __init__(self, url: str, file: Path, *command: str) -> None:
        self._command = (*command, url, "items", str(file), FILTER)
        self._file = file
        self._marks = 0
        self._start()

    def _start(self) -> None:
        self._follower = Follower(*self._command)

    def rows(self) -> list[dict[str, Any]]:
        self._marks += 1
        while True:
            self._follower.line()  # printed once the rows are in the file
            if any(row["id"] == -self._marks for row in self._kept()):
                break
        self.stop()
        found = self._kept()
        self._start()
        return found

    def _kept(self) -> list[dict[str, Any]]:
        data = self._file.read_bytes()
        kept = json.loads(data)["list"] if self._file.suffix == ".json" else pickle.loads(data)[0]
        return list(kept)

    def stop(self) -> None:
        self._follower.stop()


WORKERS = pytest.mark.parametrize(
    ("command", "file"),
    [
        pytest.param((node(), str(ROOT / "examples" / "keep_rows.mjs")), "rows.json", id="node"),
        pytest.param((sys.executable, str(ROOT / "examples" / "keep_rows.py")), "rows.pickle", id="python"),
    ],
)


@WORKERS
def test_a_worker_says_why_it_cannot_keep_the_rows(ground: Ground, tmp_path: Path, command: tuple[str, ...], file: str):
    def said(path: Path) -> str:
        ended = subprocess.run(
            [*command, ground.url, "items", str(path)], capture_output=True, text=True, check=False, timeout=60
        )
        assert ended.returncode == 1
        [line] = ended.stderr.splitlines()
        return line

    missing, garbled = tmp_path / "missing" / file, tmp_path / file
    assert said(missing).startswith(f"the rows cannot be kept in {missing}: ")
    garbled.write_bytes(b"\x80\xff{")
    assert said(garbled).startswith(f"{garbled} has no rows that can be read: ")
    assert garbled.read_bytes() == b"\x80\xff{"


@pytest.mark.timeout(300)
@WORKERS
def test_a_worker_keeps_the_rows_through_kills(ground: Ground, tmp_path: Path, command: tuple[str, ...], file: str):
    worker = Worker(ground.url, tmp_path / file, *command)
    try:
        play(ground, worker)
    finally:
        worker.stop()


def first_rows(url: str, table: str, **options: Any) -> Any:
    async def run() -> Any:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return dict(await anext(aiter(rows(url, table, **options))))

    return run_to_the_end(run())


def test_rows_keep_every_digit_in_python(ground: Ground):
    ground.write("CREATE TABLE sums (id numeric PRIMARY KEY, total numeric)")
    ground.write("SELECT changefeed.watch('sums')")
    ground.write("INSERT INTO sums VALUES (12345678901234567890.10, 0.1000000000000000055511151231257827)")
    [(key, row)] = first_rows(ground.url, "sums").items()
    assert key == Decimal("12345678901234567890.10")
    assert str(row["total"]) == "0.1000000000000000055511151231257827"


def test_rows_that_were_kept_are_not_read_again_in_python(ground: Ground):
    async def run() -> list[Any]:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            _, cursor = (await anext(aiter(rows(ground.url, "items")))).kept
            ground.write("INSERT INTO items VALUES (1, 1, 'written since')")
            found = []
            async for now in rows(ground.url, "items", since=([{"id": 7, "n": 1, "name": "only kept"}], cursor)):
                found.append(sorted(row["name"] for row in now.values()))
                if len(found) == 2:
                    break
            return found

    assert run_to_the_end(run()) == [["only kept"], ["only kept", "written since"]]


def test_what_can_never_work_is_raised_in_python(ground: Ground):
    def refusal(table: str, **options: Any) -> str:
        with pytest.raises(Refused) as raised:
            first_rows(ground.url, table, **options)
        return raised.value.code

    ground.write("CREATE TABLE unwatched (id int)")
    ground.write("CREATE TABLE nested (id int PRIMARY KEY, doc json)")
    ground.write("SELECT changefeed.watch('nested')")
    ground.write("INSERT INTO nested VALUES (1, (repeat('[', 5000) || repeat(']', 5000))::json)")
    assert refusal("nowhere") == "unknown_table"
    assert refusal("items", filter="colour=eq.red") == "unknown_column"
    assert refusal("unwatched") == "not_watched"
    assert refusal("nested") == "unreadable_row"
    ground.write("INSERT INTO items VALUES (1, 1, '')")
    with pytest.raises(ValueError, match="no column code"):
        first_rows(ground.url, "items", key="code")
