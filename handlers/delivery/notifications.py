"""Passes the payloads that the listener received to whatever follows their channel."""

from collections.abc import Callable, Mapping, Sequence

from changefeed.hub import PLAIN_CHANNEL, Hub
from handlers.delivery.delivery_counts import DeliveryCounts
from handlers.delivery.raw_clients import RawClients

JOURNAL_CHANNEL = "changefeed"


class Notifications:
    """`wake` is called when the journal has news; `takes_plain` says whether the feed includes PLAIN_CHANNEL."""

    def __init__(
        self,
        hub: Hub,
        wake: Callable[[], None],
        raw_clients: RawClients,
        delivery_counts: DeliveryCounts,
        *,
        takes_plain: bool,
    ) -> None:
        self.channels = (PLAIN_CHANNEL, JOURNAL_CHANNEL) if takes_plain else (JOURNAL_CHANNEL,)
        self._hub = hub
        self._wake = wake
        self._raw_clients = raw_clients
        self._delivery_counts = delivery_counts
        self._takes_plain = takes_plain

    def hand_on(self, payloads: Mapping[str, Sequence[str]]) -> None:
        # A client of /listen may follow PLAIN_CHANNEL even if the feed does not include it.
        if self._takes_plain and (plain := payloads.get(PLAIN_CHANNEL)):
            self._hub.receive(plain)
        if JOURNAL_CHANNEL in payloads:
            self._wake()
        self._delivery_counts.count_raw(self._raw_clients.broadcast(payloads))
