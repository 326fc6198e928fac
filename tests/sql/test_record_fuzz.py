"""Odd tables, odd values, any statements: with the triggers everything goes as without, and the journal tells it all."""

from typing import Any

import psycopg2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.journal_database import JournalDatabase

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bigint": NUMBERS,
    "smallint": st.integers(-40000, 40000),  # some out of range
    "numeric": st.decimals(allow_infinity=False).map(str) | st.integers(0, 999).map(lambda digits: "9" * (digits + 1)),
    "float8": st.floats(),
    "text": TEXTS,
    "varchar(3)": TEXTS,
    "char(4)": TEXTS,
    "bytea": st.binary(max_size=20),
    "boolean": st.booleans(),
    "timestamptz": st.datetimes().map(str),
    "date": st.sampled_from(["infinity", "0001-01-01 BC", "2026-02-28"]),
    "interval": st.sampled_from(["1 mon -3 days", "25:00:00.5"]),
    "jsonb": st.sampled_from(["{}", '{"a": [1, 1e400]}', '"\\u00e4"', "nonsense"]),
    "json": st.sampled_from([' { "a" : 1, "a": 2}', "[]", "nonsense"]),
    "uuid": st.uuids().map(str),
    "text[]": st.lists(TEXTS, max_size=3),
    "int4range": st.sampled_from(["[1,5)", "empty", "(,)", "[5,1]"]),
}
# 63 bytes are what PostgreSQL keeps of a name; n is our own.
NAMES = TEXTS.filter(
    lambda name: 0 < len(name.encode()) <= 63 and name not in ("n", "tableoid", "xmin", "cmin", "xmax")
)
TAILS = st.sampled_from(["", "NOT NULL", "UNIQUE", "DEFAULT NULL"])
KINDS = st.sampled_from(["plain", "keyed", "partitioned", "nested", "strict", "omit", "hash", "inherited"])
ACTIONS = st.sampled_from(
    ["insert", "insert", "bulk", "update", "move", "upsert", "delete", "truncate", "savepoint", "undo"]
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, list[tuple[str, str, str]], list[tuple[str, list[Any], int]]]:
    columns = draw(
        st.lists(
            st.tuples(NAMES, st.sampled_from(sorted(VALUES)), TAILS), max_size=4, unique_by=lambda column: column[0]
        )
    )
    row = st.tuples(*(st.none() | VALUES[column[1]] for column in columns)).map(list)
    steps = draw(st.lists(st.tuples(ACTIONS, row, st.integers(0, 3)), min_size=1, max_size=10))
    return draw(KINDS), columns, steps


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def make_tables(db: JournalDatabase, kind: str, columns: list[tuple[str, str, str]]) -> None:
    tails = [
        (name, type_name, "" if type_name == "json" or kind == "partitioned" else tail)
        for name, type_name, tail in columns
    ]
    listed = ", ".join(["n int", *(f"{quote(name)} {type_name} {tail}" for name, type_name, tail in tails)])
    db.run("DROP TABLE IF EXISTS plain, watched CASCADE")
    for table in ("plain", "watched"):
        if kind == "partitioned":
            db.run(f"CREATE TABLE {table} ({listed}) PARTITION BY HASH (n)")
            for part in (0, 1):
                db.run(
                    f"CREATE TABLE {table}_{part} PARTITION OF {table} FOR VALUES WITH (MODULUS 2, REMAINDER {part})"
                )
        else:
            db.run(f"CREATE TABLE {table} ({listed}{', PRIMARY KEY (n)' if kind == 'keyed' else ''})")
        if kind == "inherited":
            db.run(f"CREATE TABLE {table}_heir () INHERITS ({table})")
        if kind == "nested":
            db.run(
                f"CREATE OR REPLACE FUNCTION bump_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"UPDATE {table} SET n = n + 10 WHERE n = NEW.n AND n < 30; RETURN NULL; END $$; "
                f"CREATE TRIGGER bump AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION bump_{table}()"
            )
    omit = [columns[0][0]] if kind == "omit" and columns else []
    hashed = [name for name, _, _ in columns] if kind == "hash" else []
    db.run(
        "SELECT changefeed.watch('watched', omit => %s::text[], strict => %s, hash => %s::text[])",
        *(omit, kind == "strict", hashed),
    )
    db.forget()


def statement(action: str, table: str, columns: list[str], n: int) -> tuple[str, int]:
    """The statement, and how many times it takes the row's values."""
    places = "".join(", %s" for _ in columns)
    sets = "".join(f", {column.replace('%', '%%')} = %s" for column in columns)
    texts = {
        "insert": (f"INSERT INTO {table} VALUES ({n}{places})", 1),
        "bulk": (f"INSERT INTO {table} SELECT i{places} FROM generate_series({n}, {n + 4}) AS i", 1),
        "update": (f"UPDATE {table} SET n = n{sets} WHERE n >= {n}", 1),
        "move": (f"UPDATE {table} SET n = n + 1", 0),
        "upsert": (
            f"INSERT INTO {table} SELECT i{places} FROM generate_series({n}, {n + 2}) AS i ON CONFLICT DO NOTHING",
            1,
        ),
        "delete": (f"DELETE FROM {table} WHERE n = {n}", 0),
        "truncate": (f"TRUNCATE {table}", 0),
        "savepoint": ("SAVEPOINT s", 0),
        "undo": ("ROLLBACK TO s", 0),
    }
    return texts[action]


def attempt(db: JournalDatabase, text: str, parameters: list[Any]) -> str | None:
    """The SQLSTATE of the error, if any; the transaction goes on."""
    if not text.startswith(("SAVEPOINT", "ROLLBACK")):
        db.run("SAVEPOINT attempt")
    try:
        db.run(text, *parameters)
    except psycopg2.Error as error:
        db.run("ROLLBACK TO attempt")
        return str(error.pgcode)
    return None


def contents(db: JournalDatabase, table: str) -> list[tuple[Any, ...]]:
    return db.run(f"SELECT row_to_json(r.*)::text FROM {table} AS r ORDER BY 1")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(case=cases())
def test_the_journal_rebuilds_a_watched_table(
    db: JournalDatabase, case: tuple[str, list[tuple[str, str, str]], list[tuple[str, list[Any], int]]]
):
    kind, columns, steps = case
    if db.connection.info.transaction_status:
        db.run("ROLLBACK")  # a case that failed
    db.connection.notices.clear()
    make_tables(db, kind, columns)
    db.run("BEGIN; SAVEPOINT s; SAVEPOINT attempt")
    for action, row, n in steps:
        outcomes = []
        if action in ("savepoint", "undo"):
            db.run("SAVEPOINT s" if action == "savepoint" else "ROLLBACK TO s; SAVEPOINT attempt")
            continue
        for table in ("plain", "watched"):
            text, times = statement(action, table, [quote(name) for name, _, _ in columns], n)
            outcomes.append(attempt(db, text if row and times else text.replace("%%", "%"), row * times))
        assert outcomes[0] == outcomes[1]
    db.run("COMMIT")
    assert contents(db, "plain") == contents(db, "watched")
    assert (db.losses, db.warnings) == (0, [])
    if kind in ("omit", "hash"):
        return
    if kind == "inherited":
        db.assert_rebuilds("public.watched", "ONLY watched")
        return
    db.assert_rebuilds("public.watched")
