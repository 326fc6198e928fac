"""The database's tables in, what a client may ask of them out: their columns, what those compare like, their keys.

Read when a subscription names what is not known yet, and when the schema has changed, not for each client: a
reconnecting crowd costs one read.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import psycopg2

from changefeed.change.exposure import Payload, shown_columns
from changefeed.change.table_names import TableName, could_mean, parse_pattern, qualified
from changefeed.postgres.legible import is_shown_only
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database, DatabaseUnavailable, DbRow, one_line
from changefeed.postgres.trust import distrust
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.subscription import ALL_CHANGES, BadSubscription, Selection, Subscription, check
from changefeed.selection.visibility import SealCursor

logger = logging.getLogger("changefeed.catalog")

QUERIES = load_queries("server.sql")
# How often it is read anew, at most, for what is still unknown: a table or a column may have just been made.
READ_INTERVAL_SECONDS = 0.25
MISSED_LIMIT = 1_000  # names that a trigger of the user's may give, and that are no tables
SLICE_COLUMNS = 2_000  # that are read before everything else has its turn
FORGET_SECONDS = 10.0  # after which so many names hide no table that was made since


@dataclass(frozen=True)
class Tables:
    """What was in the database when it was read: columns and primary keys by qualified() name.

    `bare` are the tables that have a name without their schema: those, and what else has a trigger of the user's.
    """

    columns: Mapping[str, Mapping[str, Kind]] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bare: Mapping[str, Collection[TableName]] = field(default_factory=dict)


class Catalog:
    """Tables of one database, as of the last read; on_read() is called after each.

    A column that `payload` withholds is, for whoever asks here, not there.
    """

    def __init__(
        self,
        database: Database,
        on_read: Callable[[], None] = lambda: None,
        payload: Payload = Payload.FULL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tables = Tables()
        self._database = database
        self._on_read = on_read
        self._payload = payload
        self._clock = clock
        self._retyped: dict[str, set[str]] = {}  # columns by table
        self._missed: set[str] = set()
        self._catching_up: asyncio.Task[None] | None = None
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._complaint = ""

    async def check(self, subscription: Subscription) -> None:
        """Raises BadSubscription for what cannot be, and DatabaseUnavailable where that cannot be known."""
        if subscription == ALL_CHANGES:
            return
        await self.until_read()
        asked_at = self._clock()
        try:
            check(subscription, self.tables.columns, self._payload)
        except BadSubscription:
            await self._read_since(asked_at)
            check(subscription, self.tables.columns, self._payload)

    def trouble(self, subscription: Subscription) -> BadSubscription | None:
        """Why no change can fit what was asked for, by what is known now."""
        asked = subscription
        if not self.tables.columns or not (asked.tables or asked.filters or asked.columns):
            return None
        try:
            check(subscription, self._named(subscription), self._payload)
        except BadSubscription as error:
            return error
        return None

    def _named(self, subscription: Subscription) -> Mapping[str, Mapping[str, Kind]]:
        """The tables that are asked for, found without a look at all of them where each is named itself."""
        found = set()
        for term in subscription.tables:
            for pattern in parse_pattern(term).meant:
                if pattern.table is None:
                    return self.tables.columns
                of_name = self.tables.bare.get(pattern.table, ())
                found |= {qualified(str(one.schema), one.table) for one in of_name if pattern.covers(one)}
        columns = self.tables.columns
        return {name: columns[name] for name in found if name in columns} if subscription.tables else columns

    async def until_read(self) -> None:
        """Returns when the tables of some moment are known. Raises DatabaseUnavailable."""
        await self._read_since(float("-inf") if self.tables.columns else self._clock())

    async def read_anew(self) -> None:
        """The schema has changed: returns when it is known how. Raises DatabaseUnavailable."""
        self._missed.clear()
        if self.tables.columns:  # else nobody has asked yet
            await self._read_since(self._clock())

    def take_retyped(self) -> Mapping[str, Collection[str]]:
        """The columns by table, since this was asked last, that compare otherwise than they were taken to."""
        retyped, self._retyped = self._retyped, {}
        return retyped

    def select(self, subscription: Subscription, seal: SealCursor) -> Selection:
        """The subscription at work on these tables."""
        return Selection(subscription, self.columns, seal, self.meanings)

    def columns(self, table: str) -> Mapping[str, Kind] | None:
        """The columns of a table as a change names it: schema.name, or the bare name that a plain trigger gives.

        One that is not known may have been made since; then it is looked for, once, and on_read() tells.
        """
        found = self.tables.columns.get(self._full_name(table))
        if len(self._missed) >= MISSED_LIMIT and self._clock() - self._read_at >= FORGET_SECONDS:
            self._missed.clear()
        if found is None and self.tables.columns and table not in self._missed and len(self._missed) < MISSED_LIMIT:
            self._missed.add(table)
            self._catching_up = asyncio.create_task(self._read_again())
        return {} if found is None and self._payload is Payload.OFF else found

    def has(self, table: str) -> bool:
        """Whether there is a table of this name, as a change names it; where none was read yet, they are read now."""
        if not self.tables.columns and (self._catching_up is None or self._catching_up.done()):
            self._catching_up = asyncio.create_task(self._read_again())
        return self._full_name(table) in self.tables.columns

    def may_mean_some(self, table: str) -> bool:
        """Whether a name, as a trigger of the user's gives it, may be a table's; if there is none, it is looked for."""
        self.columns(table)
        return any(self._found(table))

    def key(self, table: str) -> tuple[str, ...]:
        """The primary key's columns; none where there is no key, or no such table. One not known is looked for."""
        self.columns(table)
        return self.tables.keys.get(self._full_name(table), ())

    def meanings(self, table: str) -> Collection[TableName]:
        """The tables that the name could be of, as a trigger of the user's gives it; of no table, what it says."""
        return set(self._found(table)) or could_mean(table)

    def _found(self, table: str) -> Iterator[TableName]:
        """Those of them that there are."""
        for name in could_mean(table):
            for found in self.tables.bare.get(name.table, ()) if name.schema is None else (name,):
                if found in self.tables.bare.get(found.table, ()):
                    yield found

    def _full_name(self, table: str) -> str:
        if table in self.tables.columns:
            return table
        meant = [name for name in self.meanings(table) if name.schema is not None]
        return qualified(str(meant[0].schema), meant[0].table) if len(meant) == 1 else table

    async def _read_since(self, moment: float) -> None:
        """Returns when it was read after `moment`, together with whoever else waits for that."""
        async with self._reading:
            if self._read_at >= moment:
                return
            await asyncio.sleep(self._read_at + READ_INTERVAL_SECONDS - self._clock())
            began = self._clock()
            try:
                await self._read()
            except psycopg2.Error as error:
                if self._complaint != (complaint := one_line(error)):
                    self._complaint = complaint
                    logger.warning("the tables cannot be read: %s; trying again for whoever asks", complaint)
                raise DatabaseUnavailable("the tables cannot be read") from error
            self._complaint = ""
            self._read_at = began
            self._on_read()

    async def _read_again(self) -> None:
        with contextlib.suppress(DatabaseUnavailable):  # until it is known, the values' own types decide
            await self._read_since(self._clock())

    async def _read(self) -> None:
        rows = await self._database.fetch(QUERIES["columns"])
        [(has_journal,)] = await self._database.fetch(QUERIES["has journal"])
        is_trusted = has_journal and not await distrust(self._database)  # else the follower says so
        watched = await self._database.fetch(QUERIES["watched tables"]) if is_trusted else []
        others = await self._database.fetch(QUERIES["others with triggers"])
        found = await tables_of(rows, watched, others, self._payload)
        for name, before in self.tables.columns.items():
            now = found.columns.get(name, {})
            if before != now and (
                retyped := {one for one in before.keys() & now.keys() if before[one] is not now[one]}
            ):
                self._retyped.setdefault(name, set()).update(retyped)
        self.tables = found


async def tables_of(
    rows: Iterable[DbRow], watched: Iterable[DbRow], others: Iterable[DbRow], payload: Payload
) -> Tables:
    """From what the database answers; there may be so much that everything else has its turn in between."""
    omitted = {qualified(schema, table): set(omit) for schema, table, _, omit, *_ in watched}
    hashed = {qualified(schema, table): set(hash_) for schema, table, *_, hash_ in watched}
    columns: dict[str, Mapping[str, Kind]] = {}
    # Under the name that is shown of one that is no text nothing is to be found: it may be another's.
    rows = [row for row in rows if not is_shown_only(*row[:2])]
    keys: dict[str, tuple[str, ...]] = {}
    bare: dict[str, list[TableName]] = {}
    of_slice = 0
    for schema, table, names, kinds, key in rows:
        if (of_slice := of_slice + len(names)) > SLICE_COLUMNS:
            of_slice = 0
            await asyncio.sleep(0)
        name = qualified(schema, table)
        keys[name] = tuple(key)
        of_table = {
            column: Kind.TEXT if column in hashed.get(name, ()) else Kind(kind)
            for column, kind in zip(names, kinds, strict=True)
            if column not in omitted.get(name, ())
        }
        columns[name] = shown_columns(payload, of_table, keys[name])
        bare.setdefault(table, []).append(TableName(schema, table))
    for schema, table in others:
        if is_shown_only(schema, table):
            continue
        bare.setdefault(table, []).append(TableName(schema, table))
    return Tables(columns, keys, bare)
