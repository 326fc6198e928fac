"""Receives notifications over a connection that it restores for ever. Knows no change, client or table.

One psycopg2 connection only LISTENs; the IOLoop watches its descriptor. Being connected and receiving are two facts: a
half-open connection and a transaction pooler both accept LISTEN and deliver nothing. So the listener proves that it
receives by a canary, a notification to itself that travels through PostgreSQL and has a deadline. It is LISTENING only
after the first canary, and reconnects whenever one does not come back.
"""

import asyncio
import enum
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import Notify, connection
from tornado.ioloop import IOLoop

from changefeed.backoff import backoff
from changefeed.postgres.canary import Canary, CanaryLost
from changefeed.postgres.connection import CannotConnect, give_up, open_connection, wait_until_done
from changefeed.postgres.pool import one_line
from changefeed.postgres.raw_channels import ChannelRefused, RawChannels
from changefeed.turns import TurnSize

logger = logging.getLogger("changefeed.listener")

CONNECT_DEADLINE_SECONDS = 5.0
# A lost connection is noticed after at most one interval and one deadline of the canary: 8 s.
CANARY_INTERVAL_SECONDS = 4.0
# How many notifications one turn of the loop passes on at most, so that a burst does not keep the sockets waiting.
DRAIN_LIMIT = 1_000


class ListenerState(enum.StrEnum):
    CONNECTING = "connecting"  # no canary has come back yet
    LISTENING = "listening"  # the last canary came back
    LOST = "lost"  # an earlier one did, but not the last


@dataclass(frozen=True)
class Outage:
    """A time span in which notifications may have been missed, and the reason."""

    since: datetime
    until: datetime
    reason: str


class ListenerLost(Exception):
    """The connection is gone, or does not answer; the message says how that was noticed."""


class Listener:
    """Listens to `channels` until it is cancelled.

    Callbacks: on_payloads(payloads_by_channel) with what arrived in one turn of the loop, in PostgreSQL's order within
    each channel; on_listening() each time it starts to listen; on_state() after each change of `state` or `reason`;
    on_reached() when PostgreSQL answers again after a lost or failed connection; on_outage(outage) when it listens
    again after an outage.
    `send(channel, payload)` runs a NOTIFY through the pool. `raw_channels` are further channels that clients follow.
    backpressure() returns what to await before reading on, None if all clients keep up; PostgreSQL holds the rest.
    `turn` says how many notifications one turn of the loop passes on.
    """

    def __init__(
        self,
        conninfo: str,
        channels: Sequence[str],
        *,
        send: Callable[[str, str], Awaitable[Any]],
        on_payloads: Callable[[dict[str, list[str]]], None],
        on_listening: Callable[[], None] = lambda: None,
        on_state: Callable[[], None] = lambda: None,
        on_reached: Callable[[], None] = lambda: None,
        on_outage: Callable[[Outage], None] = lambda outage: None,
        backpressure: Callable[[], Coroutine[Any, Any, None] | None] = lambda: None,
        turn: TurnSize | None = None,
    ) -> None:
        self.state = ListenerState.CONNECTING
        self.since = datetime.now(UTC)
        self.reason: str | None = None
        self.is_hopeless = False  # whether retrying cannot help against `reason`
        self.reconnects = 0
        self._lost_reason = ""
        self._conninfo = conninfo
        self._channels = tuple(channels)
        self.raw_channels = RawChannels(channels)
        self.canary = Canary(send)
        self._executing = asyncio.Lock()
        self._answering: asyncio.Future[None] | None = None  # of the statement that runs on the listening connection
        self._on_payloads = on_payloads
        self._on_listening = on_listening
        self._on_state = on_state
        self._on_reached = on_reached
        self._on_outage = on_outage
        self._backpressure = backpressure
        self._turn = turn or TurnSize()
        self._resting: asyncio.Task[None] | None = None
        self._told_canary_error: str | None = None
        self._received_at = 0.0  # monotonic
        self._received_time = self.since

    @property
    def is_ready(self) -> bool:
        """Whether a notification now would be received: it is listening, and the last canary is fresh."""
        fresh = time.monotonic() - self._received_at <= CANARY_INTERVAL_SECONDS + self.canary.deadline_seconds
        return self.state is ListenerState.LISTENING and fresh

    @property
    def not_ready_reason(self) -> str:
        return self.reason or self.canary.error or "the first LISTEN is in progress"

    async def run(self) -> None:
        """Listens and reconnects until cancelled."""
        delays = backoff()
        while True:
            try:
                await self._connect_and_listen()
            except (psycopg2.Error, ListenerLost, CanaryLost) as error:
                if self.state is ListenerState.LISTENING:
                    delays = backoff()
                self.is_hopeless = isinstance(error, CannotConnect) and error.is_hopeless
                self._lost(one_line(error))
            await asyncio.sleep(next(delays))

    async def _connect_and_listen(self) -> None:
        listening = await open_connection(self._conninfo, CONNECT_DEADLINE_SECONDS)
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            await self._listen(listening)
            if self.reconnects:
                self._on_reached()  # before the first canary, which the pool sends
            # A duplicate, since libpq closes its own descriptor within poll() when the connection fails. uvloop would
            # then lose events of whatever gets the same number next.
            self._descriptor = os.dup(listening.fileno())
            try:
                self._watch(listening, lost)
                await self._prove_receiving(listening, lost)
            finally:
                if self._resting:
                    self._resting.cancel()
                IOLoop.current().remove_handler(self._descriptor)
                os.close(self._descriptor)
        finally:
            give_up(listening)

    async def _listen(self, listening: connection) -> None:
        statement = sql.SQL("; ").join(
            sql.SQL("LISTEN {}").format(sql.Identifier(channel)) for channel in (*self._channels, self.canary.channel)
        )
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_SECONDS):
                with listening.cursor() as db_cursor:
                    db_cursor.execute(statement)
                    await wait_until_done(listening)
        except TimeoutError:
            raise ListenerLost(f"LISTEN was not answered within {CONNECT_DEADLINE_SECONDS:g} s") from None

    def _watch(self, listening: connection, lost: "asyncio.Future[None]") -> None:
        IOLoop.current().add_handler(self._descriptor, lambda *_: self._drain(listening, lost), IOLoop.READ)
        self._drain(listening, lost)  # data that is already in libpq's memory does not make the descriptor readable

    async def _watch_after(
        self, rest: Coroutine[Any, Any, None], listening: connection, lost: "asyncio.Future[None]"
    ) -> None:
        await rest
        self._resting = None
        if not lost.done():
            self._watch(listening, lost)

    def _drain(self, listening: connection, lost: "asyncio.Future[None]") -> None:
        """Takes what has arrived. Over TLS a poll() may return one of many, so it polls until nothing is left."""
        if lost.done() or self._resting:
            return
        notifications: list[Notify] = listening.notifies
        limit = min(DRAIN_LIMIT, self._turn.count)
        try:
            while len(notifications) < limit:
                before = (len(notifications), listening.isexecuting())
                self._poll(listening)
                # What came with a statement's answer stays in libpq's memory until the next poll.
                if (len(notifications), listening.isexecuting()) == before:
                    break
            else:
                # The rest is here, or in libpq's memory, which the descriptor does not show.
                IOLoop.current().add_callback(self._drain, listening, lost)
        except psycopg2.Error as error:
            lost.set_exception(ListenerLost(one_line(error)))
        arrived = notifications[:] if lost.done() else notifications[:limit]
        del notifications[: len(arrived)]
        if arrived:
            self._turn.begin()
            self._hand_on(arrived)
            self._turn.end(len(arrived))
        if arrived and not lost.done() and (rest := self._backpressure()):
            IOLoop.current().remove_handler(self._descriptor)
            self._resting = asyncio.create_task(self._watch_after(rest, listening, lost))

    def _poll(self, listening: connection) -> None:
        """Polls the connection, and takes the answer to the running statement, which may be an error."""
        try:
            listening.poll()
        except psycopg2.Error as error:
            if listening.closed or not error.pgcode or self._answering is None or self._answering.done():
                raise
            self._answering.set_exception(ChannelRefused(one_line(error)))
        if self._answering and not self._answering.done() and not listening.isexecuting():
            self._answering.set_result(None)

    def _hand_on(self, arrived: Iterable[Notify]) -> None:
        payloads: dict[str, list[str]] = {}
        for notification in arrived:
            payloads.setdefault(notification.channel, []).append(notification.payload)
        if payloads:
            self.canary.note_arrival()
        for payload in payloads.pop(self.canary.channel, ()):
            self.canary.receive(payload)
        if payloads:
            self._on_payloads(payloads)

    async def _prove_receiving(self, listening: connection, lost: "asyncio.Future[None]") -> None:
        """Sends canaries until one does not come back or the connection breaks. Raises ListenerLost or CanaryLost."""
        delays = backoff()
        keeping: asyncio.Task[None] | None = None
        self._executing = asyncio.Lock()
        try:
            while True:
                if await self.canary.fly(lambda statement: self._execute(listening, statement), lost):
                    self._note_received()
                    delays, pause_seconds = backoff(), CANARY_INTERVAL_SECONDS
                    keeping = keeping or asyncio.create_task(self._keep_raw_channels(listening, lost))
                else:
                    self._tell_canary_error()
                    pause_seconds = next(delays)
                await asyncio.wait({lost}, timeout=pause_seconds)
                if lost.done():
                    lost.result()
        finally:
            self.canary.forget()
            if keeping:
                keeping.cancel()

    async def _execute(self, listening: connection, statement: sql.Composable) -> None:
        """Executes a statement on the listening connection; _drain takes its answer."""
        async with self._executing:
            self._answering = asyncio.get_running_loop().create_future()
            db_cursor = listening.cursor()  # psycopg2 needs it to live as long as the statement
            db_cursor.execute(statement)
            async with asyncio.timeout(CONNECT_DEADLINE_SECONDS):
                await self._answering

    async def _keep_raw_channels(self, listening: connection, lost: "asyncio.Future[None]") -> None:
        try:
            await self.raw_channels.keep(lambda statement: self._execute(listening, statement))
        except (psycopg2.Error, TimeoutError) as error:
            if not lost.done():
                lost.set_exception(ListenerLost(f"LISTEN was not answered: {one_line(error)}"))

    def _tell_canary_error(self) -> None:
        if self._told_canary_error != self.canary.error:
            self._told_canary_error = self.canary.error
            logger.warning("%s", self.canary.error)

    def _note_received(self) -> None:
        previous, self._received_at, self._received_time = self._received_time, time.monotonic(), datetime.now(UTC)
        self._told_canary_error = None
        if self.state is ListenerState.LISTENING:
            return
        outage = Outage(previous, self._received_time, self._lost_reason) if self.state is ListenerState.LOST else None
        self._enter(ListenerState.LISTENING, None)
        logger.info("listening on %s", ", ".join(self._channels))
        if outage:
            self._on_outage(outage)

    def _lost(self, reason: str) -> None:
        if self.state is ListenerState.LISTENING:
            self._lost_reason = reason
            self._enter(ListenerState.LOST, reason)
            logger.warning("lost the LISTEN connection: %s; reconnecting until it is back", reason)
        elif self.reason != reason:
            # Logged once for each reason, not for each try.
            self._enter(self.state, reason)
            if self.state is ListenerState.LOST:
                logger.warning("still lost: %s", reason)
        self.reconnects += 1

    def _enter(self, state: ListenerState, reason: str | None) -> None:
        if state is not self.state:
            self.state, self.since = state, datetime.now(UTC)
            if state is ListenerState.LISTENING:
                self._on_listening()
        self.reason = reason
        self._on_state()
