"""A database with the journal in it: statements in, what they left in the journal out."""

import asyncio
import functools
import json
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg2.extensions import make_dsn, parse_dsn

from changefeed.change.change import JournalRow
from changefeed.journal.entries import JournalState
from changefeed.ordering.nested_order import NestedOrder
from changefeed.postgres.named_queries import load_queries, read_script
from changefeed.postgres.pool import DbRow, Parameters
from tests import postgres

_TEMPLATE = f"journal_{os.getpid()}"


class Entry(NamedTuple):
    """A row of the journal, where the reader puts it; `data` and `old` are texts as they stand there."""

    action: str
    table: str
    data: str | None
    old: str | None
    row_count: int | None


class Session:
    """A connection in autocommit; its notices are collected."""

    def __init__(self, conninfo: str) -> None:
        self.connection = postgres.connect(conninfo)

    def run(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as db_cursor:
            db_cursor.execute(statement, parameters or None)
            return db_cursor.fetchall() if db_cursor.description else []

    def value(self, statement: str, *parameters: Any) -> Any:
        [(value,)] = self.run(statement, *parameters)
        return value

    @property
    def warnings(self) -> list[str]:
        return [notice for notice in self.connection.notices if notice.startswith("WARNING")]


@functools.cache
def _template(conninfo: str) -> str:
    postgres.execute(conninfo, f"CREATE DATABASE {_TEMPLATE}")
    postgres.execute(str(make_dsn(conninfo, dbname=_TEMPLATE)), read_script("install.sql"))
    return _TEMPLATE


class JournalDatabase(Session):
    """The first session of a database of its own, as superuser; session() opens others."""

    def __init__(self) -> None:
        self.conninfo = postgres.new_database(_template(postgres.cluster().conninfo))
        self.name = parse_dsn(self.conninfo)["dbname"]
        self._sessions: list[Session] = []
        super().__init__(self.conninfo)

    def close(self) -> None:
        for session in (*self._sessions, self):
            session.connection.close()

    def session(self, **parameters: str) -> Session:
        self._sessions.append(Session(str(make_dsn(self.conninfo, **parameters))))
        return self._sessions[-1]

    @property
    def version(self) -> int:
        return self.connection.server_version // 10000

    def new_role(self, name: str, attributes: str = "LOGIN") -> str:
        """Roles are the cluster's; each database's are named after it."""
        role = f"{name}_{self.name}"
        self.run(f"CREATE ROLE {role} {attributes}")
        return role

    def entries(self, table: str | None = None) -> list[Entry]:
        rows = map(JournalRow._make, asyncio.run(self._read_all()))
        entries = [Entry(r.action, f"{r.schema_name}.{r.table_name}", r.data, r.old, r.row_count) for r in rows]
        return [entry for entry in entries if entry.action != "L" and table in (None, entry.table)]

    async def _read_all(self) -> Sequence[DbRow]:
        """All rows of the journal, as the server reads them."""
        limits = {"row_limit": 1 << 30, "byte_limit": 1 << 60, "row_limit_bytes": 1 << 30}
        page = {"previous": "1:1:", "batch": None, "after": None, **limits}
        *rows, last = await self.fetch(load_queries("server.sql")["read"], page)
        rows = [row[: len(JournalRow._fields)] for row in rows]
        state = JournalState.of(last)
        return await NestedOrder(self, row_limit_bytes=1 << 30).apply(
            rows,
            nested=state.nested or (),
            is_whole_batch=True,
            deleted_xid=int(state.deleted_xid),
            byte_limit=1 << 60,
        )

    async def fetch(
        self, query: str, parameters: Parameters = (), deadline_seconds: float = 0, *, with_stand_ins: bool = True
    ) -> list[DbRow]:
        """As changefeed.request_pool.Database does it, but on this connection."""
        with self.connection.cursor() as db_cursor:
            db_cursor.execute(query, parameters or None)
            return list(db_cursor.fetchall())

    def changes(self, table: str | None = None) -> list[tuple[str, Any]]:
        """Each entry's action and row, parsed."""
        return [(entry.action, json.loads(entry.data) if entry.data else None) for entry in self.entries(table)]

    def forget(self) -> None:
        self.run("TRUNCATE changefeed.journal")

    @property
    def losses(self) -> int:
        """How many statements could not be recorded: those that the journal says, and those that only a sequence counts."""
        return int(
            self.value(
                "SELECT (SELECT count(*) FROM changefeed.journal WHERE action = 'L')"
                " + (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM changefeed.losses)"
            )
        )

    def assert_rebuilds(self, table: str, target: str | None = None) -> None:
        """What the journal says, applied in its order to nothing, is what `table` ("schema.name") holds."""
        rows = self.run(f"SELECT row_to_json(r.*)::text FROM {target or table} AS r")
        assert rebuild(self.entries(table)) == Counter(row for (row,) in rows)


def rebuild(entries: list[Entry]) -> Counter[str]:
    """The rows that are left. Fails where an entry takes away, or changes, a row that is not there (any more, or yet)."""
    rows: Counter[str] = Counter()
    for entry in entries:
        if entry.action == "T":
            rows.clear()
            continue
        gone = {"D": entry.data, "U": entry.old}.get(entry.action)
        if gone is not None:
            assert rows[gone], f"{entry} of a row that is not there"
            rows -= Counter([gone])
        if entry.action in "IU":
            assert entry.data is not None
            rows[entry.data] += 1
    return rows
