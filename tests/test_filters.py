"""A filter means what the same condition means in PostgreSQL, and a bad one says what to write instead."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed.filters import VALUES_LIMIT, BadFilter, Kind, equality, make_test, parse_filter
from changefeed.row import Number
from tests import postgres

SQL = {"eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "like": "LIKE"}
ORDERED = ("eq", "neq", "lt", "lte", "gt", "gte")

# A type, its kind, values of it, and the operators that are compared.
TYPES: tuple[tuple[str, Kind, tuple[str | None, ...], tuple[str, ...]], ...] = (
    ("bigint", Kind.NUMBER, ("9007199254740993", "9007199254740992", "-1", "0", None), ORDERED),
    ("numeric", Kind.NUMBER, ("1.0", "1", "0.10", "1e30", "NaN", "-5.5", None), ORDERED),
    ("float8", Kind.NUMBER, ("1.5", "Infinity", "-Infinity", "NaN", "0.25", "1e-300", None), ORDERED),
    ("boolean", Kind.BOOLEAN, ("true", "false", None), ("eq", "neq")),
    ("date", Kind.TIME, ("2026-11-22", "0001-01-01", "infinity", "-infinity", None), ORDERED),
    ("timestamp", Kind.TIME, ("2026-11-22 10:00:00", "2026-11-22 10:00:00.5", "infinity", None), ORDERED),
    ("timestamptz", Kind.TIME, ("2026-11-22 10:00:00+02", "2026-11-22 08:00:00Z", "2026-11-22 08:00:00.01Z"), ORDERED),
    ("uuid", Kind.UUID, ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12"), ORDERED),
    ('text COLLATE "C"', Kind.TEXT, ("", "a", "A", "ab", "ä", "😀", "z", "a%b", "a_b", "a\nb", None), ORDERED),
    ("character(4)", Kind.PADDED, ("a", "ab ", "abc", "", None), ("eq", "neq")),
    ("inet", Kind.OTHER, ("10.0.0.1", "10.0.0.2", None), ("eq", "neq")),
)


def execute(statement: str, *parameters: object) -> list[tuple[object, ...]]:
    return postgres.execute(postgres.cluster().conninfo, statement, parameters)


def as_row_has_it(text: str) -> object:
    return json.loads(text, parse_int=Number, parse_float=Number)


@pytest.mark.parametrize(("type_name", "kind", "values", "operators"), TYPES, ids=lambda part: str(part)[:12])
def test_each_comparison_is_postgresqls(type_name, kind, values, operators):
    for name in operators:
        for operand in filter(None, values):
            bare = type_name.removesuffix(' COLLATE "C"')
            expected = execute(
                f"SELECT to_json(v)::text, coalesce(v {SQL[name]} %s::{bare}, false), "
                f"coalesce(NOT v {SQL[name]} %s::{bare}, false) "
                f"FROM (SELECT t::{type_name} AS v FROM unnest(%s::text[]) AS t) AS t",
                operand,
                operand,
                list(values),
            )
            test, opposite = (make_test(parse_filter(f"c={n}{name}.{operand}"), kind) for n in ("", "not."))
            for text, holds, does_not in expected:
                value = as_row_has_it(text or "null")
                assert (test(value), opposite(value)) == (holds, does_not), (text, name, operand)


@given(
    st.text("ab%_\\\n", max_size=8).filter(lambda text: (len(text) - len(text.rstrip("\\"))) % 2 == 0),
    st.lists(st.text("ab%_\\\n", max_size=10), min_size=1, max_size=20),
)
def test_like_is_postgresqls(pattern: str, texts: list[str]):
    test = make_test(parse_filter(f"c=like.{pattern}"), Kind.TEXT)
    expected = execute("SELECT t, t LIKE %s FROM unnest(%s::text[]) AS t", pattern, texts)
    assert [(text, test(text)) for text in texts] == expected


def test_a_star_is_any_text_and_no_pattern_makes_it_slow():
    test = make_test(parse_filter("c=like." + "*a" * 50 + "*b"), Kind.TEXT)
    assert not test("a" * 20_000)
    assert test("a" * 20_000 + "b")


def test_a_list_is_understood_with_quotes():
    test = make_test(parse_filter(r'c=in.(plain,"with,comma","with\"quote","back\\slash",)'), Kind.TEXT)
    assert all(map(test, ("plain", "with,comma", 'with"quote', "back\\slash", "")))
    assert not test("with")
    assert not test(None)


def test_is_knows_null_and_booleans():
    assert make_test(parse_filter("c=is.null"), Kind.NUMBER)(None)
    assert make_test(parse_filter("c=not.is.null"), Kind.STRUCTURED)({})
    assert not make_test(parse_filter("c=is.true"), Kind.BOOLEAN)(None)
    assert make_test(parse_filter("c=not.is.true"), Kind.BOOLEAN)(None)


@pytest.mark.parametrize(
    ("value", "holds"),
    [(Number("7"), True), (Number("7.0"), True), ("7", True), (True, False), (None, False), ({}, False)],
)
def test_without_a_kind_the_values_own_type_decides(value, holds):
    assert make_test(parse_filter("c=eq.7"), None)(value) is holds


def test_a_value_of_another_type_than_the_column_had_never_fits():
    assert not make_test(parse_filter("c=eq.7"), Kind.NUMBER)("seven")
    assert not make_test(parse_filter("c=not.eq.7"), Kind.NUMBER)("seven")
    assert not make_test(parse_filter("c=like.a*"), Kind.TEXT)({})


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
        ("paid=is.maybe", "after is. stands one of null, true, false"),
        ("id=in.1,2", "write in.(a,b,c)"),
        ('id=in.(1"2)', "stands in double quotes"),
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
        ("c=eq.seven", Kind.NUMBER, "wants a number"),
        ("c=in.(1,two)", Kind.NUMBER, "wants a number"),
        ("c=eq.maybe", Kind.BOOLEAN, "wants true or false"),
        ("c=gte.yesterday", Kind.TIME, "wants a date or a time"),
        ("c=eq.7", Kind.UUID, "wants a uuid"),
        ("c=gt.true", Kind.BOOLEAN, "knows only eq, neq, in and is"),
        ("c=gt.10.0.0.1", Kind.OTHER, "knows only eq, neq, in and is"),
        ("c=like.1*", Kind.NUMBER, "like is for texts"),
        ("c=eq.{}", Kind.STRUCTURED, "knows only is.null"),
    ],
)
def test_what_does_not_fit_its_column_says_what_would(text: str, kind: Kind, said: str):
    with pytest.raises(BadFilter, match=said):
        make_test(parse_filter(text), kind)
