"""The clients of /listen of one server: passes each channel's payloads to its clients. Knows no transport.

A server makes the registry when it starts and closes it when it ends.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from changefeed.turns import Stopwatch
from handlers.delivery.frames import text_frames
from handlers.delivery.outbox import Outbox


class RawClient(Protocol):
    """What the registry needs of a client."""

    outbox: Outbox

    def leave(self, reason: str) -> None:
        """Closes the transport, with a reason that the client may read."""

    def lose(self) -> None:
        """Closes the transport, since payloads may be missing. Discards the client before it returns."""


class RawClients:
    """Groups the clients by channel."""

    def __init__(self, writing: Stopwatch | None = None) -> None:
        self._writing = writing or Stopwatch()
        self._by_channel: dict[str, set[RawClient]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_channel.values()))

    @property
    def connected(self) -> Sequence[RawClient]:
        return [client for clients in self._by_channel.values() for client in clients]

    @property
    def channels(self) -> Sequence[str]:
        """The channels that have a client."""
        return tuple(self._by_channel)

    def add(self, channel: str, client: RawClient) -> None:
        self._by_channel.setdefault(channel, set()).add(client)

    def discard(self, channel: str, client: RawClient) -> None:
        """Removes the client; does nothing if it was never added."""
        clients = self._by_channel.get(channel, set())
        clients.discard(client)
        if not clients:
            self._by_channel.pop(channel, None)

    def broadcast(self, payloads: Mapping[str, Sequence[str]]) -> int:
        """Sends each channel's payloads to its clients: framed once, one write per client.

        Returns how many deliveries that were, one being one payload to one client.
        """
        deliveries = 0
        for channel in payloads.keys() & self._by_channel.keys():
            buffer = text_frames(payloads[channel])
            clients = tuple(self._by_channel[channel])
            deliveries += len(payloads[channel]) * len(clients)
            with self._writing.running():
                for client in clients:
                    client.outbox.send(buffer)
        return deliveries

    def tell_outage(self) -> int:
        """Closes all clients after an outage: there is no other way to tell them that payloads may be missing.

        Returns how many were closed.
        """
        clients = self.connected
        for client in clients:
            client.lose()
        return len(clients)
