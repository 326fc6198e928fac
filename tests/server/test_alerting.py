"""Up to when the server has counted everything: what an alert may be raised by."""

import time

from tornado.testing import ExpectLog, gen_test

from changefeed.postgres.listener import ListenerState
from tests.feed_case import ORDERS, FeedTestCase

TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
)


class PlainTest(FeedTestCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch_with_notify()

    @gen_test
    async def test_alerts_ignore_time_without_notifications(self):
        now = time.time()
        assert self.feed.counted.span(now) == (self.feed.hub.tally.since.timestamp(), now)
        with ExpectLog("changefeed.listener", "lost the LISTEN connection"):
            self.write(TERMINATE)
            await self.until_state(ListenerState.LOST)
        assert self.feed.counted.span(time.time()) is None
        await self.until_state(ListenerState.LISTENING)
        while not self.feed.outages.recent:
            self.state_changed.clear()
            await self.state_changed.wait()
        span = self.feed.counted.span(time.time())
        assert span
        assert span[0] == self.feed.outages.recent[0].until.timestamp()


class JournalTest(FeedTestCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()

    async def until_read(self, at: float) -> None:
        while self.feed.follower.read_until < at:
            await self.feed.follower.until_moved()

    @gen_test
    async def test_everything_up_to_the_last_read_is_counted(self):
        assert self.feed.counted.span(time.time()) is None  # how far that clock is ahead isn't known yet
        self.feed.hub.tally.set_database_ahead(-10.0)
        self.write("INSERT INTO orders VALUES (1)")
        written_at = time.time()
        await self.until_read(written_at)
        span = self.feed.counted.span(time.time())
        assert span
        assert span[1] == self.feed.follower.read_until - 10.0
        assert self.feed.hub.tally.totals["public.orders"][0] == 1

    @gen_test
    async def test_the_journal_is_read_without_the_listener(self):
        self.feed.hub.tally.set_database_ahead(0.0)
        with ExpectLog("changefeed.listener", "lost the LISTEN connection"):
            self.write(TERMINATE)
            await self.until_state(ListenerState.LOST)
        await self.until_read(time.time())
        span = self.feed.counted.span(time.time())
        assert span
        assert span == (self.feed.hub.tally.since.timestamp(), self.feed.follower.read_until)
