"""A rate per second; the clock is an argument, so that the tests do not depend on time."""

import pytest

from changefeed.owners import Owner
from handlers.access.rate import (
    BURST_SECONDS,
    KEY_LIMIT,
    LONGEST_WAIT_SECONDS,
    RateLimiter,
    RateLimiterPerKey,
    SharedRateLimiter,
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_then_a_number_per_second():
    clock = Clock()
    pace = RateLimiter(4, clock)
    assert [pace.wait_seconds() for _ in range(4 * BURST_SECONDS)] == [0.0] * 40
    assert pace.wait_seconds() > 0
    clock.now += 0.5
    assert [pace.wait_seconds() > 0 for _ in range(3)] == [False, False, True]


def test_idle_time_saves_up_at_most_one_burst():
    clock = Clock()
    pace = RateLimiter(4, clock)
    clock.now += 1_000_000
    assert sum(pace.wait_seconds() == 0 for _ in range(100)) == 40


def test_each_client_of_a_crowd_gets_its_own_turn():
    clock = Clock()
    pace = RateLimiter(10, clock)
    for _ in range(10 * BURST_SECONDS):
        pace.wait_seconds()
    turns = [pace.wait_seconds() for _ in range(500)]
    assert turns == pytest.approx([number / 10 for number in range(1, 501)])
    for turn in turns:
        clock.now = 1000.0 + turn + 0.001
        assert pace.wait_seconds() == 0


def test_retry_after_is_at_most_a_minute():
    pace = RateLimiter(1, Clock())
    assert max(pace.wait_seconds() for _ in range(1_000)) == LONGEST_WAIT_SECONDS


def test_without_a_limit_every_client_passes():
    pace = RateLimiter(0, Clock())
    assert not any(pace.wait_seconds() for _ in range(10_000))


def test_each_address_has_a_pace_of_its_own():
    pace = RateLimiterPerKey(1, Clock())
    assert [pace.wait_seconds("a") > 0 for _ in range(BURST_SECONDS + 1)] == [False] * BURST_SECONDS + [True]
    assert pace.wait_seconds("b") == 0
    assert RateLimiterPerKey(0).wait_seconds("a") == 0


def test_the_newest_addresses_are_remembered():
    pace = RateLimiterPerKey(1, Clock())
    for number in range(2 * KEY_LIMIT):
        pace.wait_seconds(str(number))
        for _ in range(BURST_SECONDS + 1):
            pace.wait_seconds("busy") if number % 1000 == 0 else None
    assert pace.wait_seconds("busy") > 0
    assert len(pace._limiters) == KEY_LIMIT


def passed(pace: SharedRateLimiter, owner: Owner, times: int = 1_000) -> int:
    return sum(pace.wait_seconds(owner) == 0 for _ in range(times))


@pytest.mark.parametrize(
    ("often", "others", "share"),
    [
        ([Owner("a", "1"), Owner("a", "2")], [Owner("b", "1")], 3 / 4),  # holders
        ([Owner("a", "1")], [Owner("a", "2"), Owner("b", "1")], 1 / 2),  # addresses of a holder
        ([Owner(None, "1")], [Owner(None, "2")], 3 / 4),
    ],
)
def test_an_owner_that_comes_often_leaves_a_part_to_the_others(often: list[Owner], others: list[Owner], share: float):
    clock = Clock()
    pace = SharedRateLimiter(8, clock)
    assert sum(passed(pace, owner) for owner in often) == 80 * share
    for _ in range(100):
        clock.now += 1
        at_once = sum(passed(pace, owner) for owner in often)
    assert at_once == 8  # alone, it has the whole rate
    for _ in range(100):
        clock.now += 1
        assert [passed(pace, owner, 1) for owner in others] == [1] * len(others)
        assert sum(passed(pace, owner) for owner in often) == 8 - len(others)


def test_without_a_limit_every_owner_passes():
    assert passed(SharedRateLimiter(0, Clock()), Owner("a", "1")) == 1_000
