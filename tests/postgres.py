"""A real PostgreSQL for the tests: one cluster for the run, started when first asked for; a database for each test."""

import functools
import itertools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import make_dsn

from changefeed.embedded import EmbeddedPostgres

_numbers = itertools.count(1)


@functools.cache
def cluster() -> EmbeddedPostgres:
    # Below /tmp itself: pytest's own folders may not be entered by the account a root's PostgreSQL runs under.
    started = EmbeddedPostgres(Path(tempfile.mkdtemp(prefix="feed-", dir="/tmp")), {"fsync": "off"})
    started.start()
    return started


def stop() -> None:
    if cluster.cache_info().currsize:
        cluster().stop("immediate")
        shutil.rmtree(cluster().data_dir)


def new_database() -> str:
    """The conninfo of an empty database of its own."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    execute(cluster().conninfo, f"CREATE DATABASE {name} STRATEGY file_copy")
    return str(make_dsn(cluster().conninfo, dbname=name))


def connect(conninfo: str) -> Any:
    """A blocking connection in autocommit, for a writer."""
    connection = psycopg2.connect(conninfo)
    connection.autocommit = True
    return connection


def execute(conninfo: str, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    """Runs one statement on a connection of its own; its rows."""
    connection = connect(conninfo)
    try:
        with connection.cursor() as db_cursor:
            db_cursor.execute(statement, parameters)
            return db_cursor.fetchall() if db_cursor.description else []
    finally:
        connection.close()
