"""The demo's tables and what is written to them: never an error, never too many rows, and all of it watched."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

from tornado.testing import AsyncTestCase, gen_test

from app import demo
from app.demo import Demo, make_tables, mood
from changefeed.journal.installation import Installation
from changefeed.journal.watching import Watching
from changefeed.postgres.pool import Database
from tests import postgres

COUNT = "SELECT count(*) FROM public.portal_eventrequests"


def test_the_mood_keeps_drifting_around_one():
    moods = [mood(second / 10) for second in range(6_000)]
    assert 0 < min(moods) < 0.5
    assert 1.5 < max(moods) < 10
    assert 0.8 < sum(moods) / len(moods) < 1.5


class DemoTest(AsyncTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.conninfo = postgres.new_database()
        self.database = Database(self.conninfo)
        self.watching = Watching(self.database, Installation(self.database), (), 3600, 1 << 20)
        self.io_loop.run_sync(lambda: make_tables(self.database, self.watching))

    def tearDown(self) -> None:
        self.database.close()
        super().tearDown()

    @gen_test
    async def test_making_the_table_again_keeps_its_rows_and_one_trigger(self):
        await Demo(self.database, 1.0)._insert()
        await make_tables(self.database, self.watching)
        assert await self.database.fetch(COUNT) == [(1,)]
        watched = "SELECT table_name, is_complete FROM changefeed.status()"
        assert await self.database.fetch(watched) == [(table, True) for table in sorted(demo.TABLES)]
        assert await self.database.fetch("SELECT count(*) FROM public.portal_termine") == [(12,)]

    @gen_test
    async def test_every_demo_table_changes_within_a_bound(self):
        writes = Demo(self.database, 1.0, random.Random(7))
        for _ in range(1_500):
            await writes._one_write()
        recorded = (
            "SELECT table_name, array_agg(DISTINCT action::text ORDER BY action::text) FROM {} GROUP BY 1 ORDER BY 1"
        )
        assert await self.database.fetch(recorded.format("changefeed.journal")) == [
            ("portal_eventrequests", ["D", "I", "U"]),
            ("portal_sessions", ["D", "I", "U"]),
            ("portal_termine", ["I", "U"]),
            ("portal_tickets", ["D", "I", "U"]),
        ]
        bounds = {"portal_tickets": 12 * 36, "portal_sessions": 60, "portal_termine": 12}
        for table, most in bounds.items():
            [(rows,)] = await self.database.fetch(f"SELECT count(*) FROM public.{table}")
            assert 0 < rows <= most, (table, rows)
        seats = (
            "SELECT sum(seats - seats_left) = (SELECT count(*) FROM public.portal_tickets) FROM public.portal_termine"
        )
        assert await self.database.fetch(seats) == [(True,)]

    @gen_test
    async def test_updates_and_deletes_hit_one_row_if_there_is_one(self):
        for rows in range(3):
            for place in (0.0, 0.3, 0.7, 0.999):
                await self.database.fetch("TRUNCATE public.portal_eventrequests")
                for _ in range(rows):
                    await Demo(self.database, 1.0)._insert()
                await self.database.fetch(demo.QUERIES["update demo request"], {"position": place, "ev_type": 9})
                changed = await self.database.fetch(COUNT + " WHERE ev_type = 9")
                assert changed == [(min(rows, 1),)], (rows, place)
                await self.database.fetch(demo.QUERIES["delete demo request"], {"position": place})
                assert await self.database.fetch(COUNT) == [(max(rows - 1, 0),)], (rows, place)

    @gen_test
    async def test_the_oldest_rows_go_when_there_are_too_many(self):
        writes = Demo(self.database, 1.0)
        await self.database.fetch(
            "INSERT INTO public.portal_eventrequests (url, termin_id, user_hash_id, ev_id) "
            f"SELECT 'old', 1, 1, 1 FROM generate_series(1, {demo.KEPT_ROWS + 10})"
        )
        for _ in range(2):
            await writes._insert()
        [(rows, newest)] = await self.database.fetch(
            "SELECT count(*), count(*) FILTER (WHERE url <> 'old') FROM public.portal_eventrequests"
        )
        assert rows <= demo.KEPT_ROWS + 1
        assert newest == 2

    @gen_test
    async def test_it_continues_after_an_outage_of_its_database(self):
        async with self.writing():
            with self.noticing() as logs:
                await asyncio.to_thread(postgres.cluster().stop)
                try:
                    await self.until_it_noticed(logs)
                finally:
                    postgres.cluster().start()
            [(before,)] = postgres.execute(
                self.conninfo, "SELECT coalesce(max(id), 0) FROM public.portal_eventrequests"
            )
            await self.until_rows_beyond(before)

    @gen_test
    async def test_it_continues_when_its_table_is_renamed_for_a_while(self):
        async with self.writing():
            with self.noticing() as logs:
                postgres.execute(self.conninfo, "ALTER TABLE public.portal_eventrequests RENAME TO hidden")
                await self.until_it_noticed(logs)
            assert 'relation "public.portal_eventrequests" does not exist' in logs.output[0]
            [(before,)] = postgres.execute(self.conninfo, "SELECT coalesce(max(id), 0) FROM hidden")
            postgres.execute(self.conninfo, "ALTER TABLE hidden RENAME TO portal_eventrequests")
            await self.until_rows_beyond(before)

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """The demo runs through all of it, and has written when it begins."""
        writing = asyncio.ensure_future(Demo(self.database, 1_000.0).run())
        try:
            await self.until_rows_beyond(0)
            with mock.patch.object(demo, "PAUSE_AFTER_ERROR_SECONDS", 0.01):
                yield
        finally:
            writing.cancel()
            [ended] = await asyncio.gather(writing, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError)

    def noticing(self) -> Any:
        return self.assertLogs("changefeed.demo", "INFO")

    async def until_it_noticed(self, logs: Any) -> None:
        while not logs.output:  # noqa: ASYNC110  # nothing else tells of it
            await asyncio.sleep(0)
        assert "the demo cannot write" in logs.output[0]

    async def until_rows_beyond(self, last_id: int) -> None:
        beyond = f"{COUNT} WHERE id > {last_id}"
        while (await asyncio.to_thread(postgres.execute, self.conninfo, beyond)) == [(0,)]:
            pass
