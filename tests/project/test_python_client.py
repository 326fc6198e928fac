"""clients/python on a server that is killed, restored or away; installed by pip; type-checked."""

import asyncio
import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from psqlisten2websocket_client import Change, ChangesMissing, Feed, Gap, Refused, follow

from changefeed import __version__
from changefeed.postgres.named_queries import read_script
from tests import ROOT, postgres
from tests.feed_case import ORDERS
from tests.following import run_to_the_end
from tests.server_process import ServerProcess, free_port

PACKAGE = ROOT / "clients" / "python"
DEADLINE_SECONDS = 60.0
TOKEN = "0123456789abcdef0123456789abcdef"


class Ground:
    """A recorded table, and a server that is started again on the same port."""

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

    def start(self, **environ: str) -> None:
        flags = ("--database-url", self.conninfo, "--port", str(self._port))
        self._server = ServerProcess(self._folder, *flags, **environ)
        self._server.port()

    def kill(self) -> None:
        if self._server:
            self._server.kill()
            self._server = None

    async def restart(self) -> None:
        self.kill()
        await asyncio.to_thread(self.start)

    def cursor(self) -> str:
        """Of what is recorded so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/changes") as answer:
            cursor: str = json.load(answer)["cursor"]
            return cursor

    def follow(self, **options: Any) -> Feed:
        """From what is recorded so far on."""
        return follow(self.url, table="orders", since=self.cursor(), **options)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(tmp_path)
    ground.start()
    yield ground
    ground.kill()


class Gaps:
    """Those that on_gap was given."""

    def __init__(self) -> None:
        self.told: list[Gap] = []
        self._came = asyncio.Event()

    def add(self, gap: Gap) -> None:
        self.told.append(gap)
        self._came.set()

    async def until(self, word: str) -> None:
        """Waits for a gap with this word in its reason."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not any(word in gap.why for gap in self.told):
                self._came.clear()
                await self._came.wait()


async def until(changes: AsyncIterator[Change], last: int) -> list[int]:
    """The ids of the changes that come, up to this one."""
    found: list[int] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while last not in found:
            change = await anext(changes)
            assert change.data
            found.append(change.data["id"])
    return found


def test_each_change_comes_once_in_order_despite_kills(ground: Ground):
    async def run() -> list[int]:
        changes = aiter(ground.follow())
        ground.write("INSERT INTO orders SELECT generate_series(1, 1200)")  # several messages
        found = await until(changes, 700)
        ground.kill()
        ground.write("INSERT INTO orders SELECT generate_series(1201, 1300)")
        await asyncio.to_thread(ground.start)
        ground.write("INSERT INTO orders SELECT generate_series(1301, 1400)")
        return found + await until(changes, 1400)

    assert run_to_the_end(run()) == list(range(1, 1401))


def test_a_feed_continues_after_the_change_that_was_processed_last(ground: Ground):
    async def run() -> list[int]:
        feed = ground.follow()
        ground.write("INSERT INTO orders SELECT generate_series(1, 10)")
        found: list[int] = []
        for last in (3, 6, 10):
            async with asyncio.timeout(DEADLINE_SECONDS):
                async for change in feed:
                    assert change.data
                    found.append(change.data["id"])
                    if found[-1] == last:
                        break  # before it is processed: it comes again
        return found

    assert run_to_the_end(run()) == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 10]


def test_a_change_has_the_protocols_fields(ground: Ground):
    async def run() -> list[Change]:
        changes = aiter(ground.follow(filter="status=eq.open", columns=["id", "status"]))
        ground.write("INSERT INTO orders VALUES (1, 'open'), (2, 'new')")
        ground.write("UPDATE orders SET status = 'paid' WHERE id = 1")
        ground.write("TRUNCATE orders")
        return [await anext(changes) for _ in range(3)]

    inserted, left, truncated = run_to_the_end(run())
    assert (inserted.table, inserted.schema, inserted.action) == ("orders", "public", "INSERT")
    assert (inserted.data, inserted.old, inserted.filter) == ({"id": 1, "status": "open"}, None, None)
    assert (left.data, left.old, left.filter) == ({"id": 1, "status": "paid"}, {"status": "open"}, "leave")
    assert (truncated.action, truncated.data) == ("TRUNCATE", None)
    assert all(change.cursor and change.at and change.xid for change in (inserted, left, truncated))


def test_a_cursor_from_before_a_restore_is_a_gap(ground: Ground):
    gaps = Gaps()

    async def run() -> list[int]:
        changes = aiter(ground.follow(on_gap=gaps.add))
        ground.write("INSERT INTO orders VALUES (1)")
        found = await until(changes, 1)
        ground.kill()
        ground.write("UPDATE changefeed.meta SET epoch = gen_random_uuid()")
        await asyncio.to_thread(ground.start)
        coming = asyncio.ensure_future(until(changes, 2))
        await gaps.until("")
        ground.write("INSERT INTO orders VALUES (2)")
        found += await coming
        await ground.restart()
        ground.write("INSERT INTO orders VALUES (3)")
        return found + await until(changes, 3)

    assert run_to_the_end(run()) == [1, 2, 3]
    [gap] = gaps.told
    assert gap.why
    assert gap.what_to_do


def test_an_unhandled_gap_is_raised_and_iteration_can_resume(ground: Ground):
    async def run() -> list[int]:
        feed = ground.follow()
        ground.kill()
        ground.write("UPDATE changefeed.meta SET epoch = gen_random_uuid()")
        await asyncio.to_thread(ground.start)
        with pytest.raises(ChangesMissing):
            await until(aiter(feed), 1)
        ground.write("INSERT INTO orders VALUES (1)")
        return await until(aiter(feed), 1)

    assert run_to_the_end(run()) == [1]


def test_values_that_pythons_json_does_not_read_end_nothing(ground: Ground):
    """An integer of more than 4300 digits comes whole; a deeply nested value is a gap, once."""
    gaps = Gaps()

    async def run() -> list[Any]:
        changes = aiter(ground.follow(on_gap=gaps.add))
        ground.write("INSERT INTO orders VALUES (1, '', repeat('9', 5000)::numeric), (2, '', 1.10)")
        rows = [(await anext(changes)).data for _ in range(2)]
        ground.write("ALTER TABLE orders ADD doc json")
        ground.write("INSERT INTO orders VALUES (3, '', 0, (repeat('[', 5000) || repeat(']', 5000))::json)")
        coming = asyncio.ensure_future(until(changes, 4))
        await gaps.until("nested")
        await ground.restart()
        ground.write("INSERT INTO orders VALUES (4)")
        assert await coming == [4]
        return [row["total"] for row in rows if row]

    assert run_to_the_end(run()) == [Decimal("9" * 5000), Decimal("1.10")]
    assert len([gap for gap in gaps.told if "nested" in gap.why]) == 1


def test_what_can_never_work_is_raised(ground: Ground):
    async def first(feed: Feed) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS), aclosing(aiter(feed)) as changes:  # type: ignore[type-var]
            await anext(changes)

    def refusal(url: str = ground.url, **options: Any) -> Refused:
        with pytest.raises(Refused) as raised:
            run_to_the_end(first(follow(url, **options)))
        return raised.value

    assert refusal(table="ordres").code == "unknown_table"
    assert "ordres" in str(refusal(table="ordres"))
    assert refusal(table="orders", columns="colour").code == "unknown_column"
    assert refusal(filter="id=is.red").code == "bad_filter"
    assert refusal(since="no-cursor").code == "not_a_cursor"
    assert refusal(f"{ground.url}/nowhere").code == "not_found"
    with pytest.raises(ValueError, match="localhost:8080"):
        run_to_the_end(first(follow("localhost:8080")))
    ground.kill()
    ground.start(TOKEN=TOKEN)
    assert refusal(token="wrong").code == "bad_token"
    assert refusal().code == "sign_in"


def test_the_address_of_a_server_is_enough(ground: Ground):
    cursor = ground.cursor()
    ground.write("INSERT INTO orders VALUES (1)")
    for url in (base := ground.url.removesuffix("/ws"), f"{base}/", base.replace("ws://", "http://")):
        assert run_to_the_end(until(aiter(follow(url, since=cursor)), 1)) == [1]


def test_final_errors_are_raised_by_the_first_attempt(ground: Ground, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "psqlisten2websocket_client")  # which logs each further attempt
    ground.kill()
    ground.start(TOKEN=TOKEN)
    for url, code in ((ground.url, "sign_in"), (ground.url.replace("/ws", "/client.js"), "not_a_feed")):
        with pytest.raises(Refused) as raised:
            run_to_the_end(until(aiter(follow(url)), 1))
        assert raised.value.code == code
    assert not caplog.records


def test_a_function_is_asked_for_the_token_of_each_connection(ground: Ground):
    cursor = ground.cursor()
    ground.kill()
    ground.start(TOKEN=TOKEN)
    tokens = ["wrong", TOKEN]

    async def token() -> str:
        return tokens.pop(0)

    ground.write("INSERT INTO orders VALUES (1)")
    assert run_to_the_end(until(aiter(follow(ground.url, since=cursor, token=token)), 1)) == [1]
    assert tokens == []


def test_pip_installs_it_with_its_types_and_in_our_version(tmp_path: Path):
    shutil.copytree(PACKAGE, tmp_path / "source")  # in which setuptools leaves files
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "--target", str(tmp_path / "site"), str(tmp_path / "source")]
    subprocess.run(command, check=True, capture_output=True)
    installed = tmp_path / "site" / "psqlisten2websocket_client"
    assert (installed / "py.typed").exists()
    assert {path.name for path in installed.glob("*.py")} == {
        path.name for path in (PACKAGE / "psqlisten2websocket_client").glob("*.py")
    }
    assert (tmp_path / "site" / f"psqlisten2websocket_client-{__version__}.dist-info").is_dir()
