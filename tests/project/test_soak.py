"""The hour under load in its short form, and that it can fail. `make soak-load` is the long form."""

from dataclasses import replace
from typing import Any

import pytest
import uvloop

from tests.oracle.reader import FeedFailed
from tests.soak.figures import Figures, drift, table
from tests.soak.followers import OneGroup, Plain
from tests.soak.load import KEPT
from tests.soak.run import Plan, Soak


def change(action: str, row_id: int, number: int) -> dict[str, Any]:
    return {
        "action": action,
        "data": {"writer": 0, "id": row_id, "number": number},
        "cursor": "0.x",
        "at": "2026-01-01T00Z",
    }


FIRST_CYCLE = [change("INSERT", 0, 0), change("UPDATE", 0, 1), change("DELETE", -KEPT, 0)]


def test_a_follower_takes_each_change_once_and_in_its_order():
    follower = Plain("one", [], "")
    for one in FIRST_CYCLE:
        follower.take(one)
    with pytest.raises(FeedFailed, match="came twice"):
        follower.take(FIRST_CYCLE[-1])
    with pytest.raises(FeedFailed, match="changes before it are missing"):
        follower.take(change("UPDATE", 1, 4))
    assert not follower.has_all([4, 0])
    assert follower.has_all([3, 0])


def test_a_follower_of_one_group_knows_which_changes_are_its_own():
    follower = OneGroup("one", [], "")
    follower.take(change("INSERT", 3, 9))
    follower.take(change("UPDATE", 3, 10))
    follower.take(change("DELETE", 3 - KEPT, 0))
    with pytest.raises(FeedFailed, match="changes before it are missing"):
        follower.take(change("UPDATE", 11, 34))


def test_a_drift_is_the_slope_after_the_warm_up():
    still = Figures(
        1, 50.0, 40.0, 20, 3, 10, 5, None, 8.0, 0, 1.0, 9.0, 100, 100, 0, faults=0, warnings=0, machine_load=1.0
    )
    measured = [replace(still, minute=n, resident_mb=200.0 if n <= 10 else 50.0 + n) for n in range(1, 61)]
    assert "| RSS, MB | 85.5 | +60.0 MB |" in drift(measured)
    assert "| descriptors | 20 | +0.0 descriptors |" in drift(measured)
    assert "their memory" not in drift(measured)
    assert [line.split(" | ")[0] for line in table(measured).splitlines()[2:]] == [
        f"| {n}" for n in (5, *range(10, 61, 10))
    ]


@pytest.mark.timeout(240)
def test_nothing_is_lost_or_doubled_under_disconnects():
    soak = Soak(Plan(0.2, visitors=12, seconds_between_faults=3.0, seconds_between_figures=4.0))
    uvloop.run(soak.run())
    assert soak.faults
    assert len(soak.figures) == 3
    assert sum(soak.written) > 0
