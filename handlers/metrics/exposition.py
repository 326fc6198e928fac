"""/metrics: the numbers of all processes, in Prometheus's text format. METRICS is the table of all metrics."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import cast

import psycopg2
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from changefeed import __version__
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import DatabaseUnavailable
from changefeed.printable import printable
from handlers.access import admission, refusals, requests
from handlers.access.authentication import Need
from handlers.delivery import change_counts, client_counts, delivery_counts
from handlers.http import server
from handlers.http.base import BaseHandler
from handlers.http.context import ServerContext
from handlers.metrics import gauges
from handlers.metrics.gauges import sample
from process.shared_numbers import NumberKey

QUERIES = load_queries("server.sql")
DATABASE_DEADLINE_SECONDS = 2.0  # a scraper waits for 10 s by default

Labels = tuple[str, ...]
Numbers = Mapping[NumberKey, float]


@dataclass(frozen=True)
class MetricSpec:
    """A metric. `join` combines the numbers of all processes; without it each has a label `process`."""

    name: str
    labels: Labels
    help: str
    join: Callable[[Iterable[float]], float] | None = sum

    @property
    def is_counter(self) -> bool:
        return self.name.endswith("_total")

    @property
    def is_histogram(self) -> bool:
        return self.name == LATENCY


LATENCY = delivery_counts.LATENCY_SUM.removesuffix("_sum")
METRICS = (
    MetricSpec(
        change_counts.NAME,
        ("table", "action"),
        "Rows changed since the server started; tables beyond 1,000 are counted as one.",
        max,
    ),
    MetricSpec(client_counts.NAME, ("kind",), "Clients connected: of the feed, dashboards, and of /listen (raw)."),
    MetricSpec(
        delivery_counts.DELIVERIES,
        ("kind",),
        "Changes, or raw payloads, handed to a client: counted once per client.",
    ),
    MetricSpec(
        LATENCY,
        (),
        "Time from a statement to the handover of its changes to the last socket; per broadcast, of its oldest change.",
    ),
    MetricSpec(gauges.SIGNING_IN, (), "Sockets that have not authenticated yet."),
    MetricSpec(gauges.OUTBOX_BYTES, (), "Bytes that wait for clients that do not read."),
    MetricSpec(
        gauges.UNREAD_BYTES, (), "Bytes of answers to requests that are being made, or that are not being read."
    ),
    MetricSpec(
        gauges.REQUESTS,
        ("state",),
        "Requests without an answer yet: they wait for their turn (waiting), or have it (answering).",
    ),
    MetricSpec(
        requests.REQUESTS_REFUSED,
        ("reason",),
        "Requests refused: too many without an answer (crowded), or not their turn in time (late).",
    ),
    MetricSpec(requests.REQUESTS_GIVEN_UP, (), "Requests whose client was gone before the answer."),
    MetricSpec(
        delivery_counts.CLIENTS_DROPPED,
        ("kind", "reason"),
        "Clients closed: they did not read (outbox_full), raw payloads may be missing (deaf), they sent more than they "
        "may (sent_too_much).",
    ),
    MetricSpec(
        admission.CLIENTS_REFUSED,
        ("reason",),
        "Clients refused: too many new ones per second (pace), or from one address (address_pace); too many at the "
        "same time in all, from one address or with one token; too many that had not authenticated (sign_in).",
    ),
    MetricSpec(
        refusals.TOKENS_REFUSED,
        ("reason",),
        "Requests and sockets refused because of their token: unknown (bad_token), expired (token_expired), without "
        "any right (no_rights), or with a filter that cannot be checked (unchecked_right).",
    ),
    MetricSpec(
        server.CLOSED,
        ("reason",),
        "Connections closed: no request in time (slow), too many without a request (crowded), too few open files "
        "(files), too many answers that were not read (unread).",
    ),
    MetricSpec(
        delivery_counts.CHANGES_DROPPED,
        ("reason",),
        "Changes not sent to a client because a newer one of the same row replaced them (conflated).",
    ),
    MetricSpec(
        change_counts.DROPPED,
        ("reason",),
        "Payloads of plain NOTIFY triggers that were sent to no client (not_json, or withheld by --payload).",
        max,
    ),
    MetricSpec(
        gauges.DELIVERING, ("process",), "1 while a commit would reach the clients, as /readyz reports it.", None
    ),
    MetricSpec(gauges.LISTENER_UP, ("process",), "1 while notifications arrive.", None),
    MetricSpec(
        gauges.BEHIND_SECONDS,
        ("process",),
        "How many seconds the server may be behind the commits.",
        None,
    ),
    MetricSpec(
        gauges.BEHIND_TRANSACTIONS,
        ("process",),
        "Transaction ids that PostgreSQL has given out since the newest change that was read.",
        None,
    ),
    MetricSpec(
        gauges.READS,
        ("cause", "process"),
        "Reads of the journal: after a notification (notify), while the lease holds (lease), after it for what began "
        "before (after_lease), every 2 s in any case (sweep), to catch up with the pages of another process (sibling).",
        None,
    ),
    MetricSpec(
        gauges.TAKEN_OVER,
        ("process",),
        "Pages of the journal taken over from another process of --processes, without a read.",
        None,
    ),
    MetricSpec(gauges.LEASE_HELD, ("process",), "1 while the lease holds, so that writers send no NOTIFY.", None),
    MetricSpec(gauges.NOTIFIES_SAVED, (), "Transactions read while the lease held, which needed no NOTIFY.", max),
    MetricSpec(
        gauges.ROWS_READINGS,
        ("ended",),
        "Readings of a table's rows, by how they ended: complete, left by all clients, or the code of the error.",
    ),
    MetricSpec(gauges.ROWS_READ, (), "Rows that these readings selected."),
    MetricSpec(gauges.ROWS_WAITING, (), "Readings that wait for their turn, see --rows-readings."),
    MetricSpec(gauges.RECONNECTS, ("process",), "Attempts to restore the LISTEN connection.", None),
    MetricSpec(
        gauges.CANARY_SECONDS,
        ("process",),
        "Round trip of the last notification that the server sent to itself.",
        None,
    ),
    MetricSpec("changefeed_journal_bytes", (), "The journal's size in the database."),
    MetricSpec("changefeed_journal_limit_bytes", (), "--retention-bytes."),
    MetricSpec("changefeed_journal_oldest_entry_age_seconds", (), "How far back a client can resume."),
    MetricSpec("changefeed_journal_retention_seconds", (), "--retention-hours."),
    MetricSpec(
        gauges.LOST_STATEMENTS, (), "Statements that could not be recorded or read since the server started.", max
    ),
    MetricSpec(
        "changefeed_incomplete_tables",
        (),
        "Watched tables with missing or disabled triggers, so that not all of their changes are recorded.",
    ),
    MetricSpec(
        "changefeed_notify_queue_usage_ratio", (), "How full PostgreSQL's queue of notifications is; at 1 NOTIFY fails."
    ),
    MetricSpec("changefeed_client_limit", (), "--client-limit, of all processes together."),
    MetricSpec("changefeed_processes", (), "--processes."),
    MetricSpec("changefeed_start_time_seconds", (), "When the server started, in epoch seconds."),
    MetricSpec("changefeed_build_info", ("version",), "1."),
)


class MetricsHandler(BaseHandler):
    """Any process answers for all of them. The counts are those of all tables."""

    needs = Need.ALL_RIGHTS

    async def get(self) -> None:
        sample(self.context)
        parts = self.context.slot.numbers.everywhere()
        shown = MetricsCollector([*parts, {**_settings(self.context), **await _database(self.context)}])
        encode, content_type = choose_encoder(self.request.headers.get("Accept", ""))
        self.set_header("Content-Type", content_type)
        self.set_header("Cache-Control", "no-store")
        await self.finish_large(encode(cast(Collector, shown)))


class MetricsCollector:
    """A collector for prometheus_client. `parts` are the numbers of each process, in order; the last are shared."""

    def __init__(self, parts: Sequence[Numbers]) -> None:
        self._numbers: dict[str, dict[Labels, dict[int, float]]] = {}  # by name, labels and process
        for number, part in enumerate(parts, 1):
            for (name, *labels), value in part.items():
                of_processes = self._numbers.setdefault(name, {}).setdefault(tuple(map(printable, labels)), {})
                of_processes[number] = of_processes.get(number, 0.0) + value  # of names that look the same then

    def collect(self) -> Iterator[Metric]:
        for metric in METRICS:
            if metric.is_histogram:
                yield self._histogram(metric)
                continue
            kind = CounterMetricFamily if metric.is_counter else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for labels, value in self._values(metric):
                family.add_metric(labels, value)
            yield family

    def _values(self, metric: MetricSpec) -> Iterator[tuple[Labels, float]]:
        for labels, of_processes in self._numbers.get(metric.name, {}).items():
            if metric.join:
                yield labels, metric.join(of_processes.values())
            else:
                yield from (((*labels, str(number)), value) for number, value in of_processes.items())

    def _histogram(self, metric: MetricSpec) -> HistogramMetricFamily:
        counts = self._numbers[delivery_counts.LATENCY_BUCKET]
        counted, buckets = 0.0, []
        for bound in delivery_counts.LATENCY_BOUNDS_SECONDS:
            counted += sum(counts[f"{bound:g}",].values())
            buckets.append(("+Inf" if bound == inf else f"{bound:g}", counted))
        total = sum(self._numbers[delivery_counts.LATENCY_SUM][()].values())
        return HistogramMetricFamily(metric.name, metric.help, buckets, total)


def _settings(context: ServerContext) -> dict[NumberKey, float]:
    settings, slot = context.settings, context.slot
    return {
        ("changefeed_journal_limit_bytes",): settings.retention_bytes,
        ("changefeed_journal_retention_seconds",): settings.retention_hours * 3600,
        ("changefeed_client_limit",): settings.client_limit * slot.of,
        ("changefeed_processes",): slot.of,
        ("changefeed_incomplete_tables",): context.lookout.incomplete,
        ("changefeed_start_time_seconds",): slot.started_at.timestamp(),
        ("changefeed_build_info", __version__): 1,
    }


async def _database(context: ServerContext) -> dict[NumberKey, float]:
    """The numbers that PostgreSQL knows; empty while it does not answer, which changefeed_listener_up shows."""
    fetch = context.request_pool.fetch
    try:
        async with asyncio.timeout(DATABASE_DEADLINE_SECONDS):
            [(queue_usage,)] = await fetch(QUERIES["queue usage"])
            known: dict[NumberKey, float] = {("changefeed_notify_queue_usage_ratio",): queue_usage}
            if context.journal.epoch is None:
                return known
            [(size, oldest_age_seconds, _)] = await fetch(QUERIES["journal figures"])
    except (DatabaseUnavailable, psycopg2.Error, TimeoutError):
        return {}
    known["changefeed_journal_bytes",] = size
    known["changefeed_journal_oldest_entry_age_seconds",] = oldest_age_seconds
    return known
