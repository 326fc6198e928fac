"""When PostgreSQL goes back in time, clients get a gap, and later commits are not skipped."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import pytest
from psycopg2.extensions import make_dsn
from tornado.httpclient import HTTPClientError
from tornado.testing import ExpectLog, gen_test
from tornado.websocket import WebSocketClientConnection

from changefeed.journal.entries import PAGE_ROWS
from changefeed.journal.page_cache import PageCache
from changefeed.postgres.listener import ListenerState
from tests import postgres
from tests.feed_case import message
from tests.server.test_journal_feed import JournalTestCase

LOST = "PostgreSQL has lost commits"


class LostPastTestCase(JournalTestCase):
    options: dict[str, str] = {}  # noqa: RUF012  # of the cluster

    def new_database(self) -> str:
        self.cluster = postgres.start(**self.options)
        self.addCleanup(lambda: postgres.discard(self.cluster))
        return self.cluster.conninfo

    def insert(self, *ids: int) -> None:
        for number in ids:
            self.write("INSERT INTO orders VALUES (%s)", [number])

    def kept(self) -> list[int]:
        return [number for (number,) in self.write("SELECT id FROM orders ORDER BY 1")]

    async def changes(self, socket: WebSocketClientConnection, upto: int) -> tuple[list[int], list[Any], str]:
        """The rows' ids up to this one, the gaps among them, and the cursor after the last."""
        ids: list[int] = []
        gaps: list[Any] = []
        cursor = ""
        while upto not in ids:
            told = await message(socket)
            if told["type"] == "gap":
                gaps.append(told)
            elif told["type"] == "changes":
                ids += [change["data"]["id"] for change in told["changes"] if change["data"]]
                cursor = told["cursor"] or cursor
        return ids, gaps, cursor

    @contextlib.asynccontextmanager
    async def restart(self) -> AsyncIterator[None]:
        """PostgreSQL is stopped and started again in the block, at the end of which the server is connected again."""
        listener, before = self.feed.listener, self.feed.listener.reconnects
        with ExpectLog("changefeed.listener", "lost the LISTEN connection|still lost", level=30):
            yield
            await self.until(
                lambda: listener.reconnects > before and listener.state is ListenerState.LISTENING, self.state_changed
            )
            # A read that had begun before does not count: it did not look whether the past is still the same.
            await self.feed.follower.until_moved()
            while not self.feed.follower._is_identified:
                await self.feed.follower.until_moved()

    @contextlib.asynccontextmanager
    async def time_goes_back(self) -> AsyncIterator[None]:
        told = "changes are missing|the journal was replaced"
        with ExpectLog("changefeed.follower", told, level=30, required=False):
            async with self.restart():
                yield

    async def assert_told(self, socket: WebSocketClientConnection, cursor: str, new: list[int]) -> Any:
        """The gap. `cursor` is of the lost past; `new` are the ids that were committed since."""
        ids, gaps, _ = await self.changes(socket, new[-1])
        told = next((gap for gap in gaps if LOST in gap["why"]), None)
        assert told is not None, gaps
        assert [number for number in ids if number in new] == new

        resumed = await self.connect(f"/ws?since={cursor}", protocol=True)
        await message(resumed, "hello")
        assert "past that PostgreSQL has lost" in (await message(resumed, "gap"))["why"]
        assert "past that PostgreSQL" in (await self.fetch_json(f"/api/changes?since={cursor}"))["gap"]["why"]
        assert (await self.fetch_json(f"/api/change?cursor={cursor}", 404))["error"]["code"] == "lost"
        with pytest.raises(HTTPClientError) as refused:
            await self.connect(f"/ws?since={cursor}")
        assert refused.value.code == 410
        self.insert(900)
        _, gaps, later = await self.changes(resumed, 900)
        assert gaps == []
        assert (await self.fetch_json(f"/api/changes?since={later}"))["gap"] is None
        return told


class CrashTest(LostPastTestCase):
    options = {"synchronous_commit": "off", "autovacuum": "off"}  # noqa: RUF012

    def new_database(self) -> str:
        conninfo = super().new_database()
        self.wal_writer = postgres.pause_wal_writer(self.cluster)  # however long it takes until the crash
        self.addCleanup(self.tell_wal_writer, signal.SIGCONT)
        return conninfo

    def tell_wal_writer(self, what: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.wal_writer, what)

    def crash(self) -> None:
        self.tell_wal_writer(signal.SIGKILL)  # which would heed nothing else
        self.cluster.stop("immediate")
        self.cluster.start()

    @gen_test
    async def test_after_a_crash_with_synchronous_commit_off(self):
        socket = await self.connect(protocol=True)
        self.insert(1)
        self.write("SET synchronous_commit = on; CREATE TABLE flushed ()")
        _, _, good = await self.changes(socket, 1)
        self.insert(2, 3, 4, 5, 6)
        ids, gaps, cursor = await self.changes(socket, 6)
        assert (ids, gaps) == ([2, 3, 4, 5, 6], [])
        async with self.time_goes_back():
            self.crash()
            assert self.kept() != [1, 2, 3, 4, 5, 6], "PostgreSQL lost nothing: this test tests nothing"
            self.insert(101, 102, 103, 104, 105, 106, 107)
            gap = await self.assert_told(socket, cursor, [101, 102, 103, 104, 105, 106, 107])
        assert gap["table"] == "public.orders"
        assert gap["since"] <= gap["until"]
        behind = await self.fetch_json(f"/api/changes?since={gap['from']}")  # from there on all is as it is now
        assert (behind["changes"][-1]["data"]["id"], behind["gap"]) == (900, None)
        # A client that has seen no more than what was kept misses nothing, and gets no gap.
        resumed = await self.connect(f"/ws?since={good}", protocol=True)
        ids, gaps, _ = await self.changes(resumed, 107)
        assert (gaps, ids[-7:]) == ([], [101, 102, 103, 104, 105, 106, 107])

    @gen_test
    async def test_a_commit_that_is_lost_though_a_newer_transaction_is_not(self):
        live = await self.connect(protocol=True)
        self.insert(1)
        await self.changes(live, 1)
        older = postgres.connect(self.conninfo)
        older.autocommit = False
        older.cursor().execute("INSERT INTO orders VALUES (100)")
        self.write("SET synchronous_commit = on; INSERT INTO orders VALUES (101)")
        await self.changes(live, 101)
        older.commit()
        older.close()
        _, _, cursor = await self.changes(live, 100)
        live.close()
        async with self.time_goes_back():
            self.crash()
            assert self.kept() == [1, 101], "PostgreSQL lost nothing: this test tests nothing"
        resumed = await self.connect(f"/ws?since={cursor}", protocol=True)
        await message(resumed, "hello")
        assert "past that PostgreSQL has lost" in (await message(resumed, "gap"))["why"]

    @gen_test
    async def test_a_commit_that_is_lost_though_what_was_read_with_it_is_not(self):
        cursors = await self.read_two_at_a_time()
        async with self.time_goes_back():
            self.crash()
            assert self.kept() == [1, 101], "PostgreSQL lost nothing: this test tests nothing"
            self.insert(102)
        for cursor in cursors:
            gap = (await self.fetch_json(f"/api/changes?since={cursor}"))["gap"]
            assert "past that PostgreSQL has lost" in gap["why"]

    @gen_test
    async def test_a_batch_that_is_completely_there_is_no_gap(self):
        cursors = await self.read_two_at_a_time()
        async with self.restart():
            self.tell_wal_writer(signal.SIGCONT)
            self.cluster.stop()
            self.cluster.start()
        with mock.patch.object(PageCache, "proves", return_value=False):  # as at another server, which read otherwise
            for cursor in cursors:
                assert (await self.fetch_json(f"/api/changes?since={cursor}"))["gap"] is None

    @gen_test
    async def test_so_it_is_where_they_are_many_pages(self):
        cursors = await self.read_two_at_a_time(3 * PAGE_ROWS)
        with mock.patch.object(PageCache, "proves", return_value=False):
            for cursor in cursors:
                assert (await self.fetch_json(f"/api/changes?since={cursor}&limit=1"))["gap"] is None
        self.feed.journal.forget_proofs()
        async with self.time_goes_back():
            self.crash()
            assert self.kept() == [1, *range(101, 101 + 3 * PAGE_ROWS)], (
                "PostgreSQL lost nothing: this test tests nothing"
            )
            self.insert(102 + 3 * PAGE_ROWS)
        for cursor in cursors:
            gap = (await self.fetch_json(f"/api/changes?since={cursor}"))["gap"]
            assert "past that PostgreSQL has lost" in gap["why"]

    async def read_two_at_a_time(self, rows: int = 1) -> list[str]:
        """The cursors behind two transactions, of which a crash takes the first, and within the second."""
        live = await self.connect(protocol=True)
        self.insert(1)
        _, _, before = await self.changes(live, 1)
        older = postgres.connect(self.conninfo)
        older.autocommit = False
        older.cursor().execute("INSERT INTO orders VALUES (100)")
        # The server, which runs in this loop, reads both at a time.
        last = 100 + rows
        self.write("SET synchronous_commit = on; INSERT INTO orders SELECT generate_series(101, %s)", [last])
        older.commit()
        older.close()
        ids, _, behind_both = await self.changes(live, last)
        assert ids == [100, *range(101, last + 1)]
        caught_up = await self.connect(f"/ws?since={before}", protocol=True)
        some = await self.fetch_json(f"/api/changes?since={before}&limit={rows}")
        return [
            behind_both,
            (await self.changes(caught_up, last))[2],
            (await message(await self.connect(protocol=True), "hello"))["cursor"],
            (await self.fetch_json(f"/api/changes?since={before}&limit=1000"))["cursor"],
            *[change["cursor"] for change in some["changes"][1::2500]],
        ]

    @gen_test
    async def test_a_crash_that_undid_nothing_is_no_gap(self):
        socket = await self.connect(protocol=True)
        self.insert(1, 2)
        self.write("SET synchronous_commit = on; CREATE TABLE flushed ()")
        _, _, cursor = await self.changes(socket, 2)
        async with self.restart():
            self.crash()
            self.insert(3)
            assert (await self.changes(socket, 3))[:2] == ([3], [])
        resumed = await self.connect(f"/ws?since={cursor}", protocol=True)
        assert (await self.changes(resumed, 3))[:2] == ([3], [])


class FilesPutBackTest(LostPastTestCase):
    options = {"autovacuum": "off"}  # noqa: RUF012  # whose transactions might run when a place is taken

    def copy_files(self) -> None:
        """As a snapshot of the volume has them."""
        self.cluster.stop()
        files = self.cluster._cluster
        subprocess.run(["cp", "-a", str(files), f"{files}.copy"], check=True)
        self.cluster.start()

    def put_back(self) -> None:
        self.cluster.stop("immediate")
        files = self.cluster._cluster
        shutil.rmtree(files)
        subprocess.run(["cp", "-a", f"{files}.copy", str(files)], check=True)
        self.cluster.start()

    @gen_test
    async def test_older_files_that_are_put_back(self):
        socket = await self.connect(protocol=True)
        self.insert(1)
        await self.changes(socket, 1)
        async with self.time_goes_back():
            self.copy_files()
            self.insert(2, 3, 4, 5, 6, 7)
            ids, gaps, cursor = await self.changes(socket, 7)
            assert (ids, gaps) == ([2, 3, 4, 5, 6, 7], [])
        async with self.time_goes_back():
            self.put_back()
            self.insert(102, 103, 104, 105, 106, 107, 108)
            await self.assert_told(socket, cursor, [102, 103, 104, 105, 106, 107, 108])

    @gen_test
    async def test_when_retention_has_emptied_the_journal_in_either_past(self):
        socket = await self.connect(protocol=True)
        self.insert(1)
        await self.changes(socket, 1)  # what is taken away before the server has read it is a gap
        self.empty_journal()
        async with self.time_goes_back():
            self.copy_files()
            self.insert(2, 3)
            _, _, cursor = await self.changes(socket, 3)
            self.empty_journal()
        quiet = await self.connect(f"/ws?since={cursor}", protocol=True)
        assert (await message(quiet))["type"] == "hello"
        self.insert(4)
        assert (await self.changes(quiet, 4))[:2] == ([4], []), "a fresh cursor of an empty journal is good"
        self.empty_journal()
        async with self.time_goes_back():
            self.put_back()
            self.insert(102, 103)
            self.empty_journal()
            self.insert(104)
            assert LOST in (await message(socket, "gap"))["why"]
            self.insert(105)
            assert (await self.changes(socket, 105))[1] == []
        resumed = await self.connect(f"/ws?since={cursor}", protocol=True)
        await message(resumed, "hello")
        assert (await message(resumed))["type"] == "gap"

    def empty_journal(self) -> None:
        for _ in range(3):
            self.write("SELECT changefeed.retain('0 s', 0)")
        assert self.write("SELECT count(*) FROM changefeed.journal") == [(0,)]


class PromotionTest(LostPastTestCase):
    """A standby that lagged becomes the primary; its control file names the old timeline for minutes."""

    options = {"max_wal_senders": "4", "wal_level": "replica", "checkpoint_timeout": "1h"}  # noqa: RUF012

    def server_conninfo(self) -> str:
        hosts = f"{self.cluster.data_dir / 'socket'},{self.standby.data_dir / 'socket'}"
        return str(make_dsn(self.conninfo, host=hosts, port="5432,5432", target_session_attrs="read-write"))

    def new_database(self) -> str:
        conninfo = super().new_database()
        self.standby = postgres.base_backup(self.cluster, "--write-recovery-conf")
        self.standby.start()
        self.addCleanup(lambda: postgres.discard(self.standby))
        return conninfo

    @gen_test
    async def test_a_standby_that_lagged_is_promoted(self):
        socket = await self.connect(protocol=True)
        self.insert(1)
        _, _, good = await self.changes(socket, 1)
        [(upto,)] = self.write("SELECT pg_current_wal_flush_lsn()::text")
        standby = self.standby.conninfo
        while postgres.execute(standby, "SELECT coalesce(pg_last_wal_replay_lsn() < %s, true)", [upto]) != [(False,)]:
            pass
        postgres.execute(standby, "ALTER SYSTEM SET primary_conninfo = 'host=/nonexistent'")
        postgres.execute(standby, "SELECT pg_reload_conf()")
        while postgres.execute(standby, "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'") != [
            (0,)
        ]:
            pass
        self.insert(2, 3, 4, 5, 6, 7)
        ids, gaps, cursor = await self.changes(socket, 7)
        assert (ids, gaps) == ([2, 3, 4, 5, 6, 7], [])
        async with self.time_goes_back():
            self.cluster.stop("immediate")
            postgres.execute(standby, "SELECT pg_promote()")
            self.conninfo = standby
            assert self.kept() == [1]
            new = [101, 102, 103, 104, 105, 106, 107]
            self.insert(*new)
            await self.assert_told(socket, cursor, new)
        resumed = await self.connect(f"/ws?since={good}", protocol=True)
        ids, gaps, _ = await self.changes(resumed, 107)
        assert (gaps, ids[-7:]) == ([], new)


class RestoredOverTest(LostPastTestCase):
    def new_database(self) -> str:
        return postgres.new_database()

    @gen_test
    async def test_a_dump_that_is_restored_over_the_same_database(self):
        socket = await self.connect(protocol=True)
        self.insert(1)
        await self.changes(socket, 1)
        dump = str(postgres.cluster().data_dir / "socket" / "dump")
        postgres.run_tool(
            postgres.cluster(), "pg_dump", "--format", "custom", "--file", dump, "--dbname", self.conninfo
        )
        self.insert(2, 3, 4, 5)
        _, _, cursor = await self.changes(socket, 5)
        with ExpectLog("changefeed.follower", "the journal was replaced|the journal cannot be read", level=30):
            postgres.run_tool(
                postgres.cluster(),
                "pg_restore",
                "--clean",
                "--if-exists",
                "--single-transaction",
                "--dbname",
                self.conninfo,
                dump,
            )
            assert self.kept() == [1]
            assert "was replaced" in (await message(socket, "gap"))["why"]
            self.insert(6)
            await self.changes(socket, 6)
        resumed = await self.connect(f"/ws?since={cursor}", protocol=True)
        await message(resumed, "hello")
        assert "of another journal" in (await message(resumed, "gap"))["why"]


class YoungerClusterTest(JournalTestCase):
    def prepare_database(self) -> None:
        super().prepare_database()
        # As after a restore of an empty journal: what retention took has ids that this cluster has yet to come to.
        self.write("SELECT setval('changefeed.lost_xid', 2000000000), setval('changefeed.lost_id', 0)")

    @gen_test
    async def test_an_empty_journal_from_an_older_cluster_starts_over(self):
        socket = await self.connect()
        self.write("INSERT INTO orders VALUES (1)")
        assert await self.ids(socket, 1) == [1]


class SchemaAloneTest(JournalTestCase):
    def prepare_database(self) -> None:
        super().prepare_database()
        self.write("DELETE FROM changefeed.meta")

    @gen_test
    async def test_a_journal_restored_without_data_starts_over(self):
        socket = await self.connect()
        self.write("INSERT INTO orders VALUES (1)")
        assert await self.ids(socket, 1) == [1]
