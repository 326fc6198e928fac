"""rows=true on /ws and /events: the rows of a table, and then exactly the changes that they lack."""

import asyncio
import contextlib
import json
import random
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest import mock

import pytest
from tornado.httpclient import HTTPClientError
from tornado.testing import ExpectLog, gen_test
from tornado.websocket import WebSocketClientConnection

from changefeed.rows import readings
from changefeed.rows.reading import Reading
from handlers.feed import rows
from tests import postgres
from tests.access_case import AccessTestCase
from tests.feed_case import ORDERS, FeedTestCase, message
from tests.server.test_cursor_in_sql import WRITERS, Rows, apply, rows_and_cursor, write_at_random

ROWS = "table=orders&rows=true"


async def rows_of(socket: WebSocketClientConnection) -> tuple[list[dict[str, Any]], str]:
    """The rows of all messages, and the cursor of the last."""
    rows: list[dict[str, Any]] = []
    while True:
        said = await message(socket)
        assert (said["type"], said["schema"], said["table"]) == ("rows", "public", "orders"), said
        rows += said["rows"]
        if said.get("is_last"):
            return rows, str(said["cursor"])
        assert "cursor" not in said


async def events_of(port: int, path: str, **headers: str) -> AsyncIterator[dict[str, str]]:
    """The events of a stream, each with its fields."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Accept: text/event-stream"]
    writer.write("\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode())
    status = await reader.readline()
    assert b" 200 " in status, status + await reader.read()
    await reader.readuntil(b"\r\n\r\n")
    try:
        while block := await reader.readuntil(b"\n\n"):
            fields = dict(line.split(": ", 1) for line in block.decode().splitlines() if line and line[0] != ":")
            yield fields
    except asyncio.IncompleteReadError:
        pass
    finally:
        writer.close()


async def soon(fact: Callable[[], bool]) -> None:
    """Waits for a fact of which nobody tells; the test's own time limit ends it."""
    while not fact():  # noqa: ASYNC110  # nothing sets an event
        await asyncio.sleep(0)


class RowsThenChangesCase(FeedTestCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()
        self.write("INSERT INTO orders SELECT i, 'new', i FROM generate_series(1, 3) AS i")

    async def begun(self, query: str = ROWS) -> WebSocketClientConnection:
        socket = await self.connect(f"/ws?{query}", protocol=True)
        assert (await message(socket))["type"] == "hello"
        return socket


class SocketTest(RowsThenChangesCase):
    @gen_test
    async def test_rows_come_first_and_then_the_changes_after_them(self):
        socket = await self.connect(f"/ws?{ROWS}&filter=id=gt.1&columns=id", protocol=True)
        hello = await message(socket)
        assert hello["cursor"] is None  # before the rows there is no place to come back to
        rows, cursor = await rows_of(socket)
        assert rows == [{"id": 2}, {"id": 3}]
        self.write("INSERT INTO orders VALUES (4); DELETE FROM orders WHERE id < 3")
        changes: list[dict[str, Any]] = []
        while len(changes) < 2:
            changes += (await message(socket, "changes"))["changes"]
        assert [(change["action"], change["data"]) for change in changes] == [
            ("INSERT", {"id": 4}),
            ("DELETE", {"id": 2}),
        ]
        # A client that resumes with a cursor gets no rows again.
        again = await self.begun(f"{ROWS}&filter=id=gt.1&columns=id&since={cursor}")
        told = await message(again)
        assert [change["action"] for change in told["changes"]] == ["INSERT", "DELETE"]

    @gen_test
    async def test_an_empty_table_has_one_message(self):
        socket = await self.begun(f"{ROWS}&filter=id=gt.9")
        told = await message(socket)
        assert (told["rows"], told["is_last"]) == ([], True)

    @gen_test
    async def test_a_subscribe_message_may_ask_for_rows(self):
        socket = await self.connect("/ws?table=orders", protocol=True)
        await message(socket, "hello")
        for yes in (True, "true"):
            await socket.write_message(json.dumps({"type": "subscribe", "table": "orders", "rows": yes}))
            assert (await message(socket))["type"] == "hello"
            assert len((await rows_of(socket))[0]) == 3
        self.write("INSERT INTO orders VALUES (4)")
        assert (await message(socket, "changes"))["changes"][0]["data"]["id"] == 4
        await socket.write_message(json.dumps({"type": "subscribe", "rows": True}))
        assert (await message(socket, "error"))["code"] == "bad_rows"

    @gen_test
    async def test_after_a_gap_the_rows_come_again(self):
        _, cursor = rows_and_cursor(self.conninfo)
        of_another_journal = cursor[:-9] + cursor[:-10:-1]
        socket = await self.begun(f"{ROWS}&since={of_another_journal}")
        assert (await message(socket))["type"] == "gap"
        assert len((await rows_of(socket))[0]) == 3

    @gen_test
    async def test_what_cannot_have_rows_is_refused(self):
        self.write("CREATE TABLE other (id int)")
        for query, code in (
            ("rows=true", "bad_rows"),
            ("rows=maybe&table=orders", "bad_rows"),
            ("rows=true&table=orders&replay=3", "bad_rows"),
            ("rows=true&table=orders&action=INSERT", "bad_rows"),
        ):
            socket = await self.connect(f"/ws?{query}", protocol=True)
            assert (await message(socket))["code"] == code
            assert await socket.read_message() is None
            assert socket.close_code == 1008
        socket = await self.begun("rows=true&table=other")
        assert (await message(socket))["code"] == "not_watched"
        assert await socket.read_message() is None
        assert socket.close_code == 1008
        with pytest.raises(HTTPClientError, match="400"):  # a plain socket has no message for rows
            await self.connect(f"/ws?{ROWS}")
        await self.fetch_json(f"/api/changes?{ROWS}", 400)

    @gen_test
    async def test_a_crowd_shares_one_reading(self):
        # The first reading waits for the table; meanwhile everybody asks for the same.
        writer = postgres.connect(self.conninfo)
        with writer.cursor() as db_cursor:
            db_cursor.execute("BEGIN; LOCK TABLE orders")
            sockets = await asyncio.gather(*(self.begun() for _ in range(50)))
            db_cursor.execute("COMMIT")
        writer.close()
        for socket in sockets:
            assert len((await rows_of(socket))[0]) == 3
        assert self.feed.readings.counts == {"complete": 1}
        self.write("INSERT INTO orders VALUES (4)")
        for socket in sockets:
            assert (await message(socket, "changes"))["changes"][0]["data"]["id"] == 4

    @gen_test
    async def test_a_crowd_shares_a_reading_that_has_just_begun(self):
        # It waits for its snapshot's place.
        writer = postgres.connect(self.conninfo)
        with writer.cursor() as db_cursor:
            db_cursor.execute("BEGIN; LOCK TABLE changefeed.meta")
            first = await self.begun()
            await soon(lambda: any(one.has_begun for one in self.feed.readings._running))
            sockets = [first, *await asyncio.gather(*(self.begun() for _ in range(50)))]
            db_cursor.execute("COMMIT")
        writer.close()
        for socket in sockets:
            assert len((await rows_of(socket))[0]) == 3
        assert self.feed.readings.counts == {"complete": 1}

    @gen_test
    async def test_a_reading_that_is_ahead_of_the_feed_is_shared(self):
        self.write("SELECT pg_current_xact_id()")  # nothing that wakes the feed
        for _ in range(3):
            await rows_of(await self.begun())
        assert self.feed.readings.counts == {"complete": 1}

    @gen_test
    async def test_rows_are_new_after_a_statement_of_too_many_rows_or_a_loss(self):
        # One client keeps the reading, so that the other would get it again.
        self.write("SELECT changefeed.watch('orders', row_limit => 2)")
        kept, socket = await self.begun(), await self.begun()
        await rows_of(socket)
        too_many = "UPDATE orders SET status = 'old'"
        lost = (
            "SET LOCAL session_replication_role = replica; UPDATE orders SET status = 'lost'; "
            "INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name) "
            "VALUES (0, now(), 'L', 'public', 'orders')"
        )
        with ExpectLog("changefeed.follower", "changes are missing"):
            for statement, status in ((too_many, "old"), (lost, "lost")):
                self.write(statement)
                while (await message(socket))["type"] not in ("changes", "gap"):
                    pass
                await socket.write_message(json.dumps({"type": "subscribe", "table": "orders", "rows": True}))
                await message(socket, "hello")
                rows, _ = await rows_of(socket)
                assert {row["status"] for row in rows} == {status}
        assert len((await rows_of(kept))[0]) == 3

    @gen_test
    async def test_the_reading_ends_when_its_client_leaves(self):
        writer = postgres.connect(self.conninfo)
        with writer.cursor() as db_cursor:
            db_cursor.execute("BEGIN; LOCK TABLE orders")
            socket = await self.begun()
            [reading] = self.feed.readings._running
            socket.close()
            await reading.until_over()
            db_cursor.execute("COMMIT")
        writer.close()
        assert self.feed.readings.counts == {"complete": 0, "left": 1}


class SlowClientTest(RowsThenChangesCase):
    UPGRADE = (
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: changefeed.v1\r\n"
    )

    async def unread(self, path: str, more: str = "") -> tuple[asyncio.StreamReader, Reading]:
        """A client that asks for rows and reads none, once these are read."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port(), limit=1024)
        self.addCleanup(writer.close)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode())
        await soon(lambda: bool(self.feed.readings._running))
        [reading] = self.feed.readings._running
        await reading.until_over()
        return reader, reading

    def prepare_database(self) -> None:
        super().prepare_database()
        self.write("SET session_replication_role = replica; UPDATE orders SET status = repeat('x', 10000000)")

    @mock.patch.object(readings, "KEEP_SECONDS", 0)
    @gen_test
    async def test_slow_clients_keep_no_transaction_open(self):
        for path, more in ((f"/ws?{ROWS}", self.UPGRADE), (f"/events?{ROWS}", ""), ("/api/rows?table=orders", "")):
            reader, reading = await self.unread(path, more)
            assert self.write(
                "SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND state <> 'active'"
            ) == [(0,)]
            self.write("SET lock_timeout = '3s'; ALTER TABLE orders ADD IF NOT EXISTS more int")
            assert len((await self.fetch_json("/api/rows?table=orders&columns=id"))["rows"]) == 3
            got = 0
            while got < 30_000_000:
                got += len(await reader.read(1 << 20))
            assert reading.rows == 3
            await soon(lambda: not self.feed.readings._running)

    @gen_test
    async def test_one_that_takes_nothing_is_closed(self):
        with mock.patch.object(rows, "ROWS_STALL_SECONDS", 0.1), mock.patch.object(readings, "KEEP_SECONDS", 0):
            _, reading = await self.unread(f"/ws?{ROWS}", self.UPGRADE)
            await soon(lambda: self.feed.readings._shared.space_quota.used == 0)
        assert reading.rows == 3

    @mock.patch.object(readings, "KEEP_SECONDS", 0)
    @gen_test
    async def test_an_answer_ends_with_the_token(self):
        for accept in ("application/json", "application/x-ndjson"):
            reader, _ = await self.unread("/api/rows?table=orders", f"Accept: {accept}\r\n")
            self.feed.authenticator.expiries.end_all_of(lambda identity: True)
            await soon(lambda: not self.feed.readings._running)
            with contextlib.suppress(ConnectionResetError):
                got = await reader.read()
                assert b"cursor" not in got


class LargeRowsTest(FeedTestCase):
    ROWS = 100
    READERS = 3  # each with a reading of its own

    def prepare_database(self) -> None:
        self.write("CREATE TABLE large (id int PRIMARY KEY, word text)")
        self.watch("public.large")
        self.write(
            "SET session_replication_role = replica; "
            f"INSERT INTO large SELECT i, repeat(md5(i::text), 32768) FROM generate_series(1, {self.ROWS}) AS i"
        )

    @gen_test(timeout=120)
    async def test_others_are_served_between_rows_of_a_megabyte(self):
        readings = [asyncio.ensure_future(self.size_of(number)) for number in range(self.READERS)]
        answered = 0
        while not all(reading.done() for reading in readings):
            await self.fetch_json("/healthz")
            answered += 1
        for reading in readings:
            assert await reading > self.ROWS << 20
        assert answered > self.ROWS  # of one reading: so nobody waits for many rows

    async def size_of(self, number: int) -> int:
        """The bytes of an answer with all rows, which it takes as they come."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
        path = f"/api/rows?table=large&filter=id=gt.-{number}"
        writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n\r\n".encode())
        size = 0
        while part := await reader.read(1 << 20):
            size += len(part)
        writer.close()
        return size


class StreamTest(RowsThenChangesCase):
    @gen_test
    async def test_only_the_last_event_of_the_rows_has_an_id(self):
        self.write("UPDATE orders SET status = repeat('x', 200000)")
        events = events_of(self.get_http_port(), f"/events?{ROWS}")
        head = await anext(events)
        assert "id" not in head
        rows, ids = [], []
        while not ids:
            event = await anext(events)
            assert event["event"] == "rows"
            told = json.loads(event["data"])
            rows += told["rows"]
            ids += [event["id"]] if "id" in event else []
        assert told["is_last"]
        assert told["cursor"] == ids[0]
        assert sorted(row["id"] for row in rows) == [1, 2, 3]
        self.write("INSERT INTO orders VALUES (4)")
        while "data" not in (event := await anext(events)):
            pass
        assert json.loads(event["data"])["data"]["id"] == 4
        await events.aclose()
        again = events_of(self.get_http_port(), f"/events?{ROWS}", **{"Last-Event-ID": ids[0]})
        while "data" not in (event := await anext(again)):
            pass
        assert json.loads(event["data"])["data"]["id"] == 4
        await again.aclose()

    @gen_test
    async def test_a_refusal_has_its_status(self):
        self.write("CREATE TABLE other (id int)")
        error = (await self.fetch_json("/events?rows=true&table=other", 404))["error"]
        assert error["code"] == "not_watched"


class RightsTest(AccessTestCase):
    @gen_test
    async def test_a_token_gets_the_rows_that_it_may_see(self):
        self.order(1)
        self.order(2, customer=43)
        socket = await self.connect(f"/ws?{ROWS}", protocol=True, **self.headers("narrow"))
        await message(socket, "hello")
        rows, _ = await rows_of(socket)
        assert rows == [{"id": 1, "customer_id": 42}]
        self.order(3, customer=43)
        self.order(4)
        told = {"changes": []}
        while not told["changes"]:
            told = await message(socket, "changes")
        assert [change["data"] for change in told["changes"]] == [{"id": 4, "customer_id": 42}]


class ExactnessTest(RowsThenChangesCase):
    """Writers write at random while clients begin at random moments: their sets are the table's."""

    flags = ("--rows-readings", "2")

    async def until_equal(self, changes: AsyncIterator[list[dict[str, Any]]], rows: Rows, done: asyncio.Event) -> None:
        """Applies changes strictly, until the writers are done and the rows are those of the table."""
        async for part in changes:
            apply(rows, [change for change in part if change["data"]["id"] <= 1000])
            if done.is_set() and rows == self.final:
                return

    async def by_socket(self, moment: float, done: asyncio.Event) -> None:
        await asyncio.sleep(moment)
        socket = await self.begun()
        rows = {row["id"]: row for row in (await rows_of(socket))[0]}

        async def changes() -> AsyncIterator[list[dict[str, Any]]]:
            while True:
                yield (await message(socket, "changes"))["changes"]

        await self.until_equal(changes(), {number: row for number, row in rows.items() if number <= 1000}, done)

    async def by_stream(self, moment: float, done: asyncio.Event) -> None:
        await asyncio.sleep(moment)
        events = events_of(self.get_http_port(), f"/events?{ROWS}")
        rows: Rows = {}
        async for event in events:
            if event.get("event") == "rows":
                told = json.loads(event["data"])
                rows |= {row["id"]: row for row in told["rows"] if row["id"] <= 1000}
                if told.get("is_last"):
                    break

        async def changes() -> AsyncIterator[list[dict[str, Any]]]:
            async for event in events:
                yield [json.loads(event["data"])] if "data" in event else []

        await self.until_equal(changes(), rows, done)
        await events.aclose()

    @gen_test(timeout=180)
    async def test_the_sets_of_all_clients_are_the_table(self):
        done, chance = asyncio.Event(), random.Random(7)
        writers = [threading.Thread(target=write_at_random, args=(self.conninfo, seed)) for seed in range(WRITERS)]
        for writer in writers:
            writer.start()
        clients = [
            asyncio.ensure_future(follow(chance.uniform(0, 2), done))
            for follow in (self.by_socket, self.by_stream)
            for _ in range(15)
        ]
        await asyncio.to_thread(lambda: [writer.join() for writer in writers])
        self.final, _ = rows_and_cursor(self.conninfo)
        done.set()
        while pending := [client for client in clients if not client.done()]:
            # A change that all get, of none of their tables: so each looks once more.
            self.write("INSERT INTO orders VALUES (1001 + (random() * 1e9)::int) ON CONFLICT DO NOTHING")
            await asyncio.wait(pending, timeout=0.2)
        for client in clients:
            client.result()
