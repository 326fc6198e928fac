"""What the wiring is made of: calls in turn, notifications to who follows their channel, and what an outage costs."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.assembly import in_turn
from changefeed.change.gap import Gap
from changefeed.counts.tally import Tally
from changefeed.hub import PLAIN_CHANNEL, Hub
from changefeed.postgres.listener import ListenerState, Outage
from handlers.delivery.counted_time import CountedTime
from handlers.delivery.delivery_counts import CLIENTS_DROPPED, DELIVERIES, Deliveries
from handlers.delivery.notifications import JOURNAL_CHANNEL, Notifications
from handlers.delivery.outages import KEPT, Outages
from handlers.delivery.raw_clients import RawClients
from handlers.delivery.readiness import Readiness
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
    """The parts of a server without a connection. `memory` is the follower's: None without a journal."""

    def __init__(self, *, takes_plain: bool = True, memory: object = None, has_plain_triggers: bool = False) -> None:
        self.meters = SharedNumbers()
        self.deliveries = Deliveries(self.meters, clock=lambda: 0.0)
        self.published: list[str] = []
        self.hub = Hub(Tally(0.0), [lambda changes, cursor: self.published.extend(change.text for change in changes)])
        self.raw_clients = RawClients()
        self.woken = 0
        self.notifications = Notifications(
            self.hub, self._wake, self.raw_clients, self.deliveries, takes_plain=takes_plain
        )
        self.gaps: list[Gap] = []
        self.told = asyncio.Event()
        self.follower: Any = SimpleNamespace(
            memory=memory, until_known=self._until_known, trouble=None, read_until=50.0
        )
        self._has_plain_triggers = has_plain_triggers
        self.outages = Outages(
            self.follower,
            self.hub,
            self.raw_clients,
            self.deliveries,
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

    def count(self, *meter: str) -> float:
        return self.meters.meter(*meter).value


def test_calls_are_made_in_their_order_with_the_same_arguments():
    calls: list[tuple[str, int]] = []
    in_turn(lambda number: calls.append(("first", number)), lambda number: calls.append(("second", number)))(7)
    assert calls == [("first", 7), ("second", 7)]


def test_each_payload_goes_to_the_followers_of_its_channel():
    ground = Ground()
    raw = Raw(ground.raw_clients, "people")
    ground.notifications.hand_on({"people": ["x"], PLAIN_CHANNEL: ["[1]"], JOURNAL_CHANNEL: ["", ""]})
    assert (ground.published, ground.woken) == (["[1]"], 1)
    assert (len(raw.sent), ground.count(DELIVERIES, "raw")) == (1, 1)
    ground.notifications.hand_on({"people": ["y"]})
    assert (ground.published, ground.woken) == (["[1]"], 1)


def test_without_the_plain_channel_only_a_raw_client_hears_it():
    ground = Ground(takes_plain=False)
    raw = Raw(ground.raw_clients, PLAIN_CHANNEL)
    ground.notifications.hand_on({PLAIN_CHANNEL: ["[1]"]})
    assert (ground.published, len(raw.sent)) == ([], 1)
    assert ground.notifications.channels == (JOURNAL_CHANNEL,)


@pytest.mark.parametrize(
    ("takes_plain", "memory", "has_plain_triggers", "is_told"),
    [
        (True, None, False, True),  # no journal keeps anything
        (True, "journal", True, True),
        (True, "journal", False, False),
        (False, "journal", True, False),
        (False, None, False, True),
    ],
)
def test_an_outage_is_a_gap_where_something_came_that_nobody_keeps(
    takes_plain: bool, memory: str | None, has_plain_triggers: bool, is_told: bool
):
    async def tell() -> Ground:
        ground = Ground(takes_plain=takes_plain, memory=memory, has_plain_triggers=has_plain_triggers)
        Raw(ground.raw_clients, "people")
        ground.outages.tell(OUTAGE)
        await asyncio.gather(*ground.outages._telling)
        return ground

    ground = asyncio.run(tell())
    assert [gap.why for gap in ground.gaps] == ["the server received no notifications: the connection broke"] * is_told
    assert (ground.raw_clients.connected, ground.count(CLIENTS_DROPPED, "raw", "deaf")) == ([], 1)


def test_a_plain_payload_that_was_heard_says_that_there_are_such_triggers():
    async def tell() -> Ground:
        ground = Ground(memory="journal")
        ground.hub.receive(["[1]"])
        ground.outages.tell(OUTAGE)
        await asyncio.gather(*ground.outages._telling)
        return ground

    assert len(asyncio.run(tell()).gaps) == 1


def test_a_server_that_ends_tells_no_more_and_the_last_outages_are_kept():
    async def tell() -> Ground:
        ground = Ground()
        for _ in range(KEPT + 1):
            ground.outages.tell(OUTAGE)
        telling = list(ground.outages._telling)
        ground.outages.close()
        await asyncio.gather(*telling, return_exceptions=True)
        return ground

    ground = asyncio.run(tell())
    assert (ground.gaps, len(ground.outages.recent)) == ([], KEPT)


def counted_time(ground: Ground, state: ListenerState) -> CountedTime:
    listener: Any = SimpleNamespace(state=state, since=MOMENT)
    history: Any = SimpleNamespace(is_loaded=True, counting_since=None, turns=1)
    ground.follower.is_known = True
    return CountedTime(ground.hub, listener, ground.follower, history, ground.outages)


def test_a_deaf_span_is_only_where_no_journal_keeps_what_happened():
    at = MOMENT.timestamp()
    for memory, expected in ((None, [[at, at], [at, None]]), ("journal", [])):
        ground = Ground(memory=memory)
        ground.outages.recent.append(OUTAGE)
        assert counted_time(ground, ListenerState.LOST).deaf_spans(at + 10, 60) == expected
        assert counted_time(ground, ListenerState.LISTENING).deaf_spans(at + 90, 60) == []


def test_without_a_journal_nothing_is_known_to_be_counted_while_the_listener_is_deaf():
    ground = Ground()
    assert counted_time(ground, ListenerState.LOST).span(100.0) is None
    assert counted_time(ground, ListenerState.LISTENING).span(100.0) == (0.0, 100.0)


def test_a_journal_is_counted_up_to_where_it_was_read_by_the_clock_of_postgresql():
    ground = Ground(memory="journal")
    counted = counted_time(ground, ListenerState.LOST)
    assert counted.span(100.0) is None  # that clock is not known yet
    ground.hub.tally.set_database_ahead(2.0)
    assert counted.span(100.0) == (0.0, 52.0)


def test_a_server_that_hears_and_cannot_read_the_journal_is_not_ready():
    listener: Any = SimpleNamespace(
        state=ListenerState.LISTENING, since=MOMENT, reason=None, is_ready=True, not_ready_reason="deaf"
    )
    follower: Any = SimpleNamespace(trouble=None)
    watching: Any = SimpleNamespace(is_taken_away=False)
    readiness = Readiness(listener, follower, watching, "shop")
    assert (readiness.trouble, readiness.database_state()["state"]) == (None, "listening")
    follower.trouble = "the journal cannot be read"
    assert readiness.trouble == "the journal cannot be read"
    hidden = readiness.database_state(is_full=False)
    assert (hidden["state"], hidden["name"], hidden["reason"]) == ("lost", "PostgreSQL", "")
    listener.is_ready = False
    assert "receives no notifications from PostgreSQL: deaf" in cast(str, readiness.trouble)
