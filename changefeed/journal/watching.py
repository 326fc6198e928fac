"""Watches the tables of the settings, and maintains them and the journal. Knows no client.

The SQL is in sql/, and works without the server too.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psycopg2

from changefeed.change.table_names import BadName, Pattern, TableName, parse_pattern, qualified
from changefeed.journal.installation import CannotWatch, Installation
from changefeed.journal.journal import VERSION
from changefeed.postgres.legible import is_shown_only
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import (
    QUERY_DEADLINE_SECONDS,
    Database,
    DatabaseUnavailable,
    DbRow,
    DeadlinePassed,
    one_line,
)

logger = logging.getLogger("changefeed.watching")

QUERIES = load_queries("server.sql")
MAINTAIN_SECONDS = 10.0
CHANGE_ATTEMPTS = 20  # to change a table's options while others do
EXPECTED_SECONDS = 30.0  # how long a new table may take to be watched

REMOVED = (
    "the schema changefeed was removed, as by sql/uninstall.sql: no table is watched any more. To watch the tables of "
    "--watch again, run psql -f sql/install.sql, or restart the server"
)
NO_TEXT = "its name has no text in UTF-8, which clients need; ALTER TABLE … RENAME it first"


class NoSuchTable(Exception):
    """No table has this name; the message says so."""


def no_such_table(name: str) -> NoSuchTable:
    advice = "" if "." in name else f"; write schema.table, such as public.{name}"
    return NoSuchTable(f"the database has no table {name}{advice}")


def ambiguous(name: str, ways: Iterable[str]) -> str:
    """The message for a name that may mean any of these tables."""
    return f"{name} may mean several tables; write {' or '.join(ways)}"


class PostgresRefused(CannotWatch):
    """PostgreSQL or a function of sql/ refused: the message may name any column, and other tables."""


@dataclass(frozen=True)
class WatchOptions:
    """The options of changefeed.watch()."""

    omit: tuple[str, ...] = ()
    row_limit: int | None = None
    strict: bool = False
    hash: tuple[str, ...] = ()

    def hides(self, column: str) -> bool:
        return column in self.omit or column in self.hash


DEFAULT_OPTIONS = WatchOptions()
NEEDS_TRIGGER = (
    "to watch it, the server's role needs the right TRIGGER on the table, and the grants of docs/least-rights.md, (b)"
)
NEEDS_OWNER = (
    "only the table's owner can unwatch it: call changefeed.unwatch as that role or as a superuser, or give the "
    "server's role what docs/least-rights.md, (b), says"
)


class Watching:
    """`patterns` are schema.table or schema.*; retention is in seconds and bytes.

    A removed schema is not installed again for them: see Installation.
    """

    def __init__(
        self,
        database: Database,
        installation: Installation,
        patterns: Sequence[str],
        retention_seconds: float,
        retention_bytes: int,
    ) -> None:
        self.installation = installation
        self.refused: dict[str, str] = {}  # tables of the patterns that cannot be watched now, with the reason
        self._database = database
        self._patterns = tuple(patterns)
        self._retention = {"seconds": retention_seconds, "bytes": retention_bytes}
        self._is_told_of_no_schema = False
        self._complaint = ""
        self._woken = asyncio.Event()
        self._expected: dict[TableName, float] = {}  # asked for, and not watched; since when (monotonic)

    async def start(self) -> None:
        """Watches the tables of the patterns. Raises NoSuchTable, or CannotWatch for a table named without a star.

        Upgrades an older schema if it may, even without patterns, or logs that there is one.
        """
        await self.installation.upgrade()
        for pattern in self._patterns:
            has_one = await self._watch_pattern(pattern)
            if _is_of_one_table(pattern):
                if not has_one:
                    raise NoSuchTable(
                        f"--watch {pattern}: the database has no such table; write schema.table as in SQL"
                    )
                if reason := self.refused.get(pattern):
                    raise CannotWatch(reason)
            elif not has_one:
                logger.info("--watch %s matches no table yet; new ones will be watched", pattern)

    async def say_if_no_journal(self) -> None:
        """Logs, at the start, that no table is watched yet: then only NOTIFY triggers of the user send changes."""
        if not await self.installation.is_there():
            logger.info(
                "no table is watched yet, as the schema changefeed is not installed: start with --watch "
                "schema.table, or run psql -f sql/install.sql and SELECT changefeed.watch('schema.table')"
            )

    async def named(self, name: str) -> list[TableName]:
        """The existing tables that the name, written as schema.table, may mean."""
        try:
            meant = [one for one in parse_pattern(name).possible if one.schema and one.table]
        except BadName:
            return []
        names = {"schemas": [one.schema for one in meant], "tables": [one.table for one in meant]}
        return [TableName(*row) for row in await self._database.fetch(QUERIES["named tables"], names)]

    async def watch(self, name: str, options: WatchOptions = DEFAULT_OPTIONS, *, for_request: bool = True) -> bool:
        """Watches the table schema.table; returns whether that changed anything. Raises NoSuchTable or CannotWatch.

        Installs the schema if it is missing; unless `for_request`, not if it was removed.
        """
        table = await self._only(name)
        if not await self.installation.install(for_request=for_request):
            raise CannotWatch(f"{name}: {REMOVED}")
        with self._refusals(name, NEEDS_TRIGGER):
            return _has_changed(name, await self._database.fetch(QUERIES["watch"], _parameters(table, options)))

    async def change(self, name: str, choose: Callable[[WatchOptions, set[str]], WatchOptions | None]) -> bool:
        """Watches the table with the options that choose() returns for its present ones; with None, unwatches it.

        choose() is also given the columns to omit or hash whose names other columns have now. Of several changes at
        once, in any process, each is of the options that the one before it has left. Returns and raises as watch()
        does, and what choose() raises.
        """
        table = await self._only(name)
        for _ in range(CHANGE_ATTEMPTS):
            before = await self.options(name) or DEFAULT_OPTIONS
            numbers = await self._numbers(table)
            replaced = await self._replaced_columns(table)
            options = choose(before, replaced)
            if options is None:
                if not await self.installation.is_there():
                    return False
            elif not await self.installation.install(for_request=True):
                raise CannotWatch(f"{name}: {REMOVED}")
            asked = _parameters(table, options or before)
            asked |= {"unwatches": options is None, "before": json.dumps(asdict(before))}
            kept = {
                column: numbers[column] for column in numbers.keys() - replaced if options and options.hides(column)
            }
            with self._refusals(name, NEEDS_TRIGGER if options else NEEDS_OWNER):
                rows = await self._change_as_before(table, asked, kept)
            if not rows or rows[0][0] is not None:
                return _has_changed(name, rows)
        raise CannotWatch(f"{name}: other requests change its options all the time; try again")

    async def _change_as_before(self, table: TableName, asked: dict[str, Any], kept: dict[str, int]) -> list[DbRow]:
        """[(None,)] if the options were others, or if one of the `kept` names passed to another column meanwhile."""
        try:
            async with asyncio.timeout(QUERY_DEADLINE_SECONDS), self._database.transaction() as fetch:
                rows = await fetch(QUERIES["change as before"], asked)
                if kept:
                    # The table is locked by now, so no column gets another name.
                    numbers = _numbers_in(await fetch(QUERIES["column numbers"], table._asdict()))
                    if any(numbers.get(column) != number for column, number in kept.items()):
                        await fetch("ROLLBACK AND CHAIN", ())
                        return [(None,)]
                return rows
        except TimeoutError:
            raise DeadlinePassed(f"PostgreSQL did not answer within {QUERY_DEADLINE_SECONDS:g} s") from None

    async def _numbers(self, table: TableName) -> dict[str, int]:
        """The numbers that identify the table's columns to omit or hash, by the names that they had."""
        if (await self.installation.version() or 0) < VERSION:
            return {}
        return _numbers_in(await self._database.fetch(QUERIES["column numbers"], table._asdict()))

    async def _watch_new(self, name: str, table: TableName) -> bool:
        """Watches a table of the patterns, unless it is watched by now, perhaps with options, or was dropped."""
        with self._refusals(name, NEEDS_TRIGGER):
            rows = await self._database.fetch(QUERIES["watch unless watched"], table._asdict())
        return bool(rows and rows[0][0])

    async def options(self, name: str) -> WatchOptions | None:
        """The options with which a table is watched; None if it is not."""
        table = await self._only(name)
        if not await self.installation.is_there():
            return None
        for schema, bare, _, omit, row_limit, strict, _, hash_ in await self._database.fetch(QUERIES["watched tables"]):
            if (schema, bare) == table:
                return WatchOptions(tuple(omit), row_limit, strict, tuple(hash_))
        return None

    async def _replaced_columns(self, table: TableName) -> set[str]:
        """The columns to omit or hash whose names other columns have now: nothing is recorded then."""
        if (await self.installation.version() or 0) < VERSION:
            return set()
        gone = await self._database.fetch(QUERIES["gone columns"])
        return {column for schema, bare, column, is_replaced in gone if (schema, bare) == table and is_replaced}

    async def not_watched(self) -> dict[TableName, str]:
        """The tables of the patterns that are not watched, with the reason, as far as this process knows."""
        found = [row for pattern in self._patterns for row in await self._tables_of(pattern)]
        return {
            TableName(schema, table): self.refused.get(qualified(schema, table), "it will be, or the log says why not")
            for schema, table, is_watched in found
            if not is_watched
        }

    def will_watch(self, table: TableName) -> bool:
        """Whether --watch names the table, and it may be so new that it is yet to be watched.

        Of several processes only one learns why a table cannot be watched, so each gives up after EXPECTED_SECONDS.
        """
        if qualified(str(table.schema), table.table) in self.refused:
            return False
        meant = {(one.schema, one.table) for pattern in self._patterns for one in parse_pattern(pattern).possible}
        if meant.isdisjoint({(table.schema, table.table), (table.schema, None)}):
            return False
        now = time.monotonic()
        self._expected = {name: at for name, at in self._expected.items() if now < at + 20 * EXPECTED_SECONDS}
        return now < self._expected.setdefault(table, now) + EXPECTED_SECONDS

    def maintain_now(self) -> None:
        """Called when the schema has changed: there may be new partitions or tables to watch."""
        self._woken.set()

    async def maintain(self) -> None:
        """Applies retention, and watches new partitions and new tables of the patterns. Runs until cancelled."""
        while True:
            self._woken.clear()
            try:
                await self._maintain_once()
                self._log_maintained("")
            except (DatabaseUnavailable, psycopg2.Error, CannotWatch) as error:
                self._log_maintained(one_line(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MAINTAIN_SECONDS):
                    await self._woken.wait()

    def _log_maintained(self, complaint: str) -> None:
        """Logs what is new: why the journal could not be maintained, or that it is again."""
        if complaint == self._complaint:
            return
        self._complaint = complaint
        if complaint:
            logger.warning("could not maintain the journal: %s", complaint)
        else:
            logger.info("the journal is maintained again")

    async def create_missing_triggers(self) -> None:
        """Creates missing triggers, such as those of new partitions. maintain() reports what prevents it."""
        with contextlib.suppress(psycopg2.Error, CannotWatch):
            if await self.installation.is_there():
                await self._refresh()

    async def _refresh(self) -> None:
        refreshed: set[str] = set()
        # A few tables at a time, so that their writers wait only for a moment.
        while found := {table for (table,) in await self._database.fetch(QUERIES["refresh"])} - refreshed:
            refreshed |= found
            for table in sorted(found):
                logger.info("the triggers of %s were brought up to date", table)

    async def _maintain_once(self) -> None:
        if await self.installation.is_there():
            try:
                await self._refresh()
                for (number,) in await self._database.fetch(QUERIES["retain"], self._retention):
                    logger.info("retention emptied partition %d of the journal", number)
            except psycopg2.Error:
                if await self.installation.is_there():  # else it was removed meanwhile
                    raise
        for pattern in self._patterns:
            await self._watch_pattern(pattern)

    async def _watch_pattern(self, pattern: str) -> bool:
        """Watches the tables of a pattern; returns whether there is one. A watched table keeps its options.

        If one table cannot be watched, the others still are.
        """
        found = await self._tables_of(pattern)
        if found and not await self._has_schema():
            return True
        for schema, table, is_watched in found:
            name = qualified(schema, table)
            try:
                if is_shown_only(schema, table):
                    raise CannotWatch(f"{name}: {NO_TEXT}")
                if not is_watched and await self._watch_new(name, TableName(schema, table)):
                    logger.info("watching %s", name)
                self.refused.pop(name, None)
            except CannotWatch as error:
                if name not in self.refused:
                    logger.warning("not watched: %s", error)
                self.refused[name] = str(error)
        return bool(found)

    async def _tables_of(self, pattern: str) -> list[DbRow]:
        """Schema and name of each table, and whether it is watched."""
        return [row for one in parse_pattern(pattern).possible for row in await self._tables_like(one)]

    async def _tables_like(self, pattern: Pattern) -> list[DbRow]:
        return await self._database.fetch(QUERIES["tables like"], pattern._asdict()) if pattern.schema else []

    async def _only(self, name: str) -> TableName:
        """The only table that the name means. Raises NoSuchTable, or CannotWatch if it may mean several."""
        found = await self.named(name)
        if not found and await self._is_shown_only(name):
            raise CannotWatch(f"{name}: {NO_TEXT}")
        if not found:
            raise no_such_table(name)
        if len(found) > 1:
            ways = [qualified(str(schema), table) for schema, table in found]
            raise CannotWatch(ambiguous(name, ways))
        return found[0]

    async def _is_shown_only(self, name: str) -> bool:
        """Whether the name is a stand-in, as /api/tables shows for a table whose name is no text."""
        with contextlib.suppress(BadName):
            for one in parse_pattern(name).possible:
                for schema, table, _ in await self._tables_like(Pattern(one.schema, None)):
                    if is_shown_only(schema, table) and (schema, table) == one:
                        return True
        return False

    async def _has_schema(self) -> bool:
        """Whether there is a schema, which is installed if there never was one."""
        is_there = await self.installation.install()
        if not is_there and not self._is_told_of_no_schema:
            logger.warning("%s", REMOVED)
        self._is_told_of_no_schema = not is_there
        return is_there

    @contextlib.contextmanager
    def _refusals(self, name: str, needed: str) -> Iterator[None]:
        try:
            yield
        except psycopg2.errors.InsufficientPrivilege as error:
            raise PostgresRefused(f"{_reason(name, error)}; {needed}") from None
        except psycopg2.errors.LockNotAvailable:
            raise CannotWatch(f"{name} is locked by another transaction; try again when that has ended") from None
        except psycopg2.Error as error:
            raise PostgresRefused(_reason(name, error)) from None


def _parameters(table: TableName, options: WatchOptions) -> dict[str, object]:
    lists = {"omit": list(options.omit), "hash": list(options.hash)}
    return {**table._asdict(), **asdict(options), **lists}


def _numbers_in(rows: list[DbRow]) -> dict[str, int]:
    return dict(rows[0][0]) if rows else {}


def _has_changed(name: str, rows: Sequence[DbRow]) -> bool:
    if not rows:
        raise no_such_table(name)
    return bool(rows[0][0])


def _is_of_one_table(pattern: str) -> bool:
    return all(one.table is not None for one in parse_pattern(pattern).meant)


def _reason(name: str, error: psycopg2.Error) -> str:
    """PostgreSQL's message and hint, without the lines of the function's context; it begins with the table's name."""
    reason = one_line(error)
    return reason if reason.startswith(f"{name} ") else f"{name}: {reason}"
