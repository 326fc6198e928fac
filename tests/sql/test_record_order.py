"""Order where no trigger wrote: of what one statement did to a row, what was done first is first in the journal."""

import itertools
import json
from typing import Any

import pytest

from changefeed.ordering import earlier_states
from changefeed.ordering.digests import STATES_AT_ONCE
from changefeed.ordering.earlier_states import LOOK_BACK_IDS, LOOK_BACK_STEP
from tests.journal_database import JournalDatabase

DELETING = "WITH d AS (DELETE FROM t WHERE id IN (4, 5) RETURNING *) "
MOVING = "WITH u AS (UPDATE t SET id = id + 1000 WHERE id IN (4, 5) RETURNING *) "
STATEMENTS = [
    DELETING + "INSERT INTO t SELECT id, v + 10 FROM d LIMIT 1",
    DELETING + "INSERT INTO t SELECT id, v FROM d LIMIT 1",
    DELETING + "INSERT INTO t SELECT 4, 14 WHERE EXISTS (SELECT FROM d)",
    DELETING + "UPDATE t SET id = 4 FROM (SELECT FROM d LIMIT 1) AS d WHERE id = 6",
    MOVING + "INSERT INTO t SELECT 4, 1 FROM u LIMIT 1",
    MOVING + "INSERT INTO t SELECT id - 1000, v FROM u LIMIT 1",
]


@pytest.fixture(autouse=True)
def t(db: JournalDatabase) -> None:
    db.run("CREATE TABLE t (id int PRIMARY KEY, v int); SELECT changefeed.watch('t')")


def look_back_only(monkeypatch: pytest.MonkeyPatch, limit: str, ids: int) -> None:
    monkeypatch.setattr(earlier_states, limit, ids)
    monkeypatch.setattr(earlier_states, "LOOK_BACK_STEP", 1)


def assert_keys_are_free(db: JournalDatabase, rows_there: str = "t") -> None:
    """By the key in the column id alone: who keeps rows by it has those of the table in the end."""
    rows: dict[Any, Any] = {}
    for entry in db.entries("public.t"):
        action, row = entry.action, json.loads(entry.data)
        before = row if action == "D" else json.loads(entry.old) if entry.old else None
        if before:
            assert rows.pop(before["id"]) == before
        if action != "D":
            assert row["id"] not in rows
            rows[row["id"]] = row
    assert rows == {row["id"]: row for (row,) in db.run(f"SELECT row_to_json(t.*) FROM {rows_there} AS t")}


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("is_in_function", [False, True])
@pytest.mark.parametrize("options", ["", ", strict => true", ", hash => '{v}'"])
def test_a_writing_cte_that_is_not_read_to_its_end(
    db: JournalDatabase, statement: str, is_in_function: bool, options: str
):
    db.run(f"SELECT changefeed.watch('t'{options})")
    db.run("INSERT INTO t VALUES (4, 4), (5, 5), (6, 6), (7, 7)")
    if is_in_function:
        db.run(f"CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {statement}; END $$; SELECT f()")
    else:
        db.run(statement)
    assert_keys_are_free(
        db, "(SELECT id, changefeed.hash('t', 'v', v::text) AS v FROM t)" if "hash" in options else "t"
    )


@pytest.mark.parametrize("statement", [statement for statement in STATEMENTS if "v FROM" not in statement])
def test_a_writing_cte_of_a_table_without_a_key(db: JournalDatabase, statement: str):
    db.run("INSERT INTO t VALUES (4, 4), (5, 5), (6, 6), (7, 7)")
    db.run(statement)
    db.run("ALTER TABLE t DROP CONSTRAINT t_pkey")
    assert_keys_are_free(db)


def test_rows_of_the_same_deferrable_key_are_not_taken_for_one(db: JournalDatabase):
    db.run("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text)")
    db.run("SELECT changefeed.watch('t')")
    assert "two rows of public.t may have the same key" in db.connection.notices[-1]
    db.run("INSERT INTO t VALUES (7, 'old')")
    db.run("INSERT INTO t VALUES (7, 'a'); UPDATE t SET v = 'b' WHERE v = 'a'; DELETE FROM t WHERE v = 'b'")
    assert [entry.action for entry in db.entries("public.t")] == ["I", "I", "U", "D"]


def test_plain_statements_keep_their_order(db: JournalDatabase):
    """Whatever they did, and whether or not the row ends as it began."""
    db.run("INSERT INTO t VALUES (1, 1), (2, 2); CREATE TABLE u (id int); SELECT changefeed.watch('u')")
    db.run("INSERT INTO u VALUES (1), (2)")
    db.forget()
    db.run("BEGIN; DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 5); UPDATE t SET v = 1 WHERE id = 1; COMMIT")
    db.run("BEGIN; UPDATE t SET v = 3 WHERE id = 2; UPDATE t SET v = 2 WHERE id = 2; COMMIT")
    db.run("BEGIN; INSERT INTO t VALUES (3, 3); DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (3, 3); COMMIT")
    db.run(
        "BEGIN; UPDATE u SET id = 3 WHERE id = 2; UPDATE u SET id = 2 WHERE id = 1; DELETE FROM u WHERE id = 3; COMMIT"
    )
    assert [(action, row.get("v", row["id"])) for action, row in db.changes()] == [
        ("D", 1), ("I", 5), ("U", 1), ("U", 3), ("U", 2), ("I", 3), ("D", 3), ("I", 3), ("U", 3), ("U", 2), ("D", 3)
    ]  # fmt: skip


COMING = (
    "INSERT INTO t SELECT * FROM kept WHERE id <= {rows}",
    "UPDATE t SET id = id - 10 WHERE id BETWEEN 11 AND 10 + {rows}",
)
GOING = ("DELETE FROM t WHERE id <= {rows}", "UPDATE t SET id = id + 20 WHERE id <= {rows}")


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
@pytest.mark.parametrize("options", ["", ", strict => true", ", hash => '{v}'"])
@pytest.mark.parametrize("type_name", ["int", "mood"])
@pytest.mark.parametrize("rows", [1, 2])
def test_plain_statements_keep_their_order_if_a_row_is_restored(
    db: JournalDatabase, isolation: str, options: str, type_name: str, rows: int
):
    """Also where the last change of the row before them is too far back."""
    db.run(f"CREATE TYPE mood AS ENUM ('1', '2'); ALTER TABLE t ALTER v TYPE {type_name} USING v::text::{type_name}")
    db.run("CREATE TABLE kept AS TABLE t; INSERT INTO kept VALUES (1, '1'), (2, '2')")
    db.run(f"CREATE TABLE u (n int); SELECT changefeed.watch('u'), changefeed.watch('t'{options})")
    for coming, going, comes_first in itertools.product(COMING, GOING, (True, False)):
        db.run("DELETE FROM t")
        if coming.startswith("UPDATE"):
            db.run("INSERT INTO t SELECT id + 10, v FROM kept")
        if not comes_first:
            db.run("INSERT INTO t SELECT * FROM kept")
        db.run(f"INSERT INTO u SELECT generate_series(1, {LOOK_BACK_IDS + LOOK_BACK_STEP})")
        before = len(db.entries())
        statements = "; ".join((coming, going) if comes_first else (going, coming)).format(rows=rows)
        db.run(f"BEGIN ISOLATION LEVEL {isolation}; {statements}; COMMIT")
        recorded = db.run("SELECT action::text, data::text FROM changefeed.journal ORDER BY id OFFSET %s", before)
        assert len(recorded) == 2 * rows
        assert [(entry.action, entry.data) for entry in db.entries()[before:]] == recorded, statements


@pytest.fixture
def nested_t(db: JournalDatabase) -> None:
    """A transaction that writes to `n` has its changes of `t` ordered by the rows' states."""
    db.run("CREATE TABLE u (n int); CREATE TABLE n (n int); SELECT changefeed.watch('u')")
    db.run(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (9, 9); RETURN NULL; END $$"
    )
    db.run("CREATE TRIGGER x AFTER INSERT ON n FOR EACH ROW EXECUTE FUNCTION f()")


@pytest.mark.usefixtures("nested_t")
def test_a_row_older_than_the_lookback(db: JournalDatabase):
    db.run("INSERT INTO t VALUES (1, 1), (2, 2)")
    ours = db.session()
    ours.run("BEGIN; INSERT INTO n VALUES (1); DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 1)")
    db.run(f"INSERT INTO u SELECT generate_series(1, {LOOK_BACK_IDS + LOOK_BACK_STEP})")
    ours.run("DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2, 2); COMMIT")
    assert_keys_are_free(db)


@pytest.mark.usefixtures("nested_t")
def test_a_short_lived_row_in_a_long_transaction(db: JournalDatabase):
    db.run("INSERT INTO t VALUES (2, 2)")
    ours = db.session()
    ours.run("BEGIN; INSERT INTO n VALUES (1); DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2, 2)")
    db.run(
        f"BEGIN; INSERT INTO t VALUES (1, 1); INSERT INTO u SELECT generate_series(1, {STATES_AT_ONCE});"
        "DELETE FROM t WHERE id = 1; COMMIT"
    )
    ours.run("INSERT INTO t VALUES (1, 1); DELETE FROM t WHERE id = 1; COMMIT")
    assert_keys_are_free(db)


REFERENCES = "ADD CONSTRAINT f{0} FOREIGN KEY (p{0}) REFERENCES par ON DELETE {1}"
PARTITIONS = "CREATE TABLE r (id int PRIMARY KEY, p1 int, p2 int) PARTITION BY RANGE (id); CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (100)"
CHILDREN = "CREATE TABLE r (id int PRIMARY KEY, p1 int, p2 int); CREATE TABLE r1 (PRIMARY KEY (id)) INHERITS (r)"


@pytest.mark.parametrize(("tables", "table"), [(PARTITIONS, "r"), (CHILDREN, "r1")])
@pytest.mark.parametrize("since", ["", "ALTER TABLE r1 DROP CONSTRAINT f1, DROP CONSTRAINT f2"])
@pytest.mark.parametrize("rows", [1, 3])
def test_foreign_keys_of_a_partition_or_a_child(db: JournalDatabase, tables: str, table: str, since: str, rows: int):
    db.run(f"CREATE TABLE par (id int PRIMARY KEY); {tables}")
    db.run(f"ALTER TABLE r1 {REFERENCES.format(2, 'CASCADE')}; ALTER TABLE r1 {REFERENCES.format(1, 'SET NULL')}")
    db.run(f"SELECT changefeed.watch('r'), changefeed.watch('{table}'); INSERT INTO par VALUES (1), (2)")
    db.run(f"INSERT INTO {table} SELECT i, 1, 2 FROM generate_series(1, {rows}) AS i")
    db.run("DELETE FROM par WHERE id IN (1, 2)")
    db.run(since or "SELECT")
    assert [action for action, _ in db.changes(f"public.{table}")] == ["I"] * rows + ["U"] * rows + ["D"] * rows


@pytest.mark.parametrize("rows", [1, 3])
def test_foreign_keys_of_a_table_without_a_key(db: JournalDatabase, rows: int):
    db.run("CREATE TABLE par (id int PRIMARY KEY); CREATE TABLE r (p1 int, p2 int); SELECT changefeed.watch('r')")
    db.run(f"ALTER TABLE r {REFERENCES.format(2, 'CASCADE')}; ALTER TABLE r {REFERENCES.format(1, 'SET NULL')}")
    db.run("INSERT INTO par VALUES (1), (2)")
    db.run(f"INSERT INTO r SELECT 1, 2 FROM generate_series(1, {rows}) AS i; DELETE FROM par WHERE id IN (1, 2)")
    db.run("ALTER TABLE r DROP CONSTRAINT f1, DROP CONSTRAINT f2")
    db.assert_rebuilds("public.r")


def test_a_keyless_row_that_comes_and_goes_with_its_parent(db: JournalDatabase):
    db.run("CREATE TABLE par (id int PRIMARY KEY); CREATE TABLE r (p1 int); SELECT changefeed.watch('r')")
    db.run(f"ALTER TABLE r {REFERENCES.format(1, 'CASCADE')}; INSERT INTO par VALUES (1)")
    db.run("WITH i AS (INSERT INTO r VALUES (1)) DELETE FROM par")
    db.assert_rebuilds("public.r")


def test_tables_whose_names_differ_only_in_where_the_dot_is_quoted(db: JournalDatabase):
    tables = ('a."b.c"', '"a.b".c')
    db.run('CREATE SCHEMA a; CREATE SCHEMA "a.b"')
    for number, table in enumerate(tables):
        db.run(f"CREATE TABLE {table} (id int PRIMARY KEY, v int); SELECT changefeed.watch('{table}')")
        db.run(
            f"CREATE FUNCTION f{number}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN UPDATE {table} SET v = v + 1 WHERE id = NEW.id; RETURN NULL; END $$"
        )
        db.run(f"CREATE TRIGGER x AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION f{number}()")
    db.run("BEGIN; " + "".join(f"INSERT INTO {table} VALUES (2, 1); " for table in tables) + "COMMIT")
    assert [(action, row["v"]) for action, row in db.changes()] == [("I", 1), ("U", 2)] * 2


BETWEEN = (
    "CREATE TABLE child (t int REFERENCES t)",
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO u VALUES (1); RETURN NULL; END $$;"
    "CREATE TABLE u (n int); CREATE TRIGGER x AFTER INSERT OR DELETE ON t EXECUTE FUNCTION f()",
)


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("rows", [1, 3])
def test_an_equal_row_in_its_place_where_other_commands_come_in_between(db: JournalDatabase, between: str, rows: int):
    """Then the numbers of the commands do not show that one statement did both; the row's last change does."""
    db.run(between)
    db.run(f"INSERT INTO t SELECT i, i FROM generate_series(1, {rows}) AS i")
    db.run("WITH d AS (DELETE FROM t RETURNING id) INSERT INTO t SELECT id, id FROM d LIMIT 1")
    assert_keys_are_free(db)
    db.run("BEGIN; INSERT INTO t VALUES (8, 8); DELETE FROM t WHERE id = 8; COMMIT")
    assert_keys_are_free(db)


def test_a_truncated_partition_is_no_part_of_the_statement_before(db: JournalDatabase, monkeypatch: pytest.MonkeyPatch):
    """Also where the row's last change before is not known."""
    look_back_only(monkeypatch, "PLAIN_LOOK_BACK_IDS", 0)
    db.run("CREATE TABLE r (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    db.run("CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (100); SELECT changefeed.watch('r')")
    db.run("INSERT INTO t VALUES (1, 1)")
    db.run("BEGIN; INSERT INTO r VALUES (1); TRUNCATE r1; COMMIT")
    assert [action for action, _ in db.changes("public.r")] == ["I", "D"]


DELETED_AT_ONCE = (
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM t WHERE id = NEW.id; RETURN NULL; END $$;"
    "CREATE TRIGGER x AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"
)


def test_a_lookback_that_sees_only_the_end_of_a_transaction_in_which_triggers_wrote(
    db: JournalDatabase, monkeypatch: pytest.MonkeyPatch
):
    """The deletions, whose ids are lower, happened after the insertions that it sees."""
    look_back_only(monkeypatch, "LOOK_BACK_IDS", 20)
    db.run(DELETED_AT_ONCE)
    for _ in range(2):
        db.run("INSERT INTO t SELECT i, i FROM generate_series(1, 15) AS i")
    assert_keys_are_free(db)


def test_a_lookback_that_sees_only_the_end_of_a_plain_transaction(db: JournalDatabase, monkeypatch: pytest.MonkeyPatch):
    look_back_only(monkeypatch, "LOOK_BACK_IDS", 20)
    db.run("INSERT INTO t SELECT i, i FROM generate_series(1, 30) AS i")
    db.run(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM t WHERE id = NEW.id; RETURN NEW; END $$;"
        "CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"
    )
    db.run(
        "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM FROM t; RETURN NULL; END $$;"
        "CREATE TRIGGER y AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION g()"
    )
    db.run("INSERT INTO t VALUES (30, 30)")
    assert_keys_are_free(db)


FREEING = (
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM t WHERE id = NEW.id; RETURN NEW; END $$;"
    "CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();"
    "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM FROM t; RETURN NULL; END $$;"
    "CREATE TRIGGER y AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION g()"
)


def test_a_transaction_that_ends_later_does_not_take_up_the_lookback(
    db: JournalDatabase, monkeypatch: pytest.MonkeyPatch
):
    """The order is the same before and after it is visible."""
    look_back_only(monkeypatch, "LOOK_BACK_IDS", 20)
    db.run("CREATE TABLE u (n int); SELECT changefeed.watch('u')")
    db.run(FREEING)
    db.run("INSERT INTO t SELECT i, i FROM generate_series(1, 4) AS i")
    other = db.session()
    db.run("BEGIN; INSERT INTO t VALUES (1, 1), (2, 2)")
    other.run("BEGIN; INSERT INTO u SELECT generate_series(1, 100)")
    db.run("INSERT INTO t VALUES (3, 3), (4, 4); COMMIT")
    assert_keys_are_free(db)
    before = [(entry.action, entry.data) for entry in db.entries("public.t")]
    other.run("COMMIT")
    assert [(entry.action, entry.data) for entry in db.entries("public.t")] == before


@pytest.mark.parametrize(
    "seen",
    [
        "ALTER TABLE t DISABLE TRIGGER x; BEGIN; DELETE FROM t; INSERT INTO t VALUES (1, 1); COMMIT; ALTER TABLE t ENABLE TRIGGER x",
        "BEGIN; UPDATE t SET id = id + 100; UPDATE t SET id = id - 100; COMMIT",
    ],
)
def test_a_row_that_a_young_journal_has_seen_is_not_new(db: JournalDatabase, seen: str):
    db.run("SELECT changefeed.unwatch('t')")
    db.run("INSERT INTO t VALUES (1, 1)")
    db.run(FREEING)
    db.run("SELECT changefeed.watch('t')")
    for statement in seen.split("; "):
        db.run(statement)
    db.run("INSERT INTO t VALUES (1, 1)")
    *_, deleted, inserted = db.entries("public.t")
    assert (deleted.action, inserted.action) == ("D", "I")
