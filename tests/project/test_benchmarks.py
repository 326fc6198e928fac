"""The benchmarks run against our server for a moment; no speed is asserted."""

from pathlib import Path

import pytest

from benchmarks.commits import Commits, delays, rates
from benchmarks.crowd import CouldNot
from benchmarks.database import Database, database
from benchmarks.journal import cluster
from benchmarks.processes import costs
from benchmarks.publisher import TABLE
from benchmarks.rows import measure
from benchmarks.scenarios import CPU, P99, RATE, SCENARIOS, Figure, Ground, not_measured
from benchmarks.servers import NODE, OURS_BY_JOURNAL, OURS_BY_NOTIFY, WEBSOCKETS, Server
from benchmarks.slow_disk import compiler, slow_cluster
from benchmarks.stream import TAIL, Stream, pongs, written_at_us
from benchmarks.table import table
from benchmarks.writer import runner
from changefeed.postgres.named_queries import read_script
from tests import postgres

BURST = SCENARIOS["burst-1"]


@pytest.fixture
def ground():
    database = Database(postgres.new_database())
    database.prepare()
    yield Ground(database, seconds=0.02)
    database.close()


@pytest.mark.parametrize("server", [OURS_BY_NOTIFY, OURS_BY_JOURNAL], ids=lambda server: server.name)
@pytest.mark.parametrize(("name", "figure"), [("burst-1", RATE), ("paced-100", P99)])
def test_a_scenario_measures_ours(ground: Ground, name: str, figure: Figure, server: Server):
    assert SCENARIOS[name].measure(ground, server)[figure] > 0


@pytest.mark.skipif(compiler() is None, reason="gcc makes the slow disk")
def test_commits_on_a_slow_disk_are_counted_and_timed():
    with slow_cluster() as cluster:
        connection = postgres.connect(cluster.conninfo)
        run = runner(connection)
        run(read_script("install.sql"))
        run(TABLE)
        commits = Commits(cluster, run)
        assert all(per_second > 0 for per_second in rates(commits, (2,), 1, 1)[2].values())
        assert all(0 < p50 <= p99 for p50, p99 in delays(commits, (5,), 1, 1)[5].values())
        connection.close()


def test_what_processes_cost_postgresql_is_counted():
    with cluster() as started:
        connection = postgres.connect(started.conninfo)
        run = runner(connection)
        run(read_script("install.sql"))
        run(TABLE)
        found = costs(Commits(started, run), connection, (1, 2), 20, 1, 1)
        assert list(found) == [1, 2]
        assert all(cost.reads > 0 for cost in found.values())
        connection.close()


@pytest.mark.skipif(compiler() is None or not Path("/proc/self/maps").exists(), reason="gcc makes it, and Linux tells")
def test_postgresql_really_loads_the_slow_disk():
    with slow_cluster() as cluster:
        connection = postgres.connect(cluster.conninfo)
        assert cluster.library.name in Path(f"/proc/{connection.info.backend_pid}/maps").read_text()
        connection.close()


def test_a_change_is_counted_once_wherever_a_read_cuts_it():
    sent = b'\x81\x36{"stamp":"1763835000123456 microseconds since 1970"}' * 3
    for cut in range(1, len(sent)):
        stream, changes, written = Stream(), 0, []
        for part in (sent[:cut], sent[cut:]):
            buffer = bytearray(TAIL) + part
            changes += stream.changes(buffer, len(part))
            written += written_at_us(buffer, len(part))
        assert (changes, written) == (3, [1763835000123456] * 3)


def test_a_ping_is_answered_wherever_a_read_cuts_it():
    sent = b"\x81\x02{}" + b"\x89\x04\x89abc" + b"\x81\x02{}"
    for cut in range(1, len(sent)):
        stream, answers = Stream(), set()
        for part in (sent[:cut], sent[cut:]):
            buffer = bytearray(TAIL) + part
            stream.changes(buffer, len(part))
            answers.add(pongs(buffer, len(part)))
        assert answers - {b""} == {b"\x8a\x84\0\0\0\0\x89abc"}


def test_a_measurement_that_failed_is_not_taken_for_a_crash():
    assert not_measured(CouldNot("can't keep up"), "one\ntwo\nthree\nfour").splitlines() == [
        "    not measured: can't keep up. The end of the server's log:",
        "      two",
        "      three",
        "      four",
    ]


def test_the_table_has_medians_and_ratios():
    lines = table(
        {
            (BURST, WEBSOCKETS): [{CPU: 9.0, RATE: 50_000}, {CPU: 8.0, RATE: 60_000}, {CPU: 7.0, RATE: 70_000}],
            (BURST, NODE): [CouldNot("closed 1 of 1 clients"), {CPU: 1.0, RATE: 1.0}],
            (BURST, OURS_BY_NOTIFY): [{CPU: 0.5, RATE: 150_000}],
        },
        [WEBSOCKETS, NODE, OURS_BY_NOTIFY, OURS_BY_JOURNAL],
        WEBSOCKETS,
    ).splitlines()
    assert lines[2:] == [
        "| burst to 1 client: CPU seconds per million deliveries | 8.00 | closed 1 of 1 clients | 0.50 (16×) |  |",
        "| burst to 1 client: deliveries/s | 60,000 |  | 150,000 (2.5×) |  |",
    ]


def test_rows_are_timed_and_their_readings_counted():
    with database() as opened:
        figures = measure(opened, rows=200, clients=3, times=1)
    assert len(figures) == 7
