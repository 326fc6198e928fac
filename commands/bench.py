"""The command `bench`: measures on the user's machine, with the user's PostgreSQL (docs/benchmarks.md).

It creates a database of its own there, and drops it again however it ends, except after kill -9. NOTIFY and triggers
stay within a database, so none of the user's tables, journals or servers is affected.
"""

import argparse
import contextlib
import datetime
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from benchmarks.catch_up import catch_up
from benchmarks.crowd import CouldNot, raise_file_limit
from benchmarks.database import Database, database
from benchmarks.publisher import Source
from benchmarks.scenarios import CPU, P50, P99, RATE, Ground, burst, paced
from benchmarks.servers import ROOT, Server
from benchmarks.writer import bulk, prepare, runner, singles
from changefeed.postgres.connection import complete, display_name
from changefeed.postgres.pool import one_line
from changefeed.printable import printable
from settings.sources import load_settings
from settings.table import Settings, SettingsError

NAME = "changefeed_bench"
SCHEMA = "bench"
PACES = (100, 1_000)  # changes a second
# Measured per second, or written within one, whatever the machine.
BULK_ROWS, SINGLES, CATCH_UP_ROWS = 10_000, 500, 50_000
ROUNDS = 3
CLOCK_LOOKS = 20
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class BenchRefused(Exception):
    """The benchmark cannot run on that PostgreSQL; the message is one line that says why and what to do."""


class OwnDatabase(Database):
    """A database on the user's PostgreSQL: keeps its settings, and requests no checkpoint, which needs rights.

    Its tables have a schema of their own, in which no other role may create functions or operators.
    """

    def __init__(self, conninfo: str) -> None:
        options = f"{parse_dsn(conninfo).get('options', '')} -c search_path={SCHEMA},pg_temp".strip()
        super().__init__(str(make_dsn(conninfo, options=options)))

    @property
    def environment(self) -> Mapping[str, str]:
        libpqs = {name: value for name, value in os.environ.items() if name.startswith("PG") or name == "HOME"}
        return {**libpqs, "DATABASE_URL": self.conninfo}

    def prepare(self) -> None:
        self.execute(f"CREATE SCHEMA {SCHEMA}")
        super().prepare()

    def empty(self) -> None:
        self.execute("TRUNCATE orders")
        self.execute("TRUNCATE changefeed.journal")


def main(argv: Sequence[str], environ: Mapping[str, str], dotenv_path: Path) -> int:
    """Returns 0 after measuring, 1 if interrupted, 2 if it cannot measure there. Raises SettingsError."""
    options, rest = _parser().parse_known_args(argv)
    settings = load_settings(rest, environ, dotenv_path)
    for number in ENDINGS:
        signal.signal(number, _end)
    raise_file_limit(options.clients)
    try:
        with _ground(settings, options.seconds) as ground:
            print(_table(ground, settings, options.clients))
    except BenchRefused as error:
        print(f"server.py bench: {printable(str(error))}", file=sys.stderr)
        return 2
    except psycopg2.Error as error:
        print(f"server.py bench: PostgreSQL says: {printable(one_line(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("server.py bench: interrupted", file=sys.stderr)
        return 1
    return 0


def _end(*_: object) -> NoReturn:
    raise KeyboardInterrupt


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; see .venv/bin/python server.py bench --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=".venv/bin/python server.py bench",
        description=f"Measures the server on this machine with your PostgreSQL: creates a database {NAME} there, and "
        "drops it again. Without --database-url it starts a PostgreSQL of its own.",
        epilog="It also accepts the server's settings (flags, environment, .env), and applies --database-url, "
        "--processes and --outbox-limit-bytes.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--seconds", type=_between(0.001, 3600, float), default=2.0, help="minimum duration of a burst (default: 2)"
    )
    parser.add_argument(
        "--clients", type=_between(1, 50_000, int), default=100, help="number of sockets to send to (default: 100)"
    )
    return parser


def _between(least: float, most: int, kind: type[float] | type[int]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if least <= (number := kind(text)) <= most:
                return number
        raise argparse.ArgumentTypeError(f"{text} is not a number from {least:g} to {most}")

    return parse


@contextlib.contextmanager
def _ground(settings: Settings, seconds: float) -> Iterator[Ground]:
    """Raises BenchRefused."""
    if settings.database_url is None:
        print("bench: measuring with a PostgreSQL of its own, which it stops afterwards", file=sys.stderr)
        with database() as opened:
            yield Ground(opened, seconds)
        return
    conninfo = complete(settings.database_url)
    where = display_name(conninfo)
    print(
        f"bench: creates the database {NAME} next to {where}, writes and reads some hundred thousand rows in it, "
        "as fast as possible, and drops it again. No other database is touched, but all share the machine: do not run "
        "it at a busy hour",
        file=sys.stderr,
    )
    try:
        maker: Any = psycopg2.connect(conninfo)
    except psycopg2.Error as error:
        raise BenchRefused(f"cannot reach {where}: {one_line(error)}; correct --database-url") from None
    maker.autocommit = True
    with contextlib.closing(maker), contextlib.ExitStack() as stack:
        with _held(ENDINGS):  # delays a Ctrl-C until the new database can be dropped again
            _make_database(maker)
            stack.callback(_drop_database, maker, conninfo)
        opened = OwnDatabase(str(make_dsn(conninfo, dbname=NAME)))
        stack.callback(opened.close)
        opened.prepare()
        yield Ground(opened, seconds)


@contextlib.contextmanager
def _held(numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Delays signals that arrive in the block until its end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def _make_database(maker: Any) -> None:
    """Creates the database, to which only its owner may connect: the limit holds until the right of PUBLIC is gone."""
    try:
        with maker.cursor() as db_cursor:
            db_cursor.execute(f"CREATE DATABASE {NAME} TEMPLATE template0 CONNECTION LIMIT 0")
            db_cursor.execute(f"REVOKE ALL ON DATABASE {NAME} FROM PUBLIC")
            db_cursor.execute(f"ALTER DATABASE {NAME} CONNECTION LIMIT -1")
    except psycopg2.errors.DuplicateDatabase:
        raise BenchRefused(
            f"the database {NAME} exists: another bench is running, or was killed; if none is, DROP DATABASE {NAME};"
        ) from None
    except psycopg2.errors.InsufficientPrivilege:
        role = maker.info.user
        raise BenchRefused(
            f'{role} may not create a database; ALTER ROLE "{role}" CREATEDB; as a role that may, or name another '
            "role in --database-url"
        ) from None
    except psycopg2.Error as error:
        raise BenchRefused(f"cannot make the database {NAME}: {one_line(error)}") from None


def _drop_database(maker: Any, conninfo: str) -> None:
    """Drops the database, even if the connection that made it is gone."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)  # the database is being dropped already
    drop = f"DROP DATABASE {NAME} WITH (FORCE)"
    try:
        if maker.closed or not _runs(maker, drop):
            with contextlib.closing(psycopg2.connect(conninfo)) as another:
                another.autocommit = True
                with another.cursor() as db_cursor:
                    db_cursor.execute(drop)
    except psycopg2.Error as error:
        print(
            f"server.py bench: could not drop its database: DROP DATABASE {NAME}; ({printable(one_line(error))})",
            file=sys.stderr,
        )


def _runs(connection: Any, statement: str) -> bool:
    try:
        with connection.cursor() as db_cursor:
            db_cursor.execute(statement)
    except psycopg2.OperationalError:
        return False
    return True


def _table(ground: Ground, settings: Settings, clients: int) -> str:
    flags = ["--processes", str(settings.processes), "--outbox-limit-bytes", str(settings.outbox_limit_bytes)]
    flags += ["--clients-per-second-per-address", "0"]  # all clients have the same address
    command = (sys.executable, str(ROOT / "server.py"), *flags, "--port")
    server = Server("ours", command, Source.JOURNAL)
    to = f"to {clients:,} client{'s' if clients > 1 else ''}"
    lines = [
        f"| {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {platform.system()} {platform.machine()},"
        f" {os.cpu_count()} cores, Python {platform.python_version()}, PostgreSQL {ground.database.version} | |",
        "|---|---|",
    ]

    def row(label: str, measure: Callable[[], str]) -> None:
        print(f"bench: {label}", file=sys.stderr, flush=True)
        try:
            lines.append(f"| {label} | {measure()} |")
        except CouldNot as reason:
            lines.append(f"| {label} | {reason} |")

    def delays(per_second: int) -> str:
        figures, _ = paced(ground, server, per_second, clients)
        ahead_ms = _database_ahead_seconds(ground.database) * 1e3
        return f"{figures[P50] + ahead_ms:.1f}, {figures[P99] + ahead_ms:.1f} ms"

    def deliveries() -> str:
        figures = burst(ground, server, ["/ws"] * clients)
        return f"{RATE.show(figures[RATE])}, {CPU.show(figures[CPU])}"

    for pace in PACES:
        row(f"{pace:,} changes/s {to}, from the statement to the socket: p50, p99", partial(delays, pace))
    row(f"a burst {to}: deliveries/s, CPU seconds per million of them", deliveries)
    with contextlib.closing(psycopg2.connect(ground.database.conninfo)) as connection:
        connection.autocommit = True
        run = runner(connection)
        prepare(run)
        rows = max(1, round(BULK_ROWS * ground.seconds))
        print("bench: what the journal costs a writer", file=sys.stderr, flush=True)
        lines.append(
            "| **what the journal costs a writer** | no trigger, the original's, the journal's (to the original's) |"
        )
        for action, medians in bulk(run, rows, ROUNDS).items():
            lines.append(f"| {action} of {rows:,} rows | {_cost([1e3 * seconds for seconds in medians], 'ms')} |")
        for action, medians in singles(run, max(1, round(SINGLES * ground.seconds)), ROUNDS).items():
            lines.append(f"| {action} in a transaction of its own | {_cost(medians, 'µs')} |")
        changes = max(1, round(CATCH_UP_ROWS * ground.seconds))
        row(
            f"catch-up of {changes:,} changes from the journal: changes/s",
            lambda: f"{catch_up(server, ground.database.environment, run, changes).per_second:,.0f}",
        )
    return "\n".join(lines)


def _cost(medians: Sequence[float], unit: str) -> str:
    none, original, journal = medians
    return f"{none:.0f}, {original:.0f}, {journal:.0f} {unit} ({journal / original:.2f})"


def _database_ahead_seconds(opened: Database) -> float:
    """How far PostgreSQL's clock is ahead of this one, by the fastest of a few queries."""
    looks = []
    for _ in range(CLOCK_LOOKS):
        asked_at = time.time()
        [(told,)] = opened.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        answered_at = time.time()
        looks.append((answered_at - asked_at, told - (asked_at + answered_at) / 2))
    return float(min(looks)[1])
