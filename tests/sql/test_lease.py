"""Writers omit their NOTIFY while a lease holds; only roles with the right can take one."""

from collections.abc import Iterator

import psycopg2
import pytest

from changefeed.journal.entries import JournalState
from changefeed.postgres.embedded import EmbeddedPostgres
from changefeed.postgres.named_queries import load_queries, read_script
from tests import postgres
from tests.journal_database import JournalDatabase, Session
from tests.sql.test_least_rights import READ, ROLE, TEND
from tests.sql.test_record_wakes import heard

QUERIES = load_queries("server.sql")
TAKE_LEASE = QUERIES["take lease"]
LIMITS = {"row_limit": 1, "byte_limit": 1, "row_limit_bytes": 1}


@pytest.fixture(autouse=True)
def orders(db: JournalDatabase) -> None:
    db.run("CREATE TABLE orders (id int, status text); SELECT changefeed.watch('orders')")


@pytest.fixture
def listener(db: JournalDatabase) -> Session:
    listening = db.session()
    listening.run("LISTEN changefeed")
    return listening


def take_lease(session: Session, ms: int) -> None:
    with session.connection.cursor() as db_cursor:
        db_cursor.execute(TAKE_LEASE, {"ms": ms})


def lease_ms(session: Session) -> int:
    """For how long the lease holds, as a server reads it."""
    with session.connection.cursor() as db_cursor:
        db_cursor.execute(QUERIES["read"], {"previous": "1:1:", "batch": None, "after": None, **LIMITS})
        return JournalState.of(db_cursor.fetchall()[-1]).lease_ms or 0


def lease_until(session: Session, ms: int) -> None:
    """A lease of any server that ends in this many milliseconds."""
    session.run(
        "SELECT setval('changefeed.awake_until', (extract(epoch FROM clock_timestamp()) * 1000)::bigint + %s)", ms
    )


@pytest.mark.parametrize(
    ("ends_in_ms", "is_woken"),
    [(1_900, False), (1_000, False), (-1, True), (-3_600_000, True), (2_500, True), (3_600_000, True), (10**15, True)],
    ids=["long", "usual", "just over", "over", "too long", "of a clock that was set back", "for ever"],
)
def test_a_writer_notifies_unless_a_lease_holds(
    db: JournalDatabase, listener: Session, ends_in_ms: int, is_woken: bool
):
    lease_until(db, ends_in_ms)
    db.run("INSERT INTO orders VALUES (1)")
    assert heard(listener) == ["changefeed"] * is_woken
    assert bool(lease_ms(db)) is not is_woken
    lease_until(db, ends_in_ms)
    assert db.value("SELECT changefeed.may_notify()") is is_woken


def test_where_no_lease_ever_was_writers_notify(db: JournalDatabase, listener: Session):
    db.run("INSERT INTO orders VALUES (1)")
    assert heard(listener) == ["changefeed"]
    assert lease_ms(db) == 0


def test_what_is_given_back_is_over_at_once(db: JournalDatabase, listener: Session):
    take_lease(db, 1_000)
    assert 0 < lease_ms(db) <= 1_000
    take_lease(db, 0)
    assert lease_ms(db) == 0
    db.run("INSERT INTO orders VALUES (1)")
    assert heard(listener) == ["changefeed"]


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_an_older_snapshot_sees_the_current_lease(db: JournalDatabase, listener: Session, level: str):
    writer = db.session()
    writer.run(f"BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM orders")
    take_lease(db, 1_500)
    writer.run("INSERT INTO orders VALUES (1)")
    writer.run("COMMIT")
    assert heard(listener) == []
    writer.run(f"BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM orders")
    take_lease(db, 0)
    writer.run("INSERT INTO orders VALUES (2)")
    writer.run("COMMIT")
    assert heard(listener) == ["changefeed"]


@pytest.mark.parametrize("end", ["ROLLBACK", "ROLLBACK TO s; COMMIT"])
def test_commits_notify_after_the_lease_and_rollbacks_do_not(db: JournalDatabase, listener: Session, end: str):
    server = db.session()
    take_lease(server, 1_500)
    db.run("BEGIN; INSERT INTO orders VALUES (1); SAVEPOINT s")
    take_lease(server, 0)
    db.run(f"INSERT INTO orders VALUES (2); {end}")
    assert heard(listener) == []
    take_lease(server, 1_500)
    db.run("BEGIN; INSERT INTO orders VALUES (3)")
    take_lease(server, 0)
    db.run("INSERT INTO orders VALUES (4); COMMIT")
    assert heard(listener) == ["changefeed"]


def test_what_triggers_write_leaves_it_out_too(db: JournalDatabase, listener: Session):
    db.run(
        "CREATE TABLE causes (id int); CREATE FUNCTION write() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO orders VALUES (NEW.id); RETURN NULL; END'; "
        "CREATE TRIGGER write AFTER INSERT ON causes FOR EACH ROW EXECUTE FUNCTION write()"
    )
    server = db.session()
    take_lease(server, 1_500)
    db.run("BEGIN; INSERT INTO causes VALUES (1), (2)")
    take_lease(server, 0)
    db.run("COMMIT")
    assert heard(listener) == []
    db.run("INSERT INTO causes VALUES (1), (2)")
    assert heard(listener) == ["changefeed"]


def test_a_truncated_partition_leaves_it_out_too(db: JournalDatabase, listener: Session):
    db.run("CREATE TABLE parts (k int) PARTITION BY LIST (k); CREATE TABLE part PARTITION OF parts DEFAULT")
    db.run("SELECT changefeed.watch('parts'); INSERT INTO parts VALUES (1)")
    heard(listener)
    take_lease(db, 1_500)
    db.run("TRUNCATE part")
    assert heard(listener) == []


def test_taking_a_lease_informs_the_others(db: JournalDatabase, listener: Session):
    db.run(QUERIES["announce lease"])
    assert heard(listener) == ["changefeed"]


def test_it_can_be_switched_off_for_a_database(db: JournalDatabase):
    db.run(f"ALTER DATABASE {db.name} SET changefeed.lease = 'off'")
    server = db.session()
    with server.connection.cursor() as db_cursor:
        db_cursor.execute(TAKE_LEASE, {"ms": 1_000})
        assert db_cursor.fetchall() == []
    assert lease_ms(db) == 0


def test_a_lease_that_is_gone_fails_no_write(db: JournalDatabase):
    db.run("DROP SEQUENCE changefeed.awake_until; INSERT INTO orders VALUES (1); TRUNCATE orders")
    assert (db.losses, db.warnings) == (0, [])


def test_installing_again_keeps_it_and_uninstalling_takes_it_away(db: JournalDatabase):
    take_lease(db, 1_900)
    before = db.value("SELECT last_value FROM changefeed.awake_until")
    db.run(read_script("install.sql"))
    assert db.value("SELECT last_value FROM changefeed.awake_until") == before
    db.run(read_script("uninstall.sql"))
    db.run("INSERT INTO orders VALUES (1)")
    db.run(read_script("install.sql"))
    assert lease_ms(db) == 0


class TestRights:
    """A writer could forge a lease, send no NOTIFY, and delay all changes by up to a sweep."""

    FORGERIES = (
        "SELECT setval('changefeed.awake_until', 1)",
        "SELECT nextval('changefeed.awake_until')",
        "ALTER SEQUENCE changefeed.awake_until RESTART",
        "DROP SEQUENCE changefeed.awake_until",
    )

    def refused(self, db: JournalDatabase, role: str) -> list[str]:
        session = db.session(user=role)
        refused = []
        for statement in self.FORGERIES:
            session.run("BEGIN")
            try:
                session.run(statement)
            except psycopg2.errors.InsufficientPrivilege:
                refused.append(statement)
            session.run("ROLLBACK")
        return refused

    def granted(self, db: JournalDatabase, name: str, *blocks: str) -> str:
        role = db.new_role(name)
        for block in blocks:
            db.run(block.replace(ROLE, role))
        return role

    def test_no_writer_may_set_it(self, db: JournalDatabase):
        writer = self.granted(
            db, "writer", f"GRANT ALL ON orders TO {ROLE}; GRANT USAGE ON SCHEMA changefeed TO {ROLE}"
        )
        assert self.refused(db, writer) == list(self.FORGERIES)
        take_lease(db, 1_500)
        db.session(user=writer).run("INSERT INTO orders VALUES (1)")

    def test_a_role_that_only_reads_the_journal_sees_it(self, db: JournalDatabase):
        reader = self.granted(db, "reader", READ)
        assert self.refused(db, reader) == list(self.FORGERIES)
        take_lease(db, 1_500)
        assert lease_ms(db.session(user=reader)) > 0
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            take_lease(db.session(user=reader), 1_000)

    def test_maintainers_may_take_it_and_no_more(self, db: JournalDatabase):
        server = self.granted(db, "server", READ, TEND)
        take_lease(db.session(user=server), 1_500)
        assert lease_ms(db) > 0
        assert self.refused(db, server) == list(self.FORGERIES[2:])

    def test_other_roles_have_no_right_on_it(self, db: JournalDatabase):
        assert db.value("SELECT relacl FROM pg_class WHERE oid = 'changefeed.awake_until'::regclass") is None

    def test_an_upgrade_grants_it_to_maintainers(self, db: JournalDatabase):
        server = self.granted(db, "server", READ, TEND)
        db.run("DROP SEQUENCE changefeed.awake_until")
        db.run(read_script("install.sql"))
        take_lease(db.session(user=server), 1_500)
        assert lease_ms(db.session(user=server)) > 0


class TestStandby:
    @pytest.fixture
    def standby(self) -> Iterator[EmbeddedPostgres]:
        """Of a cluster of its own: what other tests leave open would keep it from being a hot one."""
        primary = postgres.start()
        postgres.execute(primary.conninfo, read_script("install.sql"))
        postgres.execute(primary.conninfo, "CREATE TABLE orders (id int); SELECT changefeed.watch('orders')")
        copy = postgres.base_backup(primary, "-R")
        copy.start()
        yield copy
        postgres.discard(copy)
        postgres.discard(primary)

    def test_a_standby_refuses_it_and_a_promoted_one_grants_it(self, standby: EmbeddedPostgres):
        replica = Session(standby.conninfo)
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            take_lease(replica, 1_000)
        assert replica.value("SELECT pg_promote()") is True
        replica.run("SET search_path = public; INSERT INTO orders VALUES (1)")
        take_lease(replica, 1_000)
        assert lease_ms(replica) > 0
        replica.connection.close()
