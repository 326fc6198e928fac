"""Whatever a writer's session is set to, an entry is the same: as to_json gives it under the settings of sql/record.sql."""

import random
from collections.abc import Iterator

import pytest

from tests.journal_database import JournalDatabase, Session

# What the documentation promises.
FIXED = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    "quote_all_identifiers": "off",
}
OTHERS = {
    "TimeZone": ["America/New_York", "Asia/Kolkata", "Asia/Manila", "Pacific/Chatham", "<IST>-5:30"],
    "DateStyle": ["SQL, DMY", "SQL, MDY", "German, YMD", "Postgres, DMY", "ISO, DMY"],
    "IntervalStyle": ["sql_standard", "iso_8601", "postgres_verbose"],
    "extra_float_digits": ["-15", "0", "3"],
    "bytea_output": ["escape"],
    "xmloption": ["document"],
    "quote_all_identifiers": ["on"],
    "standard_conforming_strings": ["off"],
    "search_path": ["", "public, pg_catalog", "pg_temp, public"],
    "escape_string_warning": ["off"],
    "array_nulls": ["off"],
    "transform_null_equals": ["on"],
    "plan_cache_mode": ["force_generic_plan", "force_custom_plan"],
    "plpgsql.variable_conflict": ["use_column", "error"],
    "client_min_messages": ["error"],
}
VALUES = {
    "f8": ("float8", "0.1::float8 + 0.2"),
    "f4": ("float4", "1.1::float4 / 3"),
    "small": ("float8", "-1.25e-300"),
    "at": ("timestamptz", "timestamptz '2026-02-01 10:11:12.345+01'"),
    "old": ("timestamptz", "timestamptz '0044-03-15 12:00:00+00 BC'"),
    "local": ("timestamp", "timestamp '2026-02-01 10:11:12'"),
    "day": ("date", "date '2026-02-01'"),
    "daytime": ("timetz", "timetz '10:11:12+05:30'"),
    "span": ("interval", "interval '-1 day -2:03:04'"),
    "raw": ("bytea", r"decode('0001ff5c', 'hex')"),
    "price": ("money", "12.34::numeric::money"),
    "rel": ("regclass", "'pg_catalog.pg_class'::regclass"),
    "days": ("daterange", "daterange(date '2026-02-01', date '2026-03-04')"),
    "times": ("tstzrange", "tstzrange(timestamptz '2026-02-01 00:00+01', timestamptz '2026-02-02 00:00+01')"),
    "many": ("datemultirange", "datemultirange(daterange(date '2026-02-01', date '2026-03-04'))"),
    "floats": ("float8[]", "ARRAY[0.1::float8 + 0.2, NULL]"),
    "ats": ("timestamptz[]", "ARRAY[ARRAY[timestamptz '2026-02-01 10:11:12+01'], ARRAY[NULL::timestamptz]]"),
    "stamp": ("stamp", "timestamptz '2026-02-01 10:11:12+01'"),
    "stamps": ("stamp[]", "ARRAY[timestamptz '2026-02-01 10:11:12+01']::stamp[]"),
    "reading": ("reading", "ROW(timestamptz '2026-02-01 10:11:12+01', 0.1::float8 + 0.2, 'ok')::reading"),
    "readings": ("reading[]", "ARRAY[NULL, ROW(NULL, 0.1::float8 + 0.2, 'ok')::reading]"),
    "grid": (
        "reading[]",
        "ARRAY[ARRAY[ROW(NULL, 1, 'ok')::reading, NULL], ARRAY[NULL::reading, ROW(NULL, NULL, NULL)::reading]]",
    ),
    "empty": ("reading[]", "'{}'::reading[]"),
    "sensor": ("sensor", "ROW(1, ARRAY[ROW(NULL, 0.1::float8 + 0.2, 'ok')::reading], NULL)::sensor"),
    "checked": ("checked", "ROW(timestamptz '2026-02-01 10:11:12+01', 2, 'ok')::reading::checked"),
    "nulls": ("reading", "ROW(NULL, NULL, NULL)::reading"),
    "mood": ("mood", "'so so'::mood"),
    "moods": ("moodrange", "moodrange('ok', 'so so')"),
}
TYPES = """
    CREATE TYPE mood AS ENUM ('ok', 'so so');
    CREATE TYPE moodrange AS RANGE (subtype = mood);
    CREATE DOMAIN stamp AS timestamptz;
    CREATE TYPE reading AS ("at" stamp, "B ☃" float8, mood mood);
    CREATE DOMAIN checked AS reading;
    CREATE TYPE sensor AS (id int, readings reading[], last checked);
"""
LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


def set_to(session: Session, name: str, value: str) -> None:
    session.run("SELECT set_config(%s, %s, false)", name, value)


def settings(seed: int) -> Iterator[tuple[str, str]]:
    chance = random.Random(seed)
    for name, values in OTHERS.items():
        if chance.random() < 0.7:
            yield name, chance.choice(values)


def make_readings(db: JournalDatabase, owner: str | None) -> str:
    """The table, which `owner` owns, and its types; returns what its one row is under the fixed settings."""
    if owner:
        db.run(f"GRANT CREATE ON SCHEMA public TO {owner}; SET ROLE {owner}")
    db.run(TYPES)
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in VALUES.items())
    db.run(f"CREATE TABLE readings ({columns}); RESET ROLE")
    db.run(
        f"CREATE TABLE sample (LIKE readings); INSERT INTO sample SELECT {', '.join(value for _, value in VALUES.values())}"
    )
    db.run("SELECT changefeed.watch('readings')")
    for name, value in FIXED.items():
        set_to(db, name, value)
    return str(db.value("SELECT row_to_json(s)::text FROM sample AS s"))


def write(session: Session, level: str) -> None:
    session.run(f"BEGIN ISOLATION LEVEL {level}; INSERT INTO public.readings SELECT * FROM public.sample")
    session.run("UPDATE public.readings SET f8 = f8; DELETE FROM public.readings; COMMIT")


@pytest.mark.parametrize("is_of_others", [False, True])
def test_the_same_rows_are_the_same_entries_under_any_settings(db: JournalDatabase, is_of_others: bool):
    expected = make_readings(db, db.new_role("typist") if is_of_others else None)
    for seed in range(20):
        writer = db.session()
        for name, value in settings(seed):
            set_to(writer, name, value)
        write(writer, LEVELS[seed % 3])
        entries = [(entry.action, entry.data, entry.old) for entry in db.entries()]
        assert writer.warnings == []
        assert entries == [("I", expected, None), ("U", expected, expected), ("D", expected, None)], list(
            settings(seed)
        )
        db.forget()


@pytest.mark.parametrize("options", ["omit => '{day}'", "row_limit => 5"])
def test_the_same_where_columns_are_left_out(db: JournalDatabase, options: str):
    expected = make_readings(db, db.new_role("typist"))
    db.run(f"SELECT changefeed.watch('readings', {options})")
    writer = db.session()
    for name, value in settings(1):
        set_to(writer, name, value)
    for level in LEVELS:
        write(writer, level)
    texts = {text for entry in db.entries() for text in (entry.data, entry.old) if text}
    assert texts == {expected.replace('"day":"2026-02-01",', "") if "omit" in options else expected}


SETTINGS = (
    "SELECT name, setting FROM pg_settings WHERE name !~ '^(transaction|plpgsql)' AND context = 'user' ORDER BY name"
)


@pytest.mark.parametrize("options", ["", ", strict => true", ", omit => '{day}'"])
def test_a_writer_keeps_its_settings(db: JournalDatabase, options: str):
    make_readings(db, db.new_role("typist"))
    db.run(f"SELECT changefeed.watch('readings'{options})")
    writer = db.session()
    for name, values in OTHERS.items():
        set_to(writer, name, values[0])
    before = writer.run(SETTINGS)
    writer.run("BEGIN; SET LOCAL DateStyle = 'German, YMD'; SET IntervalStyle = 'iso_8601'")
    in_transaction = writer.run(SETTINGS)
    write = "INSERT INTO public.readings SELECT * FROM public.sample; UPDATE public.readings SET f8 = f8; DELETE FROM public.readings"
    writer.run(write)
    assert writer.run(SETTINGS) == in_transaction
    writer.run("ROLLBACK")
    assert writer.run(SETTINGS) == before
    writer.run(f"BEGIN; {write}; SET DateStyle = 'SQL, MDY'; {write}; COMMIT")
    assert writer.run(SETTINGS) == [
        ("DateStyle", "SQL, MDY") if name == "DateStyle" else (name, value) for name, value in before
    ]


def test_a_truncated_partition_s_rows_are_the_same(db: JournalDatabase):
    db.run(TYPES)
    db.run("CREATE TABLE sample (k int, f float8, at timestamptz, reading reading)")
    db.run(
        "INSERT INTO sample VALUES (1, 0.1::float8 + 0.2, '2026-02-01 10:11:12+01', ROW('2026-02-01 10:00+01', 1, 'ok'))"
    )
    db.run("CREATE TABLE parts (LIKE sample) PARTITION BY LIST (k); CREATE TABLE part PARTITION OF parts DEFAULT")
    db.run("SELECT changefeed.watch('parts'); SET TimeZone = 'UTC'")
    expected = db.value("SELECT row_to_json(s)::text FROM sample AS s")
    writer = db.session()
    for name in ("TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits"):
        set_to(writer, name, OTHERS[name][0])
    writer.run("INSERT INTO parts SELECT * FROM sample; TRUNCATE part")
    assert [(entry.action, entry.data) for entry in db.entries()] == [("I", expected), ("D", expected)]


def test_hstore_is_an_object_at_every_isolation_level(db: JournalDatabase):
    if not db.run("SELECT FROM pg_available_extensions WHERE name = 'hstore'"):
        pytest.skip("this PostgreSQL has no hstore")
    role = db.new_role("typist")
    db.run(f"GRANT CREATE ON SCHEMA public TO {role}; CREATE EXTENSION hstore SCHEMA public")
    db.run(f"SET ROLE {role}; CREATE TABLE t (h hstore, hs hstore[]); RESET ROLE; SELECT changefeed.watch('t')")
    for level in LEVELS:
        db.run(f"BEGIN ISOLATION LEVEL {level}; INSERT INTO t VALUES ('a=>1', ARRAY['b=>NULL'::hstore]); COMMIT")
    assert {entry.data for entry in db.entries()} == {'{"h":{"a": "1"},"hs":[{"b": null}]}'}
