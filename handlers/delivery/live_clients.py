"""The feed's clients of one server: passes changes, gaps and new columns to those they concern. Knows no transport.

A server makes the registry when it starts and closes it when it ends.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Protocol

from changefeed.change.change import Change
from changefeed.change.gap import Gap
from changefeed.selection.subscription import BadSubscription, Selection
from changefeed.turns import SharedTurns, Stopwatch, Work, WorkQueue
from handlers.delivery.audiences import Audience, Audiences
from handlers.delivery.dialects import V1, Dialect, frames, gap_within, message_frame
from handlers.delivery.outbox import Outbox

# How long the feed waits, in a burst, for clients that have not read what they were sent. It waits this long if all of
# them are busy, since then the machine is, and next to nothing for one among many. A client that takes longer is not
# waited for again until it has read everything.
BURST_PATIENCE_SECONDS = 0.5
LEAST_BURST_PATIENCE_SECONDS = 0.01
# How many clients are sent to before everything else may run.
SENDING_SLICE = 32
# How often a client gets a newer cursor while no change matches what it asked for.
CURSOR_INTERVAL_SECONDS = 15.0


class LiveClient(Protocol):
    """What the registry needs of a client; FeedClient implements it."""

    outbox: Outbox
    selection: Selection

    @property
    def dialect(self) -> Dialect: ...

    @property
    def is_catching_up(self) -> bool: ...

    def receive(self, buffer: bytes) -> bool:
        """Takes what is broadcast to the client's audience, encoded; False where it is to be held back."""

    def hold_back(self, changes: Sequence[Change], cursor: str | None) -> None:
        """Takes what is broadcast to the client's audience until its outbox is empty, to be sent conflated."""

    def forget_held_back(self) -> None:
        """Drops the changes that are held back for conflation."""

    def trouble(self) -> BadSubscription | None:
        """Why no change can match the subscription any more, if so."""

    def go_away(self, delay_ms: int) -> None:
        """Sends when to reconnect, and nothing after that."""

    def leave(self, reason: str) -> None:
        """Closes the transport, with a reason that the client may read."""


class LiveClients:
    """All clients that follow the feed. Those that have caught up are live, and get every broadcast.

    What all live clients are sent takes as many turns of the loop as it needs, in the order in which it was asked for.
    A client is sent what is asked for after it joined, and nothing else: changes that were published before are behind
    the place at which it starts. One that wants to leave for another subscription waits until settled().

    `is_known` is Audiences'. `work` may be shared; `sending` measures what grows with the number of clients only.
    """

    def __init__(
        self,
        is_known: Callable[[str], bool] = lambda table: True,
        work: WorkQueue | None = None,
        sending: Stopwatch | None = None,
    ) -> None:
        self._audiences: Audiences[LiveClient] = Audiences(is_known)
        self.catching_up = SharedTurns()  # in which the clients that are not live yet select what they get
        self._work = work or WorkQueue()
        self._sending = sending or Stopwatch()
        self._asked = 0  # how many times something was to be sent to all
        self._joined_after: dict[LiveClient, int] = {}  # of clients that joined while there was work, its `_asked`
        self._connected: set[LiveClient] = set()
        self._busy_since: dict[LiveClient, float] = {}  # the live ones whose outbox is not empty; in monotonic seconds
        self._newest_cursor: str | None = None
        self._troubles = WorkQueue()

    @property
    def connected(self) -> Collection[LiveClient]:
        return self._connected

    def add(self, client: LiveClient) -> None:
        self._connected.add(client)

    def discard(self, client: LiveClient) -> None:
        self._connected.discard(client)
        self.note_drained(client)

    def join(self, client: LiveClient) -> Audience[LiveClient]:
        """Makes the client live; returns its audience, for leave()."""
        if not self._work.is_empty:
            self._joined_after[client] = self._asked
        return self._audiences.join(client, client.dialect, client.selection)

    def leave(self, client: LiveClient, audience: Audience[LiveClient]) -> None:
        self._joined_after.pop(client, None)
        self._audiences.leave(client, audience)

    async def settled(self) -> None:
        """Returns once every live client was sent what had been published; the caller then goes on in the same turn."""
        await self._work.emptied()

    def note_busy(self, client: LiveClient) -> None:
        """Called when the client does not read at once what it is sent."""
        self._busy_since.setdefault(client, time.monotonic())

    def note_drained(self, client: LiveClient) -> None:
        self._busy_since.pop(client, None)

    def close(self) -> None:
        """Called when the server ends."""
        self._work.close()
        self._troubles.close()

    def broadcast(
        self, changes: Sequence[Change], cursor: str | None, on_sent: Callable[[int], None] = lambda deliveries: None
    ) -> None:
        """Sends the changes to every live client that asked for them: one encoding per audience, one write per client.

        Calls on_sent(deliveries) when the last has them; a delivery is one change to one client.
        """
        self._to_all(lambda asked: self._deliver(changes, cursor, asked, on_sent))

    def tell_gap(self, gap: Gap) -> None:
        """Sends the gap to each client that it may concern, in a dialect that has gaps."""
        for client in self._connected:
            if client.is_catching_up and (within := gap_within(client.selection, gap)):
                client.outbox.send(client.dialect.gap(within))
        self._to_all(lambda asked: self._deliver_gap(gap, asked))

    def forget_cursors(self) -> None:
        """Forgets the cursors so far: they belong to another journal, or to a past that is lost."""
        self._newest_cursor = None
        for client in self._connected:
            client.forget_held_back()

    def refresh_columns(self) -> None:
        """Called after the tables were read again. Clients whose columns are gone get an error once."""
        self._audiences.refresh_columns()
        for client in self._connected:
            client.selection.refresh_columns()
        self._troubles.close()
        self._troubles = WorkQueue()
        self._troubles.add(self._tell_trouble())

    def advance_cursors(self) -> None:
        """Sends a newer cursor to clients for whom no change matched for a while.

        Clients with limited rights get one each time, so that it does not reveal whether other changes happened.
        """
        self._to_all(self._advance_cursors)

    async def keep_advancing_cursors(self) -> None:
        while True:
            await asyncio.sleep(CURSOR_INTERVAL_SECONDS)
            self.advance_cursors()

    def backpressure(self) -> Coroutine[Any, Any, None] | None:
        """What to await before the next broadcast, so that clients that read can keep up; None if they do."""
        if not self._work.is_empty:
            return self._settled_and_drained()
        busy, connected = self._busy_since, self._connected
        patience = max(LEAST_BURST_PATIENCE_SECONDS, BURST_PATIENCE_SECONDS * len(busy) / max(1, len(connected)))
        due = time.monotonic() - patience
        waited_for = [client for client, since in busy.items() if since > due]
        return _until_drained(waited_for, patience) if waited_for else None

    async def drained(self) -> None:
        """Awaited between the pages of a big batch."""
        await (self.backpressure() or asyncio.sleep(0))

    async def _settled_and_drained(self) -> None:
        await self.settled()
        await asyncio.sleep(0)  # first lets those continue that must not wait for the next changes too
        if rest := self.backpressure():
            await rest

    def _to_all(self, work: Callable[[int], Work]) -> None:
        """Adds work, made with a number for _recipients(), which excludes clients that join later."""
        if self._work.is_empty:
            self._joined_after.clear()
        self._asked += 1
        self._work.add(work(self._asked))

    def _recipients(self, audience: Audience[LiveClient], asked: int) -> Sequence[LiveClient]:
        if not self._joined_after:
            return tuple(audience.clients)
        return [client for client in audience.clients if self._joined_after.get(client, -1) < asked]

    def _deliver(
        self, changes: Sequence[Change], cursor: str | None, asked: int, on_sent: Callable[[int], None]
    ) -> Work:
        deliveries = 0
        for share in self._audiences.route(changes, cursor):
            if share is None:
                yield
                continue
            audience, picked, after = share.audience, share.changes, share.cursor
            recipients = self._recipients(audience, asked)
            if recipients:
                shown = audience.selection.cursor(after)
                buffer = frames(
                    audience.dialect, picked, shown, is_restricted=audience.selection.subscription.is_restricted
                )
                audience.told = after
                deliveries += len(picked) * len(recipients)
                yield from self._send(audience, recipients, buffer, picked, shown)
        self._newest_cursor = cursor or self._newest_cursor
        on_sent(deliveries)

    def _send(
        self,
        audience: Audience[LiveClient],
        recipients: Sequence[LiveClient],
        buffer: bytes,
        changes: Sequence[Change],
        cursor: str | None,
    ) -> Work:
        """Sends the buffer, which has the changes and the cursor encoded."""
        for begin in range(0, len(recipients), SENDING_SLICE):
            with self._sending.running():
                holding_back = [
                    client
                    for client in recipients[begin : begin + SENDING_SLICE]
                    if client in audience.clients and not client.receive(buffer)  # else it has left meanwhile
                ]
            for client in holding_back:
                client.hold_back(changes, cursor)
            yield

    def _deliver_gap(self, gap: Gap, asked: int) -> Work:
        for audience in self._audiences:
            if within := gap_within(audience.selection, gap):
                told = audience.dialect.gap(within)
                for client in self._recipients(audience, asked):
                    if client in audience.clients:
                        client.outbox.send(told)
                    yield
            yield

    def _advance_cursors(self, asked: int) -> Work:
        newest = self._newest_cursor
        for audience in self._audiences if newest else ():
            if audience.told != newest or audience.selection.subscription.is_restricted:
                audience.told = newest
                shown = audience.selection.cursor(newest)
                assert shown
                recipients = self._recipients(audience, asked)
                yield from self._send(audience, recipients, audience.dialect.place(shown), (), shown)
            yield

    def _tell_trouble(self) -> Work:
        for audience in self._audiences:
            _tell_trouble_to(audience)
            yield


def _tell_trouble_to(audience: Audience[LiveClient]) -> None:
    client = next(iter(audience.clients), None)
    if client is None:
        return
    trouble = client.trouble()  # which also logs a right that cannot be checked
    if trouble and trouble.code != audience.trouble and audience.dialect is V1:
        told = message_frame("error", code=trouble.code, message=str(trouble))
        for each in tuple(audience.clients):
            each.outbox.send(told)
    audience.trouble = trouble.code if trouble else ""


async def _until_drained(clients: Sequence[LiveClient], patience: float) -> None:
    waits = [asyncio.ensure_future(client.outbox.drained()) for client in clients]
    await asyncio.wait(waits, timeout=patience)
    for waiting in waits:
        waiting.cancel()
