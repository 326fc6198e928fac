"""Reads the journal's entries, puts them in order, and reduces them to what --payload allows. Knows no client.

An entry that cannot be read, for whatever reason, becomes a loss, and stops nothing else.
"""

import json
import logging
from collections.abc import Sequence
from typing import NamedTuple

import psycopg2

from changefeed.change.change import LOSS, JournalRow
from changefeed.change.exposure import Payload, key_members
from changefeed.change.json_text import NotJSON
from changefeed.change.table_names import qualified
from changefeed.journal.cursor import Place, Snapshot
from changefeed.ordering.nested_order import NestedOrder
from changefeed.postgres.apart import may_be_of_a_row, read_apart
from changefeed.postgres.legible import is_shown_only
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database, DatabaseUnavailable, DbRow

logger = logging.getLogger("changefeed.journal")

QUERIES = load_queries("server.sql")
WITNESSED_SINCE = 5  # since this version of the schema, changefeed.read() proves places
# A page's bounds. Well below a client's outbox, so that a client that reads keeps up with a big batch.
PAGE_ROWS = 2_000
PAGE_LIMIT_BYTES = 256 << 10
READ_DEADLINE_SECONDS = 60.0
ROW_LIMIT_BYTES = 16 << 20  # of a change's row and its old values, unless the settings say otherwise
COMPLAINTS_REMEMBERED = 10_000
_OF_THE_CHANGE = slice(len(JournalRow._fields))  # the columns of a row that belong to the change; JournalState follows
BEING_REPLACED = "the journal is being replaced; try again"


class JournalReplaced(Exception):
    """The journal was replaced since it was identified: restored, reinstalled or upgraded; or removed."""


class JournalState(NamedTuple):
    """The last row of changefeed.read(): the state of the journal. See sql/read.sql."""

    # In the order in which the queries "read" of sql/server.sql give them.

    nested: list[str] | None
    snapshot: str
    has_more: bool
    deleted_xid: str
    deleted_id: int
    deleted_at: int | None
    lost_statements: int
    proven_at: int | None
    batch_at: int | None
    present: str | None
    identity: str | None
    deletions: int | None
    lease_ms: int | None

    @classmethod
    def of(cls, last: DbRow) -> "JournalState":
        return cls(*json.loads(last[_OF_THE_CHANGE.stop]))


class Unreadable(NamedTuple):
    """An entry's content cannot be read."""

    why: str


_Content = tuple[str | None, str | None]  # the row and the old row


class Entries:
    """Reads over the connections of `database`. Of a change above `row_limit_bytes` it reads only the size.

    `complained` are the entries that were last logged as unreadable.
    """

    def __init__(self, database: Database, payload: Payload, row_limit_bytes: int, complained: dict[int, None]) -> None:
        self._database = database
        self._payload = payload
        self._row_limit_bytes = row_limit_bytes
        self._complained = complained
        self._nested_order = NestedOrder(database, row_limit_bytes if payload is not Payload.OFF else None)

    def forget(self) -> None:
        """Forgets everything about the journal: it may have been replaced."""
        self._nested_order.forget()

    def may_differ_after(self, place: Place) -> bool:
        """Whether it is in the middle of a transaction whose order may have been another one when it was sent."""
        return not place.is_batch_end and self._nested_order.may_differ_after(place.id, place.batch.sees)

    async def read(
        self, version: int, previous: Snapshot, batch: Snapshot | None, after: int | None
    ) -> tuple[list[DbRow], JournalState]:
        """A page of changefeed.read(), with the columns of JournalRow. Raises JournalReplaced."""
        parameters = self._page(previous, batch, after)
        try:
            with_rows = self._payload is not Payload.OFF
            rows = await self._read(version, parameters, with_rows=with_rows, with_stand_ins=False)
        except (DatabaseUnavailable, psycopg2.Error) as error:
            if not may_be_of_a_row(error):
                raise
            rows = await self._read_around(version, parameters)
        *entries, last = rows
        for entry in entries:
            if (size := entry[-1]) is not None:
                self._complain(entry, _too_large(size))
        return [entry[_OF_THE_CHANGE] for entry in entries], JournalState.of(last)

    async def arrange(self, entries: list[DbRow], state: JournalState, *, is_whole_batch: bool) -> Sequence[DbRow]:
        """The entries in the order in which their rows changed, reduced by --payload; fewer if they are too large."""
        if state.nested is None:
            return entries  # a schema of version 4 has too little information
        found = await self._nested_order.apply(
            entries,
            nested=state.nested,
            is_whole_batch=is_whole_batch,
            deleted_xid=int(state.deleted_xid),
            byte_limit=PAGE_LIMIT_BYTES,
        )
        return await self._keys_of(found) if self._payload is Payload.KEYS else found

    def _page(self, previous: Snapshot, batch: Snapshot | None, after: int | None) -> dict[str, object]:
        """The parameters of changefeed.read()."""
        return {
            "previous": str(previous),
            "batch": str(batch) if batch else None,
            "after": after,
            "row_limit": PAGE_ROWS,
            "byte_limit": PAGE_LIMIT_BYTES,
            "row_limit_bytes": self._row_limit_bytes,
        }

    async def _read(
        self, version: int, parameters: dict[str, object], *, with_rows: bool, with_stand_ins: bool
    ) -> list[DbRow]:
        if version < WITNESSED_SINCE:
            query = QUERIES["read of version 4"] if with_rows else QUERIES["read without rows of version 4"]
        else:
            query = QUERIES["read"] if with_rows else QUERIES["read without rows"]
        try:
            return await self._database.fetch(query, parameters, READ_DEADLINE_SECONDS, with_stand_ins=with_stand_ins)
        except psycopg2.ProgrammingError:
            if not await self._is_of(version):
                raise JournalReplaced from None
            raise

    async def _is_of(self, version: int) -> bool:
        """Whether the schema still has this version: an upgrade changes the columns of changefeed.read()."""
        try:
            return await self._database.fetch(QUERIES["schema version"]) == [(version,)]
        except (psycopg2.errors.UndefinedTable, psycopg2.errors.InvalidSchemaName):
            return False

    async def _read_around(self, version: int, parameters: dict[str, object]) -> list[DbRow]:
        """The page, with a loss in place of each entry that cannot be read."""
        *entries, last = await self._read(version, parameters, with_rows=False, with_stand_ins=True)
        with_rows = self._payload is not Payload.OFF
        contents = await self._contents([entry[0] for entry in entries]) if with_rows else {}
        read: list[DbRow] = []
        for entry in entries:
            change_id, xid, at, letter, schema, table, _, _, row_count, *rest = entry
            content = contents.get(change_id, (None, None))
            if is_shown_only(schema, table):
                content = Unreadable("the name of its table has no text in UTF-8")
            if isinstance(content, Unreadable):
                self._complain(entry, content)
                read.append((change_id, xid, at, LOSS[0], schema, table, None, None, None, *rest))
            else:
                read.append((change_id, xid, at, letter, schema, table, *content, row_count, *rest))
        return [*read, last]

    async def _contents(self, ids: list[int]) -> dict[int, _Content | Unreadable]:
        """The entries' contents, by id, or why they cannot be read."""
        rows, failures = await read_apart(
            ids,
            lambda part: self._database.fetch(
                QUERIES["contents"],
                {"ids": list(part), "row_limit_bytes": self._row_limit_bytes},
                READ_DEADLINE_SECONDS,
            ),
        )
        unreadable = {change_id: Unreadable(why) for change_id, why in failures.items()}
        return unreadable | {change_id: _content(*content) for change_id, *content in rows}

    def _complain(self, entry: DbRow, unreadable: Unreadable) -> None:
        """Logs the entry once, however many clients read it."""
        change_id, _, _, _, schema, table, *_ = entry
        if change_id in self._complained:
            return
        self._complained[change_id] = None
        if len(self._complained) > COMPLAINTS_REMEMBERED:
            del self._complained[next(iter(self._complained))]
        logger.warning(
            "could not read the entry %d of the journal, a change of %s: %s; clients get a gap instead",
            change_id,
            qualified(schema, table),
            unreadable.why,
        )

    async def _keys_of(self, found: Sequence[DbRow]) -> list[DbRow]:
        """The rows, reduced to their keys."""
        rows = [JournalRow._make(row) for row in found]
        tables = {(row.schema_name, row.table_name) for row in rows}
        if not tables:
            return []
        schemas, names = map(list, zip(*tables, strict=True))
        keys_known = await self._database.fetch(QUERIES["primary keys"], {"schemas": schemas, "tables": names})
        keys = {(schema, table): key for schema, table, key in keys_known}

        def reduced(row: JournalRow) -> JournalRow:
            if row.action == LOSS[0]:
                return row  # it has no row
            key = keys.get((row.schema_name, row.table_name), ())
            try:
                return row._replace(data=key_members(row.data, key), old=key_members(row.old, key))
            except NotJSON:
                return row._replace(data=None, old=None, row_count=1)  # as from_journal()

        return [reduced(row) for row in rows]


def _content(data: str | None, old: str | None, too_large: int | None) -> _Content | Unreadable:
    if is_shown_only(data, old):
        return Unreadable("it has bytes that are not text in UTF-8")
    return (data, old) if too_large is None else _too_large(too_large)


def _too_large(size: int) -> Unreadable:
    return Unreadable(f"it has {size:,} bytes, more than --row-limit-bytes allows")
