"""Retention empties whole partitions by age and size, blocks no writer, and every loss is a gap."""

from collections.abc import Callable

import pytest

from tests.journal_database import JournalDatabase, Session

FOREVER = "100 years"
PLENTY = 1 << 40


@pytest.fixture(autouse=True)
def orders(db: JournalDatabase) -> None:
    db.run("CREATE TABLE orders (id serial, v text); SELECT changefeed.watch('orders')")


@pytest.fixture
def retain(db: JournalDatabase) -> Callable[..., list[int]]:
    def call(keep_for: str = FOREVER, keep_bytes: int = PLENTY) -> list[int]:
        return [slot for (slot,) in db.run("SELECT * FROM changefeed.retain(%s, %s)", keep_for, keep_bytes)]

    return call


Retain = Callable[..., list[int]]


def write(session: Session, age: str = "0") -> None:
    session.run("INSERT INTO orders (v) VALUES (repeat(md5(random()::text), 100))")
    session.run("UPDATE changefeed.journal SET at = at - %s::interval WHERE at > now() - interval '1 min'", age)


def slot(db: JournalDatabase) -> int:
    return int(db.value("SELECT last_value FROM changefeed.slot"))


def kept(db: JournalDatabase) -> list[tuple[int, int]]:
    return db.run("SELECT slot, count(*) FROM changefeed.journal GROUP BY 1 ORDER BY 1")  # type: ignore[return-value]


def lost(db: JournalDatabase) -> tuple[int, int]:
    [last] = db.run("SELECT lost_xid::bigint, lost_id FROM changefeed.read('1:1:', NULL, NULL, 1, 1) WHERE id IS NULL")
    return last  # type: ignore[return-value]


def test_what_is_young_and_small_stays(db: JournalDatabase, retain: Retain):
    write(db)
    assert retain() == []
    assert (slot(db), kept(db), lost(db)) == (0, [(0, 1)], (0, 0))


def test_old_partitions_are_emptied_by_age(db: JournalDatabase, retain: Retain):
    write(db, "8 days")
    assert retain("7 days") == []  # it was being written until now
    assert slot(db) == 1
    write(db, "2 days")
    [(xid, last_id)] = db.run("SELECT xid::text::bigint, id FROM changefeed.journal_0")
    assert retain("7 days") == [0]
    assert kept(db) == [(1, 1)]
    assert lost(db) == (xid, last_id)
    assert slot(db) == 2


def test_once_around_the_ring(db: JournalDatabase, retain: Retain):
    for number in range(20):
        assert slot(db) == number % 8
        write(db, "2 days")
        retain("7 days")
        db.run("UPDATE changefeed.journal SET at = at - interval '1 day'")
    assert len(kept(db)) <= 7
    newest = db.value("SELECT max(id) FROM changefeed.journal")
    assert lost(db)[1] + sum(count for _, count in kept(db)) == newest == 20


def test_by_size(db: JournalDatabase, retain: Retain):
    size = 1 << 20
    for _ in range(40):
        db.run("INSERT INTO orders (v) SELECT repeat(md5(i::text), 20) FROM generate_series(1, 100) AS i")
        retain(FOREVER, size)
    assert db.value("SELECT bytes FROM changefeed.journal_status()") <= size + size // 2
    assert db.value("SELECT max(id) FROM changefeed.journal") == 4000
    remaining = db.value("SELECT min(id) FROM changefeed.journal")
    assert 1 < remaining == lost(db)[1] + 1


def test_an_empty_partition_is_not_left(db: JournalDatabase, retain: Retain):
    assert retain("0", 0) == []
    assert slot(db) == 0


def test_a_partition_in_use_is_not_emptied(db: JournalDatabase, retain: Retain):
    writer = db.session()
    writer.run("SET lock_timeout = '1ms'")
    write(db, "9 days")
    writer.run("BEGIN; INSERT INTO orders DEFAULT VALUES")
    retain("7 days")
    assert slot(db) == 1
    assert retain("7 days") == []
    assert kept(db) == [(0, 1)]
    writer.run("INSERT INTO orders DEFAULT VALUES; COMMIT")
    assert kept(db) == [(0, 2), (1, 1)]
    assert (db.losses, writer.warnings) == (0, [])
    db.run("UPDATE changefeed.journal SET at = at - interval '9 days'")
    assert 0 in retain("7 days")


def test_writers_go_on_while_an_emptying_waits_to_be_committed(db: JournalDatabase):
    write(db, "9 days")
    db.run("SELECT changefeed.retain('7 days', %s)", PLENTY)
    db.run(
        "CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE orders SET v = 'b' WHERE id = NEW.id; RETURN NULL; END $$; "
        "CREATE TRIGGER bump AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION bump()"
    )
    for _ in range(2):  # the partition before the one being written is looked at by nested writes
        db.run("INSERT INTO orders (v) VALUES ('x'); UPDATE changefeed.journal SET at = at - interval '2 days'")
        db.run("SELECT changefeed.retain('10 days', %s)", PLENTY)
    assert slot(db) > 1
    emptier, writer = db.session(), db.session()
    emptier.run("BEGIN; SELECT changefeed.empty_partition(0)")
    writer.run("SET lock_timeout = '1ms'; INSERT INTO orders (v) VALUES ('y')")
    emptier.run("COMMIT")
    assert (db.losses, writer.warnings) == (0, [])


def test_a_reader_delays_retention_only_while_it_reads(db: JournalDatabase, retain: Retain):
    write(db, "9 days")
    retain("7 days")
    reader = db.session()
    reader.run("BEGIN; SELECT count(*) FROM changefeed.journal")
    assert retain("7 days") == []
    reader.run("COMMIT")
    assert retain("7 days") == [0]


def test_a_transaction_older_than_a_rotation_writes_right(db: JournalDatabase, retain: Retain):
    old = db.session()
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM orders")
    write(db, "2 days")
    retain("7 days")
    assert slot(db) == 1
    old.run("INSERT INTO orders DEFAULT VALUES; COMMIT")
    assert kept(db) == [(0, 1), (1, 1)]


def test_a_reader_with_an_older_snapshot_notices_the_emptying(db: JournalDatabase, retain: Retain):
    write(db, "9 days")
    retain("7 days")
    reader = db.session()
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    assert retain("7 days") == [0]
    [row] = reader.run("SELECT lost_xid::bigint, lost_id FROM changefeed.read('1:1:', NULL, NULL, 10, 1000)")
    assert row == lost(db) != (0, 0)


def test_two_at_once_do_not_wait_for_each_other(db: JournalDatabase, retain: Retain):
    write(db, "9 days")
    other = db.session()
    other.run("BEGIN; SELECT changefeed.retain('7 days', 1)")
    db.run("SET statement_timeout = '2s'")
    assert retain("7 days") == []
    other.run("COMMIT")


def test_the_status_of_the_journal(db: JournalDatabase, retain: Retain):
    assert db.run("SELECT oldest, newest, losses FROM changefeed.journal_status()") == [(None, None, 0)]
    write(db, "2 days")
    retain("7 days")
    write(db)
    oldest, newest = db.run("SELECT oldest, newest FROM changefeed.journal_status()")[0]
    assert (newest - oldest).days == 2
