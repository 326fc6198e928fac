"""What the dashboard draws: counts that are exact and absolute, rows that are a sample, and never too many messages."""

import time
from typing import Any

from tornado.testing import gen_test

from changefeed.change import parse
from handlers.activity import ROWS_IN_HELLO, ROWS_PER_MESSAGE
from tests.feed_case import ORDERS, FeedTestCase, message

BURST = """SELECT count(pg_notify('events', json_build_object(
    'table', 'orders', 'action', 'INSERT', 'data', json_build_object('id', i))::text)) FROM generate_series(1, %s) i"""


def summed(buckets: list[Any]) -> dict[str, list[int]]:
    """The buckets' counts by table."""
    sums: dict[str, list[int]] = {}
    for bucket in buckets:
        for table, counts in bucket["counts"].items():
            sums[table] = [one + other for one, other in zip(sums.get(table, [0] * 4), counts, strict=True)]
    return sums


class ActivitySocketTest(FeedTestCase):
    async def until_rows(self, socket: Any, rows: int) -> list[Any]:
        """The activity messages up to the one that has told of so many rows."""
        told: list[Any] = []
        while sum(activity["rows"]["of"] for activity in told) < rows:
            told.append(await message(socket, "activity"))
        return told

    @gen_test
    async def test_hello_says_what_was_before_and_how_the_database_is(self):
        self.write(BURST, [ROWS_IN_HELLO + 10])
        early = await self.connect("/ws/activity")
        plain = await self.connect()
        self.write("SELECT pg_notify('events', '[\"last\"]')")
        while await plain.read_message() != '["last"]':  # it may have been there before the burst was heard
            pass
        hello = await message(await self.connect("/ws/activity"))
        self.assertEqual(hello["type"], "hello")
        self.assertEqual(hello["totals"], {"orders": [ROWS_IN_HELLO + 10, 0, 0, 0]})
        self.assertEqual((len(hello["recent"]), hello["recent"][-1]), (ROWS_IN_HELLO, '["last"]'))
        self.assertEqual((hello["database"]["state"], hello["database"]["name"]), ("listening", "test"))
        self.assertEqual((await message(early))["type"], "hello")

    @gen_test
    async def test_when_nothing_happens_a_message_says_so(self):
        socket = await self.connect("/ws/activity")
        hello = await message(socket, "hello")
        idle = [await message(socket, "activity") for _ in range(2)]
        for activity in idle:
            self.assertEqual(activity["rows"], {"of": 0, "changes": []})
            self.assertEqual((activity["totals"], activity["buckets"]), ({}, []))
        self.assertLess(hello["now"], idle[-1]["now"])

    @gen_test
    async def test_a_burst_is_told_whole_in_counts_and_sampled_in_rows(self):
        sockets = [await self.connect("/ws/activity") for _ in range(2)]
        self.write(BURST, [5_000])
        for socket in sockets:
            told = await self.until_rows(socket, 5_000)
            self.assertEqual(sum(activity["rows"]["of"] for activity in told), 5_000)
            self.assertEqual(told[-1]["totals"], {"orders": [5_000, 0, 0, 0]})
            self.assertTrue(all(len(activity["rows"]["changes"]) <= ROWS_PER_MESSAGE for activity in told))
            self.assertIn('"id" : 5000}', told[-1]["rows"]["changes"][-1])
            newest = {bucket["at"]: bucket for activity in told for bucket in activity["buckets"]}
            self.assertEqual(summed([*newest.values()]), {"orders": [5_000, 0, 0, 0]})
        history = await self.fetch_json("/api/activity")
        self.assertEqual(history["totals"], {"orders": [5_000, 0, 0, 0]})
        self.assertEqual(summed(history["buckets"]), history["totals"])

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
        told = await self.until_rows(socket, 2)
        self.assertEqual((told[-1]["other"], told[-1]["totals"], told[-1]["buckets"]), (2, {}, []))
        self.assertEqual([row for activity in told for row in activity["rows"]["changes"]], ["[1]", "[2]"])

    @gen_test
    async def test_a_table_whose_name_no_utf8_can_say_breaks_no_dashboard(self):
        socket = await self.connect("/ws/activity")
        payload = r'{"table": "\ud800", "action": "INSERT"}'
        self.write("SELECT pg_notify('events', %s)", [payload])
        [activity] = await self.until_rows(socket, 1)
        self.assertEqual((activity["rows"]["changes"], activity["totals"]), ([payload], {}))
        self.assertEqual((await message(await self.connect("/ws/activity")))["recent"], [payload])

    @gen_test
    async def test_what_a_dashboard_says_is_answered_with_an_error(self):
        socket = await self.connect("/ws/activity")
        await socket.write_message('{"type": "subscribe"}')
        self.assertEqual((await message(socket, "error"))["code"], "unknown_type")


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
