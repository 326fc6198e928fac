"""/metrics counts no change twice, and every metric is documented."""

import json
import re
from collections.abc import Iterator
from typing import cast

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from tornado.testing import ExpectLog, gen_test

from changefeed.change.change import Change
from changefeed.counts.tally import OTHER_TABLES, TABLE_LIMIT, UNKNOWN_LIMIT, Tally
from changefeed.journal.loss_reports import UNRECORDED
from handlers.delivery.change_counts import NAME, ChangeCounts
from handlers.delivery.delivery_counts import DeliveryCounts
from handlers.metrics.exposition import METRICS, MetricsCollector, MetricSpec
from process.shared_numbers import SharedNumbers, shared_memory
from tests import ROOT
from tests.feed_case import ORDERS, FeedTestCase, message
from tests.raw_client import RawClient
from tests.slow_client_case import SlowClientCase

OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"changefeed_{name}", frozenset(labels.items())]


class MetricsTest(FeedTestCase):
    flags = ("--channels", "people", "--client-limit", "7")

    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()

    async def samples(self) -> Samples:
        answer = await self.http_client.fetch(self.get_url("/metrics"))
        return parse(answer.body.decode())

    @gen_test
    async def test_it_is_prometheus_text_and_every_metric_is_described(self):
        answer = await self.http_client.fetch(self.get_url("/metrics"))
        assert re.search(r"^text/plain; version=0\.0\.4", answer.headers["Content-Type"])
        assert answer.headers["Cache-Control"] == "no-store"
        described = re.findall(r"^# HELP (\w+) (.+)$", answer.body.decode(), re.MULTILINE)
        assert described == [(metric.name, metric.help) for metric in METRICS]
        names = {name for name, _ in parse(answer.body.decode())}
        assert names >= {m.name for m in METRICS if not m.is_histogram} - {NAME}

    @gen_test
    async def test_a_scraper_that_asks_for_openmetrics_gets_it(self):
        headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
        answer = await self.http_client.fetch(self.get_url("/metrics"), headers=headers)
        assert "application/openmetrics-text; version=1.0.0" in answer.headers["Content-Type"]
        assert answer.body.endswith(b"# EOF\n")

    @gen_test
    async def test_changes_clients_and_deliveries_are_counted(self):
        clients = [await self.connect("/ws"), await self.connect("/ws?table=orders&action=INSERT")]
        await self.connect("/ws/activity")
        self.write("INSERT INTO orders SELECT i FROM generate_series(1, 5) AS i")
        for client in clients:
            for _ in range(5):
                await client.read_message()
        self.write("UPDATE orders SET status = 'paid' WHERE id < 4")
        for _ in range(3):
            await clients[0].read_message()
        samples = await self.samples()
        assert value(samples, "changes_total", table="public.orders", action="INSERT") == 5
        assert value(samples, "changes_total", table="public.orders", action="UPDATE") == 3
        assert value(samples, "clients", kind="feed") == 2
        assert value(samples, "clients", kind="dashboards") == 1
        assert value(samples, "deliveries_total", kind="feed") == 13
        assert value(samples, "latency_seconds_count") == 2
        assert value(samples, "latency_seconds_bucket", le="+Inf") == 2
        assert value(samples, "latency_seconds_sum") > 0

    @gen_test
    async def test_a_latency_is_by_the_clock_of_postgresql(self):
        client = await self.connect()
        self.feed.hub.tally.set_database_ahead(500.0)  # ours is behind, so it took longer than ours says
        self.write("INSERT INTO orders VALUES (1)")
        await client.read_message()
        assert value(await self.samples(), "latency_seconds_sum") > 500

    @gen_test
    async def test_without_clients_there_is_no_delivery(self):
        client = await self.connect("/ws?table=orders&filter=status=eq.paid")
        self.write("INSERT INTO orders VALUES (1, 'new')")
        self.write("INSERT INTO orders VALUES (2, 'paid')")
        await client.read_message()
        samples = await self.samples()
        assert value(samples, "deliveries_total", kind="feed") == 1
        assert value(samples, "latency_seconds_count") == 1

    @gen_test
    async def test_catching_up_is_counted_without_latency(self):
        client = await self.connect(protocol=True)
        begin = (await message(client, "hello"))["cursor"]
        self.write("INSERT INTO orders SELECT i FROM generate_series(1, 4) AS i")
        await message(client, "changes")
        late = await self.connect(f"/ws?since={begin}")
        for _ in range(4):
            await late.read_message()
        samples = await self.samples()
        assert value(samples, "deliveries_total", kind="feed") == 8
        assert value(samples, "latency_seconds_count") == 1

    @gen_test
    async def test_raw_payloads_and_those_that_are_no_json_are_counted(self):
        raw, feed = await self.connect("/listen/people"), await self.connect()
        self.write("NOTIFY people, 'a'")
        await raw.read_message()
        self.write("NOTIFY events, 'no json'")
        with self.assertLogs("changefeed.hub", "WARNING"):
            self.write("NOTIFY events, '[1]'")
            await feed.read_message()
        samples = await self.samples()
        assert value(samples, "deliveries_total", kind="raw") == 1
        assert value(samples, "payloads_dropped_total", reason="not_json") == 1

    @gen_test
    async def test_the_journal_the_queue_and_the_listener_are_shown(self):
        self.write("INSERT INTO orders VALUES (1)")
        samples = await self.samples()
        [(size,)] = self.write("SELECT bytes FROM changefeed.journal_status()")
        assert value(samples, "journal_bytes") == size
        assert value(samples, "journal_oldest_entry_age_seconds") > 0
        assert value(samples, "journal_limit_bytes") == 1 << 30
        assert value(samples, "journal_retention_seconds") == 24 * 3600
        assert value(samples, "journal_lost_statements_total") == 0
        assert value(samples, "incomplete_tables") == 0
        assert value(samples, "notify_queue_usage_ratio") == 0
        assert value(samples, "listener_up", process="1") == 1
        assert value(samples, "listener_reconnects_total", process="1") == 0
        assert value(samples, "canary_round_trip_seconds", process="1") > 0
        assert value(samples, "client_limit") == 7

    @gen_test
    async def test_every_statement_that_could_not_be_recorded_is_counted(self):
        client = await self.connect("/ws", protocol=True)
        with ExpectLog("changefeed.follower", f"changes are missing: {UNRECORDED}"):
            self.write("SELECT setval('changefeed.losses', 3)")  # as after three of them, which one read finds
            await message(client, "gap")
        assert value(await self.samples(), "journal_lost_statements_total") == 3

    @gen_test
    async def test_while_the_database_refuses_the_rest_is_shown(self):
        self.write("ALTER FUNCTION changefeed.journal_status() RENAME TO something_else")
        samples = await self.samples()
        assert value(samples, "processes") == 1
        assert ("changefeed_journal_bytes", frozenset()) not in samples


class HistoryTest(FeedTestCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()
        self.write("INSERT INTO orders SELECT i FROM generate_series(1, 9) AS i")

    @gen_test
    async def test_what_the_journal_held_before_is_no_change_since_the_start(self):
        client = await self.connect()
        self.write("INSERT INTO orders VALUES (10)")
        await client.read_message()
        answer = await self.http_client.fetch(self.get_url("/metrics"))
        samples = parse(answer.body.decode())
        assert value(samples, "changes_total", table="public.orders", action="INSERT") == 1
        assert sum(self.feed.hub.tally.totals["public.orders"]) == 10


class SlowTest(SlowClientCase):
    flags = ("--outbox-limit-bytes", "65536")

    async def samples(self) -> Samples:
        answer = await self.http_client.fetch(self.get_url("/metrics"))
        return parse(answer.body.decode())

    @gen_test
    async def test_a_client_that_does_not_read_is_counted_and_then_dropped(self):
        stuck = RawClient(self.get_http_port())
        await stuck.connect("/ws")
        other = await self.connect(protocol=True)
        samples = await self.samples()
        assert value(samples, "clients_dropped_total", kind="feed", reason="outbox_full") == 0
        waiting = set()
        written = 0
        while not value(samples, "clients_dropped_total", kind="feed", reason="outbox_full"):
            written += 1
            self.write("INSERT INTO wide VALUES (%s, 0, repeat('x', 20000))", [written])
            await message(other, "changes")
            samples = await self.samples()
            waiting.add(value(samples, "outbox_bytes"))
        assert max(waiting) > 20000
        assert value(samples, "outbox_bytes") == 0
        async for _ in stuck.frames():
            pass

    @gen_test
    async def test_each_change_is_delivered_or_conflated_and_never_both(self):
        stuck, _, seen = await self.left_behind()
        got = skipped = 0
        async for _, payload in stuck.frames():
            told = json.loads(payload)
            got += len(told.get("changes", ()))
            skipped += told.get("skipped", 0)
            if got + skipped == seen:
                break
        samples = await self.samples()
        assert value(samples, "changes_dropped_total", reason="conflated") == skipped
        assert value(samples, "deliveries_total", kind="feed") == seen + got
        assert skipped > 0


# -- the numbers of several processes


@pytest.fixture
def memory() -> Iterator[int]:
    with shared_memory(2) as descriptor:
        yield descriptor


def shown(numbers: SharedNumbers) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in MetricsCollector(numbers.everywhere()).collect()
        for sample in metric.samples
    }


class Process:
    """What counts in one of two processes."""

    def __init__(self, number: int, memory: int) -> None:
        self.numbers = SharedNumbers(number, 2, memory)
        self.delivery_counts = DeliveryCounts(self.numbers, clock=lambda: 100.0)
        self.tally = Tally(0)
        self.counts = ChangeCounts(self.tally, self.numbers)

    def publish(self, count: int, table: str = "t") -> None:
        self.tally.count([Change("{}", table, "INSERT")] * count, now=100)
        self.counts.sample()

    def changes(self) -> float:
        return value(shown(self.numbers), "changes_total", table="t", action="INSERT")


def test_deliveries_and_latencies_add_up_over_processes(memory: int):
    one, two = Process(1, memory), Process(2, memory)
    one.delivery_counts.count_broadcast(5, at=99.996)
    one.delivery_counts.count_broadcast(1, at=0)  # when, is not known
    two.delivery_counts.count_broadcast(2, at=98)
    two.delivery_counts.count_raw(7)
    assert shown(one.numbers) == shown(two.numbers)
    samples = shown(one.numbers)
    assert value(samples, "deliveries_total", kind="feed") == 8
    assert value(samples, "deliveries_total", kind="raw") == 7
    counts = [value(samples, "latency_seconds_bucket", le=le) for le in ("0.0025", "0.005", "1", "2.5", "+Inf")]
    assert counts == [0, 1, 1, 2, 2]
    assert value(samples, "latency_seconds_sum") == pytest.approx(2.004)


def test_a_change_that_every_process_publishes_is_one(memory: int):
    one, two = Process(1, memory), Process(2, memory)
    one.publish(3)
    assert (one.changes(), two.changes()) == (3, 3)  # the other has not come so far yet
    two.publish(2)
    two.publish(2)
    assert (one.changes(), two.changes()) == (4, 4)


def test_a_restarted_process_continues_its_counts(memory: int):
    one, two = Process(1, memory), Process(2, memory)
    for process in (one, two):
        process.publish(3)
        process.delivery_counts.count_broadcast(2, at=0)
    one.numbers.clear(1)
    two.publish(1)
    one = Process(1, memory)
    one.tally.restore(json.loads(json.dumps(two.tally.dump())))
    one.counts.begin()
    one.publish(1)
    two.publish(1)
    assert (one.changes(), two.changes()) == (5, 5)
    assert value(shown(one.numbers), "deliveries_total", kind="feed") == 4


def test_counts_survive_a_restart_of_all_processes(memory: int):
    for _ in range(2):
        one, two = Process(1, memory), Process(2, memory)
        for process in (one, two):
            process.counts.sample()
            process.tally.load(60, 90, "t", "INSERT", 50, 90)  # from the journal
            process.counts.begin()
        for process in (one, two):
            process.publish(3)
    assert (one.changes(), two.changes()) == (6, 6)


def test_of_a_process_that_is_gone_only_what_it_counted_is_left(memory: int):
    one, two = Process(1, memory), Process(2, memory)
    two.numbers.number("changefeed_listener_up").set(1)
    two.numbers.number("changefeed_clients", "feed").add(4)
    two.delivery_counts.count_broadcast(2, at=99)
    one.numbers.clear(2)
    samples = shown(one.numbers)
    assert value(samples, "listener_up", process="2") == 0
    assert value(samples, "clients", kind="feed") == 0
    assert value(samples, "deliveries_total", kind="feed") == 2
    assert value(samples, "latency_seconds_count") == 1


def test_the_number_of_tables_has_a_bound_however_they_are_named(memory: int):
    one = Process(1, memory)
    names = [f"{number:0127}".replace("0", "\x01") for number in range(TABLE_LIMIT + 50)]
    for action in ("INSERT", "UPDATE", "DELETE", "TRUNCATE"):
        one.tally.count([Change("{}", name, action, at=99.0) for name in names], now=100)
        one.tally.count([Change("{}", f"?{name[1:]}", action) for name in [*names, "long" * 100]], now=100)
    one.counts.sample()
    counted = {key[1:]: count for key, count in one.numbers.everywhere()[0].items() if key[0] == NAME}
    assert len(counted) == 4 * (TABLE_LIMIT + UNKNOWN_LIMIT + 2)
    assert counted[OTHER_TABLES, "INSERT"] == 50
    assert sum(counted.values()) == 4 * (2 * TABLE_LIMIT + 101)


def test_no_table_s_name_commands_a_terminal_or_breaks_a_line(memory: int):
    one, other = Process(1, memory), Process(2, memory)
    one.publish(2, "\x1b[2J\r\n\x9b\u202eseid\u2028\u2066\x07")
    one.publish(3, r"\x1b[2J")
    one.publish(4, "\x1b[2J")
    other.publish(6, "\x1b[2J")
    text = generate_latest(cast(Collector, MetricsCollector(one.numbers.everywhere()))).decode()
    assert text.replace("\n", "").isprintable()
    counted = {key: number for key, number in shown(one.numbers).items() if key[0].endswith("_changes_total")}
    assert sorted(counted.values()) == [2, 7]  # those that look the same are one; the processes count the same changes


# -- the documents


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_and_its_labels_are_documented(metric: MetricSpec):
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    assert f"| `{metric.name}` | {labels} |".replace("|  |", "| |") in OPERATIONS


def test_the_documents_name_no_other_metric():
    names = set(re.findall(r"^\| `(changefeed_\w+)`", OPERATIONS, re.MULTILINE))
    assert names == {metric.name for metric in METRICS}
