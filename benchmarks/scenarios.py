"""What is measured: a server in, figures out. Each measurement has a server, a crowd and an empty database of its own."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from benchmarks.crowd import CouldNot, Crowd
from benchmarks.database import Database
from benchmarks.publisher import GROUPS, NOTE_BYTES, Publisher
from benchmarks.servers import OURS_BY_JOURNAL, OURS_BY_NOTIFY, SERVERS, RunningServer, Server

MANY = 10_000
FIRST_BURST = 25
BURST_GROWTH = 4
# A stuck client gets this much before the kernel's own buffers are full: 1.4 MB/s.
STUCK_PER_SECOND = 200
STUCK_NOTE_BYTES = 7_000


@dataclass(frozen=True)
class Figure:
    """One row of the table. What is_compared stands beside how many times better it is than the same of a peer."""

    name: str
    show: Callable[[float], str]
    is_more_better: bool = False
    is_compared: bool = True


def _milliseconds(value: float) -> str:
    return f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"


CPU = Figure("CPU seconds per million deliveries", "{:.2f}".format)
RATE = Figure("deliveries/s", "{:,.0f}".format, is_more_better=True)
P50 = Figure("p50", _milliseconds)
P99 = Figure("p99", _milliseconds)
MEMORY = Figure("server's memory for each", lambda value: f"{value / 1e3:.1f} KB")
SECONDS = Figure("until all are back", "{:.1f} s".format)
P99_OF_OTHERS = Figure("p99 of the others", _milliseconds)
P99_WITHOUT = Figure("p99 without it", _milliseconds, is_compared=False)
PEAK = Figure("server's peak memory, beyond that without it", lambda value: f"{value / 1e6:.0f} MB", is_compared=False)
ONE_FILTER = Figure("CPU seconds per million deliveries, one filter", "{:.2f}".format)
MANY_FILTERS = Figure(f"the same, {GROUPS} filters", "{:.2f}".format)
Figures = dict[Figure, float]


@dataclass
class Ground:
    """Where all is measured. `seconds` is how long a burst takes at least; a paced run takes four times that."""

    database: Database
    seconds: float
    many: int = MANY
    busiest: list[tuple[float, str]] = field(default_factory=list)  # the crowd's share of its core, and in what


@dataclass(frozen=True)
class Scenario:
    name: str
    measure: Callable[[Ground, Server], Figures]
    servers: Sequence[Server] = SERVERS


@dataclass
class Trial:
    """A server that serves a crowd, which has got its first changes."""

    server: Server
    running: RunningServer
    crowd: Crowd
    publisher: Publisher

    def burst(self, changes: int, each: int | None = None) -> None:
        """Writes them, until every client has received them, or `each` of them."""
        self.publisher.burst(self.server.source, changes)
        self.crowd.receive(changes if each is None else each)
        self.publisher.done()


@contextmanager
def trial(ground: Ground, server: Server, paths: Sequence[str], *, stuck: int = 0) -> Iterator[Trial]:
    ground.database.empty()
    with (
        RunningServer(server, ground.database.environment) as running,
        Crowd(running.port, paths, stuck=stuck) as crowd,
        Publisher(ground.database.conninfo) as publisher,
    ):
        try:
            crowd.connect()
            yield Trial(server, running, crowd, publisher)
        except CouldNot as reason:
            print(not_measured(reason, running.said), file=sys.stderr)
            raise


def not_measured(reason: CouldNot, log: str) -> str:
    """What to print of one measurement that could not be made; the others go on."""
    return "\n".join(
        (
            f"    not measured: {reason}. The end of the server's log:",
            *(f"      {line}" for line in log.splitlines()[-3:]),
        )
    )


class Meter:
    """What happens in the block, in seconds: on the clock, of the server's CPU and of the crowd's."""

    def __init__(self, running: RunningServer) -> None:
        self._running = running

    def __enter__(self) -> Self:
        self._begun = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.server_cpu, self.crowd_cpu = (
            now - before for now, before in zip(self._now(), self._begun, strict=True)
        )

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), self._running.cpu_seconds, time.process_time()


def burst(ground: Ground, server: Server, paths: Sequence[str], audiences: int = 1) -> Figures:
    """Bursts, each larger than the one before, until one takes long enough to be measured.

    Each client gets every change, or, where there are more audiences, its share of them.
    """
    with trial(ground, server, paths) as run:
        each = FIRST_BURST
        while True:
            with Meter(run.running) as meter:
                run.burst(each * audiences, each)
            if meter.seconds >= ground.seconds:
                break
            each *= BURST_GROWTH
    deliveries = each * len(paths)
    ground.busiest.append((meter.crowd_cpu / meter.seconds, f"{server.name}, {len(paths):,} clients"))
    return {CPU: meter.server_cpu / deliveries * 1e6, RATE: deliveries / meter.seconds}


def paced(
    ground: Ground, server: Server, per_second: int, clients: int = 100, *, note_bytes: int = NOTE_BYTES, stuck: int = 0
) -> tuple[Figures, int]:
    """The delays from a change's statement to a client's socket, and the server's peak memory in bytes."""
    with trial(ground, server, ["/ws"] * clients, stuck=stuck) as run:
        run.burst(FIRST_BURST)
        peak = 0

        def watch_memory() -> None:
            nonlocal peak
            peak = max(peak, run.running.memory_bytes)

        changes = int(per_second * ground.seconds * 4)
        delays: list[int] = []
        run.crowd.delays_us = delays
        run.publisher.paced(server.source, changes, per_second, note_bytes)
        run.crowd.receive(changes, meanwhile=_at_most_each(0.1, watch_memory))
    percentiles = statistics.quantiles(delays, n=100, method="inclusive")
    return {P50: percentiles[49] / 1e3, P99: percentiles[98] / 1e3}, peak


def idle(ground: Ground, server: Server) -> Figures:
    with trial(ground, server, ["/ws"]) as run:
        run.burst(FIRST_BURST)
        before = run.running.memory_bytes
        with Crowd(run.running.port, ["/ws"] * ground.many) as crowd:
            crowd.connect()
            # That all of them hear it says that none is a connection only.
            run.publisher.burst(server.source, 1)
            crowd.receive(1)
            return {MEMORY: (run.running.memory_bytes - before) / ground.many}


def comeback(ground: Ground, server: Server) -> Figures:
    with trial(ground, server, ["/ws"] * ground.many) as run:
        run.burst(1)
        run.running.kill()
        run.crowd.until_ended()
        begun = time.perf_counter()
        run.running.start(until_serving=False)
        run.crowd.connect(at_once=ground.many)
        return {SECONDS: time.perf_counter() - begun}


def stuck_client(ground: Ground, server: Server) -> Figures:
    without, peak_without = paced(ground, server, STUCK_PER_SECOND, note_bytes=STUCK_NOTE_BYTES)
    beside, peak = paced(ground, server, STUCK_PER_SECOND, note_bytes=STUCK_NOTE_BYTES, stuck=1)
    return {P99_OF_OTHERS: beside[P99], P99_WITHOUT: without[P99], PEAK: max(0, peak - peak_without)}


def filters(ground: Ground, server: Server) -> Figures:
    """Each change is for one of the groups. So either way a client gets one change of a hundred."""
    with trial(ground, server, ["/ws"]) as run:
        _require_filters(run.running.port)
    one = burst(ground, server, ["/ws?table=orders&filter=group_id=eq.7"] * 1_000, GROUPS)
    many = burst(
        ground, server, [f"/ws?table=orders&filter=group_id=eq.{number % GROUPS}" for number in range(1_000)], GROUPS
    )
    return {ONE_FILTER: one[CPU], MANY_FILTERS: many[CPU]}


def _require_filters(port: int) -> None:
    """A server that understands filters refuses one that makes no sense."""
    try:
        with Crowd(port, ["/ws?table=orders&filter=group_id=nonsense.7"]) as probe:
            probe.connect(within_seconds=1)
    except CouldNot:
        return
    raise CouldNot("n/a")


def _at_most_each(seconds: float, call: Callable[[], None]) -> Callable[[], None]:
    due = 0.0

    def limited() -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + seconds
            call()

    return limited


def _burst_to(clients: int) -> Scenario:
    name = f"burst to {clients:,} client{'s' if clients > 1 else ''}"
    return Scenario(name, lambda ground, server: burst(ground, server, ["/ws"] * clients))


def _paced_at(per_second: int) -> Scenario:
    return Scenario(
        f"{per_second:,} changes/s to 100 clients", lambda ground, server: paced(ground, server, per_second)[0]
    )


_OURS = (OURS_BY_NOTIFY, OURS_BY_JOURNAL)
_ONE_SOURCE = tuple(server for server in SERVERS if server is not OURS_BY_JOURNAL)
SCENARIOS = {
    "burst-1": _burst_to(1),
    "burst-100": _burst_to(100),
    "burst-1000": _burst_to(1_000),
    "paced-100": _paced_at(100),
    "paced-1000": _paced_at(1_000),
    "stuck": Scenario("one stuck client among 100", stuck_client, _ONE_SOURCE),
    "filters": Scenario("1,000 clients on filters", filters, _OURS),
    "idle": Scenario(f"{MANY:,} idle clients", idle, _ONE_SOURCE),
    "comeback": Scenario(f"{MANY:,} clients after a kill -9", comeback, _ONE_SOURCE),
}
