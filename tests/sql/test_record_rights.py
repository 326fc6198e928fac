"""Trigger functions run no code but their own, whatever relations, types and settings others make."""

import threading

import psycopg2
import pytest

from tests import postgres
from tests.journal_database import JournalDatabase, Session

SEIZE = "ALTER ROLE {mallory} SUPERUSER"


def is_superuser(db: JournalDatabase, role: str) -> bool:
    return bool(db.value("SELECT rolsuper FROM pg_roles WHERE rolname = %s", role))


@pytest.mark.parametrize("function", ["record", "record_strict"])
@pytest.mark.parametrize("event", ["INSERT", "UPDATE", "DELETE"])
@pytest.mark.parametrize("argument", ["", """'{"omit": ["x"]}'""", """'{"dynamic": true}'""", """'{"limit": 1}'"""])
def test_a_trigger_without_transition_tables_reads_nothing(
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


def test_relations_named_like_transition_tables_do_no_harm(db: JournalDatabase):
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


def test_it_is_not_found_in_a_cascades_old_catalog(db: JournalDatabase, mallory: str):
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


def test_nor_after_another_session_altered_a_cascades_table(db: JournalDatabase, mallory: str):
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
    # The old catalog does not show the column, without which a row would be incomplete.
    assert (len(db.entries("evil.w")), db.losses) == (60, 60)


def test_only_recorders_ask_for_builtin_types_at_planning(db: JournalDatabase):
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
def test_a_changed_composite_type_runs_no_code_of_its_owner(db: JournalDatabase, level: str, alteration: str):
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
def test_a_virtual_column_runs_no_code_of_a_new_owner(db: JournalDatabase):
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


HANDED_OVER = """
    CREATE SCHEMA evil; CREATE TYPE evil.mood AS ENUM ('ok'); CREATE DOMAIN evil.dmood AS evil.mood;
    CREATE TYPE evil.pair AS (m evil.mood); CREATE TABLE evil.w (id int, v {column}); SELECT changefeed.watch('evil.w');
    GRANT ALL ON SCHEMA evil TO {mallory}; GRANT INSERT ON evil.w TO {mallory}"""
SEIZED = """
    ALTER TYPE evil.mood OWNER TO {mallory}; ALTER TABLE evil.w OWNER TO {mallory}; SET ROLE {mallory};
    CREATE FUNCTION evil.j(evil.mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN {seize}; RETURN '1'; END $$;
    CREATE CAST (evil.mood AS json) WITH FUNCTION evil.j(evil.mood); {change}; RESET ROLE"""


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("evil.mood", ""),
        ("evil.dmood", ""),
        ("evil.pair", ""),
        ("evil.mood[]", ""),
        ("text", "ALTER TABLE evil.w ALTER v TYPE evil.mood USING v::evil.mood"),
        ("text", "ALTER TABLE evil.w DROP v, ADD v evil.mood"),
        ("text", "ALTER TABLE evil.w ADD m evil.mood DEFAULT 'ok'"),
        ("text", "ALTER TABLE evil.w DROP id, DROP v, ADD v evil.mood"),
    ],
)
def test_a_new_owner_runs_no_code_under_an_old_snapshot(db: JournalDatabase, level: str, column: str, change: str):
    """All the writer's queries see it as it was, when a superuser owned it."""
    mallory = db.new_role("mallory")
    db.run(HANDED_OVER.format(mallory=mallory, column=column))
    writer = db.session()
    value = {"evil.pair": "'(ok)'", "evil.mood[]": "'{ok}'"}.get(column, "'ok'")
    writer.run(f"BEGIN ISOLATION LEVEL {level}; INSERT INTO evil.w (v) VALUES ({value}); COMMIT")
    before = len(db.entries("evil.w"))
    assert before == 1
    writer.run(f"BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class")
    db.run(SEIZED.format(mallory=mallory, seize=SEIZE.format(mallory=mallory), change=change))
    writer.run(f"INSERT INTO evil.w (v) VALUES ({value})")
    writer.run("COMMIT")
    assert not is_superuser(db, mallory)
    assert len(db.entries("evil.w")) + db.losses == 2


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_cast_to_json_of_an_enum_or_range_is_never_used(db: JournalDatabase, level: str):
    db.run("CREATE TYPE mood AS ENUM ('ok'); CREATE TYPE moods AS RANGE (subtype = mood)")
    for name in ("mood", "moods"):
        db.run(f"CREATE FUNCTION j({name}) RETURNS json LANGUAGE sql AS $$SELECT '{{}}'::json$$")
        db.run(f"CREATE CAST ({name} AS json) WITH FUNCTION j({name})")
    db.run("CREATE TABLE t (m mood, ms mood[], r moods); SELECT changefeed.watch('t')")
    db.run(f"BEGIN ISOLATION LEVEL {level}; INSERT INTO t VALUES ('ok', '{{ok}}', '[ok,ok]'); COMMIT")
    assert db.changes() == [("I", {"m": "ok", "ms": ["ok"], "r": "[ok,ok]"})]


def test_no_statement_names_a_type_that_others_may_replace(db: JournalDatabase):
    """What is named when the statement is made may be another type when it is executed."""
    mallory = db.new_role("mallory")
    db.run(f"CREATE SCHEMA evil AUTHORIZATION {mallory}; SET ROLE {mallory}; CREATE TYPE evil.mood AS ENUM ('ok')")
    db.run("CREATE DOMAIN evil.dmood AS evil.mood; CREATE TYPE evil.pair AS (m evil.dmood, n int, ms evil.mood[])")
    db.run("CREATE TABLE evil.w (v evil.pair, vs evil.pair[], n numeric(9, 2)[], d evil.dmood); RESET ROLE")
    statement = db.value("SELECT changefeed.column_list('evil.w'::regclass, '{}')")
    assert "::" not in statement.replace("::oid", "")


@pytest.mark.skipif(postgres.major_version() < 18, reason="virtual generated columns are of PostgreSQL 18")
def test_no_operator_of_the_owner_computes_a_virtual_column(db: JournalDatabase):
    mallory = db.new_role("mallory")
    db.run(f"CREATE SCHEMA evil AUTHORIZATION {mallory}; SET ROLE {mallory}")
    db.run("CREATE OPERATOR evil.### (leftarg = anycompatiblearray, rightarg = anycompatible, function = array_append)")
    db.run(
        "CREATE TABLE evil.w (id int, a text[], g text[] GENERATED ALWAYS AS (a OPERATOR(evil.###) 'x'::text) VIRTUAL)"
    )
    db.run("RESET ROLE")
    with pytest.raises(psycopg2.errors.RaiseException, match="the virtual generated column g uses an operator"):
        db.run("SELECT changefeed.watch('evil.w')")
    db.run("SELECT changefeed.watch('evil.w', omit => '{g}')")
    db.run(
        f"SET ROLE {mallory}; ALTER TABLE evil.w ADD h text[] GENERATED ALWAYS AS (a OPERATOR(evil.###) 'x'::text) VIRTUAL"
    )
    db.run(
        "CREATE FUNCTION evil.append(text[], text) RETURNS text[] LANGUAGE plpgsql AS $$ BEGIN "
        f"{SEIZE.format(mallory=mallory)}; RETURN $1; END $$; "
        "CREATE OPERATOR evil.### (leftarg = text[], rightarg = text, function = evil.append)"
    )
    db.run("INSERT INTO evil.w VALUES (2, '{q}'); RESET ROLE")
    assert not is_superuser(db, mallory)
    assert (len(db.entries("evil.w")), db.losses) == (0, 1)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_composite_without_attributes_is_an_empty_object(db: JournalDatabase, level: str):
    role = db.new_role("typist")
    db.run(f"CREATE SCHEMA own AUTHORIZATION {role}; SET ROLE {role}; CREATE TYPE own.none AS ()")
    db.run("CREATE TABLE own.t (id int, v own.none, vs own.none[]); RESET ROLE; SELECT changefeed.watch('own.t')")
    db.run(f"BEGIN ISOLATION LEVEL {level}; INSERT INTO own.t VALUES (1, '()', '{{()}}'), (2, NULL, NULL); COMMIT")
    rows = [row for _, row in db.changes("own.t")]
    assert rows == [{"id": 1, "v": {}, "vs": [{}]}, {"id": 2, "v": None, "vs": None}]


OLD_SNAPSHOTS = {
    "a table comes": ("", "CREATE TABLE own.t (id int, v text); SELECT changefeed.watch('own.t')", "(1, 'a')"),
    "a column comes": ("CREATE TABLE own.t (id int, v text)", "ALTER TABLE own.t ADD w text", "(1, 'a', 'b')"),
    "a column with a type of the owner comes": (
        "CREATE TABLE own.t (id int, v text)",
        "ALTER TABLE own.t ADD w own.mood",
        "(1, 'a', 'ok')",
    ),
    "columns get each other's names": (
        "CREATE TABLE own.t (id int, v text, w own.mood)",
        "ALTER TABLE own.t RENAME id TO x; ALTER TABLE own.t RENAME v TO id; ALTER TABLE own.t RENAME x TO v",
        "(1, 'a', 'ok')",
    ),
    "a column gets another type": (
        "CREATE TABLE own.t (id int, v text, w own.mood)",
        "ALTER TABLE own.t ALTER id TYPE bigint",
        "(1, 'a', 'ok')",
    ),
    "attributes get each other's names": (
        "CREATE TABLE own.t (id int, v own.pair)",
        "ALTER TYPE own.pair RENAME ATTRIBUTE a TO x; ALTER TYPE own.pair RENAME ATTRIBUTE b TO a; "
        "ALTER TYPE own.pair RENAME ATTRIBUTE x TO b",
        "(1, '(1,2)')",
    ),
}


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize(("before", "change", "row"), OLD_SNAPSHOTS.values(), ids=OLD_SNAPSHOTS.keys())
def test_an_old_snapshot_records_the_table_or_a_loss(
    db: JournalDatabase, level: str, before: str, change: str, row: str
):
    role = db.new_role("owner")
    db.run(f"CREATE SCHEMA own AUTHORIZATION {role}; SET ROLE {role}; CREATE TYPE own.mood AS ENUM ('ok')")
    db.run(f"CREATE TYPE own.pair AS (a int, b int); {before}; RESET ROLE")
    if before:
        db.run("SELECT changefeed.watch('own.t')")
    writer = db.session()
    writer.run(f"BEGIN ISOLATION LEVEL {level}; SELECT 1")
    db.run(change)
    db.forget()
    writer.run(f"INSERT INTO own.t VALUES {row}")
    writer.run("COMMIT")
    [(action, row_there)] = db.run("SELECT action, data FROM changefeed.journal WHERE table_name = 't'")
    [(expected, as_text)] = db.run(
        "SELECT row_to_json(t), json_build_object('id', t.id, 'v', t.v::text) FROM own.t AS t"
    )
    assert action == "L" or row_there in (expected, as_text)


def test_a_column_of_any_name_may_be_an_array_of_a_type_of_its_own(db: JournalDatabase):
    role = db.new_role("typist")
    names = ["d", "n", "v0", "f0", "n0", "a1", "value", "whole", "number", "old_rows", "new_rows", "r", "g"]
    columns = ", ".join(f"{name} own.moods[]" for name in names)
    db.run(f"CREATE SCHEMA own AUTHORIZATION {role}; SET ROLE {role}; CREATE TYPE own.mood AS ENUM ('ok')")
    fields = ", ".join(f"{name} own.mood[]" for name in names)
    db.run(f"CREATE TYPE own.moods AS ({fields}); CREATE TABLE own.t ({columns}); RESET ROLE")
    db.run("SELECT changefeed.watch('own.t')")
    value = f"ROW({', '.join(['ARRAY[[chr(111) || chr(107)]]::own.mood[]'] * len(names))})::own.moods"
    db.run(f"INSERT INTO own.t VALUES ({', '.join([f'ARRAY[{value}]'] * len(names))})")
    assert db.changes("own.t") == [("I", {name: [{name: [["ok"]] for name in names}] for name in names})]


# What others may make beside a type, and what would run it: each is a function that takes the right to everything.
HOSTILE = """
    CREATE SCHEMA evil AUTHORIZATION {mallory}; GRANT CREATE ON SCHEMA public TO {mallory}; SET ROLE {mallory};
    CREATE TYPE evil.mood AS ENUM ('ok', 'so'); CREATE TYPE evil.pair AS (m evil.mood, n int);
    CREATE FUNCTION evil.seize() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        IF (SELECT usesuper FROM pg_user WHERE usename = current_user) THEN {seize}; END IF; END $$;
    CREATE FUNCTION evil.holds(evil.mood) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.seize(); RETURN true; END $$;
    CREATE FUNCTION evil.holds(evil.pair) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.seize(); RETURN true; END $$;
    CREATE FUNCTION evil.apart(evil.mood, evil.mood) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
        PERFORM evil.seize(); RETURN 1; END $$;
    CREATE DOMAIN evil.held AS evil.mood CHECK (evil.holds(VALUE));
    CREATE DOMAIN evil.held_pair AS evil.pair CHECK (evil.holds(VALUE));
    CREATE TYPE evil.ordered AS RANGE (subtype = evil.mood, subtype_diff = evil.apart);
    CREATE TYPE evil.deep AS (held evil.held, pairs evil.held_pair[], ordered evil.ordered);
    {casts}; RESET ROLE"""
CASTS_FROM = ("evil.mood", "evil.pair", "evil.mood[]", "evil.pair[]", "evil.held[]", "evil.ordered", "evil.deep")
CASTS_TO = ("json", "jsonb", "text", "tsvector", "json[]", "regtype", "bytea")


def hostile_casts() -> str:
    statements = []
    for number, (source, target) in enumerate((one, other) for one in CASTS_FROM for other in CASTS_TO):
        statements.append(
            f"CREATE FUNCTION evil.c{number}({source}) RETURNS {target} LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.seize(); "
            f"RETURN NULL; END $$; CREATE CAST ({source} AS {target}) WITH FUNCTION evil.c{number}({source}) AS IMPLICIT"
        )
    return "; ".join(statements)


HOSTILE_VALUES = {
    "evil.mood": "'ok'",
    "evil.mood[]": "'{ok,NULL,so}'",
    "evil.pair": "'(ok,1)'",
    "evil.pair[]": '\'{"(ok,1)","(,)",NULL}\'',
    "evil.held": "'ok'",
    "evil.held[]": "'{ok}'",
    "evil.held_pair": "'(ok,1)'",
    "evil.ordered": "'[ok,so]'",
    "evil.ordered[]": "'{\"[ok,so]\"}'",
    "evil.deep": "ROW('ok', '{\"(ok,1)\"}', '[ok,so]')",
    "evil.deep[]": "ARRAY[ROW('ok', '{\"(ok,1)\"}', '[ok,so]')::evil.deep]",
}


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
@pytest.mark.parametrize("options", ["", ", hash => '{v}'", ", omit => '{id}'"])
def test_no_function_of_a_type_s_owner_runs_as_the_journal_s_owner(db: JournalDatabase, options: str, level: str):
    mallory = db.new_role("mallory")
    db.run(HOSTILE.format(mallory=mallory, seize=SEIZE.format(mallory=mallory), casts=hostile_casts()))
    writer = db.session(user=mallory)
    for number, (column, value) in enumerate(HOSTILE_VALUES.items()):
        writer.run(f"CREATE TABLE evil.w{number} (id int DEFAULT 1, v {column})")
        db.run(f"SELECT changefeed.watch('evil.w{number}'{options})")
        writer.run(f"BEGIN ISOLATION LEVEL {level}; INSERT INTO evil.w{number} (v) VALUES ({value}), (NULL)")
        writer.run(f"UPDATE evil.w{number} SET v = v; DELETE FROM evil.w{number}; COMMIT")
        assert not is_superuser(db, mallory), column
        assert len(db.entries(f"evil.w{number}")) == 6, column
    assert (db.losses, writer.warnings) == (0, [])


def test_a_cast_is_trusted_as_the_owner_of_its_function_is(db: JournalDatabase):
    """It stays when that role, which was a superuser, is none any more, and may make the function another."""
    mallory = db.new_role("mallory", "LOGIN SUPERUSER")
    db.run(
        "CREATE TYPE note; CREATE FUNCTION note_in(cstring) RETURNS note LANGUAGE internal IMMUTABLE STRICT AS 'textin'; "
        "CREATE FUNCTION note_out(note) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout'; "
        "CREATE TYPE note (INPUT = note_in, OUTPUT = note_out, LIKE = text)"
    )
    db.run("CREATE TABLE w (k int, v note, m note[]) PARTITION BY LIST (k); CREATE TABLE part PARTITION OF w DEFAULT")
    db.run("SELECT changefeed.watch('w')")
    former = db.session(user=mallory)
    function = (
        "CREATE OR REPLACE FUNCTION public.j(note) RETURNS json LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN '1'; END $$"
    )
    former.run(function.format(body="NULL"))
    former.run("CREATE CAST (note AS json) WITH FUNCTION public.j(note)")
    db.run("INSERT INTO w VALUES (0, 'a', '{a}')")
    db.run(
        f"ALTER ROLE {mallory} NOSUPERUSER; GRANT INSERT ON w TO {mallory}; GRANT CREATE ON SCHEMA public TO {mallory}"
    )
    former.run(function.format(body=SEIZE.format(mallory=mallory)))
    for level in ("READ COMMITTED", "REPEATABLE READ"):
        former.run(f"BEGIN ISOLATION LEVEL {level}; INSERT INTO w VALUES (0, 'a', '{{a}}'); COMMIT")
        assert not is_superuser(db, mallory), level
    db.run("TRUNCATE part")  # whose rows the truncating role reads
    assert not is_superuser(db, mallory)
    trusted, *others = [row for _, row in db.changes("public.w")]
    assert trusted == {"k": 0, "v": 1, "m": [1]}
    assert others == 5 * [{"k": 0, "v": "a", "m": ["a"]}]
    assert (db.losses, former.warnings) == (0, [])
