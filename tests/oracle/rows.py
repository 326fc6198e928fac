"""The same transports for one table, beginning with its rows: rows=true on /ws and /events, and GET /api/rows.

A reader begins again and again, with another table, and follows in between. Half of the time it does so as a client whose
changes are gone: it comes back with a cursor of another journal, gets a gap, and then the rows. At a checkpoint it holds that
table's rows.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from tests.oracle.ground import Server
from tests.oracle.reader import Dropped, FeedFailed, Reader
from tests.oracle.replica import Change, Replica, Rows, parse
from tests.oracle.schema import TABLES
from tests.oracle.transports import PollingReader, ProtocolReader, StreamReader, check_refusal, get

BEGIN_SHARE = 0.3  # of the connections
# Nothing of a table without a foreign key refers to a change of another one.
CHOICES = [name for name, table in TABLES.items() if table.parent is None and name != "markers"]


class RowsReader(Reader):
    """Takes the rows. Its transport follows."""

    table = ""
    foreign_cursor = ""  # of another journal
    gaps = 0  # after which it began with rows
    _has_rows = False
    _awaits_gap = False

    @contextlib.asynccontextmanager
    async def _connection(self, server: Server) -> AsyncIterator[AsyncIterator[list[Change]]]:
        if not self._has_rows or self._draw.random() < BEGIN_SHARE:
            await self._begin(server)
        else:
            self.query = f"&table={_in_url(self.table)}&table=markers"
        async with super()._connection(server) as arriving:
            yield arriving

    async def _begin(self, server: Server) -> None:
        """The markers are read before the rows, which so have all that was written before these markers."""
        markers = await self._read(server, "markers")
        self._noted = {row["token"] for row in markers["rows"]}
        self._beginning = self._draw.choice(CHOICES)
        self._read_rows = Rows(TABLES[self._beginning])
        self._has_rows = False
        self.cursor = self._draw.choice(("", self.foreign_cursor))
        self._awaits_gap = bool(self.cursor)
        self.query = f"&table={_in_url(self._beginning)}&rows=true"

    async def _read(self, server: Server, table: str) -> dict[str, Any]:
        status, body = await get(server.port, f"/api/rows?table={_in_url(table)}")
        if status != 200:
            check_refusal(self, status, body)
            raise Dropped
        read: dict[str, Any] = parse(body.decode())
        return read

    def refuse_gap(self, gap: object) -> None:
        if not self._awaits_gap:
            super().refuse_gap(gap)
        self._awaits_gap = False
        self.gaps += 1

    def take_rows(self, message: dict[str, Any]) -> None:
        if self._awaits_gap:
            raise FeedFailed(f"{self.name} was not told that its cursor is of another journal")
        for row in message["rows"]:
            self._read_rows.add(row)
        if not message.get("is_last"):
            return
        self.table, self.cursor, self._has_rows = self._beginning, message["cursor"], True
        self.replica = Replica()
        self.replica.tables[self.table] = self._read_rows
        self.ids.clear()
        self.taken += 1
        self.markers |= self._noted
        self.moved.set()

    def _all_taken(self) -> None:
        """A message's cursor may be after a marker that this connection does not get."""
        if "rows=true" not in self.query:
            super()._all_taken()


class RowsSocketReader(RowsReader, ProtocolReader):
    """/ws?rows=true."""


class RowsStreamReader(RowsReader, StreamReader):
    """/events?rows=true."""


class RowsPollingReader(RowsReader, PollingReader):
    """/api/rows, then /api/changes."""

    async def _begin(self, server: Server) -> None:
        await super()._begin(server)
        if self._awaits_gap:
            page = parse(await self.ask(server, f"/api/changes?since={self.cursor}&table={_in_url(self._beginning)}"))
            if page["gap"]:
                self.refuse_gap(page["gap"])
        self.take_rows(await self._read(server, self._beginning) | {"is_last": True})
        self.query = f"&table={_in_url(self.table)}&table=markers"


def _in_url(table: str) -> str:
    quoted = table.replace('"', '""')
    return quote(f'public."{quoted}"')


ROWS_READERS = (RowsSocketReader, RowsStreamReader, RowsPollingReader)
