"""Which tables are journaled: installs the schema, watches what the settings name, and tends both for ever.

Knows no client. The SQL is that of sql/, which works without the server too.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg2

from changefeed.backoff import backoff
from changefeed.database import Database, DatabaseUnavailable, one_line
from changefeed.journal import VERSION
from changefeed.queries import load, read_script

logger = logging.getLogger(__name__)

QUERIES = load("server.sql")
TEND_SECONDS = 10.0
INSTALL_DEADLINE_SECONDS = 60.0


class NoSuchTable(Exception):
    """No table has this name; the message says so."""


class CannotWatch(Exception):
    """PostgreSQL refused; the message says what to do."""


@dataclass(frozen=True)
class WatchOptions:
    """As changefeed.watch() takes them."""

    omit: tuple[str, ...] = ()
    row_limit: int | None = None
    strict: bool = False
    hash: tuple[str, ...] = ()


EVERYTHING = WatchOptions()


class Watching:
    """`patterns` are schema.table or schema.*; retention is in seconds and bytes."""

    def __init__(
        self, database: Database, patterns: Sequence[str], retention_seconds: float, retention_bytes: int
    ) -> None:
        self._database = database
        self._patterns = tuple(patterns)
        self._retention = {"seconds": retention_seconds, "bytes": retention_bytes}
        self._complaint = ""

    async def start(self) -> None:
        """Watches what the patterns name. Raises NoSuchTable or CannotWatch."""
        for pattern in self._patterns:
            if not await self._watch_pattern(pattern) and not pattern.endswith(".*"):
                raise NoSuchTable(
                    f"--watch {pattern}: the database has no such table; write schema.table as in psql's \\d"
                )

    async def watch(self, name: str, options: WatchOptions = EVERYTHING) -> bool:
        """Watches the table schema.table; whether that changed anything. Raises NoSuchTable or CannotWatch."""
        await self._install()
        with self._refusals(name):
            rows = await self._database.fetch(
                QUERIES["watch"],
                {
                    "name": name,
                    "omit": list(options.omit),
                    "row_limit": options.row_limit,
                    "strict": options.strict,
                    "hash": list(options.hash),
                },
            )
        if not rows:
            raise NoSuchTable(f"the database has no table {name}")
        return bool(rows[0][0])

    async def unwatch(self, name: str) -> bool:
        """Ends it; whether the table was watched. Raises NoSuchTable or CannotWatch."""
        if not await self._is_installed():
            return False
        with self._refusals(name):
            rows = await self._database.fetch(QUERIES["unwatch"], {"name": name})
        if not rows:
            raise NoSuchTable(f"the database has no table {name}")
        return bool(rows[0][0])

    async def has_plain_triggers(self) -> bool:
        """Whether a trigger that is not ours notifies. Asks until PostgreSQL answers; what it refuses counts as yes."""
        delays = backoff()
        while True:
            try:
                [(has_plain,)] = await self._database.fetch(QUERIES["has plain triggers"])
                return bool(has_plain)
            except DatabaseUnavailable:
                await asyncio.sleep(next(delays))
            except psycopg2.Error:
                return True

    async def tend(self) -> None:
        """Retention, new partitions, new tables of a pattern: again and again until cancelled."""
        while True:
            try:
                await self._tend_once()
                self._complaint = ""
            except (DatabaseUnavailable, psycopg2.Error, CannotWatch) as error:
                if self._complaint != (complaint := one_line(error)):
                    self._complaint = complaint
                    logger.warning("the journal is not tended: %s", complaint)
            await asyncio.sleep(TEND_SECONDS)

    async def _tend_once(self) -> None:
        if await self._is_installed():
            for (number,) in await self._database.fetch(QUERIES["retain"], self._retention):
                logger.info("retention emptied partition %d of the journal", number)
            for (table,) in await self._database.fetch(QUERIES["refresh"]):
                logger.info("the triggers of %s were brought up to date", table)
        for pattern in self._patterns:
            await self._watch_pattern(pattern)

    async def _watch_pattern(self, pattern: str) -> bool:
        """Whether there is such a table. One that is watched keeps its options, such as what it leaves out."""
        found = await self._database.fetch(QUERIES["tables like"], {"pattern": _like(pattern)})
        if found:
            await self._install()
        for name, is_watched in found:
            with contextlib.suppress(NoSuchTable):  # it was dropped meanwhile
                if not is_watched and await self.watch(name):
                    logger.info("watching %s", name)
        return bool(found)

    async def _is_installed(self) -> bool:
        [(has_journal,)] = await self._database.fetch(QUERIES["has journal"])
        return bool(has_journal)

    async def _install(self) -> None:
        if await self._is_installed():
            [(_, version, _)] = await self._database.fetch(QUERIES["identify journal"])
            if version >= VERSION:
                return
        try:
            await self._database.fetch(read_script("install.sql"), deadline_seconds=INSTALL_DEADLINE_SECONDS)
        except psycopg2.errors.InsufficientPrivilege as error:
            raise CannotWatch(
                f"the schema changefeed cannot be installed ({one_line(error)}); let the database's owner run "
                "psql -f sql/install.sql once"
            ) from None
        logger.info("installed the schema changefeed")

    @contextlib.contextmanager
    def _refusals(self, name: str) -> Iterator[None]:
        try:
            yield
        except psycopg2.errors.LockNotAvailable:
            raise CannotWatch(f"{name} is locked by another transaction; try again when that is done") from None
        except psycopg2.Error as error:
            raise CannotWatch(f"{name}: {_without_context(error)}") from None


def _like(pattern: str) -> str:
    """A LIKE pattern: only a star is special."""
    return re.sub(r"([\\%_])", r"\\\1", pattern).replace("*", "%")


def _without_context(error: psycopg2.Error) -> str:
    """PostgreSQL's message and hint, without the lines on where in a function it was."""
    primary, hint = error.diag.message_primary, error.diag.message_hint
    return " ".join(filter(None, (primary, hint))) or one_line(error)
