"""--watch watches present and later tables, and keeps the options of a table that is already watched."""

import asyncio
from unittest import mock

import pytest
from tornado.testing import ExpectLog, gen_test

from changefeed.change.table_names import TableName
from changefeed.journal.installation import Installation
from changefeed.journal.watching import NoSuchTable, Watching, WatchOptions
from changefeed.postgres.named_queries import read_script
from tests.feed_case import ORDERS, FeedTestCase, message


class WatchingTest(FeedTestCase):
    flags = ("--watch", "public.*")

    def prepare_database(self) -> None:
        self.write(ORDERS)

    @gen_test
    async def test_a_table_that_comes_later_is_watched(self):
        with ExpectLog("changefeed.watching", "watching public.orders", level=20):
            await self.feed.watching.start()
        self.write("CREATE TABLE later (id int)")
        with ExpectLog("changefeed.watching", "watching public.later", level=20):
            await self.feed.watching._maintain_once()
        assert self.write("SELECT table_name FROM changefeed.status()") == [("later",), ("orders",)]

    @gen_test
    async def test_failed_and_resumed_maintenance_is_logged_once(self):
        await self.feed.watching.start()
        with self.assertLogs("changefeed.watching", "INFO") as logged:
            self.write("ALTER FUNCTION changefeed.retain(interval, bigint) RENAME TO retain_not")
            await self.maintained()
            await self.maintained()
            self.write("ALTER FUNCTION changefeed.retain_not(interval, bigint) RENAME TO retain")
            await self.maintained()
            await self.maintained()
        failed, works = [text for record in logged.records if "maintain" in (text := record.getMessage())]
        assert failed.startswith("could not maintain the journal: ")
        assert works == "the journal is maintained again"

    async def maintained(self) -> None:
        """One turn of the loop that maintains the journal."""
        waits = asyncio.Event()
        watching = self.feed.watching

        async def wait() -> None:
            waits.set()
            await asyncio.Event().wait()

        with mock.patch.object(watching, "_woken", mock.Mock(wait=wait)):
            turn = asyncio.create_task(watching.maintain())
            await waits.wait()
            turn.cancel()
            await asyncio.gather(turn, return_exceptions=True)

    @gen_test
    async def test_omitted_and_hashed_columns_stay_so(self):
        options = WatchOptions(omit=("total",), row_limit=7, strict=True, hash=("status",))
        await self.feed.watching.watch("public.orders", options)
        await self.feed.watching.start()
        await self.feed.watching._maintain_once()
        status = self.write("SELECT omit, row_limit, strict, hash FROM changefeed.status()")
        assert status == [(["total"], 7, True, ["status"])]

    @gen_test
    async def test_an_older_schema_is_brought_up_to_date(self):
        self.watch()
        self.write("UPDATE changefeed.meta SET version = 1")
        await self.feed.watching.start()
        assert self.write("SELECT version FROM changefeed.meta") != [(1,)]

    @gen_test
    async def test_a_schema_that_was_restored_alone_gets_what_it_lacks(self):
        self.watch()
        self.write("DELETE FROM changefeed.meta")
        await self.feed.watching.start()
        assert self.write("SELECT count(*) FROM changefeed.meta") == [(1,)]

    @gen_test
    async def test_a_removed_schema_returns_only_on_request(self):
        # The follower may, or may not, read meanwhile.
        with ExpectLog("changefeed.follower", "the journal (cannot be read|was replaced|was removed)", required=False):
            await self.feed.watching.start()
            self.write(read_script("uninstall.sql"))
            with ExpectLog("changefeed.watching", ".*was removed.*psql -f sql/install.sql, or restart the server"):
                await self.feed.watching._maintain_once()
            assert "was removed" in (await self.fetch_json("/readyz", 503))["error"]["message"]
            await self.feed.watching._maintain_once()  # it says no more, or conftest.py would fail this test
            assert self.write("SELECT to_regnamespace('changefeed')") == [(None,)]
            assert self.write("SELECT tgname FROM pg_trigger WHERE tgrelid = 'orders'::regclass") == []
            self.write(read_script("install.sql"))
            await self.feed.watching._maintain_once()
            assert self.write("SELECT table_name FROM changefeed.status()") == [("orders",)]
            self.write(read_script("uninstall.sql"))
            await self.feed.watching.watch("public.orders")
            assert self.write("SELECT table_name FROM changefeed.status()") == [("orders",)]

    @gen_test
    async def test_an_earlier_schema_is_updated_on_request(self):
        self.watch()
        self.write("ALTER TABLE changefeed.meta DROP COLUMN readable_from")
        installation = Installation(self.feed.request_pool, may_upgrade=False)
        careful = Watching(self.feed.request_pool, installation, (), 1.0, 1)
        with ExpectLog(
            "changefeed.watching", r".*earlier state of it \(meta.readable_from\): run psql -f sql/install.sql again"
        ):
            await careful.start()
        with ExpectLog("changefeed.watching", "brought the schema changefeed up to date", level=20):
            await Watching(self.feed.request_pool, Installation(self.feed.request_pool), (), 1.0, 1).start()
        await careful.start()


class EmptyDatabaseTest(FeedTestCase):
    flags = ("--watch", "public.*")

    @gen_test
    async def test_the_first_table_that_comes_is_watched(self):
        await self.feed.watching.start()
        await self.feed.watching._maintain_once()
        self.write(ORDERS)
        with ExpectLog("changefeed.watching", "watching public.orders", level=20):
            await self.feed.watching._maintain_once()
        assert self.write("SELECT table_name FROM changefeed.status()") == [("orders",)]

    @gen_test
    async def test_one_that_is_dropped_before_it_is_watched_is_no_mistake(self):
        self.write(ORDERS)
        watching = self.feed.watching

        async def too_late(name: str, table: TableName) -> bool:
            self.write("DROP TABLE orders")
            return await Watching._watch_new(watching, name, table)

        with mock.patch.object(watching, "_watch_new", too_late):
            await watching._maintain_once()


class NoTableTest(FeedTestCase):
    flags = ("--watch", "public.orders")

    @gen_test
    async def test_a_name_of_no_table_is_refused(self):
        with pytest.raises(NoSuchTable, match=r"--watch public.orders: the database has no such table"):
            await self.feed.watching.start()


class RemovedSchemaTest(FeedTestCase):
    """Without --watch: tables are watched in SQL."""

    def prepare_database(self) -> None:
        self.write(ORDERS)

    @gen_test
    async def test_the_server_is_not_ready_until_the_schema_is_back(self):
        await self.fetch_json("/readyz")  # for NOTIFY triggers alone
        self.watch()
        await self.feed.watching._maintain_once()
        await self.fetch_json("/readyz")
        with ExpectLog("changefeed.follower", "the journal (cannot be read|was replaced|was removed)", required=False):
            self.write(read_script("uninstall.sql"))
            await self.feed.watching._maintain_once()
            assert "was removed" in (await self.fetch_json("/readyz", 503))["error"]["message"]
            self.write(read_script("install.sql"))
            self.feed.follower.reidentify()
            while self.feed.readiness.trouble is not None:
                await self.feed.follower.until_known(1.0)
                await asyncio.sleep(0)
        await self.fetch_json("/readyz")

    @gen_test
    async def test_it_is_not_ready_as_soon_as_clients_get_the_gap(self):
        self.watch()
        self.feed.follower.wake()
        await self.feed.follower.until_moved()
        socket = await self.connect(protocol=True)
        await message(socket, "hello")
        with ExpectLog("changefeed.follower", "the journal was removed"):
            self.write(read_script("uninstall.sql"))
            self.feed.follower.wake()
            assert "the journal was removed" in (await message(socket, "gap"))["why"]
        assert "was removed" in (await self.fetch_json("/readyz", 503))["error"]["message"]


class NoPlainChannelTest(FeedTestCase):
    flags = ("--no-plain-channel",)

    @gen_test
    async def test_without_a_journal_nothing_could_be_delivered(self):
        assert "not installed" in (await self.fetch_json("/readyz", 503))["error"]["message"]


class ChannelsAloneTest(FeedTestCase):
    flags = ("--no-plain-channel", "--channels", "chat")

    @gen_test
    async def test_a_server_of_channels_alone_is_ready(self):
        await self.fetch_json("/readyz")
