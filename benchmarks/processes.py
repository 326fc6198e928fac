"""What a server of several processes costs PostgreSQL for each commit, by how many processes there are.

They take turns, round by round. Counted are the server's reads of the journal, and the processor time of its connections.
"""

import re
import statistics
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.commits import Commits, Watched

_SAMPLED_SECONDS = 2.0  # each process writes its metrics every second
_READS = re.compile(r"^changefeed_journal_reads_total{[^}]*} (\S+)$", re.MULTILINE)
_CONNECTIONS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'psqlisten2websocket'"


@dataclass(frozen=True)
class Cost:
    """Of one commit."""

    microseconds: float  # of the processor time of the server's connections
    reads: float


def costs(
    commits: Commits, connection: Any, processes: Sequence[int], rate: int, seconds: int, rounds: int
) -> dict[int, Cost]:
    """At `rate` commits a second; the medians of the rounds."""
    found: dict[int, list[Cost]] = {}
    for _ in range(rounds):
        for count in processes:
            with commits.watched(Watched.JOURNAL, count) as server:
                commits.steadily(rate, 1)
                before, reads = _processor_seconds(connection), _reads(server.port)
                commits.steadily(rate, seconds)
                spent, read = _processor_seconds(connection) - before, _reads(server.port) - reads
            written = rate * seconds
            found.setdefault(count, []).append(Cost(spent / written * 1e6, read / written))
    return {
        count: Cost(
            statistics.median(cost.microseconds for cost in of_rounds),
            statistics.median(cost.reads for cost in of_rounds),
        )
        for count, of_rounds in found.items()
    }


def _processor_seconds(connection: Any) -> float:
    with connection.cursor() as db_cursor:
        db_cursor.execute(_CONNECTIONS)
        times = [psutil.Process(pid).cpu_times() for (pid,) in db_cursor.fetchall()]
    return sum(time.user + time.system for time in times)


def _reads(port: int) -> float:
    time.sleep(_SAMPLED_SECONDS)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return sum(map(float, _READS.findall(answer.read().decode())))
