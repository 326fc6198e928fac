"""Values are recorded as to_json gives them, names unchanged, and no untrusted code runs."""

import time

import psycopg2
import pytest

from tests.journal_database import JournalDatabase

VALUES = {
    "bool": ["true", "NULL"],
    "int2": ["-32768"],
    "int8": ["9223372036854775807", "-9223372036854775808"],
    "float4": ["'NaN'", "'-Infinity'", "0.1", "1e-40"],
    "float8": ["'NaN'", "'Infinity'", "0.1", "5e-324", "1.7976931348623157e308", "'-0'"],
    "numeric": ["'NaN'", "repeat('9', 1000)::numeric", "('0.' || repeat('1', 1000))::numeric", "1.10", "0.000"],
    "money": ["'-12.34'"],
    "text": ["''", r"E'\"\\\\ \t\n\r\b\f\x01\x1f\x7f'", r"E'\\\\u0000'", "'ä☃😀'", "repeat('x', 1000000)"],
    "char(5)": ["'a'"],
    '"char"': ["'x'"],
    "name": ["'n'"],
    "bytea": [r"'\x00ff'", "''"],
    "json": ['\'{ "a" :  1,"a":2, "n":1.10 }\'', "' 1 '", "'null'", "'[1,\n2]'"],
    "jsonb": ['\'{"b": 1e400, "a": "\\u00e4"}\'', "'null'"],
    "xml": ["'<a>&lt; ä</a>'"],
    "date": ["'infinity'", "'0044-03-15 BC'", "'2026-11-22'"],
    "timestamp": ["'-infinity'", "'2026-11-22 07:13:08.120931'"],
    "timestamptz": ["'infinity'", "'2026-11-22 07:13:08.120931+05:30'"],
    "time": ["'24:00'"],
    "timetz": ["'12:00+02'"],
    "interval": ["'1 year -2 days 03:04:05.678'", "'-1 mon'"],
    "uuid": ["'00000000-0000-0000-0000-000000000000'"],
    "inet": ["'::1/64'", "'10.0.0.1'"],
    "cidr": ["'10.0.0.0/8'"],
    "macaddr": ["'08:00:2b:01:02:03'"],
    "bit(3)": ["B'101'"],
    "varbit": ["B''"],
    "point": ["'(1,2)'"],
    "polygon": ["'((0,0),(1,1),(1,0))'"],
    "tsvector": ["'a:1A b'"],
    "tsquery": ["'a & !b'"],
    "int4range": ["'[1,5)'", "'empty'"],
    "tstzrange": ["'[2026-01-01,)'"],
    "int4multirange": ["'{[1,2),[5,7)}'"],
    "pg_lsn": ["'0/1'"],
    "xid8": ["'1'"],
    "oid": ["1"],
    "regclass": ["'pg_class'"],
    "int[]": ["'{}'", "'{{1,2},{3,NULL}}'", "'[2:3]={1,2}'"],
    "text[]": ['\'{"a,b","NULL",NULL,"\\""}\''],
    "json[]": ["ARRAY['{ \"a\": 1}'::json]"],
    "mood": ["'ok'"],
    "mood[]": ["'{ok,\"so so\"}'"],
    "percent": ["50"],
    "percent[]": ["'{1,2}'"],
    "label": ["'x'"],
    "code": ["'abc'"],
    "code[]": ["'{abc,d}'"],
    "pair": ["'(1,ok)'", "'(,)'"],
    "pair[]": ["ARRAY['(1,ok)'::pair]"],
    "moodrange": ["'[ok,ok]'"],
}
TYPES = """
    CREATE TYPE mood AS ENUM ('ok', 'so so');
    CREATE DOMAIN percent AS int CHECK (VALUE <= 100);
    CREATE DOMAIN label AS varchar(10);
    CREATE DOMAIN code AS char(5);
    CREATE TYPE pair AS (a int, "B ☃" mood);
    CREATE TYPE moodrange AS RANGE (subtype = mood);
"""


@pytest.mark.parametrize("type_name", VALUES)
def test_a_value_is_to_json_s(db: JournalDatabase, type_name: str):
    db.run(TYPES)
    check_values(db, type_name)


@pytest.mark.parametrize(
    "type_name", ["mood", "mood[]", "percent", "percent[]", "label", "code", "code[]", "moodrange"]
)
def test_a_value_of_a_type_of_others_is_to_json_s(db: JournalDatabase, type_name: str):
    role = db.new_role("typist")
    db.run(f"GRANT CREATE ON SCHEMA public TO {role}; SET ROLE {role}")
    db.run(TYPES)
    db.run("RESET ROLE")
    check_values(db, type_name)


def check_values(db: JournalDatabase, type_name: str) -> None:
    if type_name == "xml":
        try:
            db.run("SELECT '<a/>'::xml")
        except psycopg2.errors.FeatureNotSupported:
            pytest.skip("this PostgreSQL is built without XML")
    db.run(f"CREATE TABLE t (v {type_name}); SELECT changefeed.watch('t')")
    for value in VALUES[type_name]:
        db.run("BEGIN")
        db.run(f"INSERT INTO t SELECT {value}")
        [(expected,)] = db.run("SELECT row_to_json(t)::text FROM t")
        db.run("DELETE FROM t; COMMIT")
        assert [entry.data for entry in db.entries()] == [expected] * 2
        db.forget()
    assert db.warnings == []


def test_a_foreign_type_that_doubles_per_level_is_text(db: JournalDatabase):
    role = db.new_role("owner")
    db.run(f"GRANT CREATE ON SCHEMA public TO {role}")
    owner = db.session(user=role)
    owner.run("CREATE TYPE twice_0 AS (a int, b int)")
    for level in range(1, 17):
        owner.run(f"CREATE TYPE twice_{level} AS (a twice_{level - 1}, b twice_{level - 1})")
    owner.run("CREATE TABLE deep (shallow twice_1, deep twice_16, deeps twice_16[])")
    db.run("SELECT changefeed.watch('deep')")
    owner.run("SET statement_timeout = '20s'")
    owner.run("""INSERT INTO deep VALUES ('("(1,2)",)', '(,)', '{"(,)",NULL}'), (NULL, NULL, NULL)""")
    assert db.changes() == [
        ("I", {"shallow": {"a": {"a": 1, "b": 2}, "b": None}, "deep": "(,)", "deeps": ["(,)", None]}),
        ("I", {"shallow": None, "deep": None, "deeps": None}),
    ]
    assert (db.losses, owner.warnings) == (0, [])


def test_a_type_that_doubles_per_level_is_examined_once(db: JournalDatabase):
    db.run("CREATE TYPE twice_0 AS (a int, b int)")
    for level in range(1, 19):
        db.run(f"CREATE TYPE twice_{level} AS (a twice_{level - 1}, b twice_{level - 1}[])")
    db.run("CREATE TABLE deep (id int, v twice_18); SELECT changefeed.watch('deep')")
    db.run("SET statement_timeout = '5s'")
    db.run("INSERT INTO deep VALUES (1, '(,)'), (2, NULL)")
    assert db.changes() == [("I", {"id": 1, "v": {"a": None, "b": None}}), ("I", {"id": 2, "v": None})]
    assert (db.losses, db.warnings) == (0, [])


@pytest.mark.parametrize("kind", ["STORED", "VIRTUAL"])
def test_generated_columns(db: JournalDatabase, kind: str):
    if kind == "VIRTUAL" and db.version < 18:
        pytest.skip("PostgreSQL 18 brought virtual generated columns")
    db.run(
        f"CREATE TABLE t (a int, twice int GENERATED ALWAYS AS (a * 2) {kind}, up text GENERATED ALWAYS AS ('A' || a::text) {kind})"
    )
    db.run("SELECT changefeed.watch('t')")
    db.run("INSERT INTO t VALUES (1); UPDATE t SET a = 5; DELETE FROM t")
    assert [row["twice"] for _, row in db.changes()] == [2, 10, 10]
    assert db.entries()[1].old == '{"a":1,"twice":2,"up":"A1"}'
    db.run(f"ALTER TABLE t ADD COLUMN thrice int GENERATED ALWAYS AS (a * 3) {kind}; INSERT INTO t VALUES (2)")
    assert db.changes()[-1][1]["thrice"] == 6


@pytest.mark.parametrize("name", ['a"b', "Größe ☃", "😀" * 15, "x" * 63, "a.b", "a%b", "a'b\\", "select", "NEW_ROWS"])
def test_odd_names_of_tables_columns_and_schemas(db: JournalDatabase, name: str):
    quoted = '"' + name.replace('"', '""') + '"'
    db.run(
        f"CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.{quoted} ({quoted} int PRIMARY KEY, r int, place int, slot int)"
    )
    target = f"{quoted}.{quoted}"
    assert db.value("SELECT changefeed.watch(%s)", target) is True
    assert db.value("SELECT changefeed.watch(%s)", target) is False
    db.run(f"INSERT INTO {target} VALUES (1); UPDATE {target} SET {quoted} = 2; DELETE FROM {target}")
    assert [(entry.action, entry.table) for entry in db.entries()] == [(action, f"{name}.{name}") for action in "IUD"]
    assert db.changes()[1][1][name] == 2
    db.run("SELECT changefeed.unwatch(%s)", target)


def test_columns_named_like_what_the_functions_use(db: JournalDatabase):
    db.run("CREATE TABLE old_rows (slot int, at int, r int, n int, o int, place int, new int, data int, v int)")
    db.run(
        "SELECT changefeed.watch('old_rows'); INSERT INTO old_rows VALUES (1,2,3,4,5,6,7,8,9); UPDATE old_rows SET r = 0"
    )
    db.run("SELECT changefeed.watch('old_rows', omit => '{v}'); UPDATE old_rows SET r = 1; DELETE FROM old_rows")
    assert [len(row) for _, row in db.changes()] == [9, 9, 8, 8]
    assert db.losses == 0


def test_a_row_of_ten_megabytes(db: JournalDatabase):
    db.run("CREATE TABLE big (id int, v text); SELECT changefeed.watch('big')")
    db.run("INSERT INTO big VALUES (1, repeat('ä☃\n', 2500000)); UPDATE big SET id = 2; DELETE FROM big")
    assert [len(entry.data or "") for entry in db.entries()] == [len('{"id":1,"v":""}') + 4 * 2500000] * 3


class TestRights:
    """The functions run as their owner, here a superuser. Nobody else's code may."""

    def test_a_writer_needs_no_right_on_the_schema(self, db: JournalDatabase):
        writer = db.new_role("writer")
        db.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders'); CREATE SEQUENCE s")
        db.run(f"GRANT INSERT, UPDATE, SELECT, DELETE, TRUNCATE ON orders TO {writer}")
        session = db.session(user=writer)
        session.run("INSERT INTO orders VALUES (1); UPDATE orders SET id = 2; DELETE FROM orders; TRUNCATE orders")
        assert [action for action, _ in db.changes()] == ["I", "U", "D", "T"]
        for statement in (
            "SELECT * FROM changefeed.journal",
            "SELECT changefeed.refresh()",
            "SELECT changefeed.record()",
        ):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                session.run(statement)

    def test_row_security_hides_nothing_from_the_journal(self, db: JournalDatabase):
        writer = db.new_role("writer")
        db.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders')")
        db.run(f"ALTER TABLE orders ENABLE ROW LEVEL SECURITY; GRANT ALL ON orders TO {writer}")
        db.run("CREATE POLICY p ON orders FOR ALL USING (id < 5) WITH CHECK (true)")
        db.session(user=writer).run("INSERT INTO orders VALUES (1), (9)")
        assert [row["id"] for _, row in db.changes()] == [1, 9]

    def test_nor_by_a_column_that_an_old_snapshot_does_not_show(self, db: JournalDatabase):
        mallory = db.new_role("mallory")
        db.run(f"CREATE SCHEMA m AUTHORIZATION {mallory}; SET ROLE {mallory}; CREATE TABLE m.t (id int, j json)")
        db.run("RESET ROLE; SELECT changefeed.watch('m.t')")
        writer, other = db.session(user=mallory), db.session(user=mallory)
        writer.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        other.run("CREATE TYPE m.e AS ENUM ('x')")
        other.run(
            f"CREATE FUNCTION m.evil(m.e) RETURNS json LANGUAGE plpgsql AS $$ BEGIN IF (SELECT usesuper FROM pg_user "
            f"WHERE usename = current_user) THEN ALTER ROLE {mallory} SUPERUSER; END IF; RETURN '1'; END $$"
        )
        other.run("CREATE CAST (m.e AS json) WITH FUNCTION m.evil(m.e); ALTER TABLE m.t ADD COLUMN e m.e DEFAULT 'x'")
        writer.run("INSERT INTO m.t VALUES (1, '{ \"a\":1.10}'); UPDATE m.t SET id = 2; COMMIT")
        assert db.value("SELECT rolsuper FROM pg_roles WHERE rolname = %s", mallory) is False
        assert (db.entries(), db.losses, len(writer.warnings)) == ([], 2, 2)  # a row without it would be incomplete

    @pytest.mark.parametrize(
        "trap",
        [
            "CREATE FUNCTION {m}.row_to_json(record) RETURNS json LANGUAGE plpgsql AS $$ BEGIN {evil} END $$",
            "CREATE FUNCTION {m}.nextval(text) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN {evil} END $$",
            "CREATE FUNCTION {m}.evil(text, bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN {evil} END $$; "
            "CREATE OPERATOR {m}.> (FUNCTION = {m}.evil, LEFTARG = text, RIGHTARG = bigint)",
            "CREATE FUNCTION {m}.evil() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN {evil} END $$; "
            "CREATE DOMAIN pg_temp.json AS pg_catalog.json CHECK ({m}.evil()); "
            "CREATE DOMAIN pg_temp.refcursor AS pg_catalog.refcursor CHECK ({m}.evil())",
            "CREATE TEMP TABLE new_rows (id int); CREATE TEMP TABLE old_rows (id int)",
            "CREATE TEMP TABLE journal (id int); CREATE TEMP TABLE pg_class (oid oid, relname text)",
            "CREATE TYPE {m}.e AS ENUM ('x'); CREATE FUNCTION {m}.evil({m}.e) RETURNS json LANGUAGE plpgsql AS "
            "$$ BEGIN {evil} END $$; CREATE CAST ({m}.e AS json) WITH FUNCTION {m}.evil({m}.e); "
            "ALTER TABLE {m}.t ADD COLUMN e {m}.e DEFAULT 'x', ADD COLUMN es {m}.e[] DEFAULT '{{x}}'; "
            "ALTER TABLE {m}.root ADD COLUMN e {m}.e DEFAULT 'x'",
            "CREATE TYPE {m}.e AS ENUM ('x'); CREATE FUNCTION {m}.evil({m}.e) RETURNS json LANGUAGE plpgsql AS "
            "$$ BEGIN {evil} END $$; CREATE CAST ({m}.e AS json) WITH FUNCTION {m}.evil({m}.e); "
            "CREATE DOMAIN {m}.d AS {m}.e; CREATE TYPE {m}.c AS (d {m}.d); ALTER TABLE {m}.t "
            "ADD COLUMN d {m}.d DEFAULT 'x', ADD COLUMN c {m}.c DEFAULT '(x)', ADD COLUMN cs {m}.c[] DEFAULT '{{(x)}}'",
            "CREATE FUNCTION {m}.evil(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN {evil} END $$; "
            "CREATE INDEX ON {m}.part (({m}.evil(1)))",
            "CREATE FUNCTION {m}.evil(int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN {evil} END $$; "
            "CREATE POLICY p ON {m}.part USING ({m}.evil(1)); ALTER TABLE {m}.part ENABLE ROW LEVEL SECURITY, "
            "FORCE ROW LEVEL SECURITY",
        ],
    )
    def test_a_tables_owner_runs_no_code_as_superuser(self, db: JournalDatabase, trap: str):
        mallory = db.new_role("mallory")
        db.run(f"CREATE SCHEMA m AUTHORIZATION {mallory}; GRANT TEMP ON DATABASE {db.name} TO {mallory}")
        db.run(f"SET ROLE {mallory}; CREATE TABLE m.t (id int); CREATE TABLE m.root (id int) PARTITION BY RANGE (id)")
        db.run("CREATE TABLE m.part PARTITION OF m.root FOR VALUES FROM (0) TO (9); RESET ROLE")
        db.run("SELECT changefeed.watch('m.t'), changefeed.watch('m.root')")
        session = db.session(user=mallory)
        session.run("SET search_path = m, public, pg_catalog")
        session.run(
            f"CREATE FUNCTION m.seize() RETURNS void LANGUAGE plpgsql AS $$ BEGIN IF (SELECT usesuper FROM pg_user "
            f"WHERE usename = current_user) THEN ALTER ROLE {mallory} SUPERUSER; END IF; END $$"
        )
        evil = "PERFORM m.seize(); RETURN '1';"  # a volatile function, so that an immutable one may call it
        session.run(trap.format(m="m", evil=evil))
        session.run("INSERT INTO m.t (id) VALUES (1), (2); UPDATE m.t SET id = id + 5; DELETE FROM m.t; TRUNCATE m.t")
        session.run("INSERT INTO m.root VALUES (1)")
        # In a session of its own, in which nothing is cached that was computed with Mallory's own rights.
        db.session(user=mallory).run("TRUNCATE m.part")
        assert db.value("SELECT rolsuper FROM pg_roles WHERE rolname = %s", mallory) is False
        assert [action for action, _ in db.changes("m.t")] == ["I", "I", "U", "U", "D", "D", "T"]


def test_an_elements_cost_is_independent_of_its_array(db: JournalDatabase):
    seconds = {}
    for rows in (15_000, 15_000, 120_000):  # the first of all also makes the plan
        begun = time.perf_counter()
        made = db.value(
            f"SELECT json_array_length(changefeed.json_array(array_fill('1'::json, ARRAY[{rows}]), ARRAY[{rows}, 1]))"
        )
        seconds[rows] = time.perf_counter() - begun
        assert made == rows
    assert seconds[120_000] / seconds[15_000] < 24  # 8 is linear, 64 quadratic
