"""While commits wait for a synchronous standby that never comes, the server leaves no backends behind."""

from typing import Any
from unittest import mock

import psycopg2
from psycopg2.extras import wait_select
from tornado.testing import ExpectLog, gen_test

from changefeed.postgres import listener
from changefeed.postgres.pool import DeadlinePassed
from tests import postgres
from tests.feed_case import FeedTestCase

ROUNDS = 10
OURS = "application_name = 'psqlisten2websocket'"
# The listener's, and those of the pools: for following and for requests.
MOST = 1 + 2 + 3


class HangingCommitsTest(FeedTestCase):
    def new_database(self) -> str:
        self.cluster = postgres.start(synchronous_standby_names="nobody")
        self.addCleanup(postgres.discard, self.cluster)
        return self.cluster.conninfo

    def prepare_database(self) -> None:
        patched = mock.patch.object(listener, "CANARY_INTERVAL_SECONDS", 0.01)
        patched.start()
        self.addCleanup(patched.stop)

    def write(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        return super().write(f"SET synchronous_commit = local; {statement}", parameters)

    def count(self, where: str = "true") -> int:
        [(count,)] = self.write(f"SELECT count(*) FROM pg_stat_activity WHERE {OURS} AND {where}")
        return int(count)

    async def until_sent(self, canaries: int) -> int:
        """The most backends of the server that were there after any of this many canaries."""
        sent: list[int] = []
        canary = self.feed.listener.canary
        fly = canary.fly

        async def count_after(*arguments: object) -> bool:
            try:
                return await fly(*arguments)  # type: ignore[arg-type]
            finally:
                sent.append(self.count())
                self.state_changed.set()

        with mock.patch.object(canary, "fly", count_after):
            await self.until(lambda: len(sent) >= canaries, self.state_changed)
        return max(sent)

    @gen_test(timeout=30)
    async def test_a_canary_behind_a_commit_that_hangs_leaves_no_backend(self):
        hanging = psycopg2.connect(self.conninfo, async_=True)
        self.addCleanup(hanging.close)
        wait_select(hanging)
        hanging.cursor().execute("CREATE TABLE t (); NOTIFY other")
        while self.write("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == [(0,)]:
            pass
        with ExpectLog("changefeed.listener", "lost the LISTEN|still lost|the canary could not be sent", level=30):
            self.feed.listener.canary.deadline_seconds = 0.2  # before the lock_timeout
            assert await self.until_sent(ROUNDS) <= MOST
            self.feed.listener.canary.deadline_seconds = 4.0
            assert await self.until_sent(2) <= MOST

    @gen_test(timeout=30)
    async def test_a_statement_that_is_given_up_is_cancelled(self):
        for number in range(ROUNDS):
            try:
                await self.feed.request_pool.fetch(f"CREATE TABLE public.t{number} ()", deadline_seconds=0.1)
            except DeadlinePassed:
                pass
            else:
                raise AssertionError("the commit did not hang")
            assert self.count("wait_event = 'SyncRep'") <= 1
        while self.count("wait_event = 'SyncRep'"):
            await self.feed.request_pool.fetch("SELECT")
        assert self.count() <= MOST
