"""The feed from the journal: what a change looks like, and that a client that comes back gets each one once."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from socket import IPPROTO_TCP
from time import monotonic
from typing import Any
from unittest import mock

import pytest
from tornado.httpclient import HTTPClientError
from tornado.testing import ExpectLog, gen_test
from tornado.websocket import WebSocketClientConnection

from changefeed import turns
from changefeed.change.times import iso
from changefeed.journal import journal
from changefeed.journal.cursor import Place, encode
from changefeed.journal.page_cache import Page, PageCache
from changefeed.postgres.listener import ListenerState
from changefeed.selection.subscription import TableSelection
from handlers.delivery.dialects import Dialect
from handlers.feed import sse
from handlers.feed.client import PICKED_AT_ONCE, FeedClient
from handlers.feed.query import FeedQuery
from handlers.feed.sse import GIVE_UP_SECONDS
from handlers.feed.start import Start
from handlers.http.context import ServerContext
from handlers.http.server import DROP_OPTION, DROP_UNITS_PER_SECOND
from tests.feed_case import ORDERS, UPGRADE, FeedTestCase, message

KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


class JournalTestCase(FeedTestCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()

    async def ids(self, socket: WebSocketClientConnection, count: int) -> list[int]:
        """The rows' ids of the next changes on a plain socket."""
        return [json.loads(await socket.read_message())["data"]["id"] for _ in range(count)]

    def hide_journal(self) -> None:
        """From now on nothing can be recorded."""
        self.write("SELECT setval('changefeed.slot', 1)")  # what was recorded before stays
        self.write("ALTER TABLE changefeed.journal_1 RENAME TO hidden")
        [(self.bounds,)] = self.write("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'hidden'")
        self.write("ALTER TABLE changefeed.journal DETACH PARTITION changefeed.hidden")

    def show_journal(self) -> None:
        self.write(f"ALTER TABLE changefeed.journal ATTACH PARTITION changefeed.hidden {self.bounds}")
        self.write("ALTER TABLE changefeed.hidden RENAME TO journal_1")

    async def cursor_after(self, changes: int) -> str:
        """The cursor of the last of the next changes."""
        page = await self.fetch_json(f"/api/changes?limit={changes}")
        return page["changes"][-1]["cursor"]


class DearPageTest(JournalTestCase):
    @gen_test
    async def test_a_page_that_is_slow_to_parse_is_split(self):
        with mock.patch.object(journal, "PAGE_SECONDS", 0.0):
            live = await self.connect()
            self.write("INSERT INTO orders SELECT generate_series(1, 50)")
            assert await self.ids(live, 50) == list(range(1, 51))

    @gen_test
    async def test_slices_of_a_page_let_others_run(self):
        published = set()

        async def take_turns() -> None:
            while True:
                published.add(self.feed.hub.published)
                await asyncio.sleep(0)

        with mock.patch.object(turns, "TURN_SECONDS", 0.0):
            live = await self.connect()
            others = asyncio.ensure_future(take_turns())
            self.write("INSERT INTO orders SELECT generate_series(1, 50)")
            told = [json.loads(await live.read_message()) for _ in range(50)]
            others.cancel()
        assert [change["data"]["id"] for change in told] == list(range(1, 51))
        assert len(published) > 50 - turns.FIRST_COUNT
        for change in told[::7]:
            back = await self.connect(f"/ws?since={change['cursor']}")
            assert await self.ids(back, 50 - change["data"]["id"]) == list(range(change["data"]["id"] + 1, 51))

    @gen_test
    async def test_other_requests_are_answered_during_one_fan_out(self):
        got: list[str] = []

        async def read(client: WebSocketClientConnection, name: str) -> None:
            await client.read_message()
            got.append(name)

        filters = [f"/ws?table=orders&filter=id=neq.{number}" for number in range(30)]
        followers = [await self.connect(path) for path in filters]
        other = await self.connect(protocol=True)
        await message(other, "hello")
        deliver = self.feed.live_clients.broadcast

        def deliver_and_be_asked(*args: Any) -> None:
            deliver(*args)
            reads.append(asyncio.ensure_future(other.write_message("not JSON")))

        reads = [asyncio.ensure_future(read(client, "follower")) for client in followers]
        with (
            mock.patch.object(turns, "TURN_SECONDS", 0.0),
            mock.patch.object(self.feed.live_clients, "broadcast", deliver_and_be_asked),
        ):
            self.write("INSERT INTO orders VALUES (100)")
            await message(other, "error")
            got.append("other")
            await asyncio.gather(*reads)
        assert got.index("other") < len(got) - 1

    @gen_test
    async def test_reading_the_past_examines_few_changes_in_one_turn(self):
        examined = most = 0
        pick = TableSelection.pick

        def count(*args: Any) -> Any:
            nonlocal examined, most
            examined += 1
            most = max(most, examined)
            return pick(*args)

        async def take_turns() -> None:
            nonlocal examined
            while True:
                examined = 0
                await asyncio.sleep(0)

        cursor = (await self.fetch_json("/api/changes"))["cursor"]
        self.write("INSERT INTO orders SELECT generate_series(1, 300)")
        while self.feed.hub.published < 300:
            await self.feed.follower.until_moved()
        others = asyncio.ensure_future(take_turns())
        with mock.patch.object(turns, "TURN_SECONDS", 0.0), mock.patch.object(TableSelection, "pick", count):
            client = await self.connect(f"/ws?table=orders&filter=id=gt.0&since={cursor}")
            assert await self.ids(client, 300) == list(range(1, 301))
            page = await self.fetch_json(f"/api/changes?table=orders&filter=id=gt.0&since={cursor}")
            assert len(page["changes"]) == 300
        others.cancel()
        assert most <= PICKED_AT_ONCE + 1  # the page and the client may have their turns one after the other

    @gen_test
    async def test_a_new_subscription_applies_after_the_current_change(self):
        followers = [
            await self.connect(f"/ws?table=orders&filter=id=neq.{number}", protocol=True) for number in range(30)
        ]
        for client in followers:
            await message(client, "hello")
        deliver = self.feed.live_clients.broadcast

        def deliver_and_subscribe(*args: Any) -> None:
            deliver(*args)
            for client in followers:
                client.write_message('{"type": "subscribe", "table": "orders", "action": "DELETE"}')

        with mock.patch.object(turns, "TURN_SECONDS", 0.0):
            with mock.patch.object(self.feed.live_clients, "broadcast", deliver_and_subscribe):
                self.write("INSERT INTO orders VALUES (100)")
                for client in followers:
                    told, hello = await message(client), await message(client)
                    assert [change["data"]["id"] for change in told["changes"]] == [100]
                    assert hello["type"] == "hello"
            self.write("INSERT INTO orders VALUES (101)")
            self.write("DELETE FROM orders WHERE id = 101")
            for client in followers:
                told = await message(client, "changes")
                assert [change["action"] for change in told["changes"]] == ["DELETE"]


class FloorTest(JournalTestCase):
    @gen_test
    async def test_many_commits_are_few_reads(self):
        reads = 0
        read = self.feed.journal.read

        async def read_and_count(place: Place, *more: Any) -> Page:
            nonlocal reads
            reads += 1
            return await read(place, *more)

        live = await self.connect()
        began, self.feed.follower._floor.seconds = monotonic(), 0.5
        with mock.patch.object(self.feed.journal, "read", read_and_count):
            for number in range(100):
                self.write("INSERT INTO orders VALUES (%s)", [number])
                await asyncio.sleep(0)  # the server learns of each
                if number == 0:
                    assert await self.ids(live, 1) == [0]
            assert await self.ids(live, 99) == list(range(1, 100))
            assert reads <= 2 + (monotonic() - began) / 0.5


class ChangeTest(JournalTestCase):
    @gen_test
    async def test_each_action_has_its_old_and_new_values(self):
        socket = await self.connect()
        self.write("INSERT INTO orders VALUES (9007199254740993, 'new', 1.10)")
        self.write("UPDATE orders SET status = 'paid', id = 5")
        self.write("DELETE FROM orders")
        self.write("TRUNCATE orders")
        texts = [await socket.read_message() for _ in range(4)]
        assert '"data": {"id":9007199254740993,"status":"new","total":1.10}, "schema": "public", "at"' in texts[0]
        assert '"old": {"id": 9007199254740993, "status": "new"}' in texts[1]
        changes = [json.loads(text) for text in texts]
        assert [list(change)[:3] for change in changes] == [["table", "action", "data"]] * 4
        assert [change["action"] for change in changes] == ["INSERT", "UPDATE", "DELETE", "TRUNCATE"]
        assert changes[2]["data"] == {"id": 5, "status": "paid", "total": 1.1}
        assert changes[3]["data"] is None
        assert {change["table"] for change in changes} == {"orders"}
        assert all("old" not in change for change in changes if change["action"] != "UPDATE")
        assert all(change["at"].endswith("+00:00") for change in changes)
        assert changes[0]["xid"] < changes[3]["xid"]

    @gen_test
    async def test_a_statement_above_its_row_limit_is_one_change(self):
        self.watch(options=", row_limit => 2")
        socket = await self.connect()
        self.write("INSERT INTO orders SELECT generate_series(1, 3)")
        change = await message(socket)
        assert (change["action"], change["data"], change["count"]) == ("INSERT", None, 3)
        assert (await self.fetch_json("/api/activity"))["totals"] == {"public.orders": [3, 0, 0, 0]}

    @gen_test
    async def test_a_big_statement_reaches_every_socket(self):
        sockets = [await self.connect() for _ in range(2)] + [await self.connect(protocol=True)]
        self.write("INSERT INTO orders SELECT generate_series(1, 20000), repeat('x', 100)")

        async def typed() -> list[int]:
            got: list[int] = []
            while len(got) < 20_000:
                got += [change["data"]["id"] for change in (await message(sockets[2], "changes"))["changes"]]
            return got

        for got in await asyncio.gather(self.ids(sockets[0], 20_000), self.ids(sockets[1], 20_000), typed()):
            assert got == list(range(1, 20001))

    @gen_test
    async def test_what_no_notify_announces_the_sweep_finds(self):
        socket = await self.connect()
        self.write(
            "INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, data) "
            "VALUES (0, now(), 'I', 'public', 'orders', '{\"id\":7}')"
        )
        assert await self.ids(socket, 1) == [7]


class ResumeTest(JournalTestCase):
    @gen_test
    async def test_after_each_cursor_come_exactly_the_changes_behind_it(self):
        self.write("INSERT INTO orders SELECT generate_series(1, 5)")
        self.write("UPDATE orders SET total = 1 WHERE id IN (2, 4)")
        page = await self.fetch_json("/api/changes")
        assert [change["data"]["id"] for change in page["changes"]] == [1, 2, 3, 4, 5, 2, 4]
        for place, change in enumerate(page["changes"]):
            behind = await self.fetch_json(f"/api/changes?since={change['cursor']}")
            assert behind["changes"] == page["changes"][place + 1 :]
            assert (behind["gap"], behind["has_more"]) == (None, False)
            if place < 6:
                socket = await self.connect(f"/ws?since={change['cursor']}")
                assert await self.ids(socket, 6 - place) == [1, 2, 3, 4, 5, 2, 4][place + 1 :]

    @gen_test
    async def test_the_past_and_the_present_join_without_a_seam(self):
        self.write("INSERT INTO orders SELECT generate_series(1, 3000)")
        cursor = await self.cursor_after(10)
        sockets = [await self.connect(f"/ws?since={cursor}") for _ in range(3)]
        for number in range(3001, 3031):
            self.write("INSERT INTO orders VALUES (%s)", [number])
        for socket in sockets:
            assert await self.ids(socket, 3020) == list(range(11, 3031))

    @gen_test
    async def test_the_cursor_of_hello_leads_to_what_comes_next(self):
        first = await self.connect(protocol=True)
        hello = await message(first, "hello")
        assert len(hello["epoch"]) == 12
        first.close()
        self.write("INSERT INTO orders VALUES (2), (3)")
        again = await self.connect(f"/ws?since={hello['cursor']}", protocol=True)
        assert (await message(again, "hello"))["cursor"] == hello["cursor"]
        changes = await message(again, "changes")
        assert [change["data"]["id"] for change in changes["changes"]] == [2, 3]
        behind = await self.fetch_json(f"/api/changes?since={changes['cursor']}")
        assert behind["changes"] == []

    @gen_test
    async def test_a_cursor_at_a_cached_pages_end_leads_on(self):
        before = self.feed.follower.cache.edge
        socket = await self.connect()
        for row in (1, 2):  # two pages in the cache, and one batch for whoever reads the journal from the beginning
            self.write(f"INSERT INTO orders VALUES ({row})")
            assert await self.ids(socket, 1) == [row]
        batch = await self.feed.journal.read(before, upto=self.feed.follower.cache.edge.batch)
        cursor = self.feed.journal.encode(batch.place_after(batch.changes[-1]))
        self.write("INSERT INTO orders VALUES (3)")
        assert await self.ids(socket, 1) == [3]
        page = await self.fetch_json(f"/api/changes?since={cursor}")
        assert [change["data"]["id"] for change in page["changes"]] == [3]

    @gen_test
    async def test_replay_gives_the_last_ones_first(self):
        live = await self.connect()
        self.write("INSERT INTO orders SELECT generate_series(1, 5)")
        await self.ids(live, 5)
        socket = await self.connect("/ws?replay=2")
        self.write("INSERT INTO orders VALUES (6)")
        assert await self.ids(socket, 3) == [4, 5, 6]

    @gen_test
    async def test_a_text_that_is_no_cursor_is_refused_on_every_route(self):
        for path in ("/ws", "/events", "/api/changes"):
            headers = UPGRADE if path.startswith("/ws") else {}
            for since in ("x", "1.AAAA", "1" * 5000):
                error = (await self.fetch_json(f"{path}?since={since}", 400, headers=headers))["error"]
                assert error["code"] == "not_a_cursor"
        for path in ("/ws?replay=x", "/ws?replay=-1", "/events?replay=1000000"):
            headers = UPGRADE if path.startswith("/ws") else {}
            assert (await self.fetch_json(path, 400, headers=headers))["error"]["code"] == "bad_replay"

    @gen_test
    async def test_a_cursor_of_another_journal_gets_a_gap(self):
        self.write("INSERT INTO orders VALUES (1)")
        cursor = await self.cursor_after(1)
        live = await self.connect(protocol=True)
        with ExpectLog("changefeed.follower", "the journal was replaced", level=30):
            self.write("UPDATE changefeed.meta SET epoch = gen_random_uuid()")
            self.feed.follower.reidentify()
            assert "was replaced" in (await message(live, "gap"))["why"]
        page = await self.fetch_json(f"/api/changes?since={cursor}")
        assert "another journal" in page["gap"]["why"]
        again = await self.connect(f"/ws?since={cursor}", protocol=True)
        assert (await message(again, "gap"))["from"] == cursor
        with pytest.raises(HTTPClientError) as refused:
            await self.connect(f"/ws?since={cursor}")
        assert refused.value.code == 410

    @gen_test
    async def test_a_restored_journal_starts_over_before_it_is_read(self):
        self.write("INSERT INTO orders VALUES (1)")
        await self.cursor_after(1)
        live = await self.connect(protocol=True)
        with ExpectLog("changefeed.follower", "the journal was replaced", level=30):
            # As after a restore into a younger cluster.
            self.write("UPDATE changefeed.journal SET xid = (xid::text::bigint + 1000000)::text::xid8")
            self.feed.follower.reidentify()
            assert "was replaced" in (await message(live, "gap"))["why"]
        self.write("INSERT INTO orders VALUES (2)")
        page = await self.fetch_json("/api/changes")
        assert [change["data"]["id"] for change in page["changes"]] == [2]

    @gen_test
    async def test_a_cursor_from_before_what_retention_took_gets_a_gap(self):
        self.write("INSERT INTO orders SELECT generate_series(1, 3)")
        cursors = [change["cursor"] for change in (await self.fetch_json("/api/changes"))["changes"]]
        self.write("SELECT changefeed.empty_partition(0)")
        self.write("INSERT INTO orders VALUES (4)")
        live = await self.connect()
        self.write("INSERT INTO orders VALUES (5)")
        while await self.ids(live, 1) != [5]:
            pass
        with mock.patch.object(PageCache, "page_after", return_value=None):  # it remembers none of them
            page = await self.fetch_json(f"/api/changes?since={cursors[0]}")
        assert "retention deleted changes after the cursor" in page["gap"]["why"]
        [(last_at,)] = self.write("SELECT last_value FROM changefeed.lost_at")
        assert page["gap"]["until"] == iso(datetime.fromtimestamp(last_at / 1e6, UTC))
        page = await self.fetch_json(f"/api/changes?since={cursors[2]}")
        assert (page["gap"], [change["data"]["id"] for change in page["changes"]]) == (None, [4, 5])


class OutageTest(JournalTestCase):
    @gen_test
    async def test_changes_during_an_outage_are_sent_without_a_gap(self):
        plain, protocol = await self.connect(), await self.connect(protocol=True)
        with ExpectLog("changefeed.listener", "lost the LISTEN connection", level=30):
            self.write(KILL)
            self.write("INSERT INTO orders VALUES (1)")
            await self.until_state(ListenerState.LOST)
            await self.until_state(ListenerState.LISTENING)
        self.write("INSERT INTO orders VALUES (2)")
        assert await self.ids(plain, 2) == [1, 2]
        kinds: list[Any] = [await message(protocol)]
        while sum(len(told.get("changes", ())) for told in kinds) < 2:
            kinds.append(await message(protocol))
        assert {told["type"] for told in kinds} == {"hello", "changes"}

    @gen_test
    async def test_each_lost_statement_is_a_gap_and_the_first_logged(self):
        protocol = await self.connect(protocol=True)
        self.hide_journal()
        with ExpectLog("changefeed.follower", "changes are missing: some statements", level=30) as expected:
            for number in (1, 2, 3):
                self.write("INSERT INTO orders VALUES (%s)", [number])
                assert "could not be recorded" in (await message(protocol, "gap"))["why"]
        assert expected.matched == 1
        assert self.write("SELECT count(*) FROM orders") == [(3,)]

    @gen_test
    async def test_a_returning_client_gets_the_gap_of_a_lost_statement(self):
        protocol = await self.connect(protocol=True)
        self.write("INSERT INTO orders VALUES (1)")
        before = (await message(protocol, "changes"))["cursor"]
        self.hide_journal()
        with ExpectLog("changefeed.follower", "changes are missing", level=30):
            self.write("INSERT INTO orders VALUES (2)")
            await message(protocol, "gap")
        self.show_journal()
        self.write("INSERT INTO orders VALUES (3)")
        await message(protocol, "changes")

        back = await self.connect(f"/ws?since={before}", protocol=True)
        assert "could not be recorded" in (await message(back, "gap"))["why"]
        assert (await message(back, "changes"))["changes"][0]["data"]["id"] == 3
        assert "could not be recorded" in (await self.fetch_json(f"/api/changes?since={before}"))["gap"]["why"]
        with pytest.raises(HTTPClientError) as refused:
            await self.connect(f"/ws?since={before}")
        assert refused.value.code == 410
        self.write("INSERT INTO orders VALUES (4)")
        behind = (await message(protocol, "changes"))["cursor"]
        assert (await self.fetch_json(f"/api/changes?since={behind}"))["gap"] is None

    @gen_test
    async def test_a_client_that_catches_up_gets_the_gap_of_a_loss(self):
        protocol = await self.connect(protocol=True)
        self.write("INSERT INTO orders VALUES (1)")
        cursor = (await message(protocol, "changes"))["cursor"]

        async def wait(client: FeedClient, cache: PageCache, place: Place, *, is_resumed: bool) -> None:
            await asyncio.Event().wait()

        with mock.patch.object(FeedClient, "_next_page", wait):
            back = await self.connect(f"/ws?since={cursor}", protocol=True)
            await message(back, "hello")
            self.hide_journal()
            with ExpectLog("changefeed.follower", "changes are missing", level=30):
                self.write("INSERT INTO orders VALUES (2)")
                assert "could not be recorded" in (await message(back, "gap"))["why"]


class LostBeforeTest(JournalTestCase):
    """What could not be recorded before the server was started: what it would not know of by itself."""

    def prepare_database(self) -> None:
        super().prepare_database()
        self.write("INSERT INTO orders VALUES (1)")
        self.hide_journal()
        self.write("INSERT INTO orders VALUES (2)")
        self.show_journal()
        self.write("INSERT INTO orders VALUES (3)")

    def uninformed(self, cursor: str) -> str:
        """The same cursor, as an earlier server gave it before that statement."""
        assert self.feed.journal.epoch is not None
        return encode(self.feed.journal.epoch, replace(self.feed.journal.decode(cursor), losses=0))

    @gen_test
    async def test_a_client_that_returns_after_a_restart_gets_a_gap_once(self):
        cursor = await self.cursor_after(2)
        before = self.uninformed(cursor)
        assert "could not be recorded" in (await self.fetch_json(f"/api/changes?since={before}"))["gap"]["why"]
        dashboard = await self.connect(f"/ws/activity?since={before}")
        assert "could not be recorded" in (await message(dashboard, "gap"))["why"]
        with pytest.raises(HTTPClientError) as refused:
            await self.connect(f"/ws?since={before}")
        assert refused.value.code == 410

        back = await self.connect(f"/ws?since={before}", protocol=True)
        told = (await message(back, "hello"))["cursor"]
        assert "could not be recorded" in (await message(back, "gap"))["why"]
        assert (await self.fetch_json(f"/api/changes?since={told}"))["gap"] is None
        await self.connect(f"/ws?since={told}")

    @gen_test
    async def test_a_new_client_gets_no_gap(self):
        page = await self.fetch_json("/api/changes")
        assert ([change["data"]["id"] for change in page["changes"]], page["gap"]) == ([1, 3], None)


class RestartTest(JournalTestCase):
    def prepare_database(self) -> None:
        super().prepare_database()
        self.write("INSERT INTO orders SELECT generate_series(1, 100)")
        self.write("UPDATE orders SET total = 1 WHERE id <= 10")
        self.write("UPDATE changefeed.journal SET at = at - interval '1 minute'")  # when this server was not yet made

    @gen_test
    async def test_counts_and_newest_rows_of_before_are_there(self):
        activity = await self.fetch_json("/api/activity")
        assert activity["totals"] == {"public.orders": [100, 10, 0, 0]}
        assert sum(bucket["counts"]["public.orders"][0] for bucket in activity["buckets"]) == 100
        [(first_at,)] = self.write("SELECT min(at) FROM changefeed.journal")
        assert activity["since"] == iso(first_at)
        minutes = await self.fetch_json("/api/activity?step=60&window=86400")
        assert sum(bucket["counts"]["public.orders"][1] for bucket in minutes["buckets"]) == 10
        dashboard = await self.connect("/ws/activity")
        assert len((await message(dashboard, "hello"))["recent"]) == 110

    @gen_test
    async def test_an_older_cursor_resumes_from_memory(self):
        page = await self.fetch_json("/api/changes?limit=30")
        socket = await self.connect(f"/ws?since={page['cursor']}")
        assert (await self.ids(socket, 80))[:70] == list(range(31, 101))

    @gen_test
    async def test_what_memory_no_longer_holds_comes_from_the_journal(self):
        cursor = await self.cursor_after(30)
        cache = self.feed.follower.cache
        assert cache
        cache._limit_bytes = 1
        self.write("INSERT INTO orders VALUES (101)")
        live = await self.connect()
        self.write("INSERT INTO orders VALUES (102)")
        while await self.ids(live, 1) != [102]:
            pass
        assert cache.page_after(self.feed.journal.decode(cursor)) is None
        socket = await self.connect(f"/ws?since={cursor}")
        assert (await self.ids(socket, 82))[:70] == list(range(31, 101))
        self.write("INSERT INTO orders VALUES (103)")
        assert await self.ids(socket, 1) == [103]


class CatchUpTest(JournalTestCase):
    @gen_test
    async def test_many_small_pages_take_few_turns_of_the_loop(self):
        live, pages, cursors = await self.connect(), 200, []
        for number in range(pages):
            self.write("INSERT INTO orders VALUES (%s)", [number])
            cursors.append(json.loads(await live.read_message())["cursor"])
        with mock.patch.object(asyncio, "sleep", wraps=asyncio.sleep) as slept:
            socket = await self.connect(f"/ws?since={cursors[0]}")
            assert await self.ids(socket, pages - 1) == list(range(1, pages))
        turns = [call for call in slept.call_args_list if call.args == (0,)]
        assert len(turns) < pages // 4


class EventStreamTest(JournalTestCase):
    async def stream(self, path: str, count: int, headers: dict[str, str] | None = None) -> list[dict[str, str]]:
        """The first events of an event stream, each as its fields."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.get_http_port()}\r\n{lines}\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert "200 OK" in head
        assert "Content-Type: text/event-stream" in head
        events: list[dict[str, str]] = []
        while len(events) < count:
            block = (await reader.readuntil(b"\n\n")).decode().strip()
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "data" in fields:
                events.append(fields)
        writer.close()
        return events

    @gen_test
    async def test_events_have_cursors_and_resume_after_the_last(self):
        self.write("INSERT INTO orders SELECT generate_series(1, 4)")
        page = await self.fetch_json("/api/changes")
        since = page["changes"][0]["cursor"]
        events = await self.stream(f"/events?since={since}", 3)
        assert [json.loads(event["data"]) for event in events] == page["changes"][1:]
        assert [event["id"] for event in events] == [change["cursor"] for change in page["changes"][1:]]
        again = await self.stream("/events", 1, {"Last-Event-ID": events[1]["id"]})
        assert json.loads(again[0]["data"])["data"]["id"] == 4

    @gen_test
    async def test_gaps_of_lost_statements_say_how_many_and_between_which_times_on_every_road(self):
        live = await self.connect(protocol=True)
        self.write("INSERT INTO orders VALUES (1)")
        before = (await message(live, "changes"))["cursor"]
        self.hide_journal()
        began = datetime.now(UTC)
        with ExpectLog("changefeed.follower", "changes are missing", level=30):
            for number in (2, 3):
                self.write("INSERT INTO orders VALUES (%s)", [number])
                gap = await message(live, "gap")
                assert (gap["skipped"], gap["since"] < gap["until"]) == (1, True)
        ended = datetime.now(UTC)
        self.show_journal()
        back = await message(await self.connect(f"/ws?since={before}", protocol=True), "gap")
        [event] = await self.stream(f"/events?since={before}", 1)
        page = await self.fetch_json(f"/api/changes?since={before}")
        for gap in (back, json.loads(event["data"]), page["gap"]):
            since, until = (datetime.fromisoformat(gap[name]) for name in ("since", "until"))
            assert (gap["skipped"], since <= began <= until <= ended) == (2, True)

    @gen_test
    async def test_a_cursor_of_elsewhere_is_an_event_gap(self):
        foreign = self.feed.journal.encode(self.feed.follower.cache.edge)  # type: ignore[union-attr]
        self.feed.journal.epoch = b"others"
        assert (await self.stream(f"/events?since={foreign}", 1))[0]["event"] == "gap"

    @gen_test
    async def test_tcp_ends_a_stream_without_acknowledgements(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        [client] = self.feed.live_clients.connected
        limit = client.outbox._stream.socket.getsockopt(IPPROTO_TCP, DROP_OPTION)
        assert limit == GIVE_UP_SECONDS * DROP_UNITS_PER_SECOND
        writer.close()

    @gen_test
    async def test_a_client_that_leaves_before_its_start_is_no_error(self):
        left = asyncio.Event()

        async def prepare_start(feed: ServerContext, query: FeedQuery, dialect: Dialect) -> Start:
            writer.close()
            await closed.wait()
            left.set()
            return Start(query)

        closed = asyncio.Event()
        with (
            mock.patch.object(sse, "prepare_start", prepare_start),
            mock.patch.object(sse.EventStreamHandler, "on_connection_close", side_effect=closed.set),
        ):
            _, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
            writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await left.wait()
            await asyncio.sleep(0)
        assert not self.feed.live_clients.connected
        assert self.feed.admission.count == 0

    @gen_test
    async def test_a_stream_that_its_client_left_is_forgotten(self):
        self.write("INSERT INTO orders VALUES (1)")
        await self.stream("/events?replay=1", 1)
        await self.feed.admission.until_empty()
        assert not self.feed.live_clients.connected


class WatchRouteTest(FeedTestCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.write('CREATE SCHEMA "a.b"; CREATE TABLE "a.b"."Odd Näme" (id int)')

    @gen_test
    async def test_a_table_is_watched_and_unwatched_over_http(self):
        answer = await self.fetch_json("/api/tables/public.orders/watch", method="PUT", body="")
        assert answer == {"table": "public.orders", "is_watched": True, "has_changed": True}
        again = await self.fetch_json("/api/tables/public.orders/watch", method="PUT", body="{}")
        assert not again["has_changed"]
        await self.until_following()
        socket = await self.connect()
        self.write("INSERT INTO orders VALUES (1)")
        assert (await message(socket))["data"]["id"] == 1
        listed = {table["table"]: table for table in (await self.fetch_json("/api/tables"))["tables"]}
        assert (listed["orders"]["is_watched"], listed["orders"]["watched_by"]) == (True, "journal")
        status = await self.fetch_json("/api/status")
        assert [table["table"] for table in status["watched"]] == ["orders"]
        assert status["journal"]["bytes"] > 0
        gone = await self.fetch_json("/api/tables/public.orders/watch", method="DELETE")
        assert (gone["is_watched"], gone["has_changed"]) == (False, True)

    async def until_following(self) -> None:
        while self.feed.follower.cache is None:
            await self.feed.follower.until_known(30)
            await asyncio.sleep(0)

    @gen_test
    async def test_options_and_odd_names_are_understood(self):
        path = "/api/tables/a.b.Odd%20N%C3%A4me/watch"
        body = json.dumps({"omit": ["id"], "row_limit": 5, "strict": True})
        assert (await self.fetch_json(path, method="PUT", body=body))["has_changed"]
        assert self.write("SELECT omit, row_limit, strict FROM changefeed.status()") == [(["id"], 5, True)]
        assert (await self.fetch_json(path, method="PUT", body='{"omit": [], "hash": ["id"]}'))["has_changed"]
        await self.until_following()
        [watched] = (await self.fetch_json("/api/status"))["watched"]
        assert (watched["omit"], watched["hash"]) == ([], ["id"])

    @gen_test
    async def test_a_refused_watch_gives_the_reason(self):
        self.write("CREATE VIEW some_view AS SELECT 1")
        for name, status, code, body in (
            ("public.nix", 404, "no_such_table", ""),
            ("nix", 404, "no_such_table", ""),
            ("public.some_view", 409, "cannot_watch", ""),
            ("public.orders", 409, "cannot_watch", '{"omit": ["nix"]}'),
            ("public.orders", 400, "not_json", "{"),
            ("public.orders", 400, "not_json", '{"omit": ["status"], "omit": []}'),
            ("public.orders", 400, "bad_options", "[]"),
            ("public.orders", 400, "bad_options", '{"row_limit": 0}'),
            ("public.orders", 400, "bad_options", '{"rowlimit": 1}'),
            ("public.orders", 400, "bad_options", '{"omit": "id"}'),
            ("public.orders", 400, "bad_options", '{"hash": [1]}'),
            ("public.orders", 409, "cannot_watch", '{"omit": ["status"], "hash": ["status"]}'),
        ):
            path = f"/api/tables/{name}/watch"
            error = (await self.fetch_json(path, status, method="PUT", body=body))["error"]
            assert error["code"] == code, body
        assert (await self.fetch_json("/api/tables/public.nix/watch", 404, method="DELETE"))["error"][
            "code"
        ] == "no_such_table"

    @gen_test
    async def test_a_refused_watch_says_what_to_do(self):
        self.write("CREATE VIEW some_view AS SELECT 1; CREATE UNLOGGED TABLE brief (id int)")
        for name, status, says in (
            ("public.some_view", 409, "public.some_view is not a table. HINT: Watch the tables it takes its rows from"),
            (
                "public.brief",
                409,
                "public.brief is unlogged: PostgreSQL empties it after a crash, without a change in the feed. "
                "HINT: ALTER TABLE public.brief SET LOGGED first",
            ),
            ("orders", 404, "the database has no table orders; write schema.table, such as public.orders"),
            ("public.nix", 404, "the database has no table public.nix"),
        ):
            error = (await self.fetch_json(f"/api/tables/{name}/watch", status, method="PUT", body=""))["error"]
            assert error["message"] == says

    @gen_test
    async def test_a_page_of_another_origin_changes_nothing(self):
        path = "/api/tables/public.orders/watch"
        headers = {"Origin": "http://evil.example.com"}
        error = (await self.fetch_json(path, 403, method="PUT", body="", headers=headers))["error"]
        assert error["code"] == "foreign_origin"

    @gen_test
    async def test_without_a_journal_there_are_no_changes_to_page_through(self):
        assert (await self.fetch_json("/api/changes", 404))["error"]["code"] == "no_journal"
        assert (await self.fetch_json("/api/status"))["journal"] is None
