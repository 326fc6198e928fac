"""A running server and DDL: types that change, tables that go, come and are swapped, triggers that are switched off."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from unittest import mock

from tornado.testing import ExpectLog, gen_test
from tornado.websocket import WebSocketClientConnection

from changefeed.journal.cursor import Place, Snapshot
from changefeed.journal.lookout import Lookout
from changefeed.postgres.named_queries import read_script
from changefeed.selection.subscription import ALL_CHANGES, Subscription
from tests import postgres
from tests.access_case import AccessTestCase, issued
from tests.feed_case import ORDERS, FeedTestCase, message


class LookoutCase(FeedTestCase):
    __test__ = False

    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.write("CREATE TABLE items (id int)")
        self.write("CREATE TABLE parted (id int, v text) PARTITION BY RANGE (id)")
        self.write("CREATE TABLE part_1 PARTITION OF parted FOR VALUES FROM (0) TO (10)")
        for table in ("orders", "items", "parted"):
            self.watch(f"public.{table}")

    async def look(self) -> None:
        await self.feed.lookout.look()

    async def cursor(self) -> str:
        """That of the newest change."""
        self.write("INSERT INTO items VALUES (1)")
        await self.until_published(1)
        return str((await self.fetch_json("/api/changes"))["cursor"])

    def losses(self) -> list[str]:
        return [table for (table,) in self.write("SELECT table_name FROM changefeed.journal WHERE action = 'L'")]

    async def until_published(self, changes: int) -> None:
        """Losses count like changes."""
        while self.feed.hub.published < changes:
            await self.feed.follower.until_moved()

    async def subscribed(self, query: str = "") -> WebSocketClientConnection:
        await self.look()
        socket = await self.connect(f"/ws{query}", protocol=True)
        await message(socket, "hello")
        return socket

    def another(self) -> Lookout:
        return Lookout(
            self.feed.request_pool,
            self.feed.catalog,
            self.feed.journal,
            (),
            create_missing_triggers=self.feed.watching.create_missing_triggers,
            edge=lambda: None,
            tell_gap=lambda gap: self.fail(str(gap)),
            on_change=lambda: None,
        )


class RemovedTest(LookoutCase):
    __test__ = True

    @gen_test
    async def test_a_journal_that_is_removed_before_the_first_look(self):
        """The tables that were watched at the start are, in the next journal, watched again."""
        lookout = self.another()
        await lookout.note_watched()
        self.write(read_script("uninstall.sql"))
        self.write(read_script("install.sql"))
        await lookout.look()
        self.watch()
        with ExpectLog("changefeed.lookout", "changes are missing: public.orders is watched again", level=20):
            await lookout.look()
        assert self.losses() == ["orders"]


class GapTest(LookoutCase):
    __test__ = True

    async def gap_of(self, ddl: str | Callable[[], object], table: str, level: int = 20) -> Any:
        """The one gap after `ddl`, which only clients that asked for the table get."""
        socket, other = await self.subscribed(f"?table=public.{table}"), await self.subscribed("?table=items")
        self.write(ddl) if isinstance(ddl, str) else ddl()
        with ExpectLog("changefeed.lookout", "changes are missing", level=level):
            await self.look()
        gap = await message(socket)
        assert (gap["type"], gap["table"]) == ("gap", f"public.{table}")
        self.write("INSERT INTO items VALUES (1)")
        assert (await message(other))["type"] == "changes"
        return gap

    @gen_test
    async def test_unwatching_and_watching_again_are_reported(self):
        gap = await self.gap_of("SELECT changefeed.unwatch('orders')", "orders")
        assert "not watched any more" in gap["why"]
        assert "until it is watched again" in gap["what_to_do"]
        gap = await self.gap_of("SELECT changefeed.watch('orders')", "orders")
        assert "watched again" in gap["why"]

    @gen_test
    async def test_one_that_is_dropped_and_made_again(self):
        await self.gap_of("DROP TABLE orders", "orders")

    @gen_test
    async def test_one_that_is_dropped(self):
        gap = await self.gap_of("DROP TABLE orders", "orders")
        assert "public.orders was dropped" in gap["why"]
        assert "forget the table's rows" in gap["what_to_do"]

    @gen_test
    async def test_one_that_gets_another_name(self):
        gap = await self.gap_of("ALTER TABLE orders RENAME TO old", "orders")
        assert "another name now" in gap["why"]
        assert "under its new name" in gap["what_to_do"]

    @gen_test
    async def test_one_that_another_takes_the_place_of(self):
        swap = "CREATE TABLE new (LIKE orders); SELECT changefeed.watch('new'); ALTER TABLE orders RENAME TO old"
        assert "another" in (await self.gap_of(f"{swap}; ALTER TABLE new RENAME TO orders", "orders"))["why"]

    @gen_test
    async def test_one_whose_triggers_are_disabled(self):
        await self.gap_of("ALTER TABLE orders DISABLE TRIGGER USER", "orders", 30)
        assert self.feed.lookout.incomplete == 1
        await self.gap_of("ALTER TABLE orders ENABLE TRIGGER USER", "orders")
        assert self.feed.lookout.incomplete == 0

    @gen_test
    async def test_one_whose_triggers_were_disabled_between_two_looks(self):
        await self.gap_of("ALTER TABLE orders DISABLE TRIGGER ALL; ALTER TABLE orders ENABLE TRIGGER ALL", "orders")

    @gen_test
    async def test_a_table_whose_partitions_triggers_were_disabled(self):
        off, on = "ALTER TABLE part_1 DISABLE TRIGGER USER", "ALTER TABLE part_1 ENABLE TRIGGER USER"
        await self.gap_of(f"{off}; INSERT INTO part_1 VALUES (1, 'x'); {on}", "parted")

    @gen_test
    async def test_one_of_which_a_partition_was_away_between_two_looks(self):
        away, back = "DETACH PARTITION part_1", "ATTACH PARTITION part_1 FOR VALUES FROM (0) TO (10)"
        write = "INSERT INTO part_1 VALUES (1, 'x')"
        await self.gap_of(f"ALTER TABLE parted {away}; {write}; ALTER TABLE parted {back}", "parted")

    @gen_test
    async def test_one_that_loses_a_partition(self):
        self.write("INSERT INTO parted VALUES (1, 'x')")
        await self.until_published(1)
        await self.gap_of("ALTER TABLE parted DETACH PARTITION part_1", "parted")

    @gen_test
    async def test_one_that_loses_a_partition_for_good(self):
        self.write("INSERT INTO parted VALUES (1, 'x')")
        await self.until_published(1)
        await self.gap_of("DROP TABLE part_1", "parted")

    @gen_test
    async def test_one_to_which_a_filled_table_is_attached(self):
        fill = "CREATE TABLE part_2 (LIKE parted); INSERT INTO part_2 VALUES (11, 'x')"
        attach = "ALTER TABLE parted ATTACH PARTITION part_2 FOR VALUES FROM (10) TO (20)"
        gap = await self.gap_of(f"{fill}; {attach}", "parted")
        assert "attached" in gap["why"]

    @gen_test
    async def test_one_whose_new_partition_cannot_have_triggers_yet(self):
        self.write("DROP EVENT TRIGGER IF EXISTS changefeed_new_partitions")
        make = "CREATE TABLE part_2 PARTITION OF parted FOR VALUES FROM (10) TO (20)"
        writer = postgres.connect(self.conninfo)
        self.addCleanup(writer.close)

        def make_and_write() -> None:
            self.write(make)
            writer.cursor().execute("BEGIN; INSERT INTO part_2 VALUES (11, 'x')")  # which locks it

        assert "a new partition" in (await self.gap_of(make_and_write, "parted", 30))["why"]
        writer.cursor().execute("COMMIT")
        assert "again" in (await self.gap_of("SELECT changefeed.refresh()", "parted"))["why"]

    @gen_test
    async def test_one_whose_new_partition_had_a_row_before_it_had_triggers(self):
        self.write("DROP EVENT TRIGGER IF EXISTS changefeed_new_partitions")
        make = "CREATE TABLE part_2 PARTITION OF parted FOR VALUES FROM (10) TO (20)"
        gap = await self.gap_of(f"{make}; INSERT INTO part_2 VALUES (11, 'x')", "parted")  # and no other
        assert "in its first moment" in gap["why"]
        await self.look()
        assert self.losses() == ["parted"]

    @gen_test
    async def test_what_removes_nothing_is_no_gap(self):
        self.write("CREATE TABLE empty (LIKE parted)")
        socket = await self.subscribed()
        for ddl in (
            "ALTER TABLE parted ATTACH PARTITION empty FOR VALUES FROM (30) TO (40)",
            "ALTER TABLE parted DETACH PARTITION empty",
            "CREATE TABLE first_child () INHERITS (orders)",
            "DROP TABLE first_child",
            "SELECT changefeed.refresh()",
            "CREATE TABLE part_2 PARTITION OF parted FOR VALUES FROM (10) TO (20)",
            "SELECT changefeed.watch('orders', row_limit => 100)",
            "SELECT changefeed.watch('parted', row_limit => 100)",
            "ALTER TABLE orders ADD more text",
            "CREATE TABLE later (id int); SELECT changefeed.watch('later')",
            "CREATE INDEX ON orders (status); TRUNCATE later; ANALYZE; VACUUM orders; VACUUM FULL orders",
            "ALTER TABLE orders ALTER total TYPE text; ALTER TABLE orders DROP more; ALTER TABLE orders SET (fillfactor = 50)",
            "ALTER TABLE orders ADD CHECK (id > 0); ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CLUSTER orders USING orders_pkey",
            "ALTER TABLE orders OWNER TO pg_monitor; GRANT SELECT ON orders TO PUBLIC; GRANT USAGE ON SCHEMA public TO PUBLIC",
            'ALTER TABLE orders ENABLE TRIGGER "~changefeed_update"',
            "ALTER TABLE orders ENABLE ALWAYS TRIGGER \"~changefeed_insert\"; COMMENT ON TABLE orders IS 'all of them'",
            "CREATE TABLE child (FOREIGN KEY (id) REFERENCES orders) INHERITS (orders); VACUUM FULL pg_trigger; VACUUM FULL pg_type",
            "SELECT changefeed.refresh(); VACUUM FREEZE",
        ):
            for statement in ddl.split("; "):
                self.write(statement)
            await self.look()
        self.write("INSERT INTO later VALUES (1)")
        told = await message(socket)
        while not told["changes"] or told["changes"][-1]["action"] != "INSERT":
            told = await message(socket, told["type"])
            assert told["type"] == "changes"

    @gen_test
    async def test_daily_partitions_are_no_gap_without_event_trigger(self):
        self.write("DROP EVENT TRIGGER IF EXISTS changefeed_new_partitions")
        socket = await self.subscribed()
        for day in range(1, 4):
            self.write(f"CREATE TABLE day_{day} PARTITION OF parted FOR VALUES FROM ({day}0) TO ({day}9)")
            await self.look()
            self.write(f"INSERT INTO parted VALUES ({day}1, 'x')")
            told = await message(socket)
            assert [change["data"]["id"] for change in told["changes"]] == [day * 10 + 1]
        assert self.losses() == []

    @gen_test
    async def test_one_whose_triggers_are_off_for_one_transaction(self):
        await self.gap_of(
            "BEGIN; ALTER TABLE orders DISABLE TRIGGER USER; INSERT INTO orders VALUES (1); "
            "ALTER TABLE orders ENABLE TRIGGER USER; COMMIT",
            "orders",
        )

    @gen_test
    async def test_a_locked_table_is_reported_later_and_delays_no_other(self):
        self.write("INSERT INTO parted VALUES (1, 'x')")
        await self.until_published(1)
        socket = await self.subscribed()
        holder = postgres.connect(self.conninfo)
        self.addCleanup(holder.close)
        self.write("ALTER TABLE parted DETACH PARTITION part_1")
        holder.cursor().execute("BEGIN; LOCK TABLE part_1")
        self.write("ALTER TABLE items DISABLE TRIGGER USER; ALTER TABLE items ENABLE TRIGGER USER")
        with (
            mock.patch("changefeed.journal.lookout.POSTPONED_SECONDS", 0),
            ExpectLog("changefeed.lookout", "changes are missing: public.items", level=20),
            ExpectLog("changefeed.lookout", "could not look at public.parted", level=30),
        ):
            await self.look()
        assert (await message(socket))["table"] == "public.items"
        await self.look()  # which is named once
        assert self.losses() == ["items"]
        holder.cursor().execute("ROLLBACK")  # which changes nothing
        with ExpectLog("changefeed.lookout", "changes are missing: a partition of public.parted", level=20):
            await self.look()
        assert (await message(socket, "gap"))["table"] == "public.parted"

    @gen_test
    async def test_one_that_has_another_name_for_one_transaction(self):
        away, back = "ALTER TABLE orders RENAME TO old", "ALTER TABLE old RENAME TO orders"
        gap = await self.gap_of(f"BEGIN; {away}; INSERT INTO old VALUES (1); {back}; COMMIT", "orders")
        assert "another name" in gap["why"]

    @gen_test
    async def test_one_that_is_in_another_schema_between_two_looks(self):
        self.write("CREATE SCHEMA other")
        away, back = "ALTER TABLE orders SET SCHEMA other", "ALTER TABLE other.orders SET SCHEMA public"
        gap = await self.gap_of(f"{away}; INSERT INTO other.orders VALUES (1); {back}", "orders")
        assert "another name" in gap["why"]

    @gen_test
    async def test_a_returning_client_gets_the_gap_once(self):
        await self.look()
        cursor = await self.cursor()
        self.write("ALTER TABLE orders DISABLE TRIGGER ALL; ALTER TABLE orders ENABLE TRIGGER ALL")
        with ExpectLog("changefeed.lookout", "changes are missing", level=20):
            await self.look()
        await self.until_published(2)
        told = await self.fetch_json(f"/api/changes?table=orders&since={cursor}")
        gap = told["gap"]
        assert (gap["table"], told["changes"]) == ("public.orders", [])
        assert gap["since"] < gap["until"]
        assert (await self.fetch_json(f"/api/changes?table=items&since={cursor}"))["gap"] is None
        # Without any change in between.
        for known in (gap["to"], told["cursor"]):
            assert (await self.fetch_json(f"/api/changes?table=orders&since={known}"))["gap"] is None

    @gen_test
    async def test_gaps_of_several_tables_on_one_page_are_of_no_single_table(self):
        await self.look()
        cursor = await self.cursor()
        for table in ("orders", "parted"):
            self.write(f"ALTER TABLE {table} DISABLE TRIGGER USER; ALTER TABLE {table} ENABLE TRIGGER USER")
            with ExpectLog("changefeed.lookout", "changes are missing", level=20):
                await self.look()
        await self.until_published(3)
        gap = (await self.fetch_json(f"/api/changes?since={cursor}"))["gap"]
        assert "table" not in gap
        assert "public.orders was not" in gap["why"]
        assert "public.parted was not" in gap["why"]
        gap = (await self.fetch_json(f"/api/changes?table=parted&since={cursor}"))["gap"]
        assert gap["table"] == "public.parted"

    @gen_test
    async def test_a_table_that_was_not_watched_is_not_counted_as_a_lost_statement(self):
        await self.gap_of("SELECT changefeed.unwatch('orders')", "orders")
        assert self.feed.follower.losses.reported == 0
        assert (await self.fetch_json("/api/status"))["journal"]["lost_statements"] == 0


class JournalRemovedTest(LookoutCase):
    """sql/uninstall.sql, and later sql/install.sql, under a server that follows and watches nothing itself."""

    __test__ = True

    async def gap_of_removal(self) -> WebSocketClientConnection:
        socket = await self.subscribed("?table=public.orders")
        with ExpectLog(
            "changefeed.follower", "the journal was removed: nothing is recorded|the journal cannot be read", level=30
        ):
            self.write(read_script("uninstall.sql"))
            self.feed.follower.wake()
            gap = await message(socket, "gap")
        assert "nothing is recorded until it is installed again" in gap["why"]
        return socket

    async def install(self) -> None:
        self.write(read_script("install.sql"))
        with ExpectLog("changefeed.follower", "following the journal", level=20):
            while self.feed.follower.cache is None:
                self.feed.follower.wake()
                await self.feed.follower.until_moved()

    async def told_until(self, socket: WebSocketClientConnection, row_id: int) -> list[str]:
        """Why there are gaps, up to the change of that row."""
        gaps = []
        while True:
            told = await message(socket)
            if told["type"] == "gap":
                assert told["table"] == "public.orders"
                gaps.append(told["why"])
            if row_id in [change["data"]["id"] for change in told.get("changes", ())]:
                return gaps

    @gen_test
    async def test_a_table_has_a_gap_when_it_is_watched_again(self):
        socket = await self.gap_of_removal()
        await self.look()
        self.write("INSERT INTO orders VALUES (1)")
        await self.install()
        await self.look()  # of a server that knows that it was watched; what another finds is the same
        cursor = (await self.fetch_json("/api/changes"))["cursor"]
        self.write("INSERT INTO orders VALUES (2)")
        self.write("TRUNCATE orders")
        self.watch("public.orders")
        with ExpectLog(
            "changefeed.lookout",
            "changes are missing: public.orders is watched again, and was not for a while",
            level=20,
        ):
            await self.look()
        self.write("INSERT INTO orders VALUES (3)")
        assert await self.told_until(socket, 3) == ["public.orders is watched again, and was not for a while"]
        page = await self.fetch_json(f"/api/changes?table=orders&since={cursor}")
        assert "watched again" in page["gap"]["why"]
        self.write("ALTER TABLE items ADD more int")
        await self.look()
        assert self.losses() == ["orders"]  # once

    @gen_test
    async def test_a_table_that_no_look_saw_unwatched_has_one_too(self):
        socket = await self.gap_of_removal()
        self.write("INSERT INTO orders VALUES (1)")
        await self.install()
        self.watch("public.orders")
        self.write("CREATE TABLE later (id int); SELECT changefeed.watch('later')")
        with ExpectLog("changefeed.lookout", "changes are missing: public.orders is watched again", level=20):
            await self.look()
        self.write("INSERT INTO orders VALUES (3)")
        assert len(await self.told_until(socket, 3)) == 1
        assert self.losses() == ["orders"]

    @gen_test
    async def test_a_server_that_started_in_between_takes_no_gap_away(self):
        socket = await self.gap_of_removal()
        await self.install()
        await self.look()
        self.watch("public.orders")
        with ExpectLog("changefeed.lookout", "changes are missing: public.orders is watched again", level=20):
            await self.another().look()
        await self.look()
        self.write("INSERT INTO orders VALUES (3)")
        assert len(await self.told_until(socket, 3)) == 1


class SeveralServersTest(LookoutCase):
    """Servers that look at one database, at once and after one another."""

    __test__ = True

    @gen_test
    async def test_a_gap_is_written_by_one_of_them(self):
        lookouts = [self.another() for _ in range(3)]
        await asyncio.gather(*(lookout.look() for lookout in lookouts))
        socket = await self.subscribed("?table=orders")
        self.write("ALTER TABLE orders DISABLE TRIGGER ALL; ALTER TABLE orders ENABLE TRIGGER ALL")
        with ExpectLog("changefeed.lookout", "changes are missing", level=20):
            await asyncio.gather(*(lookout.look() for lookout in lookouts), self.look())
        self.write("INSERT INTO orders VALUES (1)")
        told = [await message(socket)]
        while not told[-1].get("changes"):
            told.append(await message(socket))
        assert [one["type"] for one in told].count("gap") == 1
        assert self.losses() == ["orders"]

    @gen_test
    async def test_what_was_done_while_no_server_ran_is_reported_by_the_next(self):
        await self.another().look()  # and ends
        cursor = await self.cursor()
        self.write("ALTER TABLE orders DISABLE TRIGGER ALL; INSERT INTO orders VALUES (1)")
        self.write("ALTER TABLE orders ENABLE TRIGGER ALL; ALTER TABLE items ADD more int; ANALYZE")
        self.write("CREATE TABLE later (id int); SELECT changefeed.watch('later')")
        with ExpectLog("changefeed.lookout", "changes are missing: public.orders", level=20):
            await self.look()
        assert self.losses() == ["orders"]
        await self.until_published(2)
        for _ in range(2):  # whoever gives it, a server that saw it told or one that did not
            gap = (await self.fetch_json(f"/api/changes?since={cursor}"))["gap"]
            assert gap["table"] == "public.orders"
            await self.another().look()

    @gen_test
    async def test_a_new_process_sends_the_gap_of_a_retyped_filter(self):
        self.write("ALTER TABLE orders ADD qty text")
        filtered = Subscription.parse({"table": ["orders"], "filter": ["qty=gt.10"]})
        await self.fetch_json("/api/changes?table=orders&filter=qty=gt.10")  # by which the types are known
        await self.look()
        cursor = await self.cursor()
        beside = self.another()
        await beside.look()
        self.write("ALTER TABLE orders ALTER qty TYPE int USING qty::int")
        with ExpectLog("changefeed.lookout", "changes are missing.*qty of public.orders", level=20):
            await self.look()
        [(told_at,)] = self.write("SELECT seen::text FROM changefeed.retyped")
        later = Place.after(Snapshot.parse(told_at))
        started = self.another()
        for lookout in (started, beside):
            await lookout.look()
            gap = lookout.missed_since(self.feed.journal.decode(cursor), cursor, filtered)
            assert gap is not None
            assert (gap.table, gap.from_cursor) == ("public.orders", cursor)
            assert lookout.missed_since(later, cursor, filtered) is None
            assert lookout.missed_since(self.feed.journal.decode(cursor), cursor, ALL_CHANGES) is None
        self.write("UPDATE changefeed.meta SET epoch = gen_random_uuid()")
        assert self.write("SELECT count(*) FROM changefeed.retyped_after(0)") == [(0,)]

    @gen_test
    async def test_in_a_journal_that_starts_over_each_table_has_one_gap(self):
        await self.look()
        self.write("UPDATE changefeed.meta SET epoch = gen_random_uuid()")
        self.write("ALTER TABLE orders DISABLE TRIGGER ALL; ALTER TABLE orders ENABLE TRIGGER ALL")
        with ExpectLog("changefeed.follower", "the journal was replaced", required=False):
            await self.look()
            assert sorted(self.losses()) == ["items", "orders", "parted"]
            self.write("ALTER TABLE items ADD more int")
            await self.look()
            assert len(self.losses()) == 3


class PatternTest(LookoutCase):
    __test__ = True
    flags = ("--watch", "public.*")

    @gen_test
    async def test_rows_written_before_a_new_table_was_watched_are_a_gap(self):
        socket = await self.subscribed()
        self.write("CREATE TABLE later (id int); CREATE TABLE empty (id int); INSERT INTO later VALUES (1)")
        await self.look()
        with ExpectLog("changefeed.watching", "watching", level=20):
            await self.feed.watching._maintain_once()
        with ExpectLog("changefeed.lookout", ".*public.later before it was watched", level=20):
            await self.look()
        assert (await message(socket, "gap"))["table"] == "public.later"
        self.write("INSERT INTO empty VALUES (1)")
        assert (await message(socket))["type"] == "changes"

    @gen_test
    async def test_an_empty_table_has_no_gap_when_watched(self):
        self.write("DROP EVENT TRIGGER IF EXISTS changefeed_new_partitions")
        socket = await self.subscribed()
        attach = "ALTER TABLE parted ATTACH PARTITION"
        for make, table, row in (
            ("CREATE TABLE one (id int)", "one", 1),
            ("CREATE TABLE two (id int) PARTITION BY LIST (id); CREATE TABLE p PARTITION OF two DEFAULT", "two", 1),
            ("CREATE TABLE part_2 PARTITION OF parted FOR VALUES FROM (10) TO (20)", "part_2", 11),
            (f"CREATE TABLE part_3 (LIKE parted); {attach} part_3 FOR VALUES FROM (20) TO (30)", "part_3", 21),
            (
                "CREATE TABLE part_4 (LIKE parted); SELECT changefeed.watch('part_4'); "
                f"{attach} part_4 FOR VALUES FROM (30) TO (40)",
                "part_4",
                31,
            ),
        ):
            with self.subTest(make):
                self.write(make)
                await self.feed.watching._maintain_once()
                self.write(f"INSERT INTO {table} VALUES ({row})")
                if table in ("one", "two"):
                    self.write(f"SELECT changefeed.watch('{table}', row_limit => 10)")  # which changes its triggers
                await self.look()
                told = await message(socket)
                while not told.get("changes", told):
                    told = await message(socket)
                assert (told["type"], told["changes"][0]["action"]) == ("changes", "INSERT")
        assert self.write("SELECT * FROM changefeed.noted") == []

    @gen_test
    async def test_moving_a_partition_to_an_unwatched_table_is_silent(self):
        self.write("DROP EVENT TRIGGER IF EXISTS changefeed_new_partitions")
        self.write("CREATE SCHEMA other; CREATE TABLE other.q (LIKE parted) PARTITION BY RANGE (id)")
        self.write("ALTER TABLE parted DETACH PARTITION part_1")
        self.write("ALTER TABLE other.q ATTACH PARTITION part_1 FOR VALUES FROM (0) TO (10)")
        await self.feed.watching._maintain_once()
        socket = await self.subscribed()
        self.write("INSERT INTO part_1 VALUES (1); INSERT INTO other.q VALUES (2); INSERT INTO items VALUES (3)")
        assert [change["table"] for change in (await message(socket))["changes"]] == ["items"]


class ColumnsTest(LookoutCase):
    __test__ = True

    @gen_test
    async def test_a_filter_compares_as_the_column_does_now(self):
        self.write("ALTER TABLE orders ADD qty text")
        socket = await self.subscribed("?table=orders&filter=qty=gt.10")
        unfiltered, other = (
            await self.subscribed("?table=orders"),
            await self.subscribed("?filter=id=gt.0&table=orders"),
        )
        self.write("ALTER TABLE orders ALTER qty TYPE int USING qty::int")
        with ExpectLog("changefeed.lookout", "changes are missing.*qty of public.orders", level=20):
            await self.look()
        assert (await message(socket, "gap"))["table"] == "public.orders"
        self.write("INSERT INTO orders (id, qty) VALUES (1, 9), (2, 100)")
        [change] = (await message(socket, "changes"))["changes"]
        assert change["data"]["id"] == 2
        for one in (unfiltered, other):
            assert (await message(one))["type"] == "changes"
        page = await self.fetch_json("/api/changes?table=orders&filter=qty=gt.10")
        assert [change["data"]["id"] for change in page["changes"]] == [2]

    @gen_test
    async def test_a_dropped_column_is_an_error_once(self):
        named = await self.subscribed("?table=orders&columns=status")
        filtered = await self.subscribed("?table=orders&filter=status=eq.open")
        whole = await self.subscribed("?table=orders")
        self.write("ALTER TABLE orders RENAME status TO state")
        await self.look()
        for socket in (named, filtered):
            told = await message(socket)
            assert (told["type"], told["code"]) == ("error", "unknown_column")
            assert "it has id, state, total" in told["message"]
        self.write("ALTER TABLE orders ADD more text")
        await self.look()
        self.write("INSERT INTO orders VALUES (1)")
        assert (await message(whole))["type"] == "changes"
        assert (await message(named))["type"] == "changes"


class RightsTest(AccessTestCase):
    def prepare_database(self) -> None:
        super().prepare_database()
        self.write("CREATE TABLE levels (id int, level text)")
        self.watch("public.levels")

    @gen_test
    async def test_a_right_follows_its_columns_type_at_once(self):
        await self.feed.lookout.look()
        rights = {"tables": {"public.levels": {"filter": ["level=lt.50"]}, "public.orders": {}}}
        socket = await self.connect("/ws", Authorization=f"Bearer {issued(rights)}")
        self.write("INSERT INTO levels VALUES (1, '3')")  # a number is not compared with texts: nothing is sent
        self.order(6)
        assert (await message(socket))["table"] == "orders"
        self.write("ALTER TABLE levels ALTER level TYPE int USING level::int")
        self.write("INSERT INTO levels VALUES (2, 1000), (3, 9)")  # as texts, 1000 is less than 50, and 9 is not
        assert (await message(socket))["data"]["id"] == 3
        with ExpectLog("changefeed.lookout", "changes are missing.*level of public.levels", level=20):
            await self.feed.lookout.look()
        self.write("INSERT INTO levels VALUES (4, 1000), (5, 9)")
        assert (await message(socket))["data"]["id"] == 5

    @gen_test
    async def test_no_row_is_sent_that_the_right_hides_by_the_new_type(self):
        self.write("CREATE DOMAIN padded AS char(50)")
        hidden = "AB000000-0000-4000-8000-00000000000C"
        names = ("to_char", "to_uuid", "to_domain", "new")
        rights = {"tables": {f"public.{name}": {"filter": [f"owner=neq.{hidden}"]} for name in names}}
        headers = {"Authorization": f"Bearer {issued({'tables': {**rights['tables'], 'public.orders': {}}})}"}
        await self.feed.catalog.until_read()
        socket = await self.connect("/ws", **headers)
        for number, (name, before, after) in enumerate(
            (
                ("to_char", "text", "char(50)"),
                ("to_uuid", "text", "uuid USING NULL"),
                ("to_domain", "text", "padded"),
                ("new", "char(50)", None),
            )
        ):
            self.write(f"CREATE TABLE {name} (owner {before})")
            self.watch(f"public.{name}")
            if after:
                await self.feed.catalog.reread()
                self.write(f"ALTER TABLE {name} ALTER owner TYPE {after}")
            self.write(f"INSERT INTO {name} VALUES (%s)", (hidden,))
            self.order(number)
            assert (await message(socket))["table"] == "orders", name
            answer = await self.http_client.fetch(self.get_url(f"/api/changes?table=public.{name}"), headers=headers)
            assert json.loads(answer.body)["changes"] == []
            assert (await self.rows_of(name, headers)) == []

    async def rows_of(self, table: str, headers: dict[str, str]) -> list[object]:
        answer = await self.http_client.fetch(self.get_url(f"/api/rows?table=public.{table}"), headers=headers)
        rows: list[object] = json.loads(answer.body)["rows"]
        return rows

    @gen_test
    async def test_a_gap_of_a_table_is_sent_only_to_clients_that_may_see_it(self):
        await self.feed.lookout.look()
        socket = await self.connect("/ws", protocol=True, **self.headers("narrow"))
        await message(socket, "hello")
        for table in ("salaries", "orders"):
            self.write(f"ALTER TABLE {table} DISABLE TRIGGER ALL; ALTER TABLE {table} ENABLE TRIGGER ALL")
            with ExpectLog("changefeed.lookout", "changes are missing", level=20):
                await self.feed.lookout.look()
        gap = await message(socket)
        assert (gap["type"], gap["table"], gap["why"]) == ("gap", "public.orders", "changes may have been lost")
        assert "salaries" not in json.dumps(gap)

    @gen_test
    async def test_limited_rights_do_not_get_the_number_of_lost_statements_or_when(self):
        socket = await self.connect("/ws", protocol=True, **self.headers("narrow"))
        before = (await message(socket, "hello"))["cursor"]
        with ExpectLog("changefeed.follower", "changes are missing"):
            self.write("SELECT setval('changefeed.losses', 3)")  # as after three of them, which one read finds
            assert "skipped" not in await message(socket, "gap")
        back = await self.connect(f"/ws?since={before}", protocol=True, **self.headers("narrow"))
        gap = await message(back, "gap")
        assert (gap.get("skipped"), gap["since"], gap["until"]) == (None, None, None)
