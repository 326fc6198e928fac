"""`--processes N`: one process reads the journal for all; and whatever happens to it, every client gets all, once."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from changefeed.journal.exchange import WAITING_LIMIT_BYTES
from changefeed.journal.loss_reports import UNRECORDED
from changefeed.postgres.embedded import EmbeddedPostgres
from changefeed.postgres.named_queries import read_script
from tests import leftovers, postgres
from tests.process.test_processes import TABLES, Connection, from_each, pids, served

DEFINITION = (read_script("install.sql"), TABLES, "SELECT changefeed.watch('orders')")
READS, TAKEN_OVER = "changefeed_journal_reads_total", "changefeed_pages_taken_over_total"
AT_ONCE = 20


@pytest.fixture
def folder() -> Iterator[Path]:
    with leftovers.folder() as made:
        yield made


@pytest.fixture
def conninfo() -> str:
    made = postgres.new_database()
    for statement in DEFINITION:
        postgres.execute(made, statement)
    return made


class Client(threading.Thread):
    """Follows the feed, and comes back with its cursor whenever it is closed."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.ids: list[int] = []
        self.gaps: list[str] = []
        self._port = port
        self._news = threading.Condition()
        self._is_ended = False
        self._cursor = ""
        self._has_begun = threading.Event()
        self.start()
        self._has_begun.wait()  # so that it misses nothing from now on

    def run(self) -> None:
        while not self._is_ended:
            since = f"?since={self._cursor}" if self._cursor else ""
            with (
                contextlib.suppress(ConnectionClosed, OSError, InvalidHandshake, TimeoutError, EOFError),
                connect(
                    f"ws://127.0.0.1:{self._port}/ws{since}",
                    subprotocols=[Subprotocol("changefeed.v1")],
                    proxy=None,
                    max_queue=None,
                    max_size=None,
                    ping_interval=None,  # a process that is stopped answers none
                    close_timeout=0.1,
                ) as self._socket,
            ):
                for message in self._socket:
                    self._take(message)
                    self._has_begun.set()

    def _take(self, text: str | bytes) -> None:
        message = json.loads(text)
        with self._news:
            self._cursor = message.get("cursor") or self._cursor
            if message["type"] == "gap":
                self.gaps.append(message["why"])
            elif message["type"] == "changes":
                self.ids += [change["data"]["id"] for change in message["changes"]]
            self._news.notify_all()

    def until(self, change_id: int) -> "Client":
        with self._news:
            self._news.wait_for(lambda: change_id in self.ids)
        return self

    def until_gap(self) -> None:
        with self._news:
            self._news.wait_for(lambda: bool(self.gaps))

    def end(self) -> None:
        self._is_ended = True
        self._socket.close()


@contextlib.contextmanager
def clients_of_all(port: int) -> Iterator[tuple[list[Client], dict[int, int]]]:
    """Clients of each process, and how many each has."""
    clients: list[Client] = []
    try:
        while True:
            each = {
                number: status["process"]["clients"]["feed"]
                for number, status in from_each(port, "/api/status").items()
            }
            if all(each.values()):
                yield clients, each
                return
            clients.append(Client(port))
    finally:
        for client in clients:
            client.end()


class Writer:
    """Inserts rows into `orders`, each in a transaction of its own."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self.ids: list[int] = []

    def write(self, count: int = 1, note: str = "") -> int:
        """The id of the last row."""
        for _ in range(count):
            [(written,)] = postgres.execute(
                self._conninfo, "INSERT INTO orders (note) VALUES (%s) RETURNING id", (note,)
            )
            self.ids.append(written)
        return self.ids[-1]


def assert_all_get_all(clients: list[Client], writer: Writer) -> None:
    last = writer.write(10)
    for client in clients:
        assert client.until(last).ids == writer.ids
        assert client.gaps == []


def counted(port: int, name: str) -> dict[int, float]:
    """The metric, by process."""
    with Connection(port) as connection:
        families = text_string_to_metric_families(connection.get("/metrics"))
    found: dict[int, float] = {}
    for family in families:
        for sample in family.samples:
            if sample.name == name:
                number = int(sample.labels["process"])
                found[number] = found.get(number, 0) + sample.value
    return found


def test_one_process_reads_the_journal_for_all(folder: Path, conninfo: str):
    with served(folder, conninfo) as (_, port), clients_of_all(port) as (clients, _):
        writer = Writer(conninfo)
        while True:  # until the machine, and the processes' samples of their metrics, let one round be such
            reads, taken_over = counted(port, READS), counted(port, TAKEN_OVER)
            for _ in range(AT_ONCE):
                last = writer.write()
                for client in clients:
                    client.until(last)
            until_sampled(port, taken_over, AT_ONCE)
            more = {number: count - reads[number] for number, count in counted(port, READS).items()}
            if more[1] >= AT_ONCE and more[2] == more[3] == 0:
                break
        assert_all_get_all(clients, writer)


def until_sampled(port: int, before: dict[int, float], more: int) -> None:
    """Until the second and third process have read, or taken over, so much more. Each writes its metrics every second."""
    reads = counted(port, READS)
    while True:
        now, read = counted(port, TAKEN_OVER), counted(port, READS)
        if all(now[number] - before[number] + read[number] - reads[number] >= more for number in (2, 3)):
            return
        if any(read[number] > reads[number] for number in (2, 3)):
            return  # not such a round


def test_killing_the_reading_process_loses_nothing(folder: Path, conninfo: str):
    with served(folder, conninfo) as (server, port), clients_of_all(port) as (clients, _):
        writer = Writer(conninfo)
        for _ in range(2):
            victim = pids(port)[1]
            writer.write(10)
            os.kill(victim, signal.SIGKILL)
            writer.write(10)
            server.until_said("following the journal")
        assert_all_get_all(clients, writer)


def test_a_stopped_reader_delays_no_other_process(folder: Path, conninfo: str):
    with served(folder, conninfo) as (_, port), clients_of_all(port) as (clients, each):
        writer = Writer(conninfo)
        assert_all_get_all(clients, writer)
        reader = pids(port)[1]
        os.kill(reader, signal.SIGSTOP)
        try:
            last = writer.write(20)
            while sum(last in client.ids for client in clients) < len(clients) - each[1]:
                pass
            assert sum(last in client.ids for client in clients) == len(clients) - each[1]
        finally:
            os.kill(reader, signal.SIGCONT)
        assert_all_get_all(clients, writer)


def test_a_lagging_process_loses_nothing(folder: Path, conninfo: str):
    with served(folder, conninfo) as (_, port), clients_of_all(port) as (clients, each):
        writer = Writer(conninfo)
        assert_all_get_all(clients, writer)
        lagging = pids(port)[3]
        os.kill(lagging, signal.SIGSTOP)
        try:
            last = writer.write(2 * WAITING_LIMIT_BYTES // 1_000_000, note="x" * 1_000_000)
            while sum(last in client.ids for client in clients) < len(clients) - each[3]:
                pass
        finally:
            os.kill(lagging, signal.SIGCONT)
        assert_all_get_all(clients, writer)


def test_a_replaced_journal_is_a_gap_in_each_process(folder: Path, conninfo: str):
    with served(folder, conninfo) as (_, port), clients_of_all(port) as (clients, _):
        writer = Writer(conninfo)
        assert_all_get_all(clients, writer)
        for statement in (
            read_script("uninstall.sql"),
            read_script("install.sql"),
            "SELECT changefeed.watch('orders')",
        ):
            postgres.execute(conninfo, statement)
        for client in clients:
            client.until_gap()
        first = writer.write()
        last = writer.write(10)
        for client in clients:
            ids = client.until(last).ids
            assert ids[ids.index(first) :] == list(range(first, last + 1))


def test_a_loss_is_a_gap_in_each_process(folder: Path, conninfo: str):
    with served(folder, conninfo) as (_, port), clients_of_all(port) as (clients, _):
        writer = Writer(conninfo)
        assert_all_get_all(clients, writer)
        postgres.execute(
            conninfo, "SELECT nextval('changefeed.losses')"
        )  # as the trigger counts what it could not write
        for client in clients:
            client.until_gap()
        last = writer.write(10)
        for client in clients:
            assert client.until(last).ids == writer.ids
            assert set(client.gaps) == {UNRECORDED}


@pytest.fixture
def cluster() -> Iterator[EmbeddedPostgres]:
    """One that is restarted."""
    started = postgres.start()
    yield started
    postgres.discard(started)


def test_every_process_reports_lost_commits(folder: Path):
    cluster = postgres.start(synchronous_commit="off", autovacuum="off")
    try:
        for statement in DEFINITION:
            postgres.execute(cluster.conninfo, statement)
        wal_writer = postgres.pause_wal_writer(cluster)
        with served(folder, cluster.conninfo) as (_, port), clients_of_all(port) as (clients, _):
            writer = Writer(cluster.conninfo)
            assert_all_get_all(clients, writer)
            postgres.execute(cluster.conninfo, "SET synchronous_commit = on; CREATE TABLE flushed ()")
            assert_all_get_all(clients, writer)
            os.kill(wal_writer, signal.SIGKILL)  # which would heed nothing else
            cluster.stop("immediate")
            cluster.start()
            assert postgres.execute(cluster.conninfo, "SELECT count(*) FROM orders") < [(len(writer.ids),)]
            new = list(range(1001, 1031))
            for change_id in new:
                postgres.execute(cluster.conninfo, "INSERT INTO orders (id) VALUES (%s)", (change_id,))
            for client in clients:
                assert [change_id for change_id in client.until(new[-1]).ids if change_id in new] == new
                assert any("PostgreSQL has lost commits" in why for why in client.gaps)
    finally:
        postgres.discard(cluster)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_clients_get_all_once_when_postgresql_is_restarted(folder: Path, cluster: EmbeddedPostgres, mode: str):
    for statement in DEFINITION:
        postgres.execute(cluster.conninfo, statement)
    with served(folder, cluster.conninfo) as (_, port), clients_of_all(port) as (clients, _):
        writer = Writer(cluster.conninfo)
        for _ in range(2):
            writer.write(10)
            cluster.stop(mode)
            cluster.start()
        assert_all_get_all(clients, writer)
