"""Reads the rows of a query, and the place of their snapshot in the feed, into a spool. Knows no client.

Everything is of one REPEATABLE READ transaction. So the rows are what the table had at that place, and the changes
after it are all that they lack (sql/cursor.sql). The transaction ends with the last row, however slowly clients read.

PostgreSQL finds the rows that match the filters. Whether one is shown is decided by the code that decides it for
changes: it passes as the INSERT of itself. So rights and filters mean the same, whatever PostgreSQL finds.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import psycopg2
from psycopg2 import sql

from changefeed.change.change import Change
from changefeed.change.changed_row import ChangedRow
from changefeed.change.exposure import Payload
from changefeed.change.json_text import NotJSON, check_json, quoted
from changefeed.change.table_names import TableName
from changefeed.journal.cursor import NotACursor, Place
from changefeed.journal.entries import BEING_REPLACED
from changefeed.journal.journal import ForeignCursor, Journal
from changefeed.owners import Holding, Owner, Quotas
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database, DatabaseUnavailable, Fetch, one_line
from changefeed.rows.explain import Step, cannot_read, lacks_right, refusal_of
from changefeed.rows.query import RowsQuery, TableSource, statement
from changefeed.rows.refusal import GONE, WATCHED_SOON, Reason, RowsRefused
from changefeed.rows.spool import Spool, SpoolFull
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.subscription import Selection
from changefeed.slots import FairSlots
from changefeed.turns import TURN_SECONDS

logger = logging.getLogger("changefeed.rows")

QUERIES = load_queries("server.sql")
SLICE_BYTES = 256 << 10
BETWEEN = b"\0"  # between the rows of a part: no text of PostgreSQL has it
ENCODED_PARTS = 4  # of each reading, kept for clients that are a little behind the first
LOCK_SECONDS = 2  # how long to wait while the table is being changed, at most half the time of a reading
# The settings with which the triggers write values (sql/record.sql), and those that keep others' code out.
_BEGIN = """
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL role = none; SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL row_security = off;
SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {lock_ms};
SET LOCAL idle_in_transaction_session_timeout = {idle_ms};
SET LOCAL exit_on_error = off; SET LOCAL jit = off; SET LOCAL client_min_messages = error;
SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, MDY'; SET LOCAL intervalstyle = 'postgres';
SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C';
SET LOCAL xmloption = 'content'; SET LOCAL quote_all_identifiers = off; SET LOCAL array_nulls = on;
SET LOCAL standard_conforming_strings = on; SET LOCAL transform_null_equals = off;
LOCK TABLE {table} IN ACCESS SHARE MODE
"""


@dataclass(frozen=True)
class Limits:
    """Of one reading; `bytes` are those of its rows as JSON."""

    rows: int
    bytes: int
    seconds: float
    row_bytes: int


@dataclass(frozen=True)
class SharedByReadings:
    """What all readings of a server share."""

    database: Database
    journal: Journal
    slots: FairSlots
    readings_quota: Quotas
    space_quota: Quotas  # of the spools, in bytes
    limits: Limits
    payload: Payload
    trusted_owners: tuple[str, ...]
    will_watch: Callable[[TableName], bool]  # whether a table that is not watched will be in a moment
    kinds: Callable[[str, Fetch], Awaitable[Mapping[str, Kind]]]  # those of a table's columns, which is locked


@dataclass(frozen=True)
class Part:
    """Some rows of a reading, with BETWEEN between them; the only part may have none."""

    number: int
    rows: bytes
    is_last: bool


class Reading:
    """One reading, which begins with run() when it is the turn of one of its owners. `rows` counts those read so far.

    What it takes counts for each owner that uses it.
    """

    def __init__(
        self,
        query: RowsQuery,
        selection: Selection,
        shared: SharedByReadings,
    ) -> None:
        self.query = query
        self.cursor: str | None = None  # its place, as text, once it has a snapshot
        self.place: Place | None = None
        self.rows = 0
        self.has_begun = False  # so that its snapshot may have been taken
        self.is_over = False
        self.refused: RowsRefused | None = None
        self._selection = selection
        self._shared = shared
        self._claim = shared.slots.claim()
        self._counted = Holding(shared.readings_quota)
        self._counted.grow()
        self._spool = Spool(shared.space_quota)
        self._moved = asyncio.Event()
        self._encoded: dict[Hashable, bytes] = {}
        self._head = f'{{"table": {quoted(query.table.table)}, "action": "INSERT", "data": '

    @property
    def is_used(self) -> bool:
        """Whether a client needs its rows."""
        return bool(self._counted.owners)

    def join(self, owner: Owner) -> None:
        """Called for each client that needs its rows."""
        for held in (self._counted, self._claim, self._spool.holding):
            held.join(owner)

    def leave(self, owner: Owner) -> None:
        for held in (self._counted, self._claim, self._spool.holding):
            held.leave(owner)

    async def run(self) -> None:
        """Reads; never raises but when cancelled: `refused` says what went wrong."""
        try:
            async with self._claim:
                async with asyncio.timeout(self._shared.limits.seconds):
                    await self._read()
        except RowsRefused as refused:
            self.refused = refused
        except TimeoutError:
            self.refused = RowsRefused(
                Reason.TOO_SLOW,
                f"the rows could not be read within {self._shared.limits.seconds:g} s (--rows-seconds); ask for fewer, "
                "with a filter or limit",
            )
        except (DatabaseUnavailable, psycopg2.Error) as error:
            logger.warning("the rows of %s could not be read: %s", self.query.name, one_line(error))
            self.refused = RowsRefused(Reason.UNAVAILABLE, "PostgreSQL cannot be read; the server's log says why")
        except Exception:
            logger.exception("the rows of %s could not be read", self.query.name)
            self.refused = RowsRefused(Reason.UNAVAILABLE, "the server failed; its log says why")
        finally:
            self.is_over = True
            self._tell()

    def close(self) -> None:
        """Called when no client needs the rows any more, and run() has ended."""
        self._counted.clear()
        self._spool.close()
        self._encoded.clear()

    async def until_over(self) -> None:
        """Returns once all rows are read. Raises RowsRefused."""
        while not self.is_over:
            await self._moved.wait()
        self._raise()

    async def parts(self) -> AsyncIterator[Part]:
        """The rows, as they are read; any number of clients may ask for them. Raises RowsRefused."""
        number, is_last = 0, False
        while not is_last:
            # A part is given when it is known whether it is the last one.
            while number + 1 >= len(self._spool) and not self.is_over:
                await self._moved.wait()
            self._raise()
            rows = await self._spool.part(number) if len(self._spool) else b""
            is_last = self.is_over and number + 1 >= len(self._spool)
            yield Part(number, rows, is_last)
            number += 1

    def once(self, key: Hashable, encode: Callable[[], bytes]) -> bytes:
        """encode(), remembered for the other clients of the reading, which ask for the same a moment later."""
        if key not in self._encoded:
            if len(self._encoded) >= ENCODED_PARTS:
                del self._encoded[next(iter(self._encoded))]
            self._encoded[key] = encode()
        return self._encoded[key]

    def _raise(self) -> None:
        if self.refused:
            raise RowsRefused(self.refused.reason, self.refused.message, self.refused.private)

    def _tell(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    async def _read(self) -> None:
        begin = sql.SQL(_BEGIN).format(
            lock_ms=sql.Literal(round(min(LOCK_SECONDS, self._shared.limits.seconds / 2) * 1000)),
            idle_ms=sql.Literal(round((self._shared.limits.seconds + LOCK_SECONDS) * 1000)),
            table=sql.Identifier(str(self.query.table.schema), self.query.table.table),
        )
        step = Step.LOCK
        try:
            async with self._shared.database.transaction(begin) as fetch:
                step = Step.SOURCE
                source = await self._source(fetch)
                step = Step.ROWS
                await self._fetch_rows(fetch, source)
        except psycopg2.Error as error:
            await self._explain(error, step)
            raise

    async def _source(self, fetch: Fetch) -> TableSource:
        asked = {
            "schema": self.query.table.schema,
            "table": self.query.table.table,
            "trusted": list(self._shared.trusted_owners),
        }
        self.has_begun = True
        found = await fetch(QUERIES["rows source"], asked)
        if not found:
            raise RowsRefused(Reason.ALTERED, GONE)
        [(cursor, *parts)] = found
        source = TableSource(*parts)
        try:
            self.place = self._shared.journal.decode(cursor)
        except (ForeignCursor, NotACursor):
            raise RowsRefused(Reason.ALTERED, BEING_REPLACED) from None
        self.cursor = cursor
        self._tell()
        return source

    async def _fetch_rows(self, fetch: Fetch, source: TableSource) -> None:
        keys_only = self._shared.payload is Payload.KEYS
        kinds = await self._shared.kinds(self.query.name, fetch)
        query, operands = statement(self.query, source, kinds, keys_only=keys_only)
        begin = "" if self.query.limit is not None else "SET LOCAL cursor_tuple_fraction = 1; "
        begin += f"DECLARE reading NO SCROLL CURSOR FOR {query}; "
        while True:
            lines = await fetch(begin + QUERIES["next rows"], (*operands, SLICE_BYTES, self._shared.limits.row_bytes))
            begin, operands = "", ()
            if not await self._take([line for (line,) in lines]):
                return

    async def _take(self, lines: Sequence[str | None]) -> bool:
        """Keeps the rows that are selected, in several turns of the loop; false after the last one."""
        kept: list[bytes] = []
        due = time.monotonic() + TURN_SECONDS
        for line in lines:
            if line is None or self.rows == self.query.limit:
                await self._keep(kept)
                return False
            row = self._selected(line)
            if row is not None:
                self.rows += 1
                kept.append(row.encode())
            if self.rows > self._shared.limits.rows:
                raise RowsRefused(
                    Reason.TOO_MANY_ROWS,
                    f"there are more than {self._shared.limits.rows} rows (--rows-limit); ask for fewer, with a filter "
                    "or limit",
                )
            if time.monotonic() > due:
                await asyncio.sleep(0)
                due = time.monotonic() + TURN_SECONDS
        await self._keep(kept)
        return True

    async def _keep(self, rows: Sequence[bytes]) -> None:
        if not rows:
            return
        part = BETWEEN.join(rows)
        if self._spool.size_bytes + len(part) > self._shared.limits.bytes:
            raise RowsRefused(
                Reason.TOO_MANY_BYTES,
                f"the rows have more than {self._shared.limits.bytes} bytes (--rows-limit-bytes); ask for fewer, with "
                "a filter, columns or limit",
            )
        try:
            await self._spool.append(part)
        except SpoolFull as full:
            logger.warning("no space for rows that wait for clients%s", f": {full}" if full.args else "")
            raise RowsRefused(Reason.BUSY, "too many rows wait for clients that are slow; try again later") from None
        self._tell()

    def _selected(self, line: str) -> str | None:
        """The row as the client may see it, if so."""
        try:
            check_json(line)
            return self._picked(line) if self.query.is_filtered else line
        except NotJSON as error:
            raise RowsRefused(Reason.UNREADABLE_ROW, f"a row is not JSON that can be read in time: {error}") from None

    def _picked(self, line: str) -> str | None:
        change = Change(f"{self._head}{line}}}", self.query.name, "INSERT")
        table = self._selection.for_table(self.query.name, is_exact=True)
        picked = table.pick(change, ChangedRow(change)) if table else None
        if picked is None or picked is change:
            return line if picked else None
        return str(ChangedRow(picked).message["data"], "utf-8")

    async def _explain(self, error: psycopg2.Error, step: Step) -> None:
        """Raises RowsRefused, unless the error is PostgreSQL's trouble."""
        if lacks_right(error, step):
            asked = {"schema": self.query.table.schema, "table": self.query.table.table}
            [(grants,)] = await self._shared.database.fetch(QUERIES["missing rights"], asked)
            raise cannot_read(
                f"the server's role may not read {self.query.name}: {grants or 'see docs/least-rights.md'}"
            )
        if refused := refusal_of(error, step, self.query, self._shared.limits.row_bytes):
            if refused.reason is Reason.NOT_WATCHED and self._shared.will_watch(self.query.table):
                raise RowsRefused(Reason.ALTERED, f"{self.query.name} {WATCHED_SOON}")
            raise refused
