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
from changefeed.turns import TURN_SECONDS, TurnSize
from handlers.delivery.audiences import Audience, Audiences, Routed
from handlers.delivery.dialects import PROTOCOL, Dialect, frames, gap_within, message_frame
from handlers.delivery.outbox import Outbox

# How long the feed waits, in a burst, for clients that have not read what they were sent. It waits this long if all of
# them are busy, since then the machine is, and next to nothing for one among many. A client that takes longer is not
# waited for again until it has read everything.
PATIENCE_SECONDS = 0.5
LEAST_PATIENCE_SECONDS = 0.01
# Finding out whom changes are for takes no more of a turn of the loop; the rest is for encoding them.
ROUTING_SECONDS = TURN_SECONDS / 2
# How many audiences are checked for missing columns in one turn of the loop.
TROUBLE_SLICE = 20
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

    `is_known` is Audiences'. `turn` says how many changes may be asked to be broadcast() at once.
    """

    def __init__(self, is_known: Callable[[str], bool] = lambda table: True, turn: TurnSize | None = None) -> None:
        self.audiences: Audiences[LiveClient] = Audiences(is_known)
        self._connected: set[LiveClient] = set()
        self._busy_since: dict[LiveClient, float] = {}  # the live ones whose outbox is not empty; in monotonic seconds
        self._newest_cursor: str | None = None
        self._turn = turn or TurnSize()
        self._routed: Routed[LiveClient] | None = None  # what is to be broadcast next
        self._telling_trouble: asyncio.Task[None] | None = None

    @property
    def connected(self) -> Collection[LiveClient]:
        return self._connected

    def add(self, client: LiveClient) -> None:
        self._connected.add(client)

    def discard(self, client: LiveClient) -> None:
        self._connected.discard(client)
        self.has_drained(client)

    def is_busy(self, client: LiveClient) -> None:
        """Called when the client does not read at once what it is sent."""
        self._busy_since.setdefault(client, time.monotonic())

    def has_drained(self, client: LiveClient) -> None:
        self._busy_since.pop(client, None)

    def close(self) -> None:
        """Called when the server ends."""
        if self._telling_trouble:
            self._telling_trouble.cancel()

    def fitting(self, changes: Sequence[Change]) -> int:
        """How many of the changes, from the first on, are to be broadcast next, so that others have their turn soon."""
        self._routed = self.audiences.route(changes[: self._turn.count], ROUTING_SECONDS)
        return len(self._routed.changes)

    def broadcast(self, changes: Sequence[Change], cursor: str | None) -> int:
        """Sends the changes to every live client that asked for them: one encoding per audience, one write per client.

        Returns how many deliveries that were, one being one change to one client.
        """
        routed, self._routed = self._routed, None
        if routed is None or routed.changes != changes:
            routed = self.audiences.route(changes)
        deliveries = 0
        for audience, picked in routed.picked:
            shown = audience.selection.cursor(cursor)
            buffer = frames(audience.dialect, picked, shown, is_bounded=audience.selection.subscription.is_bounded)
            audience.told = cursor
            deliveries += len(picked) * len(audience.clients)
            with self._turn.left_out.running():
                holding_back = [client for client in tuple(audience.clients) if not client.receive(buffer)]
            for client in holding_back:
                client.hold_back(picked, shown)
        self._newest_cursor = cursor or self._newest_cursor
        return deliveries

    def tell_gap(self, gap: Gap) -> None:
        """Sends the gap to each client that it may concern, in a dialect that has gaps."""
        for audience in self.audiences:
            if within := gap_within(audience.selection, gap):
                told = audience.dialect.gap(within)
                for client in tuple(audience.clients):
                    client.outbox.send(told)
        for client in self._connected:
            if client.is_catching_up and (within := gap_within(client.selection, gap)):
                client.outbox.send(client.dialect.gap(within))

    def forget_cursors(self) -> None:
        """Forgets the cursors so far: they belong to another journal, or to a past that is lost."""
        self._newest_cursor = None
        for client in self._connected:
            client.forget_held_back()

    def refresh_columns(self) -> None:
        """Called after the tables were read again. Clients whose columns are gone get an error once."""
        self.audiences.refresh_columns()
        for client in self._connected:
            client.selection.refresh_columns()
        if self._telling_trouble:
            self._telling_trouble.cancel()
        self._telling_trouble = asyncio.ensure_future(self._tell_trouble())

    def advance_cursors(self) -> None:
        """Sends a newer cursor to clients for whom no change matched for a while.

        Clients with limited rights get one each time, so that it does not reveal whether other changes happened.
        """
        newest = self._newest_cursor
        for audience in self.audiences:
            if newest and (audience.told != newest or audience.selection.subscription.is_bounded):
                audience.told = newest
                shown = audience.selection.cursor(newest)
                assert shown
                for client in tuple(audience.clients):
                    if not client.receive(audience.dialect.place(shown)):
                        client.hold_back((), shown)

    async def keep_advancing_cursors(self) -> None:
        while True:
            await asyncio.sleep(CURSOR_INTERVAL_SECONDS)
            self.advance_cursors()

    def backpressure(self) -> Coroutine[Any, Any, None] | None:
        """What to await before the next broadcast, so that clients that read can keep up; None if they do."""
        busy, connected = self._busy_since, self._connected
        patience = max(LEAST_PATIENCE_SECONDS, PATIENCE_SECONDS * len(busy) / max(1, len(connected)))
        due = time.monotonic() - patience
        waited_for = [client for client, since in busy.items() if since > due]
        return _until_drained(waited_for, patience) if waited_for else None

    async def drained(self) -> None:
        """Awaited between the pages of a big batch."""
        await (self.backpressure() or asyncio.sleep(0))

    async def _tell_trouble(self) -> None:
        for number, audience in enumerate(self.audiences):
            if number % TROUBLE_SLICE == 0:
                await asyncio.sleep(0)
            _tell_trouble_to(audience)


def _tell_trouble_to(audience: Audience[LiveClient]) -> None:
    client = next(iter(audience.clients), None)
    if client is None or audience.dialect is not PROTOCOL:
        return
    trouble = client.trouble()
    if trouble and trouble.code != audience.trouble:
        told = message_frame("error", code=trouble.code, message=str(trouble))
        for each in tuple(audience.clients):
            each.outbox.send(told)
    audience.trouble = trouble.code if trouble else ""


async def _until_drained(clients: Sequence[LiveClient], patience: float) -> None:
    waits = [asyncio.ensure_future(client.outbox.drained()) for client in clients]
    await asyncio.wait(waits, timeout=patience)
    for waiting in waits:
        waiting.cancel()
