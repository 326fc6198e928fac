"""Random schemas, each written at random and read as the server reads it; the changes must be what happened.

The replay is strict: an UPDATE's or a DELETE's old row must be there, an INSERT's key must be free; and at the end each
table is what it is in the database. Pages are short, so that transactions are cut anywhere. Two things end the
comparison of a table, and are counted: a gap of it, and a row from before the watch that was sent in the
wrong order in the first transaction that is read, which can be (docs/database.md, "The order of one row").

    python -m tests.oracle.random_schemas --count 1000 --seed 7
"""

import argparse
import asyncio
import contextlib
import json
import random
import secrets
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2

from changefeed.journal import entries
from changefeed.journal.cursor import Place
from changefeed.journal.journal import BEGINNING, Journal
from changefeed.ordering import nested_order
from tests import postgres
from tests.journal_database import JournalDatabase
from tests.oracle.random_schema import RandomSchema, Table

Row = tuple[str, ...]
TRANSACTIONS = 40
# What this PostgreSQL has not, such as row triggers of some kinds on partitions, or foreign keys of some on generated columns.
_NOT_SUPPORTED = (
    psycopg2.errors.FeatureNotSupported,
    psycopg2.errors.WrongObjectType,
    psycopg2.errors.InvalidTableDefinition,
    psycopg2.errors.InvalidObjectDefinition,
)
STATEMENT_TIMEOUT = "2s"  # triggers that set each other off


class Differs(AssertionError):
    """The feed is not what happened; the message says which seed it was, and how."""


class Told(NamedTuple):
    """How many changes were told; and of how many tables no more was compared from some transaction on, for which reason."""

    changes: int
    after_gaps: int
    after_guesses: int

    def __add__(self, other: tuple[Any, ...]) -> "Told":  # type: ignore[override]
        return Told(*map(sum, zip(self, other, strict=True)))


class Replica:
    """A table's rows, by what the feed says of it."""

    def __init__(self, table: Table, rows: Counter[Row]) -> None:
        self.table = table
        self.rows = rows
        self._keys = Counter(row[0] for row in rows.elements())
        self._unheard_of = set(self._keys) if table.has_key else set[str]()  # those from before the watch
        self._heard_of: set[str] = set()  # of these, in the transaction `_xid`
        self._xid = ""

    def begin(self, xid: str) -> None:
        if xid != self._xid:
            self._unheard_of -= self._heard_of
            self._xid = xid

    def may_be_a_guess(self, data: dict[str, Any]) -> bool:
        """Whether it is a row from before the watch of which no earlier transaction told."""
        return row_of(self.table, data)[0] in self._unheard_of

    def take(self, action: str, data: dict[str, Any] | None, old: dict[str, Any] | None) -> None:
        if action == "TRUNCATE":
            self.rows.clear()
            self._keys.clear()
            return
        assert data is not None
        self._heard_of |= {row_of(self.table, row)[0] for row in (data, {**data, **(old or {})})}
        if action != "INSERT":
            self._remove(row_of(self.table, {**data, **(old or {})}))
        if action != "DELETE":
            self._add(row_of(self.table, data))

    def _remove(self, row: Row) -> None:
        if not self.rows[row]:
            raise Differs(f"the row {row} is not there, but {sorted(+self.rows)}")
        self.rows[row] -= 1
        self._keys[row[0]] -= 1

    def _add(self, row: Row) -> None:
        if self.table.has_key and self._keys[row[0]]:
            raise Differs(f"the key of {row} is there already: {sorted(+self.rows)}")
        self.rows[row] += 1
        self._keys[row[0]] += 1


def row_of(table: Table, data: dict[str, Any]) -> Row:
    return tuple(str(data[column]).removesuffix(".0") for column in table.columns)


def check(seed: str) -> Told:
    """Raises Differs where the changes of a random schema were told wrong."""
    db = JournalDatabase()
    try:
        schema = RandomSchema(seed, db.version)
        try:
            rows_before = _prepare(db, schema)
            return asyncio.run(_compare(db, schema, rows_before))
        except Differs as error:
            raise Differs(f"seed {seed}: {error}") from None
    finally:
        db.close()
        postgres.execute(postgres.cluster().conninfo, f"DROP DATABASE {db.name}")


def _rows(db: JournalDatabase, table: Table) -> Counter[Row]:
    return Counter(row_of(table, row) for (row,) in db.run(table.told))


def _prepare(db: JournalDatabase, schema: RandomSchema) -> dict[str, Counter[Row]]:
    """The rows before the first change that is read, by table."""
    for statement in schema.definition():
        with contextlib.suppress(*_NOT_SUPPORTED):
            db.run(statement)
    db.run(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'; SET max_stack_depth = '2MB'")
    for statement in schema.rows_before():
        with contextlib.suppress(psycopg2.Error):
            db.run(statement)
    for table in schema.tables:
        db.run(table.watch)
    rows_before = {table.name: _rows(db, table) for table in schema.tables}
    for number, statements in enumerate(schema.transactions(TRANSACTIONS)):
        if number % 10 == 9:
            db.run("SELECT setval('changefeed.slot', (last_value + 1) % 8) FROM changefeed.slot")
        db.run("SELECT setval('written', 1); BEGIN")
        for statement in statements:
            db.run("SAVEPOINT here")
            try:
                db.run(statement)
            except psycopg2.Error:
                db.run("ROLLBACK TO here")
        with contextlib.suppress(psycopg2.Error):  # deferred triggers and constraints
            db.run("COMMIT" if schema.draw.random() < 0.9 else "ROLLBACK")
    return rows_before


async def _compare(db: JournalDatabase, schema: RandomSchema, rows_before: dict[str, Counter[Row]]) -> Told:
    # The transaction in which each of these tables was, for the first time.
    lost: dict[str, int] = dict(
        db.run("SELECT table_name, min(xid::text::bigint) FROM changefeed.journal WHERE action = 'L' GROUP BY 1")
    )
    if (lost.keys() - schema.merged) or (db.losses and not lost):
        raise Differs(f"{db.losses} statements were not journaled: {lost} {db.warnings[:3]}")
    draw = random.Random(schema.draw.random())
    replicas = {f"public.{table.name}": Replica(table, rows_before[table.name]) for table in schema.tables}
    journal = Journal(db)
    await journal.identify()
    told, place, history = Told(0, 0, 0), BEGINNING, list[str]()
    while True:
        with _short_pages(draw), _short_memory(schema):
            page = await journal.read(place)
        for change in page.changes:
            if change.table not in replicas:
                continue
            if change.xid == lost.get(change.table.removeprefix("public.")):  # nothing is put in order across a loss
                del replicas[change.table]
                told += (0, 1, 0)
                continue
            said = json.loads(change.text)
            history.append(
                f"{said['xid']} {change.id} {said['action']} {change.table} {said['data']} {said.get('old')}"
            )
            replica = replicas[change.table]
            replica.begin(said["xid"])
            try:
                replica.take(said["action"], said["data"], said.get("old"))
            except Differs as error:
                if not replica.may_be_a_guess(said["data"]):
                    lines = "\n".join(line for line in history if line.startswith(f"{said['xid']} "))
                    raise Differs(f"{error}\n{lines}") from None
                del replicas[change.table]
                told += (0, 0, 1)
        told += (len(page.changes), 0, 0)
        place = page.end
        if page.changes and draw.random() < 0.3:  # another server goes on from the last change's own cursor
            journal = Journal(db)
            await journal.identify()
            place = journal.decode(page.changes[-1].cursor or "")
        elif place == Place.after(place.batch):
            break
    for name, replica in replicas.items():
        if +replica.rows != (there := _rows(db, replica.table)):
            raise Differs(f"{name} is read as {sorted(+replica.rows)}, and is {sorted(there)}")
    return told


@contextlib.contextmanager
def _short_pages(draw: random.Random) -> Iterator[None]:
    before = entries.PAGE_ROWS, entries.PAGE_LIMIT_BYTES
    entries.PAGE_ROWS, entries.PAGE_LIMIT_BYTES = draw.choice(((1, 99), (3, 200), (20, 400), (1000, 1 << 20)))
    try:
        yield
    finally:
        entries.PAGE_ROWS, entries.PAGE_LIMIT_BYTES = before


@contextlib.contextmanager
def _short_memory(schema: RandomSchema) -> Iterator[None]:
    """Where only statements write, their order is known without the rows' changes before."""
    before = nested_order.LOOK_BACK_IDS
    nested_order.LOOK_BACK_IDS = 0 if schema.is_plain else before
    try:
        yield
    finally:
        nested_order.LOOK_BACK_IDS = before


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle.random_schemas")
    parser.add_argument("--count", type=int, default=1000, help="shared among all PostgreSQL that are here")
    parser.add_argument("--seed", default=secrets.token_hex(3), help="(default: another each time)")
    chosen = parser.parse_args()
    places: list[Path | None] = [None, *postgres.others()]
    wrong = 0
    for number, binaries in enumerate(places):
        with postgres.used(binaries) if binaries else _default():
            wrong += _check_all(chosen.seed, range(number, chosen.count, len(places)))
    return 1 if wrong else 0


@contextlib.contextmanager
def _default() -> Iterator[None]:
    try:
        yield
    finally:
        postgres.stop()


def _check_all(seed: str, numbers: range) -> int:
    """How many were told wrong."""
    told, wrong = Told(0, 0, 0), 0
    for number in numbers:
        try:
            told += check(f"{seed}-{number}")
        except Differs as error:
            wrong += 1
            print(f"FAILED: {error}", file=sys.stderr, flush=True)
    print(
        f"PostgreSQL {postgres.major_version()}, seed {seed}: {len(numbers)} random schemas, {told.changes} changes, "
        f"{wrong} told wrong; not compared to the end: {told.after_gaps} tables with a gap, {told.after_guesses} with a guess",
        flush=True,
    )
    return wrong


if __name__ == "__main__":
    sys.exit(main())
