"""Knows the database's tables: their columns, how these compare, and their primary keys.

It is read when a subscription names an unknown table and when the schema has changed, not for each client: a crowd that
reconnects costs one read.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import psycopg2

from changefeed.change.exposure import Payload, shown_columns
from changefeed.change.table_names import TableName, could_mean, exact, parse_pattern, qualified
from changefeed.postgres.legible import is_shown_only
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database, DatabaseUnavailable, DbRow, Fetch, one_line
from changefeed.postgres.trust import distrust
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.rights import Grant, Grants, unchecked
from changefeed.selection.subscription import ALL_CHANGES, BadSubscription, Selection, Subscription, check_subscribable
from changefeed.selection.visibility import SealCursor

logger = logging.getLogger("changefeed.catalog")

QUERIES = load_queries("server.sql")
# The least time between two reads for unknown names: a table or a column may have just been created.
READ_INTERVAL_SECONDS = 0.25
LIMITS_KEPT = 1_000  # grants with filters, after which each table counts as limited
MISSED_LIMIT = 1_000  # remembered names in payloads that no table has
SLICE_COLUMNS = 2_000  # processed in one turn of the loop
FORGET_SECONDS = 10.0  # after which a remembered name is looked up again, as its table may have been created


@dataclass(frozen=True)
class Tables:
    """The tables at the time of a read: columns and primary keys by qualified() name.

    `types` differ if a column has another name, type or collation. `bare` maps a name without its schema to the tables
    it may mean. `others` are relations without changes, with what they are and what to ask for instead.
    """

    columns: Mapping[str, Mapping[str, Kind]] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    bare: Mapping[str, Collection[TableName]] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)


class Catalog:
    """The tables of one database, as of the last read; on_read() is called after each.

    It leaves out columns that `payload` withholds.
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
        self._limits: set[Grant] = set()  # those with filters, of all selections so far
        self._is_limited: dict[str, bool] = {}  # whether one of them limits this table
        self._retyped: dict[str, set[str]] = {}  # columns by table
        self._missed: set[str] = set()
        self._catching_up: asyncio.Task[None] | None = None
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._complaint = ""

    async def check(self, subscription: Subscription) -> None:
        """Raises BadSubscription if no change can match, and DatabaseUnavailable if that cannot be found out."""
        if subscription == ALL_CHANGES:
            return
        await self.until_read()
        asked_at = self._clock()
        try:
            check_subscribable(subscription, self.tables.columns, self._payload)
        except BadSubscription:
            await self._read_since(asked_at)
            check_subscribable(subscription, self.tables.columns, self._payload, self.tables.others)

    def trouble(self, subscription: Subscription) -> BadSubscription | None:
        """Why no change can match the subscription, as far as is known now."""
        asked = subscription
        if not self.tables.columns or not (asked.tables or asked.filters or asked.columns or asked.is_restricted):
            return None
        terms = asked.tables or [grant.pattern for grant in asked.within]
        try:
            check_subscribable(subscription, self._named(terms), self._payload)
        except BadSubscription as error:
            return error
        return None

    def unchecked(self, grants: Grants) -> set[tuple[str, str]]:
        """Tables that the grants name, each with a column whose filter cannot be checked, as far as is known now."""
        limited = [grant.pattern for grant in grants if grant.filters]
        named = [term for term in limited if all(pattern.table for pattern in parse_pattern(term).meant)]
        return unchecked(grants, self._named(named)) if named else set()

    def _named(self, terms: Iterable[str]) -> Mapping[str, Mapping[str, Kind]]:
        """The tables of these names and patterns; looks at all tables only if a pattern requires it."""
        found = set()
        for term in terms:
            for pattern in parse_pattern(term).meant:
                if pattern.table is None:
                    return self.tables.columns
                of_name = self.tables.bare.get(pattern.table, ())
                found |= {qualified(str(one.schema), one.table) for one in of_name if pattern.covers(one)}
        columns = self.tables.columns
        return {name: columns[name] for name in found if name in columns}

    async def until_read(self) -> None:
        """Returns once the tables have been read. Raises DatabaseUnavailable."""
        await self._read_since(float("-inf") if self.tables.columns else self._clock())

    async def reread(self) -> None:
        """Reads the tables again after the schema has changed. Raises DatabaseUnavailable."""
        self._missed.clear()
        if self.tables.columns:  # else not needed yet
            await self._read_since(self._clock())

    def take_retyped(self) -> Mapping[str, Collection[str]]:
        """The columns, by table, whose kind has changed since the last call."""
        retyped, self._retyped = self._retyped, {}
        return retyped

    def select(self, subscription: Subscription, seal: SealCursor) -> Selection:
        """A selection of these tables' changes by the subscription."""
        limits = {replace(grant, columns=None, filters=()) for grant in subscription.within if grant.filters}
        if len(self._limits) < LIMITS_KEPT and not limits <= self._limits:
            self._limits |= limits
            self._is_limited.clear()
        return Selection(subscription, self.columns, seal, self.meanings)

    async def confirm(self, tables: Iterable[str], fetch: Fetch) -> None:
        """Reads the tables again if the columns of one of these, by qualified() names, are not those of the last read.

        Called with the tables of each page once it is read: rights decide by its filters which rows a client may see,
        and a look at the schema may come a second later. So only tables that rights with filters limit are checked.
        `fetch` sees at least what the page's reader saw. Raises DatabaseUnavailable and psycopg2.Error.
        """
        limited = list(filter(self._limited, set(tables))) if self._limits else []
        if not limited:
            return
        names = [exact(table) for table in limited]
        asked = {"schemas": [name.schema for name in names], "tables": [name.table for name in names]}
        found = await fetch(QUERIES["column types"], asked)
        types = {qualified(schema, table): types for schema, table, types in found}
        if any(types.get(table) != self.tables.types.get(table) for table in limited):
            await self._read_since(self._clock())

    def _limited(self, table: str) -> bool:
        if table not in self._is_limited:
            if len(self._is_limited) >= MISSED_LIMIT:
                self._is_limited.clear()
            is_beyond = len(self._limits) >= LIMITS_KEPT
            self._is_limited[table] = is_beyond or any(grant.limits(exact(table)) for grant in self._limits)
        return self._is_limited[table]

    def columns(self, table: str) -> Mapping[str, Kind] | None:
        """The columns of a table, named as in a change: schema.name, or the bare name of a plain trigger.

        An unknown table may be new: it is looked up once, and on_read() is called then.
        """
        found = self.tables.columns.get(self._full_name(table))
        if len(self._missed) >= MISSED_LIMIT and self._clock() - self._read_at >= FORGET_SECONDS:
            self._missed.clear()
        if found is None and self.tables.columns and table not in self._missed and len(self._missed) < MISSED_LIMIT:
            self._missed.add(table)
            self._catching_up = asyncio.create_task(self._read_again())
        return {} if found is None and self._payload is Payload.OFF else found

    def has(self, table: str) -> bool:
        """Whether a table has this name, as a change spells it. Starts the first read if there was none."""
        if not self.tables.columns and (self._catching_up is None or self._catching_up.done()):
            self._catching_up = asyncio.create_task(self._read_again())
        return self._full_name(table) in self.tables.columns

    def may_mean_some(self, table: str) -> bool:
        """Whether a table may have this name, as a user's trigger spells it. An unknown name is looked up."""
        self.columns(table)
        return any(self._found(table))

    def key(self, table: str) -> tuple[str, ...]:
        """The primary key's columns; empty without a key or table. An unknown table is looked up."""
        self.columns(table)
        return self.tables.keys.get(self._full_name(table), ())

    def meanings(self, table: str) -> Collection[TableName]:
        """The tables that the name may mean, as a user's trigger spells it; the name itself if no table has it."""
        return set(self._found(table)) or could_mean(table)

    def _found(self, table: str) -> Iterator[TableName]:
        """The existing tables among them."""
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
        """Returns once the tables were read after `moment`; all callers that wait share one read."""
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
                    logger.warning("could not read the tables: %s; trying again when a client needs them", complaint)
                raise DatabaseUnavailable("the tables cannot be read") from error
            self._complaint = ""
            self._read_at = began
            self._on_read()

    async def _read_again(self) -> None:
        with contextlib.suppress(DatabaseUnavailable):  # until the types are known, those of the values decide
            await self._read_since(self._clock())

    async def _read(self) -> None:
        rows = await self._database.fetch(QUERIES["columns"])
        [(has_journal,)] = await self._database.fetch(QUERIES["has journal"])
        is_trusted = has_journal and not await distrust(self._database)  # else the follower reports it
        watched = await self._database.fetch(QUERIES["watched tables"]) if is_trusted else []
        others = await self._database.fetch(QUERIES["others with triggers"])
        found = await tables_of(rows, watched, others, self._payload)
        without_changes = await self._database.fetch(QUERIES["relations without changes"])
        found = replace(found, others={qualified(schema, name): what for schema, name, what in without_changes})
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
    """Builds Tables from the database's answer, in several turns of the loop if there is much of it."""
    omitted = {qualified(schema, table): set(omit) for schema, table, _, omit, *_ in watched}
    hashed = {qualified(schema, table): set(hash_) for schema, table, *_, hash_ in watched}
    columns: dict[str, Mapping[str, Kind]] = {}
    types: dict[str, str] = {}
    # Skips stand-ins for names without a text in UTF-8: another table may really have that name.
    rows = [row for row in rows if not is_shown_only(*row[:2])]
    keys: dict[str, tuple[str, ...]] = {}
    bare: dict[str, list[TableName]] = {}
    of_slice = 0
    for schema, table, names, kinds, key, types_now in rows:
        if (of_slice := of_slice + len(names)) > SLICE_COLUMNS:
            of_slice = 0
            await asyncio.sleep(0)
        name = qualified(schema, table)
        keys[name], types[name] = tuple(key), types_now
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
    return Tables(columns, keys, types, bare)
