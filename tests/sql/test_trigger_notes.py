"""What is missed of tables and partitions that no look has seen yet, and where the event trigger did not fire: by SQL alone."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.journal_database import JournalDatabase
from tests.sql.test_unrecorded import look

PART_2 = "CREATE TABLE part_2 PARTITION OF parted FOR VALUES IN (2)"
OFF, ON = "ALTER TABLE {0} DISABLE TRIGGER USER", "ALTER TABLE {0} ENABLE TRIGGER USER"

# How a command escapes the event trigger.
UNSEEN = {
    "within CREATE SCHEMA": "CREATE SCHEMA elsewhere {0}",
    "as a replica": "SET session_replication_role = replica; {0}; RESET session_replication_role",
    "while it is disabled": "ALTER EVENT TRIGGER changefeed_new_partitions DISABLE; {0}; ALTER EVENT TRIGGER changefeed_new_partitions ENABLE",
    "while all are off": "SET event_triggers = off; {0}; RESET event_triggers",
}


IN_ONE_OR_SEVERAL = pytest.mark.parametrize("is_in_one", [True, False], ids=["in one transaction", "in several"])


def run(db: JournalDatabase, ddl: str, is_in_one: bool) -> None:
    for statement in [f"BEGIN; {ddl}; COMMIT"] if is_in_one else ddl.split("; "):
        db.run(statement)


@pytest.fixture
def db() -> Iterator[JournalDatabase]:
    with closing(JournalDatabase()) as db:
        db.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders')")
        db.run("CREATE TABLE parted (id int) PARTITION BY LIST (id)")
        db.run("CREATE TABLE part_1 PARTITION OF parted FOR VALUES IN (1); SELECT changefeed.watch('parted')")
        db.run("INSERT INTO orders VALUES (1); INSERT INTO parted VALUES (1)")
        look(db)
        yield db


def refreshed(db: JournalDatabase) -> dict[str, str]:
    """What a server does that finds the schema another."""
    db.run("SELECT changefeed.refresh()")
    return look(db)


@pytest.fixture(params=UNSEEN.values(), ids=UNSEEN)
def unseen(request: pytest.FixtureRequest, db: JournalDatabase) -> str:
    way = str(request.param)
    if "event_triggers" in way and db.version < 17:
        pytest.skip("PostgreSQL 17 brought event_triggers")
    return way


@IN_ONE_OR_SEVERAL
def test_writes_to_a_new_partition_before_its_triggers(db: JournalDatabase, unseen: str, is_in_one: bool):
    make = "CREATE TABLE part_2 PARTITION OF public.parted FOR VALUES IN (2)"
    schema = "elsewhere." if "SCHEMA" in unseen else ""
    run(db, f"{unseen.format(make)}; INSERT INTO {schema}part_2 VALUES (2)", is_in_one)
    assert "in its first moment" in refreshed(db)["parted"]
    assert refreshed(db) == {}
    db.run(f"INSERT INTO {schema}part_2 VALUES (2)")
    assert db.changes("public.parted")[-1] == ("I", {"id": 2})


def test_an_empty_new_partition_causes_no_gap(db: JournalDatabase, unseen: str):
    db.run(unseen.format("CREATE TABLE part_2 PARTITION OF public.parted FOR VALUES IN (2)"))
    assert refreshed(db) == {}


def test_a_childs_row_that_was_reported_as_the_tables_own(db: JournalDatabase, unseen: str):
    schema = "elsewhere." if "SCHEMA" in unseen else ""
    db.run(f"BEGIN; {unseen.format('CREATE TABLE child () INHERITS (public.orders)')}")
    db.run(f"INSERT INTO {schema}child VALUES (7); UPDATE orders SET id = id + 1; COMMIT")
    assert "reported as that table's own" in refreshed(db)["orders"]
    assert refreshed(db) == {}
    db.run("CREATE TABLE filled (id int); INSERT INTO filled VALUES (1); ALTER TABLE filled INHERIT orders")
    assert refreshed(db) == {}


def test_a_childs_row_reported_before_a_command_made_the_triggers(db: JournalDatabase):
    db.run("BEGIN; CREATE SCHEMA elsewhere CREATE TABLE child () INHERITS (public.orders)")
    db.run("INSERT INTO elsewhere.child VALUES (7); UPDATE orders SET id = id + 1")
    db.run("ALTER TABLE orders ADD more text; COMMIT")
    assert "reported as that table's own" in look(db)["orders"]


def test_a_filled_child_is_reported_rightly_from_the_first_moment(db: JournalDatabase):
    db.run("CREATE TABLE filled (id int); INSERT INTO filled VALUES (1); ALTER TABLE filled INHERIT orders")
    db.run("UPDATE orders SET id = id + 1")
    assert refreshed(db) == {}
    assert db.changes("public.orders")[-1] == ("U", {"id": 2})


@IN_ONE_OR_SEVERAL
def test_a_virtual_column_that_was_reported_as_null(db: JournalDatabase, unseen: str, is_in_one: bool):
    if db.version < 18:
        pytest.skip("PostgreSQL 18 brought virtual generated columns")
    if "SCHEMA" in unseen:
        pytest.skip("it adds no column")
    add = "ALTER TABLE orders ADD twice int GENERATED ALWAYS AS (id * 2) VIRTUAL"
    run(db, f"{unseen.format(add)}; INSERT INTO orders VALUES (1)", is_in_one)
    assert "were reported as null for a moment" in refreshed(db)["orders"]
    assert refreshed(db) == {}


@pytest.mark.parametrize(
    ("table", "ddl"),
    [
        ("orders", 'BEGIN; DROP TRIGGER "!changefeed_truncate" ON orders; TRUNCATE orders; COMMIT'),
        ("parted", 'BEGIN; DROP TRIGGER "!changefeed_truncate" ON parted; TRUNCATE parted; COMMIT'),
        ("parted", "BEGIN; DROP TRIGGER changefeed_truncating ON part_1; TRUNCATE part_1; COMMIT"),
        ("parted", "BEGIN; DROP TRIGGER changefeed_truncating_record ON part_1; TRUNCATE part_1; COMMIT"),
        (
            "parted",
            "BEGIN; ALTER TABLE part_1 DISABLE TRIGGER changefeed_truncating_record; TRUNCATE part_1; "
            "ALTER TABLE part_1 ENABLE TRIGGER changefeed_truncating_record; COMMIT",
        ),
    ],
)
def test_a_truncate_whose_trigger_was_away(db: JournalDatabase, table: str, ddl: str):
    db.run(ddl)
    assert list(refreshed(db)) == [table]
    assert refreshed(db) == {}


def test_a_partition_whose_truncate_is_not_recorded_is_incomplete(db: JournalDatabase):
    db.run("ALTER TABLE part_1 DISABLE TRIGGER changefeed_truncating_record")
    assert "are missing" in refreshed(db)["parted"]
    db.run("TRUNCATE part_1; ALTER TABLE part_1 ENABLE TRIGGER changefeed_truncating_record")
    assert "recorded again" in refreshed(db)["parted"]


AWAY = "ALTER TABLE parted DETACH PARTITION part_2"
BACK = "ALTER TABLE parted ATTACH PARTITION part_2 FOR VALUES IN (2)"
OFF_AND_ON = f"{OFF}; INSERT INTO {{0}} VALUES (2); {ON}"


@pytest.mark.parametrize("is_watched_from_ddl", [True, False])
@IN_ONE_OR_SEVERAL
@pytest.mark.parametrize(
    ("table", "ddl"),
    [
        ("parted", f"{PART_2}; {AWAY}; INSERT INTO part_2 VALUES (2); {BACK}"),
        ("parted", f"{PART_2}; {AWAY}; INSERT INTO part_2 VALUES (2); TRUNCATE part_2; INSERT INTO part_2 VALUES (2); {BACK}"),
        ("parted", f"{PART_2}; {OFF_AND_ON.format('part_2')}"),
        ("parted", f"{PART_2}; INSERT INTO parted VALUES (2); {OFF.format('parted')}; TRUNCATE parted; {ON.format('parted')}"),
        ("later", f"CREATE TABLE later (id int); SELECT changefeed.watch('later'); {OFF_AND_ON.format('later')}"),
        (
            "later",
            "CREATE TABLE later (id int) PARTITION BY LIST (id); CREATE TABLE later_1 PARTITION OF later FOR VALUES IN (2); "
            f"SELECT changefeed.watch('later'); {OFF_AND_ON.format('later_1')}",
        ),
        (
            "later",
            "CREATE TABLE later (id int); SELECT changefeed.watch('later'); INSERT INTO later VALUES (1); "
            "ALTER TABLE later RENAME TO sooner; INSERT INTO sooner VALUES (1); ALTER TABLE sooner RENAME TO later",
        ),
        (
            "later",
            "CREATE TABLE later (id int); SELECT changefeed.watch('later'); INSERT INTO later VALUES (1); "
            "SELECT changefeed.unwatch('later'); INSERT INTO later VALUES (2); SELECT changefeed.watch('later')",
        ),
        (
            "later",
            "CREATE TABLE later (id int); SELECT changefeed.watch('later'); INSERT INTO later VALUES (1); "
            "SELECT changefeed.unwatch('later'); INSERT INTO later VALUES (2)",
        ),
        (
            "later",
            "CREATE TABLE later (id int); SELECT changefeed.watch('later'); INSERT INTO later VALUES (1); DROP TABLE later; "
            "CREATE TABLE later (id int); SELECT changefeed.watch('later')",
        ),
        (
            "later",
            "CREATE TABLE later (id int); SELECT changefeed.watch('later'); INSERT INTO later VALUES (1); DROP TABLE later",
        ),
    ],
)  # fmt: skip
def test_what_is_done_before_the_first_look(
    db: JournalDatabase, table: str, ddl: str, is_in_one: bool, is_watched_from_ddl: bool
):
    if not is_watched_from_ddl:
        db.run("DROP EVENT TRIGGER changefeed_new_partitions")
    run(db, ddl, is_in_one)
    assert table in refreshed(db)
    assert refreshed(db) == {}
    assert db.run("SELECT FROM changefeed.noted") == []


def test_what_is_done_between_two_watches_and_no_look_is_found(db: JournalDatabase):
    db.run("CREATE TABLE later (id int); SELECT changefeed.watch('later')")
    db.run(f"{OFF_AND_ON.format('later')}; SELECT changefeed.watch('later', row_limit => 10)")
    assert list(look(db)) == ["later"]
    db.run(f"{OFF_AND_ON.format('later')}; SELECT changefeed.watch('later', row_limit => 20)")
    assert list(look(db)) == ["later"]
    db.run("SELECT changefeed.watch('later', row_limit => 30)")
    assert look(db) == {}


def test_a_partition_emptied_while_detached_is_a_gap(db: JournalDatabase):
    away, back = (one.replace("part_2", "part_1").replace("(2)", "(1)") for one in (AWAY, BACK))
    db.run(f"BEGIN; {away}; TRUNCATE part_1; {back}; COMMIT")
    assert "parted" in refreshed(db)


def test_a_table_with_a_foreign_partition_is_complete(db: JournalDatabase):
    db.run("CREATE FOREIGN DATA WRAPPER far; CREATE SERVER far FOREIGN DATA WRAPPER far")
    db.run("CREATE FOREIGN TABLE part_3 PARTITION OF parted FOR VALUES IN (3) SERVER far")
    assert refreshed(db) == {}
    db.run(OFF_AND_ON.format("part_1").replace("(2)", "(1)"))
    assert "parted" in refreshed(db)


def test_a_short_lived_table_without_changes_causes_no_gap(db: JournalDatabase):
    for ddl in (
        "CREATE TABLE later (id int); SELECT changefeed.watch('later'); DROP TABLE later",
        f"{PART_2}; {AWAY}; {BACK}; DROP TABLE part_2",
        "CREATE TABLE next (id int); SELECT changefeed.watch('next'); ALTER TABLE next RENAME TO later",
    ):
        db.run(ddl)
        assert refreshed(db) == {}, ddl


RENAME = "ALTER TABLE orders RENAME TO x; INSERT INTO x VALUES (2); ALTER TABLE x RENAME TO orders"
MOVE = (
    "ALTER TABLE orders SET SCHEMA away; INSERT INTO away.orders VALUES (2); ALTER TABLE away.orders SET SCHEMA public"
)


@IN_ONE_OR_SEVERAL
@pytest.mark.parametrize("away", [RENAME, MOVE], ids=["another name", "another schema"])
@pytest.mark.parametrize(
    "then",
    [
        "ALTER TABLE orders OWNER TO {0}",
        "GRANT USAGE ON TYPE orders TO {0}",
        "GRANT SELECT ON orders TO {0}",
        "CREATE TABLE _orders ()",
        "ALTER TABLE orders ADD more text",
        "VACUUM FULL",
    ],
)
def test_another_name_for_a_moment_is_found_whatever_came_after_it(
    db: JournalDatabase, role: str, away: str, then: str, is_in_one: bool
):
    db.run("CREATE SCHEMA away")
    if then == "VACUUM FULL" and is_in_one:
        run(db, away, is_in_one)
        db.run(then)
    else:
        run(db, f"{away}; {then.format(role)}", is_in_one)
    assert "another name for a moment" in refreshed(db)["orders"]
    assert refreshed(db) == {}


@pytest.fixture
def role(db: JournalDatabase) -> Iterator[str]:
    name = f"role_{db.value('SELECT current_database()')}"
    db.run(f"CREATE ROLE {name}; GRANT CREATE ON SCHEMA public TO {name}")
    yield name
    db.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.parametrize(
    "ddl",
    [
        "GRANT SELECT ON orders TO {0}; GRANT SELECT ON orders TO {0}; GRANT USAGE ON TYPE orders TO {0}",
        "CREATE TABLE _orders ()",
        "ALTER TABLE orders ADD more int DEFAULT 7; ALTER TABLE orders ALTER more SET DEFAULT 8; ALTER TABLE orders ALTER more DROP DEFAULT",
        "ALTER TABLE orders ALTER id SET DEFAULT 1",
        "ALTER TABLE orders ADD PRIMARY KEY (id)",
        "ALTER TABLE orders ALTER id TYPE bigint; ALTER TABLE parted ADD more text",
        "ALTER TABLE orders RENAME id TO number; ALTER TABLE orders ADD CHECK (number > 0)",
        "ALTER TABLE orders CLUSTER ON orders_id_idx",
        "CREATE INDEX ON parted (id); CREATE TRIGGER other AFTER INSERT ON orders EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "ANALYZE; VACUUM; VACUUM FULL orders; VACUUM FULL parted",
        "VACUUM FULL",
        "ALTER TABLE orders SET UNLOGGED; ALTER TABLE orders SET LOGGED",
        "CREATE TABLE parent (id int); ALTER TABLE orders INHERIT parent",
        "CREATE TABLE parent (id int); ALTER TABLE orders INHERIT parent; ALTER TABLE orders NO INHERIT parent",
        "CREATE TABLE child () INHERITS (orders); CREATE TABLE parent (id int); ALTER TABLE orders INHERIT parent; "
        "ALTER TABLE orders NO INHERIT parent",
    ],
)
def test_everyday_ddl_is_no_gap(db: JournalDatabase, role: str, ddl: str):
    db.run("CREATE INDEX ON orders (id); ALTER TABLE orders ALTER id SET DEFAULT 0")
    assert refreshed(db) == {}
    for statement in ddl.format(role).split("; "):
        db.run(statement)
    assert refreshed(db) == {}


def test_a_new_owner_is_a_gap(db: JournalDatabase, role: str):
    """It overwrites what would tell of another name."""
    db.run(f"ALTER TABLE orders OWNER TO {role}")
    assert "has another owner" in refreshed(db)["orders"]
    assert refreshed(db) == {}


@pytest.mark.parametrize("undo", ["ROLLBACK", "ROLLBACK TO before; COMMIT"])
@pytest.mark.parametrize(
    ("table", "ddl", "tried"),
    [
        ("parted", f"{PART_2}; {AWAY}; INSERT INTO part_2 VALUES (2); {BACK}", AWAY),
        ("parted", f"{PART_2}; {AWAY}; INSERT INTO part_2 VALUES (2); {BACK}", "DROP TABLE part_2"),
        (
            "later",
            "CREATE TABLE later (id int); SELECT changefeed.watch('later'); ALTER TABLE later RENAME TO sooner; "
            "INSERT INTO sooner VALUES (1); ALTER TABLE sooner RENAME TO later",
            "ALTER TABLE later RENAME TO x",
        ),
        (
            "later",
            "CREATE TABLE later (id int); SELECT changefeed.watch('later'); ALTER TABLE later RENAME TO sooner; "
            "INSERT INTO sooner VALUES (1); ALTER TABLE sooner RENAME TO later",
            "DROP TABLE later",
        ),
    ],
)
def test_what_was_tried_and_rolled_back_hides_nothing(db: JournalDatabase, table: str, ddl: str, tried: str, undo: str):
    db.run(f"BEGIN; {ddl}; COMMIT")
    db.run(f"BEGIN; SAVEPOINT before; {tried}; {undo}")
    assert table in refreshed(db)
    assert refreshed(db) == {}


@pytest.mark.parametrize("tried", [AWAY, "DROP TABLE part_2", "ALTER TABLE orders RENAME TO x", "DROP TABLE orders"])
def test_what_was_tried_and_rolled_back_is_no_gap(db: JournalDatabase, tried: str):
    db.run(f"{PART_2}; INSERT INTO parted VALUES (2)")
    db.run(f"BEGIN; {tried}; ROLLBACK")
    assert refreshed(db) == {}
    db.run(f"BEGIN; {tried}; ROLLBACK")
    assert refreshed(db) == {}


THROUGH_PARTITIONED = "ALTER TABLE q ATTACH PARTITION orders FOR VALUES IN (1); INSERT INTO q VALUES (1); ALTER TABLE q DETACH PARTITION orders"
THROUGH_PARENT = "ALTER TABLE orders INHERIT parent; DELETE FROM parent"


@IN_ONE_OR_SEVERAL
@pytest.mark.parametrize(
    "ddl",
    [THROUGH_PARTITIONED, f"{THROUGH_PARENT}; ALTER TABLE orders NO INHERIT parent", THROUGH_PARENT],
    ids=["a partition", "a child", "a child that it still is"],
)
@pytest.mark.parametrize("is_seen", [True, False])
def test_writes_through_another_table(db: JournalDatabase, ddl: str, is_in_one: bool, is_seen: bool):
    """Where the event trigger sees it, a child's rows are recorded as they should be."""
    db.run("ALTER TABLE orders ADD name text")
    db.run("CREATE TABLE parent (id int); CREATE TABLE q (id int, name text) PARTITION BY LIST (id)")
    assert refreshed(db) == {}
    entries = len(db.changes())
    if not is_seen:
        db.run("DROP EVENT TRIGGER changefeed_new_partitions")
    run(db, ddl, is_in_one)
    if is_seen and ddl != THROUGH_PARTITIONED:
        assert refreshed(db) == {}
        assert [action for action, _ in db.changes()[entries:]] == ["D"]
    else:
        assert "orders" in refreshed(db)
        assert refreshed(db) == {} or ddl == THROUGH_PARTITIONED


@pytest.mark.parametrize("ddl", [THROUGH_PARTITIONED, f"{THROUGH_PARENT}; ALTER TABLE orders NO INHERIT parent"])
def test_writes_through_another_table_before_the_first_look(db: JournalDatabase, ddl: str):
    db.run("DROP EVENT TRIGGER changefeed_new_partitions")
    db.run("CREATE TABLE parent (id int); CREATE TABLE q (id int) PARTITION BY LIST (id)")
    later = ddl.replace("orders", "later")
    db.run(
        f"BEGIN; CREATE TABLE later (id int); SELECT changefeed.watch('later'); INSERT INTO later VALUES (1); {later}; COMMIT"
    )
    assert "later" in refreshed(db)
    assert refreshed(db) == {}


def test_a_child_that_a_refresh_of_its_transaction_found_late(db: JournalDatabase):
    db.run("DROP EVENT TRIGGER changefeed_new_partitions; CREATE TABLE parent (id int)")
    db.run(f"BEGIN; {THROUGH_PARENT}; SELECT changefeed.refresh(); COMMIT")
    assert "inherited from another table" in refreshed(db)["orders"]
    assert refreshed(db) == {}


def test_writes_through_a_former_parent(db: JournalDatabase, unseen: str):
    if "SCHEMA" in unseen:
        pytest.skip("it attaches nothing")
    db.run("CREATE TABLE above (id int) PARTITION BY LIST (id)")
    db.run("BEGIN")
    db.run(unseen.format("ALTER TABLE above ATTACH PARTITION parted FOR VALUES IN (1)"))
    db.run("INSERT INTO above VALUES (1)")
    db.run(unseen.format("ALTER TABLE above DETACH PARTITION parted"))
    db.run("COMMIT")
    assert "by way of that" in refreshed(db)["parted"]
    assert refreshed(db) == {}
