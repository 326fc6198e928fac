"""PostgreSQL, the server, writers, followers and visitors, and light faults; figures each minute."""

import asyncio
import contextlib
import json
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
from psycopg2.extensions import make_dsn

from benchmarks.servers import ROOT, RunningServer, Server
from changefeed.postgres.named_queries import read_script
from tests import postgres
from tests.oracle.faults import TERMINATE
from tests.oracle.transports import get
from tests.soak.figures import MEGABYTE, Figures, backends_of, head, milliseconds, row
from tests.soak.followers import FOLLOWERS, NEVER_LEAVES, at_work
from tests.soak.load import DEFINITION, Load
from tests.soak.visitors import Visitors

POSTGRES_OPTIONS = {"synchronous_commit": "off", "max_wal_size": "1GB"}
FLAGS = ("--watch", "public.load", "--watch", "public.quiet", "--channels", "soak_*", "--outbox-limit-bytes", "262144")
PATIENCE_SECONDS = 60.0  # without a change received, after the last write
_MISTAKES = re.compile(r"Traceback|never retrieved|never awaited| ERROR | CRITICAL ")


@dataclass(frozen=True)
class Plan:
    minutes: float = 60.0
    changes_per_second: float = 500.0
    visitors: int = 24
    retention_bytes: int = 64 << 20  # reached within minutes, so that the journal's partitions turn
    seconds_between_faults: float = 90.0
    seconds_between_figures: float = 60.0


class Soak:
    """One run. `figures` is filled as it goes on; run() raises AssertionError where a change was lost or doubled."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.figures: list[Figures] = []
        self.warnings: Counter[str] = Counter()
        self.faults = 0
        self.written: list[int] = []
        self._told_faults = self._told_warnings = self._read_log_bytes = self._emptied = 0
        self._draw = random.Random("faults")

    async def run(self) -> None:
        cluster = await asyncio.to_thread(lambda: postgres.start(**POSTGRES_OPTIONS))
        try:
            self._conninfo = str(make_dsn(cluster.conninfo, dbname="postgres"))
            postgres.execute(self._conninfo, read_script("install.sql"))
            postgres.execute(self._conninfo, DEFINITION)
            postgres.execute(self._conninfo, "CREATE TABLE quiet (id int)")
            load = Load(self._conninfo, self.plan.changes_per_second)
            with self._server() as self._running:
                self.visitors = Visitors(self._running.port, self.plan.visitors)
                await self._loaded(load)
        finally:
            await asyncio.to_thread(postgres.discard, cluster)

    @contextlib.contextmanager
    def _server(self) -> Iterator[RunningServer]:
        flags = (*FLAGS, "--retention-bytes", str(self.plan.retention_bytes), "--port")
        command = (sys.executable, str(ROOT / "server.py"), *flags)
        with RunningServer(Server("soak", command), {"DATABASE_URL": self._conninfo}) as running:
            yield running

    async def _loaded(self, load: Load) -> None:
        _, answer = await get(self._running.port, "/api/changes")
        cursor = json.loads(answer)["cursor"]
        self.followers = [kind(kind.__name__, [self._running], cursor) for kind in FOLLOWERS]
        async with at_work(self.visitors, *self.followers):
            with load:
                await self._watch(load)
                self.written = await asyncio.to_thread(load.stop)
                await self._until_all_is_received(self.written)
        self._look_at_log()

    async def _watch(self, load: Load) -> None:
        """Until the time is over; with faults in between."""
        print(head(), file=sys.stderr, flush=True)
        begun = now = time.monotonic()
        next_figures, next_fault = begun + self.plan.seconds_between_figures, self._next_fault(begun)
        while now < begun + self.plan.minutes * 60:
            await asyncio.sleep(min(next_figures, next_fault) - now)
            now = time.monotonic()
            load.check()
            if now >= next_fault:
                await self._fault()
                next_fault = self._next_fault(now)
            if now >= next_figures:
                next_figures += self.plan.seconds_between_figures
                self.figures.append(await self._measure((now - begun) / 60, load.written))
                print(row(self.figures[-1]), file=sys.stderr, flush=True)
                behind = (
                    f"{one.name} {one.behind(load.written)} behind in {one.connections}" for one in self.followers
                )
                print(f"    {', '.join(behind)}", file=sys.stderr, flush=True)

    def _next_fault(self, now: float) -> float:
        return now + self._draw.uniform(0.5, 1.5) * self.plan.seconds_between_faults

    async def _fault(self) -> None:
        """The server's connection that listens, those of its pool, or all of them."""
        which = self._draw.choice(([True], [False], [True, False]))
        await asyncio.to_thread(postgres.execute, self._conninfo, TERMINATE, (which,))
        self.faults += 1

    async def _measure(self, minute: float, written: list[int]) -> Figures:
        self._look_at_log()
        server = psutil.Process(self._running.pid)
        memory = server.memory_full_info()
        _, answer = await get(self._running.port, "/api/status")
        status = json.loads(answer)
        delays = [delay for follower in self.followers for delay in follower.delays]
        for follower in self.followers:
            follower.delays.clear()
        backends, backends_mb = await asyncio.to_thread(backends_of, self._conninfo)
        faults, self._told_faults = self.faults - self._told_faults, self.faults
        warnings, self._told_warnings = self.warnings.total() - self._told_warnings, self.warnings.total()
        return Figures(
            minute=minute,
            resident_mb=memory.rss / MEGABYTE,
            proportional_mb=memory.pss / MEGABYTE,
            files=server.num_fds(),
            threads=server.num_threads(),
            clients=sum(status["clients"].values()),
            backends=backends,
            backends_mb=backends_mb,
            journal_mb=status["journal"]["bytes"] / MEGABYTE,
            emptied=self._emptied,
            p50_ms=milliseconds(delays, 0.5),
            p99_ms=milliseconds(delays, 0.99),
            written=sum(written),
            received=sum(follower.taken for follower in self.followers),
            behind=max(follower.behind(written) for follower in self.followers if follower.stays == NEVER_LEAVES),
            faults=faults,
            warnings=warnings,
            machine_load=os.getloadavg()[0],
        )

    def _look_at_log(self) -> None:
        text = self._running.said
        new, self._read_log_bytes = text[self._read_log_bytes :], len(text)
        if mistake := _MISTAKES.search(new):
            raise AssertionError(
                f"the server's log says:\n{new[max(0, mistake.start() - 500) : mistake.start() + 3000]}"
            )
        self._emptied += new.count("retention emptied partition")
        self.warnings.update(line.partition(" WARNING ")[2] for line in new.splitlines() if " WARNING " in line)

    async def _until_all_is_received(self, written: list[int]) -> None:
        """Who takes some now and then gets there; how fast is the machine's affair."""
        taken, moved_at = -1, 0.0
        while late := [follower for follower in self.followers if not follower.has_all(written)]:
            if taken < (taken := sum(follower.taken for follower in late)):
                moved_at = time.monotonic()
            if time.monotonic() > moved_at + PATIENCE_SECONDS:
                told = ", ".join(f"{one.name} ({one.behind(written):,} missing)" for one in late)
                raise AssertionError(f"nothing was received for {PATIENCE_SECONDS:g} s after the last write: {told}")
            await asyncio.sleep(0.05)

    def summary(self) -> str:
        connections = ", ".join(f"{one.name} {one.taken:,} in {one.connections}" for one in self.followers)
        gone = ", ".join(f"{count} {name}" for name, count in self.visitors.gone.most_common())
        warned = "".join(f"\n  {count:5} {text}" for text, count in self.warnings.most_common())
        return (
            f"{sum(self.written):,} changes written; received, each once: {connections}.\nVisitors that came and went: "
            f"{gone}.\n{self.faults} faults. Warnings in the server's log:{warned or ' none.'}"
        )
