"""What the dashboard draws: counts that are exact and absolute, rows that are a sample, and never too many messages."""

import json
import time
from typing import Any

from tornado.testing import gen_test

from changefeed.change.change import parse_payload
from changefeed.postgres.clock_offset import DatabaseClock
from handlers.delivery.row_sample import (
    BEGINNING_CHARACTERS,
    HELLO_LIMIT_CHARACTERS,
    PACES,
    ROW_LIMIT_CHARACTERS,
    ROWS_IN_HELLO,
    USUAL_PACE,
    Budget,
)
from tests.feed_case import ORDERS, FeedTestCase, message

BURST = """SELECT count(pg_notify('events', json_build_object(
    'table', 'orders', 'action', 'INSERT', 'data', json_build_object('id', i))::text)) FROM generate_series(1, %s) i"""


ROWS_BY_PACE = {"50": 50, "200": 200, "1000": 1_000, "all": 5_000}


def summed(buckets: list[Any]) -> dict[str, list[int]]:
    """The buckets' counts by table."""
    sums: dict[str, list[int]] = {}
    for bucket in buckets:
        for table, counts in bucket["counts"].items():
            sums[table] = [one + other for one, other in zip(sums.get(table, [0] * 4), counts, strict=True)]
    return sums


async def until_rows(socket: Any, rows: int) -> list[Any]:
    """The activity messages until this many rows have come, and then the counts."""
    told: list[Any] = []
    while sum(activity["rows"]["of"] for activity in told) < rows or "totals" not in told[-1]:
        told.append(await message(socket, "activity"))
    return told


def rows_of(told: list[Any]) -> list[str]:
    return [row for activity in told for row in activity["rows"]["changes"]]


class ActivitySocketTest(FeedTestCase):
    @gen_test
    async def test_hello_has_the_history_and_the_databases_state(self):
        early = await self.connect("/ws/activity")
        self.write(BURST, [ROWS_IN_HELLO + 10])
        await until_rows(early, ROWS_IN_HELLO + 10)
        plain = await self.connect()
        self.write("SELECT pg_notify('events', '[\"last\"]')")
        while await plain.read_message() != '["last"]':  # it may have been there before the burst was heard
            pass
        hello = await message(await self.connect("/ws/activity"))
        assert hello["type"] == "hello"
        assert hello["totals"] == {"orders": [ROWS_IN_HELLO + 10, 0, 0, 0]}
        assert (len(hello["recent"]), hello["recent"][-1]) == (ROWS_IN_HELLO, '["last"]')
        assert (hello["database"]["state"], hello["database"]["name"]) == ("listening", "test")

    @gen_test
    async def test_an_idle_dashboard_gets_a_message(self):
        socket = await self.connect("/ws/activity")
        hello = await message(socket, "hello")
        idle = [await message(socket, "activity") for _ in range(2)]
        for activity in idle:
            assert activity["rows"] == {"of": 0, "changes": []}
            assert (activity["totals"], activity["buckets"]) == ({}, {})
        assert hello["now"] < idle[-1]["now"]

    @gen_test
    async def test_a_burst_is_counted_completely_and_its_rows_are_sampled(self):
        sockets = [await self.connect("/ws/activity") for _ in range(2)]
        self.write(BURST, [5_000])
        for socket in sockets:
            told = await until_rows(socket, 5_000)
            assert sum(activity["rows"]["of"] for activity in told) == 5000
            assert told[-1]["totals"] == {"orders": [5000, 0, 0, 0]}
            assert all(len(activity["rows"]["changes"]) <= PACES[USUAL_PACE].rows_per_second for activity in told)
            assert '"id" : 5000}' in rows_of(told)[-1]
            buckets = [bucket for activity in told for bucket in activity.get("buckets", {}).get("1", [])]
            newest = {bucket["at"]: bucket for bucket in buckets}
            assert summed([*newest.values()]) == {"orders": [5000, 0, 0, 0]}
        history = await self.fetch_json("/api/activity")
        assert history["totals"] == {"orders": [5000, 0, 0, 0]}
        assert summed(history["buckets"]) == history["totals"]

    @gen_test
    async def test_a_page_chooses_how_many_rows_it_wants_within_bounds(self):
        few, many, usual = [await self.connect("/ws/activity") for _ in range(3)]
        hello = await message(few, "hello")
        assert {name: of["rows_per_second"] for name, of in hello["paces"].items()} == ROWS_BY_PACE
        for socket, pace in ((few, "50"), (many, "all")):
            await socket.write_message(json.dumps({"type": "rows", "wanted": True, "pace": pace}))
            await socket.write_message(json.dumps({"type": "rows", "wanted": True, "pace": "fast"}))
            assert (await message(socket, "error"))["code"] == "bad_pace"
        self.write(BURST, [700])
        shown = {}
        for name, socket in (("50", few), ("200", usual), ("all", many)):
            told = await until_rows(socket, 700)
            assert told[-1]["totals"] == {"orders": [700, 0, 0, 0]}
            shown[name] = len(rows_of(told))
        assert shown["50"] < 700
        assert shown["200"] < 700
        assert shown["all"] == 700

    @gen_test
    async def test_at_most_ten_messages_a_second_are_sent(self):
        socket = await self.connect("/ws/activity")
        stamps = []
        while len(stamps) < 21:
            self.write(BURST, [10])
            stamps.append((await message(socket, "activity"))["now"])
        # Twenty tenths of a second lie between them; a busy machine may send the first of them late.
        assert stamps[-1] - stamps[0] > 1.5

    @gen_test
    async def test_foreign_json_is_a_row_but_of_no_table(self):
        socket = await self.connect("/ws/activity")
        self.write("SELECT pg_notify('events', '[1]'), pg_notify('events', '[2]')")
        told = await until_rows(socket, 2)
        assert (told[-1]["other"], told[-1]["totals"], told[-1]["buckets"]) == (2, {}, {})
        assert rows_of(told) == ["[1]", "[2]"]

    @gen_test
    async def test_a_name_that_is_not_utf8_breaks_no_dashboard(self):
        socket = await self.connect("/ws/activity")
        payload = r'{"table": "\ud800", "action": "INSERT"}'
        self.write("SELECT pg_notify('events', %s)", [payload])
        told = await until_rows(socket, 1)
        assert (rows_of(told), told[-1]["totals"]) == ([payload], {})
        assert (await message(await self.connect("/ws/activity")))["recent"] == [payload]

    @gen_test
    async def test_what_a_dashboard_should_not_say_is_answered_with_an_error(self):
        socket = await self.connect("/ws/activity")
        for said in ('{"type": "subscribe"}', "x", '{"type": "seen", "message": "1"}', "[" * 2_000, '"' + "x" * 2_000):
            await socket.write_message(said)
            assert (await message(socket, "error"))["code"] == "unknown_type", said[:20]

    @gen_test
    async def test_coarse_buckets_are_sent_too_and_sum_up(self):
        socket = await self.connect("/ws/activity")
        self.write(BURST, [7])
        told: dict[str, Any] = {}
        while told.keys() < {"1", "10", "60"}:
            told |= (await message(socket, "activity")).get("buckets", {})
        for step in ("10", "60"):
            assert summed(told[step]) == {"orders": [7, 0, 0, 0]}
            answer = await self.fetch_json(f"/api/activity?step={step}")
            assert answer["buckets"] == told[step]

    @gen_test
    async def test_a_hidden_page_gets_counts_and_no_rows(self):
        socket = await self.connect("/ws/activity")
        await socket.write_message('{"type": "rows", "wanted": false}')
        await socket.write_message("{}")
        await message(socket, "error")  # so that it has heard the one before
        self.write(BURST, [3])
        told = await until_rows(socket, 3)
        assert (rows_of(told), told[-1]["totals"]) == ([], {"orders": [3, 0, 0, 0]})
        assert "unwanted" in [activity["rows"].get("withheld") for activity in told]
        await socket.write_message('{"type": "rows", "wanted": true}')
        await socket.write_message("{}")
        await message(socket, "error")
        self.write(BURST, [1])
        assert len(rows_of(await until_rows(socket, 1))) == 1

    @gen_test
    async def test_a_slow_page_gets_no_rows_until_it_catches_up(self):
        slow, other = [await self.connect("/ws/activity") for _ in range(2)]
        await slow.write_message('{"type": "seen", "message": 0}')
        while True:
            self.write(BURST, [1])
            told = await message(slow, "activity")
            if told["rows"].get("withheld"):
                break
        assert (told["rows"]["withheld"], told["rows"]["changes"]) == ("behind", [])
        assert rows_of(await until_rows(other, 1))
        while told["rows"].get("withheld") or not told["rows"]["of"]:
            await slow.write_message(f'{{"type": "seen", "message": {told["number"]}}}')
            self.write(BURST, [1])
            told = await message(slow, "activity")
        assert len(told["rows"]["changes"]) == told["rows"]["of"]

    @gen_test
    async def test_filtered_rows_are_a_sample_with_exact_counts(self):
        filtered, other = [await self.connect("/ws/activity") for _ in range(2)]
        await filtered.write_message('{"type": "filter", "table": ["orders"], "filter": ["id=eq.17"]}')
        await filtered.write_message("{}")
        await message(filtered, "error")  # so that it has heard the one before
        self.write(BURST, [3_000])
        told = await until_rows(filtered, 3_000)
        [row] = rows_of(told)
        assert json.loads(row)["data"] == {"id": 17}
        assert sum(activity["rows"]["matching"] for activity in told) == 1
        assert told[-1]["totals"] == {"orders": [3000, 0, 0, 0]}
        assert "matching" not in (await message(other, "activity"))["rows"]
        await filtered.write_message('{"type": "filter", "filter": ["id"]}')
        assert (await message(filtered, "error"))["code"] == "bad_filter"
        await filtered.write_message('{"type": "filter"}')
        await filtered.write_message("{}")
        await message(filtered, "error")
        self.write(BURST, [1])
        assert '"id" : 1}' in rows_of(await until_rows(filtered, 1))[-1]
        assert [dashboard.filter for dashboard in self.feed.dashboards.connected] == [None, None]

    @gen_test
    async def test_an_invalid_cursor_gets_a_gap(self):
        socket = await self.connect("/ws/activity?since=x")
        assert (await message(socket))["type"] == "hello"
        gap = await message(socket)
        assert (gap["type"], gap["from"]) == ("gap", "x")
        assert "a cursor looks like" in gap["why"]


class RecordedActivityTest(FeedTestCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()

    @gen_test
    async def test_a_row_that_is_too_long_is_cut_and_can_be_loaded_whole(self):
        socket = await self.connect("/ws/activity")
        self.write("INSERT INTO orders VALUES (1, repeat('x', %s)), (2, 'short')", [ROW_LIMIT_CHARACTERS])
        cut, short = rows_of(await until_rows(socket, 2))
        said = json.loads(cut)
        assert (said["name"], said["action"]) == ("public.orders", "INSERT")
        assert len(said["cut"]["beginning"]) == BEGINNING_CHARACTERS
        whole = await self.fetch_json(f"/api/change?cursor={said['cursor']}")
        assert whole["data"] == {"id": 1, "status": "x" * ROW_LIMIT_CHARACTERS, "total": None}
        assert (whole["cursor"], whole["at"][:23]) == (said["cursor"], said["at"][:23])
        assert json.loads(short)["data"]["status"] == "short"

    @gen_test
    async def test_a_newcomer_is_sent_no_more_than_some_rows_hold(self):
        early = await self.connect("/ws/activity")
        self.write("INSERT INTO orders SELECT generate_series(1, 100), repeat('x', 15000)")
        await until_rows(early, 100)
        recent = (await message(await self.connect("/ws/activity"), "hello"))["recent"]
        assert sum(map(len, recent)) < HELLO_LIMIT_CHARACTERS
        assert json.loads(recent[-1])["data"]["id"] == 100

    @gen_test
    async def test_a_change_is_found_by_its_cursor_and_no_other(self):
        self.write("INSERT INTO orders SELECT generate_series(1, 3)")
        changes = (await self.fetch_json("/api/changes"))["changes"]
        for change in changes:
            assert await self.fetch_json(f"/api/change?cursor={change['cursor']}") == change
        number, _, batch = changes[-1]["cursor"].partition(".")
        beyond = f"{int(number, 16) + 1:x}.{batch}"
        for cursor, status, code in ((beyond, 404, "aged_out"), ("x", 400, "not_a_cursor"), ("", 400, "not_a_cursor")):
            answer = await self.fetch_json(f"/api/change?cursor={cursor}", status)
            assert answer["error"]["code"] == code

    @gen_test
    async def test_a_place_by_time_has_what_came_since_after_it(self):
        self.write("INSERT INTO orders VALUES (1)")
        [(between,)] = self.write("SELECT extract(epoch FROM clock_timestamp())::float8")
        self.write("INSERT INTO orders VALUES (2)")
        self.write("INSERT INTO orders VALUES (3)")
        for at, expected in ((0, [1, 2, 3]), (between, [2, 3]), (between + 1e6, [])):
            cursor = (await self.fetch_json(f"/api/place?at={at!r}"))["cursor"]
            changes = (await self.fetch_json(f"/api/changes?since={cursor}"))["changes"]
            assert [change["data"]["id"] for change in changes] == expected
        for at in ("", "x", "nan", "-1", "1e99"):
            assert (await self.fetch_json(f"/api/place?at={at}", 400))["error"]["code"] == "bad_time"

    @gen_test
    async def test_delays_are_reckoned_by_the_clock_of_the_database(self):
        await DatabaseClock(self.feed.request_pool, self.feed.hub.tally.set_database_ahead).compare()
        assert abs(self.feed.hub.tally.database_ahead_seconds or 9) < 1
        socket = await self.connect("/ws/activity")
        hello = await message(socket, "hello")
        self.write("INSERT INTO orders SELECT generate_series(1, 3)")
        [delays] = [
            bucket["delays"]
            for bucket in (await until_rows(socket, 3))[-1]["buckets"]["1"]
            if "delays" in bucket  # it ends in another second than the one in which it began, now and then
        ]
        assert sum(delays.values()) == 3
        [place] = delays
        upper = hello["delays"]["least_seconds"] * 2 ** (int(place) / hello["delays"]["per_doubling"])
        assert upper < 30


class ActivityTest(FeedTestCase):
    @gen_test
    async def test_buckets_of_actions_sum_up_to_the_totals(self):
        self.write(ORDERS)
        self.watch_with_notify()
        socket = await self.connect()
        self.write("INSERT INTO orders SELECT generate_series(1, 5)")
        self.write("UPDATE orders SET status = 'paid' WHERE id <= 3")
        self.write("DELETE FROM orders WHERE id = 1")
        for _ in range(9):
            await socket.read_message()
        answer = await self.fetch_json("/api/activity")
        assert answer["totals"] == {"orders": [5, 3, 1, 0]}
        assert summed(answer["buckets"]) == answer["totals"]
        begins = [bucket["at"] for bucket in answer["buckets"]]
        assert begins == sorted(begins)
        assert begins[-1] <= answer["now"]
        assert answer["deaf"] == []

    @gen_test
    async def test_a_window_leaves_older_buckets_out_and_the_totals_whole(self):
        now = time.time()
        change = parse_payload('{"table": "orders", "action": "INSERT"}')
        for seconds_ago in (100, 10):
            self.feed.hub.tally.count([change], now - seconds_ago)
        for window, inserts in ((1, 0), (50, 1), (150, 2)):
            answer = await self.fetch_json(f"/api/activity?window={window}")
            assert summed(answer["buckets"]).get("orders", [0])[0] == inserts, window
            assert answer["totals"] == {"orders": [2, 0, 0, 0]}

    @gen_test
    async def test_a_window_that_is_no_number_of_seconds_is_refused(self):
        for window in ("", "0", "-1", "1.5", "x", "1e2", "%D9%A3", "999999999", "9" * 5_000):
            error = (await self.fetch_json(f"/api/activity?window={window}", 400))["error"]
            assert error["code"] == "bad_window", window[:20]
            assert "whole number of seconds" in error["message"]


def test_a_budget_bounds_what_is_sent_and_saves_some_for_a_burst():
    budget = Budget(per_second=400, most=1000)
    assert budget.left(1000.0) == 1000
    budget.spend(1010)
    assert budget.left(1000.0) == 0
    assert budget.left(1000.5) == 190
    assert budget.left(2000.0) == 1000
