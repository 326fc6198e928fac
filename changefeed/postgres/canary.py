"""Proves that a connection receives notifications: sends one that must come back through PostgreSQL in time.

The pool sends it, which also proves that the server can query. If the pool fails, the connection notifies itself, so
that a failing pool does not look like a lost connection. Knows no connection: how to send is an argument.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg2
from psycopg2 import sql

from changefeed.backoff import backoff
from changefeed.postgres.pool import DatabaseUnavailable, one_line
from changefeed.postgres.raw_channels import ChannelRefused, Run

logger = logging.getLogger("changefeed.canary")

DEADLINE_SECONDS = 4.0
# As the query "notify" of sql/server.sql.
_NOTIFY = sql.SQL(
    "SELECT pg_catalog.set_config('synchronous_commit', 'off', true), "
    "pg_catalog.set_config('lock_timeout', '1s', true), pg_catalog.pg_notify({}, {})"
)


class CanaryLost(Exception):
    """The canary did not come back; the message says what that means."""


class Canary:
    """Sends canaries on a `channel` of its own. `send(channel, payload)` runs a NOTIFY through the pool."""

    def __init__(self, send: Callable[[str, str], Awaitable[Any]], deadline_seconds: float = DEADLINE_SECONDS) -> None:
        self.channel = f"changefeed_canary_{uuid.uuid4().hex}"
        self.send = send
        self.deadline_seconds = deadline_seconds
        self.came_back: asyncio.Future[None] | None = None  # done when the last canary is back
        self.round_trip_seconds: float | None = None  # of the last canary that came back
        self.error: str | None = None  # why the pool could not send it
        self._payload = ""
        self._arrived_at = 0.0  # when anything arrived, by the loop's clock
        self._notifying_itself: asyncio.Task[None] | None = None

    def note_arrival(self) -> None:
        """Called when anything arrives: after a long burst the canary may be late although the connection works."""
        self._arrived_at = asyncio.get_running_loop().time()

    def receive(self, payload: str) -> None:
        """Takes a payload that arrived on `channel`."""
        if self.came_back and not self.came_back.done() and payload == self._payload:
            self.came_back.set_result(None)

    def forget(self) -> None:
        """Called when the connection is gone."""
        if self._notifying_itself:
            self._notifying_itself.cancel()
            self._notifying_itself = None

    async def fly(self, run: Run, lost: "asyncio.Future[None]") -> bool:
        """Sends a canary. True once it is back; False if it is back but the pool could not send it (see `error`).

        run(statement) executes on the listening connection; `lost` ends with it. Raises CanaryLost,
        or the error of `lost`.
        """
        self._payload = uuid.uuid4().hex
        loop = asyncio.get_running_loop()
        self.came_back = came_back = loop.create_future()
        sending = asyncio.create_task(self._send_by_pool(run))
        begun_at = loop.time()
        try:
            while not came_back.done():
                left = max(begun_at, self._arrived_at) + self.deadline_seconds - loop.time()
                done, _ = await asyncio.wait(
                    {came_back, lost}, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED
                )
                if lost in done:
                    lost.result()
                elif not done and left <= 0:
                    raise CanaryLost(self._silence(was_sent=sending.done()))
            self.round_trip_seconds = loop.time() - begun_at
            left = begun_at + self.deadline_seconds - loop.time()
            await asyncio.wait({sending, lost}, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                lost.result()
            if not sending.done() and self.error:  # else it was sent, and only the answer is late
                return False
        finally:
            sending.cancel()
        self.error = None
        return True

    async def _send_by_pool(self, run: Run) -> None:
        """Tries until it is sent, or no longer awaited."""
        delays = backoff()
        while True:
            try:
                await self.send(self.channel, self._payload)
                return
            except (DatabaseUnavailable, psycopg2.Error) as error:
                self.error = f"the canary could not be sent: {one_line(error)}"
            if self._notifying_itself is None or self._notifying_itself.done():
                self._notifying_itself = asyncio.create_task(self._notify_itself(run))
            await asyncio.sleep(next(delays))

    async def _notify_itself(self, run: Run) -> None:
        try:
            await run(_NOTIFY.format(sql.Literal(self.channel), sql.Literal(self._payload)))
        except ChannelRefused:
            self.receive(self._payload)  # PostgreSQL answers; it only accepts no notification now
        except (psycopg2.Error, TimeoutError) as error:
            logger.debug("the listening connection could not notify itself: %s", one_line(error))  # the deadline tells

    def _silence(self, *, was_sent: bool) -> str:
        if not was_sent:
            return f"PostgreSQL has not answered for {self.deadline_seconds:g} s; the connection is presumed dead"
        return (
            "LISTEN was accepted, but a notification sent to this very connection did not arrive within "
            f"{self.deadline_seconds:g} s: the connection is half open, or a transaction pooler (PgBouncer with "
            "pool_mode=transaction, Supavisor on port 6543) is in between; point the database URL at PostgreSQL "
            "itself or at a session pool"
        )
