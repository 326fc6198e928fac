"""How a filter is read, and that a bad one says what to write instead. What it compares: tests/unit/selection/test_filter_types.py."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed.change.changed_row import Cell, Nested, Number
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.filters import (
    FILTER_LIMIT_CHARACTERS,
    VALUES_LIMIT,
    BadFilter,
    equality,
    make_test,
    parse_filter,
)
from tests import postgres


def execute(statement: str, *parameters: object) -> list[tuple[object, ...]]:
    return postgres.execute(postgres.cluster().conninfo, statement, parameters)


@given(
    st.text("ab%_\\\n", max_size=8).filter(lambda text: (len(text) - len(text.rstrip("\\"))) % 2 == 0),
    st.lists(st.text("ab%_\\\n", max_size=10), min_size=1, max_size=20),
)
def test_like_is_postgresqls(pattern: str, texts: list[str]):
    test = make_test(parse_filter(f"c=like.{pattern}"), Kind.TEXT)
    expected = execute("SELECT t, t LIKE %s FROM unnest(%s::text[]) AS t", pattern, texts)
    assert [(text, test(Cell(text))) for text in texts] == expected


@pytest.mark.parametrize("pattern", ["a_*_b", "*_a_*", "_*_", "*__*b_c*", "a__c", "*a_b", "b_*", "*", "", "*_b_*_b_*"])
def test_an_underscore_is_one_character_wherever_it_stands(pattern: str):
    texts = ["".join(letters) for length in range(7) for letters in itertools.product("abc", repeat=length)]
    test = make_test(parse_filter(f"c=like.{pattern}"), Kind.TEXT)
    expected = execute("SELECT t, t LIKE %s FROM unnest(%s::text[]) AS t", pattern.replace("*", "%"), texts)
    assert [(text, test(Cell(text))) for text in texts] == expected


def test_a_star_is_any_text_and_no_pattern_makes_it_slow():
    test = make_test(parse_filter("c=like." + "*a" * 50 + "*b"), Kind.TEXT)
    assert not test(Cell("a" * 20_000))
    assert test(Cell("a" * 20_000 + "b"))


def test_a_list_is_understood_with_quotes():
    test = make_test(parse_filter(r'c=in.(plain,"with,comma","with\"quote","back\\slash",)'), Kind.TEXT)
    assert all(test(Cell(value)) for value in ("plain", "with,comma", 'with"quote', "back\\slash", ""))
    assert not test(Cell("with"))
    assert not test(Cell(None))


def test_is_knows_null_and_booleans():
    assert make_test(parse_filter("c=is.null"), Kind.NUMBER)(Cell(None))
    assert make_test(parse_filter("c=not.is.null"), Kind.NULL_ONLY)(Cell(Nested("{}")))
    assert not make_test(parse_filter("c=is.true"), Kind.BOOLEAN)(Cell(None))
    assert make_test(parse_filter("c=not.is.true"), Kind.BOOLEAN)(Cell(None))


@pytest.mark.parametrize(
    ("value", "holds"),
    [(Number("7"), True), (Number("7.0"), True), ("7", True), (True, False), (None, False), ({}, False)],
)
def test_without_a_kind_the_values_own_type_decides(value, holds):
    assert make_test(parse_filter("c=eq.7"), None)(Cell(value)) is holds


# As they come where the column's type is not what it was when its kind was read.
@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("c=eq.7", Kind.NUMBER, "7"),
        ("c=gt.7", Kind.FLOAT8, "8"),
        ("c=lte.5", Kind.TEXT, Number("400000")),
        ("c=eq.7", Kind.TEXT, Number("7")),
        ("c=like.7*", Kind.TEXT, Number("7")),
        ("c=like.a*", Kind.TEXT, Nested("{}")),
        ("c=eq.true", Kind.TEXT, True),
        ("c=eq.true", Kind.BOOLEAN, "true"),
        ("c=is.true", Kind.BOOLEAN, Number("1")),
        ("c=is.null", Kind.TEXT, Number("1")),
        ("c=in.(a)", Kind.ENUM, Nested("[]")),
        ("c=eq.2026-11-22", Kind.DATE, "2026-11-22T10:00:00"),
        ("c=eq.2026-11-22T10:00:00", Kind.TIMESTAMP, "2026-11-22T10:00:00+00:00"),
        ("c=eq.2026-11-22T10:00:00", Kind.TIMESTAMPTZ, "2026-11-22T10:00:00"),
        ("c=eq.10:00", Kind.TIME, "10:00:00+00"),
        ("c=eq.10:00", Kind.TIMETZ, "10:00:00"),
    ],
)
def test_a_value_that_is_not_of_the_columns_kind_passes_no_test(text: str, kind: Kind, value: object):
    assert not make_test(parse_filter(text), kind)(Cell(value))
    assert not make_test(parse_filter(text.replace("=", "=not.")), kind)(Cell(value))


def test_an_equality_is_found_by_its_key():
    found = equality(parse_filter("c=eq.1.50"), Kind.NUMBER)
    assert found is not None
    assert found.key(Number("1.5")) in found.values
    assert equality(parse_filter("c=not.eq.1"), Kind.NUMBER) is None
    assert equality(parse_filter("c=gt.1"), Kind.NUMBER) is None


def test_a_column_with_an_equals_sign_stands_in_quotes():
    assert parse_filter('"a=b""c"=eq.1').column == 'a=b"c'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("status", "write column=operator.value"),
        ("status=open", "write column=operator.value"),
        ("status=equals.open", "the operators are eq, neq"),
        ("=eq.open", "write column=operator.value"),
        ("status=not.open", "write column=operator.value"),
        ("paid=is.maybe", "write one of null, true, false"),
        ("id=in.1,2", "write in.(a,b,c)"),
        ('id=in.(1"2)', "in double quotes"),
        ('id=in.("1"2)', "in double quotes"),
        ('id=in.("1', "write in.(a,b,c)"),
        ('id=in.("1)', "in double quotes"),
        ("id=in.(", "write in.(a,b,c)"),
        ("name=like.a\\", "must not end with a backslash"),
        (f"id=eq.{'1' * FILTER_LIMIT_CHARACTERS}", f"at most {FILTER_LIMIT_CHARACTERS} characters"),
        (f"id=in.({','.join(map(str, range(VALUES_LIMIT + 1)))})", f"at most {VALUES_LIMIT}"),
    ],
)
def test_what_is_no_filter_says_what_to_write(text: str, said: str):
    with pytest.raises(BadFilter) as refused:
        make_test(parse_filter(text), Kind.TEXT)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("c=eq.seven", Kind.NUMBER, "needs a number"),
        ("c=in.(1,two)", Kind.NUMBER, "needs a number"),
        ("c=eq.maybe", Kind.BOOLEAN, "needs true or false"),
        ("c=gte.yesterday", Kind.DATE, "needs a date, such as 2026-11-22"),
        ("c=gte.9", Kind.TIME, "needs a time of day"),
        ("c=eq.2026-11-22T10:00:00 02:00", Kind.TIMESTAMPTZ, "in a URL %2B02:00"),
        ("c=eq.7", Kind.UUID, "needs a uuid"),
        ("c=gt.happy", Kind.ENUM, "supports only eq, neq, in and is"),
        ("c=eq.deadbeef", Kind.BYTEA, "needs bytes in hexadecimal"),
        ("c=like.1*", Kind.NUMBER, "like is for texts"),
        ("c=is.true", Kind.NUMBER, "is.true is for booleans"),
        ("c=neq.a", Kind.NULL_ONLY, "supports only is.null"),
        ("c=is.null", Kind.NOTHING, "generated column"),
    ],
)
def test_what_does_not_fit_its_column_says_what_would(text: str, kind: Kind, said: str):
    with pytest.raises(BadFilter, match=said):
        make_test(parse_filter(text), kind)
