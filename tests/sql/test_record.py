"""A statement leaves every change in the journal once, in order, and nothing without a change."""

import select

import psycopg2
import pytest

from tests.journal_database import JournalDatabase, Session


@pytest.fixture(autouse=True)
def orders(db: JournalDatabase) -> None:
    db.run("CREATE TABLE orders (id bigint PRIMARY KEY, status text)")
    db.run("SELECT changefeed.watch('orders')")


@pytest.fixture
def listener(db: JournalDatabase) -> Session:
    session = db.session()
    session.run("LISTEN changefeed")
    return session


def heard(listener: Session) -> list[tuple[str, str]]:
    """The notifications up to now: a NOTIFY of our own is the last."""
    listener.run("LISTEN marker; NOTIFY marker")
    while not listener.connection.notifies or listener.connection.notifies[-1].channel != "marker":
        select.select([listener.connection], [], [])
        listener.connection.poll()
    found = [(notify.channel, notify.payload) for notify in listener.connection.notifies]
    listener.connection.notifies.clear()
    return found[:-1]


def test_every_action_is_recorded_with_its_row(db: JournalDatabase):
    db.run("INSERT INTO orders VALUES (1, 'new')")
    db.run("UPDATE orders SET status = 'paid'")
    db.run("DELETE FROM orders")
    db.run("TRUNCATE orders")
    assert [entry[:4] for entry in db.entries()] == [
        ("I", "public.orders", '{"id":1,"status":"new"}', None),
        ("U", "public.orders", '{"id":1,"status":"paid"}', '{"id":1,"status":"new"}'),
        ("D", "public.orders", '{"id":1,"status":"paid"}', None),
        ("T", "public.orders", None, None),
    ]


def test_one_transaction_sends_one_notify_without_a_payload(db: JournalDatabase, listener: Session):
    db.run("BEGIN; INSERT INTO orders VALUES (1), (2); UPDATE orders SET status = 'x'; COMMIT")
    assert heard(listener) == [("changefeed", "")]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE orders SET status = 'x' WHERE false",
        "DELETE FROM orders WHERE false",
        "INSERT INTO orders SELECT 1 WHERE false",
        "INSERT INTO orders VALUES (1) ON CONFLICT DO NOTHING",
        "BEGIN; INSERT INTO orders VALUES (9); ROLLBACK",
    ],
)
def test_a_statement_without_rows_writes_and_wakes_nothing(db: JournalDatabase, listener: Session, statement: str):
    db.run("INSERT INTO orders VALUES (1)")
    heard(listener)
    db.forget()
    db.run(statement)
    assert db.entries() == []
    assert heard(listener) == []


def test_notify_off_still_writes_the_journal(db: JournalDatabase, listener: Session):
    db.run("BEGIN; SET LOCAL changefeed.notify = 'off'; INSERT INTO orders VALUES (1); COMMIT")
    assert heard(listener) == []
    assert len(db.entries()) == 1


def test_each_row_of_a_statement_is_an_entry_in_order(db: JournalDatabase):
    db.run("INSERT INTO orders SELECT generate_series(1, 500)")
    assert [row["id"] for _, row in db.changes()] == list(range(1, 501))


def test_an_update_of_the_key_is_paired_with_its_own_old_row(db: JournalDatabase):
    db.run("INSERT INTO orders SELECT i, i::text FROM generate_series(1, 100) AS i")
    db.run("UPDATE orders SET id = 1000 - id")
    db.assert_rebuilds("public.orders")
    assert all(
        entry.old == f'{{"id":{i},"status":"{i}"}}' and entry.data == f'{{"id":{1000 - i},"status":"{i}"}}'
        for i, entry in enumerate(db.entries()[100:], 1)
    )


@pytest.mark.parametrize("options", ["", ", row_limit => 100000"])
def test_a_statement_of_many_rows_pairs_each_with_its_own_old_one(db: JournalDatabase, options: str):
    db.run(f"SELECT changefeed.watch('orders'{options})")
    db.run(
        "INSERT INTO orders SELECT i, i::text FROM generate_series(1, 5000) AS i; DELETE FROM orders WHERE id % 7 = 0"
    )
    for _ in range(3):
        db.run("BEGIN; UPDATE orders SET id = id + 10000, status = 'x' || id WHERE id % 2 = 1; COMMIT")
    db.run("UPDATE orders SET status = 'y' WHERE id = 2; UPDATE orders SET status = 'z' WHERE id IN (2, 4)")
    db.assert_rebuilds("public.orders")
    assert db.losses == 0


def test_a_plan_made_for_one_row_serves_many(db: JournalDatabase):
    db.run("INSERT INTO orders SELECT generate_series(1, 20000)")
    for number in range(10):
        db.run("UPDATE orders SET status = %s WHERE id = 1", str(number))
    db.run("SET statement_timeout = '20s'")  # nested loops take a minute
    db.run("UPDATE orders SET status = 'x'")
    db.assert_rebuilds("public.orders")


def test_equal_rows_of_a_table_without_a_key_are_each_counted(db: JournalDatabase):
    db.run("CREATE TABLE bare (a int); SELECT changefeed.watch('bare')")
    db.run("INSERT INTO bare VALUES (1), (1), (1); UPDATE bare SET a = 2; DELETE FROM bare WHERE ctid = '(0,4)'")
    db.assert_rebuilds("public.bare")
    assert [action for action, _ in db.changes()] == ["I"] * 3 + ["U"] * 3 + ["D"]


def test_a_table_without_columns(db: JournalDatabase):
    db.run("CREATE TABLE nothing (); SELECT changefeed.watch('nothing'); INSERT INTO nothing DEFAULT VALUES")
    assert db.changes() == [("I", {})]


def test_on_conflict_tells_inserts_from_updates(db: JournalDatabase):
    db.run("INSERT INTO orders VALUES (1, 'old'), (2, 'old')")
    db.run("INSERT INTO orders VALUES (1), (2), (3) ON CONFLICT (id) DO UPDATE SET status = 'new' WHERE orders.id = 1")
    assert sorted(db.changes()[2:], key=str) == [
        ("I", {"id": 3, "status": None}),
        ("U", {"id": 1, "status": "new"}),
    ]
    db.assert_rebuilds("public.orders")


def test_merge(db: JournalDatabase):
    if db.version < 15:
        pytest.skip("PostgreSQL 15 brought MERGE")
    db.run("INSERT INTO orders VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    db.run(
        "MERGE INTO orders AS o USING (VALUES (1), (2), (4)) AS s (id) ON o.id = s.id "
        "WHEN MATCHED AND o.id = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET status = 'm' "
        "WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'n')"
    )
    assert sorted(action for action, _ in db.changes()[3:]) == ["D", "I", "U"]
    db.assert_rebuilds("public.orders")


def test_copy(db: JournalDatabase):
    import io

    with db.connection.cursor() as db_cursor:
        db_cursor.copy_from(io.StringIO("1\ta\n2\tä☃\n"), "orders")
    assert db.changes() == [("I", {"id": 1, "status": "a"}), ("I", {"id": 2, "status": "ä☃"})]


def test_writing_ctes_journal_each_of_their_statements(db: JournalDatabase):
    db.run("CREATE TABLE log (id int); SELECT changefeed.watch('log'); INSERT INTO orders VALUES (1), (2)")
    db.run(
        "WITH gone AS (DELETE FROM orders WHERE id = 1 RETURNING id), logged AS (INSERT INTO log SELECT id FROM gone), "
        "more AS (INSERT INTO orders VALUES (5)) UPDATE orders SET status = 'x' WHERE id = 2"
    )
    assert sorted((entry.action, entry.table) for entry in db.entries()[2:]) == [
        ("D", "public.orders"),
        ("I", "public.log"),
        ("I", "public.orders"),
        ("U", "public.orders"),
    ]
    db.assert_rebuilds("public.orders")


def test_a_view_s_writes_are_its_table_s(db: JournalDatabase):
    db.run("CREATE VIEW seen AS SELECT * FROM orders; INSERT INTO seen VALUES (1, 'x'); DELETE FROM seen")
    assert [entry[:2] for entry in db.entries()] == [("I", "public.orders"), ("D", "public.orders")]


def test_a_statement_of_more_rows_than_the_limit_is_one_entry(db: JournalDatabase):
    db.run("SELECT changefeed.watch('orders', row_limit => 3)")
    db.run("INSERT INTO orders VALUES (1), (2), (3)")
    db.run("INSERT INTO orders VALUES (4)")
    db.run("UPDATE orders SET status = 'x'")
    db.run("DELETE FROM orders")
    assert [entry.row_count for entry in db.entries()] == [None] * 4 + [4, 4]
    assert [entry[0:3:2] for entry in db.entries()[4:]] == [("U", None), ("D", None)]


def test_truncate_variants(db: JournalDatabase):
    db.run("CREATE TABLE lines (id int REFERENCES orders, line serial); SELECT changefeed.watch('lines')")
    db.run("INSERT INTO orders VALUES (1); INSERT INTO lines VALUES (1)")
    db.run("TRUNCATE orders RESTART IDENTITY CASCADE")
    assert sorted(entry[:2] for entry in db.entries()[2:]) == [("T", "public.lines"), ("T", "public.orders")]


def test_columns_may_come_go_and_change_their_name_and_type(db: JournalDatabase):
    db.run("INSERT INTO orders VALUES (1)")
    db.run("ALTER TABLE orders ADD COLUMN note text DEFAULT 'n'; INSERT INTO orders VALUES (2)")
    db.run("ALTER TABLE orders DROP COLUMN status; UPDATE orders SET note = 'm' WHERE id = 2")
    db.run("ALTER TABLE orders RENAME COLUMN note TO remark; INSERT INTO orders VALUES (3)")
    db.run("ALTER TABLE orders ALTER COLUMN id TYPE text; DELETE FROM orders WHERE id = '3'")
    assert [entry.data for entry in db.entries()] == [
        '{"id":1,"status":null}',
        '{"id":2,"status":null,"note":"n"}',
        '{"id":2,"note":"m"}',
        '{"id":3,"remark":"n"}',
        '{"id":"3","remark":"n"}',
    ]


def test_a_renamed_or_moved_table_is_recorded_under_its_new_name(db: JournalDatabase):
    db.run("CREATE SCHEMA sales; ALTER TABLE orders RENAME TO deals; ALTER TABLE deals SET SCHEMA sales")
    db.run("INSERT INTO sales.deals VALUES (1); TRUNCATE sales.deals")
    assert [entry[:2] for entry in db.entries()] == [("I", "sales.deals"), ("T", "sales.deals")]
    assert db.run("SELECT schema_name, table_name, is_complete FROM changefeed.status()") == [("sales", "deals", True)]
    db.run("DROP TABLE sales.deals")
    assert db.run("SELECT * FROM changefeed.status()") == []


def test_time_is_the_statements_and_xid_the_writers(db: JournalDatabase):
    db.run("BEGIN; INSERT INTO orders VALUES (1); SAVEPOINT s; INSERT INTO orders VALUES (2)")
    xid = db.value("SELECT pg_current_xact_id()::text")
    db.run("COMMIT")
    assert db.run("SELECT DISTINCT xid::text FROM changefeed.journal") == [(xid,)]
    assert db.value("SELECT bool_and(at BETWEEN now() - interval '1 min' AND now()) FROM changefeed.journal")


def test_a_renamed_omitted_column_stays_omitted(db: JournalDatabase):
    db.run("SELECT changefeed.watch('orders', omit => '{status}')")
    db.run("INSERT INTO orders VALUES (1, 'hush')")
    db.run("ALTER TABLE orders RENAME COLUMN status TO state; INSERT INTO orders VALUES (2, 'hush')")
    assert [entry.data for entry in db.entries()] == ['{"id":1}']
    assert db.losses == 1
    assert "column status that was to be left out or hashed is gone" in db.warnings[0]
    db.run("SELECT changefeed.watch('orders', omit => '{state}'); UPDATE orders SET state = 'quiet'")
    assert [entry.data for entry in db.entries()[1:]] == ['{"id":1}', '{"id":2}']


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_other_isolation_levels(db: JournalDatabase, level: str):
    others = [db.session() for _ in range(2)]
    for number, other in enumerate(others):
        other.run(f"BEGIN ISOLATION LEVEL {level}")
        other.run("INSERT INTO orders VALUES (%s, 'a')", number)
    for number, other in enumerate(others):
        other.run("UPDATE orders SET status = 'b' WHERE id = %s", number)
        other.run("COMMIT")
    assert len(db.entries()) == 4
    db.assert_rebuilds("public.orders")


def test_a_replica_s_session_writes_nothing(db: JournalDatabase):
    db.run("SET session_replication_role = replica")
    db.run("INSERT INTO orders VALUES (1)")
    assert db.entries() == []


def test_a_strict_table_s_changes_are_the_same(db: JournalDatabase):
    db.run("SELECT changefeed.watch('orders', strict => true)")
    db.run("INSERT INTO orders VALUES (1), (2); UPDATE orders SET id = id + 5; DELETE FROM orders WHERE id = 6")
    db.assert_rebuilds("public.orders")


def test_an_error_of_the_writer_s_own_stays_the_writer_s(db: JournalDatabase):
    db.run("INSERT INTO orders VALUES (1)")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        db.run("INSERT INTO orders VALUES (2), (1)")
    assert len(db.entries()) == 1
    assert db.losses == 0
