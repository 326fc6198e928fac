"""A PostgreSQL of the benchmark's own, with the table whose changes are written; empty again before each measurement."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import parse_dsn

from benchmarks.publisher import TABLE
from changefeed.postgres.embedded import EmbeddedPostgres
from changefeed.postgres.named_queries import read_script

# The servers are measured, not the disk: else the flush at commit would be part of every delay.
OPTIONS = {"synchronous_commit": "off", "max_wal_size": "4GB"}


class Database:
    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo
        self._connection: Any = psycopg2.connect(conninfo)
        self._connection.autocommit = True

    @property
    def environment(self) -> Mapping[str, str]:
        """How every driver learns which database is meant, without a word in a program."""
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}
        return {names[key]: value for key, value in parse_dsn(self.conninfo).items()}

    @property
    def version(self) -> str:
        return str(self.execute("SHOW server_version")[0][0])

    def prepare(self) -> None:
        self.execute(read_script("install.sql"))
        self.execute(TABLE)
        self.execute("SELECT changefeed.watch('orders')")

    def empty(self) -> None:
        self.execute("TRUNCATE orders")
        self.execute("TRUNCATE changefeed.journal")
        self.execute("CHECKPOINT")

    def close(self) -> None:
        self._connection.close()

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as db_cursor:
            db_cursor.execute(statement)
            return list(db_cursor.fetchall()) if db_cursor.description else []


@contextmanager
def database() -> Iterator[Database]:
    # Below /tmp itself: other folders may not be open to the account a root's PostgreSQL runs under.
    folder = Path(tempfile.mkdtemp(prefix="feed-", dir="/tmp"))
    embedded = EmbeddedPostgres(folder, OPTIONS)
    try:
        embedded.start()
        opened = Database(embedded.conninfo)
        try:
            opened.prepare()
            yield opened
        finally:
            opened.close()
    finally:
        embedded.stop("immediate")
        shutil.rmtree(folder)
