"""Random schemas, each written at random and read as the server reads it; the changes must be what happened.

The replay is strict (strict_replay.py), and after each transaction the tables are what they are in the database. Pages are short,
so that transactions are cut anywhere. Counted are the transactions that were not compared because they say a gap, and those in
which a limit of docs/database.md, "The order of one row", was met.

    python -m tests.oracle.random_schemas --count 1000 --seed 7
"""

import argparse
import asyncio
import contextlib
import json
import operator
import random
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import psycopg2

from changefeed.change.change import LOSS, Change
from changefeed.journal import entries
from changefeed.journal.cursor import Place
from changefeed.journal.journal import BEGINNING, Journal
from changefeed.ordering import earlier_states
from tests import postgres
from tests.journal_database import JournalDatabase
from tests.oracle.random_schema import RandomSchema, Table
from tests.oracle.strict_replay import Differs, Row, Said, StrictReplay

TRANSACTIONS = 40
CLUSTER = {"max_prepared_transactions": "5"}
# What this PostgreSQL has not, such as row triggers of some kinds on partitions, or foreign keys of some on generated columns.
_NOT_SUPPORTED = (
    psycopg2.errors.FeatureNotSupported,
    psycopg2.errors.WrongObjectType,
    psycopg2.errors.InvalidTableDefinition,
    psycopg2.errors.InvalidObjectDefinition,
)
STATEMENT_TIMEOUT = "2s"  # triggers that set each other off
PREPARED_LOCK_TIMEOUT = "5ms"  # of statements that need what a prepared transaction has locked


class Told(NamedTuple):
    """How many changes were told; in how many transactions there was a gap instead; how often which limit was met."""

    changes: int
    gaps: int
    limits: Counter[str]

    def __add__(self, other: tuple[Any, ...]) -> "Told":  # type: ignore[override]
        return Told(*map(operator.add, self, other))


class Moment(NamedTuple):
    """What the tables held when no entry was there with a greater id, and no transaction was open."""

    last_id: int
    rows: dict[str, Counter[Row]]


def row_of(table: Table, data: dict[str, Any]) -> Row:
    return tuple(str(data[column]).removesuffix(".0") for column in table.columns)


def check(seed: str) -> Told:
    """Raises Differs where the changes of a random schema were told wrong."""
    db = JournalDatabase()
    try:
        schema = RandomSchema(seed, db.version)
        try:
            return asyncio.run(_compare(db, schema, _prepare(db, schema)))
        except Differs as error:
            raise Differs(f"seed {seed}: {error}") from None
    finally:
        db.close()
        postgres.execute(postgres.cluster().conninfo, f"DROP DATABASE {db.name}")


def _rows(db: JournalDatabase, table: Table) -> Counter[Row]:
    return Counter(row_of(table, row) for (row,) in db.run(table.told))


def _prepare(db: JournalDatabase, schema: RandomSchema) -> list[Moment]:
    """The moments before the first change that is read, and after each transaction."""
    for statement in schema.definition():
        with contextlib.suppress(*_NOT_SUPPORTED):
            db.run(statement)
    db.run(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'; SET max_stack_depth = '2MB'")
    for statement in schema.rows_before():
        with contextlib.suppress(psycopg2.Error):
            db.run(statement)
    for table in schema.tables:
        db.run(table.watch)
    moments = [_moment(db, schema)]
    is_prepared = False
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
        end = schema.end()
        with contextlib.suppress(psycopg2.Error):  # deferred triggers and constraints
            db.run("COMMIT" if is_prepared and end.startswith("PREPARE") else end)
            if end.startswith("PREPARE") and not is_prepared:
                is_prepared = True
                db.run(f"SET lock_timeout = '{PREPARED_LOCK_TIMEOUT}'")
                continue
        if is_prepared and schema.draw.random() < 0.5:
            db.run(schema.end_of_prepared())
            db.run("RESET lock_timeout")
            is_prepared = False
        if not is_prepared:
            moments.append(_moment(db, schema))
    if is_prepared:
        db.run(schema.end_of_prepared())
        moments.append(_moment(db, schema))
    return moments


def _moment(db: JournalDatabase, schema: RandomSchema) -> Moment:
    last_id = db.value("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM changefeed.journal_id")
    return Moment(last_id, {f"public.{table.name}": _rows(db, table) for table in schema.tables})


async def _compare(db: JournalDatabase, schema: RandomSchema, moments: list[Moment]) -> Told:
    lost = db.run("SELECT id, xid::text, table_name FROM changefeed.journal WHERE action = 'L'")
    if ({table for _, _, table in lost} - schema.merged) or (db.losses and not lost):
        raise Differs(f"{db.losses} statements were not recorded: {lost} {db.warnings[:3]}")
    tables = {f"public.{table.name}": table for table in schema.tables}
    changes: dict[str, list[Said]] = {name: [] for name in tables}
    for entry_id, xid, table in lost:
        changes[f"public.{table}"].append(Said(entry_id, xid, LOSS, None, None))
    count = 0
    async for change in _read(db, schema):
        if change.table in tables and change.action != LOSS:
            changes[change.table].append(_said(change, tables[change.table]))
            count += 1
    told = Told(count, 0, Counter())
    for name, table in tables.items():
        replay = StrictReplay(moments[0].rows[name], has_key=table.has_key and not table.deferrable)
        of_table = sorted(changes[name], key=lambda said: said.id)
        for before, moment in pairwise(moments):
            part = [said for said in of_table if before.last_id < said.id <= moment.last_id]
            if any(said.action == LOSS for said in part):
                replay.resume(part, moment.rows[name])
                told += (0, 1, Counter())
                continue
            try:
                replay.take(part, moment.rows[name])
            except Differs as error:
                lines = "\n".join(map(str, part))
                raise Differs(f"{name} {error}\n{lines}") from None
        told += (0, 0, replay.limits)
    return told


async def _read(db: JournalDatabase, schema: RandomSchema) -> AsyncIterator[Change]:
    draw = random.Random(schema.draw.random())
    journal = Journal(db)
    await journal.identify()
    place = BEGINNING
    last_id = 0
    while True:
        with _short_pages(draw), _short_memory(schema):
            page = await journal.read(place)
        for change in page.changes:
            if change.id <= last_id:
                raise Differs(f"{change} comes after {last_id}")
            last_id = change.id
            yield change
        place = page.end
        if page.changes and draw.random() < 0.3:  # another server goes on from the last change's own cursor
            journal = Journal(db)
            await journal.identify()
            place = journal.decode(page.changes[-1].cursor or "")
        elif place == Place.after(place.batch):
            return


def _said(change: Change, table: Table) -> Said:
    said = json.loads(change.text)
    action, data = said["action"], said["data"]
    before = {"UPDATE": {**(data or {}), **(said.get("old") or {})}, "DELETE": data}.get(action)
    after = data if action in ("INSERT", "UPDATE") else None
    before, after = (row_of(table, row) if row else None for row in (before, after))
    return Said(change.id, said["xid"], action, before, after, frozenset(data or ()))


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
    before = earlier_states.PLAIN_LOOK_BACK_IDS, earlier_states.LOOK_BACK_STEP
    if schema.is_plain:
        earlier_states.PLAIN_LOOK_BACK_IDS, earlier_states.LOOK_BACK_STEP = 0, 1
    try:
        yield
    finally:
        earlier_states.PLAIN_LOOK_BACK_IDS, earlier_states.LOOK_BACK_STEP = before


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle.random_schemas")
    parser.add_argument("--count", type=int, default=1000, help="shared among all PostgreSQL that are here")
    parser.add_argument("--seed", default=secrets.token_hex(3), help="(default: another each time)")
    chosen = parser.parse_args()
    places = [postgres.BINARIES, *postgres.others()]
    wrong = 0
    for number, binaries in enumerate(places):
        with postgres.used(binaries, **CLUSTER):
            wrong += _check_all(chosen.seed, range(number, chosen.count, len(places)))
    return 1 if wrong else 0


def _check_all(seed: str, numbers: range) -> int:
    """How many were told wrong."""
    told, wrong = Told(0, 0, Counter()), 0
    for number in numbers:
        try:
            told += check(f"{seed}-{number}")
        except Differs as error:
            wrong += 1
            print(f"FAILED: {error}", file=sys.stderr, flush=True)
    print(
        f"PostgreSQL {postgres.major_version()}, seed {seed}: {len(numbers)} random schemas, {told.changes} changes, "
        f"{wrong} told wrong; not compared: {told.gaps} transactions with a gap; limits met: {dict(told.limits)}",
        flush=True,
    )
    return wrong


if __name__ == "__main__":
    sys.exit(main())
