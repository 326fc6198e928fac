"""PostgreSQL forgets in a crash what was rolled back lately, and gives those transactions' ids out again."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from changefeed.postgres.embedded import EmbeddedPostgres
from changefeed.postgres.named_queries import read_script
from tests import postgres
from tests.postgres import connect, execute

LOOK = "SELECT table_name, why FROM changefeed.look(now(), '{}', '{}') WHERE why IS NOT NULL ORDER BY 1"
READ = "SELECT data, snapshot FROM changefeed.read(%s, NULL, NULL, 100, 100000)"


@pytest.fixture
def cluster() -> Iterator[EmbeddedPostgres]:
    """One that may be crashed, and that writes to disk only what was committed."""
    made = postgres.start()
    yield made
    postgres.discard(made)


@pytest.fixture
def crash(cluster: EmbeddedPostgres) -> Iterator[Callable[[], None]]:
    """Until it is called, nothing reaches the disk but what a commit waits for, however long that takes."""
    wal_writer = postgres.pause_wal_writer(cluster)

    def crash() -> None:
        os.kill(wal_writer, signal.SIGKILL)  # which would heed nothing else
        cluster.stop("immediate")
        cluster.start()

    yield crash
    with contextlib.suppress(ProcessLookupError):
        os.kill(wal_writer, signal.SIGKILL)


def test_what_could_not_be_recorded_is_no_more_after_a_crash(
    cluster: EmbeddedPostgres, crash: Callable[[], None]
) -> None:
    execute(cluster.conninfo, read_script("install.sql"))
    execute(cluster.conninfo, "CREATE TABLE orders (id int)")
    execute(cluster.conninfo, "SELECT changefeed.watch('orders')")
    execute(cluster.conninfo, "ALTER TABLE changefeed.journal ADD CHECK (false) NOT VALID")
    execute(cluster.conninfo, "INSERT INTO orders VALUES (1)")
    execute(cluster.conninfo, "INSERT INTO orders VALUES (2)")
    assert execute(cluster.conninfo, "SELECT last_value FROM changefeed.losses") == [(2,)]
    crash()
    assert execute(cluster.conninfo, "SELECT last_value, is_called FROM changefeed.losses") == [(2, True)]


def watch_orders_and_parted(cluster: EmbeddedPostgres) -> None:
    execute(cluster.conninfo, read_script("install.sql"))
    execute(cluster.conninfo, "CREATE TABLE orders (id int)")
    execute(cluster.conninfo, "CREATE TABLE parted (id int) PARTITION BY LIST (id)")
    execute(cluster.conninfo, "CREATE TABLE part PARTITION OF parted FOR VALUES IN (1)")
    execute(cluster.conninfo, "SELECT changefeed.watch('orders'), changefeed.watch('parted')")


@pytest.mark.parametrize("table", ["orders", "part"])
@pytest.mark.parametrize(
    "steps",
    [
        ("ALTER TABLE <table> SET UNLOGGED", "crash", LOOK),
        ("ALTER TABLE <table> SET UNLOGGED", LOOK, "crash", "ALTER TABLE <table> SET LOGGED", LOOK),
    ],
)
def test_an_unlogged_table_in_a_crash_that_no_look_saw_is_a_gap(
    cluster: EmbeddedPostgres, table: str, steps: tuple[str, ...]
) -> None:
    watch_orders_and_parted(cluster)
    execute(cluster.conninfo, "INSERT INTO orders VALUES (1); INSERT INTO parted VALUES (1)")
    assert execute(cluster.conninfo, LOOK) == []
    found = []
    for step in steps:
        if step == "crash":
            cluster.stop("immediate")
            cluster.start()
        else:
            found = execute(cluster.conninfo, step.replace("<table>", table))
    [(named, why)] = found
    assert named == ("parted" if table == "part" else table)
    assert "emptied it after a crash" in why
    assert execute(cluster.conninfo, f"SELECT count(*) FROM {table}") == [(0,)]
    assert execute(cluster.conninfo, LOOK) == []


def test_a_promotion_empties_an_unlogged_table(cluster: EmbeddedPostgres) -> None:
    """After a clean stop the statistics, which a crash resets, stay as they were."""
    watch_orders_and_parted(cluster)
    execute(cluster.conninfo, "INSERT INTO orders VALUES (1)")
    execute(cluster.conninfo, "ALTER TABLE orders SET UNLOGGED")
    assert execute(cluster.conninfo, LOOK) == []
    cluster.stop("fast")
    (cluster._cluster / "standby.signal").touch()
    cluster.start()
    execute(cluster.conninfo, "SELECT pg_promote()")
    assert execute(cluster.conninfo, "SELECT count(*) FROM orders") == [(0,)]
    [(table, why)] = execute(cluster.conninfo, LOOK)
    assert (table, "emptied it" in why) == ("orders", True)
    assert execute(cluster.conninfo, LOOK) == []


def test_of_unlogged_tables_alone_a_crash_is_a_gap(cluster: EmbeddedPostgres) -> None:
    watch_orders_and_parted(cluster)
    execute(cluster.conninfo, "ALTER TABLE part SET UNLOGGED")
    execute(cluster.conninfo, "INSERT INTO orders VALUES (1)")
    execute(cluster.conninfo, "INSERT INTO parted VALUES (1)")
    assert execute(cluster.conninfo, LOOK) == []
    for mode in ("fast", "immediate"):
        cluster.stop(mode)
        cluster.start()
        gaps = execute(cluster.conninfo, LOOK)
        assert execute(cluster.conninfo, LOOK) == []
        if mode == "fast":
            assert gaps == []
        else:
            [(table, why)] = gaps
            assert table == "parted"
            assert "emptied it after a crash" in why
    assert execute(cluster.conninfo, "SELECT count(*) FROM orders") == [(1,)]
    assert execute(cluster.conninfo, "SELECT count(*) FROM parted") == [(0,)]


def test_a_transaction_id_reused_after_a_crash_is_read(cluster: EmbeddedPostgres, crash: Callable[[], None]) -> None:
    execute(cluster.conninfo, read_script("install.sql"))
    execute(cluster.conninfo, "CREATE TABLE orders (id int)")
    execute(cluster.conninfo, "SELECT changefeed.watch('orders')")
    execute(cluster.conninfo, "INSERT INTO orders VALUES (1)")
    undone = connect(cluster.conninfo)
    undone.autocommit = False
    db_cursor = undone.cursor()
    db_cursor.execute("INSERT INTO orders VALUES (2)")
    db_cursor.execute("SELECT pg_current_xact_id()::text")
    [(undone_xid,)] = db_cursor.fetchall()
    undone.rollback()
    *_, (_, place) = execute(cluster.conninfo, READ, ("1:1:",))

    crash()
    [(xid,)] = execute(cluster.conninfo, "INSERT INTO orders VALUES (3) RETURNING pg_current_xact_id()::text")

    assert xid == undone_xid, "PostgreSQL did not give the id out again: this test tests nothing"
    assert [data for data, _ in execute(cluster.conninfo, READ, (place,))][:-1] == ['{"id":3}']


def test_a_crash_alone_is_no_gap(cluster: EmbeddedPostgres) -> None:
    """What PostgreSQL recovers from the WAL does not have the numbers of the commands that wrote it."""
    execute(cluster.conninfo, read_script("install.sql"))
    for number in range(20):
        execute(
            cluster.conninfo,
            f"BEGIN; CREATE TABLE orders_{number} (id int); CREATE TABLE parted_{number} (id int) PARTITION BY LIST (id); "
            f"CREATE TABLE part_{number} PARTITION OF parted_{number} FOR VALUES IN (1); "
            f"SELECT changefeed.watch('orders_{number}'), changefeed.watch('parted_{number}'); COMMIT",
        )
        execute(cluster.conninfo, f"INSERT INTO orders_{number} VALUES (1); INSERT INTO parted_{number} VALUES (1)")
    assert execute(cluster.conninfo, LOOK) == []
    cluster.stop("immediate")
    cluster.start()
    assert execute(cluster.conninfo, LOOK) == []
