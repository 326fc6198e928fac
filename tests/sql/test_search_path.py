"""Our SQL resolves names to our own objects only, in statements, functions and triggers (CVE-2018-1058)."""

import re
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn
from tornado.testing import gen_test

from changefeed.postgres.named_queries import SQL_DIR, load_queries, read_script
from commands import doctor
from commands.examined import ExaminedDatabase, Level
from tests import postgres
from tests.feed_case import ORDERS, FeedTestCase
from tests.journal_database import JournalDatabase, Session

FIXED = "search_path=pg_catalog, pg_temp"
SENT = ("server.sql", "ordering.sql", "lookout.sql", "doctor.sql", "demo.sql")
# With the rights of the schema's owner.
OWNERS = {
    "rows_source",
    "hash_of_row",
    "cursor",
    "grant_request",
    "look",
    "note_retyped",
    "note_rotation",
    "note_taken",
}
OWNERS |= {"retyped_after", "what_was_taken"}
OWNERS |= {"record", "record_strict", "record_truncated", "refresh", "refresh_after_ddl"}

# What a role that may create in public can put there: each fits a call of ours better than pg_catalog's own does.
HOSTILE_FUNCTIONS = (
    "concat_ws(text, uuid, bigint, integer, oid)",
    "concat_ws(text, text, text)",
    "to_json(timestamp)",
    "to_json(timestamptz)",
    "quote_ident(name)",
    "format(text, integer)",
    "format(text, text)",
    "format(text, name)",
    "format(text, name, name)",
    "format(text, regclass)",
    "array_agg(text)",
    "jsonb_build_object(text, text[])",
    "current_setting(name)",
    "md5(name)",
    "pg_notify(name, text)",
    "to_regnamespace(name)",
    "set_config(text, name, boolean)",
    "greatest(bigint, bigint)",
    "floor(integer)",
    "watch(oid)",
)
HOSTILE_OPERATORS = (
    ("||", "name", "text"),
    ("||", "text", "name"),
    ("||", "name", "name"),
    ("=", "name", "text"),
    ("=", "name", "name[]"),
    ("=", "text", "name"),
    ("<>", "name", "text"),
    ("~~", "name", "text"),
    ("<>", '"char"', "text"),
    ("=", "oid", "regnamespace"),
    ("=", "oid", "regclass"),
    ("=", "regclass", "oid"),
    (">=", "xid8", "bigint"),
    ("+", "bigint", "integer[]"),
)


def test_every_function_has_a_fixed_search_path(db: JournalDatabase):
    functions = db.run(
        "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'changefeed'::regnamespace AND prokind = 'f'"
    )
    assert [name for name, settings in functions if FIXED not in (settings or ())] == []


def test_public_may_execute_no_function(db: JournalDatabase):
    # Also where default privileges give everything away. Triggers fire all the same: that takes no right of a writer's.
    db.run("CREATE SCHEMA s; ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC")
    db.run(read_script("uninstall.sql"))
    db.run(read_script("install.sql"))
    granted = db.run(
        "SELECT p.oid::regprocedure::text, a.grantee FROM pg_proc AS p, "
        "aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a "
        "WHERE p.pronamespace IN ('changefeed'::regnamespace, 'changefeed_secret'::regnamespace) AND a.grantee <> p.proowner"
    )
    assert granted == []
    assert (
        db.run("SELECT FROM pg_namespace AS n, aclexplode(nspacl) AS a WHERE nspname ~ '^changefeed' AND a.grantee = 0")
        == []
    )


def test_only_these_run_with_the_owner_s_rights(db: JournalDatabase):
    definers = db.run("SELECT proname FROM pg_proc WHERE pronamespace = 'changefeed'::regnamespace AND prosecdef")
    assert {name for (name,) in definers} == OWNERS


def test_only_the_owner_has_rights_to_relations(db: JournalDatabase):
    granted = db.run(
        "SELECT DISTINCT c.relname FROM pg_class AS c, aclexplode(c.relacl) AS a "
        "WHERE c.relnamespace IN ('changefeed'::regnamespace, 'changefeed_secret'::regnamespace) AND a.grantee <> c.relowner"
    )
    assert granted == [("lastval",)]  # which says a writer's own number; see sql/journal.sql


def test_every_trigger_calls_a_function_of_the_schema_s_owner(db: JournalDatabase):
    db.run("CREATE TABLE orders (id int); CREATE TABLE parts (k int) PARTITION BY LIST (k)")
    db.run("CREATE TABLE part PARTITION OF parts DEFAULT; SELECT changefeed.watch('orders'), changefeed.watch('parts')")
    owners = db.run(
        "SELECT DISTINCT p.pronamespace::regnamespace::text, p.proowner::regrole::text FROM ("
        "SELECT tgfoid AS function FROM pg_trigger WHERE NOT tgisinternal UNION ALL SELECT evtfoid FROM pg_event_trigger"
        ") AS t JOIN pg_proc AS p ON p.oid = t.function"
    )
    assert owners == [("changefeed", "postgres")]


@pytest.mark.parametrize("file_name", SENT)
def test_every_name_in_the_servers_sql_is_qualified(db: JournalDatabase, file_name: str):
    relations = {
        name for (name,) in db.run("SELECT relname FROM pg_class WHERE relnamespace = 'changefeed'::regnamespace")
    }
    relations |= set(re.findall(r"public\.(\w+)", (SQL_DIR / "demo.sql").read_text("utf-8")))
    functions = {
        name for (name,) in db.run("SELECT proname FROM pg_proc WHERE pronamespace = 'changefeed'::regnamespace")
    }
    for name, statement in load_queries(file_name).items():
        text = re.sub(r"--.*|'[^']*'", "", statement)
        for word in re.findall(r"\b(?:FROM|JOIN|INTO|UPDATE|TABLE|REFERENCES|TRUNCATE)\s+(\w+)\b(?!\s*[.(])", text):
            assert word not in relations, f"{file_name}, {name}: {word}"
        known = set(
            re.findall(r"(\w+)\s*(?:\([^()]*\))?\s+AS\s+(?:MATERIALIZED\s+)?\(", text)
        )  # WITH name (column, ...) AS (
        for word in re.findall(r"(?<![\w.])(\w+)\s*\(", text):
            assert word not in functions - known, f"{file_name}, {name}: {word}()"


@pytest.mark.parametrize("file_name", ["install.sql", "uninstall.sql"])
def test_a_script_fixes_the_search_path_per_transaction(file_name: str):
    script = re.sub(r"\$(\w*)\$.*?\$\1\$|--.*", "", read_script(file_name), flags=re.DOTALL)
    script = re.sub(r"--.*", "", script)
    statements = [" ".join(statement.split()) for statement in script.split(";") if statement.strip()]
    while statements:
        begin, path = statements[:2]
        assert begin == "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
        assert path == "SET LOCAL search_path = pg_catalog, pg_temp"
        statements = statements[statements.index("COMMIT") + 1 :]


@pytest.mark.parametrize(
    "file", [file for file in SQL_DIR.glob("*.sql") if file.name != "demo.sql"], ids=lambda file: file.name
)
def test_every_encoding_has_the_letters_of_what_is_installed(file: Path):
    assert file.read_text("utf-8").isascii()


def plant(session: Session) -> Any:
    """Hostile functions and operators in public, made by a role with no other right; how often one of them ran."""
    evil = f"evil_{parse_dsn(session.connection.dsn)['dbname']}"
    session.run(f"CREATE ROLE {evil}; GRANT ALL ON SCHEMA public TO {evil}; SET ROLE {evil}")
    session.run("CREATE SEQUENCE public.ran; GRANT ALL ON SEQUENCE public.ran TO PUBLIC")
    body = "LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_catalog.nextval('public.ran'); RETURN NULL; END $$"
    planted = 0
    for function in HOSTILE_FUNCTIONS:
        try:
            session.run(f"CREATE FUNCTION public.{function} RETURNS text {body}")
            planted += 1
        except (
            psycopg2.errors.SyntaxError,
            psycopg2.errors.InvalidFunctionDefinition,
            psycopg2.errors.UndefinedObject,
        ):
            pass  # no such one can be made
    for number, (operator, left, right) in enumerate(HOSTILE_OPERATORS):
        result = "text" if operator in ("||", "+") else "boolean"
        session.run(f"CREATE FUNCTION public.h{number}({left}, {right}) RETURNS {result} {body}")
        session.run(
            f"CREATE OPERATOR public.{operator} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = public.h{number})"
        )
    session.run("RESET ROLE")
    assert planted > 10
    return lambda: session.value("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public.ran")


def test_hostile_names_in_public_can_run_at_all():
    session = Session(postgres.new_database())
    ran = plant(session)
    session.run("SELECT format('%%s', 1), 'a'::name || 'b'::text, quote_ident('a'::name)")
    assert ran() == 3
    session.connection.close()


def test_an_install_and_all_that_sql_is_for_runs_nothing_of_theirs():
    session = Session(postgres.new_database())
    ran = plant(session)
    session.run("CREATE TABLE orders (id int, phone text); CREATE TABLE p (k int) PARTITION BY LIST (k)")
    for _ in range(2):
        session.run(read_script("install.sql"))
        session.run("SELECT changefeed.watch('orders'::regclass, hash => '{phone}'), changefeed.watch('p')")
        session.run("CREATE TABLE IF NOT EXISTS p1 PARTITION OF p FOR VALUES IN (1)")
        session.run(
            "INSERT INTO orders VALUES (1, '110'); UPDATE orders SET id = 2; DELETE FROM orders; TRUNCATE p1, orders"
        )
        session.run("SELECT changefeed.refresh(), changefeed.retain('0 s', 0)")
        session.run("SELECT * FROM changefeed.status(), changefeed.journal_status()")
        session.run("SELECT changefeed.unwatch('p')")
    session.run(read_script("uninstall.sql"))
    assert ran() == 0
    session.connection.close()


class HostileTest(FeedTestCase):
    flags = ("--client-limit", "100", "--watch", "public.orders")

    def prepare_database(self) -> None:
        self.session = Session(self.conninfo)
        self.addCleanup(self.session.connection.close)
        self.ran = plant(self.session)
        self.write(ORDERS)

    @gen_test
    async def test_the_server_and_the_doctor_run_nothing_of_theirs(self):
        await self.feed.watching.start()
        await self.feed.watching._maintain_once()
        await self.feed.journal.identify()
        socket = await self.connect("/ws?filter=id=gte.1")
        self.write("INSERT INTO orders VALUES (1, 'new'); UPDATE orders SET total = 1")
        await socket.read_message()
        for path in (
            "/api/status",
            "/api/tables",
            "/api/activity",
            "/api/changes",
            "/api/changes?table=orders",
        ):
            await self.http_client.fetch(self.get_url(path), raise_error=False)
        await self.fetch_json("/api/changes?table=nosuch", 400)
        await self.http_client.fetch(self.get_url("/metrics"))
        await self.fetch_json("/api/tables/public.orders/watch", method="DELETE")
        examined = ExaminedDatabase(str(make_dsn(self.conninfo)), self.feed.settings)
        findings = list(doctor.examine(examined))
        examined.connection.close()
        assert "could not be examined" not in " ".join(map(str, findings))
        assert Level.OK in [finding.level for finding in findings]
        assert self.ran() == 0
