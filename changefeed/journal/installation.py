"""Installs the schema changefeed by sql/install.sql, upgrades it, and notices when it was removed."""

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from functools import cache

import psycopg2

from changefeed.journal.journal import HALF_RESTORED, VERSION
from changefeed.postgres.named_queries import load_queries, read_script
from changefeed.postgres.pool import Database, one_line
from changefeed.postgres.trust import distrust

logger = logging.getLogger("changefeed.watching")

QUERIES = load_queries("server.sql")
INSTALL_DEADLINE_SECONDS = 60.0
SHOWN = 3

_FUNCTION = re.compile(
    r"^CREATE (?:OR REPLACE )?FUNCTION changefeed\.(?P<name>\w+)\(.*?AS (?P<quote>\$\w*\$)(?P<body>.*?)(?P=quote)",
    re.MULTILINE | re.DOTALL,
)
_TABLE = re.compile(
    r"^CREATE (?:UNLOGGED )?TABLE IF NOT EXISTS changefeed\.(?P<name>\w+) \(\n(?P<columns>.*?)\n\)", re.M | re.S
)
_COLUMN = re.compile(r"^    (?P<name>[a-z_]+) ", re.MULTILINE)
_ADDED = re.compile(r"^ +ALTER TABLE changefeed\.(?P<name>\w+) ADD COLUMN (?P<column>\w+)", re.MULTILINE)
_SEQUENCE = re.compile(r"^CREATE SEQUENCE IF NOT EXISTS changefeed\.(?P<name>\w+)", re.MULTILINE)


class CannotWatch(Exception):
    """PostgreSQL refused it, or the name is ambiguous; the message says what to do."""


class Installation:
    """The schema of one database.

    An older one is upgraded if `may_upgrade`. Else the server works with it, since other servers may be too old to read
    a newer one. `has_been_seen` tells a process that replaces another whether the schema was there. on_seen() is called
    when it is seen, on_removed() when `is_removed` changes.
    """

    def __init__(
        self,
        database: Database,
        *,
        may_upgrade: bool = True,
        has_been_seen: bool = False,
        on_removed: Callable[[], None] = lambda: None,
    ) -> None:
        self.on_seen: Callable[[], None] = lambda: None
        self.is_removed = False  # whether the schema was uninstalled under the server
        self._database = database
        self._may_upgrade = may_upgrade
        self._has_been_seen = has_been_seen
        self._on_removed = on_removed
        self._is_told_to_upgrade = False

    async def is_there(self) -> bool:
        """Whether the schema is installed. Raises CannotWatch if it is not to be trusted."""
        [(has_journal,)] = await self._database.fetch(QUERIES["has journal"])
        if has_journal and (reason := await distrust(self._database)):
            raise CannotWatch(reason)
        self._note(is_there=bool(has_journal))
        return bool(has_journal)

    async def ensure(self) -> None:
        """Installs the schema if there is none, and upgrades an older one if it may, or logs that it is older."""
        version = await self.version()
        if version is not None and version >= VERSION:
            return
        if version and not self._may_upgrade:
            if not self._is_told_to_upgrade:
                self._is_told_to_upgrade = True
                logger.warning(
                    "the schema changefeed has version %d, this server brings %d: once no older server is left, run "
                    "psql -f sql/install.sql, or start with --upgrade-schema",
                    version,
                    VERSION,
                )
            return
        await self._run_install()
        if version:
            logger.info("upgraded the schema changefeed from version %d to %d", version, VERSION)
        else:
            logger.info("installed the schema changefeed")

    async def complete(self) -> None:
        """Checks, once at the start, whether the schema has this version but an earlier state."""
        if await self.version() != VERSION:
            return
        differing = [part for (part,) in await self._database.fetch(QUERIES["schema differs"], parts())]
        if differing and self._may_upgrade:
            await self._run_install()
            logger.info("brought the schema changefeed up to date: %s", some_of(differing))
        elif differing:
            logger.warning(
                "the schema changefeed has version %d, but an earlier state of it (%s): run psql -f "
                "sql/install.sql again, or start with --upgrade-schema",
                VERSION,
                some_of(differing),
            )

    async def version(self) -> int | None:
        """The version of the installed schema; None if there is none, 0 if its table meta is empty.

        Raises CannotWatch while it is being restored: to install it then would be in the way of that.
        """
        if not await self.is_there():
            return None
        [(_, _, is_whole)] = await self._database.fetch(QUERIES["find journal"])
        if not is_whole:
            raise CannotWatch(HALF_RESTORED)
        rows = await self._database.fetch(QUERIES["schema version"])
        return int(rows[0][0]) if rows else 0

    async def _run_install(self) -> None:
        try:
            await self._database.fetch(read_script("install.sql"), deadline_seconds=INSTALL_DEADLINE_SECONDS)
        except psycopg2.errors.InsufficientPrivilege as error:
            raise CannotWatch(
                f"the schema changefeed cannot be installed ({one_line(error)}); let the database's owner run "
                "psql -f sql/install.sql once"
            ) from None
        self._note(is_there=True)

    def _note(self, *, is_there: bool) -> None:
        if is_there and not self._has_been_seen:
            self._has_been_seen = True
            self.on_seen()
        before, self.is_removed = self.is_removed, self._has_been_seen and not is_there
        if before is not self.is_removed:
            self._on_removed()


@cache
def parts() -> dict[str, list[str]]:
    """Parameters of the query `schema differs`: functions with their bodies' MD5, relations with their columns."""
    script = read_script("install.sql")
    bodies = [(one["name"], one["body"].encode()) for one in _FUNCTION.finditer(script)]
    columns = [
        (table["name"], column["name"])
        for table in _TABLE.finditer(script)
        for column in _COLUMN.finditer(table["columns"])
    ]
    columns += [(one["name"], one["column"]) for one in _ADDED.finditer(script)]
    columns += [(one["name"], "last_value") for one in _SEQUENCE.finditer(script)]
    return {
        "functions": [name for name, _ in bodies],
        "digests": [hashlib.md5(body, usedforsecurity=False).hexdigest() for _, body in bodies],
        "relations": [relation for relation, _ in columns],
        "columns": [column for _, column in columns],
    }


def some_of(differing: Sequence[str]) -> str:
    """The first few names, for display."""
    more = len(differing) - SHOWN
    return ", ".join(differing[:SHOWN]) + (f" and {more} more" if more > 0 else "")
