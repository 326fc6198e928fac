"""What the handlers look at, in one place: the running change feed and the settings. Knows no request."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Protocol

from tornado.websocket import WebSocketHandler

from changefeed.buckets import BucketMessage
from changefeed.catalog import Catalog
from changefeed.database import Database
from changefeed.follower import Follower
from changefeed.history import History
from changefeed.hub import Hub
from changefeed.journal import Journal
from changefeed.listener import Listener, ListenerState, Outage
from changefeed.lookout import Lookout
from changefeed.meters import Meters
from changefeed.settings import Settings
from changefeed.subscription import Selection, Subscription
from changefeed.times import iso
from changefeed.watching import Watching
from handlers.admission import Admission
from handlers.census import Census
from handlers.change_counts import ChangeCounts
from handlers.dashboards import Dashboards
from handlers.deliveries import Deliveries
from handlers.ended_sessions import EndedSessions
from handlers.gate import Gate
from handlers.live_clients import LiveClients
from handlers.outbox import Outbox
from handlers.raw_clients import RawClients

OUTAGE_LIMIT = 100


@dataclass(frozen=True)
class Share:
    """What one process of those that share the port is; the default is the only one. `started_at` and `session_secret`
    are the server's.

    The first one does what is done once: it tends the journal, prints the echo and makes the demo. One that `prepares`
    watches the tables of the settings before it is ready. One whose `others_are_ready` lets nobody in before it is too.
    """

    number: int = 1
    of: int = 1
    prepares: bool = True
    others_are_ready: bool = False
    meters: Meters = field(default_factory=Meters)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    session_secret: str = field(default_factory=lambda: secrets.token_hex(32))
    ended_sessions: EndedSessions = field(default_factory=EndedSessions)

    @property
    def is_first(self) -> bool:
        return self.number == 1

    @cached_property
    def census(self) -> Census:
        return Census(self.meters)


class Connected(Protocol):
    """Whoever is connected and stays, over whichever transport."""

    outbox: Outbox

    def leave(self, reason: str) -> None:
        """Closes the transport, for a reason that the client may read."""


@dataclass
class Feed:
    """One server's feed. `database_name` is for people; `outages` are the last times when nothing was heard."""

    settings: Settings
    hub: Hub
    listener: Listener
    journal: Journal
    follower: Follower
    watching: Watching
    database: Database
    following: Database
    catalog: Catalog
    lookout: Lookout
    admission: Admission
    history: History
    database_name: str
    share: Share
    deliveries: Deliveries
    change_counts: ChangeCounts
    gate: Gate
    live_clients: LiveClients
    event_socket: type[WebSocketHandler]  # the class-level broadcast of this one reaches `live_clients`
    raw_clients: RawClients
    dashboards: Dashboards
    outages: list[Outage] = field(default_factory=list)

    def close(self) -> None:
        """The server ends, and gives up what it made when it started."""
        self.live_clients.close()
        self.dashboards.close()
        self.database.close()
        self.following.close()

    @property
    def connected(self) -> Sequence[Connected]:
        return [*self.live_clients.connected, *self.raw_clients.connected, *self.dashboards.connected]

    def select(self, subscription: Subscription) -> Selection:
        """The subscription at work on the tables of this database."""
        return self.catalog.select(subscription, self.journal.seal_for(subscription.within))

    def remember(self, outage: Outage) -> None:
        self.outages = [*self.outages, outage][-OUTAGE_LIMIT:]

    def database_state(self, *, is_full: bool = True) -> dict[str, object]:
        """How the server stands with PostgreSQL, as the activity socket and its `hello` tell it.

        Where that is not for everybody, neither which database it is nor what it answers.
        """
        state, reason = self.listener.state, self.listener.reason
        if state is ListenerState.LISTENING and self.follower.trouble:
            state, reason = ListenerState.LOST, self.follower.trouble  # it hears, and delivers nothing
        return {
            "state": state.value,
            "name": self.database_name if is_full else "PostgreSQL",
            "since": iso(self.listener.since),
            "reason": reason if is_full else "",
        }

    @property
    def not_ready_reason(self) -> str | None:
        """Why what is committed now would not reach the clients; None where it would."""
        if not self.listener.is_ready:
            return f"the server does not hear PostgreSQL: {self.listener.not_ready_reason}"
        return self.follower.trouble

    @property
    def has_history(self) -> bool:
        """Whether what the journal held before is counted; without a journal, there is nothing to count."""
        return self.follower.is_known and (self.follower.memory is None or self.history.is_loaded)

    @property
    def counted_from(self) -> float:
        """Epoch seconds: from then on all is counted."""
        since = self.hub.tally.since.timestamp()
        return since if self.has_history else max(since, self.history.counting_since or 0.0)

    def whole(self, buckets: Sequence[BucketMessage]) -> Sequence[BucketMessage]:
        """Those that are not counted in part only, as long as what was before is still to be."""
        if self.has_history:
            return buckets
        return [bucket for bucket in buckets if bucket["at"] >= self.counted_from]

    def counted_span(self, now: float) -> tuple[float, float] | None:
        """From and to in epoch seconds, by the clock of what is counted: all that happened between is in the tally.

        None while it isn't known to when that is, or from when.
        """
        if not self.has_history:
            return None
        tally = self.hub.tally
        is_deaf = self.listener.state is not ListenerState.LISTENING
        deaf_until = max((to or now for _, to in self.deaf_spans(now, now)), default=0.0)
        known_from = max(tally.since.timestamp(), deaf_until)
        if self.follower.memory is None:
            return None if is_deaf else (known_from, now)
        # The journal's changes are counted by PostgreSQL's clock, those of plain triggers by ours.
        ahead_seconds = tally.database_ahead_seconds
        if ahead_seconds is None or (is_deaf and self.hub.has_plain_triggers):
            return None
        if self.hub.has_plain_triggers:
            ahead_seconds = min(ahead_seconds, 0.0)
        return known_from, self.follower.read_until + ahead_seconds

    def deaf_spans(self, now: float, window_seconds: float) -> list[list[float | None]]:
        """When nothing was heard that NOTIFY alone tells of, as [from, to] in epoch seconds; to is None for still.

        What the journal holds of such a time was counted later; a span is for what has no journal.
        """
        if self.follower.memory is not None and not self.hub.has_plain_triggers:
            return []
        spans: list[list[float | None]] = [
            [outage.since.timestamp(), outage.until.timestamp()]
            for outage in self.outages
            if outage.until.timestamp() > now - window_seconds
        ]
        if self.listener.state is ListenerState.LOST:
            spans.append([self.listener.since.timestamp(), None])
        return spans
