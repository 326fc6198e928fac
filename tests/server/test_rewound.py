"""PostgreSQL goes back in time: exactly the clients that were sent undone changes get a gap."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator

import psycopg2
import pytest
from psycopg2.extensions import make_dsn
from tornado.httpclient import HTTPClientError
from tornado.testing import ExpectLog, gen_test

from changefeed.postgres.embedded import EmbeddedPostgres
from changefeed.postgres.named_queries import read_script
from tests import leftovers, postgres
from tests.feed_case import message
from tests.proxy import Proxy
from tests.server.test_lost_past import LOST, LostPastTestCase
from tests.server.test_sse import Stream, StreamCase
from tests.server_process import ServerProcess, free_port

NEW = [101, 102, 103, 104, 105, 106, 107, 108]


class RewoundTestCase(LostPastTestCase, StreamCase):
    """Rows 1 and 2 are kept, 3 to 8 are lost, and NEW are written in the new past."""

    async def begin(self) -> None:
        """Clients of each dialect, and the cursors behind the first row and at the split."""
        self.live = await self.connect(protocol=True)
        self.plain = await self.connect()
        self.stream = await self.ask("/events")
        self.insert(1)
        _, _, self.before = await self.changes(self.live, 1)
        self.insert(2)
        _, _, self.at = await self.changes(self.live, 2)

    async def go_on(self) -> None:
        """What will be lost."""
        self.insert(3, 4, 5, 6, 7, 8)
        ids, gaps, self.after = await self.changes(self.live, 8)
        assert (ids, gaps) == ([3, 4, 5, 6, 7, 8], [])
        assert await self.of_stream(self.stream, 8) == ([1, 2, 3, 4, 5, 6, 7, 8], [])
        assert await self.ids(self.plain, 8) == [1, 2, 3, 4, 5, 6, 7, 8]

    async def of_stream(self, stream: Stream, upto: int) -> tuple[list[int], list[str]]:
        """The rows' ids up to this one, and why there were gaps."""
        ids: list[int] = []
        gaps: list[str] = []
        while upto not in ids:
            block = await stream.block()
            if data := re.search(r"^data: (.+)$", block, re.MULTILINE):
                told = json.loads(data[1])
                if "event: gap" in block:
                    gaps.append(told["why"])
                else:
                    ids.append(told["data"]["id"])
        return ids, gaps

    async def assert_live_are_told(self) -> None:
        ids, gaps, _ = await self.changes(self.live, NEW[-1])
        assert [number for number in ids if number in NEW] == NEW
        assert [LOST in gap["why"] for gap in gaps] == [True], gaps
        ids, told = await self.of_stream(self.stream, NEW[-1])
        assert [number for number in ids if number in NEW] == NEW
        assert any(LOST in why for why in told), told
        seen: list[int] = []
        while NEW[-1] not in seen:
            seen += await self.ids(self.plain, 1)
        assert [number for number in seen if number in NEW] == NEW

    async def assert_comes(self, cursor: str, expected: list[int]) -> None:
        """To every client that resumes with it, and no gap."""
        resumed = await self.connect(f"/ws?since={cursor}", protocol=True)
        assert (await self.changes(resumed, expected[-1]))[:2] == (expected, [])
        stream = await self.ask("/events", Last_Event_ID=cursor)
        assert await self.of_stream(stream, expected[-1]) == (expected, [])
        plain = await self.connect(f"/ws?since={cursor}")
        assert await self.ids(plain, len(expected)) == expected
        page = await self.fetch_json(f"/api/changes?since={cursor}")
        assert [change["data"]["id"] for change in page["changes"]] == expected
        assert page["gap"] is None

    async def assert_gap(self, cursor: str, why: str = "past that PostgreSQL has lost") -> None:
        """To every client that resumes with it."""
        resumed = await self.connect(f"/ws?since={cursor}", protocol=True)
        await message(resumed, "hello")
        assert why in (await message(resumed))["why"]
        stream = await self.ask("/events", Last_Event_ID=cursor)
        assert why in await stream.until("event: gap")
        with pytest.raises(HTTPClientError) as refused:
            await self.connect(f"/ws?since={cursor}")
        assert refused.value.code == 410
        assert why in (await self.fetch_json(f"/api/changes?since={cursor}"))["gap"]["why"]

    async def assert_told(self) -> None:  # type: ignore[override]
        await self.assert_live_are_told()
        await self.assert_resumed()

    async def assert_resumed(self) -> None:
        await self.assert_comes(self.before, [2, *NEW])
        await self.assert_comes(self.at, NEW)
        await self.assert_gap(self.after)

    async def assert_another_server_tells(self) -> None:
        """One that was away meanwhile, and never saw what is lost."""
        with (
            leftovers.folder("rewound-") as folder,
            ServerProcess(
                folder, "--database-url", self.conninfo, "--port", str(free_port()), "--no-plain-channel"
            ) as server,
        ):
            port = await asyncio.to_thread(server.port)
            for cursor, expected in ((self.before, [2, *NEW]), (self.at, NEW), (self.after, None)):
                answer = await self.http_client.fetch(f"http://127.0.0.1:{port}/api/changes?since={cursor}")
                page = json.loads(answer.body)
                if expected:
                    assert [change["data"]["id"] for change in page["changes"]] == expected
                    assert page["gap"] is None
                else:
                    assert "past that PostgreSQL has lost" in page["gap"]["why"]


class SnapshotOfVolumeTest(RewoundTestCase):
    """The files of a running PostgreSQL, all of one moment, are put back; it recovers as from a crash."""

    def copy_files(self) -> None:
        files = self.cluster._cluster
        first = int((files / "postmaster.pid").read_text().split()[0])
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(first)], capture_output=True, text=True, check=True)
        processes = [first, *map(int, found.stdout.split())]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        subprocess.run(["cp", "-a", str(files), f"{files}.copy"], check=True)
        for process in processes:
            os.kill(process, signal.SIGCONT)

    def put_back(self) -> None:
        self.cluster.stop("immediate")
        files = self.cluster._cluster
        shutil.rmtree(files)
        subprocess.run(["cp", "-a", f"{files}.copy", str(files)], check=True)
        (files / "postmaster.pid").unlink()
        self.cluster.start()

    @gen_test
    async def test_it(self):
        await self.begin()
        self.copy_files()
        await self.go_on()
        async with self.time_goes_back():
            self.put_back()
            self.insert(*NEW)
        await self.assert_told()
        await self.assert_another_server_tells()


class PointInTimeTest(RewoundTestCase):
    """A base backup and the archive, recovered to a restore point; the server connects to what became of it."""

    def new_database(self) -> str:
        self.archive = leftovers.new_folder("archive-")
        self.addCleanup(lambda: shutil.rmtree(self.archive))
        self.archive.chmod(0o777)
        # Renamed when whole: an immediate stop kills cp, and recovery ends with FATAL at a segment that is too short.
        segment = f"{self.archive}/%f"
        archive_command = f"cp %p {segment}.new && mv {segment}.new {segment}"
        self.options = {"archive_mode": "on", "wal_level": "replica", "archive_command": archive_command}
        return super().new_database()

    def recover(self, action: str) -> EmbeddedPostgres:
        restored = postgres.EmbeddedPostgres(
            self.backup.data_dir,
            {
                "fsync": "off",
                "restore_command": f"cp {self.archive}/%f %p",
                "recovery_target_name": "here",
                "recovery_target_action": action,
            },
            self.cluster.binaries,
        )
        (restored._cluster / "recovery.signal").touch()
        return restored

    def archive_all(self) -> None:
        [(segment,)] = self.write("SELECT pg_walfile_name(pg_switch_wal())")
        while not (self.archive / segment).exists():
            pass

    @gen_test
    async def test_it_is_restored_in_place(self):
        await self.begin()
        self.backup = postgres.base_backup(self.cluster, "--wal-method", "none")
        self.write("SELECT pg_create_restore_point('here')")
        await self.go_on()
        self.archive_all()
        async with self.time_goes_back():
            self.cluster.stop("immediate")
            shutil.rmtree(self.cluster._cluster)
            self.backup._cluster.rename(self.cluster._cluster)
            self.backup = self.cluster
            self.cluster = self.recover("pause")
            self.cluster.start()
            while self.write("SELECT pg_get_wal_replay_pause_state()") != [("paused",)]:
                pass
            assert self.kept() == [1, 2]
            self.write("SELECT pg_wal_replay_resume()")
            while self.write("SELECT pg_is_in_recovery()") != [(False,)]:
                pass
            self.insert(*NEW)
        await self.assert_told()
        await self.assert_another_server_tells()


class StandbyTestCase(RewoundTestCase):
    """A primary and its standby, which is at `standby` of the same cluster; the server goes through a door to either."""

    options = {"max_wal_senders": "4", "wal_level": "replica", "wal_log_hints": "on", "wal_keep_size": "64MB"}  # noqa: RUF012

    def new_database(self) -> str:
        conninfo = super().new_database()
        self.standby = postgres.base_backup(self.cluster, "--write-recovery-conf", **self.options)
        self.standby.start()
        self.addCleanup(lambda: postgres.discard(self.standby))
        return conninfo

    def server_conninfo(self) -> str:
        self.door = Proxy(self.conninfo)
        self.io_loop.run_sync(self.door.start)
        return self.door.conninfo

    def lead_to(self, cluster: EmbeddedPostgres) -> None:
        """New connections; those that are there stay."""
        self.door.lead_to(cluster.conninfo)
        self.conninfo = cluster.conninfo

    def until_replayed(self) -> None:
        [(upto,)] = postgres.execute(self.cluster.conninfo, "SELECT pg_current_wal_flush_lsn()::text")
        replayed = "SELECT coalesce(pg_last_wal_replay_lsn() >= %s, false)"
        while postgres.execute(self.standby.conninfo, replayed, [upto]) != [(True,)]:
            pass

    def until_received(self) -> None:
        [(upto,)] = postgres.execute(self.cluster.conninfo, "SELECT pg_current_wal_flush_lsn()::text")
        received = "SELECT coalesce(pg_last_wal_receive_lsn() >= %s, false)"
        while postgres.execute(self.standby.conninfo, received, [upto]) != [(True,)]:
            pass

    def part(self) -> None:
        """From now on the standby gets nothing any more."""
        self.until_replayed()
        postgres.execute(self.standby.conninfo, "ALTER SYSTEM SET primary_conninfo = 'host=/nonexistent'")
        postgres.execute(self.standby.conninfo, "SELECT pg_reload_conf()")
        streaming = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"
        while postgres.execute(self.standby.conninfo, streaming) != [(0,)]:
            pass

    async def _settle(self) -> None:
        await super()._settle()
        await self.door.close()


class FailoverTest(StandbyTestCase):
    @gen_test
    async def test_to_a_standby_that_received_but_did_not_replay_all(self):
        await self.begin()
        self.until_replayed()
        postgres.execute(self.standby.conninfo, "SELECT pg_wal_replay_pause()")
        await self.go_on()
        self.until_received()
        async with self.restart():
            self.cluster.stop("immediate")
            self.lead_to(self.standby)
            self.door.cut()
            await self.until(lambda: "standby" in (self.feed.listener.reason or ""), self.state_changed)
            postgres.execute(self.standby.conninfo, "SELECT pg_promote()")
            self.insert(*NEW)
            assert (await self.changes(self.live, NEW[-1]))[:2] == (NEW, [])
        await self.assert_comes(self.after, NEW)
        await self.assert_comes(self.at, [3, 4, 5, 6, 7, 8, *NEW])


class SplitBrainTest(StandbyTestCase):
    @gen_test
    async def test_the_old_primary_lives_on_and_is_rewound_later(self):
        await self.begin()
        self.part()
        await self.go_on()
        postgres.execute(self.standby.conninfo, "SELECT pg_promote()")
        # Only new connections reach the new primary: the server's own stay where they are.
        self.lead_to(self.standby)
        self.insert(*NEW)
        async with self.time_goes_back():
            self.door.cut()
        await self.assert_told()

        # Then the new primary fails in its turn, and the old one, as its standby, takes over with all that it had.
        old, new = self.cluster, self.standby
        old.stop()
        # Before PostgreSQL 16 pg_rewind reads the timeline in the control file, where only a checkpoint writes the new one.
        postgres.execute(new.conninfo, "CHECKPOINT")
        place, source = ("--target-pgdata", str(old._cluster)), new.conninfo
        postgres.run_tool(old, "pg_rewind", *place, "--source-server", source, "--write-recovery-conf", "--no-sync")
        old.start()
        self.cluster, self.standby = new, old
        self.until_replayed()
        live = await self.connect(protocol=True)
        async with self.restart():
            new.stop("immediate")
            postgres.execute(old.conninfo, "SELECT pg_promote()")
            self.lead_to(old)
            self.insert(109)
            assert (await self.changes(live, 109))[:2] == ([109], [])
        await self.assert_comes(self.at, [*NEW, 109])
        await self.assert_gap(self.after)

    @gen_test
    async def test_connections_split_between_two_primaries(self):
        await self.begin()
        self.part()
        await self.go_on()
        postgres.execute(self.standby.conninfo, "SELECT pg_promote()")
        self.lead_to(self.standby)
        self.insert(*NEW)
        with (
            ExpectLog("changefeed.follower", "changes are missing", level=30),
            ExpectLog("changefeed.listener", "lost the LISTEN connection|still lost", level=30, required=False),
        ):
            of_reads = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%%changefeed.read%%'"
            postgres.execute(self.cluster.conninfo, of_reads + " AND pid <> pg_backend_pid()")
            await self.assert_told()
            self.insert(109)
            assert (await self.changes(self.live, 109))[:2] == ([109], [])


class ElsewhereTestCase(RewoundTestCase):
    """The server goes through a door to the database "shop", which may become another one."""

    def new_database(self) -> str:
        super().new_database()
        return self.another_database("shop", self.cluster)

    def server_conninfo(self) -> str:
        self.door = Proxy(self.conninfo)
        self.io_loop.run_sync(self.door.start)
        return self.door.conninfo

    async def _settle(self) -> None:
        await super()._settle()
        await self.door.close()

    @contextlib.asynccontextmanager
    async def shop_becomes(self, name: str, of: EmbeddedPostgres) -> AsyncIterator[None]:
        async with self.time_goes_back():
            for statement in (
                "ALTER DATABASE shop ALLOW_CONNECTIONS false",
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = 'shop'",
                f"ALTER DATABASE shop RENAME TO before_{name}",
            ):
                with contextlib.suppress(psycopg2.errors.InvalidCatalogName):
                    postgres.execute(of.conninfo, statement)
            postgres.execute(of.conninfo, f"ALTER DATABASE {name} RENAME TO shop")
            self.conninfo = str(make_dsn(of.conninfo, dbname="shop"))
            self.door.lead_to(self.conninfo)
            self.door.cut()
            yield

    async def until_replaced(self) -> None:
        """Until the connected client has its gap, after which everything is sent."""
        while "was replaced" not in (await message(self.live, "gap"))["why"]:
            pass

    def run_tool(self, name: str, *arguments: str) -> None:
        postgres.run_tool(self.cluster, name, *arguments)

    def another_database(self, name: str, of: EmbeddedPostgres) -> str:
        postgres.execute(of.conninfo, f"CREATE DATABASE {name}")
        return str(make_dsn(of.conninfo, dbname=name))


class CopyOfClusterTest(ElsewhereTestCase):
    options = {"max_wal_senders": "4", "wal_level": "replica"}  # noqa: RUF012

    @gen_test
    async def test_a_base_backup_that_the_server_is_pointed_to(self):
        await self.begin()
        copy = postgres.base_backup(self.cluster)
        self.addCleanup(lambda: postgres.discard(copy))
        await self.go_on()
        copy.start()
        async with self.time_goes_back():
            self.conninfo = str(make_dsn(copy.conninfo, dbname="shop"))
            self.insert(NEW[0])
            self.door.lead_to(self.conninfo)
            self.door.cut()
            self.insert(*NEW[1:])
        await self.assert_told()


class CopyOfDatabaseTest(ElsewhereTestCase):
    @gen_test
    async def test_a_template_copy_that_takes_the_originals_name(self):
        await self.begin()
        await self.go_on()
        async with self.time_goes_back():
            for statement in (
                "ALTER DATABASE shop ALLOW_CONNECTIONS false",
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = 'shop'",
                "ALTER DATABASE shop RENAME TO former",
                "CREATE DATABASE shop TEMPLATE former",
            ):
                postgres.execute(self.cluster.conninfo, statement)
            # A client with a gap reads the tables again; what comes after that is sent.
            await self.until_replaced()
            self.insert(9)
            assert (await self.changes(self.live, 9))[:2] == ([9], [])
        await self.assert_gap(self.after, "of another journal")


class LogicalRestoreTest(ElsewhereTestCase):
    @gen_test
    async def test_into_other_databases(self):
        await self.begin()
        dump = str(self.cluster.data_dir / "socket" / "dump")
        spared = f"{dump}-without-journal"
        take = ("pg_dump", "--format", "custom", "--dbname", self.conninfo, "--file")
        self.run_tool(*take, dump)
        self.run_tool(*take, spared, "--exclude-table-data=changefeed.journal*")
        await self.go_on()
        younger = postgres.start()
        self.addCleanup(lambda: postgres.discard(younger))
        for number, (of, source, flags, expected) in enumerate(
            (
                (younger, dump, (), [1, 2]),
                (younger, spared, (), [1, 2]),
                (younger, dump, ("--schema-only",), []),
                (self.cluster, dump, ("--schema", "public"), [1, 2]),
            )
        ):
            name, first = f"restored_{number}", 1000 + 10 * number
            target = self.another_database(name, of)
            if "public" in flags:
                postgres.execute(target, read_script("install.sql"))
            self.run_tool("pg_restore", "--dbname", target, *flags, source)
            with self.subTest(number):
                async with self.shop_becomes(name, of):
                    assert self.kept() == expected
                    await self.until_replaced()
                    self.insert(first)
                    ids, gaps, cursor = await self.changes(self.live, first)
                    assert (ids, gaps) == ([first], [])
                await self.assert_gap(self.after, "of another journal")
                self.insert(first + 1)
                await self.assert_comes(cursor, [first + 1])
                assert (await self.changes(self.live, first + 1))[:2] == ([first + 1], [])

    @gen_test
    async def test_of_the_tables_over_those_that_are_there(self):
        await self.feed.lookout.look()  # as it was before
        self.running.append(self.start_task(self.feed.lookout.run()))
        await self.begin()
        dump = str(self.cluster.data_dir / "socket" / "dump")
        self.run_tool("pg_dump", "--format", "custom", "--file", dump, "--dbname", self.conninfo)
        await self.go_on()
        self.run_tool("pg_restore", "--clean", "--table", "orders", "--dbname", self.conninfo, dump)
        with ExpectLog("changefeed.lookout", ".*", level=30, required=False):
            assert (await message(self.live, "gap"))["table"] == "public.orders"
            self.write(read_script("install.sql"))
            self.watch()
            self.insert(20)
            await self.changes(self.live, 20)
            resumed = await self.connect(f"/ws?since={self.after}", protocol=True)
            await message(resumed, "hello")
            assert (await message(resumed, "gap"))["table"] == "public.orders"
            self.write("TRUNCATE orders")
            self.run_tool("pg_restore", "--data-only", "--table", "orders", "--dbname", self.conninfo, dump)
            _, gaps, _ = await self.changes(resumed, 2)
            assert gaps == []


class MajorUpgradeTest(ElsewhereTestCase):
    def new_database(self) -> str:
        binaries = next((folder for folder in postgres.others() if (folder / "pg_upgrade").exists()), None)
        if postgres.BINARIES or binaries is None:
            self.skipTest("this takes the embedded PostgreSQL 18, and an older one to upgrade from")
        self.cluster = postgres.start(binaries=binaries)
        self.addCleanup(lambda: postgres.discard(self.cluster))
        return self.another_database("shop", self.cluster)

    @gen_test(timeout=90)
    async def test_with_pg_upgrade_the_journal_is_another_one(self):
        await self.begin()
        old = self.cluster
        new = EmbeddedPostgres(leftovers.new_folder(), {"fsync": "off"})
        new._make_folders()
        new._reach_binaries()
        new._initdb()
        async with self.time_goes_back():
            old.stop()
            postgres.run_tool(old, "pg_checksums", "--enable", "--no-sync", "--pgdata", str(old._cluster))
            upgrade = [
                *("/bin/sh", "-c", 'cd "$0" && exec "$@"', str(new.data_dir)),  # where it writes
                *(str(new.binaries / "pg_upgrade"), "--username", "postgres", "--no-sync"),
                *("--old-bindir", str(old.binaries), "--new-bindir", str(new.binaries)),
                *("--old-datadir", str(old._cluster), "--new-datadir", str(new._cluster)),
                *("--socketdir", str(new.data_dir / "socket")),
            ]
            done = new._run(upgrade)
            assert done.returncode == 0, done.stdout + done.stderr
            new.start()
            self.addCleanup(lambda: postgres.discard(new))
            self.conninfo = str(make_dsn(new.conninfo, dbname="shop"))
            self.door.lead_to(self.conninfo)
            self.door.cut()
            await self.until_replaced()
            self.insert(3)
            ids, gaps, cursor = await self.changes(self.live, 3)
            assert (ids, gaps) == ([3], [])
        await self.assert_gap(self.at, "of another journal")
        self.insert(4)
        await self.assert_comes(cursor, [4])
