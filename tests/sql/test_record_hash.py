"""Hashed columns leave only hashes in the journal, however the rows are written."""

import base64
import hashlib
import json
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from changefeed.postgres.named_queries import read_script
from tests import ROOT, postgres
from tests.journal_database import JournalDatabase, Session

DOCUMENT = (ROOT / "docs" / "database.md").read_text("utf-8")
PHONE = "+49 30 901820"
HASH = re.compile("[0-9a-f]{64}")


@pytest.fixture(autouse=True)
def people(db: JournalDatabase) -> None:
    db.run("CREATE TABLE people (id int PRIMARY KEY, phone text, note text)")


def journal_text(db: JournalDatabase) -> str:
    return str(db.run("SELECT string_agg(j::text, '') FROM changefeed.journal AS j"))


def hashes(db: JournalDatabase, column: str = "phone") -> list[Any]:
    return [row[column] for _, row in db.changes() if row]


def the_hash(db: JournalDatabase, table: str = "people", column: str = "phone", value: str = PHONE) -> str:
    return str(db.value("SELECT changefeed.hash(%s, %s, %s)", table, column, value))


def test_every_change_has_the_hash_instead_of_the_value(db: JournalDatabase):
    db.run("SELECT changefeed.watch('people', hash => '{phone}')")
    db.run("INSERT INTO people VALUES (1, %s), (2, %s), (3, NULL), (4, 'other')", PHONE, PHONE)
    db.run("DELETE FROM people")
    first, second, third, fourth, *deleted = hashes(db)
    assert first == second == the_hash(db)
    assert HASH.fullmatch(first)
    assert third is None
    assert fourth not in (first, "other")
    assert deleted == [first, second, third, fourth]
    assert PHONE not in journal_text(db)


def test_old_has_the_hash_of_changed_columns_only(db: JournalDatabase):
    db.run("SELECT changefeed.watch('people', hash => '{phone}'); INSERT INTO people VALUES (1, '1'), (2, '2')")
    db.run("UPDATE people SET note = 'n'; UPDATE people SET phone = 'x' WHERE id = 1")
    *_, first, second, third = [(json.loads(entry.data or ""), json.loads(entry.old or "{}")) for entry in db.entries()]
    for new, old in (first, second):
        assert new["phone"] == old["phone"]
    assert (third[1]["phone"], third[0]["phone"]) == (the_hash(db, value="1"), the_hash(db, value="x"))


def test_it_equals_the_documented_value(db: JournalDatabase):
    db.run("SELECT changefeed.watch('people', hash => '{phone}'); INSERT INTO people VALUES (1, %s)", PHONE)

    def sha256(*parts: bytes) -> bytes:
        return hashlib.sha256(b"".join(parts)).digest()

    secret = bytes(db.value("SELECT key FROM changefeed_secret.secret"))
    key = sha256(secret, *(sha256(name.encode()) for name in ("public", "people", "phone")))
    assert hashes(db) == [sha256(key, sha256(key, PHONE.encode())).hex()]


def test_hashes_differ_between_columns_and_tables(db: JournalDatabase):
    db.run("CREATE SCHEMA s; CREATE TABLE s.people (phone text)")
    db.run("SELECT changefeed.watch('people', hash => '{phone,note}'), changefeed.watch('s.people', hash => '{phone}')")
    db.run("INSERT INTO people VALUES (1, %s, %s); INSERT INTO s.people VALUES (%s)", PHONE, PHONE, PHONE)
    (_, first), (_, second) = db.changes()
    assert len({first["phone"], first["note"], second["phone"]}) == 3


VALUES = {
    "bigint": ["9223372036854775807"],
    "numeric": ["1.10"],
    "boolean": ["true"],
    "uuid": ["'00000000-0000-0000-0000-000000000001'"],
    "char(5)": ["'a'"],
    "bytea": [r"'\x00ff'"],
    "jsonb": ['\'{"a": "ä"}\''],
    "timestamptz": ["'2026-11-22 07:13:08.120931+05:30'"],
    "timestamptz[]": ["'{2026-11-22 07:13:08+05:30}'"],
    "date": ["'2026-11-22'"],
    "interval": ["'1 year -2 days 03:04:05.678'"],
    "float8": ["0.1", "'NaN'"],
    "money": ["'12.34'"],
    "tstzrange": ["'[2026-01-01 00:00+00,)'"],
    "mood": ["'so so'"],
    "mood[]": ["'{ok}'"],
    "moment": ["'2026-11-22 07:13:08+00'"],
    "pair": ["'(1,ok)'", "'(,)'"],
    "pair[]": ["ARRAY['(1,ok)'::pair]"],
}
TYPES = """
    CREATE TYPE mood AS ENUM ('ok', 'so so');
    CREATE DOMAIN moment AS timestamptz;
    CREATE TYPE pair AS (a int, b mood);
"""
OTHER_SETTINGS = """
    SET timezone = 'Asia/Kolkata'; SET datestyle = 'German'; SET intervalstyle = 'iso_8601'; SET bytea_output = 'escape';
    SET extra_float_digits = 3; SET quote_all_identifiers = on;
"""


@pytest.mark.parametrize("is_trusted", [True, False])
@pytest.mark.parametrize("type_name", VALUES)
def test_hashes_do_not_depend_on_session_or_statement(db: JournalDatabase, type_name: str, is_trusted: bool):
    if not is_trusted:
        role = db.new_role("typist")
        db.run(f"GRANT CREATE ON SCHEMA public TO {role}; SET ROLE {role}")
    db.run(TYPES)
    db.run(f"RESET ROLE; CREATE TABLE t (id int, v {type_name}) PARTITION BY LIST (id)")
    db.run("CREATE TABLE part PARTITION OF t FOR VALUES IN (1); SELECT changefeed.watch('t', hash => '{v}')")
    other = db.session()
    other.run(OTHER_SETTINGS)
    for value in VALUES[type_name]:
        db.run(f"INSERT INTO t VALUES (1, {value}); INSERT INTO part VALUES (1, {value})")
        other.run(f"INSERT INTO t SELECT * FROM t LIMIT 1; DELETE FROM t; INSERT INTO t SELECT 1, {value}")
        other.run("TRUNCATE part")
        found = hashes(db, "v")
        assert (len(found), len(set(found))) == (8, 1)
        assert HASH.fullmatch(found[0])
        db.forget()
    assert (db.losses, db.warnings, other.warnings) == (0, [], [])


def test_a_partitions_truncate_exposes_no_value(db: JournalDatabase):
    db.run("CREATE TABLE calls (id int, phone text, at timestamptz, extra json, gone int) PARTITION BY LIST (id)")
    db.run("CREATE TABLE calls_1 PARTITION OF calls FOR VALUES IN (1); ALTER TABLE calls DROP COLUMN gone")
    db.run("SELECT changefeed.watch('calls', hash => '{phone}', omit => '{at}')")
    db.run("""INSERT INTO calls VALUES (1, %s, now(), '{ "a" :1.10}'), (1, NULL, now(), NULL)""", PHONE)
    role = db.new_role("truncater")
    db.run(f"GRANT TRUNCATE, SELECT ON calls_1 TO {role}")
    session = db.session(user=role)
    session.run("BEGIN; TRUNCATE calls_1")
    left = session.value("SELECT current_setting('changefeed.truncated', true)")
    session.run("COMMIT")
    assert left == ""
    inserted, deleted = db.entries()[:2], db.entries()[2:]
    assert sorted(entry.data or "" for entry in deleted) == sorted(entry.data or "" for entry in inserted)
    assert [entry.action for entry in deleted] == ["D", "D"]
    assert PHONE not in journal_text(db)


def test_rows_of_tables_that_inherit_are_hashed(db: JournalDatabase):
    db.run("CREATE TABLE staff (x int) INHERITS (people)")
    db.run("SELECT changefeed.watch('people', hash => '{phone}'), changefeed.watch('staff', hash => '{phone}')")
    db.run("INSERT INTO people VALUES (1, %s); INSERT INTO staff VALUES (2, %s); ", PHONE, PHONE)
    db.run("UPDATE people SET note = 'n'; DELETE FROM people")
    assert {row["phone"] for _, row in db.changes("public.people")} == {the_hash(db)}
    assert {row["phone"] for _, row in db.changes("public.staff")} == {the_hash(db, "staff")}
    assert len(db.changes()) == 6
    assert PHONE not in journal_text(db)


def test_a_virtual_generated_column_is_hashed_as_computed(db: JournalDatabase):
    if db.version < 18:
        pytest.skip("PostgreSQL 18 brought virtual generated columns")
    db.run("CREATE TABLE v (a text, up text GENERATED ALWAYS AS (upper(a)) VIRTUAL)")
    db.run("SELECT changefeed.watch('v', hash => '{up}'); INSERT INTO v VALUES ('x'); UPDATE v SET a = 'y'")
    assert hashes(db, "up") == [the_hash(db, "v", "up", "X"), the_hash(db, "v", "up", "Y")]


@pytest.mark.parametrize(
    "name", ['a"b', "Größe ☃", "a.b", "a%b", "%s", "a'b\\", "select", "r", "new_rows", "h", "value"]
)
def test_odd_names(db: JournalDatabase, name: str):
    quoted = '"' + name.replace('"', '""') + '"'
    db.run(
        f"CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.{quoted} (id int, {quoted} text) PARTITION BY LIST (id)", *[]
    )
    target = f"{quoted}.{quoted}"
    db.connection.cursor().execute(f"CREATE TABLE {quoted}.part PARTITION OF {target} DEFAULT")
    assert db.value("SELECT changefeed.watch(%s, hash => %s)", target, [name]) is True
    assert db.value("SELECT changefeed.watch(%s, hash => %s)", target, [name]) is False
    assert db.value("SELECT hash FROM changefeed.status()") == [name]
    for statement in (
        f"INSERT INTO {target} VALUES (1, 'x')",
        f"UPDATE {target} SET id = 2",
        f"TRUNCATE {quoted}.part",
    ):
        db.connection.cursor().execute(statement)
    assert hashes(db, name) == [the_hash(db, target, name, "x")] * 3
    assert db.losses == 0


@pytest.mark.parametrize("option", ["hash", "omit"])
@pytest.mark.parametrize("strict", [False, True])
def test_a_renamed_hashed_column_stays_hashed(db: JournalDatabase, option: str, strict: bool):
    db.run("CREATE TABLE calls (id int, phone text) PARTITION BY LIST (id)")
    db.run("CREATE TABLE calls_1 PARTITION OF calls FOR VALUES IN (1)")
    db.run(f"SELECT changefeed.watch('calls', {option} => '{{phone}}', strict => %s)", strict)
    db.run("ALTER TABLE calls RENAME phone TO mobile")
    if strict:
        with pytest.raises(psycopg2.errors.RaiseException, match="left out or hashed is gone"):
            db.run("INSERT INTO calls VALUES (1, %s)", PHONE)
        return
    db.run("INSERT INTO calls VALUES (1, %s); UPDATE calls SET mobile = mobile || '1'; TRUNCATE calls_1", PHONE)
    assert (db.entries(), db.losses) == ([], 3)
    db.run(f"SELECT changefeed.watch('calls', {option} => '{{mobile}}'); INSERT INTO calls VALUES (1, %s)", PHONE)
    assert len(db.entries()) == 1
    assert PHONE not in journal_text(db)


def test_what_cannot_be_hashed_is_refused(db: JournalDatabase):
    with pytest.raises(psycopg2.errors.UndefinedColumn, match="people has no column nix"):
        db.run("SELECT changefeed.watch('people', hash => '{nix}')")
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="note cannot be both omitted and hashed"):
        db.run("SELECT changefeed.watch('people', omit => '{note}', hash => '{phone,note}')")
    with pytest.raises(psycopg2.errors.UndefinedColumn, match="people has no column nix"):
        db.run("SELECT changefeed.hash('people', 'nix', '1')")
    assert db.run("SELECT * FROM changefeed.status()") == []


def test_watching_again_changes_what_is_hashed(db: JournalDatabase):
    for hashed in (["phone"], ["note", "phone"], []):
        assert db.value("SELECT changefeed.watch('people', hash => %s)", hashed) is True
        assert db.value("SELECT changefeed.watch('people', hash => %s)", hashed) is False
        assert db.run("SELECT is_complete, hash, omit FROM changefeed.status()") == [(True, hashed, [])]


# -- the secret


def test_only_its_owner_sees_the_secret(db: JournalDatabase):
    guest = db.new_role("guest")
    session = db.session(user=guest)
    db.run(f"GRANT USAGE ON SCHEMA changefeed TO {guest}")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        session.run("SELECT * FROM changefeed_secret.secret")
    db.run(f"GRANT ALL ON ALL TABLES IN SCHEMA changefeed TO {guest}")
    db.run(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA changefeed TO {guest}")
    for query in ("SELECT * FROM changefeed_secret.secret", "SELECT changefeed.hash('people', 'phone', '1')"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="schema changefeed_secret"):
            session.run(query)


def test_logged_statements_have_no_secret_or_key(db: JournalDatabase):
    options = json.dumps({"hash": ["phone"]})
    columns = db.value("SELECT changefeed.column_list('people'::regclass, %s)", options)
    secret = db.value("SELECT encode(key, 'hex') FROM changefeed_secret.secret")
    key = db.value("SELECT encode(changefeed.column_key('people'::regclass, 'phone'), 'hex')")
    assert "changefeed.column_key" in columns
    assert secret not in columns
    assert key not in columns


def test_each_database_has_a_secret_of_its_own(db: JournalDatabase):
    before = db.value("SELECT key FROM changefeed_secret.secret")
    db.run(read_script("install.sql"))
    assert db.value("SELECT key FROM changefeed_secret.secret") == before
    db.run(read_script("uninstall.sql"))
    db.run(read_script("install.sql"))
    assert db.value("SELECT key FROM changefeed_secret.secret") != before


def test_default_privileges_give_nothing_of_the_secret_away(db: JournalDatabase):
    guest = db.new_role("guest")
    db.run(read_script("uninstall.sql"))
    db.run(f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {guest}, PUBLIC")
    db.run(f"ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO {guest}")
    db.run(read_script("install.sql"))
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="schema changefeed_secret"):
        db.session(user=guest).run("SELECT * FROM changefeed_secret.secret")


def test_the_secret_stays_what_it_is_until_the_owner_sets_another(db: JournalDatabase):
    db.run("SELECT changefeed.watch('people', hash => '{phone}')")
    before = db.value("SELECT changefeed.hash('people', 'phone', '1')")
    db.run("REFRESH MATERIALIZED VIEW changefeed_secret.secret")
    assert db.value("SELECT changefeed.hash('people', 'phone', '1')") == before
    key = bytes(range(32))
    db.run("SELECT changefeed.set_secret(%s)", key)
    assert bytes(db.value("SELECT key FROM changefeed_secret.secret")) == key
    assert db.run("SELECT FROM pg_proc WHERE position(%s IN prosrc) > 0", key.hex()) == []
    db.run("REFRESH MATERIALIZED VIEW changefeed_secret.secret")
    assert bytes(db.value("SELECT key FROM changefeed_secret.secret")) == key
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="at least 16 bytes"):
        db.run("SELECT changefeed.set_secret('short')")


CARRY_OVER = re.search(r"^```sh\n(psql .*set_secret.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
# All that PostgreSQL can tell of statements, also of those within functions.
TELLING = {
    **dict.fromkeys(("debug_print_parse", "debug_print_rewritten", "debug_print_plan", "log_duration"), "on"),
    "log_statement": "all",
    "log_min_duration_statement": "0",
}
TELLING_MODULES = {
    "shared_preload_libraries": "pg_stat_statements,auto_explain",
    "pg_stat_statements.track": "all",
    "auto_explain.log_min_duration": "0",
    **dict.fromkeys(("auto_explain.log_nested_statements", "auto_explain.log_verbose"), "on"),
}


def has_modules(binaries: Path) -> bool:
    folder = subprocess.run([binaries / "pg_config", "--pkglibdir"], capture_output=True, text=True, check=False).stdout
    return all((Path(folder.strip()) / f"{name}.so").exists() for name in ("pg_stat_statements", "auto_explain"))


def forms_of(secret: bytes) -> list[str]:
    """As it would stand in a text, and in a plan: there byte by byte, each with its sign."""
    hexadecimal = secret.hex()
    signed = [struct.unpack(f"{len(text)}b", text) for text in (secret, hexadecimal.encode())]
    return [hexadecimal, base64.b64encode(secret).decode(), *(" ".join(map(str, numbers)) for numbers in signed)]


@pytest.mark.parametrize("binaries", [postgres.BINARIES, *postgres.others()], ids=str)
def test_the_secret_is_in_no_log_or_statistics(binaries: Path | None):
    modules = TELLING_MODULES if binaries and has_modules(binaries) else {}
    started = postgres.start(binaries=binaries, **TELLING, **modules)
    try:
        session = Session(started.conninfo)
        session.run(read_script("install.sql"))
        session.run("CREATE DATABASE other")
        session.run("CREATE TABLE people (id int, phone text); SELECT changefeed.watch('people', hash => '{phone}')")
        other = Session(str(make_dsn(started.conninfo, dbname="other")))
        other.run(read_script("install.sql"))
        assert CARRY_OVER is not None
        environment = {
            "OLD": str(make_dsn(started.conninfo, dbname="other")),
            "NEW": started.conninfo,
            "PATH": str(started.binaries),
        }
        subprocess.run(["/bin/sh", "-e", "-c", CARRY_OVER[1]], env=environment, check=True)
        for _ in range(6):  # until plans are made for any parameter
            session.run("INSERT INTO people VALUES (1, '110'); UPDATE people SET phone = '112'")
            session.run("SELECT changefeed.hash('people', 'phone', '110')")
        secret, key = (
            bytes(value)
            for (value,) in session.run(
                "SELECT key FROM changefeed_secret.secret UNION ALL SELECT changefeed.column_key('people'::regclass, 'phone')"
            )
        )
        assert secret == bytes(other.value("SELECT key FROM changefeed_secret.secret"))
        told = (started.data_dir / "postgresql.log").read_text("utf-8", "replace")
        if modules:
            session.run("CREATE EXTENSION pg_stat_statements")
            told += str(session.run("SELECT query FROM pg_stat_statements"))
        assert "REFRESH MATERIALIZED VIEW changefeed_secret.secret" in told  # what functions do is logged, too
        assert [form for form in (*forms_of(secret), *forms_of(key)) if form in told] == []
    finally:
        postgres.discard(started)


def test_a_refresh_ignores_a_planted_secret(db: JournalDatabase):
    before = db.value("SELECT key FROM changefeed_secret.secret")
    setting = f"SET changefeed.carried = '{bytes(32).hex()}'"
    db.run(f"BEGIN; {setting}; REFRESH MATERIALIZED VIEW changefeed_secret.secret; COMMIT")
    assert db.value("SELECT key FROM changefeed_secret.secret") == before
    db.run("SELECT changefeed.set_secret(%s)", bytes(range(32)))
    db.run(f"BEGIN; {setting}; REFRESH MATERIALIZED VIEW changefeed_secret.secret; COMMIT")
    db.run("BEGIN; SELECT changefeed.set_secret(%s)", bytes(range(32)))
    db.run(f"{setting}; REFRESH MATERIALIZED VIEW changefeed_secret.secret; COMMIT")
    assert bytes(db.value("SELECT key FROM changefeed_secret.secret")) == bytes(range(32))
    guest = db.new_role("guest")
    db.run(
        f"GRANT USAGE ON SCHEMA changefeed TO {guest}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA changefeed TO {guest}"
    )
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        db.session(user=guest).run("SELECT setval('changefeed.carrying', 1)")


@pytest.mark.parametrize(
    "harm",
    [
        "REFRESH MATERIALIZED VIEW changefeed_secret.secret WITH NO DATA",
        "DROP MATERIALIZED VIEW changefeed_secret.secret",
        "DROP SCHEMA changefeed_secret CASCADE",
    ],
)
def test_without_a_secret_changes_are_losses(db: JournalDatabase, harm: str):
    db.run("SELECT changefeed.watch('people', hash => '{phone}')")
    db.run(harm)
    db.run("INSERT INTO people VALUES (1, %s)", PHONE)
    assert (db.entries(), db.losses) == ([], 1)
    db.run(read_script("install.sql"))
    db.run("INSERT INTO people VALUES (2, %s)", PHONE)
    assert len(hashes(db)) == 1


def test_an_upgrade_from_version_4_keeps_the_secret(db: JournalDatabase):
    key = bytes(range(32))
    db.run("DROP SCHEMA changefeed_secret CASCADE; UPDATE changefeed.meta SET version = 4")
    db.run("CREATE TABLE changefeed.secret (is_only boolean PRIMARY KEY DEFAULT true, key bytea NOT NULL)")
    db.run("INSERT INTO changefeed.secret (key) VALUES (%s)", key)
    db.run("ALTER TABLE changefeed.secret ENABLE ROW LEVEL SECURITY")
    db.run(read_script("install.sql"))
    assert bytes(db.value("SELECT key FROM changefeed_secret.secret")) == key
    assert db.value("SELECT to_regclass('changefeed.secret')") is None


def test_a_writer_needs_no_right_on_the_secret(db: JournalDatabase):
    writer = db.new_role("writer")
    db.run(f"SELECT changefeed.watch('people', hash => '{{phone}}'); GRANT ALL ON people TO {writer}")
    session: Session = db.session(user=writer)
    session.run("INSERT INTO people VALUES (1, %s); UPDATE people SET phone = 'x'; DELETE FROM people", PHONE)
    assert session.warnings == []
    assert len(hashes(db)) == 3


def test_the_usual_case_has_no_argument_that_would_make_it_slower(db: JournalDatabase):
    db.run("SELECT changefeed.watch('people')")
    assert db.value(
        "SELECT bool_and(tgnargs = 0) FROM pg_trigger WHERE tgrelid = 'people'::regclass AND NOT tgisinternal"
    )
