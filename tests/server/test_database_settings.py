"""The whole road under what others set for their database: nothing of it changes what is delivered, or stops it.

A search_path that others can write to has tests of its own: tests/sql/test_search_path.py.
"""

import select
from typing import Any, ClassVar

from psycopg2.extensions import make_dsn, parse_dsn
from tornado.testing import gen_test

from changefeed.postgres.named_queries import read_script
from tests import postgres
from tests.feed_case import FeedTestCase, message

TABLES = """
    CREATE TABLE public.orders (
        id bigint PRIMARY KEY, note text, at timestamptz, span interval, raw bytea, score float8, price money, tags text[]
    );
    CREATE TABLE public.parts (k int, note text) PARTITION BY LIST (k);
    CREATE TABLE public.part_1 PARTITION OF public.parts FOR VALUES IN (1)
"""
INSERT = """
    INSERT INTO public.orders
    SELECT 1, convert_from(decode('c3bc5c27', 'hex'), 'UTF8'), to_timestamp(1.5), make_interval(days => 1, secs => 2),
        decode('00ff', 'hex'), 0.1::float8 + 0.2::float8, 12.5::numeric::money, ARRAY['a', NULL]
"""
ROW = {
    "id": 1,
    "note": "ü\\'",
    "at": "1970-01-01T00:00:01.5+00:00",
    "span": "1 day 00:00:02",
    "raw": "\\x00ff",
    "score": 0.30000000000000004,
    "price": "$12.50",
    "tags": ["a", None],
}
OFF = [
    "enable_async_append",
    "enable_bitmapscan",
    "enable_distinct_reordering",
    "enable_eager_aggregate",
    "enable_gathermerge",
    "enable_group_by_reordering",
    "enable_hashagg",
    "enable_hashjoin",
    "enable_incremental_sort",
    "enable_indexonlyscan",
    "enable_indexscan",
    "enable_material",
    "enable_memoize",
    "enable_mergejoin",
    "enable_nestloop",
    "enable_parallel_append",
    "enable_parallel_hash",
    "enable_partition_pruning",
    "enable_partitionwise_aggregate",
    "enable_partitionwise_join",
    "enable_presorted_aggregate",
    "enable_self_join_elimination",
    "enable_seqscan",
    "enable_sort",
    "enable_tidscan",
]


class SettingsCase(FeedTestCase):
    """`settings` are the database's, for all sessions; the writers' own are `writers`."""

    __test__ = False
    flags = ("--watch", "public.*")
    settings: ClassVar[dict[str, str]]
    writers: ClassVar[dict[str, str]] = {}

    def new_database(self) -> str:
        conninfo = super().new_database()
        postgres.execute(conninfo, TABLES)
        known = {name for (name,) in postgres.execute(conninfo, "SELECT name FROM pg_settings")}
        database = parse_dsn(conninfo)["dbname"]
        for name, value in self.settings.items():
            if name in known or name.startswith("plpgsql."):  # others are of a newer PostgreSQL
                postgres.execute(postgres.cluster().conninfo, f"ALTER DATABASE {database} SET {name} = '{value}'")
        return conninfo

    def prepare_database(self) -> None:
        options = " ".join(f"-c {name}={value}" for name, value in self.writers.items())
        self.writer = postgres.connect(str(make_dsn(self.conninfo, options=options)))
        self.addCleanup(self.writer.close)

    def run_sql(self, statement: str) -> list[tuple[Any, ...]]:
        """In one of the writer's sessions."""
        with self.writer.cursor() as db_cursor:
            db_cursor.execute(statement)
            return list(db_cursor.fetchall()) if db_cursor.description else []

    def warnings(self) -> list[str]:
        return [one for one in self.writer.notices if one.startswith("WARNING")]

    async def go_the_whole_road(self) -> None:
        feed = self.feed
        await feed.watching.start()
        self.start_tending()
        assert await feed.watching.not_watched() == {}
        while self.feed.follower.cache is None:
            await feed.follower.until_moved()
        client = await self.connect(protocol=True)
        assert (await message(client, "hello"))["cursor"] is not None
        for statement in (
            INSERT,
            "UPDATE public.orders SET id = 2",
            "DELETE FROM public.orders",
            "TRUNCATE public.orders",
            "INSERT INTO public.part_1 VALUES (1)",
        ):
            self.run_sql(statement)
        got = await self.next_changes(client, 5)
        assert [(change["table"], change["action"], change["data"]) for change in got] == [
            ("orders", "INSERT", ROW),
            ("orders", "UPDATE", ROW | {"id": 2}),
            ("orders", "DELETE", ROW | {"id": 2}),
            ("orders", "TRUNCATE", None),
            ("parts", "INSERT", {"k": 1, "note": None}),
        ]
        assert got[1]["old"] == {"id": 1}
        page = await self.fetch_json("/api/changes")
        assert (len(page["changes"]), page["gap"]) == (5, None)
        assert all(table["watched_by"] == "journal" for table in (await self.fetch_json("/api/tables"))["tables"])
        assert (await self.fetch_json("/readyz"))["status"] == "ready"

        self.run_sql(read_script("install.sql"))
        self.run_sql("CREATE TABLE public.part_2 PARTITION OF public.parts FOR VALUES IN (2)")
        self.run_sql("SELECT changefeed.refresh()")
        self.run_sql("INSERT INTO public.part_2 VALUES (2)")
        assert [one["data"] for one in await self.next_changes(client, 1)] == [{"k": 2, "note": None}]
        complete = self.run_sql("SELECT table_name, is_complete FROM changefeed.status() ORDER BY 1")
        assert complete == [("orders", True), ("parts", True)]
        assert await feed.request_pool.fetch("SELECT is_complete FROM changefeed.status()") == [(True,), (True,)]
        # Which refuses snapshots that are older than itself, as a session with another default has them.
        self.run_sql("SET default_transaction_isolation = 'read committed'")
        self.run_sql("SELECT changefeed.retain('1 day', 100000000)")
        self.run_sql("RESET default_transaction_isolation")
        [(losses,)] = self.run_sql("SELECT losses FROM changefeed.journal_status()")
        assert (losses, self.warnings()) == (0, [])
        assert await feed.watching.change("public.orders", lambda *_: None)
        self.run_sql("SELECT changefeed.unwatch('public.parts')")
        assert self.run_sql("SELECT FROM changefeed.status()") == []

    def start_tending(self) -> None:
        self.running.append(self.start_task(self.feed.watching.maintain()))

    @staticmethod
    async def next_changes(client: Any, count: int) -> list[Any]:
        changes: list[Any] = []
        while len(changes) < count:
            changes += (await message(client, "changes"))["changes"]
        return changes


class TimeoutsTest(SettingsCase):
    """Of all sessions; the writers have more patience."""

    __test__ = True
    settings: ClassVar = {
        "statement_timeout": "1ms",
        "lock_timeout": "1ms",
        "idle_session_timeout": "200ms",
        "idle_in_transaction_session_timeout": "1ms",
        "transaction_timeout": "20ms",
        "client_connection_check_interval": "1ms",
        "deadlock_timeout": "1ms",
    }
    writers: ClassVar = {
        "statement_timeout": "0",
        "transaction_timeout": "0",
        "idle_session_timeout": "0",
        "lock_timeout": "0",
    }

    def prepare_database(self) -> None:
        if postgres.major_version() < 17:
            self.writers = {name: value for name, value in self.writers.items() if name != "transaction_timeout"}
        super().prepare_database()
        with_lock = {name: value for name, value in self.writers.items() if name != "idle_session_timeout"}
        options = " ".join(f"-c {name}={value}" for name, value in with_lock.items())
        self.idle = postgres.connect(str(make_dsn(self.conninfo, options=options)))

    @gen_test
    async def test_no_session_of_the_server_is_ended(self):
        await self.go_the_whole_road()
        # A session that began with the server's is ended by now, or is after this.
        select.select([self.idle], [], [])
        self.idle.close()
        assert self.feed.listener.reconnects == 0
        assert (await self.fetch_json("/readyz"))["status"] == "ready"


class ReadOnlyTest(SettingsCase):
    __test__ = True
    settings: ClassVar = {
        "default_transaction_isolation": "serializable",
        "default_transaction_read_only": "on",
        "default_transaction_deferrable": "on",
    }
    writers: ClassVar = {"default_transaction_read_only": "off"}

    @gen_test
    async def test_serializable_read_only_and_deferrable(self):
        await self.go_the_whole_road()


class RepeatableReadTest(SettingsCase):
    __test__ = True
    settings: ClassVar = {
        "default_transaction_isolation": "repeatable read",
        "synchronous_commit": "off",
        "commit_delay": "10",
        "stats_fetch_consistency": "snapshot",
        "search_path": "",
        "role": "none",
        "row_security": "off",
        "default_table_access_method": "heap",
        "default_toast_compression": "pglz",
        "default_tablespace": "",
        "temp_tablespaces": "",
        "lo_compat_privileges": "on",
        "restrict_nonsystem_relation_kind": "view, foreign-table",
        "createrole_self_grant": "set, inherit",
        "default_with_oids": "off",
        "allow_system_table_mods": "on",
    }

    @gen_test
    async def test_snapshots_names_and_storage(self):
        await self.go_the_whole_road()


class TextsTest(SettingsCase):
    __test__ = True
    settings: ClassVar = {
        "DateStyle": "German",
        "TimeZone": "Asia/Kolkata",
        "timezone_abbreviations": "India",
        "IntervalStyle": "sql_standard",
        "extra_float_digits": "-15",
        "bytea_output": "escape",
        "lc_monetary": "C.utf8",
        "lc_numeric": "C.utf8",
        "lc_time": "C.utf8",
        "lc_messages": "C.utf8",
        "xmloption": "document",
        "xmlbinary": "hex",
        "default_text_search_config": "pg_catalog.german",
        "client_encoding": "LATIN1",
    }

    @gen_test
    async def test_forms_of_values(self):
        await self.go_the_whole_road()


class LexingTest(SettingsCase):
    __test__ = True
    settings: ClassVar = {
        "standard_conforming_strings": "off",
        "escape_string_warning": "off",
        "backslash_quote": "off",
        "quote_all_identifiers": "on",
        "transform_null_equals": "on",
        "array_nulls": "off",
        "check_function_bodies": "off",
        "default_statistics_target": "1",
    }

    @gen_test
    async def test_how_sql_is_read(self):
        await self.go_the_whole_road()


class PlannerTest(SettingsCase):
    __test__ = True
    settings: ClassVar = {
        **dict.fromkeys(OFF, "off"),
        "constraint_exclusion": "on",
        "cursor_tuple_fraction": "0",
        "from_collapse_limit": "1",
        "geqo_threshold": "2",
        "join_collapse_limit": "1",
        "plan_cache_mode": "force_generic_plan",
        "recursive_worktable_factor": "1000000",
        "work_mem": "64kB",
    }

    @gen_test
    async def test_plans_that_are_bad(self):
        await self.go_the_whole_road()


class ParallelTest(SettingsCase):
    __test__ = True
    settings: ClassVar = {
        "debug_parallel_query": "on",
        "force_parallel_mode": "on",
        "parallel_setup_cost": "0",
        "parallel_tuple_cost": "0",
        "min_parallel_table_scan_size": "0",
        "min_parallel_index_scan_size": "0",
        "jit": "on",
        "jit_above_cost": "0",
        "plan_cache_mode": "force_custom_plan",
    }

    @gen_test
    async def test_parallel_and_compiled(self):
        await self.go_the_whole_road()


class NoisyTest(SettingsCase):
    __test__ = True
    settings: ClassVar = {
        "plpgsql.extra_errors": "all",
        "plpgsql.extra_warnings": "all",
        "plpgsql.variable_conflict": "use_column",
        "plpgsql.print_strict_params": "on",
        "client_min_messages": "debug5",
        "log_error_verbosity": "verbose",
        "track_functions": "all",
        "event_triggers": "off",
        "ignore_checksum_failure": "on",
        "debug_discard_caches": "0",
    }

    @gen_test
    async def test_plpgsql_messages_and_event_triggers(self):
        await self.go_the_whole_road()


class ExitOnErrorTest(SettingsCase):
    """Also an error that is caught ends a session then."""

    __test__ = True
    settings: ClassVar = {"exit_on_error": "on"}

    @gen_test
    async def test_an_error_that_is_caught_ends_no_session(self):
        await self.go_the_whole_road()


class ReplicationRoleTest(SettingsCase):
    """No trigger fires: doctor says so (tests/process/test_doctor.py), and docs/database.md that nothing is recorded."""

    __test__ = True
    settings: ClassVar = {"session_replication_role": "replica"}
    writers: ClassVar = {"session_replication_role": "origin"}

    @gen_test
    async def test_only_writers_with_the_role_origin_are_recorded(self):
        await self.go_the_whole_road()
        self.run_sql("SELECT changefeed.watch('public.orders')")
        before = self.run_sql("SELECT count(*) FROM changefeed.journal")
        self.write(INSERT)  # in a session of its own, with the database's settings
        assert self.run_sql("SELECT count(*) FROM changefeed.journal") == before
