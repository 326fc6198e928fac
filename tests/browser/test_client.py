"""examples/follow.py on a server that is killed, restored or away."""

import asyncio
import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from changefeed.postgres.named_queries import read_script
from examples.follow import follow
from tests import postgres
from tests.feed_case import ORDERS
from tests.server_process import ServerProcess, free_port

DEADLINE_SECONDS = 60.0


class Ground:
    """A journaled table, and a server that is started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._server: ServerProcess | None = None
        self.conninfo = postgres.new_database()
        self.write(ORDERS)
        self.write(read_script("install.sql"))
        self.write("SELECT changefeed.watch('orders')")

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._port}/ws"

    def write(self, statement: str) -> None:
        postgres.execute(self.conninfo, statement)

    def start(self) -> None:
        self._server = ServerProcess(self._folder, "--database-url", self.conninfo, "--port", str(self._port))
        self._server.port()

    def kill(self) -> None:
        if self._server:
            self._server.kill()
            self._server = None

    def cursor(self) -> str:
        """Of what is journaled so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/changes") as answer:
            cursor: str = json.load(answer)["cursor"]
            return cursor


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(tmp_path)
    ground.start()
    yield ground
    ground.kill()


class Ear:
    """Hears ids of rows, and "gap"."""

    def __init__(self) -> None:
        self.heard: list[int | str] = []
        self._came = asyncio.Event()

    def on_change(self, change: Any) -> None:
        self._hear(change["data"]["id"])

    def on_gap(self, gap: Any) -> None:
        assert gap["why"]
        assert gap["what_to_do"]
        self._hear("gap")

    def _hear(self, what: int | str) -> None:
        self.heard.append(what)
        self._came.set()

    async def until(self, following: "asyncio.Task[None]", fact: Callable[[], bool]) -> None:
        """Waits until `fact` holds; raises what ended the following before."""
        while not fact():
            self._came.clear()
            came = asyncio.create_task(self._came.wait())
            done, _ = await asyncio.wait(
                [came, following], timeout=DEADLINE_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            came.cancel()
            assert done, f"nothing came any more after {self.heard[-3:]}"
            if following in done:
                following.result()


def test_each_change_comes_once_and_in_order_though_the_server_is_killed_and_away(ground: Ground):
    async def run() -> list[int | str]:
        ear = Ear()
        following = asyncio.create_task(follow(ground.url, ear.on_change, ear.on_gap, cursor=ground.cursor()))
        ground.write("INSERT INTO orders SELECT generate_series(1, 1200)")  # several messages
        await ear.until(following, lambda: len(ear.heard) >= 700)
        ground.kill()
        ground.write("INSERT INTO orders SELECT generate_series(1201, 1300)")
        await asyncio.to_thread(ground.start)
        ground.write("INSERT INTO orders SELECT generate_series(1301, 1400)")
        await ear.until(following, lambda: 1400 in ear.heard)
        following.cancel()
        return ear.heard

    assert asyncio.run(run()) == list(range(1, 1401))


def test_a_cursor_of_before_a_restore_is_a_gap_and_the_feed_goes_on(ground: Ground):
    async def run() -> list[int | str]:
        ear = Ear()
        following = asyncio.create_task(follow(ground.url, ear.on_change, ear.on_gap, cursor=ground.cursor()))
        ground.write("INSERT INTO orders VALUES (1)")
        await ear.until(following, lambda: 1 in ear.heard)
        for change in (2, 3):
            ground.kill()
            if change == 2:
                ground.write("UPDATE changefeed.meta SET epoch = gen_random_uuid()")
            await asyncio.to_thread(ground.start)
            if change == 2:
                await ear.until(following, lambda: "gap" in ear.heard)
            ground.write(f"INSERT INTO orders VALUES ({change})")
            await ear.until(following, lambda change=change: change in ear.heard)
        following.cancel()
        return ear.heard

    assert asyncio.run(run()) == [1, "gap", 2, 3]


def test_values_that_pythons_json_does_not_take_end_nothing(ground: Ground):
    """An integer of more than 4300 digits comes whole; a deeply nested value is a gap, once."""
    changes: list[Any] = []

    async def run() -> list[int | str]:
        ear = Ear()

        def on_change(change: Any) -> None:
            changes.append(change["data"])
            ear.on_change(change)

        following = asyncio.create_task(follow(ground.url, on_change, ear.on_gap, cursor=ground.cursor()))
        ground.write("INSERT INTO orders VALUES (1, '', repeat('9', 5000)::numeric), (2, '', 1.10)")
        await ear.until(following, lambda: 2 in ear.heard)
        ground.write("ALTER TABLE orders ADD doc json")
        ground.write("INSERT INTO orders VALUES (3, '', 0, (repeat('[', 5000) || repeat(']', 5000))::json)")
        await ear.until(following, lambda: "gap" in ear.heard)
        ground.kill()
        await asyncio.to_thread(ground.start)
        ground.write("INSERT INTO orders VALUES (4)")
        await ear.until(following, lambda: 4 in ear.heard)
        following.cancel()
        return ear.heard

    assert asyncio.run(run()) == [1, 2, "gap", 4]
    assert [str(row["total"]) for row in changes[:2]] == ["9" * 5000, "1.10"]


def test_a_mistake_in_the_address_is_raised(ground: Ground):
    with pytest.raises(ValueError, match="cursor"):
        asyncio.run(follow(ground.url, print, print, cursor="no-cursor"))
    with pytest.raises(InvalidStatus, match="404"):
        asyncio.run(follow(ground.url + "/nowhere", print, print))
