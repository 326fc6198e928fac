"""A transaction with a snapshot older than the table's definition: its writes are right or a loss, its DDL undoes nothing."""

import psycopg2
import pytest

from tests import postgres
from tests.journal_database import JournalDatabase, Session

LEVELS = ["REPEATABLE READ", "SERIALIZABLE"]
needs_virtual = pytest.mark.skipif(
    postgres.major_version() < 18, reason="virtual generated columns are of PostgreSQL 18"
)
TWICE = "v int GENERATED ALWAYS AS (id * 2) VIRTUAL"


def begin(db: JournalDatabase, level: str, **parameters: str) -> Session:
    writer = db.session(**parameters)
    writer.run(f"BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class")
    return writer


@needs_virtual
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("options", ["", ", hash => '{v}'"])
@pytest.mark.parametrize(
    ("columns", "change", "row"),
    [
        (TWICE, "ALTER v SET EXPRESSION AS (id * 3)", "(1)"),
        (TWICE, "ALTER v TYPE text", "(1)"),
        (TWICE, f"DROP v, ADD {TWICE}", "(1)"),
        (TWICE, "DROP id CASCADE, ADD id int, ADD v int GENERATED ALWAYS AS (id * 2) VIRTUAL", "(1)"),
        ("v int", f"DROP v, ADD {TWICE}", "(1)"),
        ("v int GENERATED ALWAYS AS (id * 2) STORED", f"DROP v, ADD {TWICE}", "(1)"),
    ],
)
def test_a_column_that_is_computed_in_another_way_is_a_loss(
    db: JournalDatabase, level: str, options: str, columns: str, change: str, row: str
):
    db.run(f"CREATE TABLE t (id int, {columns}); SELECT changefeed.watch('t'{options})")
    writer = begin(db, level)
    db.run(f"ALTER TABLE t {change}")
    db.forget()
    writer.run(f"INSERT INTO t VALUES {row}; UPDATE t SET id = 2; DELETE FROM t; COMMIT")
    assert (db.entries(), db.losses, len(writer.warnings)) == ([], 3, 3)
    db.run(f"SELECT changefeed.watch('t'{options}); INSERT INTO t VALUES {row}")
    assert (len(db.entries()), db.warnings) == (1, [])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("change", "row", "values"),
    [
        ("DROP v, ADD v int", "(1, 77)", [1, 77]),
        ("RENAME v TO w", "(1, 77)", [1, 77]),
        ("DROP id, ADD id text", "(77, 'a')", None),
        ("ALTER v TYPE bigint", "(1, 77)", None),
        ("DROP v", "(1)", None),
        ("ADD w int", "(1, 77, 3)", None),
    ],
)
def test_columns_of_builtin_types_that_changed(
    db: JournalDatabase, level: str, change: str, row: str, values: list[int] | None
):
    """They are recorded where the types are the same; else it is a loss. So also in a session that has written before."""
    db.run("CREATE TABLE t (id int, v int); SELECT changefeed.watch('t')")
    writers = begin(db, level), begin(db, level)
    writers[0].run("ROLLBACK; INSERT INTO t VALUES (1, 1)")
    writers[0].run(f"BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class")
    db.run(f"ALTER TABLE t {change}")
    db.forget()
    for writer in writers:
        writer.run(f"INSERT INTO t VALUES {row}; COMMIT")
    there = [list(row.values()) for _, row in db.changes()]
    assert (there, db.losses) == (([values] * 2, 0) if values else ([], 2))


@needs_virtual
@pytest.mark.parametrize("level", ["READ COMMITTED", *LEVELS])
@pytest.mark.parametrize(
    ("column", "row"),
    [
        ("numeric(5, 2) GENERATED ALWAYS AS (n * 1.005) VIRTUAL", "(3)"),
        ("int GENERATED ALWAYS AS (n * 1.5) VIRTUAL", "(3)"),
        ("text GENERATED ALWAYS AS (n + 1) VIRTUAL", "(3)"),
        ("char(5) GENERATED ALWAYS AS ('a'::text) VIRTUAL", "(3)"),
        ("numeric(5, 1)[] GENERATED ALWAYS AS (ARRAY[n]) VIRTUAL", "(3)"),
    ],
)
def test_a_virtual_column_s_value_is_of_its_own_type(db: JournalDatabase, level: str, column: str, row: str):
    db.run(f"CREATE TABLE t (n numeric, v {column}, h {column}); SELECT changefeed.watch('t', hash => '{{h}}')")
    writer = begin(db, level)
    writer.run(f"INSERT INTO t VALUES {row}; COMMIT")
    [(_, row_there)] = db.changes()
    [(expected, as_hash)] = db.run("SELECT to_json(v), changefeed.hash('t', 'h', concat(h)) FROM t")
    assert (row_there["v"], row_there["h"]) == (expected, as_hash)
    assert (db.losses, writer.warnings) == (0, [])


@pytest.mark.parametrize("level", LEVELS)
def test_a_part_of_a_value_that_has_another_type_is_a_loss(db: JournalDatabase, level: str):
    role = db.new_role("owner")
    db.run(f"CREATE SCHEMA own AUTHORIZATION {role}; SET ROLE {role}; CREATE TYPE own.mood AS ENUM ('ok')")
    db.run("CREATE TYPE own.pair AS (a int, b own.mood); CREATE TABLE own.t (v own.pair); RESET ROLE")
    db.run("SELECT changefeed.watch('own.t')")
    writer = begin(db, level)
    db.run("ALTER TYPE own.pair DROP ATTRIBUTE b, ADD ATTRIBUTE b int")
    writer.run("INSERT INTO own.t VALUES ('(1,5)'); COMMIT")
    assert (db.entries(), db.losses) == ([], 1)
    db.run("INSERT INTO own.t VALUES ('(1,5)')")
    assert db.changes() == [("I", {"v": {"a": 1, "b": 5}})]


@pytest.mark.parametrize("level", LEVELS)
def test_a_partition_takes_a_newer_roots_column_order(db: JournalDatabase, level: str):
    db.run("CREATE TABLE part (a int, b int); SELECT changefeed.watch('part')")
    writer = begin(db, level)
    db.run("CREATE TABLE root (b int, a int) PARTITION BY LIST (a); SELECT changefeed.watch('root')")
    db.run("ALTER TABLE root ATTACH PARTITION part DEFAULT")
    db.forget()
    writer.run("INSERT INTO part VALUES (1, 2); COMMIT")
    assert [(entry.table, entry.data) for entry in db.entries()] == [("public.root", '{"b":2,"a":1}')]


BASE_TYPE = """
    CREATE SCHEMA evil; GRANT CREATE, USAGE ON SCHEMA evil TO {mallory}; CREATE TYPE evil.word;
    CREATE FUNCTION evil.read(cstring) RETURNS evil.word STRICT IMMUTABLE LANGUAGE internal AS 'textin';
    CREATE FUNCTION evil.write(evil.word) RETURNS cstring STRICT IMMUTABLE LANGUAGE internal AS 'textout';
    CREATE TYPE evil.word (INPUT = evil.read, OUTPUT = evil.write, LIKE = text);
    CREATE FUNCTION evil.j(evil.word) RETURNS json LANGUAGE sql AS $$SELECT '{{"a": 1}}'::json$$;
    CREATE FUNCTION evil.seize(evil.word) RETURNS json LANGUAGE plpgsql AS $$ BEGIN
        IF (SELECT usesuper FROM pg_user WHERE usename = current_user) THEN ALTER ROLE {mallory} SUPERUSER; END IF;
        RETURN '1'; END $$;
    CREATE TYPE evil.pair AS (w evil.word); ALTER TYPE evil.pair OWNER TO {mallory};
    CREATE TABLE evil.t (v evil.word, p evil.pair); SELECT changefeed.watch('evil.t')"""


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("has_cast", [False, True], ids=["a cast comes", "the cast is replaced"])
def test_a_base_types_new_owner_runs_no_code(db: JournalDatabase, level: str, has_cast: bool):
    mallory = db.new_role("mallory")
    db.run(BASE_TYPE.format(mallory=mallory))
    if has_cast:
        db.run("CREATE CAST (evil.word AS json) WITH FUNCTION evil.j(evil.word)")
    writer = begin(db, level)
    insert = "INSERT INTO evil.t VALUES ('ok', '(ok)')"
    writer.run(insert)
    word = {"a": 1} if has_cast else "ok"
    assert writer.value("SELECT data FROM changefeed.journal") == {"v": word, "p": {"w": word}}
    db.run(f"ALTER TYPE evil.word OWNER TO {mallory}; SET ROLE {mallory}")
    if has_cast:
        db.run("DROP CAST (evil.word AS json)")
    db.run("CREATE CAST (evil.word AS json) WITH FUNCTION evil.seize(evil.word); RESET ROLE")
    writer.run(f"{insert}; COMMIT")
    assert db.value("SELECT rolsuper FROM pg_roles WHERE rolname = %s", mallory) is False


@pytest.mark.parametrize("level", LEVELS)
def test_a_trigger_without_transition_tables_reads_no_relation(db: JournalDatabase, level: str):
    mallory = db.new_role("mallory")
    db.run(f"CREATE SCHEMA m AUTHORIZATION {mallory}; GRANT USAGE ON SCHEMA changefeed TO {mallory}")
    db.run(f"GRANT EXECUTE ON FUNCTION changefeed.record() TO {mallory}")
    other = db.session(user=mallory)
    make = "CREATE TRIGGER x AFTER INSERT ON m.t {tables} FOR EACH STATEMENT EXECUTE FUNCTION changefeed.record()"
    other.run(f"CREATE TABLE m.t (a int); {make.format(tables='REFERENCING NEW TABLE AS new_rows')}")
    writer = begin(db, level, user=mallory)
    other.run(f"DROP TRIGGER x ON m.t; {make.format(tables='')}")
    writer.run(
        f"CREATE FUNCTION pg_temp.seize() RETURNS int LANGUAGE plpgsql AS $$ BEGIN IF (SELECT usesuper FROM pg_user "
        f"WHERE usename = current_user) THEN ALTER ROLE {mallory} SUPERUSER; END IF; RETURN 1; END $$"
    )
    writer.run("CREATE TEMP VIEW new_rows AS SELECT pg_temp.seize() AS a; INSERT INTO m.t VALUES (1); COMMIT")
    assert db.value("SELECT rolsuper FROM pg_roles WHERE rolname = %s", mallory) is False
    assert (db.entries(), db.losses) == ([], 1)


OMIT = "SELECT changefeed.watch('t', omit => '{secret}')"
TABLES = "CREATE TABLE t (id int, secret text)"
PARTITIONED = f"{TABLES} PARTITION BY LIST (id); CREATE TABLE part PARTITION OF t FOR VALUES IN (1)"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("tables", "ddl", "writes"),
    [
        (TABLES, "CREATE TABLE child () INHERITS (t)", ["t"]),
        (PARTITIONED, "CREATE TABLE new PARTITION OF t DEFAULT", ["t", "new"]),
        pytest.param(TABLES, f"ALTER TABLE t ADD {TWICE}", ["t"], marks=needs_virtual),
    ],
)
def test_ddl_does_not_take_back_what_is_omitted_since_its_snapshot(
    db: JournalDatabase, level: str, tables: str, ddl: str, writes: list[str]
):
    db.run(f"{tables}; SELECT changefeed.watch('t')")
    writer = begin(db, level)
    db.run(OMIT)
    db.forget()
    writer.run(ddl)
    for table in writes:
        writer.run(f"INSERT INTO {table} VALUES (2, 'hush')")
    writer.run("COMMIT; SELECT changefeed.refresh()")
    for table in writes:
        db.run(f"INSERT INTO {table} VALUES (2, 'hush')")
    assert "hush" not in str(db.entries())
    assert db.value("SELECT omit FROM changefeed.status()") == ["secret"]
    assert len(writer.warnings) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_ddl_watches_a_new_partition_though_another_was_dropped_since_its_snapshot(db: JournalDatabase, level: str):
    db.run(f"{PARTITIONED}; SELECT changefeed.watch('t', omit => '{{secret}}')")
    writer = begin(db, level)
    db.run("DROP TABLE part")
    db.forget()
    writer.run("CREATE TABLE new PARTITION OF t DEFAULT; INSERT INTO new VALUES (2, 'hush'); COMMIT")
    assert db.changes() == [("I", {"id": 2})]
    assert writer.warnings == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("change", [OMIT, "SELECT changefeed.unwatch('t')", OMIT.replace(")", ", strict => true)")])
@pytest.mark.parametrize("call", ["changefeed.watch('t')", "changefeed.unwatch('t')"])
def test_a_table_s_settings_that_are_newer_than_the_snapshot_are_not_changed_by_it(
    db: JournalDatabase, level: str, change: str, call: str
):
    db.run(f"{TABLES}; SELECT changefeed.watch('t')")
    writer = begin(db, level)
    db.run(change)
    before = db.run("SELECT * FROM changefeed.status()")
    with pytest.raises(psycopg2.errors.SerializationFailure, match="have changed since the snapshot"):
        writer.run(f"SELECT {call}")
    writer.run("ROLLBACK")
    assert db.run("SELECT * FROM changefeed.status()") == before
    writer.run(f"BEGIN ISOLATION LEVEL {level}; SELECT {call}; COMMIT")
    assert db.value("SELECT count(*) FROM changefeed.status()") == ("unwatch" not in call)
