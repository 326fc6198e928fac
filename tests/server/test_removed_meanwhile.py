"""A schema that is removed, or restored, between two statements of the server is not installed by it."""

from itertools import count
from typing import Any

import pytest
from tornado.testing import AsyncTestCase, ExpectLog, gen_test

from changefeed.journal.installation import CannotWatch, Installation
from changefeed.journal.watching import Watching
from changefeed.postgres.named_queries import read_script
from changefeed.postgres.pool import Database
from tests import postgres
from tests.proxy import Proxy

SCHEMAS = "SELECT to_regnamespace('changefeed')::text"
RESTORING = "CREATE SCHEMA changefeed; CREATE FUNCTION changefeed.restored() RETURNS integer LANGUAGE sql AS 'SELECT 1'"


class RemovedMeanwhileTest(AsyncTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.conninfo = postgres.new_database()
        self.proxy = Proxy(self.conninfo)
        self.io_loop.run_sync(self.proxy.start)
        self.database = Database(self.proxy.conninfo)

    def tearDown(self) -> None:
        self.database.close()
        self.io_loop.run_sync(self.proxy.close)
        super().tearDown()

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        return postgres.execute(self.conninfo, statement)

    def watching(self, *patterns: str) -> Watching:
        return Watching(self.database, Installation(self.database), patterns, 1e6, 1 << 30)

    def uninstall(self) -> None:
        self.execute(read_script("uninstall.sql"))

    @gen_test(timeout=60)
    async def test_before_any_statement_of_the_maintenance(self):
        for number in count(1):
            watching = self.watching("public.*")
            self.execute(f"CREATE TABLE first_{number} (id int)")
            await watching.start()
            self.execute(f"CREATE TABLE later_{number} (id int)")
            with ExpectLog("changefeed.watching", "the schema changefeed was removed|not watched", required=False):
                is_removed = self.proxy.intervene(self.uninstall, before=number)
                await watching._maintain_once()
                if not is_removed.is_set():
                    break
                await watching._maintain_once()
            assert self.execute(SCHEMAS) == [(None,)], number
        assert number > 8

    @gen_test(timeout=60)
    async def test_before_any_statement_of_a_start_that_upgrades(self):
        await self.database.fetch("SELECT 1")
        for number in count(1):
            self.execute(read_script("install.sql"))
            self.execute("UPDATE changefeed.meta SET version = 1")
            is_removed = self.proxy.intervene(self.uninstall, before=number)
            await self.watching().start()
            if not is_removed.is_set():
                break
            assert self.execute(SCHEMAS) == [(None,)], number
        assert number > 4

    @gen_test
    async def test_a_restore_that_begins_before_the_installation_is_left_alone(self):
        self.execute("CREATE TABLE orders (id int)")
        is_restoring = self.proxy.intervene(lambda: self.execute(RESTORING), of="$unchanged$")
        with pytest.raises(CannotWatch, match="a restore has not ended"):
            await self.watching("public.*").start()
        assert is_restoring.is_set()
        assert self.execute("SELECT to_regclass('changefeed.meta')") == [(None,)]

    @gen_test
    async def test_an_installation_by_another_session_meanwhile_is_used(self):
        self.execute("CREATE TABLE orders (id int)")
        self.proxy.intervene(lambda: self.execute(read_script("install.sql")), of="$unchanged$")
        await self.watching("public.*").start()
        assert self.execute("SELECT table_name FROM changefeed.status()") == [("orders",)]

    @gen_test
    async def test_a_table_that_another_session_watches_meanwhile_keeps_its_options(self):
        self.execute("CREATE TABLE orders (id int, secret text)")
        watching = self.watching("public.orders")
        await watching.installation.install()
        watch = "SELECT changefeed.watch('orders', omit => '{secret}')"
        is_watched = self.proxy.intervene(lambda: self.execute(watch), of="SELECT changefeed.watch(")
        await watching._maintain_once()
        assert is_watched.is_set()
        assert self.execute("SELECT omit FROM changefeed.status()") == [(["secret"],)]

    @gen_test
    async def test_a_request_installs_it_again(self):
        self.execute("CREATE TABLE orders (id int)")
        watching = self.watching("public.orders")
        await watching.start()
        self.uninstall()
        with pytest.raises(CannotWatch, match="was removed"):
            await watching.watch("public.orders", for_request=False)
        await watching.watch("public.orders")
        assert self.execute("SELECT table_name FROM changefeed.status()") == [("orders",)]


def test_a_process_that_replaces_another_knows_that_the_schema_was_there():
    database: Any = None
    replacing = Installation(database, has_been_seen=True)
    replacing.note_looked(has_journal=False)
    assert replacing.is_removed
    replacing.note_looked(has_journal=True)
    assert not replacing.is_removed
    first = Installation(database)
    first.note_looked(has_journal=False)
    assert not first.is_removed
