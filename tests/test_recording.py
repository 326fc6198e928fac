"""What was missed between two looks at what records the tables, for each way in which a table can lose its triggers."""

from dataclasses import replace
from typing import Any

import pytest

from changefeed.recording import Member, Recorded, Recording

ROOT = Member("", False, "t1", "d1", "x1")
PARTITION = Member("e1", False, "t2", "d2", "x2")
ORDERS = Recorded(1, True, {1: ROOT})
PARTED = Recorded(1, True, {1: ROOT, 2: PARTITION})


def missed(*looks: dict[str, Recorded], come_watched: bool = True) -> list[dict[str, str]]:
    recording = Recording()
    told = [recording.look(tables, partitions_come_watched=come_watched) for tables in looks]
    return [{name: one.why for name, one in found.items()} for found in told]


def after(before: Recorded, **changed: Any) -> str | None:
    [_, found] = missed({"t": before}, {"t": replace(before, **changed)})
    return found.get("t")


def test_of_the_first_look_nothing_is_known():
    assert missed({"t": ORDERS, "u": replace(ORDERS, is_complete=False)}) == [{}]


def test_what_stays_as_it_is_misses_nothing():
    assert missed({"t": ORDERS}, {"t": ORDERS}, {"t": ORDERS}) == [{}, {}, {}]


def test_one_that_is_watched_for_the_first_time_misses_nothing_that_was_promised():
    recording = Recording()
    recording.look({}, partitions_come_watched=True)
    assert recording.look({"t": ORDERS}, partitions_come_watched=True) == {}
    assert recording.begun == {"t"}


def test_one_that_is_not_watched_any_more_misses_what_follows_and_what_came_before_it_is_watched_again():
    found = missed({"t": ORDERS}, {}, {}, {"t": ORDERS}, {"t": ORDERS})
    assert found == [
        {},
        {"t": "t is not watched any more"},
        {},
        {"t": "t is watched again, and was not for a while"},
        {},
    ]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"oid": 9}, "another table"),
        ({"is_complete": False}, "triggers of it, or of a partition of it, are missing"),
        ({"members": {1: replace(ROOT, triggers="t", definition="d", touched="x"), 2: PARTITION}}, "for a moment"),
        ({"members": {1: replace(ROOT, touched="x"), 2: PARTITION}}, "for a moment"),  # off and on
        ({"members": {1: ROOT, 2: replace(PARTITION, touched="x")}}, "for a moment"),
        ({"members": {1: ROOT, 2: replace(PARTITION, touched="x"), 3: PARTITION}}, "for a moment"),
        ({"members": {1: ROOT, 2: replace(PARTITION, entered="e2", is_attached=True)}}, "attached again"),
        ({"members": {1: ROOT}}, "detached or dropped"),
        ({"members": {1: ROOT, 2: PARTITION, 3: replace(PARTITION, is_attached=True)}}, "was attached"),
        ({"members": {1: ROOT, 2: PARTITION, 3: PARTITION}, "is_complete": False}, "a new partition"),
    ],
)
def test_what_is_another_is_told(changed: dict[str, Any], why: str):
    assert why in str(after(PARTED, **changed))


@pytest.mark.parametrize(
    "changed",
    [
        # Other options, in one transaction.
        {"members": {oid: replace(one, definition="d", touched="x") for oid, one in PARTED.members.items()}},
        {"members": {1: ROOT, 2: PARTITION, 3: PARTITION}},  # a new partition that was watched in its first moment
    ],
)
def test_what_takes_nothing_away_is_not_told(changed: dict[str, Any]):
    assert after(PARTED, **changed) is None


def test_without_an_event_trigger_a_new_partition_had_a_moment_without_triggers():
    [_, found] = missed(
        {"t": PARTED}, {"t": replace(PARTED, members={1: ROOT, 2: PARTITION, 3: PARTITION})}, come_watched=False
    )
    assert "in its first moment" in found["t"]


def test_one_that_is_incomplete_is_told_once_and_when_it_is_complete_again():
    broken = replace(PARTED, is_complete=False)
    found = missed({"t": PARTED}, {"t": broken}, {"t": broken}, {"t": PARTED})
    assert [list(one) for one in found] == [[], ["t"], [], ["t"]]
    assert "recorded again" in found[-1]["t"]


def test_how_many_tables_are_incomplete_is_known():
    recording = Recording()
    assert recording.incomplete == 0
    recording.look({"t": ORDERS, "u": replace(ORDERS, is_complete=False)}, partitions_come_watched=True)
    assert recording.incomplete == 1
