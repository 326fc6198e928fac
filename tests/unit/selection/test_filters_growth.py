"""Twice the input takes a filter twice the time, not four times; and no subscription asks for more than is bounded."""

import contextlib
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable

import pytest

from changefeed.change.change import Change
from changefeed.change.changed_row import Cell, ChangedRow, Number
from changefeed.selection.filter_kinds import COMPARISONS, Kind
from changefeed.selection.filter_sql import sql_condition
from changefeed.selection.filter_text import FILTER_LIMIT_CHARACTERS, parse_filter
from changefeed.selection.filters import BadFilter, filters_in, make_test, row_test
from changefeed.selection.like import Like
from changefeed.selection.rights import Rights
from changefeed.selection.subscription import (
    FILTERS_LIMIT_CHARACTERS,
    LIKE_COST_LIMIT,
    LIKE_REACH_CHARACTERS,
    PATTERNS_LIMIT_CHARACTERS,
    VALUES_LIMIT,
    BadSubscription,
    Selection,
    Subscription,
)

SMALL = FILTER_LIMIT_CHARACTERS // 5


def parsed(text: str) -> None:
    with contextlib.suppress(BadFilter):
        asked = parse_filter(text)
        for kind in Kind:
            kinds = {term.column: kind for term in filters_in([asked])}
            with contextlib.suppress(BadFilter):
                row_test(asked, kinds.get)
                sql_condition([asked], kinds, "r")


def read_by_each_kind(text: str) -> None:
    for kind in Kind:
        with contextlib.suppress(BadFilter):
            make_test(parse_filter(f"c=eq.{text}"), kind)


def compared_by_each_kind(text: str) -> None:
    for comparison in COMPARISONS.values():
        for value in (text, Number(text)):
            with contextlib.suppress(ValueError, ArithmeticError):
                comparison.key(value)


def subscribed(text: str) -> None:
    with contextlib.suppress(BadSubscription):
        Subscription.parse({"columns": [text], "table": [text]})


def seconds(work: Callable[[str], object], text: str) -> float:
    """The processor's, so that nobody else's work counts, and the least of some, so that no pause does.

    Without collections of garbage, whose number and length depend on all that the tests before have made.
    """
    taken = []
    gc.disable()
    try:
        for _ in range(5):
            began = time.process_time()
            work(text)
            taken.append(time.process_time() - began)
    finally:
        gc.enable()
    return min(taken)


def assert_linear(work: Callable[[str], object], text_of: Callable[[int], str], small: int = SMALL) -> None:
    one, two, four = (seconds(work, text_of(small * times)) for times in (1, 2, 4))
    # Sixteen times as long would be quadratic. Below a millisecond it is the clock that is compared.
    assert four < 9 * max(one, 0.001), f"{one * 1000:.1f}, {two * 1000:.1f}, {four * 1000:.1f} ms"


@pytest.mark.parametrize(
    "text_of",
    [
        lambda n: 'id=in.("' + '\\"' * (n // 2) + ")",
        lambda n: 'id=in.("' + '\\"' * (n // 2) + '"x)',
        lambda n: "id=in.(" + '""' * (n // 2) + ")",
        lambda n: "id=in.(" + "\\" * n + ")",
        lambda n: "id=in.(1" + "," * n + ")",
        lambda n: "id=in.(" + ",".join(["1" * (n // 900)] * 900) + ")",
        lambda n: '"' * n + "=eq.1",
        lambda n: "not." * (n // 4),
        lambda n: "id=like." + "*a" * (n // 2),
        lambda n: "id=like." + "\\" * n,
        lambda n: "or=(" * (n // 4),
        lambda n: "or=(a.eq.1" + " " * n,
        lambda n: "or=(" + "a" * n,
        lambda n: "or=(" + "not." * (n // 4),
        lambda n: "or=(" + "a.eq.1," * (n // 7),
        lambda n: 'or=("' + '\\"' * (n // 2) + ".eq.1)",
        lambda n: "or=(a.eq." + '"' * n,
        lambda n: 'or=(a.eq."' + '\\"' * (n // 2) + ")",
        lambda n: "or=(a.in.(" + '"",' * (n // 3) + "1))",
        lambda n: 'or=(a.in.("' + "\\" * n + ")",
        lambda n: "or=(" + ",".join(f'a.eq."{"," * (n // 100)}{one}"' for one in range(99)) + ")",
        lambda n: (
            "or=(" + "and(or(" * 4 + ",".join(f"a.eq.{'x' * (n // 100)}{one}" for one in range(99)) + "))" * 4 + ")"
        ),
    ],
)
def test_a_filter_is_parsed_in_linear_time(text_of: Callable[[int], str]):
    assert_linear(parsed, text_of)


TEXTS: tuple[Callable[[int], str], ...] = (
    lambda n: "1" * n,
    lambda n: "1" * n + "x",
    lambda n: "0." + "0" * n + "1",
    lambda n: "1." * (n // 2),
    lambda n: "1e" + "9" * n,
    lambda n: "-" * n,
    lambda n: " " * n + "x",
    lambda n: "1" + " " * n + "x",
    lambda n: "0" * n + "-01-01",
    lambda n: "2026-11-22 10:00:00." + "9" * n,
    lambda n: "10:00:00." + "9" * n + "x",
    lambda n: "1 day " * (n // 6),
    lambda n: "1:" * (n // 2),
    lambda n: "0000-" * (n // 5),
    lambda n: "\\x" + "f" * n + "g",
    lambda n: "\\x" + "ff" * (n // 2),
    lambda n: "01" * (n // 2) + "2",
    lambda n: "10.0.0.1/" + "0" * n,
)


@pytest.mark.parametrize("work", [read_by_each_kind, compared_by_each_kind])
@pytest.mark.parametrize("text_of", TEXTS)
def test_an_operand_and_a_value_are_read_in_linear_time(work: Callable[[str], None], text_of: Callable[[int], str]):
    assert_linear(work, text_of)


@pytest.mark.parametrize(
    "text_of",
    [lambda n: "a" * n + "," * n, lambda n: '"' * n, lambda n: '"' + "a," * n, lambda n: ("a" * (n // 10) + ",") * 10],
)
def test_columns_are_parsed_in_linear_time(text_of: Callable[[int], str]):
    assert_linear(subscribed, text_of, 20_000)


@pytest.mark.parametrize(
    "pattern",
    [
        "*" + "a" * 450 + "b" + "a" * 450 + "*",
        "*a" * 100 + "*b",
        "*" + "ab" * 49 + "*",
        "_" * 500 + "b*",
        "*____b" + "*_" * 100,
        "*a_a" * 12 + "*b",
        "*" + "a_" * (LIKE_COST_LIMIT // 2 - 1) + "b*",
    ],
)
def test_a_pattern_takes_linear_time(pattern: str):
    Subscription.parse({"filter": [f"c=like.{pattern}"]})
    assert_linear(Like(pattern), lambda n: "a" * n, 50_000)


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        (["c=eq." + "x" * FILTER_LIMIT_CHARACTERS], "a filter must have at most 50000 characters"),
        ([f"c=eq.{n}" + "x" * (FILTERS_LIMIT_CHARACTERS // 3) for n in range(3)], "at most 100000 characters together"),
        ([f"c=like.*{n}" + "x" * (PATTERNS_LIMIT_CHARACTERS // 10) for n in range(10)], "at most 1000 characters"),
        (
            [f"c=in.({','.join(map(str, range(n, n + VALUES_LIMIT // 3)))})" for n in range(4)],
            "at most 1000 values together",
        ),
        (
            [f"or=(c.eq.1,{','.join(f'd.eq.{m * n}' for m in range(1, 51))})" for n in (1, 100)],
            "at most 100 conditions together",
        ),
        ([f"or=(c.eq.{n},d.like.*a__b*,d.like.*x*)" for n in range(20)], "at most 50 characters together"),
        ([f"or=(c.eq.{n % 9},c.eq.{n},c.gt.0)" for n in range(40)], "at most 100 conditions together"),
        ([f"c=like.*a{'_' * n}b*" for n in range(20)], "at most 50 characters together in pieces with a _ inside"),
    ],
)
def test_what_would_cost_too_much_is_refused(filters: list[str], said: str):
    with pytest.raises(BadSubscription, match=said) as refused:
        Subscription.parse({"filter": filters})
    assert refused.value.code == "bad_filter"
    assert len(str(refused.value)) < 300


MANY = 100


def insert(**values: str) -> Change:
    return Change(json.dumps({"table": "t", "action": "INSERT", "data": values}), "t", "INSERT", at=1.0)


def selection(filters: list[str], kind: Kind, limits: object = None) -> Selection:
    within = Rights.parse({"tables": {"t": limits or {}}}).tables
    asked = Subscription.parse({"filter": filters}, within)
    return Selection(asked, lambda _: {"c": kind, "d": kind}, seal)


def seal(cursor: str) -> str:
    return cursor


def steps(work: Callable[[], object]) -> int:
    """How many calls of Python's and C's functions it takes: the same on every machine, however busy."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


VALUES = {
    Kind.INET: "10.0.0.255",
    Kind.INTERVAL: "1 year 2 mons 3 days 04:05:06",
    Kind.TIMESTAMPTZ: "2026-11-22T07:13:08+02:00",
    Kind.UUID: "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_is_read_once_however_many_filters_are_on_it(kind: Kind):
    read = steps(lambda: COMPARISONS[kind].key(VALUES[kind]))
    filters = [f"c=not.eq.{VALUES[kind].replace('1', '2', n + 1)}" for n in range(2)]
    filters += [f"c=not.in.({one[6:]})" for one in filters]
    few, many = selection(filters[:1], kind), selection(filters, kind)
    change = insert(c=VALUES[kind])
    for one in (few, many):
        one.pick_one(change, ChangedRow(change))  # makes the tests
    assert (
        steps(lambda: many.pick_one(change, ChangedRow(change)))
        < steps(lambda: few.pick_one(change, ChangedRow(change))) + read + 30
    )


@pytest.mark.parametrize("limits", [{}, {"filter": ["d=neq.10.0.0.9"]}])
def test_a_value_is_read_once_for_all_filters(limits: object):
    change = insert(c="10.0.0.255", d="10.0.0.1")
    audiences = [selection([f"c=neq.10.0.0.{n}"], Kind.INET, limits) for n in range(MANY)]
    for audience in audiences:
        assert audience.pick_one(change, ChangedRow(change))
    row = ChangedRow(change)
    first = steps(lambda: audiences[0].pick_one(change, row))
    others = steps(lambda: [audience.pick_one(change, row) for audience in audiences[1:]])
    assert others < first * (MANY - 1) / 2


def test_an_operand_is_read_once_however_often_the_schema_changes():
    values = ",".join(f"10.0.{n // 250}.{n % 250}" for n in range(VALUES_LIMIT))
    asked = selection([f"c=in.({values})"], Kind.INET)
    first = steps(lambda: asked.for_table("t", is_exact=True))
    asked.refresh_columns()
    assert steps(lambda: asked.for_table("t", is_exact=True)) < first / 20


@pytest.mark.parametrize("kind", [Kind.BYTEA, Kind.BIT, Kind.NUMBER, Kind.INET, Kind.INTERVAL, Kind.UUID])
def test_a_value_is_read_no_further_than_it_can_be_compared(kind: Kind):
    def reading(size: int) -> int:
        value = ("\\x" if kind is Kind.BYTEA else "") + "10" * (size // 2)
        value = Number(value) if kind is Kind.NUMBER else value
        tracemalloc.start()
        COMPARISONS[kind].key(value)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert reading(16 << 20) < 2 * reading(1 << 20) + (1 << 20)


@pytest.mark.parametrize(
    ("kind", "text"), [(Kind.BYTEA, "\\x" + "0f" * 100_000), (Kind.BIT, "01" * 100_000), (Kind.TEXT, "ab" * 100_000)]
)
def test_a_long_value_compares_as_if_read_at_once(kind: Kind, text: str):
    operand = text[: FILTER_LIMIT_CHARACTERS - 10]
    for operator, holds in (("eq", False), ("neq", True), ("gt", True), ("lte", False)):
        assert make_test(parse_filter(f"c={operator}.{operand}"), kind)(Cell(text)) is holds
        assert make_test(parse_filter(f"c={operator}.{operand}"), kind)(Cell(operand)) is (operator in ("eq", "lte"))


@pytest.mark.parametrize(
    ("patterns", "characters"),
    [
        (["*b*"], LIKE_REACH_CHARACTERS),
        (["*b*", "*c*", "a*", "*a"], LIKE_REACH_CHARACTERS // 2),
        (["*a__b*"], LIKE_REACH_CHARACTERS // 4),
        (["*" + "a" * 24 + "_" + "a" * 20 + "b*"], LIKE_REACH_CHARACTERS // 46),
    ],
)
def test_patterns_search_a_bounded_number_of_characters(patterns: list[str], characters: int):
    asked = selection([f"c=like.{pattern}" for pattern in patterns], Kind.TEXT)
    none = selection([f"c=not.like.{pattern}" for pattern in patterns[:1]], Kind.TEXT)
    within, beyond = insert(c="a" * characters), insert(c="a" * (LIKE_REACH_CHARACTERS + 1))
    assert asked.pick([within]) == []
    assert asked.pick([insert(c="a" * (characters + 1))]) != []
    assert none.pick([beyond]) == asked.pick([beyond]) == [beyond]  # rather once in vain than never


def test_the_ends_of_a_text_are_compared_however_long_it_is():
    text = "a" * (LIKE_REACH_CHARACTERS * 10)
    for pattern, holds in (
        ("a*", True),
        ("b*", False),
        ("*a", True),
        ("*b", False),
        ("b*a*a", False),
        ("a*a*b", False),
    ):
        assert bool(selection([f"c=like.{pattern}"], Kind.TEXT).pick([insert(c=text)])) is holds


def test_a_right_is_known_of_each_text_however_long():
    text = "a" * (LIKE_REACH_CHARACTERS * 10)
    asked = selection([], Kind.TEXT, {"filter": ["c=like.*b*"]})
    assert asked.pick([insert(c=text)]) == []
    assert asked.pick([insert(c=text + "b")])
