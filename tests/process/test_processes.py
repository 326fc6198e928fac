"""`--processes N`: they share a port, give the same figures, replace each other, and end together."""

import contextlib
import http.client
import json
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import ClientConnection, connect

from changefeed.postgres.embedded import EmbeddedPostgres
from changefeed.postgres.named_queries import SQL_DIR, read_script
from tests import leftovers, postgres
from tests.process.test_server import get
from tests.server_process import ServerProcess, free_port

COUNT = 3
TABLES = "CREATE TABLE orders (id bigserial PRIMARY KEY, note text); CREATE TABLE plain (id bigserial PRIMARY KEY)"


@pytest.fixture
def folder() -> Iterator[Path]:
    with leftovers.folder() as made:
        yield made


@pytest.fixture
def conninfo() -> str:
    """A recorded table, and one with the original's trigger."""
    made = postgres.new_database()
    for statement in (
        read_script("install.sql"),
        TABLES,
        "SELECT changefeed.watch('orders')",
        (SQL_DIR / "trigger_func.sql").read_text(),
        (SQL_DIR / "trigger.sql").read_text().replace("portal_eventrequests", "plain"),
    ):
        postgres.execute(made, statement)
    return made


@contextlib.contextmanager
def served(folder: Path, conninfo: str, *flags: str) -> Iterator[tuple[ServerProcess, int]]:
    given = ("--port", "0", "--processes", str(COUNT), *flags)
    with ServerProcess(folder, *given, DATABASE_URL=conninfo) as server:
        yield server, server.port()


def from_each(port: int, path: str) -> dict[int, Any]:
    """The answer of each process, by its number. A connection's process is the kernel's choice, so it asks again."""
    answers: dict[int, Any] = {}
    while len(answers) < COUNT:
        with Connection(port) as one:
            status = one.get("/api/status")
            if "process" in status:  # not while it is finding out that the journal is gone
                answers.setdefault(status["process"]["number"], one.get(path))
    return answers


class Connection:
    """Several requests to one process: on one connection, which stays open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: Any) -> None:
        self._connection.close()

    def get(self, path: str) -> Any:
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        return json.load(answer) if path.startswith("/api/") else answer.read().decode()


def pids(port: int) -> dict[int, int]:
    return {number: status["process"]["pid"] for number, status in from_each(port, "/api/status").items()}


def figures(port: int) -> list[Any]:
    """What the dashboard draws, of each process; without the delays, which are each process's own."""
    answers = from_each(port, "/api/activity?window=86400&step=60")
    seconds = from_each(port, "/api/activity")
    return [
        [answers[number][name] for name in ("since", "totals", "other")]
        + [
            {bucket["at"]: bucket["counts"] for bucket in answer["buckets"] if bucket["counts"]}
            for answer in (answers[number], seconds[number])
        ]
        for number in answers
    ]


def feed_of(port: int, path: str = "/ws") -> ClientConnection:
    return connect(f"ws://127.0.0.1:{port}{path}", proxy=None, max_queue=None)


def until_gone(pids: Iterable[int]) -> None:
    """What an init process that reaps nobody leaves of one that has ended is a zombie."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            while process.status() != psutil.STATUS_ZOMBIE:
                with contextlib.suppress(psutil.TimeoutExpired):
                    process.wait(0.1)
                    break


def test_a_change_reaches_every_processs_clients(folder: Path, conninfo: str):
    with served(folder, conninfo) as (server, port), contextlib.ExitStack() as stack:
        clients: list[ClientConnection] = []
        while not all(here["process"]["clients"]["feed"] for here in from_each(port, "/api/status").values()):
            clients.append(stack.enter_context(feed_of(port)))
        dashboard = stack.enter_context(feed_of(port, "/ws/activity"))
        assert json.loads(dashboard.recv())["type"] == "hello"
        postgres.execute(conninfo, "INSERT INTO orders (note) VALUES ('to all')")
        for client in clients:
            assert json.loads(client.recv())["data"]["note"] == "to all"
        for status in from_each(port, "/api/status").values():
            assert status["clients"] == {"feed": len(clients), "dashboards": 1, "raw": 0}
            assert status["process"]["of"] == COUNT
        assert len(set(pids(port).values())) == COUNT
        assert len({status["server"]["started_at"] for status in from_each(port, "/api/status").values()}) == 1
        assert server.stop()[0] == 0


def scraped(port: int) -> list[dict[str, float]]:
    """What each process answers of the numbers that do not depend on when it is asked."""
    names = ("changes_total", "deliveries_total", "clients", "latency_seconds_count", "listener_up")
    return [
        {
            sample.name + str(sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.removeprefix("changefeed_") in names
        }
        for text in from_each(port, "/metrics").values()
    ]


def test_metrics_are_those_of_all_processes(folder: Path, conninfo: str):
    postgres.execute(conninfo, "INSERT INTO orders (note) VALUES ('before')")
    with served(folder, conninfo) as (server, port), contextlib.ExitStack() as stack:
        clients: list[ClientConnection] = []
        while not all(here["process"]["clients"]["feed"] for here in from_each(port, "/api/status").values()):
            clients.append(stack.enter_context(feed_of(port)))
        for _ in range(4):
            postgres.execute(conninfo, "INSERT INTO orders (note) VALUES ('counted')")
            for client in clients:
                client.recv()
        inserted = "changefeed_changes_total['INSERT', 'public.orders']"
        while [numbers.get(inserted) for numbers in scraped(port)] != [4] * COUNT:
            pass  # the last of them is counted by all when it has reached all
        before = scraped(port)
        assert before == [before[0]] * COUNT
        assert before[0]["changefeed_deliveries_total['feed']"] == 4 * len(clients)
        assert before[0]["changefeed_latency_seconds_count[]"] == 4 * COUNT
        assert before[0]["changefeed_clients['feed']"] == len(clients)
        os.kill(pids(port)[1], signal.SIGKILL)
        server.until_said("restarting it")
        server.until_said("following the journal")
        postgres.execute(conninfo, "INSERT INTO orders (note) VALUES ('after')")
        after = scraped(port)
        while any(numbers[inserted] != 5 or min(up_of(numbers)) < 1 for numbers in after):
            after = scraped(port)
        assert after[0]["changefeed_deliveries_total['feed']"] > 4 * len(clients)


def up_of(numbers: dict[str, float]) -> list[float]:
    return [value for name, value in numbers.items() if name.startswith("changefeed_listener_up")]


def test_a_killed_process_is_replaced(folder: Path, conninfo: str):
    postgres.execute(conninfo, "INSERT INTO orders (note) SELECT 'before' FROM generate_series(1, 40)")
    with served(folder, conninfo) as (server, port):
        stop = threading.Event()
        writing = threading.Thread(target=write_until, args=(stop, conninfo))
        writing.start()
        try:
            for number in (2, 1):
                postgres.execute(conninfo, "INSERT INTO plain DEFAULT VALUES")
                victims = pids(port)
                os.kill(victims[number], signal.SIGKILL)
                server.until_said(rf"process {number} \(pid {victims[number]}\) ended by SIGKILL; restarting it")
                server.until_said("following the journal")
                others = pids(port)
                assert {**others, number: 0} == {**victims, number: 0}
                assert others[number] != victims[number]
        finally:
            stop.set()
            writing.join()
        [(rows,)] = postgres.execute(conninfo, "SELECT count(*) FROM orders")
        shown = figures(port)
        while any(figure[1]["public.orders"][0] < rows for figure in shown):  # until the last was published
            shown = figures(port)
        assert shown[0] == shown[1] == shown[2]
        assert shown[0][1] == {"public.orders": [rows, 0, 0, 0], "plain": [2, 0, 0, 0]}
        assert sum(counts.get("public.orders", [0])[0] for counts in shown[0][3].values()) == rows


def test_a_replaced_process_restores_no_removed_schema(folder: Path, conninfo: str):
    with served(folder, conninfo, "--watch", "public.orders") as (server, port):
        first = pids(port)[1]
        postgres.execute(conninfo, read_script("uninstall.sql"))
        server.until_said("the schema changefeed was removed")
        os.kill(first, signal.SIGKILL)
        server.until_said(rf"process 1 \(pid {first}\) ended by SIGKILL; restarting it")
        server.until_said("the schema changefeed was removed")
        assert postgres.execute(conninfo, "SELECT to_regnamespace('changefeed')") == [(None,)]
        while not all("was removed" in answer for answer in from_each(port, "/readyz").values()):
            pass  # each looks once a second
        postgres.execute(conninfo, read_script("install.sql"))
        server.until_said("watching public.orders")


def write_until(stop: threading.Event, conninfo: str) -> None:
    writer = postgres.connect(conninfo)
    with writer.cursor() as db_cursor:
        while not stop.is_set():
            db_cursor.execute("INSERT INTO orders (note) SELECT 'meanwhile' FROM generate_series(1, 5)")
    writer.close()


def test_a_killed_processs_clients_are_not_counted(folder: Path, conninfo: str):
    with served(folder, conninfo) as (server, port), contextlib.ExitStack() as stack:
        while not from_each(port, "/api/status")[2]["process"]["clients"]["feed"]:
            stack.enter_context(feed_of(port))
        before = from_each(port, "/api/status")
        os.kill(before[2]["process"]["pid"], signal.SIGKILL)
        server.until_said("following the journal")
        left = before[1]["clients"]["feed"] - before[2]["process"]["clients"]["feed"]
        for status in from_each(port, "/api/status").values():
            assert status["clients"]["feed"] == left


def test_when_the_parent_is_killed_all_end(folder: Path, conninfo: str):
    with served(folder, conninfo) as (server, port):
        running = pids(port)
        said = server.kill()  # returns when nobody holds its stderr any more
        assert said.count("the parent process is gone: stopping") == COUNT
        assert "Traceback" not in said
        until_gone(running.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_to_all_of_them_ends_all_with_0(number: signal.Signals, folder: Path, conninfo: str):
    with served(folder, conninfo) as (server, port):
        running = pids(port)
        code, said = server.end(number)
        assert (code, "Traceback" in said, "restarting it" in said) == (0, False, False)
        until_gone(running.values())


def test_the_demo_starts_and_ends_with_its_postgresql(folder: Path):
    flags = ("--port", "0", "--processes", "2", "--data-dir", str(folder / "data"), "--demo-rate", "200", "--echo")
    with ServerProcess(folder, *flags) as server:
        server.port()
        cursors = [json.loads(server.stdout.readline())["cursor"] for _ in range(200)]
        assert len(set(cursors)) == 200
        assert server.stop()[0] == 0
    assert not (EmbeddedPostgres(folder / "data")._cluster / "postmaster.pid").exists()


@pytest.mark.parametrize("first", ["1", "2"])
def test_a_port_in_use_is_refused_in_one_line(first: str, folder: Path, conninfo: str):
    port = str(free_port())
    with ServerProcess(folder, "--port", port, "--processes", first, DATABASE_URL=conninfo) as server:
        server.port()
        with ServerProcess(folder, "--port", port, "--processes", "2", DATABASE_URL=conninfo) as second:
            assert second.ended() == (
                2,
                "",
                f"server.py: 127.0.0.1:{port} is in use; stop what listens there, or choose another --port\n",
            )
        assert get(int(port), "/readyz")[0] == 200


@pytest.mark.parametrize(
    ("flags", "dbname", "why"),
    [
        (("--watch", "public.nothing"), "", "--watch public.nothing: the database has no such table"),
        ((), "nothing", "cannot use the database"),
    ],
)
def test_a_start_that_cannot_succeed_is_one_line(
    flags: tuple[str, ...], dbname: str, why: str, folder: Path, conninfo: str
):
    url = f"{conninfo} dbname={dbname}" if dbname else conninfo
    with ServerProcess(folder, "--port", "0", "--processes", "2", *flags, DATABASE_URL=url) as server:
        code, _, said = server.ended()
    lines = [line for line in said.splitlines() if " INFO " not in line]
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith(f"server.py: {why}")
