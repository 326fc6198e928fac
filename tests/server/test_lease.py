"""The lease during which writers send no NOTIFY: taken, kept, given back, and nothing is missed whatever becomes of it.

No sweep comes to help here: what is found in these tests was notified of, or looked for.
"""

import asyncio
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import psycopg2
import psycopg2.extras
from psycopg2.extensions import make_dsn, parse_dsn
from tornado.testing import ExpectLog, gen_test
from tornado.websocket import WebSocketClientConnection

from changefeed.journal import follower, lease
from changefeed.journal.follower import Cause
from changefeed.postgres.named_queries import load_queries, read_script
from tests import postgres
from tests.feed_case import ORDERS, FeedTestCase
from tests.journal_database import Session
from tests.server_process import ServerProcess
from tests.sql.test_least_rights import READ, ROLE
from tests.sql.test_record_wakes import heard, notifies_before_now

QUERIES = load_queries("server.sql")
HOLDS = (
    "SELECT coalesce(pg_sequence_last_value('changefeed.awake_until') - extract(epoch FROM clock_timestamp()) * 1000 "
    "BETWEEN 0 AND 2000, false)"
)
NEVER_SECONDS = 3_600.0


def take_lease(session: Session, ms: int) -> None:
    """As another server does."""
    with session.connection.cursor() as db_cursor:
        db_cursor.execute(QUERIES["take lease"], {"ms": ms})
    if ms:
        session.run(QUERIES["announce lease"])


class LeaseTestCase(FeedTestCase):
    __test__ = False
    takes_the_lease: ClassVar[bool] = True  # or only others do

    def setUp(self) -> None:
        self.patch(follower, "SWEEP_SECONDS", NEVER_SECONDS)
        if not self.takes_the_lease:
            self.patch(lease, "FEWEST", 1 << 30)
        super().setUp()
        self.sessions: list[Session] = []
        self.written = 0

    def tearDown(self) -> None:
        for session in self.sessions:
            session.connection.close()
        super().tearDown()

    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()

    def patch(self, module: Any, name: str, value: object) -> None:
        patched = mock.patch.object(module, name, value)
        patched.start()
        self.addCleanup(patched.stop)

    def session(self) -> Session:
        self.sessions.append(Session(self.conninfo))
        return self.sessions[-1]

    def insert(self, session: Session, more: str = "") -> None:
        self.written += 1
        session.run(f"INSERT INTO orders VALUES ({self.written}){more}")

    def insert_many(self, session: Session) -> None:
        """Writes often enough, while the server reads nothing, for its next read to take the lease."""
        for _ in range(lease.OFTEN):
            self.insert(session)

    async def until_lease(self, *, is_held: bool) -> None:
        while self.feed.follower.lease.is_held is not is_held:
            await self.feed.follower.until_moved()

    async def until_lost(self) -> None:
        """Until the server knows that there is no journal."""
        while self.feed.follower.cache:  # noqa: ASYNC110  # nothing says so
            await asyncio.sleep(0)

    async def until_silent(self, session: Session, write: Callable[[], None]) -> None:
        """Writes while the lease holds, and sees that no writer sent a NOTIFY. Again, where it was over by then.

        The server itself sends one, some time after it took the lease.
        """
        writers = {each.connection.info.backend_pid for each in self.sessions}
        listener = self.session()
        listener.run("LISTEN changefeed")
        while True:
            await self.until_lease(is_held=True)
            heard(listener)
            held_before = session.value(HOLDS)
            write()
            if held_before and session.value(HOLDS):
                assert not writers & {notify.pid for notify in notifies_before_now(listener)}
                return
            self.insert_many(session)

    async def ids(self, socket: WebSocketClientConnection, count: int) -> list[int]:
        return [json.loads(await socket.read_message())["data"]["id"] for _ in range(count)]

    async def all_ids(self, socket: WebSocketClientConnection) -> list[int]:
        """As many as were written by the end of it."""
        found: list[int] = []
        while len(found) < self.written:
            found += await self.ids(socket, 1)
        return found


class OneServerTest(LeaseTestCase):
    __test__ = True

    @gen_test
    async def test_frequent_writers_send_no_notify(self):
        self.patch(lease, "WINDOW_SECONDS", NEVER_SECONDS)  # so it stays often
        socket, writer = await self.connect(), self.session()
        self.insert_many(writer)
        await self.until_silent(writer, lambda: self.insert(writer))
        assert await self.all_ids(socket) == list(range(1, self.written + 1))
        assert self.feed.follower.lease.saved_notifies > 0
        assert self.feed.follower.reads[Cause.LEASE] > 0

    @gen_test
    async def test_it_is_renewed_as_long_as_changes_come_often(self):
        self.patch(lease, "WINDOW_SECONDS", NEVER_SECONDS)
        writer = self.session()
        self.insert_many(writer)
        await self.until_lease(is_held=True)
        ends = {writer.value("SELECT last_value FROM changefeed.awake_until")}
        while len(ends) < 3:
            await self.feed.follower.until_moved()
            ends.add(writer.value("SELECT last_value FROM changefeed.awake_until"))

    @gen_test
    async def test_taking_it_informs_the_other_servers(self):
        writer, other = self.session(), self.session()
        other.run("LISTEN changefeed")
        writer.run("SET changefeed.notify = off")
        self.insert_many(writer)
        self.feed.follower.wake()
        await self.until_lease(is_held=True)
        while not heard(other):
            await self.feed.follower.until_moved()

    @gen_test
    async def test_the_lease_is_given_back_when_changes_are_rare(self):
        socket, writer = await self.connect(), self.session()
        self.insert_many(writer)
        await self.until_lease(is_held=True)
        await self.until_lease(is_held=False)
        assert writer.value(HOLDS) is False
        assert await self.ids(socket, lease.OFTEN) == list(range(1, self.written + 1))
        for _ in range(3):
            self.insert(writer)
            assert await self.ids(socket, 1) == [self.written]

    @gen_test
    async def test_rare_changes_take_no_lease(self):
        socket, writer = await self.connect(), self.session()
        before = sum(self.feed.follower.reads.values())
        for _ in range(lease.FEWEST - 1):
            self.insert(writer)
            assert await self.ids(socket, 1) == [self.written]
        assert writer.value("SELECT pg_sequence_last_value('changefeed.awake_until')") is None
        assert sum(self.feed.follower.reads.values()) - before <= lease.FEWEST
        assert self.feed.follower.reads[Cause.LEASE] == 0

    @gen_test
    async def test_fewer_are_often_where_others_wait_to_commit(self):
        waiting = [self.session() for _ in range(lease.OFTEN // lease.FEWEST)]
        for session in waiting:
            session.run("BEGIN")
            self.insert(session)
        writer = self.session()
        for _ in range(lease.FEWEST):
            self.insert(writer)
        await self.until_lease(is_held=True)

    @gen_test
    async def test_late_commits_under_the_lease_need_no_sweep(self):
        self.patch(lease, "WINDOW_SECONDS", NEVER_SECONDS)
        socket, writer, slow = await self.connect(), self.session(), self.session()
        self.insert_many(writer)
        slow.run("BEGIN")
        await self.until_silent(writer, lambda: self.insert(slow))
        self.patch(lease, "WINDOW_SECONDS", 0.0)
        await self.until_lease(is_held=False)
        while self.feed.follower.reads[Cause.AFTER_LEASE] < 8:  # the pauses grow
            await self.feed.follower.until_moved()
        listener = self.session()
        listener.run("LISTEN changefeed")
        slow.run("COMMIT")
        assert heard(listener) == []
        assert sorted(await self.all_ids(socket)) == list(range(1, self.written + 1))

    @gen_test
    async def test_a_notify_after_it_blocks_no_other_commit(self):
        self.patch(lease, "WINDOW_SECONDS", NEVER_SECONDS)
        socket, writer, slow = await self.connect(), self.session(), self.session()
        self.insert_many(writer)
        slow.run("BEGIN")
        await self.until_silent(writer, lambda: self.insert(slow))
        self.patch(lease, "WINDOW_SECONDS", 0.0)
        await self.until_lease(is_held=False)
        reads = self.feed.follower.reads
        for _ in range(40):
            heard_before = reads[Cause.NOTIFY]
            writer.run("NOTIFY changefeed")
            while reads[Cause.NOTIFY] == heard_before:
                await self.feed.follower.until_moved()
        slow.run("COMMIT")
        assert sorted(await self.all_ids(socket)) == list(range(1, self.written + 1))

    @gen_test
    async def test_a_lease_from_a_reset_clock_is_ignored(self):
        socket, writer = await self.connect(), self.session()
        writer.run(
            "SELECT setval('changefeed.awake_until', (extract(epoch FROM now() + interval '1 year') * 1000)::bigint)"
        )
        self.insert(writer)
        assert await self.ids(socket, 1) == [1]
        assert not self.feed.follower.lease.is_held
        self.insert_many(writer)
        await self.until_lease(is_held=True)

    @gen_test
    async def test_the_schema_is_taken_away_and_comes_again_while_it_holds(self):
        self.patch(lease, "WINDOW_SECONDS", NEVER_SECONDS)
        writer = self.session()
        self.insert_many(writer)
        await self.until_lease(is_held=True)
        with ExpectLog("changefeed.follower", ".*"):
            self.write(read_script("uninstall.sql"))
            await self.until_lost()
            assert not self.feed.follower.lease.is_held  # or it would ask every few milliseconds for a journal
            self.watch()
            self.feed.follower.wake()
            while writer.value(HOLDS) is False:
                self.insert_many(writer)
                await self.feed.follower.until_moved()
        socket = await self.connect("/ws?replay=1")
        await self.until_silent(writer, lambda: self.insert(writer))
        last = self.written
        while (await self.ids(socket, 1)) != [last]:
            pass


class RandomScheduleTest(LeaseTestCase):
    """Transactions that begin, write, roll back, commit and linger, while leases come and go that only others take."""

    __test__ = True
    takes_the_lease = False

    @gen_test(timeout=120)
    async def test_nothing_is_missed_whenever_leases_come_and_go(self):
        seed = random.randrange(1 << 30)
        draw = random.Random(seed)
        control, sessions = self.session(), [self.session() for _ in range(4)]
        written: dict[Session, list[int]] = {}  # by transactions that are open
        committed: set[int] = set()
        self.got: set[int] = set()
        self.socket = await self.connect()
        steps = ("take", "give back", "let time pass", "write", "end", "savepoint", "arrive")
        weights = (1, 1, 3, 3, 2, 1, 2)
        for _ in range(400):
            session = draw.choice(sessions)
            match draw.choices(steps, weights)[0]:
                case "take":
                    take_lease(control, draw.choice((1, 20, 1_000)))
                case "give back":
                    take_lease(control, 0)
                case "let time pass":
                    await asyncio.sleep(draw.choice((0.001, 0.005, 0.03)))  # some leases run out, and the server reads
                case "write":
                    if session not in written and draw.random() < 0.5:
                        session.run("BEGIN")
                        written[session] = []
                    self.insert(session)
                    if session in written:
                        written[session].append(self.written)
                    else:
                        committed.add(self.written)
                case "savepoint" if session in written:
                    session.run("SAVEPOINT s")
                    self.insert(session)
                    session.run("ROLLBACK TO SAVEPOINT s")
                case "end" if session in written:
                    end = draw.choice(("COMMIT", "COMMIT", "ROLLBACK"))
                    session.run(end)
                    ids = written.pop(session)
                    committed.update(ids if end == "COMMIT" else ())
                case "arrive":
                    await self.until_got(committed, seed)
            if draw.random() < 0.3:
                await asyncio.sleep(0)
        await self.until_got(committed, seed)
        assert self.got == committed

    async def until_got(self, committed: set[int], seed: int) -> None:
        """What was committed arrives before anybody does anything more that might wake the server."""
        try:
            async with asyncio.timeout(30):
                while not self.got >= committed:
                    self.got.update(await self.ids(self.socket, 1))
        except TimeoutError:
            raise AssertionError(f"seed {seed}: never came: {sorted(committed - self.got)}") from None


class SwitchedOffTest(LeaseTestCase):
    __test__ = True

    def prepare_database(self) -> None:
        super().prepare_database()
        name = parse_dsn(self.conninfo)["dbname"]
        self.write(f"ALTER DATABASE {name} SET changefeed.lease = 'off'")

    @gen_test
    async def test_it_is_not_taken(self):
        socket, writer = await self.connect(), self.session()
        for _ in range(2):
            self.insert_many(writer)
            assert len(await self.ids(socket, lease.OFTEN)) == lease.OFTEN
        assert writer.value("SELECT pg_sequence_last_value('changefeed.awake_until')") is None


class WithoutTheRightTest(LeaseTestCase):
    """The server's role may only read."""

    __test__ = True

    def server_conninfo(self) -> str:
        self.role = f"reader_{parse_dsn(self.conninfo)['dbname']}"
        self.write(f"CREATE ROLE {self.role} LOGIN")
        return str(make_dsn(self.conninfo, user=self.role))

    def prepare_database(self) -> None:
        super().prepare_database()
        self.write(READ.replace(ROLE, self.role))

    def tearDown(self) -> None:
        super().tearDown()
        self.write(f"DROP OWNED BY {self.role}; DROP ROLE {self.role}")

    @gen_test
    async def test_it_is_logged_once_and_writers_notify(self):
        socket, writer = await self.connect(), self.session()
        with ExpectLog("changefeed.lease", "each writer sends its NOTIFY, .*permission denied.*awake_until", level=20):
            for _ in range(2):
                self.insert_many(writer)
                assert len(await self.ids(socket, lease.OFTEN)) == lease.OFTEN

    @gen_test
    async def test_it_reads_while_another_s_lease_holds(self):
        socket, writer = await self.connect(), self.session()
        take_lease(writer, 1_500)
        await self.until_lease(is_held=True)
        self.insert(writer)
        assert await self.ids(socket, 1) == [1]
        await self.until_lease(is_held=False)
        assert self.feed.follower.reads[Cause.LEASE] > 0


class SeveralServersTest(LeaseTestCase):
    """This server never takes the lease by itself."""

    __test__ = True
    takes_the_lease = False

    @gen_test(timeout=60)
    async def test_killing_the_leases_holder_loses_nothing(self):
        socket = await self.connect()
        writer, watcher = self.session(), self.session()
        stopping = asyncio.Event()

        def write_on() -> None:
            while not stopping.is_set():
                self.insert(writer)

        with (
            tempfile.TemporaryDirectory() as folder,
            ServerProcess(Path(folder), "--port", "0", DATABASE_URL=self.conninfo) as holder,
        ):
            await asyncio.to_thread(holder.port)
            writing = asyncio.create_task(asyncio.to_thread(write_on))
            await self.until_lease(is_held=True)
            before = self.feed.follower.reads[Cause.NOTIFY]
            holder.kill()
            while self.feed.follower.reads[Cause.NOTIFY] == before or watcher.value(HOLDS):
                await self.feed.follower.until_moved()
            stopping.set()
            await writing
        assert sorted(await self.all_ids(socket)) == list(range(1, self.written + 1))


class WithoutStandbyTest(LeaseTestCase):
    """Its commits wait for a standby that never comes."""

    __test__ = True

    def new_database(self) -> str:
        self.cluster = postgres.start(synchronous_standby_names="nobody")
        self.addCleanup(postgres.discard, self.cluster)
        return self.cluster.conninfo

    def write(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        return super().write(f"SET synchronous_commit = local; {statement}", parameters)

    @gen_test
    async def test_taking_it_waits_for_no_hanging_commit(self):
        socket, writer = await self.connect(), self.session()
        hanging = psycopg2.connect(self.conninfo, async_=True)
        psycopg2.extras.wait_select(hanging)
        hanging.cursor().execute("INSERT INTO orders VALUES (0)")
        while not writer.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"):
            pass
        writer.run("SET synchronous_commit = local; SET changefeed.notify = off")
        self.insert_many(writer)
        self.feed.follower.wake()
        await self.until_lease(is_held=True)
        self.insert(writer)
        assert await self.ids(socket, lease.OFTEN + 1) == list(range(1, self.written + 1))
        hanging.close()


class RestartedPostgresTest(LeaseTestCase):
    __test__ = True

    def new_database(self) -> str:
        self.cluster = postgres.start(max_prepared_transactions="5")
        self.addCleanup(postgres.discard, self.cluster)
        return self.cluster.conninfo

    def prepare_database(self) -> None:
        super().prepare_database()
        self.write("ALTER DATABASE postgres SET changefeed.notify = 'on'")

    @gen_test(timeout=60)
    async def test_a_transaction_prepared_under_it_is_found_later(self):
        self.patch(lease, "WINDOW_SECONDS", NEVER_SECONDS)
        socket, writer = await self.connect(), self.session()
        self.insert_many(writer)

        def prepare() -> None:
            number = self.written + 1
            self.prepared = f"t{number}"
            writer.run("BEGIN")
            self.insert(writer)
            try:
                writer.run(f"PREPARE TRANSACTION '{self.prepared}'")
            except psycopg2.errors.FeatureNotSupported:  # it has sent a NOTIFY: the lease was over
                self.written -= 1

        await self.until_silent(writer, prepare)
        self.patch(lease, "WINDOW_SECONDS", 0.0)
        await self.until_lease(is_held=False)
        while self.feed.follower.reads[Cause.AFTER_LEASE] < 5:
            await self.feed.follower.until_moved()
        for (name,) in writer.run("SELECT gid FROM pg_prepared_xacts"):
            writer.run(f"COMMIT PREPARED '{name}'")
        assert sorted(await self.all_ids(socket)) == list(range(1, self.written + 1))

    @gen_test(timeout=60)
    async def test_a_restart_of_postgresql_under_it_loses_nothing(self):
        self.patch(lease, "WINDOW_SECONDS", NEVER_SECONDS)
        socket, writer = await self.connect(), self.session()
        self.insert_many(writer)
        await self.until_silent(writer, lambda: self.insert(writer))
        with ExpectLog("changefeed.listener", ".*lost"):
            await asyncio.to_thread(self.cluster.stop, "immediate")
            await asyncio.to_thread(self.cluster.start)
            writer = self.session()
            self.insert(writer)
            assert sorted(await self.all_ids(socket)) == list(range(1, self.written + 1))
            await self.until_silent(writer, lambda: self.insert(writer))
            assert await self.ids(socket, 1) <= [self.written]
