"""The journal's entries as they leave the database: read, put in order, and cut to what --payload lets out.

An entry that cannot be read, whatever is in it, becomes a loss: it stops nobody but itself. Knows no place, no client.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import psycopg2

from changefeed.change import LOSS, JournalRow
from changefeed.cursor import Snapshot
from changefeed.database import Database, DatabaseUnavailable, Row, one_line
from changefeed.json_text import NotJSON
from changefeed.nested_order import NestedOrder
from changefeed.payload import Payload, key_members
from changefeed.queries import load

logger = logging.getLogger("changefeed.journal")

QUERIES = load("server.sql")
WITNESSED_SINCE = 5  # the version of the schema whose changefeed.read() proves places
# A page's bounds. Well below a client's outbox, so that a client that reads keeps up with a big batch.
PAGE_ROWS = 2_000
PAGE_BYTES = 256 << 10
READ_DEADLINE_SECONDS = 60.0
_OF_THE_CHANGE = slice(len(JournalRow._fields))  # of the columns of a row that is read


class JournalReplaced(Exception):
    """The journal is not as it was identified: restored over it, installed anew, or upgraded."""


class Standing(NamedTuple):
    """The last row of changefeed.read(): how the journal stands. See sql/read.sql."""

    nested: list[str] | None
    cascaded: list[str] | None
    snapshot: str
    has_more: bool
    lost_xid: str
    lost_id: int
    lost_at: int | None
    lost_statements: int
    proven_at: int | None
    batch_at: int | None
    present: str | None
    identity: str | None


class Entries:
    """Reads over the connections of `database`."""

    def __init__(self, database: Database, payload: Payload) -> None:
        self._database = database
        self._payload = payload
        self._nested_order = NestedOrder(database, with_rows=payload is not Payload.OFF)

    def forget(self) -> None:
        """The journal may be another one."""
        self._nested_order.forget()

    async def read(
        self, version: int, previous: Snapshot, batch: Snapshot | None, after: int | None
    ) -> tuple[list[Row], Standing]:
        """A page of what changefeed.read() gives, as columns of JournalRow. Raises JournalReplaced."""
        parameters: dict[str, object] = {
            "previous": str(previous),
            "batch": str(batch) if batch else None,
            "after": after,
            "row_limit": PAGE_ROWS,
            "byte_limit": PAGE_BYTES,
        }
        try:
            rows = await self._read(version, parameters, with_rows=self._payload is not Payload.OFF)
        except (DatabaseUnavailable, psycopg2.Error) as error:
            if not _may_be_of_an_entry(error):
                raise
            rows = await self._read_around(version, parameters, error)
        *entries, last = rows
        return [entry[_OF_THE_CHANGE] for entry in entries], Standing._make(last[_OF_THE_CHANGE.stop :])

    async def arrange(self, entries: list[Row], standing: Standing, *, is_whole_batch: bool) -> Sequence[Row]:
        """The entries in the order in which their rows changed, as they may leave; fewer where they are too large."""
        try:
            found = await self._nested_order.apply(
                entries,
                nested=standing.nested or (),
                cascaded=standing.cascaded or (),
                is_whole_batch=is_whole_batch,
                byte_limit=PAGE_BYTES,
            )
        except psycopg2.Error as error:
            if not _may_be_of_an_entry(error):
                raise
            logger.warning("changes that triggers made cannot be put in order: %s", one_line(error))
            found = entries
        return await self._keys_of(found) if self._payload is Payload.KEYS else found

    async def _read(self, version: int, parameters: dict[str, object], *, with_rows: bool = True) -> list[Row]:
        if version < WITNESSED_SINCE:
            query = QUERIES["read of version 4"] if with_rows else QUERIES["read without rows of version 4"]
        else:
            query = QUERIES["read"] if with_rows else QUERIES["read without rows"]
        try:
            return await self._database.fetch(query, parameters, READ_DEADLINE_SECONDS)
        except psycopg2.ProgrammingError:
            # An upgrade gives changefeed.read() other columns.
            if await self._database.fetch(QUERIES["schema version"]) != [(version,)]:
                raise JournalReplaced from None
            raise

    async def _read_around(self, version: int, parameters: dict[str, object], error: Exception) -> list[Row]:
        """The page, in which each entry that cannot be read has become a loss: it stops nobody but itself."""
        *entries, last = await self._read(version, parameters, with_rows=False)
        contents = await self._contents([entry[0] for entry in entries], error)
        read: list[Row] = []
        for entry in entries:
            change_id, xid, at, letter, schema, table, _, _, row_count, *rest = entry
            if change_id in contents:
                read.append((change_id, xid, at, letter, schema, table, *contents[change_id], row_count, *rest))
            else:
                logger.warning(
                    "the entry %d of the journal, a change of %s.%s, cannot be read: %s; a gap stands for it",
                    change_id,
                    schema,
                    table,
                    one_line(error),
                )
                read.append((change_id, xid, at, LOSS[0], schema, table, None, None, None, *rest))
        return [*read, last]

    async def _contents(self, ids: list[int], error: Exception) -> dict[int, tuple[str | None, str | None]]:
        """What the entries hold, by id, without those for which PostgreSQL has only an error: found by bisection."""
        if not ids:
            return {}
        try:
            rows = await self._database.fetch(QUERIES["contents"], {"ids": ids}, READ_DEADLINE_SECONDS)
        except (DatabaseUnavailable, psycopg2.Error) as another:
            if not _may_be_of_an_entry(another):
                raise
            if len(ids) == 1:
                return {}
            middle = len(ids) // 2
            return await self._contents(ids[:middle], another) | await self._contents(ids[middle:], another)
        return {change_id: (data, old) for change_id, data, old in rows}

    async def _keys_of(self, found: Sequence[Row]) -> list[Row]:
        """The rows with nothing but their keys in them."""
        rows = [JournalRow._make(row) for row in found]
        tables = {(row.schema_name, row.table_name) for row in rows}
        if not tables:
            return []
        schemas, names = map(list, zip(*tables, strict=True))
        keys_known = await self._database.fetch(QUERIES["primary keys"], {"schemas": schemas, "tables": names})
        keys = {(schema, table): key for schema, table, key in keys_known}

        def reduced(row: JournalRow) -> JournalRow:
            key = keys.get((row.schema_name, row.table_name), ())
            try:
                return row._replace(data=key_members(row.data, key), old=key_members(row.old, key))
            except NotJSON:
                return row._replace(data=None, old=None, row_count=1)  # as from_journal()

        return [reduced(row) for row in rows]


def _may_be_of_an_entry(error: Exception) -> bool:
    """Whether reading less may help: bytes that are no text, too large a value, too little memory, too long a time."""
    if isinstance(error, psycopg2.Error):
        return bool(error.pgcode) and str(error.pgcode).startswith(("22", "53", "54", "57014", "XX"))
    return isinstance(error, DatabaseUnavailable) and error.is_late
