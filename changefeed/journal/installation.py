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
CHANGED = "CF010"  # SQLSTATE of sql/guard.sql and of the query "fail if changed"
WITHOUT_META = (
    "the schema changefeed has no table meta, but other objects: a restore has not ended, or has failed; if none is "
    "running, run sql/install.sql as its owner"
)

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

    The server installs it once: a schema that was removed stays away, except for a request or after a new start. An
    older one is upgraded at the start, if `may_upgrade`. Else the server works with it, since other servers may be too
    old to read a newer one. `has_been_seen` tells a process that replaces another whether the schema was there.
    on_seen() is called when it is seen, on_missing() when it is found to be removed.
    """

    def __init__(self, database: Database, *, may_upgrade: bool = True, has_been_seen: bool = False) -> None:
        self.on_seen: Callable[[], None] = lambda: None
        self.on_missing: Callable[[], None] = lambda: None
        self.is_removed = False
        self._has_been_seen = has_been_seen
        self._database = database
        self._may_upgrade = may_upgrade

    def note_looked(self, has_journal: bool) -> None:
        """Called by the follower: only when it has found the journal again can clients get anything."""
        if has_journal:
            self._note_seen()
        self.is_removed = not has_journal and self._has_been_seen

    async def is_there(self) -> bool:
        """Whether the schema is installed. Raises CannotWatch if it is not to be trusted."""
        [(has_journal,)] = await self._database.fetch(QUERIES["has journal"])
        await self._note(bool(has_journal))
        return bool(has_journal)

    async def install(self, *, for_request: bool = False) -> bool:
        """Installs the schema if there is none; returns whether there is one now.

        One that has been seen, and is gone, is installed again only `for_request`.
        """
        while (version := await self.version()) is None:
            if self._has_been_seen and not for_request:
                return False
            if await self._run_install(version):
                _log_installed()
        return True

    async def upgrade(self) -> None:
        """Upgrades an older schema, and one of this version in an earlier state, if it may; else logs that it is so."""
        while (version := await self.version()) is not None:
            differing = []
            if version == VERSION:
                differing = [part for (part,) in await self._database.fetch(QUERIES["schema differs"], parts())]
            if version > VERSION or (version == VERSION and not differing):
                return
            if version and not self._may_upgrade:
                _log_outdated(version, differing)
                return
            if await self._run_install(version):
                _log_upgraded(version, differing)
                return

    async def version(self) -> int | None:
        """The version of the installed schema; None if there is none, 0 if its table meta is empty.

        Raises CannotWatch while it is being restored: to install it then would be in the way of that.
        """
        [(has_journal, _, is_whole)] = await self._database.fetch(QUERIES["find journal"])
        await self._note(has_journal)
        if not is_whole:
            raise CannotWatch(HALF_RESTORED if has_journal else WITHOUT_META)
        if not has_journal:
            return None
        try:
            rows = await self._database.fetch(QUERIES["schema version"])
        except (psycopg2.errors.UndefinedTable, psycopg2.errors.InvalidSchemaName):  # it was removed meanwhile
            return None
        return int(rows[0][0]) if rows else 0

    async def _note(self, is_there: bool) -> None:
        if is_there:
            if reason := await distrust(self._database):
                raise CannotWatch(reason)
            self._note_seen()
        elif self._has_been_seen:
            self.is_removed = True
            self.on_missing()

    async def _run_install(self, version: int | None) -> bool:
        """Runs sql/install.sql if the schema still has this version; returns whether it had."""
        try:
            await self._database.fetch(_script_for(version), deadline_seconds=INSTALL_DEADLINE_SECONDS)
        except psycopg2.errors.InsufficientPrivilege as error:
            raise CannotWatch(
                f"the schema changefeed cannot be installed ({one_line(error)}); let the database's owner run "
                "psql -f sql/install.sql once"
            ) from None
        except psycopg2.Error as error:
            if error.pgcode != CHANGED:
                raise
            return False
        self._note_seen()
        return True

    def _note_seen(self) -> None:
        if not self._has_been_seen:
            self._has_been_seen = True
            self.on_seen()


def _script_for(version: int | None) -> str:
    """sql/install.sql, which fails with CHANGED unless the schema has this version.

    What was found before may be outdated: each statement waits through an outage, after which the address may lead to
    another database, such as one that is being restored. So the script looks again, and its transaction keeps what it
    finds.
    """
    guard = read_script("guard.sql")
    check = QUERIES["fail if changed"].replace("%(version)s", "NULL" if version is None else str(version))
    return read_script("install.sql").replace(guard, f"{guard}\n{check}\n", 1)


def _log_outdated(version: int, differing: Sequence[str]) -> None:
    if differing:
        logger.warning(
            "the schema changefeed has version %d, but an earlier state of it (%s): run psql -f sql/install.sql "
            "again, or start with --upgrade-schema",
            version,
            some_of(differing),
        )
    else:
        logger.warning(
            "the schema changefeed has version %d, this server brings %d: once no older server is left, run psql -f "
            "sql/install.sql, or start with --upgrade-schema",
            version,
            VERSION,
        )


def _log_upgraded(version: int, differing: Sequence[str]) -> None:
    if differing:
        logger.info("brought the schema changefeed up to date: %s", some_of(differing))
    elif version:
        logger.info("upgraded the schema changefeed from version %d to %d", version, VERSION)
    else:
        _log_installed()


def _log_installed() -> None:
    logger.info("installed the schema changefeed")


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
