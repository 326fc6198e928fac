"""Random schemas, each written at random and read as the server reads it; what is told must be what happened.

The replay is strict: an UPDATE's or a DELETE's old row must be there, an INSERT's key must be free; and at the end each
table is what it is in the database. Pages are short, so that transactions are cut anywhere.

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

import psycopg2

from changefeed import entries
from changefeed.cursor import Place
from changefeed.journal import BEGINNING, Journal
from tests import postgres
from tests.journal_database import JournalDatabase
from tests.oracle.random_schema import COLUMNS, RandomSchema, Table

Row = tuple[str, ...]
TRANSACTIONS = 40
STATEMENT_TIMEOUT = "2s"  # triggers that set each other off


class Differs(AssertionError):
    """The feed is not what happened; the message says which seed it was, and how."""


class Replica:
    """A table's rows, by what the feed says of it."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows: Counter[Row] = Counter()
        self._keys: Counter[str] = Counter()

    def take(self, action: str, data: dict[str, str] | None, old: dict[str, str] | None) -> None:
        if action == "TRUNCATE":
            self.rows.clear()
            self._keys.clear()
            return
        assert data is not None
        if action != "INSERT":
            self._remove(row_of({**data, **(old or {})}))
        if action != "DELETE":
            self._add(row_of(data))

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


def row_of(data: dict[str, str]) -> Row:
    return tuple(str(data[column]) for column in COLUMNS)


def check(seed: str) -> int:
    """How many changes a random schema made; raises Differs where they were told wrong."""
    db = JournalDatabase()
    try:
        schema = RandomSchema(seed)
        try:
            _prepare(db, schema)
            return asyncio.run(_compare(db, schema))
        except Differs as error:
            raise Differs(f"seed {seed}: {error}") from None
    finally:
        db.close()
        postgres.execute(postgres.cluster().conninfo, f"DROP DATABASE {db.name}")


def _prepare(db: JournalDatabase, schema: RandomSchema) -> None:
    db.run("CREATE FUNCTION is_stamped(name text) RETURNS boolean LANGUAGE sql AS 'SELECT true'")
    for statement in schema.definition():
        with contextlib.suppress(psycopg2.errors.FeatureNotSupported, psycopg2.errors.WrongObjectType):
            db.run(statement)  # what this PostgreSQL has not, such as row triggers of some kinds on partitions
    db.run(schema.stamps())
    db.run(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'; SET max_stack_depth = '2MB'")
    for number, statements in enumerate(schema.transactions(TRANSACTIONS, has_merge=db.version >= 15)):
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


async def _compare(db: JournalDatabase, schema: RandomSchema) -> int:
    if db.losses:
        raise Differs(f"{db.losses} statements were not journaled: {db.warnings[:3]}")
    draw = random.Random(schema.draw.random())
    replicas = {f"public.{table.name}": Replica(table) for table in schema.tables}
    journal = Journal(db)
    await journal.identify()
    count, place, history = 0, BEGINNING, list[str]()
    while True:
        with _short_pages(draw):
            page = await journal.read(place)
        for change in page.changes:
            said = json.loads(change.text)
            history.append(
                f"{said['xid']} {change.id} {said['action']} {change.table} {said['data']} {said.get('old')}"
            )
            try:
                replicas[change.table].take(said["action"], said["data"], said.get("old"))
            except Differs as error:
                told = "\n".join(line for line in history if line.startswith(f"{said['xid']} "))
                raise Differs(f"{error}\n{told}") from None
        count += len(page.changes)
        place = page.end
        if page.changes and draw.random() < 0.3:  # another server goes on from the last change's own cursor
            journal = Journal(db)
            await journal.identify()
            place = journal.decode(page.changes[-1].cursor or "")
        elif place == Place.after(place.batch):
            break
    for name, replica in replicas.items():
        only = "ONLY " if replica.table.kind == "parent" else ""
        rows = db.run(f"SELECT to_json(t) FROM {only}{name} AS t")
        if +replica.rows != (there := Counter(row_of(row) for (row,) in rows)):
            raise Differs(f"{name} is told as {sorted(+replica.rows)}, and is {sorted(there)}")
    return count


@contextlib.contextmanager
def _short_pages(draw: random.Random) -> Iterator[None]:
    before = entries.PAGE_ROWS, entries.PAGE_BYTES
    entries.PAGE_ROWS, entries.PAGE_BYTES = draw.choice(((1, 99), (3, 200), (20, 400), (1000, 1 << 20)))
    try:
        yield
    finally:
        entries.PAGE_ROWS, entries.PAGE_BYTES = before


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle.random_schemas")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", default=secrets.token_hex(3), help="(default: another each time)")
    chosen = parser.parse_args()
    changes = wrong = 0
    try:
        for number in range(chosen.count):
            try:
                changes += check(f"{chosen.seed}-{number}")
            except Differs as error:
                wrong += 1
                print(f"FAILED: {error}", file=sys.stderr, flush=True)
    finally:
        postgres.stop()
    print(f"random schemas: {chosen.count}, seed {chosen.seed}: {changes} changes, {wrong} schemas told wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
