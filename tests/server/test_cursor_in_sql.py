"""A client with the rows and the cursor of changefeed.cursor() misses no change, and gets none twice."""

import asyncio
import base64
import random
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import (
    ISOLATION_LEVEL_READ_COMMITTED,
    ISOLATION_LEVEL_REPEATABLE_READ,
)
from tornado.testing import gen_test

from changefeed.postgres.embedded import EmbeddedPostgres
from changefeed.postgres.named_queries import read_script
from tests import postgres
from tests.access_case import AccessTestCase
from tests.feed_case import ORDERS, FeedTestCase, message

Rows = dict[int, dict[str, Any]]
WRITERS, TRANSACTIONS = 4, 60
OTHERS = 43  # a customer that the narrow token must not see


def rows_and_cursor(conninfo: str) -> tuple[Rows, str]:
    """As docs/guide.md says it is done."""
    connection = postgres.connect(conninfo)
    connection.set_session(isolation_level=ISOLATION_LEVEL_REPEATABLE_READ, readonly=True, autocommit=False)
    with connection, connection.cursor() as db_cursor:
        db_cursor.execute("LOCK TABLE orders IN ACCESS SHARE MODE")
        db_cursor.execute("SELECT changefeed.cursor()")
        [(place,)] = db_cursor.fetchall()
        db_cursor.execute("SELECT id, to_json(o) FROM orders AS o")
        return dict(db_cursor.fetchall()), place


def unpacked(cursor: str) -> bytes:
    text = cursor.removeprefix("q.")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def write_at_random(conninfo: str, seed: int) -> None:
    """Transactions of some statements each, on the same few rows; some are rolled back, and several run at once."""
    chance = random.Random(seed)
    connection = postgres.connect(conninfo)
    connection.set_session(isolation_level=ISOLATION_LEVEL_READ_COMMITTED, autocommit=False)
    with connection.cursor() as db_cursor:
        for _ in range(TRANSACTIONS):
            try:
                for _ in range(chance.randint(1, 4)):
                    row = {"id": chance.randint(1, 30), "total": chance.randint(0, 999)}
                    db_cursor.execute(
                        chance.choice(
                            [
                                "INSERT INTO orders VALUES (%(id)s, 'new', %(total)s) ON CONFLICT (id) DO UPDATE SET total = 0",
                                "UPDATE orders SET total = %(total)s WHERE id BETWEEN %(id)s AND %(id)s + 3",
                                "DELETE FROM orders WHERE id = %(id)s",
                            ]
                        ),
                        row,
                    )
                (connection.commit if chance.random() < 0.8 else connection.rollback)()
            except psycopg2.errors.DeadlockDetected:
                connection.rollback()
    connection.close()


def apply(rows: Rows, changes: list[dict[str, Any]]) -> None:
    """Strictly: what an UPDATE or a DELETE finds must be there as it was, and what an INSERT brings must not."""
    for change in changes:
        data, key = change["data"], change["data"]["id"]
        if change["action"] == "INSERT":
            assert key not in rows, change
            rows[key] = data
        elif change["action"] == "UPDATE":
            assert rows.get(key) == data | change["old"], change
            rows[key] = data
        else:
            assert rows.pop(key, None) == data, change


class CursorTestCase(FeedTestCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()

    def take_all(self) -> None:
        """By retention."""
        while self.write("SELECT count(*) FROM changefeed.journal") != [(0,)]:
            self.write("SELECT changefeed.retain('0', 1)")


class CursorTest(CursorTestCase):
    async def follow(self, cursor: str, rows: Rows, until: Rows) -> None:
        """Brings the rows up to date; a page may end before what is committed just now."""
        while rows != until:
            page = await self.fetch_json(f"/api/changes?since={cursor}&limit=500")
            assert page["gap"] is None
            apply(rows, page["changes"])
            cursor = page["cursor"]

    async def follow_to_now(self, cursor: str, rows: Rows) -> None:
        final, _ = rows_and_cursor(self.conninfo)
        await self.follow(cursor, rows, final)

    @gen_test(timeout=120)
    async def test_rows_and_the_changes_after_them_are_the_table(self):
        writers = [threading.Thread(target=write_at_random, args=(self.conninfo, seed)) for seed in range(WRITERS)]
        for writer in writers:
            writer.start()
        read = []
        while any(writer.is_alive() for writer in writers):
            read.append(rows_and_cursor(self.conninfo))
        final, _ = rows_and_cursor(self.conninfo)
        assert len(read) > 5
        for rows, cursor in read:
            await self.follow(cursor, rows, final)

    @gen_test
    async def test_a_transaction_that_is_open_meanwhile_comes(self):
        self.write("INSERT INTO orders VALUES (1, 'before', 1)")
        open_one = postgres.connect(self.conninfo)
        open_one.set_session(isolation_level=ISOLATION_LEVEL_READ_COMMITTED, autocommit=False)
        with open_one.cursor() as db_cursor:
            db_cursor.execute("INSERT INTO orders VALUES (2, 'open', 2)")
        self.write("INSERT INTO orders VALUES (3, 'newer', 3)")
        rows, cursor = rows_and_cursor(self.conninfo)
        assert sorted(rows) == [1, 3]
        open_one.commit()
        open_one.close()
        socket = await self.connect(f"/ws?since={cursor}", protocol=True)
        assert "epoch" in await message(socket, "hello")
        changes = (await message(socket, "changes"))["changes"]
        assert [change["data"]["id"] for change in changes] == [2]

    @gen_test
    async def test_the_rows_are_those_after_a_truncate_that_was_open(self):
        self.write("INSERT INTO orders VALUES (1)")
        writer = postgres.connect(self.conninfo)
        with writer.cursor() as db_cursor:
            db_cursor.execute("BEGIN; TRUNCATE orders; INSERT INTO orders VALUES (2)")
            reading = asyncio.to_thread(rows_and_cursor, self.conninfo)
            waiting = asyncio.create_task(reading)
            while not self.write("SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessShareLock'"):  # noqa: ASYNC110
                await asyncio.sleep(0)  # lets the reading begin
            db_cursor.execute("COMMIT")
        writer.close()
        rows, cursor = await waiting
        assert list(rows) == [2]
        assert (await self.fetch_json(f"/api/changes?since={cursor}"))["changes"] == []

    @gen_test
    async def test_many_are_open_meanwhile(self):
        open_ones = [postgres.connect(self.conninfo) for _ in range(20)]
        for i, one in enumerate(open_ones):
            one.set_session(isolation_level=ISOLATION_LEVEL_READ_COMMITTED, autocommit=False)
            with one.cursor() as db_cursor:
                db_cursor.execute("INSERT INTO orders VALUES (%s, 'open', 1)", [i])
        self.write("INSERT INTO orders VALUES (99, 'newer', 1)")
        rows, cursor = rows_and_cursor(self.conninfo)
        assert sorted(rows) == [99]
        assert len(unpacked(cursor)) > 32 + 64
        for one in open_ones:
            one.commit()
            one.close()
        await self.follow_to_now(cursor, rows)

    @gen_test
    async def test_the_text_tells_nothing_and_is_another_each_time(self):
        self.write("INSERT INTO orders VALUES (1, 'secret', 1)")
        [(xid, at)] = self.write(
            "SELECT xid::text, (extract(epoch FROM at) * 1000000)::bigint FROM changefeed.journal ORDER BY id DESC LIMIT 1"
        )
        rows, first = rows_and_cursor(self.conninfo)
        _, second = rows_and_cursor(self.conninfo)
        assert len(unpacked(first)) == len(unpacked(second)) == 32 + 64
        for at_once in (0, 16, 32, 64):  # signature, nonce, place
            assert unpacked(first)[at_once : at_once + 16] != unpacked(second)[at_once : at_once + 16]
        for told in (xid, str(int(xid) + 1), str(at)[:6]):
            assert told.encode() not in unpacked(first)
        self.write("INSERT INTO orders VALUES (2, 'new', 1)")
        for cursor in (first, second):
            await self.follow_to_now(cursor, dict(rows))

    @gen_test
    async def test_before_the_first_change_there_is_a_place_too(self):
        rows, cursor = rows_and_cursor(self.conninfo)
        assert rows == {}
        self.write("INSERT INTO orders VALUES (1, 'first', 1)")
        await self.follow_to_now(cursor, rows)

    @gen_test
    async def test_after_retention_took_everything_there_is_a_place_too(self):
        socket = await self.connect()
        self.write("INSERT INTO orders VALUES (1, 'old', 1)")
        await socket.read_message()  # or it would be taken from the server, too
        self.take_all()
        rows, cursor = rows_and_cursor(self.conninfo)
        self.write("INSERT INTO orders VALUES (9, 'new', 1)")
        await self.follow_to_now(cursor, rows)

    @gen_test
    async def test_what_was_altered_or_is_of_another_database_is_refused(self):
        _, cursor = rows_and_cursor(self.conninfo)
        altered = [
            cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]
            for at in (5, 30, 60, len(cursor) - 6)  # in the signature, the nonce, and the place
        ]
        other = postgres.new_database()
        postgres.execute(other, ORDERS)
        postgres.execute(other, read_script("install.sql"))
        _, foreign = rows_and_cursor(other)
        for text in (*altered, foreign, cursor[:-20]):
            page = await self.fetch_json(f"/api/changes?since={text}")
            assert "the cursor is of another journal" in page["gap"]["why"]
        for text in ("q.", "q.AAAA", f"q.{'A' * 42}", "q.%C3%A4", f"{cursor[:20]}"):
            page = await self.fetch_json(f"/api/changes?since={text}", 400)
            assert page["error"]["code"] == "not_a_cursor"


class TakenTest(CursorTestCase):
    """Retention took everything before the server began."""

    def prepare_database(self) -> None:
        super().prepare_database()
        _, self.empty = rows_and_cursor(self.conninfo)
        self.write("INSERT INTO orders VALUES (1, 'lost', 1)")
        _, self.before = rows_and_cursor(self.conninfo)
        self.write("INSERT INTO orders VALUES (2, 'lost', 1)")
        self.take_all()
        self.write("INSERT INTO orders VALUES (3, 'kept', 1)")

    @gen_test
    async def test_what_retention_took_since_is_a_gap(self):
        for cursor in (self.empty, self.before):
            page = await self.fetch_json(f"/api/changes?since={cursor}")
            assert page["gap"]["from"] == cursor
            assert [change["data"]["id"] for change in page["changes"]] == [3]

    @gen_test
    async def test_a_client_that_starts_at_the_oldest_change_gets_no_gap(self):
        page = await self.fetch_json("/api/changes")
        assert [change["data"]["id"] for change in page["changes"]] == [3]
        assert page["gap"] is None


class RightsTest(AccessTestCase):
    """A back end gives it to a page whose token sees some rows only."""

    def prepare_database(self) -> None:
        super().prepare_database()
        self.order(1)

    @gen_test
    async def test_it_is_good_with_any_rights_and_gives_no_more_than_these(self):
        _, cursor = rows_and_cursor(self.conninfo)
        self.order(2)
        self.order(3, OTHERS)
        self.pay()
        status, page = await self.ask("narrow", f"/api/changes?since={cursor}")
        assert status == 200, page
        assert [change["data"]["id"] for change in page["changes"]] == [2]
        status, page = await self.ask("full", f"/api/changes?since={cursor}")
        assert status == 200, page
        assert len(page["changes"]) == 3


def transaction(conninfo: str, *statements: str) -> None:
    connection = postgres.connect(conninfo)
    connection.set_session(isolation_level=ISOLATION_LEVEL_READ_COMMITTED, autocommit=False)
    try:
        with connection.cursor() as db_cursor:
            for statement in statements:
                db_cursor.execute(statement)
    finally:
        connection.close()


@pytest.fixture(scope="module")
def conninfo() -> str:
    made = postgres.new_database()
    postgres.execute(made, ORDERS)
    postgres.execute(made, read_script("install.sql"))
    return made


@pytest.fixture
def standby() -> Iterator[EmbeddedPostgres]:
    """Of a cluster of its own: what other tests leave open would keep it from being a hot one."""
    primary = postgres.start()
    postgres.execute(primary.conninfo, read_script("install.sql"))
    made = postgres.base_backup(primary, "--write-recovery-conf")
    made.start()
    yield made
    postgres.discard(made)
    postgres.discard(primary)


REPEATABLE = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"


def test_read_committed_is_refused(conninfo: str):
    with pytest.raises(psycopg2.errors.ActiveSqlTransaction, match="no cursor fits them all"):
        transaction(conninfo, "SELECT changefeed.cursor()")


def test_a_transaction_that_has_written_is_refused(conninfo: str):
    with pytest.raises(psycopg2.errors.ActiveSqlTransaction, match="has written"):
        transaction(conninfo, REPEATABLE, "INSERT INTO orders VALUES (1)", "SELECT changefeed.cursor()")


def test_a_standby_refuses(standby: EmbeddedPostgres):
    with pytest.raises(psycopg2.errors.FeatureNotSupported, match="standby"):
        transaction(standby.conninfo, REPEATABLE, "SELECT changefeed.cursor()")
