"""This release and the one before it on one database upgrade and roll back as docs/upgrading.md says."""

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn
from websockets.sync.client import connect

from changefeed.journal.journal import VERSION
from changefeed.postgres.named_queries import SQL_DIR, read_script
from tests import leftovers, postgres
from tests.server_process import SERVER, ServerProcess

RELEASE_BEFORE = "e74ee63"  # whose schema is of version 4
ORDERS = "CREATE TABLE orders (id bigint PRIMARY KEY, phone text)"


@pytest.fixture(scope="module")
def before() -> Iterator[Path]:
    """A folder with the release before."""
    packed = subprocess.run(
        ["git", "-C", str(SQL_DIR.parent), "archive", RELEASE_BEFORE], capture_output=True, check=False
    )
    if packed.returncode:
        pytest.skip(f"there is no git history with {RELEASE_BEFORE} here")
    with leftovers.folder() as folder:
        subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
        yield folder


@pytest.fixture
def conninfo(before: Path) -> str:
    """A database with the schema of the release before, in which orders is watched."""
    made = postgres.new_database()
    postgres.execute(made, read_script("install.sql", before / "sql"))
    postgres.execute(made, ORDERS)
    postgres.execute(made, "SELECT changefeed.watch('orders', hash => '{phone}')")
    return made


@contextlib.contextmanager
def server(conninfo: str, *flags: str, program: Path = SERVER) -> Iterator[ServerProcess]:
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(Path(folder), "--port", "0", *flags, server=program, DATABASE_URL=conninfo) as process,
    ):
        yield process


@contextlib.contextmanager
def serving(conninfo: str, *flags: str, program: Path = SERVER) -> Iterator[int]:
    """The port of a server."""
    with server(conninfo, *flags, program=program) as process:
        yield process.port()


def is_ready(port: int) -> tuple[bool, str]:
    """As /readyz says, and its answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
            return True, answer.read().decode()
    except urllib.error.HTTPError as error:
        return False, error.read().decode()


def test_until_the_upgrade_rows_are_refused_with_what_to_do(conninfo: str):
    with serving(conninfo) as port:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/rows?table=orders")
        error = json.load(refused.value)["error"]
        assert (refused.value.code, error["code"]) == (503, "database_unavailable")
        assert "run psql -f sql/install.sql of this version" in error["message"]
        doctor = subprocess.run(
            [sys.executable, str(SERVER), "doctor", "--database-url", conninfo],
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert "warning  rows: a schema of version 4 gives no rows" in doctor.stdout
        assert "could not be examined" not in doctor.stdout
        postgres.execute(conninfo, read_script("install.sql"))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/rows?table=orders") as answer:
            assert json.load(answer)["rows"] == []


class Client:
    """Follows orders through one server, from a cursor on or from now."""

    def __init__(self, port: int, since: str | None = None) -> None:
        query = f"?since={since}" if since else ""
        # Kept until it is read: who closes a socket that says more waits for it.
        self._connection = connect(
            f"ws://127.0.0.1:{port}/ws{query}",
            max_queue=None,
            subprotocols=["changefeed.v1"],  # type: ignore[list-item]
        )
        self.ids: list[int] = []
        self.gaps: list[str] = []
        self.cursor: str | None = None

    def __enter__(self) -> Self:
        self._socket = self._connection.__enter__()
        while self._take()["type"] != "hello":
            pass
        return self

    def __exit__(self, *_: Any) -> None:
        self._socket.close()

    def until(self, row_id: int) -> None:
        """Reads on until this row comes."""
        while row_id not in self.ids:
            self._take()

    def until_gap(self) -> None:
        while not self.gaps:
            self._take()

    def _take(self) -> Any:
        said = json.loads(self._socket.recv(timeout=60))
        if said["type"] == "gap":
            self.gaps.append(said["why"])
        self.ids += [change["data"]["id"] for change in said.get("changes", ())]
        self.cursor = said.get("cursor") or said.get("to") or self.cursor
        return said


def least_rights(release: Path, conninfo: str) -> str:
    """As a role that has what the release's docs/least-rights.md grants for following and tending."""
    document = (release / "docs" / "least-rights.md").read_text("utf-8")
    role = f"follower_{parse_dsn(conninfo)['dbname']}"
    for block in re.findall(r"^```sql\n(.*?)^```$", document, re.DOTALL | re.MULTILINE)[:3]:
        postgres.execute(conninfo, block.replace("changefeed_server", role))
    return str(make_dsn(conninfo, user=role))


class Writers:
    """Insert one row after another, each in a transaction of its own, until the block ends. None may wait for long."""

    def __init__(self, conninfo: str) -> None:
        self.written: list[int] = []
        self.errors: list[psycopg2.Error] = []
        self.warnings: list[str] = []  # of PostgreSQL, as for a write that could not be recorded
        self._conninfo = conninfo
        self._ended = threading.Event()
        self._more = threading.Condition()
        self._threads = [threading.Thread(target=self._write, args=(first,)) for first in (1_000_000, 2_000_000)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def until_more(self, count: int = 20) -> None:
        """Waits until this many more were written."""
        with self._more:
            wanted = len(self.written) + count
            assert self._more.wait_for(lambda: len(self.written) >= wanted or bool(self.errors), timeout=60)

    def _write(self, row_id: int) -> None:
        connection = postgres.connect(self._conninfo)
        with contextlib.closing(connection), connection.cursor() as db_cursor:
            db_cursor.execute("SET statement_timeout = '5s'")
            while not self._ended.wait(0.005):
                row_id += 1
                try:
                    db_cursor.execute("INSERT INTO orders VALUES (%s, '110')", (row_id,))
                except psycopg2.Error as error:
                    self.errors.append(error)
                    return
                finally:
                    self.warnings += connection.notices
                    connection.notices.clear()
                    with self._more:
                        self.written.append(row_id)
                        self._more.notify_all()


def version_of(conninfo: str) -> int:
    [(version,)] = postgres.execute(conninfo, "SELECT version FROM changefeed.meta")
    return int(version)


def insert(conninfo: str, row_id: int) -> None:
    postgres.execute(conninfo, "INSERT INTO orders VALUES (%s, '110')", (row_id,))


def upgrade(conninfo: str) -> None:
    postgres.execute(conninfo, read_script("install.sql"))


def test_cursors_move_between_releases_of_one_schema(before: Path, conninfo: str):
    with (
        serving(conninfo, program=before / "server.py") as old,
        server(conninfo, "--watch", "public.orders") as process,
    ):
        process.until_said(r"the schema changefeed has version 4, this server brings \d: .* --upgrade-schema")
        new = process.port()
        with Client(old) as client:
            insert(conninfo, 1)
            client.until(1)
        insert(conninfo, 2)
        with Client(new, client.cursor) as moved:
            moved.until(2)
            insert(conninfo, 3)
            moved.until(3)
        insert(conninfo, 4)
        with Client(old, moved.cursor) as back:
            back.until(4)
        assert (moved.ids, back.ids) == ([2, 3], [4])
        assert moved.gaps == back.gaps == []
        assert version_of(conninfo) == 4


def test_an_upgrade_disturbs_no_writer_and_no_client(before: Path, conninfo: str):
    with (
        serving(conninfo, program=before / "server.py") as old,
        server(least_rights(before, conninfo)) as process,
    ):
        new = process.port()
        with Client(old) as left, Client(new) as client, Writers(conninfo) as writers:
            writers.until_more()
            left.until(writers.written[0])
            upgrade(conninfo)
            assert version_of(conninfo) == VERSION
            writers.until_more()
            insert(conninfo, 1)
            client.until(1)
        assert (writers.errors, writers.warnings) == ([], [])
        assert client.gaps == []
        assert is_ready(new)[0]
        with Client(new, left.cursor) as moved:  # the older server's cursors stay good
            insert(conninfo, 2)
            moved.until(2)
        assert moved.gaps == []
        assert set(left.ids + moved.ids) >= set(writers.written)
        assert "WARNING" not in process.kill()  # which knew of the upgrade by itself


@pytest.mark.parametrize("parts", ["", " PARTITION BY RANGE (id)"])
def test_an_upgrade_is_no_gap_of_what_the_server_is_to_watch(before: Path, parts: str):
    conninfo = postgres.new_database()
    postgres.execute(conninfo, read_script("install.sql", before / "sql"))
    postgres.execute(conninfo, f"CREATE TABLE orders (id bigint PRIMARY KEY, phone text){parts}")
    if parts:
        postgres.execute(conninfo, "CREATE TABLE orders_0 PARTITION OF orders DEFAULT")
    postgres.execute(conninfo, "SELECT changefeed.watch('orders')")
    insert(conninfo, 1)
    with serving(conninfo, "--watch", "public.orders") as port, Client(port) as client:
        insert(conninfo, 2)
        client.until(2)
        cursor = client.cursor
        postgres.execute(conninfo, read_script("install.sql"))
        notes = "SELECT count(*) FROM changefeed.noted"
        while postgres.execute(conninfo, notes) != [(0,)]:
            pass  # the server looks each second
        insert(conninfo, 3)
        client.until(3)
        with Client(port, cursor) as again:
            again.until(3)
        assert client.gaps == again.gaps == []
        assert client.ids == [2, 3]


@pytest.mark.parametrize(
    "holds", ["INSERT INTO orders VALUES (0, '110')", "SELECT FROM changefeed.meta, changefeed.journal"]
)
def test_an_upgrade_that_waits_blocks_no_writer(conninfo: str, holds: str):
    holder = postgres.connect(conninfo)
    with holder.cursor() as db_cursor, Writers(conninfo) as writers:
        db_cursor.execute("BEGIN")
        db_cursor.execute(holds)
        upgrading = threading.Thread(target=upgrade, args=(conninfo,))
        upgrading.start()
        for _ in range(5):
            writers.until_more()
        assert upgrading.is_alive()
        db_cursor.execute("COMMIT")
        upgrading.join()
        writers.until_more()
    holder.close()
    assert writers.errors == []
    assert version_of(conninfo) == VERSION


def test_upgrade_schema_works_without_watch(conninfo: str):
    with server(conninfo, "--upgrade-schema") as process:
        process.until_said(f"upgraded the schema changefeed from version 4 to {VERSION}")
        process.port()
        assert version_of(conninfo) == VERSION


def test_a_rollback_after_the_upgrade_starts_the_journal_over(before: Path, conninfo: str):
    upgrade(conninfo)
    with serving(conninfo) as new, Client(new) as client:
        insert(conninfo, 1)
        client.until(1)
    with server(conninfo, program=before / "server.py") as process:
        process.until_said(f"the schema changefeed is of version {VERSION}, this server knows 4")
    postgres.execute(conninfo, read_script("uninstall.sql"))
    postgres.execute(conninfo, read_script("install.sql", before / "sql"))
    postgres.execute(conninfo, "SELECT changefeed.watch('orders')")
    with serving(conninfo, program=before / "server.py") as old, Client(old, client.cursor) as back:
        back.until_gap()
        insert(conninfo, 2)
        back.until(2)


def test_a_newer_schema_is_read_if_it_allows_this_version(conninfo: str):
    upgrade(conninfo)
    postgres.execute(conninfo, "UPDATE changefeed.meta SET version = 99")
    with serving(conninfo, "--upgrade-schema") as port:
        with Client(port) as client:
            insert(conninfo, 1)
            client.until(1)
        assert is_ready(port)[0]
        assert version_of(conninfo) == 99


def test_an_unreadable_schema_of_a_later_release_is_reported(conninfo: str):
    upgrade(conninfo)
    postgres.execute(conninfo, "UPDATE changefeed.meta SET version = 99, readable_from = 98")
    with server(conninfo) as process:
        process.until_said("the schema changefeed has version 99, this server has")
