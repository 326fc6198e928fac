"""In databases of other encodings, a name or text that UTF-8 lacks affects only itself."""

import json
import os
import re
from itertools import count
from typing import ClassVar

import psycopg2
import pytest
from psycopg2.extensions import make_dsn
from tornado.testing import ExpectLog, gen_test

from changefeed.journal.installation import CannotWatch
from changefeed.journal.watching import NoSuchTable
from changefeed.postgres.legible import rows_of, showing
from changefeed.postgres.named_queries import read_script
from tests import postgres
from tests.feed_case import message
from tests.process.test_doctor import findings
from tests.server.test_gaps import told
from tests.server.test_journal_feed import JournalTestCase

NUMBERS = count()
HOSTILE = {"SQL_ASCII": r"odd\351", "WIN1252": r"odd\201"}


def new_database(encoding: str) -> str:
    """Its conninfo, in UTF-8 as the server connects."""
    name = f"illegible_{os.getpid()}_{next(NUMBERS)}"
    provider = "LOCALE_PROVIDER libc " if postgres.major_version() >= 15 else ""
    postgres.execute(
        postgres.cluster().conninfo,
        f"CREATE DATABASE {name} ENCODING '{encoding}' {provider}LOCALE 'C' TEMPLATE template0",
    )
    return str(make_dsn(postgres.cluster().conninfo, dbname=name, client_encoding="UTF8"))


def run(conninfo: str, statement: str, name: str, client_encoding: str = "SQL_ASCII") -> None:
    """The statement with the name of these bytes for %I."""
    with (
        postgres.connect(str(make_dsn(conninfo, client_encoding=client_encoding))) as opened,
        opened.cursor() as db_cursor,
    ):
        db_cursor.execute(f"DO $do$ BEGIN EXECUTE replace($x${statement}$x$, '%I', quote_ident(E'{name}')); END $do$")


class IllegibleNamesTest(JournalTestCase):
    encoding: ClassVar[str] = "SQL_ASCII"
    shown: ClassVar[str] = r"odd\xe9"
    flags = ("--watch", "public.*")

    def new_database(self) -> str:
        return new_database(self.encoding)

    def odd(self, statement: str) -> None:
        run(self.conninfo, statement, HOSTILE[self.encoding])

    @gen_test
    async def test_a_table_that_is_there_stops_nothing(self):
        self.write("CREATE TABLE more (id int); CREATE TABLE café (id int); CREATE TABLE columns (id int)")
        self.odd("CREATE TABLE %I (id int)")
        self.odd("CREATE SCHEMA %I CREATE TABLE t (id int)")
        self.odd("ALTER TABLE columns ADD %I int")
        self.odd("CREATE FUNCTION %I() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_notify(''a'', ''''); END'")
        self.odd("CREATE TRIGGER %I AFTER INSERT ON %I FOR EACH ROW EXECUTE FUNCTION %I()")
        with ExpectLog("changefeed.watching", "not watched: .*", level=30):
            await self.feed.watching.start()
        assert self.write("SELECT table_name FROM changefeed.status()") == [("café",), ("more",), ("orders",)]
        assert set(self.feed.watching.refused) == {f"public.{self.shown}", "public.columns"}
        assert "has no text in UTF-8" in self.feed.watching.refused["public.columns"]
        assert len(await self.feed.watching.not_watched()) == 2
        await self.feed.lookout.look()
        self.odd("ALTER TABLE %I ADD more int")
        await self.feed.lookout.look()
        tables = (await self.fetch_json("/api/tables"))["tables"]
        assert {(one["schema"], one["table"]) for one in tables} == {
            ("public", name) for name in ("café", "columns", "more", "orders", self.shown)
        } | {(self.shown, "t")}
        await self.fetch_json("/api/changes?table=public.orders&filter=id=gt.0")
        await self.fetch_json("/api/status")
        with pytest.raises(CannotWatch, match="has no text in UTF-8"):
            await self.feed.watching.watch(f"public.{self.shown}")
        with pytest.raises(NoSuchTable):
            await self.feed.watching.watch("public.nothing")

    @gen_test
    async def test_a_table_renamed_to_an_illegible_name_becomes_gaps(self):
        self.write("CREATE TABLE more (id int)")
        await self.feed.watching.start()
        await self.feed.lookout.look()
        socket = await self.connect(protocol=True)
        cursor = (await message(socket, "hello"))["cursor"]
        self.odd("ALTER TABLE more RENAME TO %I")
        with (
            ExpectLog("changefeed.journal", "could not read the entry .* the name of its table has no text", level=30),
            ExpectLog("changefeed.follower", "changes are missing", level=30),
        ):
            self.odd("INSERT INTO %I VALUES (7)")
            self.write("INSERT INTO orders VALUES (1)")
            gap, row = await told(socket, 1)
            assert (gap["table"], row) == (f"public.{self.shown}", 1)
        assert len(await told(await self.connect(f"/ws?since={cursor}", protocol=True), 1)) == 2
        page = await self.fetch_json(f"/api/changes?since={cursor}")
        assert [change["data"]["id"] for change in page["changes"]] == [1]
        assert page["gap"]["table"] == f"public.{self.shown}"
        with (
            ExpectLog("changefeed.watching", "not watched: .* has no text in UTF-8", level=30),
            # That it has another name is an entry of the journal, too.
            ExpectLog("changefeed.journal", "could not read the entry .* the name of its table has no text", level=30),
        ):
            await self.feed.lookout.look()
            await self.feed.watching._maintain_once()
            told_of = {(await message(socket, "gap"))["table"] for _ in range(2)}
            assert told_of == {"public.more", f"public.{self.shown}"}
        await self.fetch_json("/api/status")
        await self.fetch_json("/api/activity")
        await self.fetch_json("/api/tables")

    @gen_test
    async def test_rows_of_a_table_with_an_illegible_column_are_refused_for_good(self):
        self.odd("ALTER TABLE orders ADD %I int")
        for query in ("table=public.orders", "table=public.orders&columns=id"):
            answer = await self.http_client.fetch(self.get_url(f"/api/rows?{query}"), raise_error=False)
            error = json.loads(answer.body)["error"]
            assert (answer.code, error["code"]) == (409, "unreadable_row")
            assert "rename the column" in error["message"]

    @gen_test
    async def test_each_entry_is_logged_once_with_its_own_reason(self):
        self.write("CREATE TABLE more (id int, note text); SELECT changefeed.watch('more')")
        cursor = (await message(await self.connect(protocol=True), "hello"))["cursor"]
        with (
            self.assertLogs("changefeed.journal", "WARNING") as logged,
            ExpectLog("changefeed.follower", "changes are missing", level=30),
        ):
            self.write(f"INSERT INTO more VALUES (1, E'{HOSTILE[self.encoding]}')")
            self.odd("ALTER TABLE more RENAME TO %I")
            self.odd("INSERT INTO %I VALUES (1, NULL)")
            self.write("INSERT INTO orders VALUES (1)")
            for _ in range(2):
                await told(await self.connect(f"/ws?since={cursor}", protocol=True), 1)
                await self.fetch_json(f"/api/changes?since={cursor}")
        reasons = [re.sub(r".*could not read the entry [^:]*: (.*); clients.*", r"\1", line) for line in logged.output]
        assert reasons == ["it has bytes that are not text in UTF-8", "the name of its table has no text in UTF-8"]


class UntranslatableNamesTest(IllegibleNamesTest):
    encoding, shown = "WIN1252", r"odd\x81"


@pytest.mark.parametrize("encoding", HOSTILE)
def test_doctor_shows_what_it_finds(encoding: str):
    conninfo = new_database(encoding)
    postgres.execute(conninfo, read_script("install.sql"))
    postgres.execute(conninfo, "CREATE TABLE t (id int, note int); SELECT changefeed.watch('t', omit => '{note}')")
    shown = HOSTILE[encoding].replace(r"\351", r"\xe9").replace(r"\201", r"\x81")
    run(conninfo, "ALTER TABLE t RENAME TO %I", HOSTILE[encoding])
    run(conninfo, "ALTER TABLE %I RENAME note TO gone", HOSTILE[encoding])
    run(conninfo, "ALTER TABLE %I ENABLE ROW LEVEL SECURITY", HOSTILE[encoding])
    run(conninfo, 'ALTER TABLE %I DISABLE TRIGGER "~changefeed_update"', HOSTILE[encoding])
    run(conninfo, "CREATE PUBLICATION %I FOR TABLES IN SCHEMA changefeed", HOSTILE[encoding])
    said = [str(finding) for finding in findings(conninfo, "--watch", "public.*")]
    for about in (
        "omits or hashes: no change is recorded",
        "is disabled",
        "has row-level security",
        "publishes the journal",
    ):
        assert any(shown in line and about in line for line in said), (about, said)


def test_doctor_bears_a_role_that_was_named_in_another_encoding():
    name = f"r\\351{next(NUMBERS)}"
    run(new_database("SQL_ASCII"), "CREATE ROLE %I", name)
    conninfo = new_database("UTF8")
    postgres.execute(conninfo, read_script("install.sql"))
    with postgres.connect(conninfo) as opened, opened.cursor() as db_cursor:
        db_cursor.execute("SELECT oid FROM pg_roles WHERE rolname LIKE 'r%' AND octet_length(rolname) < 5")
        [(role,)] = db_cursor.fetchall()
        db_cursor.execute(
            f"DO $$ BEGIN EXECUTE format('GRANT INSERT ON changefeed.journal TO %s', {role}::regrole); END $$"
        )
    try:
        with_role = [line for line in map(str, findings(conninfo)) if r"r\xe9" in line]
        assert len(with_role) == 1
    finally:
        with postgres.connect(conninfo) as opened, opened.cursor() as db_cursor:
            db_cursor.execute(
                f"DO $$ BEGIN EXECUTE format('DROP OWNED BY %1$s; DROP ROLE %1$s', {role}::regrole); END $$"
            )


@pytest.mark.parametrize("encoding", HOSTILE)
@pytest.mark.parametrize("part", ["table", "schema", "column"])
def test_watch_refuses_names_that_clients_cannot_be_sent(encoding: str, part: str):
    conninfo = new_database(encoding)
    postgres.execute(conninfo, read_script("install.sql"))
    make = {
        "table": "CREATE TABLE %I (id int)",
        "schema": "CREATE SCHEMA %I CREATE TABLE t (id int)",
        "column": "CREATE TABLE t (%I int)",
    }
    run(conninfo, make[part], HOSTILE[encoding])
    with pytest.raises(psycopg2.errors.InvalidName, match="has no text in UTF-8") as refused:
        postgres.execute(
            conninfo,
            "SELECT changefeed.watch(oid) FROM pg_class WHERE relkind = 'r' AND oid >= 16384 "
            "AND relnamespace NOT IN ('changefeed'::regnamespace, 'changefeed_secret'::regnamespace)",
        )
    assert HOSTILE[encoding] in str(refused.value)
    assert "Rename" in str(refused.value.diag.message_hint)


@pytest.mark.parametrize(
    ("encoding", "name", "client_encoding"),
    [("SQL_ASCII", r"odd\351", "UTF8"), ("WIN1252", r"odd\201", "UTF8"), ("UTF8", r"\320\264", "LATIN1")],
)
def test_a_failed_recording_never_fails_the_write(encoding: str, name: str, client_encoding: str):
    conninfo = new_database(encoding)
    postgres.execute(conninfo, read_script("install.sql"))
    postgres.execute(conninfo, "CREATE TABLE t (id int); SELECT changefeed.watch('t')")
    run(conninfo, "ALTER TABLE t RENAME TO %I", name)
    postgres.execute(conninfo, "ALTER TABLE changefeed.journal RENAME TO hidden")
    for statement in ("INSERT INTO %I VALUES (1)", "UPDATE %I SET id = 2", "DELETE FROM %I", "TRUNCATE %I"):
        run(conninfo, statement, name, client_encoding)


def test_values_of_all_types_are_shown_as_they_are():
    conninfo = new_database("SQL_ASCII")
    query = (
        r"SELECT 1 AS a, 'b' || name AS a, ARRAY[name, 'ö', E'\\xe9'], 1.5::float8, NULL, true, 9007199254740993 "
        r"FROM (VALUES ('ok'), (E'\351{:;%\\')) AS t (name)"
    )
    with postgres.connect(conninfo) as opened, opened.cursor() as db_cursor:
        db_cursor.execute(showing(query))
        [(answer,)] = db_cursor.fetchall()
    rest = (1.5, None, True, 9007199254740993)
    assert rows_of(answer, "SQL_ASCII") == [
        (1, "bok", ["ok", "ö", r"\xe9"], *rest),
        (1, "b\\xe9{:;%\\", ["\\xe9{:;%\\", "ö", r"\xe9"], *rest),
    ]
