"""PostgreSQL's clock compared with ours, for ever: a database in, how far its clock is ahead out. Knows no change.

A change says by PostgreSQL's clock when it was made. Where that runs on another machine the two differ, and a delay
reckoned from both would be wrong without a sign of it. The quickest answer of a few counts: what it says lies within
half of its own round trip (as NTP does it).
"""

import asyncio
import time
from collections.abc import Callable

import psycopg2

from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database, DatabaseUnavailable

QUERIES = load_queries("server.sql")
QUESTIONS = 4
INTERVAL_SECONDS = 60.0
PAUSE_AFTER_ERROR_SECONDS = 2.0


class DatabaseClock:
    """Tells on_ahead(seconds) what it found."""

    def __init__(self, database: Database, on_ahead: Callable[[float], None]) -> None:
        self._database = database
        self._on_ahead = on_ahead

    async def run(self) -> None:
        """Compares until cancelled."""
        while True:
            try:
                await self.compare()
            except (DatabaseUnavailable, psycopg2.Error):  # that it is away, others say
                await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)
            else:
                await asyncio.sleep(INTERVAL_SECONDS)

    async def compare(self) -> None:
        answers = [await self._ask() for _ in range(QUESTIONS)]
        _, ahead_seconds = min(answers)
        self._on_ahead(ahead_seconds)

    async def _ask(self) -> tuple[float, float]:
        """How long it took, and how far PostgreSQL's clock is ahead of ours, in seconds."""
        before = time.time()
        [(at,)] = await self._database.fetch(QUERIES["clock"])
        after = time.time()
        return after - before, at - (before + after) / 2
