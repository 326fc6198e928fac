"""How a filter is read, and that a bad one says what to write instead. What it compares: tests/unit/selection/test_filter_kinds.py."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed.change.changed_row import Cell, Nested, Number
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.filter_text import (
    CONDITIONS_LIMIT,
    DEPTH_LIMIT,
    FILTER_LIMIT_CHARACTERS,
    VALUES_LIMIT,
    parse_filter,
)
from changefeed.selection.filters import (
    BadFilter,
    Condition,
    Filter,
    all_of,
    equalities,
    equality,
    filters_in,
    joined,
    make_test,
    row_test,
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
def test_an_underscore_matches_one_character_anywhere(pattern: str):
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


def test_a_column_with_an_equals_sign_is_quoted():
    assert parse_filter('"a=b""c"=eq.1').column == 'a=b"c'


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("or=(a.eq.1,b.gt.2)", "or=( b.gt.2,a.eq.1)"),
        ("or=(a.eq.1,or(b.gt.2,c.is.null))", "or=(a.eq.1,b.gt.2,c.is.null,a.eq.1)"),
        ("or=(a.eq.1)", "a=eq.1"),
        ("and=(a.in.(1,2),and(a.in.(1,2)))", "a=in.(1,2)"),
        ("not.or=(a.eq.1,b.not.gt.2)", "and=(a.not.eq.1,b.gt.2)"),
        ("or=(a.eq.1,not.and(b.eq.2,not.or(c.eq.3,d.eq.4)))", "or=(a.eq.1,b.not.eq.2,c.eq.3,d.eq.4)"),
        ("or=(a.eq.1,not.b.eq.2)", "or=(a.eq.1,b.not.eq.2)"),
        ("or=(not.eq.1,or.eq.2)", 'or=("not".eq.1,"or".eq.2)'),
        ("not.or=(a.eq.1)", "a=not.eq.1"),
        ('or=("a".eq."1",b.eq."2" )', "or=(a.eq.1,b.eq.2)"),
    ],
)
def test_groups_of_the_same_meaning_are_the_same(text: str, same: str):
    assert parse_filter(text) == parse_filter(same)
    assert hash(parse_filter(text)) == hash(parse_filter(same))


def test_in_a_group_names_and_values_are_quoted_as_in_postgrest():
    group = parse_filter(
        r'or=("a.b \"c".eq."x,(y) \"z\" \\ ",d.eq.a.b:c,e.in.("1,(2)",3),f.like."a\\_*",g.eq.,h.eq."")'
    )
    found = {term.column: (term.operator, *term.values) for term in filters_in([group])}
    assert found == {
        'a.b "c': ("eq", 'x,(y) "z" \\ '),
        "d": ("eq", "a.b:c"),
        "e": ("in", "1,(2)", "3"),
        "f": ("like", r"a\_*"),
        "g": ("eq", ""),
        "h": ("eq", ""),
    }


NAMES = st.text('ab.,=()"\\ \n%ä', min_size=1, max_size=4)
CONDITIONS = st.builds(
    Filter, NAMES, st.sampled_from(["eq", "neq", "gt"]), st.text('1,()"\\ .{}', max_size=4), st.booleans()
)


@given(
    st.recursive(
        CONDITIONS,
        lambda parts: st.builds(joined, st.sampled_from(["or", "and"]), st.lists(parts, min_size=1, max_size=3)),
        max_leaves=8,
    )
)
def test_a_filter_is_read_back_from_its_text(condition: Condition):
    assert parse_filter(str(condition)) == condition


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("or=()", "write column.operator.value, or(…) or and(…) instead of ')'"),
        ("or=(a.eq.1,)", "write column.operator.value, or(…) or and(…) instead of ')'"),
        ("or=(a=eq.1)", "write column.operator.value"),
        ("or=(a.equals.1)", "the operators are eq, neq"),
        ("or=(a.eq.sent, not paid)", "a value with a comma, a bracket or a quote must be in double quotes"),
        ("or=(a.not.not.eq.1)", "the operators are eq, neq"),
        ("or=((a.eq.1))", "write column.operator.value"),
        ("or=(a.eq.1", "write a comma or a closing bracket at its end"),
        ("or=(a.eq.1,b.eq.x(y))", "write a comma or a closing bracket instead of '(y))'"),
        ('or=(a.eq."x"y)', "in double quotes"),
        ('or=(a.eq."x)', "in double quotes"),
        ("or=(a.in.1)", "write a list, such as (a,b,c) instead of '1)'"),
        ("or=(a.in.(1)", "write a comma or a closing bracket at its end"),
        ('or=(a.in.(1"2))', "write a list"),
        ("or=(a.eq.1)b", "leave out 'b'"),
        ("or=(a.eq.1))", "leave out ')'"),
        ("or(a.eq.1)", "or=(status.eq.open,total.gt.100)"),
        ("not.not.or=(a.eq.1)", "or=(status.eq.open,total.gt.100)"),
        ("or=(a.is.maybe)", "write one of null, true, false"),
        ("or=(a.like.b\\)", "must not end with a backslash"),
        ("or=(" + "or(" * DEPTH_LIMIT, f"groups may be nested {DEPTH_LIMIT} deep"),
        (
            f"or=({','.join(f'a.eq.{n}' for n in range(CONDITIONS_LIMIT + 1))})",
            f"at most {CONDITIONS_LIMIT} conditions",
        ),
    ],
)
def test_an_invalid_group_gets_advice(text: str, said: str):
    with pytest.raises(BadFilter) as refused:
        parse_filter(text)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("or=(a.eq.1,b.gt.x)", "'b=gt.x': the column needs a number"),
        ("or=(a.eq.1,and(b.eq.1,not.or(b.like.1,a.eq.2)))", "like is for texts"),
        ("or=(a.eq.1,b.is.true)", "is.true is for booleans"),
    ],
)
def test_a_misfit_in_a_group_is_reported(text: str, said: str):
    with pytest.raises(BadFilter) as refused:
        row_test(parse_filter(text), {"a": Kind.NUMBER, "b": Kind.NUMBER}.get)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["or=(a.eq.1,b.eq.2)"], {("a", "1"), ("b", "2")}),
        (["or=(a.eq.1,a.eq.2)"], {("a", "1"), ("a", "2")}),
        (["or=(a.eq.1,and(b.gt.1,a.in.(2,3)))"], {("a", "1"), ("a", "2"), ("a", "3")}),
        (["or=(a.eq.1,b.gt.2)"], set()),
        (["not.and=(a.neq.1,b.neq.2)"], set()),
        (["c=gt.1", "or=(a.eq.1,b.eq.2)"], {("a", "1"), ("b", "2")}),
        (["not.and=(a.not.eq.1,b.not.eq.2)"], {("a", "1"), ("b", "2")}),
    ],
)
def test_audiences_are_found_by_column_values(texts: list[str], found: set[tuple[str, str]]):
    alternatives = equalities(all_of(map(parse_filter, texts)), lambda _: Kind.TEXT)
    assert {(one.column, str(value)) for one in alternatives for value in one.values} == found


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
        ('id=in.(1 "2")', "in double quotes"),
        ('id=in.("1', "write in.(a,b,c)"),
        ('id=in.("1)', "in double quotes"),
        ("id=in.(", "write in.(a,b,c)"),
        ("name=like.a\\", "must not end with a backslash"),
        (f"id=eq.{'1' * FILTER_LIMIT_CHARACTERS}", f"at most {FILTER_LIMIT_CHARACTERS} characters"),
        (f"id=in.({','.join(map(str, range(VALUES_LIMIT + 1)))})", f"at most {VALUES_LIMIT}"),
    ],
)
def test_an_invalid_filter_gets_advice(text: str, said: str):
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
def test_a_misfit_is_reported_with_what_would_fit(text: str, kind: Kind, said: str):
    with pytest.raises(BadFilter, match=said):
        make_test(parse_filter(text), kind)
