"""When a write wakes the server by NOTIFY, and when it leaves it to the sweep, since its COMMIT might fail for it."""

import select
from collections.abc import Iterator

import psycopg2
import psycopg2.extras
import pytest
from psycopg2.extensions import Notify

from changefeed.postgres.embedded import EmbeddedPostgres
from changefeed.postgres.named_queries import read_script
from tests import postgres
from tests.journal_database import JournalDatabase, Session

TABLES = "CREATE TABLE a (id int); CREATE TABLE b (id int); CREATE TABLE plain (id int); SELECT changefeed.watch('a'), changefeed.watch('b')"


def cluster(**options: str) -> Iterator[EmbeddedPostgres]:
    """One of its own, with the journal and the tables."""
    started = postgres.start(**options)
    postgres.execute(started.conninfo, "SET synchronous_commit = local;" + read_script("install.sql") + ";" + TABLES)
    yield started
    postgres.discard(started)


@pytest.fixture
def without_standby() -> Iterator[EmbeddedPostgres]:
    """Its commits wait for a standby that never comes."""
    yield from cluster(synchronous_standby_names="nobody")


@pytest.fixture
def small_queue() -> Iterator[EmbeddedPostgres]:
    if postgres.execute(postgres.cluster().conninfo, "SELECT current_setting('server_version_num')::int") < [(170000,)]:
        pytest.skip("before PostgreSQL 17 the queue of notifications is always 8 GB")
    yield from cluster(max_notify_queue_pages="64")


@pytest.mark.parametrize("timeout", ["lock_timeout", "statement_timeout", "transaction_timeout"])
def test_a_commit_that_hangs_fails_no_impatient_writer(without_standby: EmbeddedPostgres, timeout: str):
    writer, watcher = Session(without_standby.conninfo), Session(without_standby.conninfo)
    if timeout == "transaction_timeout" and writer.connection.server_version < 170000:
        pytest.skip("PostgreSQL 17 brought transaction_timeout")
    hanging = psycopg2.connect(without_standby.conninfo, async_=True)
    psycopg2.extras.wait_select(hanging)
    hanging.cursor().execute("INSERT INTO a VALUES (1)")
    while not watcher.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"):
        pass
    writer.run(f"SET synchronous_commit = local; SET {timeout} = '500ms'")
    writer.run("INSERT INTO plain VALUES (1)")
    writer.run("INSERT INTO b VALUES (1)")
    assert watcher.value("SELECT count(*) FROM b") == 1
    assert watcher.value("SELECT count(*) FROM changefeed.journal WHERE table_name = 'b'") == 1
    for connection in (hanging, writer.connection, watcher.connection):
        connection.close()


def fill_queue(session: Session) -> None:
    while True:
        session.run("SELECT pg_notify('x', n || repeat('.', 7000)) FROM generate_series(1, 10) AS n")


def test_a_full_queue_of_notifications_fails_no_write(small_queue: EmbeddedPostgres):
    stuck, writer = Session(small_queue.conninfo), Session(small_queue.conninfo)
    stuck.run("LISTEN x")
    stuck.run("BEGIN; SELECT 1")
    with pytest.raises(psycopg2.errors.ProgramLimitExceeded, match="too many notifications"):
        fill_queue(writer)
    with pytest.raises(psycopg2.errors.ProgramLimitExceeded):
        writer.run("NOTIFY x, 'still full'")
    writer.run("INSERT INTO a VALUES (1); UPDATE a SET id = 2; DELETE FROM a; TRUNCATE a")
    assert writer.value("SELECT count(*) FROM changefeed.journal") == 4
    stuck.run("COMMIT")
    writer.run("INSERT INTO a VALUES (1)")  # looks at the queue, which nobody holds any more
    assert writer.value("SELECT pg_notification_queue_usage()") < 0.5
    stuck.connection.close()
    writer.connection.close()


def test_a_queue_that_others_fill_before_the_commit_fails_no_write(small_queue: EmbeddedPostgres):
    stuck, writer, other = (Session(small_queue.conninfo) for _ in range(3))
    stuck.run("LISTEN x")
    stuck.run("BEGIN; SELECT 1")
    while other.value("SELECT pg_notification_queue_usage()") < 0.2:
        other.run("SELECT pg_notify('x', n || repeat('.', 7000)) FROM generate_series(1, 5) AS n")
    writer.run("BEGIN; INSERT INTO a VALUES (1)")
    with pytest.raises(psycopg2.errors.ProgramLimitExceeded):
        fill_queue(other)
    writer.run("COMMIT")
    assert other.value("SELECT count(*) FROM changefeed.journal") == 1
    for session in (stuck, writer, other):
        session.connection.close()


@pytest.mark.parametrize(
    ("setting", "is_woken"),
    [
        ("lock_timeout = 0", True),
        ("lock_timeout = '1999ms'", False),
        ("lock_timeout = '2s'", True),
        ("lock_timeout = '1min'", True),
        ("statement_timeout = 1500", False),
        ("statement_timeout = '1h'", True),
        ("changefeed.notify = 'off'", False),
        ("changefeed.notify = ''", True),
    ],
)
def test_which_commits_notify(db: JournalDatabase, setting: str, is_woken: bool):
    db.run(TABLES)
    listener = db.session()
    listener.run("LISTEN changefeed")
    writer = db.session()
    writer.run(f"SET {setting}")
    writer.run("INSERT INTO a VALUES (1)")
    assert heard(listener) == ["changefeed"] * is_woken


@pytest.mark.parametrize(
    "transaction",
    [
        "INSERT INTO causes VALUES (1), (2), (3)",
        "BEGIN; INSERT INTO causes VALUES (1); INSERT INTO causes VALUES (2); COMMIT",
        "BEGIN; SAVEPOINT s; INSERT INTO causes VALUES (1); ROLLBACK TO s; INSERT INTO causes VALUES (2); COMMIT",
        "BEGIN; SET LOCAL changefeed.notify = 'off'; INSERT INTO causes VALUES (1); "
        "RESET changefeed.notify; INSERT INTO causes VALUES (2); COMMIT",
    ],
)
def test_each_transaction_in_which_only_triggers_wrote_wakes_once(db: JournalDatabase, transaction: str):
    db.run(TABLES)
    db.run(
        "CREATE TABLE causes (id int); CREATE FUNCTION write() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO a VALUES (NEW.id); RETURN NULL; END'; "
        "CREATE TRIGGER write AFTER INSERT ON causes FOR EACH ROW EXECUTE FUNCTION write()"
    )
    listener = db.session()
    listener.run("LISTEN changefeed")
    writer = db.session()
    for _ in range(2):
        writer.run(transaction)
        assert heard(listener) == ["changefeed"]


def heard(listener: Session) -> list[str]:
    """The channels of what was committed before now."""
    return [notify.channel for notify in notifies_before_now(listener)]


def notifies_before_now(listener: Session) -> list[Notify]:
    listener.run("LISTEN marker; NOTIFY marker")
    notifies = listener.connection.notifies
    while not notifies or notifies[-1].channel != "marker":
        select.select([listener.connection], [], [])
        listener.connection.poll()
    before = list(notifies[:-1])
    notifies.clear()
    return before
