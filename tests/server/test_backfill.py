"""What was before the start: counted behind, in parts, and with no wrong number anywhere until it is, nor after that."""

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

from tornado.testing import ExpectLog, gen_test

from app.alerting import keep_alerting
from app.assembly import make_context
from changefeed.counts import backfill
from changefeed.counts.tally import STEPS
from changefeed.journal import follower
from changefeed.postgres.connection import complete
from changefeed.postgres.named_queries import read_script
from handlers.http.context import ServerContext
from settings.sources import load_settings
from tests.feed_case import ORDERS, FeedTestCase, message
from tests.server.test_dashboard import summed

BEFORE = 1_000
INSERT = "INSERT INTO orders SELECT generate_series(%s::bigint, %s)"


class HistoryCase(FeedTestCase):
    """A journal with BEFORE changes, which are not counted before the test says so: some of now, some of hours ago."""

    loads_history = False

    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()
        self.write(INSERT, (1, BEFORE))
        self.write("UPDATE changefeed.journal SET at = at - (id %% 10) * interval '7 min'", ())

    def load(self) -> "asyncio.Future[None]":
        self.running.append(self.start_task(self.feed.backfill.run()))
        return asyncio.ensure_future(self.feed.backfill.until_loaded())

    async def activity(self) -> list[Any]:
        """Totals, `since`, and the counts of each step."""
        answers = [await self.fetch_json(f"/api/activity?step={step}") for step in STEPS]
        return [answers[0]["totals"], answers[0]["since"], *(summed(answer["buckets"]) for answer in answers)]


def counts(hello: Any) -> Any:
    return {name: hello[name] for name in ("since", "totals", "other", "has_history")}


class LoadingTest(HistoryCase):
    @gen_test
    async def test_the_past_is_hidden_until_counted(self):
        old = await self.connect("/ws/activity")
        hello = await message(old, "hello")
        assert (hello["has_history"], hello["totals"], hello["cursor"] is None) == (False, {}, False)
        assert hello["since"] > hello["server"]["started_at"]
        self.write(INSERT, (BEFORE + 1, BEFORE + 5))
        while "orders" not in str((told := await message(old, "activity")).get("totals")):
            pass
        assert told["totals"] == {"public.orders": [5, 0, 0, 0]}
        for step in STEPS:
            answer = await self.fetch_json(f"/api/activity?step={step}")
            assert not answer["has_history"]
            since = datetime.fromisoformat(answer["since"]).timestamp()
            assert all(bucket["at"] >= since for bucket in answer["buckets"])  # none is there in part
        await self.load()
        again = await message(old, "hello")
        new = await message(await self.connect("/ws/activity"), "hello")
        assert counts(again) == counts(new)
        assert (new["has_history"], new["totals"]) == (True, {"public.orders": [BEFORE + 5, 0, 0, 0]})
        totals, _, seconds, tens, minutes = await self.activity()
        assert minutes == totals
        assert seconds == {"public.orders": [300 + 5, 0, 0, 0]}  # of the last quarter of an hour
        assert tens == {"public.orders": [900 + 5, 0, 0, 0]}  # and the last hour
        # What was loaded is no news for those who were there: their new hello said it, and they ask for the charts.
        self.write(INSERT, (BEFORE + 6, BEFORE + 6))
        while "60" not in (buckets := (await message(old, "activity")).get("buckets", {})):
            pass
        assert len(buckets["60"]) < 3

    @gen_test
    async def test_a_backfill_in_any_parts_counts_each_change_once(self):
        with mock.patch.object(backfill, "PART_ENTRIES", 64), mock.patch.object(backfill, "LEAST_PART_ENTRIES", 16):
            loaded = self.load()
            cut = 0
            while not loaded.done():
                pids = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid()"
                cut += len(self.write(pids, ["%counted AS%"])) if cut < 3 else 0
                await asyncio.sleep(0)
        totals, _, seconds, tens, minutes = await self.activity()
        assert totals == {"public.orders": [BEFORE, 0, 0, 0]}
        assert (seconds, tens, minutes) == tuple({"public.orders": [n, 0, 0, 0]} for n in (300, 900, BEFORE))

    @gen_test
    async def test_a_journal_that_takes_its_place_meanwhile_is_counted_alone(self):
        old = await self.connect("/ws/activity")
        await message(old, "hello")
        with ExpectLog("changefeed.follower", "the journal was replaced"):
            self.write(read_script("uninstall.sql") + read_script("install.sql"))
            self.write("SELECT changefeed.watch('orders')")
            self.write(INSERT, (BEFORE + 1, BEFORE + 7))
            await self.load()
            while (await self.fetch_json("/api/activity"))["totals"] != {"public.orders": [7, 0, 0, 0]}:
                await message(old)
        totals, *_, minutes = await self.activity()
        assert (totals, minutes) == ({"public.orders": [7, 0, 0, 0]},) * 2

    @gen_test
    async def test_a_replacement_counts_an_unfinished_backfill_itself(self):
        self.write(INSERT, (BEFORE + 1, BEFORE + 5))
        while not self.feed.hub.published:
            await self.feed.follower.until_moved()
        state = json.loads(json.dumps(self.feed.backfill.hand_over(self.feed.follower.cache)))
        self.write(INSERT, (BEFORE + 6, BEFORE + 8))
        other: ServerContext = make_context(
            load_settings(self.flags, {}, Path("/nonexistent")), complete(self.conninfo), "other"
        )
        other.backfill.take_over(state)
        other.change_counts.begin()
        self.running += [self.start_task(work.run()) for work in (other.follower, other.backfill)]
        await asyncio.gather(other.follower.until_known(30), self.load())
        await other.backfill.until_loaded()
        while other.hub.tally.totals["public.orders"] != [BEFORE + 8, 0, 0, 0]:
            await other.follower.until_moved()
        assert other.hub.tally.totals == self.feed.hub.tally.totals
        assert other.hub.tally.since == self.feed.hub.tally.since
        for step in STEPS:
            theirs, ours = (feed.hub.tally.by_step[step].since(0) for feed in (other, self.feed))
            assert [of["counts"] for of in theirs] == [of["counts"] for of in ours]
        other.request_pool.close()
        other.follower_pool.close()

    @gen_test
    async def test_it_is_no_news_for_the_metrics(self):
        async def counted() -> str:
            text = (await self.http_client.fetch(self.get_url("/metrics"))).body.decode()
            return next((line for line in text.splitlines() if line.startswith("changefeed_changes_total{")), "")

        self.write(INSERT, (BEFORE + 1, BEFORE + 5))
        while not self.feed.hub.published:
            await self.feed.follower.until_moved()
        before = await counted()
        await self.load()
        assert await counted() == before
        assert before.endswith(" 5.0"), before


class AlertWhileLoadingTest(HistoryCase):
    flags = ("--alert", "no INSERT for 1s", "--alert", "no DELETE for 1 min")

    @gen_test
    async def test_no_alert_is_raised_by_what_is_not_counted_yet(self):
        turns: list[Any] = []
        self.feed.hub.tally.set_database_ahead(0.0)
        assert self.feed.counted.span(10000000000.0) is None
        await self.load()
        self.running.append(self.start_task(keep_alerting(self.feed, turns.append)))
        with self.assertLogs("handlers.alerting", "WARNING"):
            while len(turns) < 2:
                await self.feed.follower.until_moved()
        assert {turn["state"] for turn in turns} == {"raised"}


class NoJournalTest(FeedTestCase):
    @gen_test
    async def test_without_a_journal_there_is_nothing_to_count(self):
        assert (await message(await self.connect("/ws/activity"), "hello"))["has_history"]


class LargeTransactionTest(FeedTestCase):
    """What is remembered at a start is bounded, also of a transaction that wrote more than that."""

    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()
        self.write(INSERT, (1, BEFORE))
        self.write(INSERT, (BEFORE + 1, 2 * BEFORE))
        remembering = mock.patch.object(follower, "RECALLED_ENTRIES", 10)
        remembering.start()
        self.addCleanup(remembering.stop)

    @gen_test
    async def test_the_newest_entries_are_cached(self):
        cache = self.feed.follower.cache
        assert cache
        newest = cache.newest(BEFORE)
        assert [json.loads(change.text)["data"]["id"] for change in newest] == [*range(1991, 2001)]
        assert cache.edge.batch.witness
        self.write(INSERT, (2 * BEFORE + 1, 2 * BEFORE + 2))
        while not self.feed.hub.published:
            await self.feed.follower.until_moved()
        for kept, expected in ((0, range(1, 2003)), (1_500, range(1_501, 2003)), (1_995, range(1_996, 2003))):
            begins = await self.fetch_json(f"/api/changes?limit={kept or 1}")
            since = f"&since={begins['cursor']}" if kept else ""
            found = await self.fetch_json(f"/api/changes?limit=10000{since}")
            assert [change["data"]["id"] for change in found["changes"]] == [*expected]
            assert not (found["has_more"])
            assert not (found["gap"])
