"""Writes a gentle, varied stream of changes to the tables of a box office, until cancelled. Knows no clients."""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable

import psycopg2

from changefeed.journal.watching import Watching
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database, DatabaseUnavailable, one_line

logger = logging.getLogger("changefeed.demo")

QUERIES = load_queries("demo.sql")
KEPT_ROWS = 500
PAUSE_AFTER_ERROR_SECONDS = 2.0

TABLES = ("portal_eventrequests", "portal_termine", "portal_tickets", "portal_sessions")

_PAGES = ("", "/programm", "/karten", "/karten/warenkorb", "/hilfe")
_SITES = ("stadtwerke", "opernhaus", "messe", "bibliothek", "volkshochschule", "museum", "zoo", "planetarium")


async def make_tables(database: Database, watching: Watching) -> None:
    """Creates, watches and fills the demo's tables, unless they exist."""
    await database.fetch(QUERIES["make demo tables"])
    for table in TABLES:
        await watching.watch(f"public.{table}", for_request=False)
    await database.fetch(QUERIES["fill demo tables"])


class Demo:
    """Writes `rate_per_second` changes a second on average, in lulls and bursts."""

    def __init__(self, database: Database, rate_per_second: float, dice: random.Random | None = None) -> None:
        self._database = database
        self._rate = rate_per_second
        self._dice = dice or random.Random()

    async def run(self) -> None:
        complaint = ""
        while self._rate > 0:
            try:
                await asyncio.sleep(self._dice.expovariate(self._rate * mood(time.time())))
                await self._one_write()
                complaint = ""
            except (DatabaseUnavailable, psycopg2.Error) as error:  # for example because its table was dropped
                if complaint != (complaint := one_line(error)):
                    logger.info("the demo cannot write: %s; trying again until it can", complaint)
                await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)

    async def _one_write(self) -> None:
        writes: list[tuple[Callable[[], Awaitable[object]], int]] = [
            (self._insert, 18),
            (self._update, 12),
            (self._delete, 5),
            (self._sell, 14),
            (self._pay, 13),
            (self._end_date, 2),
            (self._visit, 30),
            (self._end_sessions, 4),
        ]
        write = self._dice.choices([write for write, _ in writes], [weight for _, weight in writes])[0]
        await write()

    async def _insert(self) -> None:
        await self._database.fetch(
            QUERIES["insert demo request"],
            {
                "url": f"https://veranstaltungen.example.com/{self._dice.choice(_SITES)}/{self._dice.randrange(10_000)}",
                "termin_id": self._dice.randrange(20_000, 30_000),
                "user_hash_id": self._dice.randrange(1, 400),
                "ev_type": self._dice.choice((0, 0, 0, 1, 2)),
                "kept": KEPT_ROWS,
            },
        )

    async def _update(self) -> None:
        await self._database.fetch(
            QUERIES["update demo request"], {"ev_type": self._dice.randrange(6), "position": self._dice.random()}
        )

    async def _delete(self) -> None:
        await self._database.fetch(QUERIES["delete demo request"], {"position": self._dice.random()})

    async def _sell(self) -> None:
        # Squared, so that some dates are in more demand than others, and sell out now and then.
        position = 11 / 12 * self._dice.random() ** 2
        await self._database.fetch(
            QUERIES["sell demo ticket"], {"position": position, "user_hash_id": self._dice.randrange(1, 400)}
        )

    async def _pay(self) -> None:
        await self._database.fetch(QUERIES["pay demo ticket"])

    async def _end_date(self) -> None:
        await self._database.fetch(QUERIES["end demo date"])

    async def _visit(self) -> None:
        await self._database.fetch(
            QUERIES["visit demo page"],
            {"user_hash_id": self._dice.randrange(1, 60), "page": self._dice.choice(_PAGES)},
        )

    async def _end_sessions(self) -> None:
        await self._database.fetch(QUERIES["end demo sessions"])


def mood(at: float) -> float:
    """A factor around 1: it drifts between 0.2 and 1.8 within a minute or so, times 4 in short bursts."""
    drift = 1 + 0.5 * math.sin(at / 11) + 0.3 * math.sin(at / 3.7)
    burst = 4.0 if at % 47 < 2.5 else 1.0
    return drift * burst
