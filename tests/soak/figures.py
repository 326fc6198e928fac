"""What is measured each minute, the table of it in Markdown, and what drifts. Knows no client."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from tests.postgres import execute

WARM_UP_MINUTES = 10  # or a quarter of a run, where that is less: memory fills, partitions begin to turn
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Figures:
    """As of the end of a minute; delays, faults and warnings are those since the one before."""

    minute: float
    resident_mb: float
    proportional_mb: float
    files: int
    threads: int
    clients: int
    backends: int
    backends_mb: float | None  # private memory; None where the system does not let us look
    journal_mb: float
    emptied: int  # partitions of the journal, by retention, since the start
    p50_ms: float
    p99_ms: float
    written: int
    received: int  # by all who must get everything, together
    behind: int  # changes, of the furthest behind of those that stay
    faults: int
    warnings: int
    machine_load: float


@dataclass(frozen=True)
class Column:
    head: str
    value: Callable[[Figures], float | None]
    form: str = ",.0f"
    drifts: str = ""  # its unit, where its drift is reported


COLUMNS = (
    Column("minute", lambda now: now.minute),
    Column("RSS, MB", lambda now: now.resident_mb, ".1f", "MB"),
    Column("PSS, MB", lambda now: now.proportional_mb, ".1f", "MB"),
    Column("descriptors", lambda now: now.files, drifts="descriptors"),
    Column("threads", lambda now: now.threads, drifts="threads"),
    Column("clients", lambda now: now.clients),
    Column("backends", lambda now: now.backends, drifts="backends"),
    Column("their memory, MB", lambda now: now.backends_mb, ".1f", "MB"),
    Column("journal, MB", lambda now: now.journal_mb, ".0f", "MB"),
    Column("partitions emptied", lambda now: now.emptied),
    Column("p50, ms", lambda now: now.p50_ms, ".1f", "ms"),
    Column("p99, ms", lambda now: now.p99_ms, ".0f", "ms"),
    Column("written", lambda now: now.written),
    Column("received", lambda now: now.received),
    Column("furthest behind", lambda now: now.behind),
    Column("faults", lambda now: now.faults),
    Column("warnings", lambda now: now.warnings),
    Column("load", lambda now: now.machine_load, ".1f"),
)


def row(now: Figures) -> str:
    return "| " + " | ".join(_shown(column, column.value(now)) for column in COLUMNS) + " |"


def head() -> str:
    return f"| {' | '.join(column.head for column in COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def table(measured: Sequence[Figures]) -> str:
    """Minute 5 and every tenth; of a short run every minute."""
    chosen = [now for now in measured if len(measured) <= 12 or round(now.minute) == 5 or round(now.minute) % 10 == 0]
    return "\n".join([head(), *map(row, chosen)])


def drift(measured: Sequence[Figures]) -> str:
    """The slope of a line through each figure after the warm-up, in an hour, beside its median."""
    warm = [now for now in measured if now.minute > min(WARM_UP_MINUTES, measured[-1].minute / 4)]
    if len(warm) < 2:
        return "too short to tell a drift"
    lines = ["| after the warm-up | median | drift in an hour |", "|---|---|---|"]
    for column in COLUMNS:
        known = [(now.minute, value) for now in warm if column.drifts and (value := column.value(now)) is not None]
        if len(known) >= 2:
            minutes, values = zip(*known, strict=True)
            slope = statistics.linear_regression(minutes, values).slope * 60
            lines.append(
                f"| {column.head} | {_shown(column, statistics.median(values))} | {slope:+.1f} {column.drifts} |"
            )
    return "\n".join(lines)


def _shown(column: Column, value: float | None) -> str:
    return "–" if value is None else format(value, column.form)


def milliseconds(delays: Sequence[float], share: float) -> float:
    ordered = sorted(delays)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000 if ordered else 0.0


def backends_of(conninfo: str) -> tuple[int, float | None]:
    """The server's connections to PostgreSQL, and the memory in MB that nobody shares with them."""
    pids = [
        pid
        for (pid,) in execute(
            conninfo, "SELECT pid FROM pg_stat_activity WHERE application_name = 'psqlisten2websocket'"
        )
    ]
    try:
        return len(pids), sum(psutil.Process(pid).memory_full_info().uss for pid in pids) / MEGABYTE
    except (psutil.AccessDenied, psutil.NoSuchProcess):  # of another account, or just gone
        return len(pids), None
