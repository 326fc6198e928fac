"""Many writers of single rows on a slow disk in; how often they commit, and how late a client learns of it, out.

A server follows all the time. The ways of watching a table take turns, round by round.
"""

import re
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

from benchmarks.crowd import Crowd
from benchmarks.publisher import Source
from benchmarks.servers import OURS_BY_JOURNAL, RunningServer
from benchmarks.writer import Run
from changefeed.postgres.embedded import EmbeddedPostgres
from changefeed.postgres.named_queries import SQL_DIR

PACED_WRITERS = 32
_FIRST_ID = 1_000_000


class Watched(Enum):
    """How the table `orders` is."""

    NOT = "not watched"
    ORIGINAL = "original's trigger"
    NOTIFYING = "journal, lease off"
    JOURNAL = "journal"


class Commits:
    """Writers of one row each on `cluster`, in which the journal and the benchmark's table `orders` are."""

    def __init__(self, cluster: EmbeddedPostgres, run: Run) -> None:
        self._cluster = cluster
        self._run = run
        self._script = cluster.data_dir.parent / "insert.sql"
        insert = Source.JOURNAL.value.replace("generate_series($1, $2) AS id", "nextval('order_ids') AS id")
        self._script.write_text(insert.replace("$3", "repeat('x', 100)") + ";\n")
        run(f"CREATE SEQUENCE order_ids START {_FIRST_ID}")
        run((SQL_DIR / "trigger_func.sql").read_text())

    @contextmanager
    def watched(self, how: Watched, processes: int = 1) -> Iterator[RunningServer]:
        """A server that follows, and the table as it says."""
        self._run("TRUNCATE orders")
        self._run("TRUNCATE changefeed.journal")
        if how is Watched.ORIGINAL:
            self._run((SQL_DIR / "trigger.sql").read_text().replace("portal_eventrequests", "orders"))
        elif how is not Watched.NOT:
            self._run("SELECT changefeed.watch('orders')")
        if how is Watched.NOTIFYING:
            self._run("ALTER DATABASE postgres SET changefeed.lease = 'off'")
        environment = {"DATABASE_URL": self._cluster.conninfo, "PROCESSES": str(processes)}
        with RunningServer(OURS_BY_JOURNAL, environment) as server:
            yield server
        self._run("ALTER DATABASE postgres RESET changefeed.lease")
        self._run("DROP TRIGGER IF EXISTS notify_event ON orders")
        self._run("SELECT changefeed.unwatch('orders')")

    def per_second(self, writers: int, seconds: int) -> float:
        """As often as they can."""
        with self._writing(writers, "--time", str(seconds)) as said:
            found = re.search(r"tps = ([\d.]+)", said())
        assert found, said()
        return float(found[1])

    def steadily(self, rate: int, seconds: int) -> None:
        """This many commits a second by many writers."""
        writers = min(PACED_WRITERS, rate)
        with self._writing(writers, "--rate", str(rate), "--transactions", str(rate * seconds // writers)):
            pass

    def delays_ms(self, server: RunningServer, rate: int, seconds: int) -> tuple[float, float]:
        """At this many commits a second by many writers: from the statement to a client's socket, p50 and p99.

        Of the first second nothing counts: the writers connect, and the server finds that changes come often.
        """
        writers = min(PACED_WRITERS, rate)
        each = rate * (1 + seconds) // writers
        with Crowd(server.port, ["/ws"]) as crowd:
            crowd.connect()
            crowd.delays_us = delays_us = []
            with self._writing(writers, "--rate", str(rate), "--transactions", str(each)):
                crowd.receive(writers * each)
        part = sorted(delays_us[rate:])
        return statistics.median(part) / 1e3, part[len(part) * 99 // 100] / 1e3

    @contextmanager
    def _writing(self, writers: int, *options: str) -> Iterator[Callable[[], str]]:
        """pgbench, which has ended with the block; and what it said, which waits for that."""
        command = [
            *(str(self._cluster.binaries / "pgbench"), "--no-vacuum", "--protocol", "prepared", *options),
            *("--client", str(writers), "--jobs", "2", "--file", str(self._script)),
            *("--host", str(self._cluster.data_dir / "socket"), "--username", "postgres", "postgres"),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said: list[str] = []

        def end() -> str:
            if not said:
                said.append(process.communicate()[0])
                if process.returncode:
                    raise RuntimeError(said[0])
            return said[0]

        try:
            yield end
            end()
        finally:
            process.kill()


def rates(commits: Commits, writers: Sequence[int], seconds: int, rounds: int) -> dict[int, dict[Watched, float]]:
    """Commits a second, by how many writers there are."""
    ways = (Watched.NOT, Watched.ORIGINAL, Watched.JOURNAL)
    took: dict[tuple[int, Watched], list[float]] = {}
    for _ in range(rounds):
        for how in ways:
            with commits.watched(how):
                for count in writers:
                    took.setdefault((count, how), []).append(commits.per_second(count, seconds))
    return {count: {how: statistics.median(took[count, how]) for how in ways} for count in writers}


def delays(
    commits: Commits, per_second: Sequence[int], seconds: int, rounds: int
) -> dict[int, dict[Watched, tuple[float, float]]]:
    """p50 and p99, in milliseconds, by how many commits a second there are."""
    ways = (Watched.ORIGINAL, Watched.NOTIFYING, Watched.JOURNAL)
    took: dict[tuple[int, Watched], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for how in ways:
            with commits.watched(how) as server:
                for rate in per_second:
                    took.setdefault((rate, how), []).append(commits.delays_ms(server, rate, seconds))
    return {
        rate: {
            how: (
                statistics.median(p50 for p50, _ in took[rate, how]),
                statistics.median(p99 for _, p99 in took[rate, how]),
            )
            for how in ways
        }
        for rate in per_second
    }
