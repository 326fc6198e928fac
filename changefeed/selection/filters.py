"""A filter's text in, a test of a column's value out. Knows no table, change or client.

The operators are PostgREST's (its manual, "Horizontal Filtering") and mean what they mean in SQL: nothing compares with
null, and NaN is the largest number. Texts are ordered by code point, as with COLLATE "C". What cannot be told from the
feed's texts exactly as PostgreSQL tells it is refused.
"""

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from changefeed.change.changed_row import Number
from changefeed.selection.filter_kinds import COMPARISONS, NO_KEY, Comparison, Kind, ToComparable
from changefeed.selection.like import Like, ends_in_escape

FILTER_LIMIT_CHARACTERS = 50_000
VALUES_LIMIT = 1_000  # in one list

Test = Callable[[Any], bool]


class BadFilter(ValueError):
    """The filter is none, or does not fit its column; the message says what to write instead."""


@dataclass(frozen=True)
class Filter:
    """`column=operator.operand`, or `column=not.operator.operand`."""

    column: str
    operator: str
    operand: str
    is_negated: bool = False
    values: tuple[str, ...] = field(default=(), compare=False)  # the operand, or each one of the list of `in`

    def __str__(self) -> str:
        return f"{self.column}={'not.' * self.is_negated}{self.operator}.{self.operand}"


@dataclass(frozen=True)
class Equality:
    """That key(value of the column) is one of `values`, which an index can find."""

    column: str
    key: ToComparable
    values: frozenset[Any]


def parse_filter(text: str) -> Filter:
    """Raises BadFilter. A column's name with a = in it stands in double quotes."""
    if len(text) > FILTER_LIMIT_CHARACTERS:
        raise BadFilter(f"{_shown(text)}: a filter has at most {FILTER_LIMIT_CHARACTERS} characters")
    column, rest = _column(text)
    name, dot, operand = rest.partition(".")
    is_negated = name == "not"
    if is_negated:
        name, dot, operand = operand.partition(".")
    if not column or not dot or name not in OPERATORS:
        raise BadFilter(
            f"{_shown(text)} is no filter: write column=operator.value, such as status=eq.open; the operators are "
            f"{', '.join(OPERATORS)}, each also with not. before it"
        )
    if name == "is" and operand.lower() not in _IS:
        raise BadFilter(f"{_shown(text)}: after is. stands one of {', '.join(_IS)}")
    if name == "like" and ends_in_escape(operand):
        raise BadFilter(f"{_shown(operand)}: a pattern ends with no backslash; a backslash itself is \\\\")
    return Filter(column, name, operand, is_negated, _list(operand) if name == "in" else (operand,))


def make_test(asked: Filter, kind: Kind | None) -> Test:
    """The test of the column's value, as Row has it. Raises BadFilter where the operand does not fit `kind`.

    A value that does not fit `kind` passes no test, negated or not: the column's type was changed since. Without a
    kind, as for a table that only a trigger of the user's tells of, the value's own JSON type decides.
    """
    if kind is not None:
        return _test(asked, kind)
    if asked.operator == "is":
        wanted = _IS[asked.operand.lower()]
        return lambda value: (value is wanted) is not asked.is_negated
    by_type = {
        Number: _test_if_fitting(asked, Kind.NUMBER),
        bool: _test_if_fitting(asked, Kind.BOOLEAN),
        str: _test_if_fitting(asked, Kind.TEXT),
    }
    return lambda value: (test := by_type.get(type(value))) is not None and test(value)


def equality(asked: Filter, kind: Kind | None) -> Equality | None:
    """The filter as one, where it is one and make_test() took it."""
    if asked.operator not in ("eq", "in") or asked.is_negated or kind is None:
        return None
    comparison = COMPARISONS[kind]
    return Equality(asked.column, comparison.key, frozenset(map(comparison.read_operand, asked.values)))


def like_cost(filters: Iterable[Filter]) -> int:
    """How many characters all their patterns may compare at each place of a text, beyond a search in linear time."""
    return sum(Like(term.operand).cost for term in filters if term.operator == "like")


def _column(text: str) -> tuple[str, str]:
    if quoted := re.match(r'"((?:[^"]|"")+)"=', text):
        return quoted[1].replace('""', '"'), text[quoted.end() :]
    column, _, rest = text.partition("=")
    return column, rest


def _list(text: str) -> tuple[str, ...]:
    """(a,b,"c,d"), as PostgREST has it: within double quotes a backslash keeps the next character as it is."""
    end = len(text) - 1
    if not (text.startswith("(") and text.endswith(")") and end):
        raise BadFilter(f"{_shown(text)} is no list: write in.(a,b,c)")
    values: list[str] = []
    at = 0
    while at < end:  # at the bracket, or at the comma before a value
        if len(values) == VALUES_LIMIT:
            raise BadFilter(f"{_shown(text)}: a list has at most {VALUES_LIMIT} values")
        found = _LIST_ITEM.match(text, at + 1, end)
        if found is None:
            raise BadFilter(
                f'{_shown(text)} is no list: a value with a comma or a quote stands in double quotes: in.("a,b",c)'
            )
        quoted, bare = found.groups()
        values.append(bare if quoted is None else _ESCAPED.sub(r"\1", quoted))
        at = found.end()
    return tuple(values)


_LIST_ITEM = re.compile(r'(?:"((?:[^"\\]|\\.)*)"|([^",]*))(?=,|\Z)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def _test_if_fitting(asked: Filter, kind: Kind) -> Test | None:
    try:
        return _test(asked, kind)
    except BadFilter:
        return None


def _test(asked: Filter, kind: Kind) -> Test:
    comparison = COMPARISONS[kind]
    if kind is Kind.NOTHING:
        raise BadFilter(
            f"{_shown(asked)}: no filter can be on json or a composite type, whose null may be one within; filter by a "
            "generated column, such as doc ->> 'status'"
        )
    if asked.operator == "is":
        return _is(asked, kind, comparison)
    if kind is Kind.NULL_ONLY:
        raise BadFilter(
            f"{_shown(asked)}: a column of this type or collation knows only is.null, since only PostgreSQL can "
            "compare it; filter by a generated column, such as lower(email)"
        )
    passes = _like_test(asked, comparison) if asked.operator == "like" else _compare(asked, comparison)

    def test(value: Any) -> bool:
        try:
            return passes(value) is not asked.is_negated
        except NO_KEY:
            return False

    return test


def _is(asked: Filter, kind: Kind, comparison: Comparison) -> Test:
    wanted = _IS[asked.operand.lower()]
    if wanted is not None and kind is not Kind.BOOLEAN:
        raise BadFilter(f"{_shown(asked)}: is.{asked.operand.lower()} is for booleans")
    return lambda value: (value is None or comparison.fits(value)) and (value is wanted) is not asked.is_negated


def _like_test(asked: Filter, comparison: Comparison) -> Test:
    if not comparison.has_like:
        raise BadFilter(f"{_shown(asked)}: like is for texts")
    like = Like(asked.operand)

    def test(value: Any) -> bool:
        if not comparison.fits(value):
            raise ValueError("null, or of another type")
        return like(value)

    return test


def _compare(asked: Filter, comparison: Comparison) -> Test:
    if asked.operator not in ("eq", "neq", "in") and not comparison.is_ordered:
        raise BadFilter(f"{_shown(asked)}: a column of this type knows only eq, neq, in and is")
    key = comparison.key
    try:
        operands = [comparison.read_operand(value) for value in asked.values]
    except NO_KEY:
        raise BadFilter(f"{_shown(asked)}: the column wants {comparison.expected}") from None
    if asked.operator == "in":
        wanted = frozenset(operands)
        return lambda value: key(value) in wanted
    compare, [operand] = _COMPARE[asked.operator], operands
    return lambda value: compare(key(value), operand)


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
