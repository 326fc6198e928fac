"""Which tables /api/tables lists, and how it tells that one is watched."""

from typing import Any

from psycopg2.extensions import make_dsn, parse_dsn
from tornado.testing import gen_test

from tests import postgres
from tests.feed_case import ORDERS, FeedTestCase


class TablesTest(FeedTestCase):
    async def tables(self) -> dict[tuple[str, str], dict[str, Any]]:
        listed = (await self.fetch_json("/api/tables"))["tables"]
        for table in listed:
            assert {"schema", "table", "is_watched", "estimated_rows"} <= table.keys()
            assert table["can_change"]
        return {(table["schema"], table["table"]): table for table in listed}

    @gen_test
    async def test_odd_names_are_listed_as_they_are_in_their_order(self):
        names = ["Mixed Case", 'quo"ted', "Ünïcødé ☃", "it's", "back\\slash", "percent%s"]
        for name in names:
            quoted = name.replace('"', '""').replace("%", "%%")
            self.write(f'CREATE SCHEMA "{quoted}"; CREATE TABLE "{quoted}"."{quoted}" ()', [])
        listed = await self.tables()
        assert set(listed) == {(name, name) for name in names}
        assert list(listed) == sorted(listed)

    @gen_test
    async def test_a_partitioned_table_includes_its_partitions(self):
        self.write("CREATE TABLE parted (id int) PARTITION BY RANGE (id)")
        self.write("CREATE TABLE part_1 PARTITION OF parted FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id)")
        self.write("CREATE TABLE part_1_1 PARTITION OF part_1 FOR VALUES FROM (0) TO (5)")
        assert set(await self.tables()) == {("public", "parted")}

    @gen_test
    async def test_only_tables_that_keep_rows_of_the_users_are_listed(self):
        self.write(ORDERS)
        self.write("CREATE VIEW some_view AS SELECT 1")
        self.write("CREATE MATERIALIZED VIEW some_view_kept AS SELECT 1")
        self.write("CREATE SEQUENCE some_sequence")
        self.write("CREATE UNLOGGED TABLE unlogged ()")
        holder = postgres.connect(self.conninfo)
        self.addCleanup(holder.close)
        holder.cursor().execute("CREATE TEMPORARY TABLE passing ()")
        assert set(await self.tables()) == {("public", "orders"), ("public", "unlogged")}

    @gen_test
    async def test_the_number_of_rows_is_what_the_last_analyze_found(self):
        self.write(ORDERS)
        assert (await self.tables())["public", "orders"]["estimated_rows"] is None
        self.write("INSERT INTO orders SELECT generate_series(1, 1234)")
        self.write("ANALYZE orders")
        assert (await self.tables())["public", "orders"]["estimated_rows"] == 1234

    @gen_test(timeout=30)
    async def test_a_long_trigger_function_is_read_once_in_part(self):
        self.write("""DO $do$ BEGIN
            EXECUTE format('CREATE FUNCTION long() RETURNS trigger LANGUAGE plpgsql AS %L',
                'BEGIN NOTIFY x; RETURN NULL; END -- pg_notify' || repeat('pg_notif ', 2000000));
            FOR i IN 1..40 LOOP
                EXECUTE format('CREATE TABLE long_%s ()', i);
                EXECUTE format('CREATE TRIGGER long AFTER INSERT ON long_%s EXECUTE FUNCTION long()', i);
            END LOOP;
        END $do$""")
        listed = await self.tables()
        assert {table["is_watched"] for table in listed.values()} == {True}

    @gen_test
    async def test_a_table_is_watched_while_the_originals_trigger_is_on_it(self):
        async def is_watched() -> bool:
            return (await self.tables())["public", "orders"]["is_watched"]

        self.write(ORDERS)
        self.write("CREATE TABLE other (id int REFERENCES orders)")  # with triggers, but not ours
        assert not await is_watched()
        self.watch_with_notify()
        assert await is_watched()
        assert not (await self.tables())["public", "other"]["is_watched"]
        self.write("ALTER TABLE orders DISABLE TRIGGER notify_event")
        assert not await is_watched()
        self.write("ALTER TABLE orders ENABLE TRIGGER notify_event")
        assert await is_watched()
        self.write("DROP TRIGGER notify_event ON orders")
        assert not await is_watched()


class OtherRoleTest(FeedTestCase):
    def server_conninfo(self) -> str:
        self.role = parse_dsn(self.conninfo)["dbname"]
        self.write(f"CREATE ROLE {self.role} LOGIN")
        return str(make_dsn(self.conninfo, user=self.role))

    def tearDown(self) -> None:
        super().tearDown()
        self.write(f"DROP OWNED BY {self.role}; DROP ROLE {self.role}")

    @gen_test
    async def test_a_table_that_the_role_may_not_read_is_not_listed(self):
        self.write("CREATE TABLE mine (); CREATE TABLE secret (); CREATE SCHEMA closed CREATE TABLE closed.shut ()")
        self.write(f"GRANT SELECT ON mine, closed.shut TO {self.role}")
        listed = (await self.fetch_json("/api/tables"))["tables"]
        assert [(table["schema"], table["table"]) for table in listed] == [("public", "mine")]
