"""What is relied on in momoko: a pool in which queries run in parallel, and which outlives whatever happens to it."""

import asyncio
import re
import socket
from typing import Any
from unittest import mock

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn
from tornado.testing import AsyncTestCase, gen_test

from changefeed.postgres import pool
from changefeed.postgres.connection import complete, without_session_options
from changefeed.postgres.pool import Database, DatabaseUnavailable, one_line
from tests import postgres
from tests.proxy import Proxy

SIZE = 4
# Waits until the test, which holds the lock, lets it go.
BLOCKED = "SELECT %s FROM pg_advisory_xact_lock_shared(1)"
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pool' AND datname = current_database()"
WAITING = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pid IN ({BACKENDS})"
KILL = f"SELECT count(pg_terminate_backend(pid, 10000)) FROM ({BACKENDS}) AS backends"


class DatabaseTestCase(AsyncTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.conninfo = postgres.new_database()
        self.database = self.make_database(self.conninfo)
        self._holder = postgres.connect(self.conninfo)

    def make_database(self, conninfo: str, size: int = SIZE) -> Database:
        made = Database(str(make_dsn(conninfo, application_name="pool")), size)
        self.addCleanup(made.close)
        return made

    def tearDown(self) -> None:
        self._holder.close()
        super().tearDown()

    def hold(self) -> None:
        self._holder.cursor().execute("SELECT pg_advisory_lock(1)")

    def let_go(self) -> None:
        self._holder.cursor().execute("SELECT pg_advisory_unlock(1)")

    def start(self, work: Any) -> "asyncio.Task[Any]":
        return asyncio.ensure_future(work)

    async def until(self, statement: str, expected: int) -> None:
        """Until the first value of `statement` is what is expected."""
        while (await asyncio.to_thread(postgres.execute, self.conninfo, statement))[0][0] != expected:
            pass

    async def use_all(self, database: Database) -> None:
        """Every connection of the pool runs a query while all the others do."""
        self.hold()
        queries = [self.start(database.fetch(BLOCKED, [number])) for number in range(SIZE)]
        await self.until(WAITING, SIZE)
        self.let_go()
        assert await asyncio.gather(*queries) == [[(number,)] for number in range(SIZE)]


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (
            "server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally\n"
            "\tbefore or while processing the request.\n",
            "server closed the connection unexpectedly. This probably means the server terminated abnormally before or "
            "while processing the request",
        ),
        (
            "FATAL:  terminating connection due to administrator command\nserver closed the connection unexpectedly\n",
            "FATAL: terminating connection due to administrator command; server closed the connection unexpectedly",
        ),
        (
            "Connection refused\n\tIs the server running on that host?\nconnection to server at port 1 failed: timeout\n",
            "Connection refused. Is the server running on that host? connection to server at port 1 failed: timeout",
        ),
        (
            'relation "a" does not exist\nLINE 1: SELECT * FROM a\n                      ^\nHINT:  Look.\n',
            'relation "a" does not exist. LINE 1: SELECT * FROM a. HINT: Look',
        ),
        ("", "OperationalError"),
    ],
)
def test_a_message_of_several_lines_reads_well_as_one(told: str, line: str):
    assert one_line(psycopg2.OperationalError(told)) == line


class DatabaseTest(DatabaseTestCase):
    @gen_test
    async def test_rows_are_tuples(self):
        fetch = self.database.fetch
        assert await fetch("CREATE TABLE public.t (n numeric, s text)") == []
        assert await fetch("INSERT INTO public.t VALUES (1.10, %(s)s), (2, '%%')", {"s": "ä%"}) == []
        assert await fetch("SELECT n::text, s FROM public.t WHERE s LIKE '%' ORDER BY n") == [
            ("1.10", "ä%"),
            ("2", "%"),
        ]
        assert await fetch("SELECT s FROM public.t WHERE n > 5") == []

    @gen_test
    async def test_as_many_queries_as_the_pool_is_large_run_at_the_same_time(self):
        await self.use_all(self.database)

    @gen_test
    async def test_more_queries_than_connections_all_get_their_turn(self):
        self.hold()
        queries = [self.start(self.database.fetch(BLOCKED, [number])) for number in range(5 * SIZE)]
        await self.until(WAITING, SIZE)
        self.let_go()
        assert await asyncio.gather(*queries) == [[(number,)] for number in range(5 * SIZE)]
        assert len(postgres.execute(self.conninfo, BACKENDS)) == SIZE

    @gen_test
    async def test_requests_are_served_in_order(self):
        database, done = self.make_database(self.conninfo, 1), []

        async def query(number: int) -> None:
            await database.fetch("SELECT 1")
            done.append(number)

        await asyncio.gather(*(query(number) for number in range(5)))
        assert done == [0, 1, 2, 3, 4]

    @gen_test
    async def test_an_error_of_sql_is_the_callers_and_the_connection_stays(self):
        [(before,)] = await self.database.fetch("SELECT pg_backend_pid()")
        for _ in range(SIZE + 1):
            with pytest.raises(psycopg2.errors.DivisionByZero):
                await self.database.fetch("SELECT 1 / 0")
            with pytest.raises(psycopg2.errors.SyntaxError):
                await self.database.fetch("SELEC")
            with pytest.raises(psycopg2.errors.QueryCanceled):
                await self.database.fetch("DO $$BEGIN PERFORM pg_cancel_backend(pg_backend_pid()), pg_sleep(60); END$$")
        assert await self.database.fetch("SELECT pg_backend_pid()") == [(before,)]
        await self.use_all(self.database)

    @gen_test
    async def test_a_script_that_fails_in_its_transaction_leaves_the_connection_usable(self):
        for _ in range(8):
            with pytest.raises(psycopg2.errors.DivisionByZero):
                await self.database.fetch("BEGIN; SELECT 1 / 0; COMMIT")
            assert await self.database.fetch("SELECT 1") == [(1,)]

    @gen_test
    async def test_wrong_parameters_leave_the_connection_usable(self):
        for _ in range(SIZE + 1):
            with pytest.raises(KeyError):
                await self.database.fetch("SELECT %(missing)s", {"other": 1})
            with pytest.raises(psycopg2.ProgrammingError):
                await self.database.fetch("SELECT %s", [object()])
        await self.use_all(self.database)

    @gen_test
    async def test_killed_backends_are_replaced_and_no_caller_sees_it(self):
        await self.use_all(self.database)
        assert postgres.execute(self.conninfo, KILL) == [(SIZE,)]
        await self.use_all(self.database)

    @gen_test
    async def test_a_query_is_repeated_if_its_backend_is_killed(self):
        self.hold()
        query = self.start(self.database.fetch(BLOCKED, ["done"]))
        await self.until(WAITING, 1)
        killed = postgres.execute(self.conninfo, BACKENDS)
        postgres.execute(self.conninfo, KILL)
        await self.until(WAITING, 1)
        self.let_go()
        assert await query == [("done",)]
        assert not {*killed} & {*postgres.execute(self.conninfo, BACKENDS)}

    @gen_test
    async def test_the_reason_of_an_outage_is_kept_until_it_ends(self):
        await self.use_all(self.database)
        self._holder.close()
        postgres.cluster().stop()
        try:
            answers = await asyncio.gather(
                *(self.database.fetch("SELECT 1") for _ in range(2 * SIZE)), return_exceptions=True
            )
            for answer in answers:
                assert isinstance(answer, DatabaseUnavailable)
                assert re.search("^connection to server on socket .* failed: .*Is the server running", str(answer))
        finally:
            postgres.cluster().start()
        self._holder = postgres.connect(self.conninfo)
        await self.use_all(self.database)

    @gen_test
    async def test_closing_the_pool_lets_a_query_be_cancelled(self):
        self.hold()
        database = Database(str(make_dsn(self.conninfo, application_name="pool")))
        query = self.start(database.fetch(BLOCKED, [1]))
        await self.until(WAITING, 1)
        database.close()
        query.cancel()
        with pytest.raises(asyncio.CancelledError):
            await query

    @gen_test
    async def test_closing_the_pool_fails_a_running_query(self):
        # A closed descriptor that is still in the loop makes libuv abort the process, when it had not yet been watched.
        for turns in range(12):
            database = Database(self.conninfo)
            await database.fetch("SELECT 1")
            query = self.start(database.fetch("SELECT pg_sleep(60)"))
            for _ in range(turns):
                await asyncio.sleep(0)
            database.close()
            with pytest.raises(DatabaseUnavailable):
                await query


class DeadlineTest(DatabaseTestCase):
    @gen_test
    async def test_a_late_query_is_given_up_and_its_connection_replaced(self):
        await self.use_all(self.database)
        before = set(postgres.execute(self.conninfo, BACKENDS))
        self.hold()
        for _ in range(2 * SIZE + 1):
            with pytest.raises(DatabaseUnavailable, match=r"did not answer within 0.05 s"):
                await self.database.fetch(BLOCKED, [1], deadline_seconds=0.05)
        self.let_go()
        await self.use_all(self.database)
        await self.until(f"SELECT count(*) FROM ({BACKENDS}) AS backends", SIZE)
        assert set(postgres.execute(self.conninfo, BACKENDS)) != before

    @gen_test
    async def test_a_wait_succeeds_when_all_before_it_give_up(self):
        for size in (1, SIZE):
            database = self.make_database(self.conninfo, size)
            self.hold()
            given_up = [self.start(database.fetch(BLOCKED, [1])) for _ in range(size)]
            await self.until(WAITING, size)
            waiting = [self.start(database.fetch("SELECT 2")) for _ in range(size + 1)]
            for query in given_up:
                query.cancel()
            assert await asyncio.gather(*waiting) == [[(2,)]] * (size + 1)
            self.let_go()

    @gen_test
    async def test_a_wait_beyond_its_deadline_takes_no_connection(self):
        database = self.make_database(self.conninfo, 1)
        self.hold()
        first = self.start(database.fetch(BLOCKED, ["first"]))
        await self.until(WAITING, 1)
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                await database.fetch("SELECT 2", deadline_seconds=0.01)
        self.let_go()
        assert await first == [("first",)]
        assert await database.fetch("SELECT 3") == [(3,)]
        assert len(postgres.execute(self.conninfo, BACKENDS)) == 1


class UnawaitedTest(DatabaseTestCase):
    @gen_test
    async def test_a_cancelled_short_query_keeps_its_connection(self):
        database = self.make_database(self.conninfo, 1)
        [(before,)] = await database.fetch("SELECT pg_backend_pid()")
        postgres.execute(
            self.conninfo,
            "CREATE FUNCTION one_locked() RETURNS int LANGUAGE plpgsql "
            "AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN 1; END'",
        )
        with mock.patch.object(pool, "UNAWAITED_SECONDS", 3600.0):
            for statement in (
                "SELECT %s, pg_advisory_xact_lock_shared(1)",
                "SELECT 1 / (%s - x) FROM public.one_locked() AS x",
            ):
                self.hold()
                query = self.start(database.fetch(statement, [1]))
                await self.until(WAITING, 1)
                query.cancel()
                next_query = self.start(database.fetch("SELECT pg_backend_pid()"))
                await asyncio.sleep(0)
                self.let_go()
                with pytest.raises(asyncio.CancelledError):
                    await query
                assert await next_query == [(before,)]

    @gen_test
    async def test_a_long_one_is_cancelled_in_postgresql(self):
        database = self.make_database(self.conninfo, 1)
        self.hold()
        with mock.patch.object(pool, "UNAWAITED_SECONDS", 0.1):
            query = self.start(database.fetch(BLOCKED, [1]))
            await self.until(WAITING, 1)
            query.cancel()
            with pytest.raises(asyncio.CancelledError):
                await query
        await self.until(WAITING, 0)
        self.let_go()
        assert await database.fetch("SELECT 1") == [(1,)]

    @gen_test
    async def test_a_cancelled_wait_leaves_the_queue(self):
        database = self.make_database(self.conninfo, 1)
        self.hold()
        first = self.start(database.fetch(BLOCKED, ["first"]))
        await self.until(WAITING, 1)
        waiting = [self.start(database.fetch("SELECT 2")) for _ in range(10)]
        last = self.start(database.fetch("SELECT 3"))
        await asyncio.sleep(0)
        while len(database._pool.conns.waiting_queue) < 11:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)
        for query in waiting:
            query.cancel()
        await asyncio.wait(waiting)
        assert len(database._pool.conns.waiting_queue) == 1
        self.let_go()
        assert await first == [("first",)]
        assert await last == [(3,)]


class LimitedRoleTest(DatabaseTestCase):
    @gen_test
    async def test_a_role_with_few_connections_serves_every_query(self):
        role = parse_dsn(self.conninfo)["dbname"]
        postgres.execute(self.conninfo, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1")
        self.addCleanup(postgres.execute, postgres.cluster().conninfo, f"DROP ROLE {role}")
        database = self.make_database(str(make_dsn(self.conninfo, user=role)))
        self.hold()
        queries = [self.start(database.fetch(BLOCKED, [number])) for number in range(SIZE)]
        await self.until(WAITING, 1)
        connections = database._pool.conns
        while not connections.dead or connections.pending:  # noqa: ASYNC110  # until the role is refused a second one
            await asyncio.sleep(0)
        self.let_go()
        assert await asyncio.gather(*queries) == [[(number,)] for number in range(SIZE)]


class ConnectTest(DatabaseTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.proxy = Proxy(self.conninfo)
        self.io_loop.run_sync(self.proxy.start)

    def tearDown(self) -> None:
        self.io_loop.run_sync(self.proxy.close)
        super().tearDown()

    @gen_test
    async def test_a_refusing_address_is_followed_by_the_next(self):
        with socket.socket() as refusing:
            refusing.bind(("127.0.0.1", 0))  # and does not listen
            ports = f"{refusing.getsockname()[1]},{parse_dsn(self.proxy.conninfo)['port']}"
            both = make_dsn(self.proxy.conninfo, host="a,b", hostaddr="127.0.0.1,127.0.0.1", port=ports)
            await self.use_all(self.make_database(str(both)))

    @gen_test
    async def test_a_silent_server_is_unavailable_after_the_deadline(self):
        database = self.make_database(self.proxy.conninfo)
        self.proxy.go_deaf()
        with mock.patch.object(pool, "CONNECT_DEADLINE_SECONDS", 0.1):
            for _ in range(2):
                with pytest.raises(DatabaseUnavailable, match=r"no answer from .* within 0.1 s"):
                    await database.fetch("SELECT 1")
        self.proxy.hear_again()
        assert await database.fetch("SELECT 1") == [(1,)]
        await self.use_all(database)

    @gen_test
    async def test_connections_that_went_deaf_are_replaced(self):
        database = self.make_database(self.proxy.conninfo)
        await self.use_all(database)
        self.proxy.go_deaf()
        answers = await asyncio.gather(
            *(database.fetch("SELECT 1", deadline_seconds=0.1) for _ in range(2 * SIZE)), return_exceptions=True
        )
        assert all(isinstance(answer, DatabaseUnavailable) for answer in answers), answers
        self.proxy.hear_again()
        await self.use_all(database)

    @gen_test
    async def test_an_unanswered_connection_is_opened_again(self):
        database = self.make_database(self.proxy.conninfo)
        self.proxy.go_deaf()
        with mock.patch.object(pool, "CONNECT_DEADLINE_SECONDS", 3600.0):
            queries = [self.start(database.fetch("SELECT %s", [number])) for number in range(2 * SIZE)]
            await self.proxy.swallowed.wait()
            self.proxy.hear_again()
            database.renew()
            assert await asyncio.gather(*queries) == [[(number,)] for number in range(2 * SIZE)]
            await self.use_all(database)  # none is left that is still being opened


class SessionSettingsTest(DatabaseTestCase):
    """What the server's statements depend on is the server's to set."""

    HOSTILE = (
        "search_path = public, pg_catalog",
        "statement_timeout = '1ms'",
        "lock_timeout = '1ms'",
        "default_transaction_isolation = serializable",
        "default_transaction_read_only = on",
        "timezone = 'Asia/Kolkata'",
        "datestyle = 'SQL, DMY'",
        "standard_conforming_strings = off",
        "quote_all_identifiers = on",
    )
    SEEN = (
        "SELECT pg_catalog.current_setting('search_path'), pg_catalog.current_setting('statement_timeout'), "
        "pg_catalog.current_setting('transaction_isolation'), pg_catalog.current_setting('transaction_read_only'), "
        "pg_catalog.current_setting('TimeZone'), pg_catalog.current_setting('standard_conforming_strings'), "
        "pg_catalog.current_setting('quote_all_identifiers')"
    )

    def hostile(self) -> str:
        name = parse_dsn(self.conninfo)["dbname"]
        for setting in self.HOSTILE:
            postgres.execute(postgres.cluster().conninfo, f"ALTER DATABASE {name} SET {setting}")
        return complete(self.conninfo)

    async def assert_settled(self, conninfo: str) -> None:
        [(search_path, *others)] = await self.make_database(conninfo).fetch(self.SEEN)
        assert search_path.replace(" ", "").replace(chr(34), "") == "pg_catalog,pg_temp"
        assert others == ["0", "read committed", "off", "UTC", "on", "off"]

    @gen_test
    async def test_database_settings_do_not_reach_the_server(self):
        await self.assert_settled(self.hostile())

    @gen_test
    async def test_nor_do_they_through_a_pooler_that_lets_no_options_through(self):
        await self.assert_settled(without_session_options(self.hostile()))

    @gen_test
    async def test_planted_functions_are_not_called(self):
        postgres.execute(
            self.conninfo,
            "CREATE FUNCTION public.concat_ws(text, uuid, bigint) RETURNS text LANGUAGE sql AS $$SELECT 'planted'$$",
        )
        for conninfo in (complete(self.conninfo), without_session_options(complete(self.conninfo))):
            [(text,)] = await self.make_database(conninfo).fetch("SELECT concat_ws('-', NULL::uuid, 7::bigint)")
            assert text == "7"

    @gen_test
    async def test_values_stay_literal_whatever_the_session_sets(self):
        """psycopg2 takes half of its answer from each; then a backslash ends the literal."""
        conninfo = self.hostile()
        for made in (conninfo, without_session_options(conninfo)):
            for setting in ("on", "off"):
                begin = f"BEGIN; SET LOCAL standard_conforming_strings = {setting}"
                async with self.make_database(made).transaction(begin) as fetch:
                    for text in (chr(92), r"\' OR true --", r"\\'; SELECT 1 --", "'", r"a\nb", r"É\'☃", "E'"):
                        assert await fetch("SELECT %s::text, (%s::text[])[1]", (text, [text])) == [(text, text)]
