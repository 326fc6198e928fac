"""watch, unwatch and status: what they make, change and refuse, and that they rarely wait."""

import contextlib
import itertools
import os
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from changefeed.postgres.named_queries import read_script
from tests import postgres
from tests.journal_database import JournalDatabase, Session

NUMBERS = itertools.count(1)


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


def test_a_watch_lasts_from_the_next_statement_to_unwatch(db: JournalDatabase):
    db.run("INSERT INTO orders VALUES (1)")
    assert db.value("SELECT changefeed.watch('orders')") is True
    db.run("INSERT INTO orders VALUES (2)")
    assert db.value("SELECT changefeed.unwatch('orders')") is True
    db.run("INSERT INTO orders VALUES (3)")
    assert [row["id"] for _, row in db.changes()] == [2]
    assert triggers(db) == []


def test_repeated_watch_and_unwatch_change_nothing(db: JournalDatabase):
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
    assert [setting for setting in settings if setting.startswith("lock_timeout")] == ["lock_timeout=3s"]


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
        ("SELECT", "pg_class", "pg_class is a table of PostgreSQL itself.*\n.*Watch tables of your own"),
        ("SELECT", "information_schema.sql_features", "is a table of PostgreSQL itself"),
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
    with pytest.raises(psycopg2.errors.WrongObjectType, match="of PostgreSQL itself"):
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


def test_watch_is_refused_to_a_role_that_is_not_the_owner(db: JournalDatabase):
    guest = db.new_role("guest")
    db.run(f"GRANT USAGE ON SCHEMA changefeed TO {guest}")
    db.run(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA changefeed TO {guest}")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="permission denied for table orders"):
        db.session(user=guest).run("SELECT changefeed.watch('orders')")


def test_only_the_owner_may_use_the_schema(db: JournalDatabase):
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
        'CREATE OR REPLACE TRIGGER "~changefeed_insert" AFTER INSERT ON orders REFERENCING NEW TABLE AS other '
        "FOR EACH STATEMENT EXECUTE FUNCTION changefeed.record()",
        "CREATE TRIGGER changefeed_old BEFORE INSERT ON orders EXECUTE FUNCTION changefeed.read_truncated()",
    ],
)
def test_triggers_that_someone_changed_are_reported_and_mended(db: JournalDatabase, drift: str):
    db.run("SELECT changefeed.watch('orders')")
    before = triggers(db)
    db.run(drift)
    assert db.run("SELECT * FROM changefeed.refresh()") == [("public.orders",)]
    assert triggers(db) == before
    assert status(db)["is_complete"] is True


def test_disabled_triggers_stay_off_and_are_reported(db: JournalDatabase):
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
        db.run(f'DROP TRIGGER "~changefeed_delete" ON {table}')
    busy.run("BEGIN; INSERT INTO orders VALUES (1)")
    assert db.run("SELECT split_part(refresh, '.', -1) FROM changefeed.refresh()") == [("others",)]
    assert len(db.warnings) == 1
    assert "orders could not be changed" in db.warnings[0]


def test_a_foreign_trigger_with_our_name_is_no_watch(db: JournalDatabase):
    db.run("CREATE TABLE theirs (id int); SELECT changefeed.watch('orders')")
    db.run("CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    db.run(
        "CREATE TRIGGER \"~changefeed_insert\" AFTER INSERT ON theirs FOR EACH ROW EXECUTE FUNCTION theirs('not json')"
    )
    assert db.run("SELECT table_name, is_complete FROM changefeed.status()") == [("orders", True)]
    assert db.run("SELECT changefeed.refresh()") == []
    db.run("ALTER TABLE theirs ADD more int")
    assert db.warnings == []
    with pytest.raises(
        psycopg2.errors.DuplicateObject, match='theirs has a trigger "~changefeed_insert" that is not one of'
    ):
        db.run("SELECT changefeed.watch('theirs')")


@pytest.mark.parametrize("argument", ["not json", "5", '{"limit": "abc"}', '{"omit": 1}'])
def test_unreadable_options_are_reported_for_that_table_alone(db: JournalDatabase, argument: str):
    db.run("CREATE TABLE odd (id int); SELECT changefeed.watch('orders'), changefeed.watch('odd')")
    db.run(
        'CREATE OR REPLACE TRIGGER "~changefeed_insert" AFTER INSERT ON odd REFERENCING NEW TABLE AS new_rows '
        "FOR EACH STATEMENT EXECUTE FUNCTION changefeed.record(%s)",
        argument,
    )
    db.run('DROP TRIGGER "~changefeed_delete" ON orders')
    assert db.run("SELECT changefeed.refresh()") == [("public.orders",)]
    db.run("SELECT changefeed.refresh()")  # after a change it works on for a moment only
    assert [warning for warning in db.warnings if "the options of public.odd cannot be read" in warning]
    assert db.run("SELECT table_name, is_complete FROM changefeed.status()") == [("odd", False), ("orders", True)]
    assert db.value("SELECT changefeed.watch('odd')") is True
    assert status(db, "odd")["is_complete"] is True


def test_many_tables_in_use_hold_refresh_up_no_longer_than_one(db: JournalDatabase):
    holder = db.session()
    for number in range(12):
        db.run(f"CREATE TABLE t{number} (id int); SELECT changefeed.watch('t{number}')")
        db.run(f'DROP TRIGGER "~changefeed_delete" ON t{number}')
    holder.run("BEGIN; " + "; ".join(f"INSERT INTO t{number} VALUES (1)" for number in range(12)))
    db.run("SET deadlock_timeout = '100ms'")  # the wait for all of them follows from it
    db.run("SET statement_timeout = '5s'; SELECT changefeed.refresh()")
    assert len(db.warnings) == 12


def test_watching_partitions_ends_no_writer_by_a_deadlock(db: JournalDatabase):
    db.run(f"ALTER DATABASE {db.name} SET deadlock_timeout = '200ms'")
    db.run("CREATE TABLE p (id int, k int) PARTITION BY LIST (k)")
    for k in (1, 2):
        db.run(f"CREATE TABLE p_{k} PARTITION OF p FOR VALUES IN ({k}); INSERT INTO p VALUES ({k}, {k})")
    writer, watcher = db.session(), db.session()
    writer.run("BEGIN; UPDATE p_2 SET id = id")
    done: list[Any] = []

    def watch() -> None:
        done.append(watcher.value("SELECT changefeed.watch('p')"))

    watching = threading.Thread(target=watch)
    watching.start()
    while not db.value("SELECT count(*) FROM pg_locks WHERE relation = 'p_2'::regclass AND NOT granted"):
        pass
    writer.run("UPDATE p_1 SET id = id")  # which watch() has locked
    writer.run("COMMIT")
    watching.join()
    assert done == [True]
    assert status(db, "p")["is_complete"] is True


@contextlib.contextmanager
def written_meanwhile(writers: list[Session], transaction: list[str]) -> Iterator[list[str | None]]:
    """The writers repeat the transaction until the end; gives the codes of those that failed."""
    codes: list[str | None] = []
    is_over = threading.Event()

    def write(writer: Session) -> None:
        while not is_over.is_set():
            try:
                for statement in ("BEGIN", *transaction, "COMMIT"):
                    writer.run(statement)
            except psycopg2.Error as error:
                codes.append(error.pgcode)
                writer.run("ROLLBACK")

    threads = [threading.Thread(target=write, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        yield codes
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def test_a_pending_lock_fails_no_writer(db: JournalDatabase, busy: Session):
    busy.run("COMMIT; INSERT INTO orders VALUES (1); BEGIN; UPDATE orders SET status = 'x' WHERE id = 1")
    writer = db.session()
    writer.run("SET lock_timeout = '200ms'")
    with written_meanwhile([writer], ["UPDATE orders SET status = 'y' WHERE id = 0"]) as codes:
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            db.run("SELECT changefeed.watch('orders')")
        busy.run("COMMIT")
        db.run("SELECT changefeed.watch('orders')")
        busy.run("BEGIN; UPDATE orders SET status = 'x' WHERE id = 1")
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            db.run("SELECT changefeed.unwatch('orders')")
    assert codes == []


def test_no_writer_is_ended_by_its_own_deadlock_timeout(db: JournalDatabase):
    db.run("CREATE TABLE p (id int, k int) PARTITION BY LIST (k)")
    for k in range(8):
        db.run(f"CREATE TABLE p_{k} PARTITION OF p FOR VALUES IN ({k}); INSERT INTO p VALUES ({k}, {k})")
    writers = [db.session() for _ in range(3)]
    for writer in writers:
        writer.run("SET deadlock_timeout = '200ms'")
    against_the_order = [f"UPDATE p_{k} SET id = id" for k in (7, 3, 0)]
    with written_meanwhile(writers, against_the_order) as codes:
        for call in ("watch('p')", "watch('p', row_limit => 5)", "unwatch('p')") * 2:
            with contextlib.suppress(psycopg2.errors.LockNotAvailable):
                db.run(f"SELECT changefeed.{call}")
    assert codes == []


def test_a_partitioned_table_is_watched_while_it_is_written(db: JournalDatabase):
    db.run("CREATE TABLE p (id int, k int) PARTITION BY LIST (k)")
    for k in range(30):
        db.run(f"CREATE TABLE p_{k} PARTITION OF p FOR VALUES IN ({k}); INSERT INTO p VALUES ({k}, {k})")
    with written_meanwhile([db.session() for _ in range(4)], ["UPDATE p SET id = id WHERE k = 7"]) as codes:
        assert db.value("SELECT changefeed.watch('p')") is True
        assert db.value("SELECT changefeed.watch('p', row_limit => 5)") is True
        assert db.value("SELECT changefeed.unwatch('p')") is True
    assert codes == []


@pytest.mark.parametrize("is_watched", [True, False])
def test_all_partitions_are_locked_before_more_is_done_to_any(db: JournalDatabase, is_watched: bool):
    db.run("CREATE TABLE p (id int, k int) PARTITION BY LIST (k)")
    tables = ["p", *(f"p_{k}" for k in range(12))]
    for k in range(12):
        db.run(f"CREATE TABLE p_{k} PARTITION OF p FOR VALUES IN ({k})")
    if is_watched:
        db.run("SELECT changefeed.watch('p')")
    options = None if is_watched else "{}"
    steps = db.run("SELECT statement FROM changefeed.repairs(ARRAY['p'::regclass]::oid[], ARRAY[%s::jsonb])", options)
    assert [step.split(" ON ")[1].split()[0].removeprefix("public.") for (step,) in steps[: len(tables)]] == tables


def test_a_partitioned_table_in_use_is_left_as_it_was(db: JournalDatabase):
    db.run("CREATE TABLE p (id int, k int) PARTITION BY LIST (k); CREATE TABLE p_1 PARTITION OF p FOR VALUES IN (1)")
    db.run("ALTER FUNCTION changefeed.apply SET lock_timeout = '10ms'")
    writer = db.session()
    writer.run("BEGIN; INSERT INTO p_1 VALUES (1, 1)")
    with pytest.raises(psycopg2.errors.LockNotAvailable, match="Nothing was changed"):
        db.run("SELECT changefeed.watch('p')")
    assert triggers(db) == []
    writer.run("COMMIT")
    assert db.value("SELECT changefeed.watch('p')") is True


def test_a_partition_of_an_unwatched_table_is_not_recorded(db: JournalDatabase):
    for table in ("p", "q"):
        db.run(f"CREATE TABLE {table} (k int) PARTITION BY LIST (k)")
    db.run("CREATE TABLE part PARTITION OF p FOR VALUES IN (1); SELECT changefeed.watch('p')")
    db.run("ALTER TABLE p DETACH PARTITION part; ALTER TABLE q ATTACH PARTITION part FOR VALUES IN (1)")
    db.run("INSERT INTO part VALUES (1); INSERT INTO q VALUES (1)")
    assert db.entries() == []
    assert [row for row in triggers(db) if row[0] == "part"] == []


def test_an_unlogged_table_is_refused_unless_it_is_watched_already(db: JournalDatabase):
    db.run("CREATE UNLOGGED TABLE fast (id int)")
    with pytest.raises(
        psycopg2.errors.WrongObjectType, match=r"fast is unlogged(.|\n)*ALTER TABLE public.fast SET LOGGED"
    ):
        db.run("SELECT changefeed.watch('fast')")
    db.run("SELECT changefeed.watch('orders'); ALTER TABLE orders SET UNLOGGED")
    assert db.value("SELECT changefeed.watch('orders', strict => true)") is True
    assert "public.orders is unlogged" in db.warnings[-1]


def test_watch_warns_of_row_level_security(db: JournalDatabase):
    db.run("ALTER TABLE orders ENABLE ROW LEVEL SECURITY; SELECT changefeed.watch('orders')")
    assert "row-level security of public.orders is not applied" in db.connection.notices[-1]


TURKISH = "LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR' LOCALE 'C' ENCODING 'UTF8'"


@pytest.mark.parametrize(
    ("database", "setting"),
    [
        (TURKISH, "client_min_messages = warning"),
        ("LOCALE 'C' ENCODING 'SQL_ASCII'", "quote_all_identifiers = on"),
        ("LOCALE 'C' ENCODING 'LATIN1'", "standard_conforming_strings = off"),
        ("LOCALE 'C' ENCODING 'WIN1252'", "backslash_quote = off"),
        ("LOCALE 'C' ENCODING 'UTF8'", "quote_all_identifiers = on"),
        ("LOCALE 'C' ENCODING 'UTF8'", "standard_conforming_strings = off"),
        ("LOCALE 'C' ENCODING 'UTF8'", "default_transaction_isolation = 'serializable'"),
    ],
)
def test_triggers_look_the_same_under_all_settings(database: str, setting: str):
    admin = postgres.connect(postgres.cluster().conninfo)
    name = f"odd_{os.getpid()}_{next(NUMBERS)}"
    with admin.cursor() as db_cursor:
        try:
            db_cursor.execute(f"CREATE DATABASE {name} {database} TEMPLATE template0")
        except (psycopg2.errors.FeatureNotSupported, psycopg2.errors.SyntaxError):
            pytest.skip("no locale of ICU here")  # not in this build, or PostgreSQL 14
        db_cursor.execute(f"ALTER DATABASE {name} SET {setting}")
    session = Session(str(make_dsn(postgres.cluster().conninfo, dbname=name)))
    session.run(read_script("install.sql"))
    session.run(r"""CREATE TABLE "I\i" (k int, "a\b""c'" int, v text) PARTITION BY LIST (k)""")
    session.run(r"""CREATE TABLE "Part" PARTITION OF "I\i" FOR VALUES IN (1)""")
    watch = "SELECT changefeed.watch(oid, omit => %s) FROM pg_class WHERE relkind = 'p' AND relname LIKE 'I%%'"
    omitted = 'a\\b"c' + "'"
    assert session.value(watch, [omitted]) is True
    assert session.value(watch, [omitted]) is False
    session.run(r"""CREATE TABLE "IPart2" PARTITION OF "I\i" FOR VALUES IN (2)""")
    session.run("""INSERT INTO "Part" VALUES (1, 1, 'x'); INSERT INTO "IPart2" VALUES (2, 1, 'x')""")
    assert session.run("SELECT data::text FROM changefeed.journal ORDER BY id") == [
        ('{"k":1,"v":"x"}',),
        ('{"k":2,"v":"x"}',),
    ]
    assert session.run("SELECT is_complete, omit, partitions FROM changefeed.status()") == [(True, [omitted], 2)]
    assert session.run("SELECT changefeed.refresh()") == []
    assert session.run("SELECT changefeed.unwatch(oid) FROM pg_class WHERE relkind = 'p' AND relname LIKE 'I%'") == [
        (True,)
    ]
    assert session.run("SELECT * FROM pg_trigger WHERE NOT tgisinternal") == []
    assert session.warnings == []
    session.connection.close()
    admin.close()


def test_it_does_not_read_the_columns_of_all_other_tables(db: JournalDatabase):
    db.run(
        "DO $$ BEGIN FOR i IN 1..500 LOOP EXECUTE format('CREATE TABLE other%s (id int, n int)', i); END LOOP; END $$"
    )
    db.run("CREATE TABLE one (id int PRIMARY KEY); ANALYZE pg_class, pg_attribute")
    read = "SELECT pg_stat_get_xact_tuples_returned('pg_attribute'::regclass)"
    for call in ("watch('one')", "watch('one', omit => '{id}')", "unwatch('one')"):
        db.run("BEGIN")
        before = db.value(read)  # what the session has read since it last reported it
        db.run(f"SELECT changefeed.{call}")
        assert db.value(read) - before < 500, call
        db.run("COMMIT")
