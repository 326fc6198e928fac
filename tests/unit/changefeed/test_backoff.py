"""The delays before the next try: at once, then anywhere below a bound that doubles up to a limit."""

from itertools import islice

from changefeed.backoff import backoff


def test_the_first_retry_is_immediate_and_bounds_double():
    longest = backoff(first_seconds=0.2, most_seconds=5.0, uniform=lambda low, high: high)
    assert list(islice(longest, 8)) == [0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_each_delay_is_drawn_from_zero_on():
    drawn = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    assert list(islice(backoff(1.0, 3.0, uniform), 4)) == [0.0, 0.0, 0.0, 0.0]
    assert drawn == [(0.0, 1.0), (0.0, 2.0), (0.0, 3.0)]


def test_default_delays_differ_between_clients():
    one, other = list(islice(backoff(), 100)), list(islice(backoff(), 100))
    assert one != other
    assert all(0.0 <= delay <= 1.0 for delay in one + other)
