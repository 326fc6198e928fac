"""Counts by table and action: absolute, in buckets of seconds and minutes, and within a bound whatever comes."""

import math
from datetime import UTC, datetime

from changefeed.change import ACTIONS, Change
from changefeed.tally import OTHER_TABLES, TABLE_LIMIT, Buckets, Tally

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


def test_buckets_are_whole_seconds_oldest_first_and_sum_up_to_the_totals():
    tally = Tally(1000.0)
    for now, action in ((1000.0, INSERT), (1000.999, UPDATE), (1003.2, INSERT), (1003.3, INSERT)):
        tally.count(changes("orders", action), now)
    assert tally.seconds.since(-math.inf) == [
        {"at": 1000, "counts": {"orders": [1, 1, 0, 0]}},
        {"at": 1003, "counts": {"orders": [2, 0, 0, 0]}},
    ]
    assert tally.totals == {"orders": [3, 1, 0, 0]}


def test_a_window_takes_each_bucket_that_ends_within_it():
    tally = Tally(1000.0)
    for now in (1000.0, 1001.0, 1002.0):
        tally.count(changes("orders", INSERT), now)
    assert [bucket["at"] for bucket in tally.seconds.since(1000.5)] == [1000, 1001, 1002]
    assert [bucket["at"] for bucket in tally.seconds.since(1001.0)] == [1001, 1002]


def test_foreign_json_is_counted_apart_and_makes_no_bucket():
    tally = Tally(1000.0)
    tally.count([FOREIGN, FOREIGN], 1000.0)
    assert (tally.foreign, tally.totals, tally.seconds.since(0)) == (2, {}, [])
    assert tally.take_touched() == ({}, [])


def test_what_was_touched_is_told_once_with_absolute_counts():
    tally = Tally(1000.0)
    tally.count(changes("orders", INSERT) + changes("items", INSERT), 1000.0)
    tally.take_touched()
    assert tally.take_touched() == ({}, [])
    tally.count(changes("orders", INSERT), 1000.9)
    totals, buckets = tally.take_touched()
    assert totals == {"orders": [2, 0, 0, 0]}
    assert buckets == [{"at": 1000, "counts": {"orders": [2, 0, 0, 0], "items": [1, 0, 0, 0]}}]


def test_only_the_newest_buckets_are_kept_also_when_nobody_takes_what_was_touched():
    tally = Tally(1000.0)
    for second in range(2000):
        tally.count(changes("orders", INSERT), 1000.0 + second)
    assert [bucket["at"] for bucket in tally.seconds.since(0)] == [1000 + second for second in range(1100, 2000)]
    assert len(tally._touched_seconds) <= 901
    assert tally.totals == {"orders": [2000, 0, 0, 0]}


def test_a_minute_holds_what_its_seconds_hold():
    tally = Tally(1020.0)
    for now in (1020.0, 1079.9, 1080.0):
        tally.count(changes("orders", INSERT), now)
    assert tally.minutes.since(0) == [
        {"at": 1020, "counts": {"orders": [2, 0, 0, 0]}},
        {"at": 1080, "counts": {"orders": [1, 0, 0, 0]}},
    ]


def test_a_change_of_the_journal_counts_when_its_statement_ran_and_as_many_rows_as_it_stands_for():
    tally = Tally(5000.0)
    tally.count([Change("{}", "orders", INSERT, xid=1, id=1, at=4990.5, count=7)], 5000.0)
    tally.count([Change("{}", "orders", INSERT, xid=1, id=2, at=100.0)], 5000.0)
    assert tally.seconds.since(0) == [{"at": 4990, "counts": {"orders": [7, 0, 0, 0]}}]
    assert tally.totals == {"orders": [8, 0, 0, 0]}


def test_a_bucket_that_is_past_takes_no_more():
    buckets = Buckets(1, 10)
    assert buckets.add(100.0, "orders", 0, 1) == 100
    assert buckets.add(91.0, "orders", 0, 1) == 91
    assert buckets.add(90.0, "orders", 0, 1) is None


def test_what_was_before_is_loaded_once_into_the_totals():
    tally = Tally(5000.0)
    tally.load(4980, "orders", INSERT, 5, 4987.5, into_minutes=True)
    tally.load(4987, "orders", INSERT, 5, 4987.5, into_minutes=False)
    tally.count(changes("orders", INSERT), 5000.0)
    assert tally.totals == {"orders": [6, 0, 0, 0]}
    assert tally.since == datetime.fromtimestamp(4987.5, UTC)
    assert [bucket["at"] for bucket in tally.seconds.since(0)] == [4987, 5000]


def test_names_of_tables_beyond_the_limit_are_counted_under_one_name():
    tally = Tally(1000.0)
    for number in range(TABLE_LIMIT + 5):
        tally.count(changes(f"table{number}", INSERT), 1000.0)
    tally.count(changes("table0", INSERT), 1000.0)
    assert len(tally.totals) == TABLE_LIMIT + 1
    assert tally.totals[OTHER_TABLES] == [5, 0, 0, 0]
    assert tally.totals["table0"] == [2, 0, 0, 0]
    [bucket] = tally.seconds.since(0)
    assert bucket["counts"] == tally.totals
