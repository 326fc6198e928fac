"""The parts of a server that notifications and outages pass through, without a connection."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from changefeed.change.gap import Gap
from changefeed.counts.tally import Tally
from changefeed.hub import Hub
from changefeed.postgres.listener import Outage
from handlers.delivery.delivery_counts import DeliveryCounts
from handlers.delivery.notifications import Notifications
from handlers.delivery.outages import Outages
from handlers.delivery.raw_clients import RawClients
from process.shared_numbers import SharedNumbers

MOMENT = datetime(2026, 11, 28, tzinfo=UTC)
OUTAGE = Outage(MOMENT, MOMENT, "the connection broke")


class Raw:
    """A client of /listen that notes what it is sent."""

    def __init__(self, clients: RawClients, channel: str) -> None:
        self.sent: list[bytes] = []
        self.outbox: Any = SimpleNamespace(send=self.sent.append)
        self._clients, self._channel = clients, channel
        clients.add(channel, self)

    def leave(self, reason: str) -> None:
        raise AssertionError(reason)

    def lose(self) -> None:
        self._clients.discard(self._channel, self)


class Ground:
    """The parts of a server without a connection. `cache` is the follower's: None without a journal."""

    def __init__(self, *, takes_plain: bool = True, cache: object = None, has_plain_triggers: bool = False) -> None:
        self.numbers = SharedNumbers()
        self.delivery_counts = DeliveryCounts(self.numbers, clock=lambda: 0.0)
        self.published: list[str] = []
        self.hub = Hub(Tally(0.0), [lambda changes, cursor: self.published.extend(change.text for change in changes)])
        self.raw_clients = RawClients()
        self.woken = 0
        self.notifications = Notifications(
            self.hub, self._wake, self.raw_clients, self.delivery_counts, takes_plain=takes_plain
        )
        self.gaps: list[Gap] = []
        self.told = asyncio.Event()
        self.follower: Any = SimpleNamespace(cache=cache, until_known=self._until_known, trouble=None, read_until=50.0)
        self._has_plain_triggers = has_plain_triggers
        self.outages = Outages(
            self.follower,
            self.hub,
            self.raw_clients,
            self.delivery_counts,
            takes_plain=takes_plain,
            has_plain_triggers=self._look_for_triggers,
            tell_gap=self.gaps.append,
        )

    def _wake(self) -> None:
        self.woken += 1

    async def _until_known(self, deadline_seconds: float) -> bool:
        return True

    async def _look_for_triggers(self) -> bool:
        return self._has_plain_triggers

    def count(self, *key: str) -> float:
        return self.numbers.number(*key).value
