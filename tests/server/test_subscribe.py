"""Subscriptions over real sockets: asked for at the door, changed on the open socket, kept through a resume."""

import json
from typing import Any

import pytest
from tornado.escape import url_escape
from tornado.httpclient import HTTPClientError
from tornado.testing import gen_test
from tornado.websocket import WebSocketClientConnection

from tests.feed_case import ORDERS, FeedTestCase, message


class SubscribeTestCase(FeedTestCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.write("CREATE TABLE items (id bigint PRIMARY KEY, secret text)")
        self.watch()
        self.watch("public.items", ", omit => '{secret}'")

    async def rows(self, socket: WebSocketClientConnection, count: int) -> list[dict[str, Any]]:
        """The next changes on a socket of changefeed.v1."""
        got: list[dict[str, Any]] = []
        while len(got) < count:
            got += (await message(socket, "changes"))["changes"]
        return got


class SubscribeTest(SubscribeTestCase):
    @gen_test
    async def test_each_client_gets_what_it_asked_for(self):
        by_path = {
            "/ws?table=items": ["items 1"],
            "/ws?table=public.*&action=DELETE": ["orders 2", "items 1"],
            "/ws?filter=status=eq.open&table=orders": ["orders 1"],
            "/ws?filter=id=eq.2": ["orders 2", "orders 2"],
            "/ws?table=orders&filter=or=(status.eq.open,and(id.gt.1,status.not.in.(open,new)))": [
                "orders 1",
                "orders 2",
                "orders 2",
            ],
            "/ws?table=orders&filter=not.or=(id.eq.2,status.eq.new)": ["orders 1"],
            "/ws": ["orders 1", "orders 2", "items 1", "orders 2", "items 1"],
        }
        sockets = {path: await self.connect(path) for path in by_path}
        self.write("INSERT INTO orders VALUES (1, 'open')")
        self.write("INSERT INTO orders VALUES (2, 'paid')")
        self.write("INSERT INTO items VALUES (1, 'x')")
        self.write("DELETE FROM orders WHERE id = 2")
        self.write("DELETE FROM items")
        for path, expected in by_path.items():
            changes = [json.loads(await sockets[path].read_message()) for _ in expected]
            assert [f"{change['table']} {change['data']['id']}" for change in changes] == expected, path

    @gen_test
    async def test_a_filters_end_is_part_of_it(self):
        sockets = {
            end: await self.connect(f"/ws?table=orders&filter=status=eq.x{end}") for end in ("", "%20", "%01", "%0A")
        }
        self.write("INSERT INTO orders VALUES (1, 'x'), (2, 'x '), (3, E'x\\x01'), (4, E'x\\n')")
        for number, socket in enumerate(sockets.values(), start=1):
            assert json.loads(await socket.read_message())["data"]["id"] == number
        self.write("TRUNCATE orders")  # and each got no more than that
        for socket in sockets.values():
            assert json.loads(await socket.read_message())["action"] == "TRUNCATE"

    @gen_test
    async def test_a_filter_of_a_hashed_column_compares_with_the_hash(self):
        self.watch("public.items", ", hash => '{id,secret}'")
        [(hashed,)] = self.write("SELECT changefeed.hash('items', 'id', '2')")
        by_hash = await self.connect(f"/ws?table=items&filter=id=eq.{hashed}")
        by_value = await self.connect("/ws?table=items&filter=id=eq.2")
        self.write("INSERT INTO items VALUES (1, 'x'), (2, 'y')")
        assert json.loads(await by_hash.read_message())["data"]["id"] == hashed
        self.write("TRUNCATE items")
        assert json.loads(await by_value.read_message())["action"] == "TRUNCATE"

    @gen_test
    async def test_full_and_filtered_clients_get_each_change_once(self):
        everything, less = await self.connect(), await self.connect("/ws?table=orders&action=INSERT")
        for number in range(1, 4):
            self.write("INSERT INTO orders VALUES (%s)", [number])
            for socket in (everything, less):
                assert json.loads(await socket.read_message())["data"]["id"] == number

    @gen_test
    async def test_an_update_enters_and_leaves_a_filter(self):
        socket = await self.connect("/ws?table=orders&action=UPDATE&filter=status=eq.open&columns=id")
        self.write("INSERT INTO orders VALUES (1, 'new')")
        for status in ("open", "open", "paid"):
            self.write("UPDATE orders SET status = %s, total = coalesce(total, 0) + 1", [status])
        changes = [json.loads(await socket.read_message()) for _ in range(3)]
        assert [change.get("filter") for change in changes] == ["enter", None, "leave"]
        assert [(change["data"], change["old"]) for change in changes] == [({"id": 1}, {})] * 3

    @gen_test
    async def test_an_update_enters_and_leaves_a_group(self):
        socket = await self.connect("/ws?table=orders&action=UPDATE&filter=or=(status.eq.open,total.gt.100)&columns=id")
        self.write("INSERT INTO orders VALUES (1, 'new', 1)")
        for change in (
            "status = 'open'",
            "total = 200",
            "status = 'paid'",
            "total = NULL",
            "status = 'new'",
            "total = 101",
        ):
            self.write(f"UPDATE orders SET {change}")
        changes = [json.loads(await socket.read_message()) for _ in range(5)]
        assert [change.get("filter") for change in changes] == ["enter", None, None, "leave", "enter"]

    @gen_test
    async def test_a_group_holds_on_every_transport(self):
        group = 'or=(and(id.gte.2,id.lt.4),status.eq."a,(b)")'
        where = f"table=orders&filter={url_escape(group)}"
        since = (await self.fetch_json("/api/changes?limit=1"))["cursor"]
        socket = await self.connect("/ws", protocol=True)
        dashboard = await self.connect("/ws/activity")
        for one in (socket, dashboard):
            message_type = "subscribe" if one is socket else "filter"
            await one.write_message(json.dumps({"type": message_type, "table": "orders", "filter": group}))
            await one.write_message("{}")  # is answered after the first
            await message(one, "error")
        self.write("INSERT INTO orders SELECT n, CASE n WHEN 5 THEN 'a,(b)' END FROM generate_series(1, 6) AS n")
        assert [change["data"]["id"] for change in await self.rows(socket, 3)] == [2, 3, 5]
        replayed = await self.connect(f"/ws?replay=10&{where}")
        assert [json.loads(await replayed.read_message())["data"]["id"] for _ in range(3)] == [2, 3, 5]
        page = await self.fetch_json(f"/api/changes?{where}" + (f"&since={since}" if since else ""))
        assert [change["data"]["id"] for change in page["changes"]] == [2, 3, 5]
        shown: list[int] = []
        while len(shown) < 3:
            told = await message(dashboard, "activity")
            shown += [json.loads(change)["data"]["id"] for change in told.get("rows", {}).get("changes", [])]
        assert sorted(shown) == [2, 3, 5]

    @gen_test
    async def test_a_filter_by_value_finds_a_row_by_what_it_was(self):
        socket = await self.connect("/ws?filter=total=eq.1")
        self.write("INSERT INTO orders VALUES (1, 'new', 1.0)")
        self.write("UPDATE orders SET total = 2")
        self.write("TRUNCATE orders")
        _, left, truncated = [json.loads(await socket.read_message()) for _ in range(3)]
        assert (left["filter"], left["old"]) == ("leave", {"total": 1.0})
        assert truncated["action"] == "TRUNCATE"

    @gen_test
    async def test_a_subscription_is_replaced_on_the_open_socket(self):
        socket = await self.connect("/ws?table=items", protocol=True)
        await message(socket, "hello")
        await socket.write_message('{"type": "subscribe", "table": "orders", "filter": ["id=gt.1"], "columns": ["id"]}')
        await message(socket, "hello")
        self.write("INSERT INTO items VALUES (1)")
        self.write("INSERT INTO orders VALUES (1), (2)")
        [change] = await self.rows(socket, 1)
        assert (change["table"], change["data"]) == ("orders", {"id": 2})
        await socket.write_message('{"type": "subscribe"}')
        await message(socket, "hello")
        self.write("INSERT INTO items VALUES (2)")
        assert (await self.rows(socket, 1))[0]["table"] == "items"

    @gen_test
    async def test_what_is_caught_up_with_is_what_was_asked_for(self):
        self.write("INSERT INTO orders SELECT generate_series(1, 1500), 'new'")
        first = await self.fetch_json("/api/changes?limit=1")
        path = f"?since={first['cursor']}&filter=id=in.(1,2,1400)"
        page = await self.fetch_json(f"/api/changes{path}")
        assert [change["data"]["id"] for change in page["changes"]] == [2, 1400]
        assert not page["has_more"]
        socket = await self.connect(f"/ws{path}", protocol=True)
        assert await self.rows(socket, 2) == page["changes"]
        await socket.write_message(
            json.dumps({"type": "subscribe", "since": page["changes"][0]["cursor"], "action": "INSERT"})
        )
        assert [change["data"]["id"] for change in await self.rows(socket, 1498)] == list(range(3, 1501))

    @gen_test
    async def test_a_replay_is_of_what_was_asked_for(self):
        self.write("INSERT INTO orders SELECT generate_series(1, 9)")
        await self.fetch_json("/api/changes")
        live = await self.connect()
        self.write("INSERT INTO items VALUES (1)")
        await live.read_message()
        socket = await self.connect("/ws?table=orders&replay=2", protocol=True)
        assert [change["data"]["id"] for change in await self.rows(socket, 2)] == [8, 9]

    @gen_test
    async def test_the_cursor_advances_without_matching_changes(self):
        socket = await self.connect("/ws?table=items", protocol=True)
        hello, everything = await message(socket, "hello"), await self.connect()
        self.write("INSERT INTO orders VALUES (1)")
        change = json.loads(await everything.read_message())
        self.feed.live_clients.advance_cursors()
        moved = await message(socket, "changes")
        assert moved["changes"] == []
        assert moved["cursor"] != hello["cursor"]
        after = await self.fetch_json(f"/api/changes?since={moved['cursor']}")
        assert (after["changes"], change["data"]["id"]) == ([], 1)

    @gen_test
    async def test_a_table_made_a_moment_ago_can_be_asked_for(self):
        await self.connect("/ws?table=orders")
        self.write("CREATE TABLE fresh (id int, state text)")
        self.watch("public.fresh")
        socket = await self.connect("/ws?table=fresh&filter=state=eq.on")
        self.write("INSERT INTO fresh VALUES (1, 'off'), (2, 'on')")
        assert json.loads(await socket.read_message())["data"]["id"] == 2

    @gen_test
    async def test_times_of_a_table_that_is_new_compare_as_times(self):
        self.write("CREATE TABLE log (at timestamptz)")
        socket = await self.connect("/ws?filter=at=eq.2026-01-01T00:00:00Z")
        self.write("CREATE TABLE fresh (id int, at timestamptz)")
        self.watch("public.fresh")
        self.write("INSERT INTO fresh VALUES (1, '2026-01-01')")
        # The first change of a table that is not known yet is judged by its text; then the table is looked up.
        while "fresh" not in str(self.feed.catalog.tables.columns):
            await self.fetch_json("/healthz")
        self.write("INSERT INTO fresh VALUES (2, '2026-01-01 01:00+01')")
        assert json.loads(await socket.read_message())["data"]["id"] == 2


class RefusedSubscriptionTest(SubscribeTestCase):
    BAD = (
        ("table=ordres", "unknown_table"),
        ("table=orders&filter=state=eq.open", "unknown_column"),
        ("table=items&filter=secret=eq.x", "unknown_column"),
        ("filter=status", "bad_filter"),
        ("table=orders&filter=id=eq.seven", "bad_filter"),
        ("table=orders&filter=or=(id.eq.1,and(id.eq.2,state.eq.open))", "unknown_column"),
        ("table=orders&filter=or=(id.eq.1,not.and(id.eq.seven,id.eq.2))", "bad_filter"),
        ("filter=or=(id.eq.1", "bad_filter"),
        ("filter=or=(status.eq.open,secret.is.null)", "unknown_column"),
        ("or=(id.eq.1,id.eq.2)", "unknown_field"),
        ("not.and=(id.eq.1,id.eq.2)", "unknown_field"),
        ("action=UPSERT", "bad_action"),
        ("tabel=orders", "unknown_field"),
        ("limit=3", "unknown_field"),
        ("status=eq.open", "unknown_field"),
        ("id=not.in.(1,2)", "unknown_field"),
        ("select=id", "unknown_field"),
        ("&".join(f"{number}=" for number in range(101)), "too_many_fields"),
        ("slow=down", "bad_slow"),
        ("replay=-1", "bad_replay"),
        ("since=nonsense", "not_a_cursor"),
    )

    @gen_test
    async def test_a_bad_query_is_a_400_that_names_the_field(self):
        for query, code in self.BAD:
            with pytest.raises(HTTPClientError) as refused:
                await self.connect(f"/ws?{query}")
            assert refused.value.code == 400
            assert json.loads(refused.value.response.body)["error"]["code"] == code  # type: ignore[union-attr]
            assert (await self.fetch_json(f"/events?{query}", 400))["error"]["code"] == code

    @gen_test
    async def test_an_api_route_refuses_unknown_fields_with_advice(self):
        for path, advice in (
            ("/api/rows?table=orders&status=eq.open", "write filter=status=eq.open"),
            ("/api/rows?table=orders&id=not.in.(1,2)", "write filter=id=not.in.(1,2)"),
            ("/api/rows?table=orders&select=id", "write columns="),
            ("/api/rows?table=orders&verbose=1", "this route has table, filter, columns, order, limit"),
            ("/api/changes?status=eq.open", "write filter=status=eq.open"),
            ("/api/changes?offset=3", "this route has "),
            ("/api/activity?stop=60", "did you mean step?"),
            ("/api/change?curser=x", "did you mean cursor?"),
            ("/api/place?since=1", "have it"),
            ("/api/tables?schema=public", "this route has none"),
            ("/api/status?full=1", "this route has none"),
            ("/api/session?full=1", "this route has none"),
            ("/api/openapi.json?full=1", "this route has none"),
        ):
            error = (await self.fetch_json(path, 400))["error"]
            assert error["code"] == "unknown_field", path
            assert advice in error["message"], error

    @gen_test
    async def test_a_field_that_defeats_caches_changes_nothing(self):
        for path in ("/api/rows?table=orders", "/api/changes?limit=1", "/api/tables?"):
            assert await self.fetch_json(f"{path}&_=1763801588", 200)
        for path in ("/healthz", "/readyz"):
            assert await self.fetch_json(f"{path}?probe=7&status=eq.open", 200)
        await self.connect("/ws?_=1763801588&version=7&utm_source=page")

    @gen_test
    async def test_all_tables_that_do_not_exist_are_named_at_once(self):
        error = (await self.fetch_json("/events?table=ordres&table=orders&table=itmes", 400))["error"]
        assert "no table 'itmes', 'ordres'; GET" in error["message"]
        many = "&".join(f"table=t{number}" for number in range(9))
        assert "'t4' and others; GET" in (await self.fetch_json(f"/api/changes?{many}", 400))["error"]["message"]

    @gen_test
    async def test_a_page_of_the_journal_has_no_field_of_a_stream(self):
        for query, where in (("replay=3", "/ws and /events have it"), ("slow=conflate", "/ws has it")):
            error = (await self.fetch_json(f"/api/changes?{query}", 400))["error"]
            assert error["code"] == "unknown_field"
            assert where in error["message"]

    @gen_test
    async def test_a_page_gets_its_error_in_the_socket(self):
        for query, code in self.BAD:
            socket = await self.connect(f"/ws?{query}", protocol=True)
            assert (await message(socket))["code"] == code
            assert await socket.read_message() is None
            assert (socket.close_code, socket.close_reason) == (1008, code)

    @gen_test
    async def test_a_bad_subscribe_changes_nothing(self):
        socket = await self.connect("/ws?table=orders", protocol=True)
        for fields, code in (
            ({"table": ["ordres"]}, "unknown_table"),
            ({"table": 7}, "bad_table"),
            ({"filter": [["id"]]}, "bad_filter"),
            ({"tables": ["orders"]}, "unknown_field"),
            ({"since": "nonsense"}, "not_a_cursor"),
        ):
            await socket.write_message(json.dumps({"type": "subscribe", **fields}))
            assert (await message(socket, "error"))["code"] == code
        self.write("INSERT INTO items VALUES (1)")
        self.write("INSERT INTO orders VALUES (1)")
        assert (await self.rows(socket, 1))[0]["table"] == "orders"


class LimitTest(FeedTestCase):
    flags = ("--client-limit", "3", "--client-limit-per-address", "2")

    @gen_test
    async def test_one_too_many_gets_retry_after_until_a_place_is_free(self):
        first, _ = [await self.connect() for _ in range(2)]
        for path in ("/ws", "/ws/activity"):
            with pytest.raises(HTTPClientError) as refused:
                await self.connect(path)
            assert refused.value.code == 503
            assert 2 <= int(refused.value.response.headers["Retry-After"]) <= 10  # type: ignore[union-attr]
        assert (await self.fetch_json("/events", 503))["error"]["code"] == "too_many_clients"
        first.close()
        await first.read_message()
        await self.connect()
