"""Order where triggers and foreign keys write too: what was first done to a row is first in the journal."""

from collections import Counter

import pytest

from tests.journal_database import JournalDatabase

FUNCTION = "CREATE FUNCTION {0}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {1} END $$;"


@pytest.fixture(autouse=True)
def orders(db: JournalDatabase) -> None:
    db.run("CREATE TABLE orders (id int PRIMARY KEY, status text); SELECT changefeed.watch('orders')")


def make_trigger(db: JournalDatabase, when: str, body: str, name: str = "nested") -> None:
    db.run(FUNCTION.format(name, body) + f"CREATE TRIGGER {name} {when} FOR EACH ROW EXECUTE FUNCTION {name}()")


COOK = "IF NEW.status = 'raw' THEN UPDATE orders SET status = 'cooked' WHERE id = NEW.id; END IF; RETURN NULL;"


def test_what_an_after_trigger_does_to_the_row_comes_after_it(db: JournalDatabase):
    make_trigger(db, "AFTER INSERT OR UPDATE ON orders", COOK)
    db.run("INSERT INTO orders VALUES (1, 'raw'), (2, 'raw'), (3, 'done')")
    db.run("UPDATE orders SET status = 'raw'")
    db.assert_rebuilds("public.orders")
    assert Counter(action for action, _ in db.changes()) == {"I": 3, "U": 8}


def test_triggers_within_triggers_within_triggers(db: JournalDatabase):
    make_trigger(
        db,
        "AFTER UPDATE ON orders",
        "IF length(NEW.status) < 5 THEN UPDATE orders SET status = NEW.status || 'x' WHERE id = NEW.id; END IF; "
        "RETURN NULL;",
    )
    db.run("BEGIN; INSERT INTO orders VALUES (1, ''), (2, ''); UPDATE orders SET status = 'a'")
    db.run("UPDATE orders SET status = 'b' WHERE id = 1; COMMIT")
    db.assert_rebuilds("public.orders")


@pytest.mark.parametrize("name", ["a", "zz"])
def test_trigger_writes_stay_with_their_statement(db: JournalDatabase, name: str):
    """Nothing but the order of the statements tells: the row, which has no key, ends as it began."""
    db.run("CREATE TABLE heap (n int); SELECT changefeed.watch('heap'); INSERT INTO heap VALUES (0)")
    db.run(FUNCTION.format(name, "UPDATE heap SET n = 1 WHERE n = 0; RETURN NULL;"))
    db.run(f"CREATE TRIGGER {name} AFTER INSERT ON heap FOR EACH STATEMENT EXECUTE FUNCTION {name}()")
    db.run("BEGIN; INSERT INTO heap VALUES (7); UPDATE heap SET n = 0 WHERE n = 1; COMMIT")
    assert [row["n"] for action, row in db.changes() if action == "U"] == [1, 0]


def test_what_a_before_trigger_makes_room_for_comes_before(db: JournalDatabase):
    make_trigger(db, "BEFORE INSERT ON orders", "DELETE FROM orders WHERE id = NEW.id; RETURN NEW;")
    db.run("BEGIN; INSERT INTO orders VALUES (1, 'a'); INSERT INTO orders VALUES (1, 'b'), (2, 'c'); COMMIT")
    db.run("INSERT INTO orders VALUES (2, 'd')")
    db.assert_rebuilds("public.orders")


def test_a_rollback_to_a_savepoint_between_them(db: JournalDatabase):
    make_trigger(db, "AFTER INSERT OR UPDATE ON orders", COOK)
    db.run("BEGIN; INSERT INTO orders VALUES (1, 'raw'); SAVEPOINT s; INSERT INTO orders VALUES (2, 'raw')")
    db.run("ROLLBACK TO s; UPDATE orders SET status = 'raw'; SAVEPOINT t; UPDATE orders SET status = 'raw'")
    db.run("ROLLBACK TO t; INSERT INTO orders VALUES (2, 'raw'); RELEASE s; UPDATE orders SET id = id + 10; COMMIT")
    db.assert_rebuilds("public.orders")


def test_an_exception_that_a_trigger_catches(db: JournalDatabase):
    make_trigger(
        db,
        "AFTER INSERT ON orders",
        "BEGIN UPDATE orders SET status = 'lost' WHERE id = NEW.id; RAISE; EXCEPTION WHEN OTHERS THEN "
        "UPDATE orders SET status = 'kept' WHERE id = NEW.id; END; RETURN NULL;",
    )
    db.run("INSERT INTO orders VALUES (1, 'a'), (2, 'b')")
    db.assert_rebuilds("public.orders")
    assert {row["status"] for _, row in db.changes()} == {"a", "b", "kept"}


def test_earlier_entries_of_the_transaction_stay_where_they_are(db: JournalDatabase):
    db.run("CREATE TABLE unwatched (id int)")
    make_trigger(db, "AFTER INSERT ON unwatched", "INSERT INTO orders VALUES (NEW.id, 'n'); RETURN NULL;")
    db.run("BEGIN; INSERT INTO orders VALUES (1, 'a'); INSERT INTO unwatched VALUES (2); DELETE FROM orders; COMMIT")
    db.assert_rebuilds("public.orders")


@pytest.mark.parametrize("name", ["a", "zz"])
@pytest.mark.parametrize("when", ["BEFORE", "AFTER"])
def test_triggers_for_a_statement_that_write_around_it(db: JournalDatabase, when: str, name: str):
    db.run(
        FUNCTION.format(name, "DELETE FROM orders; INSERT INTO orders VALUES (7, TG_OP); RETURN NULL;")
        + f"CREATE TRIGGER {name} {when} INSERT OR TRUNCATE ON orders FOR EACH STATEMENT "
        f"WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION {name}()"
    )
    db.run("BEGIN; INSERT INTO orders VALUES (1, 'a'); INSERT INTO orders VALUES (2, 'b')")
    db.run("SAVEPOINT s; TRUNCATE orders; INSERT INTO orders VALUES (3, 'c'); COMMIT")
    db.assert_rebuilds("public.orders")


def test_a_truncate_after_nested_writes_of_the_same_transaction(db: JournalDatabase):
    make_trigger(db, "AFTER INSERT OR UPDATE ON orders", COOK)
    db.run("BEGIN; INSERT INTO orders VALUES (1, 'raw'); TRUNCATE orders; INSERT INTO orders VALUES (2, 'raw'); COMMIT")
    db.assert_rebuilds("public.orders")


def test_a_function_s_statements_keep_their_order(db: JournalDatabase):
    make_trigger(db, "AFTER INSERT OR UPDATE ON orders", COOK)
    db.run(
        "DO $$ BEGIN INSERT INTO orders VALUES (1, 'raw'); UPDATE orders SET status = 'raw'; DELETE FROM orders; END $$"
    )
    db.run("DO $$ BEGIN FOR i IN 1..20 LOOP INSERT INTO orders VALUES (1, 'raw'); DELETE FROM orders; END LOOP; END $$")
    db.assert_rebuilds("public.orders")


def test_an_upsert_with_a_trigger(db: JournalDatabase):
    make_trigger(db, "AFTER INSERT OR UPDATE ON orders", COOK)
    db.run("INSERT INTO orders VALUES (1, 'raw'), (2, 'raw')")
    db.run("INSERT INTO orders VALUES (1, 'raw'), (3, 'raw') ON CONFLICT (id) DO UPDATE SET status = 'raw'")
    db.assert_rebuilds("public.orders")


def test_a_deferred_constraint_trigger_writes_last(db: JournalDatabase):
    db.run(
        FUNCTION.format("late", "UPDATE orders SET status = 'late' WHERE id = NEW.id; RETURN NULL;")
        + "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION late()"
    )
    db.run("BEGIN; INSERT INTO orders VALUES (1, 'a'), (2, 'b'); UPDATE orders SET status = 'c'; COMMIT")
    db.assert_rebuilds("public.orders")
    assert db.changes()[-1] == ("U", {"id": 2, "status": "late"})


LINES = "CREATE TABLE lines (id int PRIMARY KEY, a int REFERENCES orders ON DELETE {0} ON UPDATE CASCADE{1});"


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL"])
def test_a_foreign_key_s_cascade(db: JournalDatabase, action: str):
    db.run(LINES.format(action, "") + "SELECT changefeed.watch('lines')")
    db.run("BEGIN; INSERT INTO orders VALUES (1), (2); INSERT INTO lines VALUES (1, 1), (2, 1), (3, 2)")
    db.run("UPDATE orders SET id = id + 10; DELETE FROM orders WHERE id = 11; COMMIT")
    db.run("DELETE FROM orders")
    for table in ("public.orders", "public.lines"):
        db.assert_rebuilds(table)


def test_a_cascade_from_an_unwatched_table_comes_last(db: JournalDatabase):
    db.run(LINES.format("CASCADE", "") + "SELECT changefeed.watch('lines'), changefeed.unwatch('orders')")
    db.run("BEGIN; INSERT INTO orders VALUES (1); INSERT INTO lines VALUES (1, 1); DELETE FROM orders; COMMIT")
    db.assert_rebuilds("public.lines")


def test_two_foreign_keys_that_touch_the_same_row(db: JournalDatabase):
    db.run(LINES.format("SET NULL", ", b int REFERENCES orders ON DELETE CASCADE") + "SELECT changefeed.watch('lines')")
    db.run("INSERT INTO orders VALUES (1), (2), (3); INSERT INTO lines VALUES (1, 1, 1), (2, 1, 2), (3, 2, 1)")
    db.run("DELETE FROM orders WHERE id < 3")
    db.assert_rebuilds("public.lines")
    assert db.value("SELECT count(*) FROM lines") == 0


def test_a_cascade_whose_rows_have_triggers_of_their_own(db: JournalDatabase):
    db.run(LINES.format("SET NULL", "") + "SELECT changefeed.watch('lines')")
    make_trigger(
        db,
        "AFTER UPDATE ON lines",
        "IF NEW.a IS NULL THEN UPDATE lines SET a = 9 WHERE id = NEW.id; END IF; RETURN NULL;",
    )
    db.run("BEGIN; INSERT INTO orders VALUES (1), (9); INSERT INTO lines VALUES (1, 1), (2, 1)")
    db.run("UPDATE lines SET a = NULL WHERE id = 2; DELETE FROM orders WHERE id = 1; COMMIT")
    db.assert_rebuilds("public.lines")


def test_a_tree_that_deletes_itself(db: JournalDatabase):
    db.run("CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE)")
    db.run("SELECT changefeed.watch('tree')")
    db.run(
        "BEGIN; INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2), (4, 3), (5, NULL); DELETE FROM tree WHERE id = 1; COMMIT"
    )
    db.assert_rebuilds("public.tree")
    assert [action for action, _ in db.changes()] == ["I"] * 5 + ["D"] * 4


def test_two_foreign_keys_with_the_later_action_first(db: JournalDatabase):
    db.run(LINES.format("SET NULL", ", b int REFERENCES orders ON DELETE CASCADE") + "SELECT changefeed.watch('lines')")
    db.run("INSERT INTO orders VALUES (1), (2); INSERT INTO lines VALUES (10, 1, 2)")
    db.run("DELETE FROM orders WHERE id IN (1, 2)")
    db.assert_rebuilds("public.lines")
    assert [action for action, _ in db.changes("public.lines")] == ["I", "U", "D"]


def test_a_tree_whose_rows_have_two_parents(db: JournalDatabase):
    db.run(
        "CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE, "
        "beside int REFERENCES tree ON DELETE SET NULL); SELECT changefeed.watch('tree')"
    )
    db.run("INSERT INTO tree VALUES (1, NULL, NULL), (2, NULL, NULL), (3, 2, 1), (4, 3, 2), (5, 1, 4)")
    db.run("DELETE FROM tree WHERE id IN (1, 2)")
    db.assert_rebuilds("public.tree")


CURRENT = "CREATE TABLE terms (id int PRIMARY KEY, grp int, cur boolean, seen timestamptz);"


def test_a_before_trigger_that_writes_to_its_statements_rows(db: JournalDatabase):
    db.run(CURRENT + "SELECT changefeed.watch('terms')")
    make_trigger(
        db,
        "BEFORE INSERT ON terms",
        "IF NEW.cur THEN UPDATE terms SET cur = false WHERE grp = NEW.grp AND cur; END IF; RETURN NEW;",
    )
    db.run("INSERT INTO terms VALUES (1, 1, true), (2, 1, true)")
    db.assert_rebuilds("public.terms")


def test_an_upsert_whose_two_actions_have_a_trigger_each(db: JournalDatabase):
    db.run(CURRENT + "SELECT changefeed.watch('terms')")
    make_trigger(db, "BEFORE INSERT ON terms", "NEW.seen := now(); RETURN NEW;", "stamp")
    make_trigger(
        db,
        "AFTER UPDATE ON terms",
        "IF NEW.cur THEN UPDATE terms SET cur = false WHERE grp = NEW.grp AND id <> NEW.id AND cur; END IF; RETURN NULL;",
    )
    db.run("INSERT INTO terms VALUES (2, 1, false)")
    db.run(
        "INSERT INTO terms VALUES (1, 1, true), (2, 1, true) ON CONFLICT (id) DO UPDATE SET cur = excluded.cur, seen = now()"
    )
    db.assert_rebuilds("public.terms")


@pytest.mark.parametrize("status", ["raw", "same"])
def test_a_row_that_is_replaced_by_its_equal(db: JournalDatabase, status: str):
    make_trigger(db, "BEFORE INSERT ON orders", "DELETE FROM orders WHERE id = NEW.id; RETURN NEW;")
    db.run("INSERT INTO orders VALUES (1, 'same')")
    db.run("INSERT INTO orders VALUES (1, %s)", status)
    assert [action for action, _ in db.changes()] == ["I", "D", "I"]
    db.assert_rebuilds("public.orders")


def test_a_row_that_goes_as_it_came(db: JournalDatabase):
    make_trigger(db, "AFTER INSERT ON orders", "DELETE FROM orders WHERE id = NEW.id; RETURN NULL;")
    db.run("INSERT INTO orders VALUES (1, 'a'), (2, 'b')")
    assert [action for action, row in db.changes() if row["id"] == 2] == ["I", "D"]
    db.assert_rebuilds("public.orders")


def test_a_row_that_goes_to_a_state_and_back_between_two_others(db: JournalDatabase):
    """What is emitted first, by the order of the statements alone, leaves a circuit over."""
    make_trigger(
        db,
        "AFTER UPDATE ON orders",
        "IF NEW.status = 'b' AND OLD.status = 'a' THEN UPDATE orders SET status = 'c' WHERE id = NEW.id; "
        "ELSIF NEW.status = 'c' THEN UPDATE orders SET status = 'b' WHERE id = NEW.id; END IF; RETURN NULL;",
    )
    db.run("INSERT INTO orders VALUES (1, 'a')")
    db.run("BEGIN; UPDATE orders SET status = 'b'; UPDATE orders SET status = 'd'; COMMIT")
    assert [row["status"] for _, row in db.changes()] == ["a", "b", "c", "b", "d"]
    db.assert_rebuilds("public.orders")


def test_a_column_that_comes_between_nested_writes(db: JournalDatabase):
    make_trigger(db, "AFTER INSERT OR UPDATE ON orders", COOK)
    db.run("BEGIN; INSERT INTO orders VALUES (1, 'raw'); ALTER TABLE orders ADD COLUMN n int DEFAULT 7")
    db.run("UPDATE orders SET status = 'raw'; COMMIT")
    assert [(action, row.get("n")) for action, row in db.changes()] == [("I", None), ("U", None), ("U", 7), ("U", 7)]
    assert [row["status"] for _, row in db.changes()] == ["raw", "cooked", "raw", "cooked"]


def test_a_row_that_comes_before_ddl_and_goes_after_it(db: JournalDatabase):
    make_trigger(db, "AFTER UPDATE ON orders", COOK)
    db.run("ALTER TABLE orders ADD parent int REFERENCES orders ON DELETE SET NULL")
    db.run("BEGIN; INSERT INTO orders VALUES (1, 'a'); ALTER TABLE orders ADD COLUMN n int; DELETE FROM orders; COMMIT")
    assert [(action, sorted(row)[1]) for action, row in db.changes()] == [("I", "parent"), ("D", "n")]


def test_a_row_replaced_by_its_equal_after_ddl_is_known(db: JournalDatabase):
    """What it was before cannot be compared with what it is now; but that it was, decides."""
    make_trigger(
        db,
        "AFTER DELETE ON orders",
        "INSERT INTO orders VALUES (OLD.id, 'a'); UPDATE orders SET status = 'b'; UPDATE orders SET status = 'a'; RETURN NULL;",
    )
    make_trigger(db, "BEFORE DELETE ON orders", "PERFORM 'orders'; RETURN OLD;", name="another")
    db.run("INSERT INTO orders VALUES (1, 'a'); ALTER TABLE orders ADD COLUMN n int")
    db.run("DELETE FROM orders")
    assert [action for action, _ in db.changes()] == ["I", "D", "I", "U", "U"]


def test_a_parents_trigger_writes_to_the_same_child(db: JournalDatabase):
    """Too much is recorded in between for what the row was before to tell."""
    db.run("CREATE TABLE special (PRIMARY KEY (id)) INHERITS (orders); SELECT changefeed.watch('special')")
    db.run(FUNCTION.format("again", "INSERT INTO special VALUES (1, 'a'); RETURN NULL;"))
    db.run("CREATE TRIGGER again AFTER DELETE ON orders FOR EACH STATEMENT EXECUTE FUNCTION again()")
    db.run("INSERT INTO special VALUES (1, 'a')")
    db.run("INSERT INTO orders SELECT i, 'b' FROM generate_series(2, 2100) AS i")
    db.run("DELETE FROM orders WHERE id = 1")
    assert [action for action, _ in db.changes("public.special")] == ["I", "D", "I"]


def test_a_statement_during_a_rotation_of_the_journal(db: JournalDatabase):
    make_trigger(
        db,
        "AFTER INSERT OR UPDATE ON orders",
        "IF NEW.status = 'raw' THEN UPDATE orders SET status = 'cooked' WHERE id = NEW.id; "
        "PERFORM setval('changefeed.slot', NEW.id / 10 % 8); END IF; RETURN NULL;",
    )
    db.run("INSERT INTO orders SELECT i, 'raw' FROM generate_series(0, 79) AS i")
    assert db.value("SELECT count(DISTINCT slot) FROM changefeed.journal") == 8
    db.assert_rebuilds("public.orders")


def test_a_table_without_a_key(db: JournalDatabase):
    db.run("CREATE TABLE heap (n int); SELECT changefeed.watch('heap')")
    make_trigger(
        db,
        "AFTER INSERT OR UPDATE ON heap",
        "IF NEW.n < 3 THEN UPDATE heap SET n = n + 1 WHERE n = NEW.n; END IF; RETURN NULL;",
    )
    db.run("INSERT INTO heap VALUES (0), (0), (1), (7)")
    db.run("BEGIN; UPDATE heap SET n = 1; INSERT INTO heap VALUES (2); DELETE FROM heap WHERE n = 3; COMMIT")
    db.assert_rebuilds("public.heap")


@pytest.mark.parametrize(
    ("key", "equals"),
    [("numeric", ["1.0", "1.00"]), ("float8", ["0", "-0"]), ("char(3)", ["a", "a"]), ("bpchar", ["a", "a "]),
     ("citext", ["Ann", "ANN"]), ("amount", ["1", "1.0"])],
)  # fmt: skip
def test_keys_that_are_equal_and_written_otherwise(db: JournalDatabase, key: str, equals: list[str]):
    if key == "citext":
        if not db.run("SELECT FROM pg_available_extensions WHERE name = 'citext'"):
            pytest.skip("this PostgreSQL has no citext")
        db.run("CREATE EXTENSION citext")
    db.run("CREATE DOMAIN price AS numeric; CREATE DOMAIN amount AS price")
    db.run(f"CREATE TABLE named (id {key}, n int, PRIMARY KEY (id) INCLUDE (n)); SELECT changefeed.watch('named')")
    make_trigger(
        db,
        "AFTER DELETE ON named",
        f"IF OLD.n < 3 THEN INSERT INTO named VALUES ('{equals[1]}', OLD.n + 2); END IF; RETURN NULL;",
    )
    db.run("INSERT INTO named VALUES (%s, 1)", equals[0])
    db.run("DELETE FROM named")
    db.run("DELETE FROM named")
    assert [(action, row["n"]) for action, row in db.changes()] == [("I", 1), ("D", 1), ("I", 3), ("D", 3)]


def test_columns_that_are_left_out_or_hashed(db: JournalDatabase):
    db.run("SELECT changefeed.watch('orders', omit => '{id}', hash => '{status}')")
    make_trigger(db, "AFTER INSERT OR UPDATE ON orders", COOK)
    db.run("INSERT INTO orders VALUES (1, 'raw'), (2, 'raw'); UPDATE orders SET status = 'raw'")
    db.assert_rebuilds("public.orders", "(SELECT changefeed.hash('orders', 'status', status) AS status FROM orders)")


REMOVE = "AFTER INSERT ON orders", "DELETE FROM orders WHERE id = NEW.id AND status <> 'kept'; RETURN NULL;"
BRING_BACK = (
    "AFTER DELETE ON orders",
    "IF pg_trigger_depth() = 1 THEN INSERT INTO orders VALUES (OLD.id, OLD.status); END IF; RETURN NULL;",
)


@pytest.mark.parametrize(
    ("before", "trigger", "statement", "order"),
    [
        # What the transaction before did after a TRUNCATE, or without one.
        (
            "INSERT INTO orders VALUES (6, 'old'); "
            "BEGIN; TRUNCATE orders; INSERT INTO orders VALUES (6, 'new'); DELETE FROM orders; COMMIT",
            REMOVE,
            "INSERT INTO orders VALUES (6, 'x')",
            "ID",
        ),
        (
            "INSERT INTO orders VALUES (6, 'old'); DELETE FROM orders",
            REMOVE,
            "INSERT INTO orders VALUES (6, 'x')",
            "ID",
        ),
        # A count, or a loss, stands for what it did: nobody knows, and the triggers decide.
        (
            "INSERT INTO orders VALUES (6, 'x'); INSERT INTO orders VALUES (7, 'x'), (8, 'x'), (9, 'x'); DELETE FROM orders",
            REMOVE,
            "INSERT INTO orders VALUES (6, 'x')",
            "ID",
        ),
        (
            "INSERT INTO orders VALUES (6, 'x'); SELECT changefeed.unwatch('orders'); DELETE FROM orders; "
            "SELECT changefeed.watch('orders', row_limit => 2); INSERT INTO changefeed.journal "
            "(slot, at, action, schema_name, table_name) VALUES (0, now(), 'L', 'public', 'orders')",
            REMOVE,
            "INSERT INTO orders VALUES (6, 'x')",
            "ID",
        ),
        # It left the row as it was: there.
        ("UPDATE orders SET status = status", BRING_BACK, "DELETE FROM orders WHERE id = 1", "DI"),
        (
            "BEGIN; UPDATE orders SET status = 'other'; UPDATE orders SET status = 'there'; COMMIT",
            BRING_BACK,
            "DELETE FROM orders WHERE id = 1",
            "DI",
        ),
    ],
)
def test_a_row_that_ends_as_it_began_uses_the_past(
    db: JournalDatabase, before: str, trigger: tuple[str, str], statement: str, order: str
):
    db.run("SELECT changefeed.unwatch('orders'); INSERT INTO orders VALUES (1, 'there')")
    db.run("SELECT changefeed.watch('orders', row_limit => 2)")
    for command in before.split("; "):
        db.run(command)
    make_trigger(db, *trigger)
    known = len(db.entries())
    db.run(statement)
    assert "".join(entry.action for entry in db.entries()[known:]) == order
