"""A filter's text in, a test of a column's value out. Knows no table, change or client.

The operators are PostgREST's (its manual, "Horizontal Filtering") and mean the same as in SQL: nothing compares with
null, and NaN is the largest number. Texts are ordered by code point, as with COLLATE "C". A comparison whose result
might differ from PostgreSQL's is refused.
"""

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from changefeed.change.changed_row import Cell, Number
from changefeed.selection.filter_kinds import (
    COMPARISONS,
    NO_KEY,
    OPERAND_LIMIT_CHARACTERS,
    Comparison,
    Kind,
    ToComparable,
)
from changefeed.selection.like import Like, ends_in_escape

FILTER_LIMIT_CHARACTERS = OPERAND_LIMIT_CHARACTERS
VALUES_LIMIT = 1_000  # in one list

Test = Callable[[Cell], bool]


class BadFilter(ValueError):
    """The filter is malformed, or does not fit its column; the message says what to write instead."""


@dataclass(frozen=True)
class Filter:
    """`column=operator.operand`, or `column=not.operator.operand`.

    The operand is parsed once for each kind of column, even if a change of the schema makes the test again.
    """

    column: str
    operator: str
    operand: str
    is_negated: bool = False
    values: tuple[str, ...] = field(default=(), compare=False)  # the operand, or the values of the list of `in`
    reach: int | None = field(default=None, compare=False)  # the longest text that `like` searches; None is any length
    _made: "dict[Kind | None, _Made | BadFilter]" = field(default_factory=dict, init=False, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.column}={'not.' * self.is_negated}{self.operator}.{self.operand}"


@dataclass(frozen=True)
class Equality:
    """The test that key(value of the column) is in `values`; an index can look it up."""

    column: str
    key: ToComparable
    values: frozenset[Any]


@dataclass(frozen=True)
class _Made:
    test: Test
    equality: Equality | None = None


def parse_filter(text: str) -> Filter:
    """Parses a filter; a column's name with a = must be in double quotes. Raises BadFilter."""
    if len(text) > FILTER_LIMIT_CHARACTERS:
        raise BadFilter(f"{_shown(text)}: a filter must have at most {FILTER_LIMIT_CHARACTERS} characters")
    column, rest = _column(text)
    name, dot, operand = rest.partition(".")
    is_negated = name == "not"
    if is_negated:
        name, dot, operand = operand.partition(".")
    if not column or not dot or name not in OPERATORS:
        raise BadFilter(
            f"{_shown(text)} is not a filter: write column=operator.value, such as status=eq.open; the operators are "
            f"{', '.join(OPERATORS)}, each also with not. before it"
        )
    if name == "is" and operand.lower() not in _IS:
        raise BadFilter(f"{_shown(text)}: write one of {', '.join(_IS)} after is.")
    if name == "like" and ends_in_escape(operand):
        raise BadFilter(f"{_shown(operand)}: a pattern must not end with a backslash; write \\\\ for one")
    return Filter(column, name, operand, is_negated, _list(operand) if name == "in" else (operand,))


def make_test(asked: Filter, kind: Kind | None) -> Test:
    """The test of the column's value, as ChangedRow has it. Raises BadFilter if the operand does not fit `kind`.

    A value that does not fit `kind` passes no test, negated or not: the column's type was changed since. Without a
    kind, as for a table that only a user's trigger names, the value's JSON type decides.
    """
    return _make(asked, kind).test


def equality(asked: Filter, kind: Kind | None) -> Equality | None:
    """The filter as an Equality, if it is one and make_test() accepted it."""
    return _make(asked, kind).equality


def like_cost(filters: Iterable[Filter]) -> int:
    """How many characters all their patterns compare at each position of a text, beyond a linear search."""
    return sum(Like(term.operand).cost for term in filters if term.operator == "like")


def within_reach(filters: Iterable[Filter], characters: int) -> set[Filter]:
    """The same filters, limited to comparing `characters` of a text in total, however many they are.

    A text that is too long for that is not searched, and counts as matching.
    """
    patterns = {term: Like(term.operand) for term in filters if term.operator == "like"}
    cost = sum(max(1, like.cost) for like in patterns.values() if like.is_search)
    return {replace(term, reach=characters // cost) if cost and term in patterns else term for term in filters}


def _make(asked: Filter, kind: Kind | None) -> _Made:
    if kind not in asked._made:
        try:
            asked._made[kind] = _of_kind(asked, kind) if kind is not None else _Made(_of_any_kind(asked))
        except BadFilter as error:
            asked._made[kind] = error
    made = asked._made[kind]
    if isinstance(made, BadFilter):
        raise BadFilter(str(made))
    return made


def _of_any_kind(asked: Filter) -> Test:
    if asked.operator == "is":
        wanted = _IS[asked.operand.lower()]
        return lambda cell: (cell.value is wanted) is not asked.is_negated
    by_type = {
        Number: _test_if_fitting(asked, Kind.NUMBER),
        bool: _test_if_fitting(asked, Kind.BOOLEAN),
        str: _test_if_fitting(asked, Kind.TEXT),
    }
    return lambda cell: (test := by_type.get(type(cell.value))) is not None and test(cell)


def _column(text: str) -> tuple[str, str]:
    if quoted := re.match(r'"((?:[^"]|"")+)"=', text):
        return quoted[1].replace('""', '"'), text[quoted.end() :]
    column, _, rest = text.partition("=")
    return column, rest


def _list(text: str) -> tuple[str, ...]:
    """Parses (a,b,"c,d") as PostgREST does: within double quotes, a backslash escapes the next character."""
    end = len(text) - 1
    if not (text.startswith("(") and text.endswith(")") and end):
        raise BadFilter(f"{_shown(text)} is not a list: write in.(a,b,c)")
    values: list[str] = []
    at = 0
    while at < end:  # at the bracket, or at the comma before a value
        if len(values) == VALUES_LIMIT:
            raise BadFilter(f"{_shown(text)}: a list must have at most {VALUES_LIMIT} values")
        found = _LIST_ITEM.match(text, at + 1, end)
        if found is None:
            raise BadFilter(
                f'{_shown(text)} is not a list: put a value with a comma or a quote in double quotes: in.("a,b",c)'
            )
        quoted, bare = found.groups()
        values.append(bare if quoted is None else _ESCAPED.sub(r"\1", quoted))
        at = found.end()
    return tuple(values)


_LIST_ITEM = re.compile(r'(?:"((?:[^"\\]|\\.)*)"|([^",]*))(?=,|\Z)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def _test_if_fitting(asked: Filter, kind: Kind) -> Test | None:
    try:
        return make_test(asked, kind)
    except BadFilter:
        return None


def _of_kind(asked: Filter, kind: Kind) -> _Made:
    comparison = COMPARISONS[kind]
    if kind is Kind.NOTHING:
        raise BadFilter(
            f"{_shown(asked)}: json and composite types cannot be filtered, since a null may be inside; filter by a "
            "generated column, such as doc ->> 'status'"
        )
    if asked.operator == "is":
        return _Made(_is(asked, kind, comparison))
    if kind is Kind.NULL_ONLY:
        raise BadFilter(
            f"{_shown(asked)}: a column of this type or collation supports only is.null, since only PostgreSQL can "
            "compare it; filter by a generated column, such as lower(email)"
        )
    return _Made(_like(asked, comparison)) if asked.operator == "like" else _compare(asked, comparison)


def _is(asked: Filter, kind: Kind, comparison: Comparison) -> Test:
    wanted = _IS[asked.operand.lower()]
    if wanted is not None and kind is not Kind.BOOLEAN:
        raise BadFilter(f"{_shown(asked)}: is.{asked.operand.lower()} is for booleans")

    def test(cell: Cell) -> bool:
        return (cell.value is None or comparison.fits(cell.value)) and (cell.value is wanted) is not asked.is_negated

    return test


def _like(asked: Filter, comparison: Comparison) -> Test:
    if not comparison.has_like:
        raise BadFilter(f"{_shown(asked)}: like is for texts")
    like = Like(asked.operand)

    def test(cell: Cell) -> bool:
        if not comparison.fits(cell.value):
            return False
        fits = like(cell.value, asked.reach)
        return fits is None or fits is not asked.is_negated

    return test


def _compare(asked: Filter, comparison: Comparison) -> _Made:
    if asked.operator not in ("eq", "neq", "in") and not comparison.is_ordered:
        raise BadFilter(f"{_shown(asked)}: a column of this type supports only eq, neq, in and is")
    read = comparison.key
    try:
        operands = [comparison.read_operand(value) for value in asked.values]
    except NO_KEY:
        raise BadFilter(f"{_shown(asked)}: the column needs {comparison.expected}") from None
    compare: Callable[[Any, Any], bool] = _COMPARE.get(asked.operator, _is_one_of)
    operand = frozenset(operands) if asked.operator == "in" else operands[0]
    is_negated = asked.is_negated

    def test(cell: Cell) -> bool:
        key = cell.key(read)
        return key is not None and compare(key, operand) is not is_negated

    is_equality = asked.operator in ("eq", "in") and not is_negated
    return _Made(test, Equality(asked.column, read, frozenset(operands)) if is_equality else None)


def _is_one_of(key: Any, keys: frozenset[Any]) -> bool:
    return key in keys


def _shown(asked: Filter | str) -> str:
    text = str(asked)
    return repr(text if len(text) <= 80 else text[:77] + "...")


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}
OPERATORS = (*_COMPARE, "in", "is", "like")
_IS = {"null": None, "true": True, "false": False}
