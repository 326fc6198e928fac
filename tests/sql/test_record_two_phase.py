"""A write within a two-phase commit: prepared like any other, and read once it is committed."""

from collections.abc import Iterator

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from changefeed.postgres.named_queries import read_script
from tests import postgres
from tests.journal_database import Session


@pytest.fixture(scope="module")
def conninfo() -> Iterator[str]:
    """Of a cluster that allows prepared transactions, which is not the default."""
    cluster = postgres.start(max_prepared_transactions="5")
    postgres.execute(cluster.conninfo, read_script("install.sql"))
    postgres.execute(cluster.conninfo, "CREATE TABLE orders (id int); SELECT changefeed.watch('orders')")
    yield str(make_dsn(cluster.conninfo))
    postgres.discard(cluster)


@pytest.fixture
def session(conninfo: str) -> Iterator[Session]:
    opened = Session(conninfo)
    yield opened
    opened.run("RESET changefeed.notify; TRUNCATE changefeed.journal")
    opened.connection.close()


def read(session: Session, previous: str) -> tuple[list[str], str]:
    *entries, (_, _, snapshot) = session.run(
        "SELECT data, id, snapshot FROM changefeed.read(%s, NULL, NULL, 100, 1000000)", previous
    )
    return [data for data, _, _ in entries], snapshot


def test_a_prepared_write_is_read_when_it_is_committed(session: Session):
    _, before = read(session, "1:1:")
    session.run("BEGIN; INSERT INTO orders VALUES (1); PREPARE TRANSACTION 'one'")
    session.run("INSERT INTO orders VALUES (2)")
    found, between = read(session, before)
    assert found == ['{"id":2}']
    session.run("COMMIT PREPARED 'one'")
    assert read(session, between)[0] == ['{"id":1}']


def test_a_prepared_write_that_is_rolled_back_is_never_read(session: Session):
    _, before = read(session, "1:1:")
    session.run("BEGIN; INSERT INTO orders VALUES (1); PREPARE TRANSACTION 'two'")
    session.run("ROLLBACK PREPARED 'two'")
    assert read(session, before)[0] == []


def test_with_prepared_transactions_the_setting_decides(session: Session):
    session.run("LISTEN changefeed; INSERT INTO orders VALUES (1)")
    assert session.connection.notifies == []
    session.run("SET changefeed.notify = 'on'; INSERT INTO orders VALUES (1)")
    assert [notify.channel for notify in session.connection.notifies] == ["changefeed"]
    with pytest.raises(psycopg2.errors.FeatureNotSupported):
        session.run("BEGIN; INSERT INTO orders VALUES (1); PREPARE TRANSACTION 'three'")
