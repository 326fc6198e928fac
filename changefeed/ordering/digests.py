"""Transactions in, what their entries say of their rows out, as digests that PostgreSQL computes. Reads the journal.

An entry that PostgreSQL cannot take apart becomes an entry of no row.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import psycopg2

from changefeed.ordering.row_states import Entry
from changefeed.postgres.apart import may_be_of_a_row, read_apart
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database, DatabaseUnavailable, DbRow

logger = logging.getLogger("changefeed.journal")

QUERIES = load_queries("ordering.sql")
DEADLINE_SECONDS = 60.0
STATES_AT_ONCE = 2_000  # entries that are processed in one turn of the event loop
STATES_LIMIT_BYTES = 16 << 20  # of the rows that one statement examines, and one row more
# Of a transaction's large rows only the first are examined: a value that is cheap to write may be expensive to parse.
SMALL_BYTES = 16 << 10
LARGE_ROWS_LIMIT_BYTES = 128 << 20  # some 20 s of the worst values
REMEMBERED_OPAQUE = 10_000  # entries whose rows PostgreSQL cannot take apart
TOO_MUCH = f"their transaction has more than {LARGE_ROWS_LIMIT_BYTES >> 20} MB of large rows"
_MOST = (1 << 63) - 1
_IS_EXAMINED, _ID = 2, 4  # of a row of the query "states"


class States(NamedTuple):
    """What the query "states" found: entries of one or several transactions, each with its transaction's xid."""

    entries: list[tuple[str, Entry]]
    is_all: bool  # what was asked for; else the next ones have to be asked for
    large_bytes: int  # of the rows of the last transaction that have more than SMALL_BYTES, so far
    failures: dict[int, str]  # why rows were not examined, by the entry's id

    @classmethod
    def of(cls, rows: Sequence[DbRow], failures: dict[int, str] | None = None) -> "States":
        found, large_bytes = rows[-1][:2] if rows else (0, 0)
        return cls(
            [(xid, Entry._make(entry)) for _, _, _, xid, *entry in rows],
            not rows or len(rows) == found < STATES_AT_ONCE,
            large_bytes,
            dict.fromkeys((row[_ID] for row in rows if not row[_IS_EXAMINED]), TOO_MUCH) | (failures or {}),
        )


class Digests:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._opaque: dict[int, None] = {}  # the ids of entries that no statement may look into

    def forget(self) -> None:
        """Forgets which entries cannot be taken apart: the journal may be another one."""
        self._opaque.clear()

    async def mixed_of(self, xids: Sequence[str]) -> set[str]:
        """Those of the transactions that must be put in order."""
        if not xids:
            return set()
        return {xid for (xid,) in await self._database.fetch(QUERIES["mixed"], {"xids": xids}, DEADLINE_SECONDS)}

    async def states_of(self, xids: Sequence[str], *, begin: int = 0, end: int = _MOST) -> AsyncIterator[States]:
        """All entries of the transactions, or those with ids from `begin` on and before `end`, some at a time."""
        after = large_bytes = 0
        while xids:
            states = await self._states(xids, after=after, large_bytes=large_bytes, begin=begin, end=end)
            yield states
            if states.is_all:
                return
            xid, last = states.entries[-1]
            after, large_bytes = last.id, states.large_bytes
            xids = xids[xids.index(xid) :]

    async def _states(self, xids: Sequence[str], *, after: int, large_bytes: int, begin: int, end: int) -> States:
        parameters = {
            "xids": list(xids),
            "after": after,
            "large_bytes": large_bytes,
            "begin": begin,
            "end": end,
            "limit": STATES_AT_ONCE,
            "limit_bytes": STATES_LIMIT_BYTES,
            "small_bytes": SMALL_BYTES,
            "transaction_limit_bytes": LARGE_ROWS_LIMIT_BYTES,
            "first": 0,
            "last": _MOST,
        }
        try:
            return States.of(await self._fetch_states(parameters))
        except (DatabaseUnavailable, psycopg2.Error) as error:
            if not may_be_of_a_row(error):
                raise
        return await self._states_apart(parameters)

    async def _fetch_states(self, parameters: dict[str, object]) -> list[DbRow]:
        return await self._database.fetch(
            QUERIES["states"], {"opaque": list(self._opaque), **parameters}, DEADLINE_SECONDS
        )

    async def _states_apart(self, parameters: dict[str, object]) -> States:
        """The same where PostgreSQL cannot take some rows apart, such as JSON nested too deeply for it.

        As entries of no row they keep their places, and no entry of their table passes them; other tables' do.
        """
        rows = {row[_ID]: row for row in await self._fetch_states({**parameters, "opaque": None})}
        ids = sorted(row[_ID] for row in rows.values() if row[_IS_EXAMINED] and row[_ID] not in self._opaque)
        opaque, failures = await read_apart(
            ids, lambda part: self._database.fetch(QUERIES["opaque"], {"ids": list(part)}, DEADLINE_SECONDS)
        )
        found = {**dict.fromkeys((entry_id for (entry_id,) in opaque), "PostgreSQL cannot parse them"), **failures}
        self._opaque.update(dict.fromkeys(found))
        # What fails for another reason.
        examined, failures = await read_apart(
            [entry_id for entry_id in ids if entry_id not in found],
            lambda part: self._fetch_states({**parameters, "first": part[0], "last": part[-1]}),
        )
        self._opaque.update(dict.fromkeys(failures))
        found |= failures
        for entry_id in list(self._opaque)[: -max(REMEMBERED_OPAQUE, len(found))]:
            del self._opaque[entry_id]
        rows.update((row[_ID], row) for row in examined if row[_ID] in rows)
        return States.of(list(rows.values()), found)


def complain(failures: dict[int, str]) -> None:
    """Logs that rows were not examined."""
    if failures:
        logger.warning(
            "could not look into %d entries of the journal, the first of which is %d; their rows' changes keep the "
            "recorded order: %s",
            len(failures),
            min(failures),
            failures[min(failures)],
        )
