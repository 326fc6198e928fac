"""Lets writers skip their NOTIFY while servers read the journal every few milliseconds anyway. Knows no client.

A transaction that sent a NOTIFY holds, at its commit, one lock of the whole PostgreSQL instance until it is on disk, or
at a synchronous standby: all that notify commit one after another. So while changes come often, a server takes a lease:
it announces in a sequence, for a second each time, that it reads all the time. Then the triggers send no NOTIFY (see
sql/journal.sql).

All servers share the lease. Each that sees changes come often renews it when half of it is over; one that no longer
reads does not. A transaction that saw the lease may commit long after its end, so readers keep looking for a while, see
changefeed/journal/follower.py.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

import psycopg2

from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database, DatabaseUnavailable, one_line

logger = logging.getLogger("changefeed.lease")

QUERIES = load_queries("server.sql")
LEASE_MS = 1_000  # sql/record.sql takes one of more than 2,000 for none
RENEWED_MS = LEASE_MS // 2
# Changes come often with this many transactions in half a second: then reading every few milliseconds costs PostgreSQL
# hardly more than reading after each, and commits begin to wait for each other.
WINDOW_SECONDS = 0.5
OFTEN = 24
# Slow commits are fewer, the more so as they wait for each other; but then others are open whenever one arrives. So
# pairs of an arrived and an open transaction count as well, down to this few arrived ones. Half as many keep the lease.
FEWEST = 4
REFUSED_SECONDS = 60.0  # until the next try


class Lease:
    """One server's part in the lease. Call note() after each read, then keep()."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self.saved_notifies = 0  # transactions that were read while the lease held
        self._database = database
        self._clock = clock
        self._left_ms: int | None = None
        self._newest: deque[float] = deque(maxlen=OFTEN)  # when the newest transactions were read
        self._open = 0
        self._is_ours = False  # whether this server took or renewed it, and has not given it back
        self._refused_until = float("-inf")
        self._complaint = ""
        self._telling: asyncio.Task[None] | None = None

    @property
    def is_held(self) -> bool:
        """Whether the lease held at the last read, of this server or another."""
        return bool(self._left_ms)

    def note(self, transactions: int, open_transactions: int, left_ms: int | None) -> None:
        """Notes how many transactions a read found and were open, and the lease's rest; None without a lease."""
        if self._left_ms and left_ms:
            self.saved_notifies += transactions
        self._left_ms = left_ms
        self._open = open_transactions
        self._newest.extend([self._clock()] * min(transactions, OFTEN))

    async def keep(self) -> None:
        """Takes, renews or gives back the lease when it is time. Raises DatabaseUnavailable."""
        left_ms, now = self._left_ms, self._clock()
        if left_ms is None or now < self._refused_until:
            return
        often = max(FEWEST, OFTEN // (1 + self._open))
        if self._came(often // 2 if self._is_ours and left_ms else often):
            if left_ms < RENEWED_MS:
                self._is_ours = await self._set(LEASE_MS)
                if self._is_ours and not left_ms:
                    self._telling = asyncio.create_task(self._tell_others())
        elif self._is_ours:
            self._is_ours = False
            if left_ms:
                await self._set(0)

    def _came(self, count: int) -> bool:
        """Whether at least `count` transactions came within the window."""
        return len(self._newest) >= count and self._clock() - self._newest[-count] <= WINDOW_SECONDS

    async def _set(self, ms: int) -> bool:
        try:
            is_set = bool(await self._database.fetch(QUERIES["take lease"], {"ms": ms}))
        except psycopg2.Error as error:  # without the right to, or while nothing may be written
            is_set = False
            if self._complaint != (complaint := one_line(error)):
                self._complaint = complaint
                logger.info("each writer sends its NOTIFY, since the server may not take the lease: %s", complaint)
        if is_set:
            self._left_ms = ms
        else:
            self._refused_until = self._clock() + REFUSED_SECONDS
        return is_set

    async def _tell_others(self) -> None:
        """A task of its own, because it waits for the commits that sent a NOTIFY before the lease."""
        try:
            await self._database.fetch(QUERIES["announce lease"])
        except (DatabaseUnavailable, psycopg2.Error) as error:
            logger.debug("other servers do not know of the lease: %s", one_line(error))  # their sweep finds it
