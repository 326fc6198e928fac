"""Whose code the trigger functions run: nobody's but their own, whatever relations, types and settings others make."""

import threading

import pytest

from tests import postgres
from tests.journal_database import JournalDatabase, Session

SEIZE = "ALTER ROLE {mallory} SUPERUSER"


def is_superuser(db: JournalDatabase, role: str) -> bool:
    return bool(db.value("SELECT rolsuper FROM pg_roles WHERE rolname = %s", role))


@pytest.mark.parametrize("function", ["record", "record_strict"])
@pytest.mark.parametrize("event", ["INSERT", "UPDATE", "DELETE"])
@pytest.mark.parametrize("argument", ["", """'{"omit": ["x"]}'""", """'{"dynamic": true}'""", """'{"limit": 1}'"""])
def test_a_trigger_without_transition_tables_reads_no_relation_of_the_writer(
    db: JournalDatabase, function: str, event: str, argument: str
):
    mallory = db.new_role("mallory")
    db.run(
        f"GRANT USAGE ON SCHEMA changefeed TO {mallory}; GRANT EXECUTE ON FUNCTION changefeed.{function}() TO {mallory}"
    )
    session = db.session(user=mallory)
    session.run(
        f"CREATE FUNCTION pg_temp.pwn() RETURNS int LANGUAGE plpgsql AS $$ BEGIN IF (SELECT usesuper FROM pg_user "
        f"WHERE usename = current_user) THEN {SEIZE.format(mallory=mallory)}; END IF; RETURN 1; END $$"
    )
    session.run(
        "CREATE TEMP VIEW new_rows AS SELECT pg_temp.pwn() AS a, 1 AS x; CREATE TEMP VIEW old_rows AS TABLE new_rows"
    )
    session.run("CREATE TEMP TABLE t (a int, x int); INSERT INTO t VALUES (1)")
    session.run(
        f"CREATE TRIGGER x AFTER {event} ON t FOR EACH STATEMENT EXECUTE FUNCTION changefeed.{function}({argument})"
    )
    write = {"INSERT": "INSERT INTO t VALUES (1)", "UPDATE": "UPDATE t SET a = 2", "DELETE": "DELETE FROM t"}[event]
    session.run(f"DO $$ BEGIN {write}; EXCEPTION WHEN OTHERS THEN NULL; END $$")
    assert not is_superuser(db, mallory)
    assert db.entries() == []


def test_relations_named_like_transition_tables_do_no_harm_to_real_triggers(db: JournalDatabase):
    db.run("CREATE TABLE t (id int); SELECT changefeed.watch('t')")
    db.run("CREATE TEMP TABLE new_rows (id int); CREATE TEMP TABLE old_rows (id int); INSERT INTO new_rows VALUES (9)")
    db.run("INSERT INTO t VALUES (1); UPDATE t SET id = 2; DELETE FROM t; TRUNCATE t")
    assert db.changes() == [("I", {"id": 1}), ("U", {"id": 2}), ("D", {"id": 2}), ("T", None)]
    assert (db.losses, db.warnings) == (0, [])


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
@pytest.mark.parametrize(
    ("columns", "value"),
    [
        ("v public.dmood", "'ok'"),
        ("v public.dmood[]", "'{ok}'"),
        ("v public.moods", "'(1,ok)'"),
        ("v public.moods[]", "'{\"(1,ok)\"}'"),
        ("v public.nested", "'(\"(1,ok)\")'"),
        ("v public.moodrange", "'[ok,ok]'"),
        ("v public.list", "'{ok}'"),
        ("v evil.mood", "'ok'"),
        ("v evil.pair", "'(ok,ok)'"),
    ],
)
def test_trust_in_a_type_goes_down_to_what_it_is_made_of(db: JournalDatabase, columns: str, value: str, level: str):
    mallory = db.new_role("mallory")
    db.run(f"CREATE SCHEMA evil AUTHORIZATION {mallory}; SET ROLE {mallory}")
    db.run("CREATE TYPE evil.mood AS ENUM ('ok')")
    db.run(
        f"CREATE FUNCTION evil.seize() RETURNS void LANGUAGE plpgsql AS $$ BEGIN IF (SELECT usesuper FROM pg_user "
        f"WHERE usename = current_user) THEN {SEIZE.format(mallory=mallory)}; END IF; END $$"
    )
    db.run(
        "CREATE FUNCTION evil.j(evil.mood) RETURNS json LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM evil.seize(); RETURN '1'; END $$; CREATE CAST (evil.mood AS json) WITH FUNCTION evil.j(evil.mood)"
    )
    db.run("RESET ROLE; CREATE DOMAIN public.dmood AS evil.mood; CREATE TABLE public.moods (id int, m evil.mood)")
    db.run("CREATE TYPE public.nested AS (m public.moods); CREATE TYPE public.moodrange AS RANGE (subtype = evil.mood)")
    db.run("CREATE DOMAIN public.list AS evil.mood[]")
    db.run(
        f"SET ROLE {mallory}; CREATE TYPE evil.pair AS (a evil.mood, b public.dmood); CREATE TABLE evil.w ({columns})"
    )
    db.run("RESET ROLE; SELECT changefeed.watch('evil.w')")
    session = db.session(user=mallory)
    session.run(f"BEGIN ISOLATION LEVEL {level}; INSERT INTO evil.w VALUES ({value}), (NULL)")
    session.run("UPDATE evil.w SET v = v; DELETE FROM evil.w; COMMIT")
    assert not is_superuser(db, mallory)
    db.assert_rebuilds("evil.w")
    assert len(db.entries()) == 6
    assert session.warnings == []


def test_every_function_has_a_search_path_of_its_own(db: JournalDatabase):
    settings = db.run("SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'changefeed'::regnamespace")
    assert settings
    assert [name for name, config in settings if "search_path=pg_catalog, pg_temp" not in (config or [])] == []


MOODY = """
    CREATE SCHEMA evil AUTHORIZATION {mallory}; SET ROLE {mallory}; CREATE TYPE evil.mood AS ENUM ('ok');
    CREATE FUNCTION evil.seize() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        IF (SELECT usesuper FROM pg_user WHERE usename = current_user) THEN {seize}; END IF; END $$;
    CREATE FUNCTION evil.j(evil.mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.seize(); RETURN '1'; END $$;
    CREATE CAST (evil.mood AS json) WITH FUNCTION evil.j(evil.mood);
    CREATE TABLE evil.plain (id int); CREATE TABLE evil.w (id int, v text DEFAULT 'ok'); RESET ROLE;
    SELECT changefeed.watch('evil.w'), changefeed.watch('evil.plain')"""
ALTERATIONS = {
    "a column comes": "ALTER TABLE evil.w ADD COLUMN m evil.mood DEFAULT 'ok'",
    "a column's type changes": "ALTER TABLE evil.w ALTER COLUMN v DROP DEFAULT, ALTER COLUMN v TYPE evil.mood USING v::evil.mood, "
    "ALTER COLUMN v SET DEFAULT 'ok'",
}


@pytest.fixture
def mallory(db: JournalDatabase) -> str:
    name = db.new_role("mallory")
    db.run(MOODY.format(mallory=name, seize=SEIZE.format(mallory=name)))
    return name


def write_often(session: Session) -> None:
    """So often that PostgreSQL keeps the plans of what records it."""
    for _ in range(10):
        session.run("INSERT INTO evil.w (id) VALUES (1); UPDATE evil.w SET id = 2; DELETE FROM evil.w")


@pytest.mark.parametrize("by_another", [False, True], ids=["by the writer", "by another session"])
@pytest.mark.parametrize("alteration", ALTERATIONS.values(), ids=ALTERATIONS.keys())
def test_what_was_found_of_a_table_s_types_ends_with_their_change(
    db: JournalDatabase, mallory: str, alteration: str, by_another: bool
):
    db.run("DROP EVENT TRIGGER changefeed_new_partitions")
    writer = db.session(user=mallory)
    write_often(writer)
    (db.session(user=mallory) if by_another else writer).run(alteration)
    write_often(writer)
    assert not is_superuser(db, mallory)
    assert len(db.entries("evil.w")) == 60
    assert (db.losses, writer.warnings) == (0, [])


def test_it_is_of_no_other_table_whatever_a_writer_sets(db: JournalDatabase, mallory: str):
    db.run(ALTERATIONS["a column comes"])
    writer = db.session(user=mallory)
    writer.run("SELECT set_config('changefeed.planned_for', 'evil.plain'::regclass::oid::text, false)")
    writer.run("INSERT INTO evil.plain VALUES (1)")
    write_often(writer)
    writer.run("SET changefeed.planned_for = 'none of yours'")
    write_often(writer)
    assert not is_superuser(db, mallory)
    assert (len(db.entries("evil.w")), db.losses, writer.warnings) == (60, 0, [])


CASCADING = """
    SET ROLE {mallory}; CREATE TABLE evil.parent (id int PRIMARY KEY);
    CREATE TABLE evil.child (id int, parent int REFERENCES evil.parent ON DELETE CASCADE, v text); RESET ROLE;
    SELECT changefeed.watch('evil.child')"""
CHILDS_ALTERATION = "ALTER TABLE evil.child ALTER v TYPE evil.mood USING v::evil.mood"
FAMILIES = "INSERT INTO evil.parent VALUES (1), (2), (3); INSERT INTO evil.child SELECT n, n, 'ok' FROM generate_series(1, 3) AS n"


def test_it_is_not_found_in_a_catalog_that_is_past_since_a_cascade_began(db: JournalDatabase, mallory: str):
    """What a foreign key's action is recorded by is planned while the statement on the other table goes on."""
    db.run(CASCADING.format(mallory=mallory))
    db.run(
        f"SET ROLE {mallory}; CREATE FUNCTION evil.alter_child() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF OLD.id = 1 THEN {CHILDS_ALTERATION}; END IF; RETURN OLD; END $$; CREATE TRIGGER alter_child BEFORE DELETE "
        "ON evil.parent FOR EACH ROW EXECUTE FUNCTION evil.alter_child(); RESET ROLE"
    )
    writer = db.session(user=mallory)
    writer.run(FAMILIES)
    writer.run("DELETE FROM evil.parent WHERE id = 1")
    assert not is_superuser(db, mallory)
    assert (len(db.entries("evil.child")), db.losses, writer.warnings) == (4, 0, [])


def test_nor_since_another_session_altered_the_table_of_a_cascade_that_waited(db: JournalDatabase, mallory: str):
    db.run(CASCADING.format(mallory=mallory))
    writer, holder = db.session(user=mallory), db.session()
    writer.run(FAMILIES)
    holder.run("BEGIN; SELECT 1 FROM evil.parent WHERE id = 3 FOR UPDATE")
    deleting = threading.Thread(target=writer.run, args=["DELETE FROM evil.parent"])
    deleting.start()
    while not db.run(
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE FROM evil.parent%'"
    ):
        pass
    db.run(f"SET ROLE {mallory}; {CHILDS_ALTERATION}; RESET ROLE")
    holder.run("COMMIT")
    deleting.join()
    assert not is_superuser(db, mallory)
    assert (len(db.entries("evil.child")), db.losses, writer.warnings) == (6, 0, [])


def test_it_is_not_found_in_a_catalog_that_is_past(db: JournalDatabase, mallory: str):
    db.run("DROP EVENT TRIGGER changefeed_new_partitions")
    writer = db.session(user=mallory)
    for level in ("REPEATABLE READ", "SERIALIZABLE"):
        writer.run(f"BEGIN ISOLATION LEVEL {level}; SELECT 1")
        db.run(f"SET ROLE {mallory}; {ALTERATIONS['a column comes']}; RESET ROLE")
        write_often(writer)
        writer.run("COMMIT")
        write_often(writer)
        assert not is_superuser(db, mallory)
        db.run("ALTER TABLE evil.w DROP COLUMN m")
    assert (len(db.entries("evil.w")), db.losses, writer.warnings) == (120, 0, [])


def test_only_what_records_calls_what_is_answered_when_a_statement_is_planned(db: JournalDatabase):
    # It is called immutable and is not: right in a statement that reads a transition table, and in no other.
    bodies = dict(
        db.run(
            "SELECT proname, regexp_replace(prosrc, '--[^\n]*', '', 'g') FROM pg_proc "
            "WHERE pronamespace = 'changefeed'::regnamespace AND prosrc LIKE '%%has\\_builtin\\_types()%%'"
        )
    )
    assert set(bodies) == {"record", "record_strict"}
    for body in bodies.values():
        *before, _ = body.split("changefeed.has_builtin_types()")
        assert len(before) == 3
        assert all(text.endswith(("FROM new_rows AS r WHERE ", "FROM old_rows AS r WHERE ")) for text in before)
        assert body.index("set_config('changefeed.planned_for', TG_RELID::text, true)") < len(before[0])


COMPOSITE = """
    CREATE SCHEMA evil AUTHORIZATION {mallory}; SET ROLE {mallory}; CREATE TYPE evil.pair AS (k int, lower text, n int[]);
    CREATE TYPE evil.mood AS ENUM ('ok');
    CREATE FUNCTION evil.seize() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        IF (SELECT usesuper FROM pg_user WHERE usename = current_user) THEN {seize}; END IF; END $$;
    CREATE FUNCTION evil.t(evil.pair) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.seize(); RETURN '1'; END $$;
    CREATE FUNCTION evil.j(evil.mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.seize(); RETURN '1'; END $$;
    CREATE FUNCTION evil.t(evil.mood) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.seize(); RETURN '1'; END $$;
    CREATE CAST (evil.pair AS text) WITH FUNCTION evil.t(evil.pair) AS IMPLICIT;
    CREATE CAST (evil.mood AS json) WITH FUNCTION evil.j(evil.mood);
    CREATE CAST (evil.mood AS text) WITH FUNCTION evil.t(evil.mood) AS IMPLICIT;
    CREATE TABLE evil.pairs (id int, one evil.pair, several evil.pair[]); RESET ROLE; SELECT changefeed.watch('evil.pairs')"""
INSERT_PAIRS = "INSERT INTO evil.pairs VALUES (1, '(1,A,{2})', '{\"(1,A,{2})\"}')"


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize(
    "alteration",
    [
        "RENAME ATTRIBUTE lower TO other",
        "DROP ATTRIBUTE lower, ADD ATTRIBUTE lower evil.mood",
        "DROP ATTRIBUTE k, ADD ATTRIBUTE k evil.mood",
    ],
)
def test_a_composite_type_that_changes_after_the_snapshot_runs_no_code_of_its_owner(
    db: JournalDatabase, level: str, alteration: str
):
    """(value).lower is a call of lower(), and so of a cast, where the type has no such attribute any more."""
    mallory = db.new_role("mallory")
    db.run(COMPOSITE.format(mallory=mallory, seize=SEIZE.format(mallory=mallory)))
    writer = db.session(user=mallory)
    writer.run(INSERT_PAIRS)
    [(_, row)] = db.changes("evil.pairs")
    assert row["one"] == {"k": 1, "lower": "A", "n": [2]}
    assert row["several"] == [row["one"]]
    writer.run(f"BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM evil.pairs")
    db.run(f"SET ROLE {mallory}; ALTER TYPE evil.pair {alteration}; RESET ROLE")
    writer.run(INSERT_PAIRS.replace("(1,A,{2})", "(,,)"))
    writer.run("COMMIT")
    assert not is_superuser(db, mallory)
    assert len(db.entries("evil.pairs")) + db.losses == 2


@pytest.mark.skipif(postgres.major_version() < 18, reason="virtual generated columns are of PostgreSQL 18")
def test_a_virtual_column_over_one_that_changes_after_the_snapshot_runs_no_code_of_its_owner(db: JournalDatabase):
    mallory = db.new_role("mallory")
    db.run(COMPOSITE.format(mallory=mallory, seize=SEIZE.format(mallory=mallory)))
    db.run(
        f"SET ROLE {mallory}; CREATE TABLE evil.v (id int, v text, g text GENERATED ALWAYS AS (lower(v)) VIRTUAL); RESET ROLE"
    )
    db.run("SELECT changefeed.watch('evil.v')")
    writer = db.session(user=mallory)
    writer.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
    db.run(
        f"SET ROLE {mallory}; ALTER TABLE evil.v DROP COLUMN g, ALTER v TYPE evil.mood USING v::evil.mood; RESET ROLE"
    )
    writer.run("INSERT INTO evil.v VALUES (2, 'ok')")
    writer.run("COMMIT")
    assert not is_superuser(db, mallory)
    assert db.losses == 1
