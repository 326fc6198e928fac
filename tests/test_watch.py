"""watch, unwatch, status: what they make, change and refuse; and that they wait for nobody without need."""

from typing import Any

import psycopg2
import pytest

from tests.journal_database import JournalDatabase, Session


def status(db: JournalDatabase, table: str = "orders") -> dict[str, Any]:
    [row] = db.run("SELECT row_to_json(s) FROM changefeed.status() AS s WHERE table_name = %s", table)
    return dict(row[0])


def triggers(db: JournalDatabase) -> list[tuple[Any, ...]]:
    return db.run(
        "SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger "
        "WHERE tgname LIKE '%changefeed%' ORDER BY 1, 2"
    )


@pytest.fixture(autouse=True)
def orders(db: JournalDatabase) -> None:
    db.run("CREATE TABLE orders (id bigint PRIMARY KEY, status text, secret text)")


@pytest.fixture
def busy(db: JournalDatabase) -> Session:
    """A session in a transaction that has written to orders."""
    writer = db.session()
    writer.run("BEGIN")
    writer.run("INSERT INTO orders VALUES (0)")
    return writer


def test_a_table_is_watched_from_the_next_statement_on_until_it_is_unwatched(db: JournalDatabase):
    db.run("INSERT INTO orders VALUES (1)")
    assert db.value("SELECT changefeed.watch('orders')") is True
    db.run("INSERT INTO orders VALUES (2)")
    assert db.value("SELECT changefeed.unwatch('orders')") is True
    db.run("INSERT INTO orders VALUES (3)")
    assert [row["id"] for _, row in db.changes()] == [2]
    assert triggers(db) == []


def test_a_second_watch_and_a_second_unwatch_change_nothing_and_say_so(db: JournalDatabase):
    db.run("SELECT changefeed.watch('orders')")
    before = triggers(db)
    assert db.value("SELECT changefeed.watch('public.orders')") is False
    assert triggers(db) == before
    assert db.value("SELECT changefeed.unwatch('orders')") is True
    assert db.value("SELECT changefeed.unwatch('orders')") is False


@pytest.mark.parametrize("mode", ["ACCESS SHARE", "ROW EXCLUSIVE", "ACCESS EXCLUSIVE"])
@pytest.mark.parametrize("call", ["watch('orders')", "status()", "refresh()"])
def test_where_nothing_differs_no_lock_is_waited_for(db: JournalDatabase, mode: str, call: str):
    db.run("SELECT changefeed.watch('orders')")
    holder = db.session()
    holder.run("BEGIN")
    holder.run(f"LOCK TABLE orders IN {mode} MODE")
    # By oid: even to look a name up waits for whoever holds it exclusively.
    oid = db.value("SELECT oid FROM pg_class WHERE relname = 'orders'")
    db.run("SET statement_timeout = '2s'")
    db.run(f"SELECT changefeed.{call}".replace("'orders'", f"{oid}::oid::regclass"))


@pytest.mark.parametrize("call", ["watch", "unwatch"])
def test_a_table_in_use_is_given_up_with_a_clear_error(db: JournalDatabase, busy: Session, call: str):
    if call == "unwatch":
        busy.run("COMMIT")
        db.run("SELECT changefeed.watch('orders')")
        busy.run("BEGIN; INSERT INTO orders VALUES (9)")
    db.run("ALTER FUNCTION changefeed.apply SET lock_timeout = '10ms'")
    db.run("ALTER FUNCTION changefeed.unwatch SET lock_timeout = '10ms'")
    before = triggers(db)
    with pytest.raises(psycopg2.errors.LockNotAvailable, match=r"orders could not be \w+: it, or .* in use for 10ms"):
        db.run(f"SELECT changefeed.{call}('orders')")
    assert triggers(db) == before


def test_the_wait_for_a_lock_is_bounded_as_installed(db: JournalDatabase):
    settings = db.value("SELECT proconfig FROM pg_proc WHERE oid = 'changefeed.apply'::regproc")
    assert [setting for setting in settings if setting.startswith("lock_timeout")] == ["lock_timeout=1s"]


def test_options_change_in_place_while_readers_hold_the_table(db: JournalDatabase):
    db.run("SELECT changefeed.watch('orders')")
    reader = db.session()
    reader.run("BEGIN; SELECT count(*) FROM orders")
    assert db.value("SELECT changefeed.watch('orders', omit => '{secret}', row_limit => 5, strict => true)") is True
    assert db.value("SELECT changefeed.watch('orders', omit => '{secret}', row_limit => 5, strict => true)") is False
    assert status(db) == {
        "schema_name": "public",
        "table_name": "orders",
        "is_complete": True,
        "omit": ["secret"],
        "row_limit": 5,
        "strict": True,
        "partitions": 0,
        "hash": [],
    }
    assert db.value("SELECT changefeed.watch('orders')") is True
    assert status(db)["omit"] == []
    assert status(db)["row_limit"] is None
    assert status(db)["strict"] is False


@pytest.mark.parametrize("column", ["ü☃", 'a"b', "a'b", "a\\b", "{}", "\\000", "a\nb", "%s"])
def test_an_odd_column_name_can_be_left_out_and_is_given_back(db: JournalDatabase, column: str):
    quoted = db.value("SELECT quote_ident(%s)", column)
    db.run(f"CREATE TABLE odd (id int, {quoted} int)")
    db.run("SELECT changefeed.watch('odd', omit => %s)", [column])
    assert db.value("SELECT changefeed.watch('odd', omit => %s)", [column]) is False
    assert status(db, "odd")["omit"] == [column]
    assert status(db, "odd")["is_complete"] is True
    db.run("INSERT INTO odd VALUES (1, 2)")
    assert db.changes() == [("I", {"id": 1})]


@pytest.mark.parametrize(
    ("made", "target", "message"),
    [
        ("CREATE VIEW v AS SELECT * FROM orders", "v", "v is not a table"),
        ("CREATE MATERIALIZED VIEW m AS SELECT 1", "m", "m is not a table"),
        ("CREATE SEQUENCE s", "s", "s is not a table"),
        ("CREATE TEMP TABLE t (id int)", "t", "t is a temporary table"),
        (
            "CREATE TABLE r (k int) PARTITION BY LIST (k); CREATE TABLE p PARTITION OF r DEFAULT",
            "p",
            "p is a partition",
        ),
        ("SELECT", "changefeed.journal", "changefeed.journal belongs to the change feed itself"),
        ("SELECT", "changefeed.journal_0", "is a partition"),
        ("SELECT", "changefeed.meta", "changefeed.meta belongs to the change feed itself"),
    ],
)
def test_what_is_no_table_to_watch_is_refused(db: JournalDatabase, made: str, target: str, message: str):
    db.run(made)
    with pytest.raises(psycopg2.errors.WrongObjectType, match=message):
        db.run("SELECT changefeed.watch(%s)", target)


def test_null_is_refused(db: JournalDatabase):
    with pytest.raises(psycopg2.errors.WrongObjectType, match="is not a table"):
        db.run("SELECT changefeed.watch(NULL)")


def test_a_system_catalog_is_refused(db: JournalDatabase):
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="pg_class"):
        db.run("SELECT changefeed.watch('pg_catalog.pg_class')")


def test_unknown_columns_and_senseless_limits_are_refused(db: JournalDatabase):
    db.run("ALTER TABLE orders DROP COLUMN status")
    for column in ("nix", "STATUS", "status", "ctid"):
        with pytest.raises(psycopg2.errors.UndefinedColumn, match=f'orders has no column "?{column}'):
            db.run("SELECT changefeed.watch('orders', omit => ARRAY[%s])", column)
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="row_limit must be at least 1"):
        db.run("SELECT changefeed.watch('orders', row_limit => 0)")
    assert triggers(db) == []


def test_a_table_s_owner_without_rights_on_the_schema_is_refused(db: JournalDatabase):
    owner = db.new_role("owner")
    db.run(f"ALTER TABLE orders OWNER TO {owner}")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="permission denied for schema changefeed"):
        db.session(user=owner).run("SELECT changefeed.watch('orders')")


def test_who_may_call_watch_but_does_not_own_the_table_is_refused(db: JournalDatabase):
    guest = db.new_role("guest")
    db.run(f"GRANT USAGE ON SCHEMA changefeed TO {guest}")
    db.run(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA changefeed TO {guest}")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="permission denied for table orders"):
        db.session(user=guest).run("SELECT changefeed.watch('orders')")


def test_nobody_but_the_owner_may_use_anything_of_the_schema(db: JournalDatabase):
    open_to_all = db.run(
        "SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'changefeed'::regnamespace "
        "AND has_function_privilege('public', oid, 'EXECUTE') AND prosecdef"
    )
    assert open_to_all == []
    assert db.value("SELECT has_schema_privilege('public', 'changefeed', 'USAGE')") is False


@pytest.mark.parametrize(
    "drift",
    [
        'DROP TRIGGER "!changefeed_truncate" ON orders',
        "CREATE OR REPLACE TRIGGER changefeed_insert AFTER INSERT ON orders REFERENCING NEW TABLE AS other "
        "FOR EACH STATEMENT EXECUTE FUNCTION changefeed.record()",
        "CREATE TRIGGER changefeed_old BEFORE INSERT ON orders EXECUTE FUNCTION changefeed.read_truncated()",
    ],
)
def test_triggers_that_someone_changed_are_told_and_mended(db: JournalDatabase, drift: str):
    db.run("SELECT changefeed.watch('orders')")
    before = triggers(db)
    db.run(drift)
    assert db.run("SELECT * FROM changefeed.refresh()") == [("public.orders",)]
    assert triggers(db) == before
    assert status(db)["is_complete"] is True


def test_triggers_that_someone_switched_off_stay_off_and_are_told(db: JournalDatabase):
    db.run("SELECT changefeed.watch('orders'); ALTER TABLE orders DISABLE TRIGGER USER")
    assert status(db)["is_complete"] is False
    assert db.run("SELECT * FROM changefeed.refresh()") == []
    db.run("INSERT INTO orders VALUES (1); ALTER TABLE orders ENABLE TRIGGER USER; INSERT INTO orders VALUES (2)")
    assert [row["id"] for _, row in db.changes()] == [2]
    assert status(db)["is_complete"] is True


def test_one_table_in_use_does_not_keep_refresh_from_the_others(db: JournalDatabase, busy: Session):
    busy.run("ROLLBACK")
    db.run("CREATE TABLE others (id int); SELECT changefeed.watch('orders'), changefeed.watch('others')")
    db.run("ALTER FUNCTION changefeed.apply SET lock_timeout = '10ms'")
    for table in ("orders", "others"):
        db.run(f"DROP TRIGGER changefeed_delete ON {table}")
    busy.run("BEGIN; INSERT INTO orders VALUES (1)")
    assert db.run("SELECT split_part(refresh, '.', -1) FROM changefeed.refresh()") == [("others",)]
    assert len(db.warnings) == 1
    assert "orders could not be changed" in db.warnings[0]
