"""changefeed.read: every committed change exactly once and in order, whatever the transactions do meanwhile."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.journal_database import JournalDatabase, Session

READ = "SELECT id, data, snapshot, has_more, lost_xid, lost_id, losses FROM changefeed.read(%s, %s, %s, %s, %s)"


class Reader:
    """Reads batch after batch, page after page, as the server does."""

    def __init__(self, session: Session, page_rows: int = 1000, page_bytes: int = 1 << 20) -> None:
        self._session = session
        self._bounds = (page_rows, page_bytes)
        self.previous = session.value("SELECT pg_current_snapshot()::text")
        self.batch: str | None = None
        self.after: int | None = None
        self.seen: list[Any] = []
        self.pages: list[int] = []

    def read_page(self) -> bool:
        """Whether there is more of this batch."""
        *rows, last = self._session.run(READ, self.previous, self.batch, self.after, *self._bounds)
        assert [row[0] for row in rows] == sorted(row[0] for row in rows)
        self.seen += [json.loads(row[1]) for row in rows]
        self.pages.append(len(rows))
        _, _, snapshot, has_more, *_ = last
        if has_more:
            self.batch, self.after = snapshot, rows[-1][0]
        else:
            self.previous, self.batch, self.after = snapshot, None, None
        return bool(has_more)

    def read(self) -> list[Any]:
        """What the batch up to now brings."""
        before = len(self.seen)
        while self.read_page():
            pass
        return self.seen[before:]


@pytest.fixture(autouse=True)
def orders(db: JournalDatabase) -> None:
    db.run("CREATE TABLE orders (id int PRIMARY KEY, v int); SELECT changefeed.watch('orders')")


def ids(rows: list[Any]) -> list[int]:
    return [row["id"] for row in rows]


def test_a_batch_is_what_was_committed_since_the_last(db: JournalDatabase):
    reader = Reader(db)
    assert reader.read() == []
    db.run("INSERT INTO orders VALUES (1, 0), (2, 0)")
    assert ids(reader.read()) == [1, 2]
    assert reader.read() == []


def test_late_commits_with_lower_ids_are_read(db: JournalDatabase):
    reader, early, late = Reader(db), db.session(), db.session()
    early.run("BEGIN; INSERT INTO orders VALUES (1)")
    late.run("BEGIN; INSERT INTO orders VALUES (2); COMMIT")
    assert ids(reader.read()) == [2]
    early.run("INSERT INTO orders VALUES (3); COMMIT")
    assert ids(reader.read()) == [1, 3]


def test_a_long_transaction_delays_no_other_change(db: JournalDatabase):
    reader, slow = Reader(db), db.session()
    slow.run("BEGIN; INSERT INTO orders VALUES (0)")
    for number in range(1, 20):
        db.run("INSERT INTO orders VALUES (%s)", number)
        assert ids(reader.read()) == [number]
    slow.run("COMMIT")
    assert ids(reader.read()) == [0]


def test_what_is_rolled_back_is_never_read(db: JournalDatabase):
    reader = Reader(db)
    db.run("BEGIN; INSERT INTO orders VALUES (1); SAVEPOINT s; INSERT INTO orders VALUES (2); ROLLBACK TO s")
    db.run("INSERT INTO orders VALUES (3); COMMIT; BEGIN; INSERT INTO orders VALUES (4); ROLLBACK")
    assert ids(reader.read()) == [1, 3]


def test_a_batch_in_pages_ends_where_it_ended_when_it_began(db: JournalDatabase):
    reader = Reader(db, page_rows=10)
    db.run("INSERT INTO orders SELECT generate_series(1, 25)")
    assert reader.read_page() is True
    db.run("INSERT INTO orders VALUES (99)")
    assert reader.read_page() is True
    assert reader.read_page() is False
    assert ids(reader.seen) == list(range(1, 26))
    assert reader.pages == [10, 10, 5]
    assert ids(reader.read()) == [99]


def test_a_page_ends_at_a_size_but_has_at_least_one_row(db: JournalDatabase):
    db.run("CREATE TABLE big (id int, v text); SELECT changefeed.watch('big')")
    reader = Reader(db, page_bytes=100)
    db.run(
        "INSERT INTO big SELECT i, repeat('x', 200) FROM generate_series(1, 3) AS i; INSERT INTO big VALUES (4), (5)"
    )
    reader.read()
    assert ids(reader.seen) == [1, 2, 3, 4, 5]
    assert reader.pages == [1, 1, 1, 2]


def test_a_page_that_is_full_with_the_last_row_has_no_more(db: JournalDatabase):
    reader = Reader(db, page_rows=2)
    db.run("INSERT INTO orders VALUES (1), (2)")
    assert reader.read_page() is False


def test_a_place_within_a_batch_reads_on_from_there_for_any_reader(db: JournalDatabase):
    first = Reader(db, page_rows=3)
    db.run("INSERT INTO orders SELECT generate_series(1, 10)")
    first.read_page()
    second = Reader(db.session(), page_rows=4)
    second.previous, second.batch, second.after = first.previous, first.batch, first.after
    db.run("UPDATE orders SET v = 1 WHERE id = 1")
    second.read()
    assert ids(second.seen) == list(range(4, 11))
    assert ids(second.read()) == [1]


def test_the_last_row_has_the_journals_state(db: JournalDatabase):
    db.run("SELECT nextval('changefeed.losses'), nextval('changefeed.losses')")
    [row] = db.run("SELECT * FROM changefeed.read('1:1:', NULL, NULL, 10, 1000)")
    assert row[:9] == (None,) * 9
    identity = db.value("SELECT epoch || ' ' || 'changefeed.journal'::regclass::oid FROM changefeed.meta")
    present = db.value("SELECT pg_current_snapshot()::text")
    assert row[10:] == (False, "0", 0, 0, 2, None, None, present, identity, None, [], 0)


def test_the_time_is_utc_whatever_the_session_s_zone(db: JournalDatabase):
    db.run("SET TimeZone = 'Asia/Kathmandu'; INSERT INTO orders VALUES (1)")
    at = db.run("SELECT at FROM changefeed.read('1:1:', NULL, NULL, 10, 1000)")[0][0]
    assert at.endswith("+00:00")
    assert db.value("SELECT %s::timestamptz = at FROM changefeed.journal", at) is True


def test_reading_is_not_compiled_first(db: JournalDatabase):
    """Before PostgreSQL 18 a plan without seqscan seems dear enough for that, which takes forty times as long."""
    if not db.value("SELECT pg_jit_available()"):
        pytest.skip("this PostgreSQL is built without JIT")
    reader = Reader(db)
    db.run("INSERT INTO orders SELECT generate_series(1, 10)")
    db.run("LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on")
    db.run("SET auto_explain.log_nested_statements = on; SET client_min_messages = log")
    assert len(reader.read()) == 10
    plans = [notice for notice in db.connection.notices if "plan:" in notice]
    assert any("journal_0" in plan for plan in plans)
    assert not [plan for plan in plans if "JIT:" in plan]


def test_a_repeatable_read_transaction_reads_what_it_sees(db: JournalDatabase):
    reader = Reader(db)
    other = db.session()
    db.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    other.run("INSERT INTO orders VALUES (1)")
    assert reader.read() == []
    db.run("COMMIT")
    assert ids(reader.read()) == [1]


STEPS = st.sampled_from(["insert", "bump", "savepoint", "undo", "commit", "rollback", "read", "page"])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, 3), STEPS), min_size=5, max_size=60))
def test_against_an_oracle(db: JournalDatabase, steps: list[tuple[int, str]]):
    """Four writers in any order; a row is updated by one open transaction at a time, as its lock would have it."""
    db.run("TRUNCATE orders; INSERT INTO orders SELECT -i, 0 FROM generate_series(1, 2) AS i")
    writers = [db.session() for _ in range(4)]
    reader = Reader(db, page_rows=3)
    owner: dict[int, int] = {}  # row -> the writer that has it locked
    version = Counter[int]()
    number = 0
    for who, step in steps:
        writer = writers[who]
        is_open = writer.connection.info.transaction_status != 0
        if step in ("read", "page"):
            reader.read_page() if step == "page" else reader.read()
        elif step in ("commit", "rollback"):
            if is_open:
                writer.run(step)
            owner = {row: locker for row, locker in owner.items() if locker != who}
        else:
            if not is_open:
                writer.run("BEGIN; SAVEPOINT s")
            if step == "insert":
                number += 1
                writer.run("INSERT INTO orders VALUES (%s)", number)
            elif step == "bump":
                row = -1 - number % 2
                if owner.setdefault(row, who) == who:
                    writer.run("UPDATE orders SET v = v + 1 WHERE id = %s", row)
            else:
                writer.run("SAVEPOINT s" if step == "savepoint" else "ROLLBACK TO s")
    for writer in writers:
        writer.run("COMMIT")
        writer.connection.close()
    reader.read()
    reader.read()
    expected = Counter(row for (row,) in db.run("SELECT id FROM orders WHERE id > 0"))
    assert Counter(row["id"] for row in reader.seen if row["id"] > 0) == expected
    for row, final in db.run("SELECT id, v FROM orders WHERE id < 0"):
        assert [seen["v"] for seen in reader.seen if seen["id"] == row] == list(range(1, final + 1))
        version[row] = final


def test_a_journal_emptied_during_a_start(db: JournalDatabase):
    [(_, _, snapshot, has_more, *_)] = db.run(READ, "900:900:", None, 7, 10, 1000)
    assert (snapshot, has_more) == ("900:900:", False)
