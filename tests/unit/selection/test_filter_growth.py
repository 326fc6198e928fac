"""Twice the input takes a filter twice the time, not four times; and no subscription asks for more than is bounded."""

import contextlib
import time
from collections.abc import Callable

import pytest

from changefeed.change.changed_row import Number
from changefeed.selection.filter_kinds import COMPARISONS, Kind
from changefeed.selection.filters import FILTER_LIMIT_CHARACTERS, BadFilter, make_test, parse_filter
from changefeed.selection.like import Like
from changefeed.selection.subscription import (
    FILTERS_LIMIT_CHARACTERS,
    LIKE_COST_LIMIT,
    PATTERNS_LIMIT_CHARACTERS,
    BadSubscription,
    Subscription,
)

SMALL = FILTER_LIMIT_CHARACTERS // 5


def parsed(text: str) -> None:
    try:
        asked = parse_filter(text)
        for kind in Kind:
            make_test(asked, kind)
    except BadFilter:
        pass


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
    """The processor's, so that nobody else's work counts, and the least of some, so that no pause does."""
    taken = []
    for _ in range(5):
        began = time.process_time()
        work(text)
        taken.append(time.process_time() - began)
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
        (["c=eq." + "x" * FILTER_LIMIT_CHARACTERS], "a filter has at most 50000 characters"),
        ([f"c=eq.{n}" + "x" * (FILTERS_LIMIT_CHARACTERS // 3) for n in range(3)], "at most 100000 characters together"),
        ([f"c=like.*{n}" + "x" * (PATTERNS_LIMIT_CHARACTERS // 10) for n in range(10)], "at most 1000 characters"),
        ([f"c=like.*a{'_' * n}b*" for n in range(20)], "at most 50 characters together in pieces with a _ within"),
    ],
)
def test_what_would_cost_too_much_is_refused(filters: list[str], said: str):
    with pytest.raises(BadSubscription, match=said) as refused:
        Subscription.parse({"filter": filters})
    assert refused.value.code == "bad_filter"
    assert len(str(refused.value)) < 300
