"""Counts by table and action: absolute, in buckets of seconds and minutes, and within a bound whatever comes."""

import json
import math
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from changefeed.change.change import ACTIONS, Change
from changefeed.counts.buckets import Buckets
from changefeed.counts.delays import LAST, LEAST_SECONDS, PER_DOUBLING, delay_index
from changefeed.counts.tally import OTHER_TABLES, STEPS, TABLE_LIMIT, UNKNOWN_LIMIT, UNKNOWN_TABLES, Tally

INSERT, UPDATE, DELETE, TRUNCATE = ACTIONS


def changes(table: str, *actions: str) -> list[Change]:
    return [Change("{}", table, action) for action in actions]


FOREIGN = Change("[]", "", "")


def test_changes_are_counted_by_table_in_the_order_of_the_actions():
    tally = Tally(1000.0)
    tally.count(changes("orders", INSERT, UPDATE, UPDATE, TRUNCATE) + changes("sales.items", DELETE), 1000.5)
    tally.count(changes("orders", INSERT), 1001.0)
    assert tally.since == datetime.fromtimestamp(1000, UTC)
    assert tally.totals == {"orders": [2, 2, 0, 1], "sales.items": [0, 0, 1, 0]}


alike = st.builds(
    Change,
    st.just(""),
    st.sampled_from(["orders", "items"]),
    st.sampled_from([INSERT, UPDATE]),
    count=st.integers(1, 9),
)


@given(st.lists(alike | st.just(FOREIGN)))
def test_in_whatever_order_they_come_each_is_counted_once(found: list[Change]):
    tally = Tally(1000.0)
    tally.count(found, 1000.0)
    assert tally.foreign == found.count(FOREIGN)
    for table in ("orders", "items"):
        counts = [sum(one.count for one in found if (one.table, one.action) == (table, action)) for action in ACTIONS]
        assert tally.totals.get(table, [0] * 4) == counts


def test_buckets_are_seconds_that_sum_up_to_the_totals():
    tally = Tally(1000.0)
    for now, action in ((1000.0, INSERT), (1000.999, UPDATE), (1003.2, INSERT), (1003.3, INSERT)):
        tally.count(changes("orders", action), now)
    assert tally.by_step[1].since(-math.inf) == [
        {"at": 1000, "counts": {"orders": [1, 1, 0, 0]}},
        {"at": 1003, "counts": {"orders": [2, 0, 0, 0]}},
    ]
    assert tally.totals == {"orders": [3, 1, 0, 0]}


def test_a_window_takes_each_bucket_that_ends_within_it():
    tally = Tally(1000.0)
    for now in (1000.0, 1001.0, 1002.0):
        tally.count(changes("orders", INSERT), now)
    assert [bucket["at"] for bucket in tally.by_step[1].since(1000.5)] == [1000, 1001, 1002]
    assert [bucket["at"] for bucket in tally.by_step[1].since(1001.0)] == [1001, 1002]


def test_foreign_json_is_counted_apart_and_makes_no_bucket():
    tally = Tally(1000.0)
    tally.count([FOREIGN, FOREIGN], 1000.0)
    assert (tally.foreign, tally.totals, tally.by_step[1].since(0)) == (2, {}, [])
    assert (tally.take_touched_totals(), tally.by_step[1].take_touched()) == ({}, [])


def test_what_was_touched_is_returned_once_with_absolute_counts():
    tally = Tally(1000.0)
    tally.count(changes("orders", INSERT) + changes("items", INSERT), 1000.0)
    for buckets in tally.by_step.values():
        buckets.take_touched()
        assert buckets.take_touched() == []
    tally.take_touched_totals()
    assert tally.take_touched_totals() == {}
    tally.count(changes("orders", INSERT), 1000.9)
    assert tally.take_touched_totals() == {"orders": [2, 0, 0, 0]}
    for step, begins in ((1, 1000), (10, 1000), (60, 960)):
        assert tally.by_step[step].take_touched() == [{"at": begins, "counts": {"orders": [2, 0, 0, 0]}}]


def test_old_buckets_go_also_without_a_reader():
    tally = Tally(1000.0)
    for second in range(2000):
        tally.count(changes("orders", INSERT), 1000.0 + second)
    assert [bucket["at"] for bucket in tally.by_step[1].since(0)] == [1000 + second for second in range(1100, 2000)]
    assert [bucket["at"] for bucket in tally.by_step[1].take_touched()] == list(range(2100, 3000))
    assert tally.totals == {"orders": [2000, 0, 0, 0]}


def test_a_minute_holds_what_its_seconds_hold():
    tally = Tally(1020.0)
    for now in (1020.0, 1079.9, 1080.0):
        tally.count(changes("orders", INSERT), now)
    assert tally.by_step[60].since(0) == [
        {"at": 1020, "counts": {"orders": [2, 0, 0, 0]}},
        {"at": 1080, "counts": {"orders": [1, 0, 0, 0]}},
    ]


def test_a_change_counts_at_its_statements_time():
    tally = Tally(5000.0)
    tally.count([Change("{}", "orders", INSERT, xid=1, id=1, at=4990.5, count=7)], 5000.0)
    tally.count([Change("{}", "orders", INSERT, xid=1, id=2, at=100.0)], 5000.0)
    assert tally.by_step[1].since(0) == [{"at": 4990, "counts": {"orders": [7, 0, 0, 0]}}]
    assert tally.totals == {"orders": [8, 0, 0, 0]}


def test_a_bucket_that_is_past_takes_no_more():
    buckets = Buckets(1, 10)
    for at in (100.0, 91.0, 90.0):
        buckets.add(at, "orders", 0, 1)
        buckets.add_delay(at, 5, 1)
    assert [bucket["at"] for bucket in buckets.since(0)] == [91, 100]
    assert [bucket["at"] for bucket in buckets.take_touched()] == [91, 100]


def test_what_was_before_is_loaded_once_into_the_totals():
    tally, before = Tally(5000.0), Tally(5000.0)
    before.load(1, 4990, "orders", INSERT, 5, 4990.25)
    before.load(10, 1200, "orders", INSERT, 2, 1204.5)
    tally.count(changes("orders", INSERT), 5000.0)
    told = [tally.by_step[step].take_touched() for step in STEPS]
    tally.add_before(before)
    assert tally.totals == {"orders": [8, 0, 0, 0]}
    assert tally.since.timestamp() == 1204.5
    assert {step: [(of["at"], of["counts"]["orders"][0]) for of in tally.by_step[step].since(0)] for step in STEPS} == {
        1: [(4990, 5), (5000, 1)],
        10: [(4990, 5), (5000, 1)],  # the newest hour of them
        60: [(1200, 2), (4980, 6)],
    }
    assert all(told)
    assert not any(tally.by_step[step].take_touched() for step in STEPS)  # nothing is left to take twice


def test_a_delay_is_counted_once_the_clock_is_known():
    tally = Tally(5000.0)
    late = [Change("{}", "orders", INSERT, xid=1, id=number, at=4990.0, count=3) for number in (1, 2)]
    tally.count(late, 5000.0)
    tally.set_database_ahead(-9.0)  # PostgreSQL's clock said 4990 when ours said 4999
    tally.count([*late, *changes("plain", INSERT)], 5000.0)
    assert [bucket for bucket in tally.by_step[1].since(0) if "delays" in bucket] == [
        {"at": 5000, "counts": {"plain": [1, 0, 0, 0]}, "delays": {delay_index(1.0): 6}}
    ]


def test_a_delay_s_place_is_within_five_percent_and_within_bounds():
    assert [delay_index(seconds) for seconds in (-5.0, 0.0, LEAST_SECONDS)] == [0, 0, 0]
    assert delay_index(1e9) == LAST
    for seconds in (0.00011, 0.0042, 0.5, 1.0, 77.7, 80_000.0):
        upper = LEAST_SECONDS * 2 ** (delay_index(seconds) / PER_DOUBLING)
        middle = upper / 2 ** (0.5 / PER_DOUBLING)
        assert abs(middle / seconds - 1) < 0.05


def recorded(table: str) -> list[Change]:
    return [Change("{}", table, INSERT, 1, 1, 1000.0)]


def test_tables_beyond_the_limit_share_one_name():
    tally = Tally(1000.0)
    for number in range(TABLE_LIMIT + 5):
        tally.count(recorded(f"table{number}"), 1000.0)
    tally.count(recorded("table0"), 1000.0)
    assert len(tally.totals) == TABLE_LIMIT + 1
    assert tally.totals[OTHER_TABLES] == [5, 0, 0, 0]
    assert tally.totals["table0"] == [2, 0, 0, 0]
    [bucket] = tally.by_step[1].since(0)
    assert bucket["counts"] == tally.totals


def test_made_up_names_hide_no_table_that_there_is():
    tally = Tally(1000.0, is_table=lambda table: table == "plain")
    for number in range(2 * TABLE_LIMIT):
        tally.count(changes(f"made up {number}", INSERT), 1000.0)
    assert len(tally.totals) == UNKNOWN_LIMIT + 1
    assert tally.totals[UNKNOWN_TABLES] == [2 * TABLE_LIMIT - UNKNOWN_LIMIT, 0, 0, 0]
    for number in range(TABLE_LIMIT - 1):
        tally.count(recorded(f"public.table{number}"), 1000.0)
    tally.count(changes("plain", INSERT, UPDATE), 1000.0)
    assert tally.totals["plain"] == [1, 1, 0, 0]
    assert OTHER_TABLES not in tally.totals
    assert len(tally.totals) == UNKNOWN_LIMIT + 1 + TABLE_LIMIT


def test_made_up_tables_hide_no_real_one():
    tally = Tally(1000.0, is_table=lambda table: table.startswith("mine."))
    for number in range(TABLE_LIMIT + 5):
        tally.count(changes(f"mine.table{number}", INSERT), 1000.0)
    assert tally.totals[OTHER_TABLES] == [5, 0, 0, 0]
    other = Tally(1000.0)
    other.restore(json.loads(json.dumps(tally.dump())))
    for one in (tally, other):
        for number in range(TABLE_LIMIT - 1):
            one.count(recorded(f"public.table{number}"), 1000.0)
        one.count(recorded("mine.table1"), 1000.0)
        assert one.totals[f"public.table{TABLE_LIMIT - 2}"] == [1, 0, 0, 0]
        assert one.totals["mine.table1"] == [2, 0, 0, 0]
        assert one.totals[OTHER_TABLES] == [5, 0, 0, 0]


def test_a_payloads_table_is_real_once_recorded():
    tally, other = Tally(1000.0), Tally(1000.0)
    for number in range(UNKNOWN_LIMIT):
        tally.count(changes(f"public.table{number}", INSERT), 1000.0)
    other.restore(json.loads(json.dumps(tally.dump())))
    for one in (tally, other):
        one.count(recorded("public.table0"), 1000.0)
        one.count(changes("new", INSERT) + changes("newer", INSERT), 1000.0)
        assert one.totals["public.table0"] == [2, 0, 0, 0]
        assert (one.totals["new"], one.totals[UNKNOWN_TABLES]) == ([1, 0, 0, 0], [1, 0, 0, 0])


def test_a_process_continues_anothers_counts():
    tally, successor = Tally(1000.0), Tally(2000.0)
    tally.set_database_ahead(0.0)
    tally.count([Change("{}", "orders", INSERT, xid=1, id=1, at=1001.5), FOREIGN], 1001.75)
    successor.restore(json.loads(json.dumps(tally.dump())))
    assert (successor.since, successor.totals, successor.foreign) == (tally.since, tally.totals, 1)
    for step, buckets in successor.by_step.items():
        assert buckets.since(0) == tally.by_step[step].since(0)
        assert buckets.since(0)[-1]["delays"] == {delay_index(0.25): 1}
    successor.count([Change("{}", "orders", INSERT, xid=1, id=2, at=1001.9)], now=0)  # published by the other one
    assert successor.by_step[60].since(0)[0]["counts"] == {"orders": [2, 0, 0, 0]}
