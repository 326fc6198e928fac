"""What the dashboard draws: counts that are exact and absolute, rows that are a sample, and never too many messages."""

import json
import time
from typing import Any

from tornado.testing import gen_test

from changefeed.change.change import parse
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
    """The activity messages up to the one that has told of so many rows, and then of the counts."""
    told: list[Any] = []
    while sum(activity["rows"]["of"] for activity in told) < rows or "totals" not in told[-1]:
        told.append(await message(socket, "activity"))
    return told


def rows_of(told: list[Any]) -> list[str]:
    return [row for activity in told for row in activity["rows"]["changes"]]


class ActivitySocketTest(FeedTestCase):
    @gen_test
    async def test_hello_says_what_was_before_and_how_the_database_is(self):
        early = await self.connect("/ws/activity")
        self.write(BURST, [ROWS_IN_HELLO + 10])
        await until_rows(early, ROWS_IN_HELLO + 10)
        plain = await self.connect()
        self.write("SELECT pg_notify('events', '[\"last\"]')")
        while await plain.read_message() != '["last"]':  # it may have been there before the burst was heard
            pass
        hello = await message(await self.connect("/ws/activity"))
        self.assertEqual(hello["type"], "hello")
        self.assertEqual(hello["totals"], {"orders": [ROWS_IN_HELLO + 10, 0, 0, 0]})
        self.assertEqual((len(hello["recent"]), hello["recent"][-1]), (ROWS_IN_HELLO, '["last"]'))
        self.assertEqual((hello["database"]["state"], hello["database"]["name"]), ("listening", "test"))

    @gen_test
    async def test_when_nothing_happens_a_message_says_so(self):
        socket = await self.connect("/ws/activity")
        hello = await message(socket, "hello")
        idle = [await message(socket, "activity") for _ in range(2)]
        for activity in idle:
            self.assertEqual(activity["rows"], {"of": 0, "changes": []})
            self.assertEqual((activity["totals"], activity["buckets"]), ({}, {}))
        self.assertLess(hello["now"], idle[-1]["now"])

    @gen_test
    async def test_a_burst_is_told_whole_in_counts_and_sampled_in_rows(self):
        sockets = [await self.connect("/ws/activity") for _ in range(2)]
        self.write(BURST, [5_000])
        for socket in sockets:
            told = await until_rows(socket, 5_000)
            self.assertEqual(sum(activity["rows"]["of"] for activity in told), 5_000)
            self.assertEqual(told[-1]["totals"], {"orders": [5_000, 0, 0, 0]})
            self.assertTrue(
                all(len(activity["rows"]["changes"]) <= PACES[USUAL_PACE].rows_per_second for activity in told)
            )
            self.assertIn('"id" : 5000}', rows_of(told)[-1])
            buckets = [bucket for activity in told for bucket in activity.get("buckets", {}).get("1", [])]
            newest = {bucket["at"]: bucket for bucket in buckets}
            self.assertEqual(summed([*newest.values()]), {"orders": [5_000, 0, 0, 0]})
        history = await self.fetch_json("/api/activity")
        self.assertEqual(history["totals"], {"orders": [5_000, 0, 0, 0]})
        self.assertEqual(summed(history["buckets"]), history["totals"])

    @gen_test
    async def test_a_page_chooses_how_many_rows_it_wants_within_bounds(self):
        few, many, usual = [await self.connect("/ws/activity") for _ in range(3)]
        hello = await message(few, "hello")
        self.assertEqual({name: of["rows_per_second"] for name, of in hello["paces"].items()}, ROWS_BY_PACE)
        for socket, pace in ((few, "50"), (many, "all")):
            await socket.write_message(json.dumps({"type": "rows", "wanted": True, "pace": pace}))
            await socket.write_message(json.dumps({"type": "rows", "wanted": True, "pace": "fast"}))
            self.assertEqual((await message(socket, "error"))["code"], "bad_pace")
        self.write(BURST, [700])
        shown = {}
        for name, socket in (("50", few), ("200", usual), ("all", many)):
            told = await until_rows(socket, 700)
            self.assertEqual(told[-1]["totals"], {"orders": [700, 0, 0, 0]})
            shown[name] = len(rows_of(told))
        self.assertLess(shown["50"], 700)
        self.assertLess(shown["200"], 700)
        self.assertEqual(shown["all"], 700)

    @gen_test
    async def test_there_are_at_most_ten_messages_a_second_however_often_something_happens(self):
        socket = await self.connect("/ws/activity")
        stamps = []
        while len(stamps) < 21:
            self.write(BURST, [10])
            stamps.append((await message(socket, "activity"))["now"])
        # Twenty tenths of a second lie between them; a busy machine may send the first of them late.
        self.assertGreater(stamps[-1] - stamps[0], 1.5)

    @gen_test
    async def test_foreign_json_is_a_row_but_of_no_table(self):
        socket = await self.connect("/ws/activity")
        self.write("SELECT pg_notify('events', '[1]'), pg_notify('events', '[2]')")
        told = await until_rows(socket, 2)
        self.assertEqual((told[-1]["other"], told[-1]["totals"], told[-1]["buckets"]), (2, {}, {}))
        self.assertEqual(rows_of(told), ["[1]", "[2]"])

    @gen_test
    async def test_a_table_whose_name_no_utf8_can_say_breaks_no_dashboard(self):
        socket = await self.connect("/ws/activity")
        payload = r'{"table": "\ud800", "action": "INSERT"}'
        self.write("SELECT pg_notify('events', %s)", [payload])
        told = await until_rows(socket, 1)
        self.assertEqual((rows_of(told), told[-1]["totals"]), ([payload], {}))
        self.assertEqual((await message(await self.connect("/ws/activity")))["recent"], [payload])

    @gen_test
    async def test_what_a_dashboard_should_not_say_is_answered_with_an_error(self):
        socket = await self.connect("/ws/activity")
        for said in ('{"type": "subscribe"}', "x", '{"type": "seen", "message": "1"}', "[" * 2_000, '"' + "x" * 2_000):
            await socket.write_message(said)
            self.assertEqual((await message(socket, "error"))["code"], "unknown_type", said[:20])

    @gen_test
    async def test_coarse_buckets_are_told_too_and_sum_up(self):
        socket = await self.connect("/ws/activity")
        self.write(BURST, [7])
        told: dict[str, Any] = {}
        while told.keys() < {"1", "10", "60"}:
            told |= (await message(socket, "activity")).get("buckets", {})
        for step in ("10", "60"):
            self.assertEqual(summed(told[step]), {"orders": [7, 0, 0, 0]})
            answer = await self.fetch_json(f"/api/activity?step={step}")
            self.assertEqual(answer["buckets"], told[step])

    @gen_test
    async def test_a_page_that_nobody_looks_at_gets_counts_and_no_rows(self):
        socket = await self.connect("/ws/activity")
        await socket.write_message('{"type": "rows", "wanted": false}')
        await socket.write_message("{}")
        await message(socket, "error")  # so that it has heard the one before
        self.write(BURST, [3])
        told = await until_rows(socket, 3)
        self.assertEqual((rows_of(told), told[-1]["totals"]), ([], {"orders": [3, 0, 0, 0]}))
        self.assertIn("unwanted", [activity["rows"].get("withheld") for activity in told])
        await socket.write_message('{"type": "rows", "wanted": true}')
        await socket.write_message("{}")
        await message(socket, "error")
        self.write(BURST, [1])
        self.assertEqual(len(rows_of(await until_rows(socket, 1))), 1)

    @gen_test
    async def test_a_page_that_falls_behind_gets_no_rows_until_it_has_caught_up(self):
        slow, other = [await self.connect("/ws/activity") for _ in range(2)]
        await slow.write_message('{"type": "seen", "message": 0}')
        while True:
            self.write(BURST, [1])
            told = await message(slow, "activity")
            if told["rows"].get("withheld"):
                break
        self.assertEqual((told["rows"]["withheld"], told["rows"]["changes"]), ("behind", []))
        self.assertTrue(rows_of(await until_rows(other, 1)))
        while told["rows"].get("withheld") or not told["rows"]["of"]:
            await slow.write_message(f'{{"type": "seen", "message": {told["number"]}}}')
            self.write(BURST, [1])
            told = await message(slow, "activity")
        self.assertEqual(len(told["rows"]["changes"]), told["rows"]["of"])

    @gen_test
    async def test_rows_that_are_filtered_are_a_sample_of_what_fits_and_the_counts_are_of_all(self):
        filtered, other = [await self.connect("/ws/activity") for _ in range(2)]
        await filtered.write_message('{"type": "filter", "table": ["orders"], "filter": ["id=eq.17"]}')
        await filtered.write_message("{}")
        await message(filtered, "error")  # so that it has heard the one before
        self.write(BURST, [3_000])
        told = await until_rows(filtered, 3_000)
        [row] = rows_of(told)
        self.assertEqual(json.loads(row)["data"], {"id": 17})
        self.assertEqual(sum(activity["rows"]["matching"] for activity in told), 1)
        self.assertEqual(told[-1]["totals"], {"orders": [3_000, 0, 0, 0]})
        self.assertNotIn("matching", (await message(other, "activity"))["rows"])
        await filtered.write_message('{"type": "filter", "filter": ["id"]}')
        self.assertEqual((await message(filtered, "error"))["code"], "bad_filter")
        await filtered.write_message('{"type": "filter"}')
        await filtered.write_message("{}")
        await message(filtered, "error")
        self.write(BURST, [1])
        self.assertIn('"id" : 1}', rows_of(await until_rows(filtered, 1))[-1])
        self.assertEqual([dashboard.filter for dashboard in self.feed.dashboards.connected], [None, None])

    @gen_test
    async def test_a_cursor_that_is_none_is_told_as_a_gap_since_a_page_cannot_read_a_refusal(self):
        socket = await self.connect("/ws/activity?since=x")
        self.assertEqual((await message(socket))["type"], "hello")
        gap = await message(socket)
        self.assertEqual((gap["type"], gap["from"]), ("gap", "x"))
        self.assertIn("a cursor looks like", gap["why"])


class JournaledActivityTest(FeedTestCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()

    @gen_test
    async def test_a_row_that_is_too_long_is_cut_and_can_be_had_whole(self):
        socket = await self.connect("/ws/activity")
        self.write("INSERT INTO orders VALUES (1, repeat('x', %s)), (2, 'short')", [ROW_LIMIT_CHARACTERS])
        cut, short = rows_of(await until_rows(socket, 2))
        said = json.loads(cut)
        self.assertEqual((said["name"], said["action"]), ("public.orders", "INSERT"))
        self.assertEqual(len(said["cut"]["beginning"]), BEGINNING_CHARACTERS)
        whole = await self.fetch_json(f"/api/change?cursor={said['cursor']}")
        self.assertEqual(whole["data"], {"id": 1, "status": "x" * ROW_LIMIT_CHARACTERS, "total": None})
        self.assertEqual((whole["cursor"], whole["at"][:23]), (said["cursor"], said["at"][:23]))
        self.assertEqual(json.loads(short)["data"]["status"], "short")

    @gen_test
    async def test_a_newcomer_is_sent_no_more_than_some_rows_hold(self):
        early = await self.connect("/ws/activity")
        self.write("INSERT INTO orders SELECT generate_series(1, 100), repeat('x', 15000)")
        await until_rows(early, 100)
        recent = (await message(await self.connect("/ws/activity"), "hello"))["recent"]
        self.assertLess(sum(map(len, recent)), HELLO_LIMIT_CHARACTERS)
        self.assertEqual(json.loads(recent[-1])["data"]["id"], 100)

    @gen_test
    async def test_a_change_is_found_by_its_cursor_and_no_other(self):
        self.write("INSERT INTO orders SELECT generate_series(1, 3)")
        changes = (await self.fetch_json("/api/changes"))["changes"]
        for change in changes:
            self.assertEqual(await self.fetch_json(f"/api/change?cursor={change['cursor']}"), change)
        number, _, batch = changes[-1]["cursor"].partition(".")
        beyond = f"{int(number, 16) + 1:x}.{batch}"
        for cursor, status, code in ((beyond, 404, "aged_out"), ("x", 400, "not_a_cursor"), ("", 400, "not_a_cursor")):
            answer = await self.fetch_json(f"/api/change?cursor={cursor}", status)
            self.assertEqual(answer["error"]["code"], code)

    @gen_test
    async def test_a_place_by_time_has_what_came_since_after_it(self):
        self.write("INSERT INTO orders VALUES (1)")
        [(between,)] = self.write("SELECT extract(epoch FROM clock_timestamp())::float8")
        self.write("INSERT INTO orders VALUES (2)")
        self.write("INSERT INTO orders VALUES (3)")
        for at, expected in ((0, [1, 2, 3]), (between, [2, 3]), (between + 1e6, [])):
            cursor = (await self.fetch_json(f"/api/place?at={at!r}"))["cursor"]
            changes = (await self.fetch_json(f"/api/changes?since={cursor}"))["changes"]
            self.assertEqual([change["data"]["id"] for change in changes], expected)
        for at in ("", "x", "nan", "-1", "1e99"):
            self.assertEqual((await self.fetch_json(f"/api/place?at={at}", 400))["error"]["code"], "bad_time")

    @gen_test
    async def test_delays_are_reckoned_by_the_clock_of_the_database(self):
        await DatabaseClock(self.feed.database, self.feed.hub.tally.set_database_ahead).compare()
        self.assertLess(abs(self.feed.hub.tally.database_ahead_seconds or 9), 1)
        socket = await self.connect("/ws/activity")
        hello = await message(socket, "hello")
        self.write("INSERT INTO orders SELECT generate_series(1, 3)")
        [delays] = [
            bucket["delays"]
            for bucket in (await until_rows(socket, 3))[-1]["buckets"]["1"]
            if "delays" in bucket  # it ends in another second than the one in which it began, now and then
        ]
        self.assertEqual(sum(delays.values()), 3)
        [place] = delays
        upper = hello["delays"]["least_seconds"] * 2 ** (int(place) / hello["delays"]["per_doubling"])
        self.assertLess(upper, 30)


class ActivityTest(FeedTestCase):
    @gen_test
    async def test_each_action_is_counted_in_buckets_that_sum_up_to_the_totals(self):
        self.write(ORDERS)
        self.watch_with_notify()
        socket = await self.connect()
        self.write("INSERT INTO orders SELECT generate_series(1, 5)")
        self.write("UPDATE orders SET status = 'paid' WHERE id <= 3")
        self.write("DELETE FROM orders WHERE id = 1")
        for _ in range(9):
            await socket.read_message()
        answer = await self.fetch_json("/api/activity")
        self.assertEqual(answer["totals"], {"orders": [5, 3, 1, 0]})
        self.assertEqual(summed(answer["buckets"]), answer["totals"])
        begins = [bucket["at"] for bucket in answer["buckets"]]
        self.assertEqual(begins, sorted(begins))
        self.assertLessEqual(begins[-1], answer["now"])
        self.assertEqual(answer["deaf"], [])

    @gen_test
    async def test_a_window_leaves_older_buckets_out_and_the_totals_whole(self):
        now = time.time()
        change = parse('{"table": "orders", "action": "INSERT"}')
        for seconds_ago in (100, 10):
            self.feed.hub.tally.count([change], now - seconds_ago)
        for window, inserts in ((1, 0), (50, 1), (150, 2)):
            answer = await self.fetch_json(f"/api/activity?window={window}")
            self.assertEqual(summed(answer["buckets"]).get("orders", [0])[0], inserts, window)
            self.assertEqual(answer["totals"], {"orders": [2, 0, 0, 0]})

    @gen_test
    async def test_a_window_that_is_no_number_of_seconds_is_refused(self):
        for window in ("", "0", "-1", "1.5", "x", "1e2", "%D9%A3", "999999999", "9" * 5_000):
            error = (await self.fetch_json(f"/api/activity?window={window}", 400))["error"]
            self.assertEqual(error["code"], "bad_window", window[:20])
            self.assertIn("whole number of seconds", error["message"])


def test_a_budget_bounds_what_is_sent_and_saves_some_for_a_burst():
    budget = Budget(per_second=400, most=1000)
    assert budget.left(1000.0) == 1000
    budget.spend(1010)
    assert budget.left(1000.0) == 0
    assert budget.left(1000.5) == 190
    assert budget.left(2000.0) == 1000
