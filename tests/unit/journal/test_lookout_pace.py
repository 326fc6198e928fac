"""The pace of the looks at the schema: long looks make them rarer, one that had to wait does not."""

import pytest

from changefeed.journal.lookout import COST_PART, LOOK_SECONDS, LOOKS_MEASURED, MOST_SECONDS, Pace


def test_one_look_that_took_long_delays_none():
    pace = Pace()
    for took_seconds in (30.0, 0.01, 5.0, 0.01, 30.0):
        assert pace.pause_after(took_seconds) == LOOK_SECONDS


def test_a_few_long_looks_after_the_start_delay_none():
    pace = Pace()
    for _ in range(LOOKS_MEASURED - 1):
        assert pace.pause_after(9.0) == LOOK_SECONDS


@pytest.mark.parametrize(
    ("took_seconds", "pause_seconds"),
    [(0.001, LOOK_SECONDS), (0.1, 0.1 * COST_PART), (9.0, MOST_SECONDS)],
)
def test_looks_that_always_take_long_become_rarer(took_seconds: float, pause_seconds: float):
    pace = Pace()
    assert [pace.pause_after(took_seconds) for _ in range(LOOKS_MEASURED)][-1] == pause_seconds
    assert pace.pause_after(0.01) == LOOK_SECONDS
