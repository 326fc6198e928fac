"""Look backs in a real journal: shared by transactions near each other, each of which finds what it would find alone."""

import asyncio
import random
from collections import defaultdict
from typing import Any

import pytest

from changefeed.ordering import digests, earlier_states
from changefeed.ordering.digests import Digests
from changefeed.ordering.earlier_states import EarlierStates, Sought
from changefeed.ordering.transaction_order import Transaction
from tests.journal_database import JournalDatabase

SCHEMA = """CREATE TABLE parents (id int PRIMARY KEY); INSERT INTO parents VALUES (1);
    CREATE TABLE t (id int PRIMARY KEY, parent int DEFAULT 1 REFERENCES parents, note text);
    CREATE TABLE u (id int PRIMARY KEY);
    SELECT changefeed.watch('t', row_limit => 4), changefeed.watch('u')"""
TRIGGER = """CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.note = 'noted' THEN UPDATE t SET note = 'done' WHERE id = NEW.id; END IF; RETURN NULL; END $$;
    CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()"""
SHORT_LIVED = "BEGIN; INSERT INTO t VALUES ({0}); DELETE FROM t WHERE id = {0}; COMMIT"
TRANSACTIONS = (
    SHORT_LIVED,
    SHORT_LIVED,
    "BEGIN; INSERT INTO t VALUES ({0}, 1, 'noted'); DELETE FROM t WHERE id = {0}; COMMIT",
    "BEGIN; INSERT INTO t VALUES ({0}), ({1}); DELETE FROM t WHERE id IN ({0}, {1}); COMMIT",
    "BEGIN; INSERT INTO t VALUES ({0}); DELETE FROM t WHERE id = {0}; INSERT INTO u VALUES ({2}); COMMIT",
    "INSERT INTO t VALUES ({0}); DELETE FROM t WHERE id = {0}",
    "INSERT INTO t SELECT generate_series(11, 16); DELETE FROM t WHERE id > 10",  # counts
    "BEGIN; TRUNCATE t; INSERT INTO u VALUES ({2}); COMMIT",
)


async def sought(db: JournalDatabase) -> list[Sought]:
    """What all transactions of the journal look for."""
    xids = [xid for (xid,) in db.run("SELECT xid::text FROM changefeed.journal GROUP BY xid ORDER BY xid")]
    transactions: defaultdict[str, Transaction] = defaultdict(Transaction)
    async for states in Digests(db).states_of(xids):  # type: ignore[arg-type]
        for xid, entry in states.entries:
            transactions[xid].add(entry)
    circles = {xid: transaction.circles() for xid, transaction in transactions.items()}
    return [Sought.of(xid, rows, is_nested=transactions[xid].is_nested) for xid, rows in circles.items() if rows]


def looking_back(db: JournalDatabase) -> EarlierStates:
    return EarlierStates(db, Digests(db))  # type: ignore[arg-type]


@pytest.mark.parametrize("is_deleted", [False, True])
@pytest.mark.parametrize("entries", [10, 20_000])
@pytest.mark.parametrize("states_at_once", [15, 2_000])
@pytest.mark.parametrize("seed", range(3))
def test_each_transaction_finds_what_it_finds_alone(
    db: JournalDatabase, seed: int, states_at_once: int, entries: int, is_deleted: bool, monkeypatch: pytest.MonkeyPatch
):
    for limit, value in (("LOOK_BACK_IDS", 30), ("PLAIN_LOOK_BACK_IDS", 10), ("LOOK_BACK_STEP", 25)):
        monkeypatch.setattr(earlier_states, limit, value)
    monkeypatch.setattr(earlier_states, "LOOK_BACK_PARTS", 2)
    monkeypatch.setattr(earlier_states, "LOOK_BACK_ENTRIES", entries)
    monkeypatch.setattr(digests, "STATES_AT_ONCE", states_at_once)
    draw = random.Random(seed)
    db.run(SCHEMA)
    db.run(TRIGGER)
    other = db.session()
    for number in range(40):
        if number % 8 == 3:
            other.run(f"BEGIN; INSERT INTO u VALUES ({1_000 + number})")
        row, another = draw.sample(range(1, 6), 2)
        db.run(draw.choice(TRANSACTIONS).format(row, another, number))
        if number % 8 == 7:
            other.run(f"INSERT INTO u VALUES ({2_000 + number}); COMMIT")
    if is_deleted:  # by retention, up to a transaction in the middle
        db.run(
            "SELECT setval('changefeed.lost_xid', xid::text::bigint), setval('changefeed.lost_id', 1) "
            "FROM changefeed.journal ORDER BY id OFFSET 50 LIMIT 1"
        )

    async def check() -> None:
        all_sought, found = await sought(db), looking_back(db)
        alone = [await found.before([one]) for one in all_sought]
        together = await found.before(all_sought)
        assert len(together) > 10
        assert any(before.seen is None for before in together.values()) == is_deleted
        assert together == {xid: before for one in alone for xid, before in one.items()}

    asyncio.run(check())


def test_many_transactions_cost_as_many_statements_as_two(db: JournalDatabase, monkeypatch: pytest.MonkeyPatch):
    db.run(SCHEMA)
    asked: list[str] = []
    fetch = db.fetch

    async def counting(query: str, *args: Any, **options: Any) -> Any:
        asked.append(query)
        return await fetch(query, *args, **options)

    async def statements(count: int) -> int:
        db.forget()
        db.run("ALTER SEQUENCE changefeed.journal_id RESTART 1000")
        for row in range(count):
            db.run(SHORT_LIVED.format(row))
        found = await sought(db)
        assert len(found) == count
        asked.clear()
        await looking_back(db).before(found)
        return len(asked)

    monkeypatch.setattr(db, "fetch", counting)
    assert asyncio.run(statements(2)) == asyncio.run(statements(90))
