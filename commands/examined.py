"""The database that the command `doctor` examines, and what it finds there. It changes nothing."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT, connection, make_dsn

from changefeed.postgres.connection import (
    IN_RECOVERY,
    OPTIONS_REFUSED,
    complete,
    local_settings,
    without_session_options,
)
from changefeed.postgres.legible import fetched, is_illegible, rows_of, showing
from changefeed.postgres.named_queries import load_queries
from changefeed.printable import printable, sql_printable
from settings.table import Settings

QUERIES = load_queries("doctor.sql")
SERVER_QUERIES = load_queries("server.sql")
CONNECT_DEADLINE_SECONDS = 10
QUERY_DEADLINE_MS = 10_000
LOCK_DEADLINE_MS = 1_000  # more than the server's own locks are held, such as those of retention


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """`fix` is SQL (ending in a semicolon), a command or a setting; `advice` is for findings that have none."""

    level: Level
    about: str
    says: str
    fix: str = ""
    advice: str = ""

    def __str__(self) -> str:
        fix = f"; fix: {sql_printable(self.fix)}" if self.fix else ""
        advice = f"; what to do: {printable(self.advice)}" if self.advice else ""
        return f"{self.level:<7}  {self.about}: {printable(self.says)}{fix}{advice}"


OWN_CONNECTIONS = 2  # of an examination, one of them for a moment only


class ExaminedDatabase:
    """The examined database, over a connection of its own, and the settings to use it with."""

    def __init__(self, conninfo: str, settings: Settings) -> None:
        self.conninfo = str(make_dsn(complete(conninfo), connect_timeout=CONNECT_DEADLINE_SECONDS))
        self.settings = settings
        self.before_each = ""
        self.connection = self.connect()
        (
            self.version,
            self.version_text,
            self.is_standby,
            self.prepared_limit,
            self.notify,
            self.role_name,
            self.role,
            self.database,
        ) = self.row(QUERIES["server"])
        is_installed, self.may_install = self.row(QUERIES["installation"])
        # Other roles whose code would run here with this role's rights.
        self.distrusted = [owner for (owner,) in self.rows(SERVER_QUERIES["distrusted owner"])]
        is_installed = is_installed and not self.distrusted
        self.may_read, self.may_maintain, self.owner = (
            self.row(QUERIES["rights"]) if is_installed else (False, False, "")
        )
        self.is_installed = bool(is_installed)

    def connect(self) -> connection:
        try:
            made: connection = psycopg2.connect(self.conninfo)
        except psycopg2.OperationalError as error:
            if IN_RECOVERY in str(error):  # reported as a finding
                self.conninfo = str(make_dsn(self.conninfo, target_session_attrs="any"))
                return self.connect()
            if OPTIONS_REFUSED not in str(error):
                raise
            # A pooler hands its sessions to others at any moment, so each statement sets what it needs.
            self.conninfo = without_session_options(self.conninfo)
            made = psycopg2.connect(self.conninfo)
            self.before_each = local_settings(made)
        made.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        return made

    def rows(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as db_cursor:
            before = f"{self.before_each}SET LOCAL statement_timeout = {QUERY_DEADLINE_MS}; "
            before += f"SET LOCAL lock_timeout = {LOCK_DEADLINE_MS}; "
            try:
                db_cursor.execute(before + query, parameters or None)
                return fetched(db_cursor)
            except psycopg2.Error as error:
                if not is_illegible(error):
                    raise
            whole = db_cursor.mogrify(query, parameters or None).decode()
            db_cursor.execute(before + showing(whole))
            [(answer,)] = db_cursor.fetchall()
            return rows_of(answer, str(self.connection.info.parameter_status("server_encoding")))

    def row(self, query: str) -> tuple[Any, ...]:
        [row] = self.rows(query)
        return row
