"""A dump comes over the database of a running server, in steps: tables first, then rows, then keys and triggers."""

import asyncio
import contextlib
from typing import Any

import psycopg2
import pytest
from tornado.testing import ExpectLog, gen_test
from tornado.websocket import WebSocketClientConnection

from changefeed.journal.installation import CannotWatch
from changefeed.journal.journal import Journal
from changefeed.postgres.named_queries import read_script
from tests import postgres
from tests.feed_case import message
from tests.server.test_journal_feed import JournalTestCase

WATCHED_AGAIN = "public.orders is watched again, and was not for a while"


class RestoredInStepsTest(JournalTestCase):
    async def begin(self) -> WebSocketClientConnection:
        """A client that has read the one row; there is a dump of it."""
        socket = await self.connect("/ws?table=orders", protocol=True)
        await message(socket, "hello")
        self.write("INSERT INTO orders VALUES (1)")
        await message(socket, "changes")
        await self.feed.lookout.look()
        self.dump = str(postgres.cluster().data_dir / "socket" / f"dump-{id(self)}")
        self.run_tool("pg_dump", "--format", "custom", "--file", self.dump)
        return socket

    def run_tool(self, name: str, *arguments: str) -> None:
        postgres.run_tool(postgres.cluster(), name, "--dbname", self.conninfo, *arguments)

    def restore(self, *flags: str) -> None:
        self.run_tool("pg_restore", *flags, self.dump)

    async def work(self) -> None:
        """What the server does every few seconds."""
        self.feed.follower.reidentify()
        with contextlib.suppress(psycopg2.Error, CannotWatch):
            await self.feed.watching._maintain_once()
        with contextlib.suppress(psycopg2.Error):
            await self.feed.lookout.look()

    async def until_trouble(self, text: str) -> None:
        while text not in (self.feed.follower.trouble or ""):
            self.feed.follower.reidentify()
            await asyncio.sleep(0)

    async def told_until(self, socket: WebSocketClientConnection, row_id: int) -> tuple[list[int], list[str]]:
        """The rows that come up to this one, and why there are gaps."""
        ids: list[int] = []
        gaps: list[str] = []
        while row_id not in ids:
            told: Any = await message(socket)
            if told["type"] == "gap":
                gaps.append(told["why"])
            ids += [change["data"]["id"] for change in told.get("changes", ()) if change["data"]]
        return ids, gaps

    @gen_test(timeout=60)
    async def test_restored_rows_are_a_gap_and_so_is_the_new_watch(self):
        socket = await self.begin()
        self.write("INSERT INTO orders VALUES (2)")
        await message(socket, "changes")
        any_log = [
            ExpectLog(f"changefeed.{name}", ".*", required=False) for name in ("follower", "lookout", "watching")
        ]
        with any_log[0], any_log[1], any_log[2]:
            self.write("DROP SCHEMA changefeed, changefeed_secret CASCADE")  # as pg_restore --clean
            self.write("DROP TABLE orders")
            self.restore("--section", "pre-data")
            await self.until_trouble("no primary key")
            await self.work()
            assert self.write("SELECT count(*) FROM changefeed.meta") == [(0,)]
            self.restore("--section", "data")
            await self.work()
            assert self.write("SELECT count(*) FROM changefeed.meta") == [(1,)]
            assert "a restore has not ended" in (await self.fetch_json("/readyz", 503))["error"]["message"]
            self.write("ALTER TABLE changefeed.meta ADD CONSTRAINT meta_pkey PRIMARY KEY (is_only)")
            # With several jobs the journal may be whole before the tables are.
            self.write(
                "ALTER TABLE changefeed.recorded ADD CONSTRAINT recorded_pkey PRIMARY KEY (schema_name, table_name)"
            )
            self.feed.follower.reidentify()
            assert (await message(socket, "gap"))["why"].startswith("the journal was re")
            await self.work()
            self.write("INSERT INTO orders VALUES (3)")  # which nobody records
            self.write("ALTER TABLE changefeed.meta DROP CONSTRAINT meta_pkey")
            self.write("ALTER TABLE changefeed.recorded DROP CONSTRAINT recorded_pkey")
            self.restore("--section", "post-data")
            await self.work()
            self.write("INSERT INTO orders VALUES (4)")
            assert await self.told_until(socket, 4) == ([4], [WATCHED_AGAIN])
            await self.work()
            self.write("INSERT INTO orders VALUES (5)")
            assert await self.told_until(socket, 5) == ([5], [])
        assert await Journal(self.feed.request_pool).identify()

    @gen_test(timeout=60)
    async def test_what_was_recorded_before_the_dump_does_not_come_again(self):
        socket = await self.begin()
        any_log = [ExpectLog(f"changefeed.{name}", ".*", required=False) for name in ("follower", "lookout")]
        with any_log[0], any_log[1]:
            self.write(read_script("uninstall.sql"))
            self.feed.follower.wake()
            assert "was removed" in (await message(socket, "gap"))["why"]
            self.restore("--clean", "--if-exists")
            await self.work()
            self.write("INSERT INTO orders VALUES (2)")
            assert await self.told_until(socket, 2) == ([2], [WATCHED_AGAIN])

    @gen_test
    async def test_a_journal_with_two_rows_in_meta_is_mended_by_install(self):
        self.write("ALTER TABLE changefeed.meta DROP CONSTRAINT meta_pkey")
        self.write("INSERT INTO changefeed.meta (version, readable_from) VALUES (5, 5)")
        with ExpectLog("changefeed.follower", ".*no primary key.*run sql/install.sql", level=30):
            await self.until_trouble("no primary key")
        with pytest.raises(CannotWatch, match=r"run sql/install\.sql"):
            await self.feed.watching.start()
        with ExpectLog("changefeed.follower", "the journal was replaced|following", required=False):
            self.write(read_script("install.sql"))
            self.write(read_script("install.sql"))
            assert self.write("SELECT count(*) FROM changefeed.meta") == [(1,)]
            self.feed.follower.reidentify()
            await self.feed.watching.start()
            while self.feed.follower.trouble is not None:
                await self.feed.follower.until_moved()
        socket = await self.connect("/ws?table=orders", protocol=True)
        self.write("INSERT INTO orders VALUES (7)")
        assert await self.told_until(socket, 7) == ([7], [])
