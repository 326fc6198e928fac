"""What the journal costs a writer, how fast a client catches up from it, and the server's memory. Prints Markdown tables.

On one embedded PostgreSQL the same statements are run on a table without triggers, with the original's row trigger (a
NOTIFY for each row) and with the journal's: in turn, round by round, so that the load of the machine falls on all three.
A figure is the median of the rounds; what to compare is the ratios, (in parentheses) to the original's trigger. Then many
writers of single rows on a disk that takes a millisecond to flush, as a network volume does, while a server follows; and on
this disk, how late a client learns of a commit. And what a server of 1, 2, 4 and 8 processes costs PostgreSQL.

    python -m benchmarks.journal [--rows 1000000] [--rounds 3] [--seconds 20] [--only slow-disk]
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2

from benchmarks.catch_up import catch_up
from benchmarks.commits import Commits, Watched, delays, rates
from benchmarks.processes import costs
from benchmarks.publisher import TABLE
from benchmarks.servers import OURS_BY_JOURNAL
from benchmarks.slow_disk import FLUSH_MS, compiler, slow_cluster
from benchmarks.writer import Run, audited, bulk, nested, prepare, runner, singles
from changefeed.postgres.embedded import EmbeddedPostgres
from changefeed.postgres.named_queries import SQL_DIR, read_script

SINGLES = 5_000
WRITERS = (1, 8, 32, 64)
RATES = (1, 20, 100, 1_000, 5_000)  # commits a second
PROCESSES = (1, 2, 4, 8)
PROCESS_RATES = (10, 500)  # commits a second: by NOTIFY, and while the lease holds
HEAD = "no trigger | original's trigger | journal |\n|---|---|---|---|"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=20, help="for each run of pgbench")
    parser.add_argument("--only", choices=PARTS, help="one part; else all")
    options = parser.parse_args()
    for name, measure in PARTS.items():
        if options.only in (None, name):
            measure(options)


def on_a_slow_disk(options: argparse.Namespace) -> None:
    if not compiler():
        print("\nnothing on a slow disk: that takes gcc, which makes fdatasync slow")
        return
    with slow_cluster() as server, committing(server) as (commits, _):
        print(
            f"\n| commits/s, a flush takes {FLUSH_MS:g} ms | not watched | original's trigger | journal |\n|---|---|---|---|"
        )
        for writers, per_second in rates(commits, WRITERS, options.seconds, options.rounds).items():
            none, original, journal = per_second.values()
            print(
                f"| {writers} writers | {none:,.0f} | {original:,.0f} ({original / none:.2f}) | "
                f"{journal:,.0f} ({journal / none:.2f}; {journal / original:.1f} times the original's) |",
                flush=True,
            )
        print_delays(commits, options)


def delays_on_this_disk(options: argparse.Namespace) -> None:
    with cluster() as server, committing(server) as (commits, _):
        print_delays(commits, options)


@contextmanager
def committing(server: EmbeddedPostgres) -> Iterator[tuple[Commits, Any]]:
    """Writers on this PostgreSQL, and a connection."""
    connection = psycopg2.connect(server.conninfo)
    connection.autocommit = True
    run = runner(connection)
    run(read_script("install.sql"))
    run(TABLE)
    yield Commits(server, run), connection
    connection.close()


def print_delays(commits: Commits, options: argparse.Namespace) -> None:
    ways = " | ".join(how.value for how in (Watched.ORIGINAL, Watched.NOTIFYING, Watched.JOURNAL))
    print(f"\n| statement to client, p50 and p99 | {ways} |\n|---|---|---|---|")
    for rate, found in delays(commits, RATES, options.seconds, options.rounds).items():
        cells = " | ".join(f"{p50:.1f}, {p99:.1f} ms" for p50, p99 in found.values())
        print(f"| {rate:,} commits/s | {cells} |", flush=True)


def on_this_disk(options: argparse.Namespace) -> None:
    with cluster() as server:
        connection = psycopg2.connect(server.conninfo)
        connection.autocommit = True
        run = runner(connection)
        run(read_script("install.sql"))
        prepare(run)
        print(f"PostgreSQL {connection.server_version // 10000}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"\n| seconds for {options.rows:,} rows in one statement | {HEAD}")
        for action, medians in bulk(run, options.rows, options.rounds, lambda: run("CHECKPOINT")).items():
            print_row(action, medians, ".1f")
        print(f"\n| microseconds for a transaction of one row | {HEAD}")
        for action, medians in singles(run, SINGLES, options.rounds).items():
            print_row(action, medians, ".0f")
        print("\n| milliseconds for an UPDATE with an audit trigger | not watched | journal |\n|---|---|---|")
        for rows, (plain, watched) in audited(run, options.rounds).items():
            print(f"| {rows:,} rows | {plain * 1e3:.2f} | {watched * 1e3:.2f} ({watched / plain:.1f}) |", flush=True)
        print("\n| microseconds for an INSERT of one row | not watched | journal |\n|---|---|---|")
        for kind, (plain, watched) in zip(
            ("the client's own", "a trigger's"), nested(run, options.rounds), strict=True
        ):
            print(f"| {kind} | {plain:.1f} | {watched:.1f} |", flush=True)
        pgbench(server, run, options.seconds, options.rounds)
        caught_up = catch_up(OURS_BY_JOURNAL, {"DATABASE_URL": server.conninfo}, run, options.rows)
        print(f"\ncatch-up from the journal to a socket: {caught_up.per_second:,.0f} changes/s")
        print(f"the server's memory at most, with that: {caught_up.peak_memory_bytes / 1e6:.0f} MB")
        connection.close()


@contextmanager
def cluster() -> Iterator[EmbeddedPostgres]:
    folder = Path(tempfile.mkdtemp(prefix="feed-", dir="/tmp"))
    folder.chmod(0o755)  # under root PostgreSQL runs as somebody else
    server = EmbeddedPostgres(folder / "data", {"max_wal_size": "4GB"})
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def print_row(label: str, medians: list[float], digits: str) -> None:
    """Without a trigger, with the original's and with the journal's, the last with its ratio to the second."""
    none, original, journal = medians
    print(
        f"| {label} | {none:{digits}} | {original:{digits}} | {journal:{digits}} ({journal / original:.2f}) |",
        flush=True,
    )


def pgbench(server: EmbeddedPostgres, run: Run, seconds: int, rounds: int) -> None:
    """TPC-B with eight clients: TPS without triggers, with the original's, with the journal's, in turn."""
    program = server.binaries / "pgbench"
    target = ["--host", str(server.data_dir / "socket"), "--username", "postgres", "postgres"]
    tables = ("pgbench_accounts", "pgbench_tellers", "pgbench_branches", "pgbench_history")
    environment = {**os.environ, "PGOPTIONS": ""}

    def transactions_per_second() -> float:
        command = [str(program), "--client", "8", "--jobs", "2", "--time", str(seconds), *target]
        said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        found = re.search(r"tps = ([\d.]+)", said)
        assert found, said
        return float(found[1])

    subprocess.run(
        [str(program), "--initialize", "--quiet", "--scale", "10", *target],
        capture_output=True,
        check=True,
        env=environment,
    )
    measured: dict[str, list[float]] = {"none": [], "original": [], "journal": []}
    for _ in range(rounds):
        measured["none"].append(transactions_per_second())
        for table in tables:
            run((SQL_DIR / "trigger.sql").read_text().replace("portal_eventrequests", table))
        measured["original"].append(transactions_per_second())
        for table in tables:
            run(f"DROP TRIGGER notify_event ON {table}")
            run(f"SELECT changefeed.watch('{table}')")
        measured["journal"].append(transactions_per_second())
        for table in tables:
            run(f"SELECT changefeed.unwatch('{table}')")
        run("TRUNCATE changefeed.journal")
    print(f"\n| pgbench TPC-B, 8 clients, all four tables | {HEAD}")
    print_row("transactions per second", [statistics.median(values) for values in measured.values()], ".0f")


def by_processes(options: argparse.Namespace) -> None:
    with cluster() as server, committing(server) as (commits, connection):
        for rate in PROCESS_RATES:
            found = costs(commits, connection, PROCESSES, rate, options.seconds, options.rounds)
            one = found[PROCESSES[0]]
            print(
                f"\n| PostgreSQL, {rate:,} commits/s | reads per commit | µs of processor time per commit |\n|---|---|---|"
            )
            for count, cost in found.items():
                print(
                    f"| {count} processes | {cost.reads:.2f} ({cost.reads / one.reads:.1f}) | "
                    f"{cost.microseconds:.0f} ({cost.microseconds / one.microseconds:.1f}) |",
                    flush=True,
                )


PARTS = {
    "this-disk": on_this_disk,
    "delays": delays_on_this_disk,
    "slow-disk": on_a_slow_disk,
    "processes": by_processes,
}


if __name__ == "__main__":
    main()
