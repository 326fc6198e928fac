"""Sends clients a gap for each outage of the listener in which changes may be lost; keeps the last outages.

Asks the database whether there are plain triggers: what they send is stored nowhere.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import psycopg2

from changefeed.backoff import backoff
from changefeed.change.gap import Gap
from changefeed.hub import Hub
from changefeed.journal.follower import Follower
from changefeed.postgres.listener import Outage
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database, DatabaseUnavailable
from handlers.delivery.delivery_counts import DeliveryCounts
from handlers.delivery.raw_clients import RawClients

QUERIES = load_queries("server.sql")
OUTAGES_KEPT = 100
KNOWN_DEADLINE_SECONDS = 60.0  # after which the database is assumed to have no journal


class Outages:
    """`takes_plain` says whether the feed includes PLAIN_CHANNEL, whose notifications are stored nowhere."""

    def __init__(
        self,
        follower: Follower,
        hub: Hub,
        raw_clients: RawClients,
        delivery_counts: DeliveryCounts,
        *,
        takes_plain: bool,
        has_plain_triggers: Callable[[], Awaitable[bool]],
        tell_gap: Callable[[Gap], None],
    ) -> None:
        self.recent: deque[Outage] = deque(maxlen=OUTAGES_KEPT)  # the newest last
        self._follower = follower
        self._hub = hub
        self._raw_clients = raw_clients
        self._delivery_counts = delivery_counts
        self._takes_plain = takes_plain
        self._has_plain_triggers = has_plain_triggers
        self._tell_gap = tell_gap
        self._telling: set[asyncio.Future[None]] = set()  # keeps the tasks from being garbage-collected

    def tell(self, outage: Outage) -> None:
        """Called when an outage is over."""
        self.recent.append(outage)
        self._delivery_counts.count_cut_off(self._raw_clients.tell_outage())
        self._telling.add(task := asyncio.ensure_future(self._tell_loss(outage)))
        task.add_done_callback(self._telling.discard)

    def close(self) -> None:
        """Called when the server ends."""
        for task in tuple(self._telling):
            task.cancel()

    async def _tell_loss(self, outage: Outage) -> None:
        """Sends a gap if plain notifications may be missing. Changes of the journal are not: the server reads it from
        where it stopped."""
        await self._follower.until_known(KNOWN_DEADLINE_SECONDS)
        if self._follower.cache is None or await self._missed_plain():
            why = f"the server received no notifications: {outage.reason}"
            self._tell_gap(Gap(why, since=outage.since, until=outage.until))

    async def _missed_plain(self) -> bool:
        return self._takes_plain and (self._hub.has_plain_triggers or await self._has_plain_triggers())


async def has_plain_triggers(database: Database) -> bool:
    """Whether a trigger of the user's sends NOTIFYs.

    Retries until PostgreSQL answers; returns True if permission is denied.
    """
    delays = backoff()
    while True:
        try:
            [(has_plain,)] = await database.fetch(QUERIES["has plain triggers"])
            return bool(has_plain)
        except DatabaseUnavailable:
            await asyncio.sleep(next(delays))
        except psycopg2.Error:
            return True
