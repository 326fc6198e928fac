"""Each loss is one gap with its table, sent when it is certain; clients that miss nothing get none."""

import asyncio
import json
import threading
from typing import Any
from unittest import mock

import pytest
from tornado.httpclient import HTTPClientError
from tornado.testing import ExpectLog, gen_test
from tornado.websocket import WebSocketClientConnection

from changefeed.journal import entries, journal_health
from changefeed.journal.page_cache import PageCache
from changefeed.ordering import nested_order
from handlers.feed import start
from tests import postgres
from tests.feed_case import message
from tests.server.test_journal_feed import JournalTestCase


async def told(socket: WebSocketClientConnection, upto: int) -> list[Any]:
    """Ids of rows and whole gaps, in their order, up to the row of this id."""
    seen: list[Any] = []
    while upto not in seen:
        said = await message(socket)
        if said["type"] == "gap":
            seen.append(said)
        seen += [change["data"]["id"] for change in said.get("changes", ())]
    return seen


class UnreadableEntryTest(JournalTestCase):
    """Bytes that are no text in the client's encoding cost the one change that they are in."""

    encoding, hostile = "SQL_ASCII", r"E'caf\351 \377'"

    def new_database(self) -> str:
        name = f"bytes_{self.encoding.lower()}_{id(self)}"
        postgres.execute(
            postgres.cluster().conninfo,
            f"CREATE DATABASE {name} ENCODING '{self.encoding}' LOCALE 'C' TEMPLATE template0"
            + (" LOCALE_PROVIDER libc" if postgres.major_version() >= 15 else ""),
        )
        return postgres.conninfo_of(name)

    @gen_test
    async def test_it_is_a_gap_of_its_table_in_its_place(self):
        live = await self.connect(protocol=True)
        cursor = (await message(live, "hello"))["cursor"]
        filtered = await self.connect("/ws?filter=id=gt.0&columns=id", protocol=True)
        with (
            ExpectLog("changefeed.journal", "could not read the entry", level=30),
            ExpectLog("changefeed.follower", "changes are missing", level=30),
        ):
            self.write("INSERT INTO orders VALUES (1, 'before')")
            self.write(f"INSERT INTO orders VALUES (2, {self.hostile})")
            self.write("INSERT INTO orders VALUES (3, 'after')")
            for socket in (live, filtered):
                first, gap, last = await told(socket, 3)
                assert (first, gap["table"], last) == (1, "public.orders", 3)
            resumed = await self.connect(f"/ws?since={cursor}", protocol=True)
            first, gap, last = await told(resumed, 3)
            assert (first, gap["table"], last) == (1, "public.orders", 3)
            behind = await self.connect(f"/ws?since={gap['to']}", protocol=True)
            assert await told(behind, 3) == [3]
            page = await self.fetch_json(f"/api/changes?since={cursor}")
            assert [change["data"]["id"] for change in page["changes"]] == [1, 3]
            assert page["gap"]["table"] == "public.orders"
        await self.fetch_json("/readyz")


class UntranslatableEntryTest(UnreadableEntryTest):
    encoding, hostile = "WIN1252", r"E'hole \201'"


class LargeRowTest(JournalTestCase):
    """A row beyond --row-limit-bytes is a gap, and not read."""

    flags = ("--row-limit-bytes", "100000")

    @gen_test
    async def test_it_is_a_gap_of_its_table_in_its_place(self):
        live = await self.connect(protocol=True)
        cursor = (await message(live, "hello"))["cursor"]
        with (
            ExpectLog(
                "changefeed.journal",
                "could not read the entry .* it has 100,0.. bytes, more than --row-limit-bytes",
                level=30,
            ),
            ExpectLog(
                "changefeed.journal",
                "could not read the entry .* it has 180,... bytes, more than --row-limit-bytes",
                level=30,
            ),
            ExpectLog("changefeed.follower", "changes are missing", level=30),
        ):
            self.write("INSERT INTO orders VALUES (1, repeat('x', 90000))")
            self.write("INSERT INTO orders VALUES (2, repeat('x', 100000))")
            self.write("UPDATE orders SET total = 1 WHERE id = 1")  # which holds the row twice
            self.write("INSERT INTO orders VALUES (3, repeat('x', 90000))")
            told_live = await told(live, 3)
            assert [one if one in (1, 3) else one["table"] for one in told_live] == [1, *(["public.orders"] * 2), 3]
            resumed = await self.connect(f"/ws?since={cursor}", protocol=True)
            assert len(await told(resumed, 3)) == 4
            behind = await self.connect(f"/ws?since={told_live[1]['to']}", protocol=True)
            assert len(await told(behind, 3)) == 2
            with mock.patch.object(PageCache, "page_after", return_value=None):
                page = await self.fetch_json(f"/api/changes?since={cursor}")
            assert [change["data"]["id"] for change in page["changes"]] == [1, 3]
            assert page["gap"]["table"] == "public.orders"

    @gen_test
    async def test_it_is_a_gap_too_where_triggers_wrote_it(self):
        self.write(
            "CREATE TABLE notes (id int PRIMARY KEY, note text); SELECT changefeed.watch('notes');"
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE notes SET note = 'short'; RETURN NULL; END $$;"
            "CREATE TRIGGER note AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION note()"
        )
        live = await self.connect(protocol=True)
        with (
            ExpectLog("changefeed.journal", "could not read the entry .* it has 200,... bytes", level=30),
            ExpectLog("changefeed.follower", "changes are missing", level=30),
        ):
            self.write("INSERT INTO notes VALUES (1, repeat('x', 200000))")
            self.write("INSERT INTO orders VALUES (2)")
            assert [one if one == 2 else one["table"] for one in await told(live, 2)] == ["public.notes"] * 2 + [2]


class LosingTransactionTest(JournalTestCase):
    @gen_test
    async def test_a_loss_is_reported_again_after_its_transaction(self):
        socket = await self.connect(protocol=True)
        self.write("INSERT INTO orders VALUES (1)")
        await message(socket, "changes")
        self.hide_journal()
        losing = postgres.connect(self.conninfo)
        losing.autocommit = False
        with ExpectLog("changefeed.follower", "changes are missing", level=30):
            losing.cursor().execute("UPDATE orders SET status = 'new'")
            await message(socket, "gap")  # whoever reads the table now reads what was before
            self.show_journal()
            losing.commit()
            losing.close()
            assert "could not be recorded" in (await message(socket, "gap"))["why"]

    @gen_test
    async def test_unread_changes_deleted_by_retention_are_a_gap(self):
        self.write("INSERT INTO orders SELECT generate_series(1, 30000)")
        while self.feed.hub.published < 30000:
            await self.feed.follower.until_moved()
        page = await self.fetch_json("/api/changes?limit=1")
        # In a thread: the server's own reads, which keep a partition from being emptied, are to come to their end.
        while await asyncio.to_thread(self.write, "SELECT count(*) FROM changefeed.journal") != [(0,)]:
            await asyncio.to_thread(self.write, "SELECT changefeed.retain('0 s', 0)")
        # Where the cache does not reach back, and what the server knows of losses is as old as its last read.
        with mock.patch.object(PageCache, "page_after", return_value=None):
            page = await self.fetch_json(f"/api/changes?since={page['cursor']}")
        assert page["gap"] is not None

    @gen_test
    async def test_what_the_server_remembers_is_not_missing(self):
        self.write("INSERT INTO orders VALUES (1)")
        while self.feed.hub.published < 1:
            await self.feed.follower.until_moved()
        cursor = (await self.fetch_json("/api/changes"))["cursor"]
        self.write("INSERT INTO orders VALUES (2)")
        while self.feed.hub.published < 2:
            await self.feed.follower.until_moved()
        self.write("SELECT changefeed.empty_partition(0); INSERT INTO orders VALUES (3)")
        while self.feed.hub.published < 3:
            await self.feed.follower.until_moved()
        page = await self.fetch_json(f"/api/changes?since={cursor}&limit=1")
        assert (page["gap"], page["changes"][0]["data"]["id"]) == (None, 2)
        socket = await self.connect(f"/ws?since={cursor}", protocol=True)
        assert (await message(socket))["type"] == "hello"
        assert (await message(socket))["type"] == "changes"

    @gen_test
    async def test_a_too_old_cursor_gets_one_gap(self):
        self.write("INSERT INTO orders SELECT generate_series(1, 3)")
        while self.feed.hub.published < 3:
            await self.feed.follower.until_moved()
        [first, *_] = (await self.fetch_json("/api/changes"))["changes"]
        self.write("SELECT changefeed.empty_partition(0); INSERT INTO orders VALUES (4)")
        while self.feed.hub.published < 4:
            await self.feed.follower.until_moved()
        with mock.patch.object(PageCache, "page_after", return_value=None):
            socket = await self.connect(f"/ws?since={first['cursor']}", protocol=True)
            gap, last = await told(socket, 4)
        assert ("retention deleted changes after the cursor" in gap["why"], last) == (True, 4)

    @gen_test
    async def test_a_cursor_within_an_order_that_retention_made_unsure_gets_a_gap(self):
        self.write(
            "CREATE FUNCTION free() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " DELETE FROM orders WHERE id = NEW.id; RETURN NEW; END $$;"
            "CREATE TRIGGER free BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION free();"
            "INSERT INTO orders VALUES (1); SELECT changefeed.retain('1 day', 1000)"
        )
        self.write("INSERT INTO orders VALUES (2)")
        self.write("INSERT INTO orders VALUES (1)")
        while self.feed.hub.published < 4:
            await self.feed.follower.until_moved()
        [_, before, deleted, inserted] = (await self.fetch_json("/api/changes"))["changes"]
        assert (deleted["action"], inserted["action"]) == ("DELETE", "INSERT")
        self.write("SELECT changefeed.empty_partition(0)")
        with mock.patch.object(PageCache, "page_after", return_value=None):
            assert (await self.fetch_json(f"/api/changes?since={inserted['cursor']}"))["gap"] is None
            assert (await self.fetch_json(f"/api/changes?since={deleted['cursor']}"))["gap"]
            socket = await self.connect(f"/ws?since={deleted['cursor']}", protocol=True)
            assert "in another order before" in (await message(socket, "gap"))["why"]
            # A client that gets all of it gets it in one order, however many pages it comes in.
            with mock.patch.object(entries, "PAGE_ROWS", 1):
                page = await self.fetch_json(f"/api/changes?since={before['cursor']}")
                assert (page["gap"], len(page["changes"])) == (None, 2)
                socket = await self.connect(f"/ws?since={before['cursor']}", protocol=True)
                await message(socket, "hello")
                assert [(await message(socket))["type"] for _ in range(2)] == ["changes", "changes"]

    @gen_test
    async def test_of_a_count_only_one_that_ended_later_makes_the_order_unsure(self):
        self.write(
            "CREATE FUNCTION free() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " DELETE FROM orders WHERE id = NEW.id; RETURN NEW; END $$;"
            "CREATE TRIGGER free BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION free();"
            "INSERT INTO orders SELECT generate_series(1, 5)"
        )
        self.watch(options=", row_limit => 3")
        while self.feed.hub.published < 5:
            await self.feed.follower.until_moved()
        for is_open in (False, True):
            cursor = (await self.fetch_json("/api/changes"))["cursor"]
            counting = postgres.connect(self.conninfo)
            counting.autocommit = False
            counting.cursor().execute("UPDATE orders SET total = 1 WHERE id > 1")
            if not is_open:
                counting.commit()
            self.write("INSERT INTO orders VALUES (1)")
            while len(found := (await self.fetch_json(f"/api/changes?since={cursor}"))["changes"][-2:]) < 2:
                await self.feed.follower.until_moved()
            counting.commit()
            counting.close()
            await self.feed.journal.identify()  # which forgets the orders
            with mock.patch.object(PageCache, "page_after", return_value=None):
                gap = (await self.fetch_json(f"/api/changes?since={found[0]['cursor']}"))["gap"]
            assert (gap is not None) == is_open

    @gen_test
    async def test_a_foreign_cursor_gets_the_new_place_in_hello(self):
        old = "s." + "A1_-" * 20
        socket = await self.connect(f"/ws?since={old}", protocol=True)
        place = (await message(socket, "hello"))["cursor"]
        assert (await message(socket))["type"] == "gap"
        socket = await self.connect(f"/ws?since={place}", protocol=True)
        self.write("INSERT INTO orders VALUES (1)")
        assert await told(socket, 1) == [1]

    @gen_test
    async def test_a_long_transaction_causes_no_gap_during_retention(self):
        open_for_long = postgres.connect(self.conninfo)
        open_for_long.autocommit = False
        open_for_long.cursor().execute("SELECT pg_current_xact_id()")
        socket = await self.connect(protocol=True)
        for number in range(1, 40):
            self.write("INSERT INTO orders VALUES (%s, repeat('x', 10000))", [number])
            assert await told(socket, number) == [number]
            self.write("SELECT changefeed.retain('100 years', 40000)")
        fresh = (await message(await self.connect(protocol=True), "hello"))["cursor"]
        plain = await self.connect(f"/ws?since={fresh}")
        self.write("INSERT INTO orders VALUES (50)")
        assert json.loads(str(await plain.read_message()))["data"]["id"] == 50
        assert (await self.fetch_json(f"/api/changes?since={fresh}"))["gap"] is None
        open_for_long.close()

    @gen_test
    async def test_live_clients_get_a_gap_when_retention_deletes_unread_changes(self):
        late = postgres.connect(self.conninfo)
        late.autocommit = False
        late.cursor().execute("INSERT INTO orders VALUES (1)")
        socket = await self.connect(protocol=True)
        for number in range(2, 12):
            self.write("INSERT INTO orders VALUES (%s)", [number])
            assert await told(socket, number) == [number]
            self.write("SELECT changefeed.retain('0 s', 0)")
        with ExpectLog("changefeed.follower", "changes are missing", level=30):
            late.commit()
            late.close()
            self.write("SELECT changefeed.retain('0 s', 0)")  # which the server, in this thread, cannot come before
            assert "retention" in (await message(socket, "gap"))["why"]


class GreetingTest(JournalTestCase):
    """Whoever is greeted has a place; until there is one nobody is."""

    def prepare_database(self) -> None:
        super().prepare_database()
        self.holder = postgres.connect(self.conninfo)
        self.holder.autocommit = False
        self.holder.cursor().execute("LOCK TABLE changefeed.meta IN ACCESS EXCLUSIVE MODE")

    async def _following(self) -> None:
        """The journal does not answer yet."""

    @gen_test
    async def test_no_hello_is_sent_before_the_journal_answers(self):
        connecting = asyncio.ensure_future(self.connect(protocol=True))
        await self.fetch_json("/readyz", 503)
        with pytest.raises(HTTPClientError) as refused:
            await connecting
        assert refused.value.code == 503
        connecting = asyncio.ensure_future(self.connect(protocol=True))
        await asyncio.sleep(0)
        self.holder.close()
        socket = await connecting
        self.write("INSERT INTO orders VALUES (1)")
        assert (await message(socket, "hello"))["cursor"] is not None
        assert await told(socket, 1) == [1]


class StreamGreetingTest(GreetingTest):
    """An EventSource, whose connection waits in a page for the answer, learns first when to come back."""

    @gen_test
    async def test_no_hello_is_sent_before_the_journal_answers(self):
        for query in ("", "?table=orders&filter=id=gt.0"):
            answer = await self.http_client.fetch(
                self.get_url(f"/events{query}"), headers={"Accept": "text/event-stream"}
            )
            assert b"retry: " in answer.body
            assert b"not_ready" in answer.body
            assert b"id: " not in answer.body
        assert start.SSE_DEADLINE_SECONDS < start.JOURNAL_DEADLINE_SECONDS
        self.holder.close()


class ReadyTest(JournalTestCase):
    """Ready means delivering."""

    async def until_ready(self, status: int) -> Any:
        """The answer of /readyz once it is this one; each wait ends with the next read of the journal."""
        while True:
            response = await self.http_client.fetch(self.get_url("/readyz"), raise_error=False)
            if response.code == status:
                return json.loads(response.body)
            self.feed.follower.wake()

    @gen_test
    async def test_a_journal_that_cannot_be_read_and_can_be_again(self):
        await self.until_ready(200)
        socket = await self.connect(protocol=True)
        with (
            ExpectLog("changefeed.follower", "the journal cannot be read", level=30),
            ExpectLog("changefeed.follower", "the journal can be read again", level=20),
        ):
            self.write("ALTER FUNCTION changefeed.read RENAME TO hidden")
            self.feed.follower.wake()
            assert "the journal cannot be read" in (await self.until_ready(503))["error"]["message"]
            metrics = (await self.http_client.fetch(self.get_url("/metrics"))).body.decode()
            assert 'changefeed_delivering{process="1"} 0.0' in metrics
            assert self.feed.readiness.database_state()["state"] == "lost"
            self.write("INSERT INTO orders VALUES (1)")
            self.write("ALTER FUNCTION changefeed.hidden RENAME TO read")
            await self.until_ready(200)
        assert await told(socket, 1) == [1]

    @gen_test
    async def test_a_locked_journal(self):
        await self.until_ready(200)
        socket = await self.connect(protocol=True)
        states: list[str] = []
        self.feed.follower._health._on_state = lambda: states.append(self.feed.readiness.database_state()["state"])  # type: ignore[func-returns-value]
        holder = postgres.connect(self.conninfo)
        holder.autocommit = False
        holder.cursor().execute("LOCK TABLE changefeed.journal IN ACCESS EXCLUSIVE MODE")
        with ExpectLog("changefeed.follower", "the journal (has not answered|answers again)", level=20):
            assert "the journal has not answered" in (await self.until_ready(503))["error"]["message"]
            holder.close()
            await self.until_ready(200)
        assert states == ["lost", "listening"]
        self.write("INSERT INTO orders VALUES (1)")
        assert await told(socket, 1) == [1]

    @gen_test
    async def test_a_server_busy_with_a_page_is_behind_and_not_silent(self):
        await self.until_ready(200)
        socket = await self.connect(protocol=True)
        ordered, is_delivered = nested_order._in_order, threading.Event()

        def slowly(*args: Any) -> Any:
            is_delivered.wait()
            return ordered(*args)

        with (
            mock.patch.object(journal_health, "STALLED_SECONDS", 0.1),
            mock.patch.object(nested_order, "INLINE_ENTRIES", 0),
            mock.patch.object(nested_order, "_in_order", slowly),
        ):
            self.write(
                "BEGIN; INSERT INTO orders VALUES (1); DELETE FROM orders; INSERT INTO orders VALUES (2); COMMIT"
            )
            try:
                while (await self.until_ready(200))["behind_seconds"] < 0.5:
                    pass
            finally:
                is_delivered.set()
        assert await told(socket, 2) == [1, 1, 2]

    @gen_test
    async def test_a_schema_that_this_server_is_too_old_for(self):
        await self.until_ready(200)
        self.write("UPDATE changefeed.meta SET version = 99, readable_from = 6")
        with ExpectLog("changefeed.follower", ".*has version 99, this server has", level=30):
            self.feed.follower.reidentify()
            assert "use the newer server" in (await self.until_ready(503))["error"]["message"]
        self.write("UPDATE changefeed.meta SET readable_from = 5")  # newer, and still to be read by this one
        self.feed.follower.reidentify()
        await self.until_ready(200)
