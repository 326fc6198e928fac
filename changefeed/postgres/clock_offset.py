"""Measures regularly how far PostgreSQL's clock is ahead of ours. Knows no change.

Changes carry the time of PostgreSQL's clock. On another machine that differs from ours, and a delay computed from both
would be wrong unnoticed. The fastest of a few answers counts: its error is at most half of its round trip (as in NTP).
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
    """Calls on_ahead(seconds) with each result."""

    def __init__(self, database: Database, on_ahead: Callable[[float], None]) -> None:
        self._database = database
        self._on_ahead = on_ahead

    async def run(self) -> None:
        """Compares until cancelled."""
        while True:
            try:
                await self.compare()
            except (DatabaseUnavailable, psycopg2.Error):  # others report that it is unreachable
                await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)
            else:
                await asyncio.sleep(INTERVAL_SECONDS)

    async def compare(self) -> None:
        answers = [await self._ask() for _ in range(QUESTIONS)]
        _, ahead_seconds = min(answers)
        self._on_ahead(ahead_seconds)

    async def _ask(self) -> tuple[float, float]:
        """The round trip of one query, and how far PostgreSQL's clock is ahead of ours, in seconds."""
        before = time.time()
        [(at,)] = await self._database.fetch(QUERIES["clock"])
        after = time.time()
        return after - before, at - (before + after) / 2
