"""Of which span of time all changes are counted, with and without a journal."""

from types import SimpleNamespace
from typing import Any

from changefeed.postgres.listener import ListenerState
from handlers.delivery.counted_time import CountedTime
from tests.unit.delivery.ground import MOMENT, OUTAGE, Ground


def counted_time(ground: Ground, state: ListenerState) -> CountedTime:
    listener: Any = SimpleNamespace(state=state, since=MOMENT)
    history: Any = SimpleNamespace(is_loaded=True, counting_since=None, turns=1)
    ground.follower.is_known = True
    return CountedTime(ground.hub, listener, ground.follower, history, ground.outages)


def test_a_deaf_span_is_only_where_no_journal_keeps_what_happened():
    at = MOMENT.timestamp()
    for cache, expected in ((None, [[at, at], [at, None]]), ("journal", [])):
        ground = Ground(cache=cache)
        ground.outages.recent.append(OUTAGE)
        assert counted_time(ground, ListenerState.LOST).outage_spans(at + 10, 60) == expected
        assert counted_time(ground, ListenerState.LISTENING).outage_spans(at + 90, 60) == []


def test_without_a_journal_a_deaf_time_is_not_counted():
    ground = Ground()
    assert counted_time(ground, ListenerState.LOST).span(100.0) is None
    assert counted_time(ground, ListenerState.LISTENING).span(100.0) == (0.0, 100.0)


def test_a_journal_is_counted_up_to_its_last_read():
    ground = Ground(cache="journal")
    counted = counted_time(ground, ListenerState.LOST)
    assert counted.span(100.0) is None  # that clock is not known yet
    ground.hub.tally.set_database_ahead(2.0)
    assert counted.span(100.0) == (0.0, 52.0)
