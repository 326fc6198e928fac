"""The clients of /listen of one server: the payloads of each channel in, one write to each of its clients out.

A server makes it when it starts, and gives it up when it ends. Knows no transport.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from handlers.delivery.frames import text_frames
from handlers.delivery.outbox import Outbox


class RawClient(Protocol):
    """What the registry asks of a client."""

    outbox: Outbox

    def leave(self, reason: str) -> None:
        """Closes the transport, for a reason that the client may read."""

    def lose(self) -> None:
        """Closes the transport, since payloads may be missing; the client is discarded before this returns."""


class RawClients:
    """By channel."""

    def __init__(self) -> None:
        self._by_channel: dict[str, set[RawClient]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_channel.values()))

    @property
    def connected(self) -> Sequence[RawClient]:
        return [client for clients in self._by_channel.values() for client in clients]

    @property
    def channels(self) -> Sequence[str]:
        """Those that have a client."""
        return tuple(self._by_channel)

    def add(self, channel: str, client: RawClient) -> None:
        self._by_channel.setdefault(channel, set()).add(client)

    def discard(self, channel: str, client: RawClient) -> None:
        """Also one that was never added."""
        clients = self._by_channel.get(channel, set())
        clients.discard(client)
        if not clients:
            self._by_channel.pop(channel, None)

    def broadcast(self, payloads: Mapping[str, Sequence[str]]) -> int:
        """Sends each channel's payloads to its clients: framed once, one write a client.

        Returns how many deliveries that were, one being one payload to one client.
        """
        deliveries = 0
        for channel in payloads.keys() & self._by_channel.keys():
            buffer = text_frames(payloads[channel])
            clients = tuple(self._by_channel[channel])
            deliveries += len(payloads[channel]) * len(clients)
            for client in clients:
                client.outbox.send(buffer)
        return deliveries

    def tell_outage(self) -> int:
        """Payloads may be missing. A client of raw payloads can be told so by closing its socket only.

        Returns how many were closed.
        """
        clients = self.connected
        for client in clients:
            client.lose()
        return len(clients)
