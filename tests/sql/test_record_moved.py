"""A MERGE that moves rows to other partitions is a loss; an UPDATE that does so is not."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from changefeed.postgres import embedded
from changefeed.postgres.embedded import EmbeddedPostgres
from changefeed.postgres.named_queries import read_script
from tests import leftovers, postgres
from tests.journal_database import JournalDatabase, Session

MATCHED = "USING (VALUES (1)) AS s (id) ON m.id = s.id WHEN MATCHED THEN UPDATE SET k = 3 - k"
MERGE = f"MERGE INTO moved AS m {MATCHED}"
UPDATE = "UPDATE moved SET k = 3 - k"
NESTED = "/* /* */ ' */"  # to whom comments do not nest, a literal begins here


@pytest.fixture
def db(db: JournalDatabase) -> JournalDatabase:
    if db.version < 15:
        pytest.skip("PostgreSQL 15 brought MERGE")
    make(db, "moved")
    db.run("CREATE TABLE other (id int, note text)")
    return db


def make(db: Session, table: str) -> None:
    db.run(f"CREATE TABLE {table} (id int, k int, note text) PARTITION BY LIST (k)")
    for k in (1, 2):
        db.run(f"CREATE TABLE part_{k}_{abs(hash(table))} PARTITION OF {table} FOR VALUES IN ({k})")
    db.run(f"SELECT changefeed.watch('public.{table}'); INSERT INTO {table} VALUES (1, 1)")


def where(db: JournalDatabase, table: str = "moved") -> int:
    return int(db.value(f"SELECT k FROM {table}"))


@pytest.mark.parametrize(
    ("table", "written"),
    [
        ('"Übung"', '"Übung"'),
        ('"Übung"', 'public . "Übung"'),
        ('"Übung"', 'U&"\\00dcbung"'),
        ("übung", "übung"),
        ('"Merge Into"', '"Merge Into"'),
        ("items", "ITEMS"),
        ("items", "Public.ITEMS"),
        ("items", "items*"),
        ("items", 'items"as"'),
        ("i" * 63, "I" * 70),
    ],
)
def test_a_merge_is_known_however_its_table_is_named(db: JournalDatabase, table: str, written: str):
    make(db, table)
    alias = "" if "as" in written else "AS m"
    db.run(f"MERGE INTO {written} {alias} {MATCHED}".replace("m.id", '"as".id' if not alias else "m.id"))
    assert (where(db, table), db.losses) == (2, 1)


MERGES = [
    f"merge--\n/* */into\t/**/\nmoved AS m {MATCHED}",
    f"SELECT 'it''s';{MERGE}",
    f"SELECT E'it\\'s', 'x';{MERGE}, note = 'x'",
    f"SELECT $a$ ' $b$ $a$; {MERGE}, note = $b$x$b$",
    f"SELECT $$ $a$ $$; {MERGE}, note = $a$x$a$",
    f"SELECT 1 AS a$$; {MERGE}; SELECT 1 AS b$$",
    f"SELECT 1 AS ü$$; {MERGE}; SELECT 1 AS ü$$",
    f"SELECT $ü$ $$ $ü$; {MERGE}; SELECT $$x$$",
    f"SELECT 1 {NESTED}; {MERGE}, note = 'x'",
    f"{NESTED} {MERGE}, note = 'x'",
    f"""SELECT 1 AS "'", 2 AS "--", 3 AS "/*", 4 AS "$$"; {MERGE}""",
    f"EXPLAIN (ANALYZE){MERGE}",
    f"DO $$ BEGIN {MERGE}; END $$",
    f"DO $$ BEGIN EXECUTE '{NESTED.replace(chr(39), chr(39) * 2)} {MERGE}, note = ''x'''; END $$",
    "EXECUTE prepared",
    "/* */ execute/**/prepared",
    "DO $$ BEGIN EXECUTE 'EXECUTE prepared'; END $$",
    "DO $$ BEGIN EXECUTE ' EXECUTE prepared'; END $$",
    "DO $$ BEGIN EXECUTE E'\n--\n/* */execute prepared'; END $$",
    "DO $$ BEGIN EXECUTE 'EXPLAIN ANALYZE EXECUTE prepared'; END $$",
    "EXECUTE function",
    "DO $$ BEGIN EXECUTE 'EXECUTE function '; END $$",
    "SELECT in_sql()",
    "DO $$ BEGIN PERFORM in_sql(); END $$",
    'SELECT "update moved"()',
    'SELECT "SQL statement "()',
    "SELECT atomic()",
]


def test_a_merge_is_known_however_it_is_run(db: JournalDatabase):
    db.run(f"PREPARE prepared AS {MERGE}; PREPARE function AS {MERGE}")
    for name in ("in_sql", '"update moved"', '"SQL statement "'):
        db.run(f"CREATE FUNCTION {name}() RETURNS void LANGUAGE sql AS $$ {MERGE} $$")
    db.run(f"CREATE FUNCTION atomic() RETURNS void LANGUAGE sql BEGIN ATOMIC {MERGE}; END")
    for statement in MERGES:
        before = where(db)
        db.forget()
        db.run(statement)
        assert (where(db), db.losses) == (3 - before, 1), statement


RETURNING = [
    f"FOR r IN {MERGE} RETURNING m.* LOOP NULL; END LOOP",
    f"OPEN c FOR {MERGE} RETURNING m.*; FETCH c INTO r",
    f"OPEN c FOR EXECUTE '{MERGE} RETURNING m.*'; FETCH c INTO r",
    f"{MERGE} RETURNING m.k INTO r",
    f"WITH m AS ({MERGE} RETURNING m.k) SELECT k FROM m INTO r",
]


def test_a_merge_that_returns_rows_to_a_function_is_known(db: JournalDatabase):
    if db.version < 17:
        pytest.skip("PostgreSQL 17 brought MERGE ... RETURNING")
    for body in RETURNING:
        before = where(db)
        db.forget()
        db.run(f"DO $$ DECLARE r record; c refcursor; BEGIN {body}; END $$")
        assert (where(db), db.losses) == (3 - before, 1), body


def test_a_merge_is_known_behind_a_literal_of_former_times(db: JournalDatabase):
    db.run("SET standard_conforming_strings = off; SET backslash_quote = on; SET escape_string_warning = off")
    db.run(f"SELECT '\\' --'; {MERGE}, note = 'x'")
    assert (where(db), db.losses) == (2, 1)


def test_a_merge_is_known_where_postgresql_counts_no_rows(db: JournalDatabase):
    db.run(f"SET track_counts = off; {MERGE}")
    assert (where(db), db.losses) == (2, 1)
    db.run(UPDATE)
    assert (where(db), db.losses) == (1, 1)


@pytest.mark.parametrize("way", ["CREATE TABLE new PARTITION OF moved FOR VALUES IN (3)", None])
def test_a_merge_into_a_newer_partition_is_known(db: JournalDatabase, way: str | None):
    old = db.session()
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    if way:
        db.run(way)
    else:
        db.run("CREATE TABLE new (LIKE moved); ALTER TABLE moved ATTACH PARTITION new FOR VALUES IN (3)")
    db.forget()
    old.run(f"{MERGE.replace('3 - k', '3')}; COMMIT")
    assert (where(db), db.losses) == (3, 1)


def test_a_merge_into_a_view_newer_than_its_snapshot_is_known(db: JournalDatabase):
    if db.version < 17:
        pytest.skip("PostgreSQL 17 brought MERGE into views")
    old = db.session()
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    db.run("CREATE VIEW seen AS SELECT * FROM moved")
    old.run(f"MERGE INTO seen AS m {MATCHED}; COMMIT")
    assert (where(db), db.losses) == (2, 1)


def test_parameters_that_the_context_tells_are_no_caller(db: JournalDatabase):
    told = "unnamed portal with parameters: $1 = '1', $2 = 'SQL statement \"'"
    assert db.value("SELECT changefeed.called_statement(%s) = current_query()", told) is True
    assert db.value("SELECT changefeed.called_statement('SQL function \"$1 = \" statement 1')") is None


UPDATES = [
    f"{UPDATE}, note = 'merge into moved'",
    f"{UPDATE}, note = 'it''s merge into moved'",
    f"{UPDATE}, note = $$merge into moved$$",
    f"{UPDATE}, note = $a$merge into moved $$ $a$",
    f"{UPDATE} -- merge into moved",
    f"{UPDATE} /* execute, merge into moved */",
    'UPDATE moved AS "merge into moved" SET k = 3 - k',
    f"{UPDATE}, note = merge()",
    f"{UPDATE}; MERGE INTO other USING moved ON false WHEN NOT MATCHED THEN INSERT VALUES (1)",
    f"{UPDATE}; MERGE INTO public.other USING moved ON false WHEN NOT MATCHED THEN INSERT VALUES (1)",
    f"{UPDATE}; SELECT 1 AS merge",
    f"GRANT EXECUTE ON FUNCTION merge() TO PUBLIC; {UPDATE}",
    f"CREATE TRIGGER t BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger(); {UPDATE}",
    f"DO $$ BEGIN {UPDATE}, note = 'merge'; EXECUTE '{UPDATE}'; END $$",
    f"DO $$ BEGIN EXECUTE '{UPDATE} /* merge */'; EXECUTE ' {UPDATE}'; END $$",
    "SELECT merge_by_update()",
    f"{UPDATE}, note = '{'merge into moved ' * 1000}'",
]


def test_an_update_that_only_speaks_of_a_merge_is_no_loss(db: JournalDatabase):
    db.run("CREATE FUNCTION merge() RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$")
    db.run(f"CREATE FUNCTION merge_by_update() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {UPDATE}; END $$")
    for statement in UPDATES:
        db.run(statement)
        assert db.losses == 0, statement
    db.assert_rebuilds("public.moved")


@pytest.fixture
def german_and_turkish(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedPostgres]:
    """A cluster that can speak German, and compare as Turkish does: I and i are two letters."""
    if not shutil.which("localedef") or not Path("/usr/share/i18n/locales/tr_TR").exists():
        pytest.skip("no locale can be made here")
    with leftovers.folder() as locales:
        for locale in ("de_DE", "tr_TR"):
            made = str(locales / f"{locale}.UTF-8")
            subprocess.run(["localedef", "-i", locale, "-f", "UTF-8", made], check=True, capture_output=True)
        monkeypatch.setenv("LOCPATH", str(locales))
        monkeypatch.setattr(embedded, "_PASSED_ON", (*embedded._PASSED_ON, "LOCPATH"))
        cluster = postgres.start()
        try:
            yield cluster
        finally:
            postgres.discard(cluster)


@pytest.mark.usefixtures("db")
def test_a_merge_is_known_in_any_language(german_and_turkish: EmbeddedPostgres):
    conninfo = german_and_turkish.conninfo
    postgres.execute(conninfo, "CREATE DATABASE t LC_COLLATE 'tr_TR.UTF-8' LC_CTYPE 'tr_TR.UTF-8' TEMPLATE template0")
    conninfo = str(make_dsn(conninfo, dbname="t"))
    postgres.execute(conninfo, read_script("install.sql"))
    session = Session(conninfo)
    with closing(session.connection):
        make(session, "items")
        session.run("SET lc_messages = 'de_DE.UTF-8'")
        with pytest.raises(psycopg2.Error) as refused:
            session.run("SELECT FROM nowhere")
        if "existiert nicht" not in str(refused.value):
            pytest.skip("this PostgreSQL has no translations")
        merge, update = (text.replace("moved", "ITEMS") for text in (MERGE, UPDATE))
        session.run(f"CREATE FUNCTION in_sql() RETURNS void LANGUAGE sql AS $$ {merge} $$; PREPARE prepared AS {merge}")
        for statement, losses in (
            (merge, 1),
            (f"DO $$ BEGIN {merge}; END $$", 1),
            ("SELECT in_sql()", 1),
            ("DO $$ BEGIN PERFORM in_sql(); END $$", 1),
            ("DO $$ BEGIN EXECUTE ' EXECUTE prepared'; END $$", 1),
            (update, 0),
            (f"DO $$ BEGIN {update}; EXECUTE '{update}'; END $$", 0),
        ):
            session.run("TRUNCATE changefeed.journal")
            session.run(statement)
            assert session.value("SELECT count(*) FROM changefeed.journal WHERE action = 'L'") == losses, statement
