"""The objects that handlers use: the parts of the running change feed, and the settings. Knows no request."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Protocol

from tornado.websocket import WebSocketHandler

from changefeed.counts.backfill import CountsBackfill
from changefeed.hub import Hub
from changefeed.journal.follower import Follower
from changefeed.journal.journal import Journal
from changefeed.journal.lookout import Lookout
from changefeed.journal.watching import Watching
from changefeed.postgres.listener import Listener
from changefeed.postgres.pool import Database
from changefeed.rows.readings import Readings
from changefeed.selection.catalog import Catalog
from changefeed.selection.subscription import Selection, Subscription
from handlers.access.admission import Admission
from handlers.access.authentication import Authenticator
from handlers.access.ended_sessions import EndedSessions
from handlers.delivery.change_counts import ChangeCounts
from handlers.delivery.client_counts import ClientCounts
from handlers.delivery.counted_time import CountedTime
from handlers.delivery.dashboards import Dashboards
from handlers.delivery.delivery_counts import DeliveryCounts
from handlers.delivery.live_clients import LiveClients
from handlers.delivery.outages import Outages
from handlers.delivery.outbox import Outbox
from handlers.delivery.raw_clients import RawClients
from handlers.delivery.readiness import Readiness
from process.shared_numbers import SharedNumbers
from process.siblings import Siblings
from settings.table import Settings


@dataclass(frozen=True)
class ProcessSlot:
    """The role of one process among those that share the port; the default is a server of one process.

    The first one does what is done once: it maintains the journal, prints the echo and makes the demo. One that
    `prepares` watches the tables of the settings before it is ready. One whose `others_are_ready` accepts no
    connection before it is ready too. Over `siblings` it sends messages to the others. `started_at` and
    `session_secret` are the same in all processes. `has_seen_schema`: one of them has seen the schema changefeed
    since the first was started.
    """

    number: int = 1
    of: int = 1
    prepares: bool = True
    others_are_ready: bool = False
    numbers: SharedNumbers = field(default_factory=SharedNumbers)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    session_secret: str = field(default_factory=lambda: secrets.token_hex(32))
    ended_sessions: EndedSessions = field(default_factory=EndedSessions)
    siblings: Siblings = field(default_factory=Siblings)
    has_seen_schema: bool = False

    @property
    def is_first(self) -> bool:
        return self.number == 1

    @cached_property
    def client_counts(self) -> ClientCounts:
        return ClientCounts(self.numbers)


class Connected(Protocol):
    """A client with a lasting connection, over any transport."""

    outbox: Outbox

    def leave(self, reason: str) -> None:
        """Closes the transport, with a reason that the client may read."""


@dataclass
class ServerContext:
    """Everything that belongs to one server. `database_name` is for display only."""

    settings: Settings
    hub: Hub
    listener: Listener
    journal: Journal
    follower: Follower
    watching: Watching
    request_pool: Database  # of requests, and of what serves them all
    follower_pool: Database  # of the follower and the canary
    rows_pool: Database  # of readings of rows
    readings: Readings
    catalog: Catalog
    lookout: Lookout
    admission: Admission
    backfill: CountsBackfill
    database_name: str
    slot: ProcessSlot
    delivery_counts: DeliveryCounts
    change_counts: ChangeCounts
    authenticator: Authenticator
    live_clients: LiveClients
    event_socket: type[WebSocketHandler]  # its class-level broadcast() reaches `live_clients`
    raw_clients: RawClients
    dashboards: Dashboards
    outages: Outages
    counted: CountedTime
    readiness: Readiness

    def close(self) -> None:
        """Closes what the server made when it started."""
        self.live_clients.close()
        self.dashboards.close()
        self.outages.close()
        self.request_pool.close()
        self.follower_pool.close()
        self.readings.close()
        self.rows_pool.close()

    @property
    def connected(self) -> Sequence[Connected]:
        return [*self.live_clients.connected, *self.raw_clients.connected, *self.dashboards.connected]

    def select(self, subscription: Subscription) -> Selection:
        """A selection of this database's changes by the subscription."""
        return self.catalog.select(subscription, self.journal.seal_for(subscription.within))
