"""A write succeeds whatever happens to the journal; the loss is counted if possible, and reported."""

import time

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from changefeed.postgres.named_queries import read_script
from tests import postgres
from tests.journal_database import JournalDatabase, Session

BREAKAGES = {
    "partition dropped": "DROP TABLE changefeed.journal_0",
    "partition detached": "ALTER TABLE changefeed.journal DETACH PARTITION changefeed.journal_0",
    "journal dropped": "DROP TABLE changefeed.journal CASCADE",
    "journal renamed": "ALTER TABLE changefeed.journal RENAME TO diary",
    "column dropped": "ALTER TABLE changefeed.journal DROP COLUMN data",
    "check refuses": "ALTER TABLE changefeed.journal ADD CHECK (false) NOT VALID",
    "index refuses": "CREATE UNIQUE INDEX ON changefeed.journal_0 ((1)); INSERT INTO changefeed.journal "
    "(slot, at, action, schema_name, table_name) VALUES (0, now(), 'I', '', '')",
    "ids used up": "ALTER SEQUENCE changefeed.journal_id MAXVALUE 5; SELECT setval('changefeed.journal_id', 5)",
    "slot dropped": "DROP SEQUENCE changefeed.slot",
    "slot out of range": "ALTER SEQUENCE changefeed.slot MAXVALUE 99; SELECT setval('changefeed.slot', 99)",
    "helper dropped": "DROP FUNCTION changefeed.trusts; CREATE TYPE u AS ENUM (); ALTER TABLE orders ADD x u",
    "losses dropped too": "DROP SEQUENCE changefeed.losses; DROP TABLE changefeed.journal CASCADE",
    "meta dropped": "DROP TABLE changefeed.meta",
}
STATEMENTS = (
    "INSERT INTO orders VALUES (1), (2)",
    "UPDATE orders SET status = 'x'",
    "INSERT INTO orders VALUES (1), (3) ON CONFLICT (id) DO UPDATE SET status = 'y'",
    "DELETE FROM orders WHERE id = 1",
    "TRUNCATE orders",
)


@pytest.fixture(autouse=True)
def orders(db: JournalDatabase) -> None:
    db.run("CREATE TABLE orders (id int PRIMARY KEY, status text); SELECT changefeed.watch('orders')")


def losses(session: Session) -> int | None:
    """How many statements the journal or, where it cannot be written, the sequence calls lost."""
    if session.value("SELECT to_regclass('changefeed.losses')") is None:
        return None
    told = 0
    if session.value("SELECT to_regclass('changefeed.journal')"):
        told = session.value("SELECT count(*) FROM changefeed.journal WHERE action = 'L'")
    return told + int(session.value("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM changefeed.losses"))


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_every_write_succeeds_over_a_broken_journal(db: JournalDatabase, breakage: str):
    db.run(BREAKAGES[breakage])
    for statement in STATEMENTS[:-1]:
        db.run(statement)
    assert db.run("SELECT id, status FROM orders ORDER BY id") == [(2, "x"), (3, None)]
    db.run(STATEMENTS[-1])
    assert db.value("SELECT count(*) FROM orders") == 0
    if breakage == "meta dropped":  # writers do not need it
        assert (losses(db), db.warnings) == (0, [])
    else:
        # The INSERT with ON CONFLICT is two; a TRUNCATE has no data.
        count = 5 if breakage == "column dropped" else 6
        assert losses(db) == (None if breakage == "losses dropped too" else count)
        assert len(db.warnings) == count
        assert all("changefeed: a change of public.orders was not recorded: " in warning for warning in db.warnings)


@pytest.mark.parametrize("breakage", ["partition dropped", "journal dropped", "ids used up", "losses dropped too"])
def test_a_strict_table_s_write_fails_over_a_broken_journal(db: JournalDatabase, breakage: str):
    db.run("SELECT changefeed.watch('orders', strict => true)")
    db.run("INSERT INTO orders VALUES (9)")
    db.run(BREAKAGES[breakage])
    if breakage == "ids used up":
        db.run("SELECT setval('changefeed.journal_id', 5)")
    for statement in (
        "INSERT INTO orders VALUES (1)",
        "UPDATE orders SET id = 3",
        "DELETE FROM orders",
        "TRUNCATE orders",
    ):
        with pytest.raises(psycopg2.Error):
            db.run(statement)
    assert db.run("SELECT id FROM orders") == [(9,)]


def test_a_failure_costs_only_its_statements_entries(db: JournalDatabase):
    db.run("BEGIN; INSERT INTO orders VALUES (1)")
    db.run("ALTER TABLE changefeed.journal RENAME TO diary; INSERT INTO orders VALUES (2)")
    db.run("ALTER TABLE changefeed.diary RENAME TO journal; INSERT INTO orders VALUES (3); COMMIT")
    assert [row["id"] for _, row in db.changes()] == [1, 3]
    assert db.losses == 1
    assert db.value("SELECT count(*) FROM orders") == 3


def test_a_loss_is_an_entry_of_its_table_in_its_transaction(db: JournalDatabase):
    db.run("SELECT changefeed.watch('orders', omit => '{status}'); ALTER TABLE orders RENAME status TO state")
    db.run("BEGIN; INSERT INTO orders VALUES (1), (2); ROLLBACK")
    assert losses(db) == 0
    db.run("BEGIN; INSERT INTO orders VALUES (1), (2); SAVEPOINT s; DELETE FROM orders; ROLLBACK TO s; COMMIT")
    columns = "action, schema_name, table_name, row_count, data, old"
    assert db.run(f"SELECT {columns} FROM changefeed.journal") == [("L", "public", "orders", 2, None, None)]
    assert db.value("SELECT is_called FROM changefeed.losses") is False


def test_a_partition_s_truncate_over_a_broken_journal(db: JournalDatabase):
    db.run("CREATE TABLE parts (k int) PARTITION BY LIST (k); CREATE TABLE part PARTITION OF parts DEFAULT")
    db.run("SELECT changefeed.watch('parts'); INSERT INTO parts VALUES (1); DROP TABLE changefeed.journal CASCADE")
    db.run("TRUNCATE part")
    assert db.value("SELECT count(*) FROM parts") == 0
    assert losses(db) == 1


def test_rights_that_were_revoked(db: JournalDatabase):
    owner = db.new_role("owner")
    conninfo = postgres.new_database()
    name = postgres.execute(conninfo, "SELECT current_database()")[0][0]
    postgres.execute(conninfo, f"ALTER DATABASE {name} OWNER TO {owner}; GRANT CREATE ON SCHEMA public TO {owner}")
    session = Session(str(make_dsn(conninfo, user=owner)))
    session.run(read_script("install.sql"))
    session.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders')")
    session.run(f"REVOKE ALL ON changefeed.journal FROM {owner}; INSERT INTO orders VALUES (1)")
    session.run(f"REVOKE ALL ON SCHEMA changefeed FROM {owner}; INSERT INTO orders VALUES (2)")
    assert session.value("SELECT count(*) FROM orders") == 2
    assert len(session.warnings) == 2
    session.connection.close()


@pytest.mark.parametrize(
    "setting",
    [
        "plpgsql.extra_errors = 'all'",
        "standard_conforming_strings = off",
        "search_path = ''",
        "search_path = changefeed, pg_temp, pg_catalog",
        "plan_cache_mode = force_generic_plan",
        "enable_hashjoin = off; SET enable_mergejoin = off; SET enable_sort = off",
        "DateStyle = 'SQL, DMY'; SET IntervalStyle = iso_8601; SET bytea_output = escape",
        "default_transaction_deferrable = on",
        "check_function_bodies = off",
        "work_mem = 64",
    ],
)
def test_a_session_s_settings_do_no_harm(db: JournalDatabase, setting: str):
    writer = db.session()
    writer.run(f"SET {setting}")
    for statement in STATEMENTS:
        writer.run(statement.replace("orders", "public.orders"))
    writer.run("INSERT INTO public.orders SELECT generate_series(1, 500)")
    writer.run("UPDATE public.orders SET id = id + 1000")
    assert (db.losses, writer.warnings) == (0, [])
    db.assert_rebuilds("public.orders")


def test_a_cancelled_statement_is_cancelled(db: JournalDatabase):
    db.run("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'")
    db.run("CREATE TRIGGER slow AFTER INSERT ON changefeed.journal FOR EACH ROW EXECUTE FUNCTION slow()")
    db.run("SET statement_timeout = '50ms'")
    with pytest.raises(psycopg2.errors.QueryCanceled):
        db.run("INSERT INTO orders VALUES (1)")
    db.run("RESET statement_timeout")
    assert db.value("SELECT count(*) FROM orders") == 0


def test_without_the_schema_no_trigger_is_left_to_fail(db: JournalDatabase):
    db.run("DROP SCHEMA changefeed CASCADE")
    for statement in STATEMENTS:
        db.run(statement)
    assert db.warnings == []


class TestTwin:
    """What a script says on a watched table, it says on an unwatched one."""

    TABLES = """
        CREATE TABLE {t} (id serial PRIMARY KEY, k int UNIQUE, v text CHECK (v <> 'bad'));
        CREATE TABLE {t}_log (id int GENERATED ALWAYS AS IDENTITY (START 1000), row_id int);
        CREATE TABLE {t}_part (id bigserial, k int) PARTITION BY LIST (k);
        CREATE TABLE {t}_part_1 PARTITION OF {t}_part FOR VALUES IN (1);
        CREATE TABLE {t}_part_2 PARTITION OF {t}_part DEFAULT;
        CREATE FUNCTION {t}_audit() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO {t}_log (row_id) VALUES (NEW.id); RETURN NULL; END $$;
        CREATE TRIGGER audit AFTER UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION {t}_audit();
    """
    SCRIPT = (
        "INSERT INTO {t} (k, v) VALUES (1, 'a')",
        "INSERT INTO {t} (k, v) VALUES (2, 'b'), (3, 'c') RETURNING id",
        "INSERT INTO {t} (id, k) VALUES (100, 100)",
        "INSERT INTO {t} (k) VALUES (1)",
        "INSERT INTO {t} (k, v) VALUES (9, 'bad')",
        "INSERT INTO {t} (k) VALUES (1), (4) ON CONFLICT (k) DO UPDATE SET v = 'upsert' RETURNING id, v",
        "INSERT INTO {t} (k) VALUES (1) ON CONFLICT DO NOTHING",
        "UPDATE {t} SET v = v || 'x' WHERE k < 3 RETURNING v",
        "UPDATE {t} SET v = 'y' WHERE false",
        "SELECT currval('{t}_id_seq'), nextval('{t}_id_seq')",
        "WITH gone AS (DELETE FROM {t} WHERE k = 2 RETURNING k) INSERT INTO {t}_log (row_id) SELECT k FROM gone",
        "INSERT INTO {t}_part (k) VALUES (1), (2), (3) RETURNING id",
        "UPDATE {t}_part SET k = 3 - k WHERE k < 3 RETURNING id, k",
        "INSERT INTO {t}_part_1 (k) VALUES (2)",
        "TRUNCATE {t}_part_1",
        "DELETE FROM {t} WHERE k = 100",
        "DO $$ BEGIN INSERT INTO {t} (k) VALUES (1); EXCEPTION WHEN unique_violation THEN NULL; END $$",
        "TRUNCATE {t} RESTART IDENTITY",
        "INSERT INTO {t} (k) VALUES (1)",
    )

    def told(self, session: Session, statement: str) -> object:
        """The rows or the error, how many rows, and the number that the session drew last."""
        with session.connection.cursor() as db_cursor:
            try:
                db_cursor.execute(statement)
                rows = db_cursor.fetchall() if db_cursor.description else []
                answer: object = (rows, db_cursor.rowcount, db_cursor.statusmessage)
            except psycopg2.Error as error:
                answer = error.pgcode
        return answer, session.run("SELECT lastval()")

    @pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
    @pytest.mark.parametrize("is_superuser", [True, False])
    def test_a_script_says_the_same(self, db: JournalDatabase, level: str, is_superuser: bool):
        for table in ("watched", "plain"):
            db.run(self.TABLES.format(t=table))
        for table in ("watched", "watched_log", "watched_part"):
            db.run(f"SELECT changefeed.watch('{table}')")
        role = db.new_role("writer")
        db.run(
            f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"
        )
        answers = {}
        for table in ("watched", "plain"):
            session = db.session(user="postgres" if is_superuser else role)
            session.run(f"SET default_transaction_isolation = '{level}'; SELECT nextval('{table}_id_seq')")
            answers[table] = [self.told(session, statement.format(t=table)) for statement in self.SCRIPT]
            if level == "read committed":
                assert session.warnings == []
        assert answers["watched"] == answers["plain"]

    def test_lastval_is_not_defined_where_it_was_not(self, db: JournalDatabase):
        role = db.new_role("writer")
        db.run(f"GRANT ALL ON orders TO {role}")
        session = db.session(user=role)
        session.run("INSERT INTO orders VALUES (1)")
        with pytest.raises(psycopg2.Error, match="lastval"):
            session.run("SELECT lastval()")
        session.run("UPDATE orders SET id = 2; CREATE TEMP SEQUENCE numbers; SELECT nextval('numbers')")
        session.run("DELETE FROM orders")
        assert session.value("SELECT lastval()") == 1

    def test_other_sessions_do_not_see_a_drawn_number(self, db: JournalDatabase):
        db.run("CREATE SEQUENCE numbers START 4711; SELECT nextval('numbers'); INSERT INTO orders VALUES (1)")
        assert db.value("SELECT lastval()") == 4711
        role = db.new_role("reader")
        seen = db.session(user=role).run("SELECT last_value FROM pg_sequences WHERE schemaname = 'changefeed'")
        assert (4711,) not in seen

    def test_other_roles_cannot_draw_from_the_writers_sequence(self, db: JournalDatabase):
        db.run("GRANT USAGE ON SEQUENCE changefeed.lastval TO PUBLIC")  # as install.sql did before
        db.run(read_script("install.sql"))
        role = db.new_role("reader")
        db.run(f"GRANT ALL ON orders TO {role}")
        ours = "SELECT oid FROM pg_class WHERE relnamespace = 'changefeed'::regnamespace AND relkind = 'S'"
        for (sequence,) in db.run(ours):
            for call in (f"nextval({sequence}::regclass)", f"setval({sequence}::regclass, 5)"):
                with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                    db.session(user=role).run(f"SELECT {call}")
        session = db.session(user=role)
        session.run("CREATE TEMP SEQUENCE numbers START 7; SELECT nextval('numbers'); INSERT INTO orders VALUES (1)")
        assert session.value("SELECT lastval()") == 7

    def test_another_sessions_highest_number_harms_no_writer(self, db: JournalDatabase):
        """It stands in the sequence for a moment, while others draw of that too."""
        db.run("CREATE SEQUENCE numbers START 4711; SELECT nextval('numbers')")
        db.run("SELECT setval('changefeed.lastval', 9223372036854775807); SELECT nextval('numbers'); LISTEN changefeed")
        db.run("INSERT INTO orders VALUES (1)")
        assert db.value("SELECT lastval()") == 4712
        db.connection.poll()
        assert [notify.channel for notify in db.connection.notifies] == ["changefeed"]


DISJOINT = """
    CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE a_log (id int); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE b_log (id int);
    CREATE FUNCTION logged() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        EXECUTE format('INSERT INTO %I VALUES ($1)', TG_TABLE_NAME || '_log') USING NEW.id; RETURN NULL; END $$;
    CREATE TRIGGER logged AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION logged();
    CREATE TRIGGER logged AFTER INSERT ON b FOR EACH ROW EXECUTE FUNCTION logged()"""


def test_serializable_writers_do_not_conflict(db: JournalDatabase):
    db.run(DISJOINT)
    db.run("SELECT changefeed.watch('a'), changefeed.watch('a_log'), changefeed.watch('b'), changefeed.watch('b_log')")
    for row in range(0, 60, 2):
        first, second = db.session(), db.session()
        first.run("BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO a VALUES (%s)", row)
        second.run("BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO b VALUES (%s)", row)
        first.run("INSERT INTO a VALUES (%s)", row + 1)
        second.run("INSERT INTO b VALUES (%s)", row + 1)
        first.run("COMMIT")
        second.run("COMMIT")
        first.connection.close()
        second.connection.close()
    assert db.value("SELECT count(*) FROM changefeed.journal") == 240


AUDITED = {
    "an audit trigger": "INSERT INTO audit (row_id) VALUES (NEW.id); RETURN NULL;",
    "a trigger that writes its own row": "UPDATE orders SET status = 'seen' WHERE id = NEW.id AND status = 'new'; RETURN NULL;",
}


@pytest.mark.parametrize("body", AUDITED.values(), ids=AUDITED.keys())
def test_what_a_row_costs_does_not_grow_with_a_statement_s_rows(db: JournalDatabase, body: str):
    db.run("CREATE TABLE audit (id serial PRIMARY KEY, row_id int); SELECT changefeed.watch('audit')")
    db.run(f"CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$")
    db.run("CREATE TRIGGER audited AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION audited()")
    seconds = {}
    for rows in (7_500, 60_000):
        begun = time.perf_counter()
        db.run("INSERT INTO orders SELECT i, 'new' FROM generate_series(1, %s) AS i", rows)
        seconds[rows] = time.perf_counter() - begun
        assert db.value("SELECT count(*) FROM changefeed.journal") == 2 * rows
        db.run("TRUNCATE orders, audit")
        db.forget()
    assert seconds[60_000] / seconds[7_500] < 24  # 8 is linear, 64 quadratic
