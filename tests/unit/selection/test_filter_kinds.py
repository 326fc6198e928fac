"""Of every type, a filter lets through what PostgreSQL's WHERE does, or is refused. PostgreSQL itself is asked."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changefeed.change.changed_row import Cell
from changefeed.selection.filter_kinds import COMPARISONS, Kind
from changefeed.selection.filter_text import parse_filter
from changefeed.selection.filters import BadFilter, equality, make_test
from tests import postgres
from tests.journal_database import Session
from tests.unit.selection.filter_cases import (
    CASES,
    DOMAIN_OF_ENUM,
    NOTHING,
    NULL_ONLY,
    ORDERED,
    PREPARE,
    RANDOM,
    Case,
    a_filter,
    as_row_has_it,
    condition,
    kinds_of,
)


@pytest.fixture(scope="module")
def database() -> Iterator[Session]:
    session = Session(postgres.new_database())
    session.run(PREPARE)
    yield session
    session.connection.close()


@pytest.fixture(scope="module")
def kinds(database: Session) -> dict[str, Kind]:
    return kinds_of(database, [*(case.type_name for case in CASES), *NULL_ONLY, *NOTHING, DOMAIN_OF_ENUM])


def differences(
    database: Session,
    type_name: str,
    kind: Kind,
    texts: Sequence[str],
    asked: Iterable[tuple[str, Sequence[str]]],
    operand_type: str = "",
) -> list[str]:
    """Where the feed's test says other than PostgreSQL does of the values and of null; what it refuses is none."""
    questions = list(asked)
    values: list[str | None] = [*texts, None]
    row_texts = [
        text for (text,) in database.run(f"SELECT to_json(t::{type_name})::text FROM unnest(%s::text[]) AS t", values)
    ]
    rows = [as_row_has_it(text) for text in row_texts]
    answers = database.run(
        "SELECT ask(%s, c, %s) FROM unnest(%s::text[]) WITH ORDINALITY AS u (c, n) ORDER BY n",
        type_name,
        values,
        [condition(operator, operands, operand_type) for operator, operands in questions],
    )
    found = []
    for (operator, operands), (answer,) in zip(questions, answers, strict=True):
        text = a_filter(operator, operands)
        try:
            test, opposite = (make_test(parse_filter(a_filter(operator, operands, n)), kind) for n in ("", "not."))
        except BadFilter:
            found += [f"{text} is refused"] if answer is not None else []
            continue
        if answer is None:
            found.append(f"{text} is taken")
            continue
        index = equality(parse_filter(text), kind)
        for value, holds in zip(rows, answer, strict=True):
            if (test(Cell(value)), opposite(Cell(value))) != (holds is True, holds is False):
                found.append(
                    f"{text} says {test(Cell(value))}, {opposite(Cell(value))} of {value!r}, PostgreSQL {holds}"
                )
            if index and value is not None and (index.key(value) in index.values) is not holds:
                found.append(f"{text} is not found by its key for {value!r}")
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_comparison_is_postgresqls(database: Session, kinds: dict[str, Kind], case: Case):
    kind = kinds[case.type_name]
    assert kind is case.kind
    operands = (*case.values, *case.operands)
    questions = [(operator, (operand,)) for operator in case.operators for operand in operands]
    questions += [("in", operands[n : n + 3]) for n in range(len(operands))]
    assert differences(database, case.type_name, kind, case.values, questions, case.operand_type) == []


@pytest.mark.parametrize(
    ("type_name", "text"),
    [
        ("timestamp(0)", "294276-12-31 23:59:59.5"),
        ("timestamp(3)", "294276-12-31 23:59:59.9996"),
        ("timestamptz(0)", "294276-12-31 23:59:59.5+00"),
        ("timestamp(0)", "4714-11-24 00:00:00 BC"),
        ("time(0)", "23:59:59.5"),
        ("date", "5874897-12-31"),
    ],
)
def test_rounded_values_compare_as_postgresql_writes_them(database: Session, type_name: str, text: str):
    [(written, shown)] = database.run(
        f"SELECT to_json(%s::text::{type_name})::text, %s::text::{type_name}::text", text, text
    )
    kind, value = Kind(type_name.partition("(")[0]), as_row_has_it(written)
    for operand in (shown, value):
        assert make_test(parse_filter(f"c=eq.{operand}"), kind)(Cell(value))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_no_value_of_the_type_is_refused(kinds: dict[str, Kind], case: Case):
    for operand, operator in itertools.product(case.refused, ("eq", "neq", "not.eq", "lt")):
        with pytest.raises(BadFilter, match=r"the column needs|supports only eq"):
            make_test(parse_filter(f"c={operator}.{operand}"), kinds[case.type_name])
    assert set(ORDERED) - set(case.operators) or COMPARISONS[case.kind].is_ordered


def test_a_domain_compares_like_its_type(kinds: dict[str, Kind]):
    assert kinds[DOMAIN_OF_ENUM] is Kind.ENUM


@pytest.mark.parametrize("operator", ["eq.a", "neq.a", "in.(a)", "lt.a", "like.a*", "is.true", "not.is.true"])
def test_what_only_postgresql_can_compare_is_refused(kinds: dict[str, Kind], operator: str):
    for name in (*NULL_ONLY, *NOTHING):
        with pytest.raises(BadFilter, match=r"filter by a generated column|is for booleans"):
            make_test(parse_filter(f"c={operator}"), kinds[name])


def test_a_null_of_any_type_is_found_or_the_filter_refused(database: Session, kinds: dict[str, Kind]):
    texts = {case.type_name: case.values[0] for case in CASES} | NULL_ONLY
    for name, text in texts.items():
        [(written,)] = database.run(f"SELECT to_json(%s::text::{name})::text", text)
        is_null, is_not_null = (make_test(parse_filter(f"c={n}is.null"), kinds[name]) for n in ("", "not."))
        assert (is_null(Cell(None)), is_not_null(Cell(None))) == (True, False)
        assert tuple(test(Cell(as_row_has_it(written))) for test in (is_null, is_not_null)) == (False, True), name
    for name in NOTHING:  # null::jsonb and 'null'::jsonb look alike
        with pytest.raises(BadFilter, match="filter by a generated column"):
            make_test(parse_filter("c=is.null"), kinds[name])


@pytest.mark.parametrize("type_name", RANDOM)
@settings(max_examples=15)
@given(data=st.data())
def test_random_values_compare_as_postgresqls(
    database: Session, kinds: dict[str, Kind], type_name: str, data: st.DataObject
):
    texts = data.draw(st.lists(RANDOM[type_name], min_size=1, max_size=8))
    operands = texts + data.draw(st.lists(RANDOM[type_name], max_size=4))
    questions = [(operator, (operand,)) for operator in ORDERED for operand in operands] + [("in", operands)]
    assert differences(database, type_name, kinds[type_name], texts, questions) == []
