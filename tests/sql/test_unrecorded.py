"""The look at what records the tables, by SQL alone: what it finds missed, whom it lets look, and what it writes."""

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest

from tests import postgres
from tests.journal_database import JournalDatabase

LOOK = "SELECT table_name, why FROM changefeed.look(now(), %s, %s) WHERE why IS NOT NULL"


@pytest.fixture
def db() -> Iterator[JournalDatabase]:
    with closing(JournalDatabase()) as db:
        db.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders')")
        db.run("CREATE TABLE parted (id int) PARTITION BY LIST (id); SELECT changefeed.watch('parted')")
        look(db)
        yield db


def look(db: JournalDatabase, *promised: tuple[str, str | None]) -> dict[str, str]:
    schemas, tables = [schema for schema, _ in promised], [table for _, table in promised]
    return dict(db.run(LOOK, schemas, tables))


def test_tables_of_older_versions_are_unknown_at_first():
    with closing(JournalDatabase()) as db:
        db.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders'); DELETE FROM changefeed.noted")
        db.run("ALTER TABLE orders DISABLE TRIGGER USER; INSERT INTO orders VALUES (1)")
        assert db.run("SELECT why FROM changefeed.look(NULL, ARRAY['public'], ARRAY[NULL])") == [(None,)]
        assert look(db, ("public", None)) == {}


def test_each_gap_is_found_once_and_is_an_entry_of_the_journal(db: JournalDatabase):
    db.run("SELECT changefeed.unwatch('orders')")
    assert "not watched any more" in look(db)["orders"]
    assert look(db) == {}
    db.run("SELECT changefeed.watch('orders')")
    assert "watched again" in look(db)["orders"]
    assert look(db) == {}
    written = db.run("SELECT action, table_name, data ->> 'is_over' FROM changefeed.journal ORDER BY id")
    assert written == [("L", "orders", "false"), ("L", "orders", "true")]


def test_an_incomplete_table_is_reported_once_each_way(db: JournalDatabase):
    db.run("ALTER TABLE orders DISABLE TRIGGER USER")
    assert "are missing" in look(db)["orders"]
    assert look(db) == {}
    assert db.run("SELECT table_name FROM changefeed.look(now(), '{}', '{}') WHERE NOT is_complete") == [("orders",)]
    db.run("ALTER TABLE orders ENABLE TRIGGER USER")
    assert "recorded again" in look(db)["orders"]


def test_only_what_was_promised_is_missed_from_its_first_row_on(db: JournalDatabase):
    for table in ("later", "empty", "unasked"):
        db.run(f"CREATE TABLE {table} (id int)")
    db.run("INSERT INTO later VALUES (1); INSERT INTO unasked VALUES (1)")
    db.run("SELECT changefeed.watch('later'), changefeed.watch('empty'), changefeed.watch('unasked')")
    found = look(db, ("public", "later"), ("public", "empty"))
    assert list(found) == ["later"]
    assert "before it was watched" in found["later"]


def test_without_an_event_trigger_a_partition_starts_without_triggers(db: JournalDatabase):
    db.run("CREATE TABLE part_1 PARTITION OF parted FOR VALUES IN (1)")
    assert look(db) == {}
    db.run("DROP EVENT TRIGGER changefeed_new_partitions; CREATE TABLE part_2 PARTITION OF parted FOR VALUES IN (2)")
    db.run("INSERT INTO parted VALUES (2); SELECT changefeed.refresh()")
    assert "in its first moment" in look(db)["parted"]


def test_what_replaces_triggers_in_one_transaction_misses_nothing(db: JournalDatabase):
    db.run("CREATE TABLE child () INHERITS (orders)")
    assert look(db) == {}
    db.run("DROP TABLE child; SELECT changefeed.refresh()")
    assert look(db) == {}
    db.run("CREATE TABLE child (id int); ALTER TABLE child INHERIT orders")
    assert look(db) == {}
    db.run("ALTER TABLE child NO INHERIT orders; SELECT changefeed.refresh()")
    assert look(db) == {}
    for name in ("!changefeed_insert", "changefeed_insert"):  # as earlier versions named it
        for rename in (
            f'ALTER TRIGGER "~changefeed_insert" ON orders RENAME TO "{name}"',
            "SELECT changefeed.refresh()",
        ):
            db.run(rename)
            assert look(db) == {}
    db.run("INSERT INTO orders VALUES (1)")
    assert db.run("SELECT action, data FROM changefeed.journal") == [("I", {"id": 1})]


def test_without_an_event_trigger_child_rows_came_as_the_tables(db: JournalDatabase):
    db.run("DROP EVENT TRIGGER changefeed_new_partitions; CREATE TABLE child () INHERITS (orders)")
    db.run("INSERT INTO child VALUES (1); UPDATE orders SET id = 2; SELECT changefeed.refresh()")
    assert "reported as that table's own" in look(db)["orders"]
    db.run("CREATE TABLE another () INHERITS (orders); DROP TABLE child; SELECT changefeed.refresh()")
    assert look(db) == {}


@pytest.mark.parametrize("is_watched_from_ddl", [True, False])
def test_an_empty_partition_causes_no_gap(db: JournalDatabase, is_watched_from_ddl: bool):
    if not is_watched_from_ddl:
        db.run("DROP EVENT TRIGGER changefeed_new_partitions")
    db.run("CREATE TABLE empty (id int); CREATE TABLE deep (id int) PARTITION BY LIST (id)")
    db.run("CREATE TABLE deep_3 PARTITION OF deep FOR VALUES IN (3)")
    for ddl in (
        "ALTER TABLE parted ATTACH PARTITION empty FOR VALUES IN (1)",
        "CREATE TABLE part_2 PARTITION OF parted FOR VALUES IN (2)",
        "ALTER TABLE parted ATTACH PARTITION deep FOR VALUES IN (3)",
        "ALTER TABLE parted DETACH PARTITION empty; ALTER TABLE parted ATTACH PARTITION empty FOR VALUES IN (1)",
        "ALTER TABLE parted DETACH PARTITION empty",
        "ALTER TABLE parted DETACH PARTITION deep",
        "CREATE TABLE part_4 PARTITION OF parted FOR VALUES IN (4); DROP TABLE part_4",
    ):
        db.run(f"{ddl}; SELECT changefeed.refresh()")
        assert look(db) == {}, ddl
    db.run("DROP TABLE part_2")  # at which nobody can look any more; but no row came to any partition
    assert look(db) == {}
    db.run("CREATE TABLE part_5 PARTITION OF parted FOR VALUES IN (5); SELECT changefeed.refresh()")
    assert look(db) == {}
    db.run("INSERT INTO parted VALUES (5); DROP TABLE part_5")
    assert "detached or dropped" in look(db)["parted"]


def test_deleted_entries_may_concern_a_dropped_partition(db: JournalDatabase):
    db.run("CREATE TABLE part_1 PARTITION OF parted FOR VALUES IN (1)")
    assert look(db) == {}
    db.run("INSERT INTO parted VALUES (1)")
    for _ in range(2):
        db.run("SELECT changefeed.retain('0 s', 0)")
    assert db.changes() == []
    db.run("DROP TABLE part_1")
    assert "detached or dropped" in look(db)["parted"]


LEAVE = pytest.mark.parametrize("leave", ["DROP TABLE part_2", "ALTER TABLE parted DETACH PARTITION part_2"])


@LEAVE
@pytest.mark.parametrize(
    "bring",
    [
        "MERGE INTO parted USING (VALUES (1)) AS s (i) ON id = i WHEN MATCHED THEN UPDATE SET id = 2",
        "PREPARE u AS UPDATE parted SET id = 2; EXECUTE u; DEALLOCATE u",
        "ALTER TABLE parted RENAME secret TO other; INSERT INTO parted VALUES (2)",
        "ALTER TABLE parted RENAME secret TO other; INSERT INTO part_2 VALUES (2)",
        "ALTER TABLE changefeed.journal ADD CHECK (false) NOT VALID; INSERT INTO parted VALUES (2); "
        "ALTER TABLE changefeed.journal DROP CONSTRAINT journal_check",
    ],
    ids=["MERGE", "prepared UPDATE", "renamed column", "renamed column, by the partition", "no entry at all"],
)
def test_lost_rows_of_a_partition_are_missed_with_it(db: JournalDatabase, bring: str, leave: str):
    db.run("ALTER TABLE parted ADD secret text; SELECT changefeed.watch('parted', omit => '{secret}')")
    db.run("CREATE TABLE part_1 PARTITION OF parted FOR VALUES IN (1); INSERT INTO parted VALUES (1)")
    db.run("CREATE TABLE part_2 PARTITION OF parted FOR VALUES IN (2)")
    assert look(db) == {}
    for statement in bring.split("; "):
        db.run(statement)
    look(db)  # which may find that the columns are others
    db.run(leave)
    assert "detached or dropped" in look(db)["parted"]


def test_a_loss_of_another_table_brings_no_rows(db: JournalDatabase):
    db.run("ALTER TABLE orders ADD secret text; SELECT changefeed.watch('orders', omit => '{secret}')")
    for number in (1, 2, 3):
        db.run(f"CREATE TABLE part_{number} PARTITION OF parted FOR VALUES IN ({number})")
    db.run("ALTER TABLE orders RENAME secret TO other")
    look(db)
    db.run("INSERT INTO orders VALUES (1); DROP TABLE part_1")
    assert look(db) == {}
    db.run("ALTER TABLE parted DISABLE TRIGGER USER; ALTER TABLE parted ENABLE TRIGGER USER")
    assert "parted" in look(db)
    db.run("DROP TABLE part_2")  # the look looked at it when it wrote its own loss
    assert look(db) == {}


def test_an_unseen_row_is_missed_with_its_partition(db: JournalDatabase):
    db.run("CREATE TABLE part_1 PARTITION OF parted FOR VALUES IN (1)")
    assert look(db) == {}
    db.run("SET session_replication_role = replica; INSERT INTO parted VALUES (1); RESET session_replication_role")
    db.run("ALTER TABLE parted DETACH PARTITION part_1")
    assert "detached or dropped" in look(db)["parted"]


@pytest.mark.parametrize("last", ["DROP TABLE part_1", "ALTER TABLE parted DETACH PARTITION part_1"])
def test_a_partition_that_came_and_went_with_rows_takes_them_away(db: JournalDatabase, last: str):
    before = db.value("SELECT pg_sequence_last_value('changefeed.noted_id')")
    db.run("CREATE TABLE part_1 PARTITION OF parted FOR VALUES IN (1); INSERT INTO parted VALUES (1)")
    db.run(last)
    assert db.value("SELECT pg_sequence_last_value('changefeed.noted_id')") > (
        before or 0
    )  # by which a server knows to look
    assert "detached or dropped" in look(db)["parted"]
    assert look(db) == {}
    db.run("CREATE TABLE part_2 PARTITION OF parted FOR VALUES IN (2); DROP TABLE part_2")
    assert look(db) == {}


def test_a_short_lived_child_causes_and_hides_no_gap(db: JournalDatabase):
    come_and_go = "CREATE TABLE child () INHERITS (orders); DROP TABLE child; SELECT changefeed.refresh()"
    for _ in range(2):
        db.run(come_and_go)
        db.run(come_and_go)
        assert look(db) == {}
    db.run(
        "ALTER TABLE orders DISABLE TRIGGER USER; INSERT INTO orders VALUES (1); ALTER TABLE orders ENABLE TRIGGER USER"
    )
    db.run(come_and_go)
    assert "not watched for a moment" in look(db)["orders"]
    db.run(come_and_go)
    db.run(
        "ALTER TABLE orders DISABLE TRIGGER USER; INSERT INTO orders VALUES (1); ALTER TABLE orders ENABLE TRIGGER USER"
    )
    assert "not watched for a moment" in look(db)["orders"]
    db.run("DROP EVENT TRIGGER changefeed_new_partitions; CREATE TABLE child () INHERITS (orders)")
    db.run("INSERT INTO child VALUES (1); SELECT changefeed.refresh(); DROP TABLE child; SELECT changefeed.refresh()")
    assert "orders" in look(db)  # which was reported as its own


def test_a_partition_that_had_rows_takes_them_away_and_brings_them(db: JournalDatabase):
    for table in ("kept", "deleted", "vacuumed", "truncated"):
        db.run(f"CREATE TABLE {table} (id int); INSERT INTO {table} VALUES (1)")
        db.run(f"ALTER TABLE parted ATTACH PARTITION {table} FOR VALUES IN (1)")
        assert "attached" in look(db)["parted"]
        db.run(f"ALTER TABLE parted DETACH PARTITION {table}")
        for emptied in {
            "deleted": ["DELETE FROM deleted"],
            "truncated": ["TRUNCATE truncated"],
            "vacuumed": ["DELETE FROM vacuumed", "VACUUM (TRUNCATE) vacuumed"],
        }.get(table, ()):
            db.run(emptied)
        assert "detached" in look(db)["parted"], table


@pytest.mark.parametrize("is_watched_from_ddl", [True, False])
@pytest.mark.parametrize("is_watched_itself", [True, False])
def test_a_partitioned_table_brings_the_rows_of_its_partitions(
    db: JournalDatabase, is_watched_from_ddl: bool, is_watched_itself: bool
):
    if not is_watched_from_ddl:
        db.run("DROP EVENT TRIGGER changefeed_new_partitions")
    db.run("CREATE TABLE s (id int) PARTITION BY LIST (id); CREATE TABLE s1 PARTITION OF s FOR VALUES IN (9)")
    db.run("CREATE TABLE t (id int) PARTITION BY LIST (id); ALTER TABLE t ATTACH PARTITION s FOR VALUES IN (9)")
    if is_watched_itself:
        db.run("SELECT changefeed.watch('t')")
        assert look(db) == {}
    db.run(
        "INSERT INTO t VALUES (9); ALTER TABLE parted ATTACH PARTITION t FOR VALUES IN (9); SELECT changefeed.refresh()"
    )
    assert "attached" in look(db)["parted"]
    assert look(db) == {}


@pytest.mark.parametrize("is_watched_from_ddl", [True, False])
@pytest.mark.parametrize("is_empty", [True, False])
def test_a_partitioned_table_detached_in_a_transaction_is_a_gap(
    db: JournalDatabase, is_watched_from_ddl: bool, is_empty: bool
):
    if not is_watched_from_ddl:
        db.run("DROP EVENT TRIGGER changefeed_new_partitions")
    db.run("CREATE TABLE s PARTITION OF parted FOR VALUES IN (7, 8, 9) PARTITION BY LIST (id)")
    db.run("CREATE TABLE s1 PARTITION OF s FOR VALUES IN (8); CREATE TABLE s2 PARTITION OF s FOR VALUES IN (9)")
    db.run("SELECT changefeed.refresh()")
    if not is_empty:
        db.run("INSERT INTO parted VALUES (8)")
    assert look(db) == {}
    db.run("BEGIN; ALTER TABLE parted DETACH PARTITION s; DELETE FROM s; UPDATE s SET id = 9 WHERE id = 8")
    db.run("ALTER TABLE parted ATTACH PARTITION s FOR VALUES IN (7, 8, 9); COMMIT; SELECT changefeed.refresh()")
    assert look(db).keys() == (set() if is_empty else {"parted"})
    db.run("CREATE TABLE s3 PARTITION OF s FOR VALUES IN (7); SELECT changefeed.refresh(); INSERT INTO s VALUES (7)")
    assert look(db) == {}


@pytest.mark.parametrize("with_event_trigger", [True, False])
def test_a_virtual_column_is_null_until_the_triggers_know_it(db: JournalDatabase, with_event_trigger: bool):
    if db.version < 18:
        pytest.skip("PostgreSQL 18 brought virtual generated columns")
    if not with_event_trigger:
        db.run("DROP EVENT TRIGGER changefeed_new_partitions")
    db.run("ALTER TABLE orders ADD twice int GENERATED ALWAYS AS (id * 2) VIRTUAL; INSERT INTO orders VALUES (1)")
    if with_event_trigger:
        assert db.changes("public.orders") == [("I", {"id": 1, "twice": 2})]
    else:
        assert "reported as null" in look(db)["orders"]
        assert look(db) == {}
    db.run("SELECT changefeed.refresh()")
    assert ("orders" in look(db)) is not with_event_trigger
    db.run("ALTER TABLE orders ADD thrice int GENERATED ALWAYS AS (id * 3) VIRTUAL; INSERT INTO orders VALUES (2)")
    assert db.changes("public.orders")[-1] == ("I", {"id": 2, "twice": 4, "thrice": 6})
    assert look(db) == {}


def test_an_unseen_virtual_column_was_null_for_a_moment(db: JournalDatabase):
    if db.version < 18:
        pytest.skip("PostgreSQL 18 brought virtual generated columns")
    db.run("DROP EVENT TRIGGER changefeed_new_partitions")
    db.run("ALTER TABLE orders ADD twice int GENERATED ALWAYS AS (id * 2) VIRTUAL; INSERT INTO orders VALUES (1)")
    db.run("SELECT changefeed.refresh()")
    assert "were reported as null for a moment" in look(db)["orders"]
    assert look(db) == {}


def test_changes_are_missed_since_the_last_look_of_any_server(db: JournalDatabase):
    db.run("SELECT changefeed.unwatch('orders')")
    db.run("SELECT changefeed.look(NULL, '{}', '{}')")
    [(is_since,)] = db.run(
        "SELECT to_timestamp((data ->> 'since')::float8) BETWEEN now() - interval '1 hour' AND at FROM changefeed.journal"
    )
    assert is_since


def test_a_look_that_finds_nothing_writes_nothing(db: JournalDatabase):
    db.run("BEGIN")
    assert look(db) == {}
    assert db.value("SELECT pg_current_xact_id_if_assigned()") is None
    db.run("COMMIT")


def test_readers_may_look_and_write_nothing_else(db: JournalDatabase):
    role = db.new_role("reader")
    db.run(f"GRANT USAGE ON SCHEMA changefeed TO {role}")
    reader = db.session(user=role)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        reader.run("SELECT changefeed.look(NULL, '{}', '{}')")
    db.run(f"GRANT EXECUTE ON FUNCTION changefeed.look TO {role}; ALTER TABLE orders DISABLE TRIGGER USER")
    assert [table for table, _ in reader.run(LOOK, [], [])] == ["orders"]
    for statement in (
        "SELECT * FROM changefeed.recorded",
        "DELETE FROM changefeed.recorded",
        "SELECT changefeed.recorded_now()",
        "SELECT changefeed.never_written('{1}')",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            reader.run(statement)


SECTIONS = ["pre-data", "data", "post-data"]  # in which pg_restore makes tables, then rows, then keys and triggers


@pytest.mark.parametrize("first", SECTIONS)
def test_the_first_look_during_a_restore_learns_which_tables_were_watched(db: JournalDatabase, first: str):
    cluster = postgres.cluster()
    dump = str(cluster.data_dir / "socket" / f"dump-{db.name}")
    postgres.run_tool(cluster, "pg_dump", "--dbname", db.conninfo, "--format", "custom", "--file", dump)
    db.run("DROP SCHEMA changefeed, changefeed_secret CASCADE; DROP TABLE orders, parted")
    looks: list[dict[str, str]] = []
    for section in SECTIONS:
        postgres.run_tool(cluster, "pg_restore", "--dbname", db.conninfo, "--section", section, dump)
        if looks or section == first:
            since = "now()" if looks else "NULL"
            looks.append(dict(db.run(f"SELECT table_name, why FROM changefeed.look({since}, '{{}}', '{{}}')")))
    why = "public.{} is watched again, and was not for a while".format
    assert looks[:-1] == [{}] * SECTIONS[::-1].index(first)
    assert looks[-1] == ({} if first == "post-data" else {name: why(name) for name in ("orders", "parted")})
