"""Partitioned tables, however their rows are written: the changes are the root's. And tables that inherit."""

import asyncio
import json
import threading
from typing import Any

import psycopg2
import pytest

from changefeed.postgres.named_queries import load_queries
from tests.journal_database import JournalDatabase


@pytest.fixture(autouse=True)
def parts(db: JournalDatabase) -> None:
    """parts: 1 in part_1, 2 in part_2, 3 and 4 in part_3, which is partitioned itself; 9 in part_1."""
    db.run("CREATE TABLE parts (id int, k int, note text) PARTITION BY LIST (k)")
    db.run("CREATE TABLE part_1 (note text, gone int, k int, id int); ALTER TABLE part_1 DROP COLUMN gone")
    db.run("ALTER TABLE parts ATTACH PARTITION part_1 FOR VALUES IN (1, 9)")
    db.run("CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2)")
    db.run("CREATE TABLE part_3 PARTITION OF parts FOR VALUES IN (3, 4) PARTITION BY LIST (k)")
    db.run("CREATE TABLE part_3_3 PARTITION OF part_3 FOR VALUES IN (3)")
    db.run("CREATE TABLE part_3_4 PARTITION OF part_3 FOR VALUES IN (4)")
    db.run("SELECT changefeed.watch('parts')")


def ids(db: JournalDatabase, action: str) -> list[Any]:
    return sorted(row["id"] if row else None for found, row in db.changes("public.parts") if found == action)


def test_writes_to_the_root_and_to_any_partition_are_the_root_s(db: JournalDatabase):
    db.run("INSERT INTO parts VALUES (1, 1), (2, 2), (3, 3), (4, 4)")
    db.run(
        "INSERT INTO part_1 (id, k) VALUES (11, 1); INSERT INTO part_3 VALUES (13, 3); INSERT INTO part_3_4 VALUES (14, 4)"
    )
    db.run(
        "UPDATE part_1 SET note = 'x' WHERE id = 11; UPDATE part_3 SET note = 'y'; DELETE FROM part_3_4 WHERE id = 14"
    )
    assert {entry.table for entry in db.entries()} == {"public.parts"}
    assert ids(db, "I") == [1, 2, 3, 4, 11, 13, 14]
    assert ids(db, "U") == [3, 4, 11, 13, 14]
    assert ids(db, "D") == [14]


def test_partition_rows_have_the_roots_column_order(db: JournalDatabase):
    db.run("INSERT INTO part_1 (id, k) VALUES (1, 1); UPDATE parts SET note = 'x'; UPDATE part_1 SET note = 'y'")
    db.assert_rebuilds("public.parts")
    db.run("TRUNCATE part_1")
    db.assert_rebuilds("public.parts")
    assert {entry.data for entry in db.entries()} >= {'{"id":1,"k":1,"note":"y"}'}


def test_rows_that_move_between_partitions_are_updated(db: JournalDatabase):
    db.run("INSERT INTO parts SELECT i, 1 + i % 4, 'n' FROM generate_series(1, 40) AS i")
    db.run("UPDATE parts SET k = 1 + k % 4, note = id::text WHERE id % 3 = 0")
    db.run("UPDATE part_3 SET k = 7 - k")
    db.assert_rebuilds("public.parts")
    assert {action for action, _ in db.changes()} == {"I", "U"}


def test_a_row_kept_from_moving_by_a_trigger_is_deleted(db: JournalDatabase):
    db.run("INSERT INTO parts SELECT i, 1, 'n' FROM generate_series(1, 5) AS i")
    db.run("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    db.run("CREATE TRIGGER refuse BEFORE INSERT ON part_2 FOR EACH ROW WHEN (NEW.id = 2) EXECUTE FUNCTION refuse()")
    db.run("UPDATE parts SET k = 2")
    assert ids(db, "D") == [1, 2, 3, 4, 5]
    db.assert_rebuilds("public.parts")
    assert db.value("SELECT count(*) FROM parts") == 4


def test_partitions_that_come_later_are_watched_at_once(db: JournalDatabase):
    db.run("CREATE TABLE part_5 PARTITION OF parts FOR VALUES IN (5); INSERT INTO part_5 VALUES (5, 5)")
    db.run("CREATE TABLE part_6 (LIKE parts); ALTER TABLE parts ATTACH PARTITION part_6 FOR VALUES IN (6)")
    db.run("INSERT INTO part_6 VALUES (6, 6)")
    db.run(
        "ALTER TABLE part_3 DETACH PARTITION part_3_4; ALTER TABLE part_3 ATTACH PARTITION part_3_4 FOR VALUES IN (4)"
    )
    db.run("INSERT INTO part_3_4 VALUES (4, 4)")
    assert ids(db, "I") == [4, 5, 6]
    assert db.run("SELECT is_complete, partitions FROM changefeed.status()") == [(True, 6)]


def test_a_detached_partition_is_a_table_of_its_own(db: JournalDatabase):
    db.run("INSERT INTO parts VALUES (2, 2); ALTER TABLE parts DETACH PARTITION part_2")
    db.run("SELECT changefeed.refresh()")
    db.run("INSERT INTO part_2 VALUES (3, 2); TRUNCATE part_2")
    assert [entry[:2] for entry in db.entries()] == [
        ("I", "public.parts"),
        ("I", "public.part_2"),
        ("T", "public.part_2"),
    ]
    db.run("SELECT changefeed.unwatch('part_2')")
    assert db.run("SELECT table_name, is_complete FROM changefeed.status()") == [("parts", True)]


def test_a_partition_dropped_is_no_obstacle(db: JournalDatabase):
    db.run("DROP TABLE part_2, part_3; INSERT INTO parts VALUES (1, 1)")
    assert ids(db, "I") == [1]
    db.run("SELECT changefeed.unwatch('parts')")
    assert db.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%changefeed%'") == 0


@pytest.mark.parametrize(
    ("statement", "deleted", "truncated"),
    [
        ("TRUNCATE parts", [], 1),
        ("TRUNCATE parts RESTART IDENTITY CASCADE", [], 1),
        ("TRUNCATE part_2", [2], 0),
        ("TRUNCATE part_3", [3, 4], 0),
        ("TRUNCATE part_3_4", [4], 0),
        ("TRUNCATE part_1, part_3_3", [1, 3], 0),
        ("TRUNCATE part_3_3, part_3", [3, 4], 0),
        ("TRUNCATE part_3_4, part_3, part_2", [2, 3, 4], 0),
        ("BEGIN; TRUNCATE part_3_4; TRUNCATE part_3; COMMIT", [3, 4], 0),
        ("TRUNCATE part_2, parts", [2], 1),
        ("TRUNCATE parts, part_2", [], 1),
        ("BEGIN; TRUNCATE part_1; SAVEPOINT s; TRUNCATE part_2; ROLLBACK TO s; TRUNCATE part_3; COMMIT", [1, 3, 4], 0),
    ],
)
def test_truncate_of_a_root_is_one_entry(db: JournalDatabase, statement: str, deleted: list[int], truncated: int):
    db.run("INSERT INTO parts VALUES (1, 1, 'ä'), (2, 2, ''), (3, 3, ''), (4, 4, '')")
    db.run(statement)
    assert ids(db, "D") == deleted
    assert [action for action, _ in db.changes()].count("T") == truncated


@pytest.mark.parametrize("table", ["parts", "part_3"])
def test_a_writer_s_settings_hide_and_make_up_no_deleted_rows(db: JournalDatabase, table: str):
    db.run("INSERT INTO parts VALUES (3, 3), (2, 2)")
    role = db.new_role("writer")
    db.run(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; GRANT CREATE ON SCHEMA public TO {role}")
    writer = db.session(user=role)
    oid = db.value("SELECT %s::regclass::oid", table)
    forged = json.dumps({"rows": [{"id": 999, "k": 3}]})

    def forge(is_local: bool) -> str:
        names = {"changefeed.truncating": oid, "changefeed.truncated": forged}
        return " ".join(f"PERFORM set_config('{name}', '{value}', {is_local});" for name, value in names.items())

    body = f"$$ BEGIN {forge(is_local=True)} RETURN NULL; END $$"
    writer.run(f"CREATE TABLE mine (); CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS {body}")
    for moment in ("BEFORE", "AFTER"):
        writer.run(f"CREATE TRIGGER {moment} {moment} TRUNCATE ON mine FOR EACH STATEMENT EXECUTE FUNCTION forge()")
    writer.run(f"DO $$ BEGIN {forge(is_local=False)} END $$")
    writer.run("TRUNCATE part_3_3")
    assert (ids(db, "D"), db.losses) == ([], 1)
    writer.run("RESET ALL")
    writer.run("TRUNCATE part_2, mine")
    assert (ids(db, "D"), db.losses) == ([2], 1)
    db.run("INSERT INTO parts VALUES (3, 3)")
    writer.run("TRUNCATE mine, part_3_3")
    assert (ids(db, "D"), db.losses) == ([2], 2)


@pytest.mark.parametrize(
    "forged",
    ['{"count": 1}', '{"rows": [{"id": 9}]}', '{"apart": true}', '{"root": 1}', "[", ""],
)
def test_a_partition_owner_that_separates_triggers_causes_a_loss(db: JournalDatabase, forged: str):
    db.run("ALTER TABLE part_2 DISABLE TRIGGER changefeed_truncating; INSERT INTO parts VALUES (2, 2)")
    db.forget()
    db.run(f"SET changefeed.truncated = '{forged}'; TRUNCATE part_2")
    assert (db.entries(), db.losses) == ([], 1)
    db.run("ALTER TABLE part_2 ENABLE TRIGGER changefeed_truncating; INSERT INTO parts VALUES (2, 2); TRUNCATE part_2")
    assert (ids(db, "D"), db.losses) == ([2], 1)


def test_a_trigger_between_the_two_is_recorded_as_a_loss(db: JournalDatabase):
    db.run("""CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN SET changefeed.truncated = '{"count": 1}'; RETURN NULL; END $$""")
    db.run("CREATE TRIGGER changefeed_truncating_and BEFORE TRUNCATE ON part_2 EXECUTE FUNCTION forge()")
    db.run("INSERT INTO part_2 VALUES (2, 2)")
    db.forget()
    db.run("TRUNCATE part_2")
    assert (db.entries(), db.losses) == ([], 1)


FORGED = '{"rows": [{"id": 777, "k": 2, "nocolumn": "x"}]}'
FORGE = f"PERFORM set_config('changefeed.truncated', '{FORGED}', true);"


@pytest.mark.parametrize(
    ("name", "event", "code"),
    [
        ("changefeed_truncating_a", "INSERT OR TRUNCATE", FORGE),
        ("changefeed_truncating_a", "INSERT OR UPDATE OR DELETE OR TRUNCATE", FORGE),
        ("changefeed_truncating_a", "TRUNCATE", FORGE),
        (
            "changefeed_truncating_a",
            "TRUNCATE",
            f"{FORGE} CREATE OR REPLACE TRIGGER changefeed_truncating_a AFTER INSERT ON part_2 EXECUTE FUNCTION forge();",
        ),
        (
            "changefeed_truncating_a",
            "TRUNCATE",
            f"{FORGE} ALTER TRIGGER changefeed_truncating_a ON part_2 RENAME TO z;",
        ),
        (
            "changefeed_truncating_a",
            "TRUNCATE",
            f"{FORGE} BEGIN ALTER TRIGGER changefeed_truncating_a ON part_2 RENAME TO a; EXCEPTION WHEN division_by_zero "
            "THEN NULL; END;",
        ),
        ("!", "TRUNCATE", f"{FORGE} ALTER TRIGGER changefeed_truncating ON part_2 RENAME TO zzz;"),
    ],
)
def test_what_runs_between_the_two_makes_up_no_deleted_rows(db: JournalDatabase, name: str, event: str, code: str):
    role = db.new_role("tenant")
    db.run(f"GRANT USAGE, CREATE ON SCHEMA public TO {role}; ALTER TABLE part_2 OWNER TO {role}")
    db.run("INSERT INTO parts VALUES (2, 2)")
    owner = db.session(user=role)
    owner.run(
        f"CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF TG_OP = 'TRUNCATE' THEN {code} END IF; RETURN NULL; END $$"
    )
    owner.run(f'CREATE TRIGGER "{name}" BEFORE {event} ON part_2 FOR EACH STATEMENT EXECUTE FUNCTION forge()')
    db.forget()
    owner.run("TRUNCATE part_2")
    assert (db.entries(), db.losses) == ([], 1)


def test_a_replaced_trigger_makes_up_no_deletes(db: JournalDatabase):
    role = db.new_role("tenant")
    db.run(f"GRANT USAGE, CREATE ON SCHEMA public TO {role}; ALTER TABLE part_2 OWNER TO {role}")
    db.run("INSERT INTO parts VALUES (2, 2)")
    owner = db.session(user=role)
    owner.run(
        f"CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {FORGE} "
        "ALTER TRIGGER changefeed_truncating ON part_2 RENAME TO a; "
        "ALTER TRIGGER away ON part_2 RENAME TO changefeed_truncating; RETURN NULL; END $$"
    )
    owner.run("ALTER TRIGGER changefeed_truncating ON part_2 RENAME TO away")
    owner.run("CREATE TRIGGER changefeed_truncating BEFORE TRUNCATE ON part_2 EXECUTE FUNCTION forge()")
    db.forget()
    owner.run("TRUNCATE part_2")
    assert (db.entries(), db.losses) == ([], 1)


def test_a_hidden_partition_makes_up_no_deletes(db: JournalDatabase):
    db.run(f"CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {FORGE} RETURN NULL; END $$")
    db.run("INSERT INTO parts VALUES (2, 2)")
    old = db.session()
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    db.run("CREATE TRIGGER changefeed_truncating_a BEFORE TRUNCATE ON part_2 EXECUTE FUNCTION forge()")
    db.forget()
    old.run("TRUNCATE part_2; COMMIT")
    assert (db.entries(), db.losses) == ([], 1)


def test_an_unrelated_trigger_hides_nothing(db: JournalDatabase):
    db.run("CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    for name in ("a", "z"):
        db.run(f"CREATE TRIGGER {name} BEFORE TRUNCATE ON part_2 EXECUTE FUNCTION own()")
    db.run("INSERT INTO parts VALUES (2, 2)")
    db.run("TRUNCATE part_2")
    assert (ids(db, "D"), db.losses) == ([2], 0)


def test_a_partition_made_and_truncated_at_once_is_no_loss(db: JournalDatabase):
    db.run(
        "CREATE TABLE part_5 PARTITION OF parts FOR VALUES IN (5); INSERT INTO part_5 VALUES (5, 5); TRUNCATE part_5"
    )
    assert (ids(db, "D"), db.losses) == ([5], 0)


@pytest.mark.parametrize("is_local", [False, True])
def test_a_writer_s_settings_hide_no_deleted_rows(db: JournalDatabase, is_local: bool):
    role = db.new_role("writer")
    db.run(f"INSERT INTO parts VALUES (2, 2), (3, 3); GRANT TRUNCATE, SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    oids = db.value("SELECT string_agg(oid::text, ',') FROM pg_class WHERE relname LIKE 'part%'")
    writer = db.session(user=role)
    db.forget()
    settings = ("changefeed.truncating", "changefeed.truncated_before")
    forge = "".join(f"SELECT set_config('{name}', '{oids}', {is_local});" for name in settings)
    writer.run(f"BEGIN; {forge} TRUNCATE part_2; {forge} TRUNCATE part_3_3; COMMIT")
    assert len(ids(db, "D")) + db.losses == 2


def test_a_failed_truncate_hides_no_later_one(db: JournalDatabase):
    role = db.new_role("tenant")
    db.run(f"GRANT USAGE, CREATE ON SCHEMA public TO {role}; ALTER TABLE part_3 OWNER TO {role}")
    db.run(
        f"ALTER TABLE part_3_3 OWNER TO {role}; ALTER TABLE part_3_4 OWNER TO {role}; INSERT INTO parts VALUES (3, 3)"
    )
    oid = db.value("SELECT 'part_3'::regclass::oid")
    owner = db.session(user=role)
    owner.run("CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE division_by_zero; END'")
    owner.run("CREATE TABLE mine (); CREATE TRIGGER fail BEFORE TRUNCATE ON mine EXECUTE FUNCTION fail()")
    db.forget()
    owner.run(
        "DO $$ BEGIN BEGIN TRUNCATE part_3, mine; EXCEPTION WHEN division_by_zero THEN NULL; END; "
        f"PERFORM set_config('changefeed.truncating', '{oid}', true); TRUNCATE part_3_3; END $$"
    )
    assert db.value("SELECT count(*) FROM parts") == 0
    assert (ids(db, "D"), db.losses) == ([], 1)


def test_disabling_the_last_trigger_hides_no_truncate(db: JournalDatabase):
    db.run("INSERT INTO parts VALUES (2, 2); ALTER TABLE part_2 DISABLE TRIGGER changefeed_truncated")
    db.forget()
    db.run("BEGIN; TRUNCATE part_2; INSERT INTO parts VALUES (22, 2); TRUNCATE part_2; COMMIT")
    assert db.losses == 2


@pytest.mark.parametrize("write", ["INSERT INTO part_2 VALUES (99, 2)", "DELETE FROM parts"])
@pytest.mark.parametrize("table", ["part_2", "mine"])
def test_writes_before_the_rows_are_gone_are_a_loss(db: JournalDatabase, table: str, write: str):
    db.run("CREATE TABLE mine (); INSERT INTO parts VALUES (2, 2)")
    db.run(f"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {write}; RETURN NULL; END $$")
    db.run(f"CREATE TRIGGER z BEFORE TRUNCATE ON {table} EXECUTE FUNCTION act()")
    db.run("TRUNCATE part_2, mine")
    assert db.losses == 1


def test_what_is_written_to_other_tables_meanwhile_is_no_loss(db: JournalDatabase):
    db.run("CREATE TABLE audit (id int); SELECT changefeed.watch('audit'); INSERT INTO parts VALUES (2, 2), (3, 3)")
    db.run(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO audit VALUES (1); RETURN NULL; END'"
    )
    db.run("CREATE TRIGGER z BEFORE TRUNCATE ON part_2 EXECUTE FUNCTION note()")
    db.run("BEGIN; TRUNCATE part_2, part_3; INSERT INTO parts VALUES (22, 2); TRUNCATE part_2; COMMIT")
    assert (ids(db, "D"), db.losses) == ([2, 3, 22], 0)


def test_concurrent_serializable_truncates_succeed(db: JournalDatabase):
    db.run(
        "CREATE TABLE others (id int, k int) PARTITION BY LIST (k); CREATE TABLE other_1 PARTITION OF others DEFAULT"
    )
    db.run("SELECT changefeed.watch('others')")
    one, other = db.session(), db.session()
    for session in (one, other):
        session.run("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1")
    one.run("TRUNCATE parts")
    other.run("TRUNCATE others")
    one.run("COMMIT")
    other.run("COMMIT")
    assert sorted(entry[:2] for entry in db.entries()) == [("T", "public.others"), ("T", "public.parts")]
    assert db.value("SELECT count(*) FROM changefeed.truncation") == 0


@pytest.mark.parametrize(
    ("handed_over", "is_taken"),
    [
        ('{"rows": [{"id": 1}, {}]}', True),
        ('{"count": 1}', True),
        ('{"count": 9007199254740991}', True),
        ('{"count": 9007199254740992}', False),
        ('{"count": 0}', True),
        ('{"count": -99999999999}', False),
        ('{"count": null}', False),
        ('{"rows": [5]}', False),
        ('{"rows": [{}, null]}', False),
        ('{"rows": ["x"]}', False),
        ('{"rows": {}}', False),
        ('{"rows": [{}], "count": 1}', False),
        ('["x"]', False),
        ("[null]", False),
        ("null", False),
        ("{}", False),
    ],
)
def test_nothing_but_rows_or_a_count_is_taken(db: JournalDatabase, handed_over: str, is_taken: bool):
    assert db.value("SELECT changefeed.is_handed_over(%s)", handed_over) == is_taken


@pytest.mark.parametrize("count", [9223372036854775807, -99999999999])
def test_counts_that_no_trigger_of_ours_wrote_can_be_added_up(db: JournalDatabase, count: int):
    db.run("INSERT INTO parts VALUES (1, 1); TRUNCATE part_1; INSERT INTO parts VALUES (1, 1); TRUNCATE part_1")
    db.run("UPDATE changefeed.journal SET data = NULL, row_count = %s WHERE action = 'D'", count)
    bounds = {"seconds_from": 0, "tens_from": 0, "minutes_from": 0, "below": 1 << 60, "limit": 100}
    snapshot = db.value("SELECT pg_current_snapshot()")
    rows = asyncio.run(db.fetch(load_queries("server.sql")["activity"], {**bounds, "snapshot": snapshot}))
    deleted = sum(count for *_, action, count, _ in rows if action == "D")
    assert deleted == (2**53 - 1 if count > 0 else 0)


def test_truncate_of_an_empty_partition_writes_nothing(db: JournalDatabase):
    db.run("TRUNCATE part_2")
    assert db.entries() == []


def test_truncate_above_the_limit_is_one_entry(db: JournalDatabase):
    db.run("SELECT changefeed.watch('parts', row_limit => 3)")
    db.run("INSERT INTO part_2 SELECT i, 2 FROM generate_series(1, 5) AS i")
    db.run("TRUNCATE part_2")
    assert [(entry.action, entry.data, entry.row_count) for entry in db.entries()][-1] == ("D", None, 5)


def test_truncate_of_a_partition_leaves_out_what_is_to_be_left_out(db: JournalDatabase):
    db.run("SELECT changefeed.watch('parts', omit => '{note}'); INSERT INTO parts VALUES (2, 2, 'hush')")
    db.run("TRUNCATE part_2")
    assert [entry.data for entry in db.entries()] == ['{"id":2,"k":2}'] * 2


def test_truncate_by_an_old_snapshot_is_a_loss(db: JournalDatabase):
    db.run("INSERT INTO parts VALUES (2, 2)")
    old = db.session()
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM parts")
    db.run("DELETE FROM parts WHERE id = 2; INSERT INTO part_2 VALUES (22, 2)")
    db.forget()
    old.run("TRUNCATE part_2; COMMIT")
    assert (db.entries(), db.losses) == ([], 1)
    assert "TRUNCATE it in READ COMMITTED" in old.warnings[0]


def test_truncate_sees_commits_it_waited_for(db: JournalDatabase):
    db.run("INSERT INTO parts VALUES (2, 2)")
    other, waiting = db.session(), db.session()
    other.run("BEGIN; DELETE FROM parts WHERE id = 2; INSERT INTO part_2 VALUES (22, 2)")
    thread = threading.Thread(target=waiting.run, args=("TRUNCATE part_2",))
    thread.start()
    while not db.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'part_2'::regclass"):
        pass
    other.run("COMMIT")
    thread.join()
    assert [(action, row["id"]) for action, row in db.changes()] == [("I", 2), ("D", 2), ("I", 22), ("D", 22)]
    db.assert_rebuilds("public.parts")


def test_truncate_without_select_is_recorded(db: JournalDatabase):
    role = db.new_role("truncater")
    db.run(f"INSERT INTO parts VALUES (2, 2); GRANT TRUNCATE ON part_2 TO {role}")
    session = db.session(user=role)
    session.run("TRUNCATE part_2")
    assert db.value("SELECT count(*) FROM parts") == 0
    assert "permission denied for table part_2" in session.warnings[0]
    assert db.losses == 1


def test_foreign_keys_to_and_from_partitioned_tables(db: JournalDatabase):
    db.run("CREATE TABLE heads (id int PRIMARY KEY); INSERT INTO heads VALUES (1), (2)")
    db.run("ALTER TABLE parts ADD FOREIGN KEY (id) REFERENCES heads ON DELETE CASCADE ON UPDATE CASCADE")
    db.run("BEGIN; INSERT INTO parts VALUES (1, 1, 'a'), (1, 3, 'b'), (2, 2, 'c'); UPDATE heads SET id = id + 10")
    db.run("DELETE FROM heads WHERE id = 11; COMMIT")
    db.assert_rebuilds("public.parts")
    assert len(db.entries()) == 8


def test_a_partition_alone_cannot_be_watched(db: JournalDatabase):
    with pytest.raises(psycopg2.errors.WrongObjectType, match="part_3_4 is a partition"):
        db.run("SELECT changefeed.watch('part_3_4')")


def test_a_foreign_partition_is_left_out(db: JournalDatabase):
    db.run("CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w")
    db.run("CREATE FOREIGN TABLE part_8 PARTITION OF parts FOR VALUES IN (8) SERVER s")
    assert db.value("SELECT changefeed.watch('parts')") is False  # the event trigger has seen it
    # PostgreSQL refuses a write that reaches the foreign partition where the root has such.
    assert db.value("SELECT count(*) FROM pg_trigger WHERE num_nonnulls(tgoldtable, tgnewtable) > 0") == 0
    assert db.value("SELECT is_complete FROM changefeed.status()") is True
    db.run("INSERT INTO parts VALUES (1, 1); UPDATE part_1 SET k = 9; TRUNCATE part_1; INSERT INTO parts VALUES (2, 1)")
    assert [action for action, _ in db.changes("public.parts")] == ["I", "U", "D", "I"]
    db.run("DROP FOREIGN TABLE part_8; SELECT changefeed.refresh(); UPDATE parts SET note = 'x'")
    db.assert_rebuilds("public.parts")
    assert db.value("SELECT count(*) FROM pg_trigger WHERE num_nonnulls(tgoldtable, tgnewtable) > 0") > 0


def test_ddl_on_other_tables_does_not_look_at_what_is_watched(db: JournalDatabase):
    db.run('ALTER TABLE part_2 DISABLE TRIGGER "~changefeed_insert"; DROP TRIGGER "~changefeed_delete" ON part_2')
    holder = db.session()
    holder.run("BEGIN; LOCK TABLE parts, part_2 IN ACCESS EXCLUSIVE MODE")
    db.run("SET statement_timeout = '2s'")
    db.run("CREATE TEMP TABLE t (id int); CREATE TABLE u (id int); ALTER TABLE u ADD COLUMN x int; DROP TABLE u")
    assert db.warnings == []


class TestInheritance:
    @pytest.fixture(autouse=True)
    def family(self, db: JournalDatabase) -> None:
        db.run("CREATE TABLE parent (id int, note text); CREATE TABLE child (x int) INHERITS (parent)")

    def test_each_row_is_recorded_under_the_table_that_it_is_in(self, db: JournalDatabase):
        db.run("SELECT changefeed.watch('parent'), changefeed.watch('child')")
        db.run("INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 'c', 3)")
        db.run("UPDATE parent SET note = 'all'; DELETE FROM parent")
        assert [entry[:3] for entry in db.entries("public.child")] == [
            ("I", "public.child", '{"id":2,"note":"c","x":3}'),
            ("U", "public.child", '{"id":2,"note":"all","x":3}'),
            ("D", "public.child", '{"id":2,"note":"all","x":3}'),
        ]
        assert [action for action, _ in db.changes("public.parent")] == ["I", "U", "D"]
        db.assert_rebuilds("public.parent", "ONLY parent")
        db.assert_rebuilds("public.child")

    def test_what_an_after_trigger_does_to_the_row_comes_after_it(self, db: JournalDatabase):
        db.run("SELECT changefeed.watch('parent'), changefeed.watch('child')")
        db.run(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.note IS NULL THEN "
            "UPDATE parent SET note = TG_OP WHERE id = NEW.id; END IF; RETURN NULL; END $$"
        )
        for table in ("parent", "child"):
            db.run(f"CREATE TRIGGER a AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION note()")
        db.run("BEGIN; INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (3), (4); COMMIT")
        db.run("UPDATE parent SET note = NULL; DELETE FROM child WHERE id = 3")
        db.assert_rebuilds("public.parent", "ONLY parent")
        db.assert_rebuilds("public.child")

    def test_a_child_that_comes_later_changes_the_parent_s_triggers(self, db: JournalDatabase):
        db.run("CREATE TABLE lone (id int); SELECT changefeed.watch('lone')")
        db.run("CREATE TABLE heir (x int) INHERITS (lone)")
        db.run("INSERT INTO lone VALUES (1); INSERT INTO heir VALUES (2, 2); UPDATE lone SET id = id + 10")
        assert db.changes("public.lone") == [("I", {"id": 1}), ("U", {"id": 11})]
        assert db.value("SELECT is_complete FROM changefeed.status() WHERE table_name = 'lone'") is True

    def test_truncate_reaches_the_children(self, db: JournalDatabase):
        db.run("SELECT changefeed.watch('parent'), changefeed.watch('child'); TRUNCATE parent")
        assert sorted(entry[:2] for entry in db.entries()) == [("T", "public.child"), ("T", "public.parent")]


class TestMerge:
    @pytest.fixture(autouse=True)
    def stock(self, db: JournalDatabase) -> None:
        if db.version < 15:
            pytest.skip("PostgreSQL 15 brought MERGE")
        db.run("CREATE TABLE stock (id int PRIMARY KEY, n int) PARTITION BY HASH (id)")
        for remainder in range(2):
            db.run(
                f"CREATE TABLE stock_{remainder} PARTITION OF stock FOR VALUES WITH (MODULUS 2, REMAINDER {remainder})"
            )
        db.run("SELECT changefeed.watch('stock')")

    @pytest.mark.parametrize("options", ["", ", omit => '{}', row_limit => 1000"])
    def test_an_upsert_tells_each_row_s_own_data(self, db: JournalDatabase, options: str):
        db.run(f"SELECT changefeed.watch('stock'{options})")
        db.run("INSERT INTO stock SELECT i * 2, 0 FROM generate_series(1, 50) AS i")
        for _ in range(3):
            db.run(
                "MERGE INTO stock AS t USING (SELECT i FROM generate_series(1, 100) AS i ORDER BY i) AS s (id) "
                "ON t.id = s.id WHEN MATCHED AND t.id % 10 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = n + 1 "
                "WHEN NOT MATCHED THEN INSERT VALUES (s.id, 100)"
            )
        db.assert_rebuilds("public.stock")

    def test_the_smallest_case(self, db: JournalDatabase):
        db.run("INSERT INTO stock VALUES (2, 0)")
        db.run(
            "MERGE INTO stock AS t USING (VALUES (1), (2)) AS s (id) ON t.id = s.id "
            "WHEN MATCHED THEN UPDATE SET n = n + 1 WHEN NOT MATCHED THEN INSERT VALUES (s.id, 100)"
        )
        assert ("U", {"id": 2, "n": 1}) in db.changes()
        db.assert_rebuilds("public.stock")
        assert db.losses == 0

    @pytest.mark.parametrize(
        "merge",
        [
            "MERGE INTO parts AS p USING (VALUES (1)) AS s (id) ON p.id = s.id WHEN MATCHED THEN UPDATE SET k = 2",
            "merge\ninto parts AS p USING (VALUES (1), (5)) AS s (id) ON p.id = s.id WHEN MATCHED THEN UPDATE SET k = 2 "
            "WHEN NOT MATCHED THEN INSERT (id, k) VALUES (s.id, 3)",
            "DO $$ BEGIN MERGE INTO parts AS p USING (VALUES (1)) AS s (id) ON p.id = s.id "
            "WHEN MATCHED THEN UPDATE SET k = 2; END $$",
            "SELECT upsert()",
            "SELECT upsert_in_sql()",
            "EXECUTE prepared",
        ],
    )
    def test_rows_that_it_moves_are_recorded_as_a_loss(self, db: JournalDatabase, merge: str):
        text = "MERGE INTO parts AS p USING (VALUES (1)) AS s (id) ON p.id = s.id WHEN MATCHED THEN UPDATE SET k = 2"
        db.run(f"CREATE FUNCTION upsert() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {text}; END $$")
        db.run(f"CREATE FUNCTION upsert_in_sql() RETURNS void LANGUAGE sql AS $$ {text} $$")
        db.run(f"PREPARE prepared AS {text}")
        db.run("INSERT INTO parts VALUES (1, 1)")
        db.run(merge)
        assert db.value("SELECT k FROM parts WHERE id = 1") == 2
        assert db.losses == 1

    def test_a_merge_in_a_long_script_is_a_loss(self, db: JournalDatabase):
        updates = "UPDATE parts SET note = 'n'; " * 500
        db.run(f"INSERT INTO parts VALUES (1, 1); {updates}")
        assert db.losses == 0
        merge = "MERGE INTO parts AS p USING (VALUES (1)) AS s (id) ON p.id = s.id WHEN MATCHED THEN UPDATE SET k = 2"
        db.run(f"{updates} {merge}")
        assert db.losses == 1

    def test_one_that_names_a_view_is_recorded_as_a_loss(self, db: JournalDatabase):
        if db.version < 17:
            pytest.skip("PostgreSQL 17 brought MERGE into views")
        db.run("CREATE VIEW seen AS SELECT * FROM parts; INSERT INTO parts VALUES (1, 1)")
        db.run("MERGE INTO seen USING (VALUES (1)) AS s (id) ON seen.id = s.id WHEN MATCHED THEN UPDATE SET k = 2")
        assert db.losses == 1

    def test_what_one_of_another_table_causes_is_no_loss(self, db: JournalDatabase):
        """The action of a foreign key runs as part of the statement, whose text is all that is known."""
        db.run("CREATE TABLE boxes (id int PRIMARY KEY); INSERT INTO boxes VALUES (1)")
        db.run("ALTER TABLE stock ADD box int REFERENCES boxes ON DELETE SET NULL")
        db.run("INSERT INTO stock VALUES (1, 1, 1), (2, 1, NULL), (3, 1, NULL), (4, 1, NULL)")
        db.run("DELETE FROM stock WHERE id > 1")
        db.run("MERGE INTO boxes AS b USING (VALUES (1)) AS s (id) ON b.id = s.id WHEN MATCHED THEN DELETE")
        assert db.losses == 0
        db.assert_rebuilds("public.stock")

    def test_a_partition_without_a_trigger_of_its_own_is_no_loss(self, db: JournalDatabase):
        db.run("INSERT INTO stock SELECT i, 1 FROM generate_series(1, 20) AS i; DELETE FROM stock WHERE id > 10")
        db.run("MERGE INTO stock_0 AS t USING stock_0 AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET n = 2")
        assert db.losses == 0
        db.assert_rebuilds("public.stock")

    def test_an_update_that_moves_rows_is_no_loss(self, db: JournalDatabase):
        db.run("INSERT INTO parts VALUES (1, 1)")
        db.run("DO $$ BEGIN UPDATE parts SET k = 2; EXECUTE 'UPDATE parts SET k = 3'; END $$")
        db.run("UPDATE parts SET k = 4")
        assert db.losses == 0
        db.assert_rebuilds("public.parts")


def test_writes_reach_a_foreign_partition_undisturbed(db: JournalDatabase):
    if not db.run("SELECT FROM pg_available_extensions WHERE name = 'postgres_fdw'"):
        pytest.skip("this PostgreSQL has no postgres_fdw")
    socket = db.connection.get_dsn_parameters()
    db.run("CREATE EXTENSION postgres_fdw; CREATE TABLE remote (id int, k int, note text)")
    db.run(
        f"CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{socket['host']}', port '{socket['port']}', "
        f"dbname '{db.name}'); CREATE USER MAPPING FOR postgres SERVER loop OPTIONS (user 'postgres')"
    )
    db.run("CREATE FOREIGN TABLE part_8 PARTITION OF parts FOR VALUES IN (8) SERVER loop OPTIONS (table_name 'remote')")
    db.run("SELECT changefeed.refresh()")
    assert db.value("SELECT is_complete FROM changefeed.status()") is True
    db.run(
        "INSERT INTO parts VALUES (1, 1), (8, 8), (2, 2); UPDATE parts SET note = 'x'; DELETE FROM parts WHERE id = 8"
    )
    db.run("UPDATE parts SET k = 2 WHERE id = 1; DELETE FROM parts WHERE id = 2")
    assert db.run("SELECT id, k, note FROM parts") == [(1, 2, "x")]
    db.assert_rebuilds("public.parts", "part_2")
    assert db.losses == 0
    db.run("TRUNCATE part_2")
    assert db.changes()[-1] == ("D", {"id": 1, "k": 2, "note": "x"})


def test_a_long_script_is_searched_once_for_what_may_move_rows(db: JournalDatabase):
    db.run(
        "CREATE TABLE moved (id int, k int) PARTITION BY LIST (k); CREATE TABLE moved_1 PARTITION OF moved FOR VALUES IN (1)"
    )
    db.run("CREATE TABLE moved_2 PARTITION OF moved FOR VALUES IN (2); SELECT changefeed.watch('moved')")
    db.run("INSERT INTO moved SELECT i, 1 FROM generate_series(1, 9) AS i")
    updates = "UPDATE moved SET id = id + 10 WHERE id = 2; UPDATE moved SET id = id - 10 WHERE id = 12;" * 150
    db.run(f"BEGIN; UPDATE moved SET k = 2 WHERE id = 1; {updates} COMMIT")
    assert db.losses == 0
    assert db.value("SELECT currval('changefeed.searched')") > 1
    if db.version >= 15:
        merge = "MERGE INTO moved AS m USING (VALUES (3)) AS v (id) ON m.id = v.id WHEN MATCHED THEN UPDATE SET k = 2;"
        db.run(f"BEGIN; UPDATE moved SET k = 1 WHERE id = 1; {updates} {merge} COMMIT")
        assert db.losses > 0


ENUM = (
    "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE FUNCTION as_json(mood) RETURNS json LANGUAGE sql IMMUTABLE "
    """AS $$ SELECT '{"c": 1}'::json $$; CREATE CAST (mood AS json) WITH FUNCTION as_json(mood); """
    "CREATE DOMAIN temper AS mood; CREATE TYPE pair AS (a mood, b int); CREATE TYPE numbers AS (a int, b text)"
)


@pytest.mark.parametrize("is_trusted", [False, True])
@pytest.mark.parametrize(
    ("type_name", "value"),
    [
        ("mood", "'sad'"),
        ("temper", "'glad'"),
        ("mood[]", "'{sad,NULL,glad}'"),
        ("temper[]", "'{sad}'"),
        ("mood[]", "'{{sad},{glad}}'"),
        ("mood", "NULL"),
        ("numbers", "'(1,x)'"),
        ("numbers[]", """'{"(1,x)",NULL}'"""),
    ],
)
def test_a_deleted_row_has_the_values_that_it_was_inserted_with(
    db: JournalDatabase, type_name: str, value: str, *, is_trusted: bool
):
    owner = db.new_role("owner")
    db.run(f"GRANT CREATE ON SCHEMA public TO {owner}")
    session = db.session(user=owner)
    (db if is_trusted else session).run(ENUM)
    session.run(f"CREATE TABLE moods (id int, m {type_name}) PARTITION BY LIST (id)")
    session.run("CREATE TABLE moods_1 PARTITION OF moods FOR VALUES IN (1)")
    db.run("SELECT changefeed.watch('moods')")
    session.run(f"INSERT INTO moods VALUES (1, {value}); TRUNCATE moods_1")
    (inserted, row), (deleted, same_row) = db.changes()
    assert (inserted, deleted, row, db.losses) == ("I", "D", same_row, 0)


def test_a_composite_with_its_owners_cast_is_a_loss(db: JournalDatabase):
    owner = db.new_role("owner")
    db.run(f"GRANT CREATE ON SCHEMA public TO {owner}")
    session = db.session(user=owner)
    session.run(ENUM + "; CREATE TABLE moods (id int, m pair[]) PARTITION BY LIST (id)")
    session.run("CREATE TABLE moods_1 PARTITION OF moods FOR VALUES IN (1)")
    db.run("SELECT changefeed.watch('moods')")
    session.run("""INSERT INTO moods VALUES (1, '{"(sad,1)"}'); TRUNCATE moods_1""")
    assert ([letter for letter, _ in db.changes()], db.losses) == (["I"], 1)


RENAMED_ROOTS = {
    "the root has another name": "ALTER TABLE parts RENAME TO pieces; CREATE TABLE parts (id int, secret text); "
    "SELECT changefeed.watch('parts')",
    "the partition has another root": "CREATE TABLE pieces (LIKE parts) PARTITION BY RANGE (id); ALTER TABLE parts DETACH PARTITION part; "
    "ALTER TABLE pieces ATTACH PARTITION part DEFAULT; SELECT changefeed.watch('pieces')",
}


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("change", RENAMED_ROOTS.values(), ids=RENAMED_ROOTS.keys())
@pytest.mark.parametrize(
    ("write", "actions"),
    [("INSERT INTO part VALUES (2, 'b')", {"I"}), ("TRUNCATE part", {"L"})],
    ids=["INSERT", "TRUNCATE"],
)
def test_an_old_snapshot_records_under_the_roots_name(
    db: JournalDatabase, level: str, change: str, write: str, actions: set[str]
):
    db.run(
        "DROP TABLE parts; CREATE TABLE parts (id int, name text) PARTITION BY RANGE (id); "
        "CREATE TABLE part PARTITION OF parts DEFAULT"
    )
    db.run("SELECT changefeed.watch('parts'); INSERT INTO parts VALUES (1, 'a')")
    writer = db.session()
    writer.run(f"BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class")
    db.run(change)
    db.forget()
    writer.run(write)
    writer.run("COMMIT")
    assert set(db.run("SELECT table_name, action FROM changefeed.journal WHERE action <> 'T'")) == {
        ("pieces", action) for action in actions
    }
