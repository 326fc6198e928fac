"""The proof that a connection hears: a notification to itself, which must come back through PostgreSQL in time.

The pool sends it, so that it also proves that the server can ask. Where the pool cannot, the connection notifies
itself: whether it is deaf is not for the pool's troubles to decide. Knows no connection: how to send is an argument.
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


class Deaf(Exception):
    """The canary stayed away; the message says what that means."""


class Canary:
    """On a `channel` of its own. `send` runs a NOTIFY through the pool: send(channel, payload)."""

    def __init__(self, send: Callable[[str, str], Awaitable[Any]], deadline_seconds: float = DEADLINE_SECONDS) -> None:
        self.channel = f"changefeed_canary_{uuid.uuid4().hex}"
        self.send = send
        self.deadline_seconds = deadline_seconds
        self.heard: asyncio.Future[None] | None = None  # done when the one that was sent last is back
        self.round_trip_seconds: float | None = None  # of the last one that was heard
        self.error: str | None = None  # why the pool could not send it
        self._payload = ""
        self._arrived_at = 0.0  # anything, by the loop's clock
        self._notifying_itself: asyncio.Task[None] | None = None

    def note_arrival(self) -> None:
        """Something arrived, if not the canary: behind a long burst it is late, and the connection not deaf."""
        self._arrived_at = asyncio.get_running_loop().time()

    def hear(self, payload: str) -> None:
        """What arrived on `channel`."""
        if self.heard and not self.heard.done() and payload == self._payload:
            self.heard.set_result(None)

    def forget(self) -> None:
        """The connection is gone."""
        if self._notifying_itself:
            self._notifying_itself.cancel()
            self._notifying_itself = None

    async def fly(self, run: Run, lost: "asyncio.Future[None]") -> bool:
        """True once it is back, False where it is and the pool could not send it, for the reason in `error`.

        run(statement) executes on the connection that listens, whose end is `lost`. Raises Deaf, or what `lost` holds.
        """
        self._payload = uuid.uuid4().hex
        loop = asyncio.get_running_loop()
        self.heard = heard = loop.create_future()
        sending = asyncio.create_task(self._send_by_pool(run))
        begun_at = loop.time()
        try:
            while not heard.done():
                left = max(begun_at, self._arrived_at) + self.deadline_seconds - loop.time()
                done, _ = await asyncio.wait({heard, lost}, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)
                if lost in done:
                    lost.result()
                elif not done and left <= 0:
                    raise Deaf(self._silence(was_sent=sending.done()))
            self.round_trip_seconds = loop.time() - begun_at
            left = begun_at + self.deadline_seconds - loop.time()
            await asyncio.wait({sending, lost}, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                lost.result()
            if not sending.done() and self.error:  # else it is sent, and only the answer is late
                return False
        finally:
            sending.cancel()
        self.error = None
        return True

    async def _send_by_pool(self, run: Run) -> None:
        """Tries until it is sent, or until nobody waits for it any more."""
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
            await run(sql.SQL("NOTIFY {}, {}").format(sql.Identifier(self.channel), sql.Literal(self._payload)))
        except ChannelRefused:
            self.hear(self._payload)  # PostgreSQL answers, and only takes no notification now
        except (psycopg2.Error, TimeoutError) as error:
            logger.debug("the listening connection could not notify itself: %s", one_line(error))  # the deadline tells

    def _silence(self, *, was_sent: bool) -> str:
        if not was_sent:
            return f"PostgreSQL has not answered for {self.deadline_seconds:g} s; the connection is taken for dead"
        return (
            "LISTEN was accepted, but a notification sent to this very connection did not arrive within "
            f"{self.deadline_seconds:g} s: the connection is half open, or a transaction pooler (PgBouncer with "
            "pool_mode=transaction, Supavisor on port 6543) stands in between; point the database URL at PostgreSQL "
            "itself or at a session pool"
        )
