"""Exactly the clients that miss something get a gap after retention deleted unread changes."""

import asyncio
import random
import threading

import pytest

from changefeed.journal.cursor import Place, Snapshot
from changefeed.journal.horizon import Deleted, Horizon
from changefeed.journal.journal import BEGINNING, Journal
from tests.journal_database import JournalDatabase, Session

ENTRIES = "SELECT xid::text::bigint, id FROM changefeed.journal"


@pytest.fixture(autouse=True)
def orders(db: JournalDatabase) -> None:
    db.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders')")


class History:
    """What was written, read and deleted by and by, in a database; each place that a reader has come to."""

    def __init__(self, db: JournalDatabase) -> None:
        self.db = db
        self.journal = Journal(db)
        assert asyncio.run(self.journal.identify())
        self.places: list[Place] = []
        self.deleted: set[tuple[int, int]] = set()
        self.edge = BEGINNING

    def read(self) -> None:
        """Up to now. Each change has a place behind it, and so has each page."""

        async def read_on() -> None:
            while True:
                page = await self.journal.read(self.edge)
                self.places += [page.place_after(change) for change in page.changes]
                self.edge = page.end
                if self.edge.previous == self.edge.batch:
                    self.places.append(self.edge)
                    return

        asyncio.run(read_on())

    def retain(self) -> None:
        """Empties what can be, and goes on to the next partition."""
        before = set(self.db.run(ENTRIES))
        self.db.run("SELECT changefeed.retain('0 s', 0)")
        self.deleted |= before - set(self.db.run(ENTRIES))

    def missed(self, place: Place) -> bool:
        return any(not place.has_passed(xid, entry_id) for xid, entry_id in self.deleted)

    def live(self, draw: random.Random, steps: int) -> None:
        writers = [self.db.session() for _ in range(4)]
        open_ones: set[Session] = set()
        for _ in range(steps):
            writer = draw.choice(writers)
            match draw.choice(("write", "write", "write", "begin", "end", "end", "read", "read", "retain")):
                case "write":
                    writer.run("INSERT INTO orders SELECT generate_series(1, %s)", draw.choice((1, 1, 3)))
                case "begin" if writer not in open_ones:
                    writer.run("BEGIN; SELECT pg_current_xact_id()")
                    open_ones.add(writer)
                case "end" if writer in open_ones:
                    writer.run(draw.choice(("COMMIT", "COMMIT", "ROLLBACK")))
                    open_ones.remove(writer)
                case "read":
                    self.read()
                case "retain":
                    self.retain()
        for writer in open_ones:
            writer.run("COMMIT")
        self.retain()
        asyncio.run(self.journal.read(self.edge))


@pytest.mark.parametrize("seed", range(6))
def test_exactly_the_clients_that_miss_something_get_a_gap(db: JournalDatabase, seed: int):
    history = History(db)
    history.live(random.Random(seed), 150)
    assert history.deleted
    wrong = [place for place in history.places if history.journal.horizon.hides_from(place) != history.missed(place)]
    assert not wrong, (history.journal.horizon, wrong[:3])


@pytest.mark.parametrize("seed", range(3))
def test_every_client_that_misses_something_gets_a_gap(db: JournalDatabase, seed: int):
    [(source,)] = db.run("SELECT pg_get_functiondef('changefeed.note_taken'::regproc)")
    assert "integer := 1000;" in source
    db.run(source.replace("integer := 1000;", "integer := 2;"))
    history = History(db)
    history.live(random.Random(seed), 150)
    horizon = history.journal.horizon
    assert any(history.missed(place) for place in history.places)
    assert [place for place in history.places if history.missed(place) and not horizon.hides_from(place)] == []
    assert len(horizon.deleted.ids) < 10


def test_a_long_transaction_is_no_gap_after_newer_deletions(db: JournalDatabase):
    history = History(db)
    old = db.session()
    old.run("BEGIN; SELECT pg_current_xact_id()")
    for _ in range(3):
        db.run("INSERT INTO orders VALUES (1)")
        history.retain()
    history.read()
    db.run("INSERT INTO orders VALUES (2)")
    history.read()
    old.run("COMMIT")
    history.retain()
    asyncio.run(history.journal.read(history.edge))
    assert history.deleted
    assert not history.journal.horizon.hides_from(history.edge)


def test_a_change_deleted_at_its_commit_is_a_gap(db: JournalDatabase):
    """Retention waits for the lock that the writer holds, and has it before any reader."""
    history = History(db)
    old = db.session()
    old.run("BEGIN; INSERT INTO orders VALUES (1)")
    for number in range(9):
        db.run("INSERT INTO orders VALUES (%s)", number)
        history.read()
        history.retain()
    before = history.journal.horizon
    old.run("COMMIT")
    history.retain()
    asyncio.run(history.journal.read(history.edge))
    after = history.journal.horizon
    assert (after.deleted_xid, after.deleted_id) == (before.deleted_xid, before.deleted_id)
    assert after.deleted.number > before.deleted.number
    assert after.hides_from(history.edge)


def test_a_read_during_the_emptying_gets_a_gap(db: JournalDatabase):
    """A page whose statement has begun before waits for the partition, and finds it empty."""
    db.run("INSERT INTO orders VALUES (1)")
    db.run("SELECT changefeed.retain('0 s', 0)")
    emptier, reader = db.session(), db.session()
    emptier.run("BEGIN; SELECT changefeed.empty_partition(0)")
    page: list[tuple[int, int]] = []
    reading = threading.Thread(
        target=lambda: page.extend(
            reader.run("SELECT taken, lost_id FROM changefeed.read('1:1:', NULL, NULL, 9, 9999) WHERE id IS NULL")
        )
    )
    reading.start()
    pid = reader.connection.get_backend_pid()
    while not db.value("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND NOT granted)", pid):
        pass
    emptier.run("COMMIT")
    reading.join()
    assert page == [(1, 1)]


def test_with_an_older_schema_every_possible_miss_is_a_gap():
    def place(xmin: int, xmax: int, *running: int) -> Place:
        return Place.after(Snapshot(xmin, xmax, frozenset(running)))

    nobody = Snapshot(100, 100)
    cases = [
        (place(50, 50), 49, nobody, False),
        (place(50, 50), 50, nobody, True),
        (place(10, 50, 10), 49, Snapshot(10, 100, frozenset({10})), False),  # it still runs
        (place(10, 50, 10), 49, nobody, True),  # it is over, and may have been deleted
        (place(10, 50, 10), 9, nobody, False),  # nothing as new was deleted
    ]
    for at, xid, present, is_hidden in cases:
        assert Horizon(xid, 9, deleted=Deleted.unnoted(xid, present)).hides_from(at) == is_hidden, (at, xid, present)
    within = Place(Snapshot(40, 40), Snapshot(50, 50), 7)
    assert not Horizon(45, 7, deleted=Deleted.unnoted(45, nobody)).hides_from(within)
    assert Horizon(45, 8, deleted=Deleted.unnoted(45, nobody)).hides_from(within)
