"""GET /api/rows: the rows of a table as the feed shows them, and the cursor of exactly these."""

import asyncio
import json
from typing import Any
from unittest import mock
from urllib.parse import quote

import pytest
from psycopg2.extensions import parse_dsn
from tornado.httpclient import HTTPResponse
from tornado.testing import ExpectLog, gen_test

from changefeed.journal import watching
from changefeed.postgres.named_queries import read_script
from changefeed.rows import readings
from tests import postgres
from tests.feed_case import ORDERS, FeedTestCase

# Values whose text depends on a setting, or that a JSON parser would change.
VALUES = """
    CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN price AS numeric CHECK (VALUE >= 0);
    CREATE TYPE pair AS (a int, b text);
    CREATE TABLE samples (
        id int PRIMARY KEY, big bigint, n numeric, f float8, t timestamptz, s timestamp, i interval, b bytea, d date,
        j json, jb jsonb, a int[], e mood, p price, c pair, cs pair[], m money, r int4range, u uuid, bits bit(3)
    );
    INSERT INTO samples VALUES
        (1, 9223372036854775807, 12345678901234567890.1234567890, 0.1, '2026-11-22 07:13:08.5+02', 'infinity', '1 mon 2 days',
         '\\xdead', '0044-03-15 BC', '{"a" :  1,\n"b": [1]}', '{"b": 1}', '{1,NULL}', 'happy', 3.50, '(1,x)',
         '{"(1,y)","(2,)"}', 12.5, '[1,3)', 'b9b1e6c4-0000-0000-0000-000000000000', '101'),
        (2, NULL, 'NaN', 'Infinity', NULL, NULL, NULL, NULL, 'infinity', 'null', 'null', NULL, NULL, NULL, NULL, NULL, NULL,
         NULL, NULL, NULL)
"""


class RowsTestCase(FeedTestCase):
    async def rows(self, query: str, status: int = 200, **options: Any) -> Any:
        return await self.fetch_json(f"/api/rows?{query}", status, **options)

    async def raw(self, query: str, **headers: str) -> HTTPResponse:
        return await self.http_client.fetch(self.get_url(f"/api/rows?{query}"), headers=headers, raise_error=False)

    async def changes_after(self, cursor: str, count: int) -> list[dict[str, Any]]:
        """A page may end before what is committed just now."""
        changes: list[dict[str, Any]] = []
        while len(changes) < count:
            page = await self.fetch_json(f"/api/changes?since={cursor}")
            assert page["gap"] is None
            changes += page["changes"]
            cursor = page["cursor"]
        return changes

    async def refused(self, query: str, status: int, code: str, **options: Any) -> str:
        answer = await self.rows(query, status, **options)
        assert answer["error"]["code"] == code, answer
        return str(answer["error"]["message"])


class NewTableTest(RowsTestCase):
    flags = ("--watch", "public.*")

    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.write("CREATE SCHEMA other; CREATE TABLE other.items (id int)")
        self.watch()

    @gen_test
    async def test_one_that_the_server_will_watch_is_worth_another_try(self):
        self.write("CREATE TABLE items (id int)")
        assert "--watch names it" in await self.refused("table=public.items", 503, "table_altered")
        assert "PUT /api" in await self.refused("table=other.items", 404, "not_watched")
        await self.feed.watching.start()
        assert (await self.rows("table=public.items"))["rows"] == []

    @gen_test
    async def test_a_table_that_is_not_watched_for_long_is_refused(self):
        """As in a process that watches none itself, and so does not learn why one cannot be watched."""
        self.write("CREATE UNLOGGED TABLE items (id int)")
        await self.refused("table=public.items", 503, "table_altered")
        with mock.patch.object(watching, "EXPECTED_SECONDS", 0):
            await self.refused("table=public.items", 404, "not_watched")

    @gen_test
    async def test_a_table_that_cannot_be_watched_is_refused_for_good(self):
        self.write("CREATE UNLOGGED TABLE items (id int)")
        with ExpectLog("changefeed.watching", "not watched: public.items is unlogged"):
            await self.feed.watching.start()
        await self.refused("table=public.items", 404, "not_watched")


class RowsTest(RowsTestCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()
        self.write(
            "INSERT INTO orders SELECT i, CASE i %% 2 WHEN 0 THEN 'open' END, i * 1.10 FROM generate_series(1, 5) AS i",
            [],
        )

    @gen_test
    async def test_a_table_that_was_watched_until_now_is_worth_another_try(self):
        await self.feed.lookout.look()
        self.write("SELECT changefeed.unwatch('orders')")
        await self.away("not_watched")
        self.watch()
        await self.feed.lookout.look()
        with ExpectLog("changefeed.follower", "the journal was removed"):
            self.write(read_script("uninstall.sql"))
            await self.away("no_journal")

    async def away(self, code: str) -> None:
        """The table may soon be back; `code` is what a client gets once it is away for long."""
        await self.rows("table=public.orders", 503)
        await self.feed.lookout.look()
        await self.rows("table=public.orders", 503)
        with mock.patch.object(self.feed.lookout, "was_watched", return_value=False):
            while (answer := await self.raw("table=public.orders")).code == 503:
                pass  # the server does not know yet that the journal is gone
        assert (answer.code, json.loads(answer.body)["error"]["code"]) == (404, code)

    @gen_test
    async def test_rows_and_the_changes_after_them(self):
        answer = await self.rows("table=orders")
        assert [row["id"] for row in answer["rows"]] == [1, 2, 3, 4, 5]
        self.write("DELETE FROM orders WHERE id = 1")
        [change] = await self.changes_after(answer["cursor"], 1)
        assert (change["action"], change["data"]["id"]) == ("DELETE", 1)

    @gen_test
    async def test_a_filter_columns_an_order_and_a_limit(self):
        asked = "table=public.orders&filter=status=eq.open&filter=total=gt.2.2&columns=id,status"
        assert (await self.rows(asked))["rows"] == [{"id": 4, "status": "open"}]
        some = (await self.rows("table=orders&order=status.nullsfirst,id.desc&limit=3&columns=id"))["rows"]
        assert some == [{"id": 5}, {"id": 3}, {"id": 1}]
        assert (await self.rows("table=orders&filter=status=not.is.null&order=id.desc&limit=1"))["rows"] == [
            {"id": 4, "status": "open", "total": 4.4}
        ]
        assert (await self.rows("table=orders&limit=0"))["rows"] == []
        assert (await self.rows("table=orders&filter=id=gt.9"))["rows"] == []

    @gen_test
    async def test_a_line_for_each_row(self):
        response = await self.raw("table=orders&columns=id", Accept="application/x-ndjson")
        assert response.headers["Content-Type"].startswith("application/x-ndjson")
        *rows, last = [json.loads(line) for line in response.body.splitlines()]
        assert rows == [{"id": number} for number in range(1, 6)]
        assert last["is_last"] is True
        assert (await self.fetch_json(f"/api/changes?since={last['cursor']}"))["changes"] == []

    @gen_test
    async def test_mistakes_are_reported(self):
        self.write("CREATE SCHEMA sales; CREATE TABLE sales.orders (id int); CREATE TABLE other (id int, doc json)")
        self.write("SELECT changefeed.watch('other')")
        for query, status, code in (
            ("", 400, "bad_rows"),
            ("table=sales.*", 400, "bad_rows"),
            ("table=orders&table=other", 400, "bad_rows"),
            ("table=nothing", 400, "unknown_table"),
            ("table=orders", 400, "bad_rows"),  # of two schemas
            ("table=sales.orders", 404, "not_watched"),
            ("table=public.orders&filter=nothing=eq.1", 400, "unknown_column"),
            ("table=public.orders&columns=nothing", 400, "unknown_column"),
            ("table=public.orders&order=nothing", 400, "bad_order"),
            ("table=public.orders&order=id.up", 400, "bad_order"),
            ("table=other&order=doc", 400, "bad_order"),
            ("table=public.orders&limit=-1", 400, "bad_limit"),
            ("table=public.orders&action=INSERT", 400, "unknown_field"),
            ("table=public.orders&since=x", 400, "unknown_field"),
            ("table=public.orders&verbose=1", 400, "unknown_field"),
        ):
            await self.refused(query, status, code)
        why = await self.refused("table=public.orders&order=nothing", 400, "bad_order")
        assert why == "'nothing' is no column to sort by; write one of id, status, total"
        # Each was refused by the database or before it; the connections are good as before.
        assert len((await self.rows("table=public.orders"))["rows"]) == 5


class ValuesTest(RowsTestCase):
    def prepare_database(self) -> None:
        self.write(f"{VALUES}; CREATE TABLE wanted AS TABLE samples; TRUNCATE samples")
        self.watch("public.samples")
        # The settings that the server's role has of its own must not matter.
        self.write("ALTER ROLE CURRENT_USER SET lc_monetary = 'C'; INSERT INTO samples TABLE wanted")
        self.write(f"ALTER DATABASE {parse_dsn(self.conninfo)['dbname']} SET timezone = 'Asia/Tokyo'")

    @gen_test
    async def test_values_are_those_of_changes_byte_for_byte(self):
        rows = (await self.raw("table=samples&order=id")).body.decode()
        changes = (await self.http_client.fetch(self.get_url("/api/changes"))).body.decode()
        texts = [part.split(', "schema"')[0] for part in changes.split('"data": ')[1:]]
        assert len(texts) == 2
        assert f'{{"rows":[{",".join(texts)}],"cursor"' in rows


@pytest.mark.skipif(postgres.major_version() < 18, reason="PostgreSQL 18 has virtual generated columns")
class VirtualColumnsTest(RowsTestCase):
    def prepare_database(self) -> None:
        self.write(
            "CREATE TABLE sums (a int, b int GENERATED ALWAYS AS (a * 2) VIRTUAL, c int GENERATED ALWAYS AS (a * 3) STORED)"
        )
        self.watch("public.sums")
        self.write("INSERT INTO sums VALUES (1)")

    @gen_test
    async def test_they_are_computed_as_in_changes(self):
        assert (await self.rows("table=sums"))["rows"] == [{"a": 1, "b": 2, "c": 3}]
        assert [change["data"] for change in (await self.fetch_json("/api/changes"))["changes"]] == [
            {"a": 1, "b": 2, "c": 3}
        ]


class OddNamesTest(RowsTestCase):
    def prepare_database(self) -> None:
        self.write('CREATE TABLE "Odd %s.t" ("a%b""c" int, "%s" text, "h%" text, "\\" int[])')
        self.watch('public."Odd %s.t"', ", hash => '{h%}'")
        self.write("""INSERT INTO "Odd %s.t" VALUES (1, 'x%y', 's', '{1,2}')""")

    @gen_test
    async def test_names_with_percent_signs_and_quotes(self):
        table = "table=" + quote('public."Odd %s.t"')
        [row] = (await self.rows(table))["rows"]
        [change] = (await self.fetch_json("/api/changes"))["changes"]
        assert row == change["data"]
        filters = "&filter=" + quote('"%s"=like.x%y') + "&filter=" + quote(f"h%=eq.{row['h%']}")
        asked = table + filters + "&order=" + quote('"a%b""c".desc,%s') + "&columns=" + quote('"a%b""c"')
        assert (await self.rows(asked))["rows"] == [{'a%b"c': 1}]


class TreesTest(RowsTestCase):
    def prepare_database(self) -> None:
        self.write("CREATE TABLE parts (k int, note text) PARTITION BY LIST (k); CREATE TABLE parent (id int)")
        self.write("CREATE TABLE rest (note text, k int); ALTER TABLE parts ATTACH PARTITION rest DEFAULT")
        self.write(
            "CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1); CREATE TABLE child (x int) INHERITS (parent)"
        )
        for table in ("parts", "parent", "child"):
            self.watch(table)
        self.write(
            "INSERT INTO parts VALUES (1, 'a'), (2, 'b'); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 3)"
        )

    @gen_test
    async def test_partitions_are_of_their_root_and_children_their_own(self):
        page = await self.fetch_json("/api/changes")
        for table, rows in {"parts": 2, "parent": 1, "child": 1}.items():
            changes = [change["data"] for change in page["changes"] if change["table"] == table]
            found = (await self.rows(f"table={table}"))["rows"]
            assert len(found) == rows
            assert sorted(found, key=str) == sorted(changes, key=str)
        why = await self.refused("table=part_1", 400, "unknown_table")
        assert why == "public.part_1 is a partition: ask for the table that it is a part of"

    @gen_test
    async def test_rows_in_another_database_are_not_read(self):
        self.write("CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w")
        self.write("CREATE FOREIGN TABLE part_8 PARTITION OF parts FOR VALUES IN (8) SERVER s")
        assert "foreign partitions" in await self.refused("table=parts", 403, "cannot_read")


class LimitsTest(RowsTestCase):
    flags = (
        *("--rows-limit", "30", "--rows-limit-bytes", str(1 << 20), "--row-limit-bytes", str(1 << 18)),
        *("--rows-seconds", "1", "--rows-readings", "1"),
    )

    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()
        self.write("INSERT INTO orders SELECT i, repeat('x', 50000) FROM generate_series(1, 30) AS i")

    @gen_test
    async def test_too_much_is_refused(self):
        await self.refused("table=orders", 400, "too_many_bytes")
        assert len((await self.rows("table=orders&columns=id"))["rows"]) == 30
        self.write("INSERT INTO orders VALUES (31)")
        await self.refused("table=orders&columns=id", 400, "too_many_rows")
        assert len((await self.rows("table=orders&columns=id&limit=30"))["rows"]) == 30
        assert len((await self.rows("table=orders&columns=id&filter=id=gt.3"))["rows"]) == 28
        error = json.loads((await self.raw("table=orders&columns=id", Accept="application/x-ndjson")).body)
        assert error["error"]["code"] == "too_many_rows"
        # What was read before the limit was met may have been sent.
        lines = (await self.raw("table=orders", Accept="application/x-ndjson")).body.splitlines()
        assert json.loads(lines[-1])["error"]["code"] == "too_many_bytes"

    @gen_test
    async def test_a_too_large_row_is_reported(self):
        self.write("SET session_replication_role = replica; INSERT INTO orders VALUES (0, repeat('x', 300000))")
        await self.refused("table=orders&limit=1&order=id", 409, "unreadable_row")
        assert (await self.rows("table=orders&limit=1&order=id&columns=id"))["rows"] == [{"id": 0}]

    @gen_test
    async def test_a_locked_table_is_reported_and_others_are_read(self):
        writer = postgres.connect(self.conninfo)
        with writer.cursor() as db_cursor:
            db_cursor.execute("BEGIN; LOCK TABLE orders")
            waiting = [self.refused("table=orders", 503, "rows_busy") for _ in range(2)]
            for refused in waiting:
                await refused
        writer.close()
        assert len((await self.rows("table=orders&columns=id"))["rows"]) == 30
        metrics = (await self.raw("")).body and (await self.http_client.fetch(self.get_url("/metrics"))).body.decode()
        assert 'changefeed_rows_readings_total{ended="rows_busy"} 2.0' in metrics
        assert "changefeed_rows_waiting 0.0" in metrics

    @gen_test
    async def test_nothing_of_a_reading_is_left(self):
        with mock.patch.object(readings, "KEEP_SECONDS", 0):
            for query in ("table=orders", "table=orders&columns=id"):
                await self.raw(query)
            for running in tuple(self.feed.readings._running.values()):
                await asyncio.wait({running})
            await asyncio.sleep(0)
        assert self.feed.readings._shared.space_quota.used == 0
        assert self.write("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'") == [(0,)]
