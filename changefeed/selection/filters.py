"""A parsed filter in, a test of a row's values out. Knows no table, change or client.

The operators are PostgREST's (its manual, "Horizontal Filtering") and mean the same as in SQL: nothing compares with
null, and NaN is the largest number. Texts are ordered by code point, as with COLLATE "C". A comparison whose result
might differ from PostgreSQL's is refused.

Groups have no negation of their own: by De Morgan's laws, which hold in SQL's logic of three values, it moves into
their parts. A group of "and" or "or" is true exactly if all, or any, of its parts are. So no part need distinguish
false from null.
"""

import operator
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from changefeed.change.changed_row import Cell, Number
from changefeed.selection.filter_kinds import (
    COMPARISONS,
    NO_KEY,
    Comparison,
    Kind,
    ToComparable,
)
from changefeed.selection.like import Like

Test = Callable[[Cell], bool]
RowTest = Callable[[Callable[[str], Cell]], bool]  # asks for the cells of the columns that it needs
KindOf = Callable[[str], Kind | None]  # of a column; None if the table is not known


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
        is_plain = "=" not in self.column and not self.column.startswith('"')
        column = self.column if is_plain else '"' + self.column.replace('"', '""') + '"'
        return f"{column}={self._operation}{self.operand}"

    @property
    def _operation(self) -> str:
        return f"{'not.' * self.is_negated}{self.operator}."

    def in_group(self) -> str:
        """Its text as a part of a group."""
        operand = self.operand if self.operator == "in" else _quoted(self.operand)
        return f"{_quoted(self.column)}.{self._operation}{operand}"


@dataclass(frozen=True)
class Group:
    """`or=(…)` or `and=(…)`. Made by joined(), so that groups of the same meaning are more often equal."""

    operator: str
    parts: "tuple[Condition, ...]"

    def __str__(self) -> str:
        return f"{self.operator}={self._in_brackets}"

    def in_group(self) -> str:
        """Its text as a part of a group."""
        return f"{self.operator}{self._in_brackets}"

    @property
    def _in_brackets(self) -> str:
        return f"({','.join(part.in_group() for part in self.parts)})"


Condition = Filter | Group


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


def joined(operator: str, conditions: Iterable[Condition]) -> Condition:
    """The conditions joined by "and" or "or", of which one at least must be given.

    A group in a group with the same operator is dissolved, and neither order nor repetition count.
    """
    parts: set[Condition] = set()
    for one in conditions:
        parts.update(one.parts if isinstance(one, Group) and one.operator == operator else (one,))
    return next(iter(parts)) if len(parts) == 1 else Group(operator, tuple(sorted(parts, key=str)))


def all_of(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """The conditions that must all hold, in the same form however they were grouped."""
    given = tuple(conditions)
    if not given:
        return ()
    one = joined("and", given)
    return one.parts if isinstance(one, Group) and one.operator == "and" else (one,)


def filters_in(conditions: Iterable[Condition]) -> Iterator[Filter]:
    """The filters, also those inside groups."""
    for one in conditions:
        if isinstance(one, Group):
            yield from filters_in(one.parts)
        else:
            yield one


def row_test(condition: Condition, kind_of: KindOf) -> RowTest:
    """The test of a row. Raises BadFilter if an operand does not fit its column's kind."""
    if isinstance(condition, Filter):
        test, column = make_test(condition, kind_of(condition.column)), condition.column
        return lambda cell: test(cell(column))
    tests = [row_test(part, kind_of) for part in condition.parts]
    is_enough = any if condition.operator == "or" else all
    return lambda cell: is_enough(test(cell) for test in tests)


def equalities(conditions: Iterable[Condition], kind_of: KindOf) -> "tuple[Equality, ...]":
    """Of these, one at least holds of every row for which all conditions do. Empty if there are no such.

    row_test() must have accepted the conditions.
    """
    return next(filter(None, (_alternatives(one, kind_of) for one in conditions)), ())


def _alternatives(condition: Condition, kind_of: KindOf) -> "tuple[Equality, ...]":
    if isinstance(condition, Filter):
        one = equality(condition, kind_of(condition.column))
        return (one,) if one else ()
    if condition.operator == "and":
        return equalities(condition.parts, kind_of)
    found = [_alternatives(part, kind_of) for part in condition.parts]
    return tuple(one for alternatives in found for one in alternatives) if all(found) else ()


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


def within_reach(conditions: Iterable[Condition], characters: int) -> Iterator[Condition]:
    """The same conditions, limited to comparing `characters` of a text in total, however many filters they have.

    A text that is too long for that is not searched, and counts as matching.
    """
    given = tuple(conditions)
    patterns = [Like(term.operand) for term in filters_in(given) if term.operator == "like"]
    cost = sum(max(1, like.cost) for like in patterns if like.is_search)
    return (_limited(one, characters // cost) if cost else one for one in given)


def _limited(condition: Condition, reach: int) -> Condition:
    if isinstance(condition, Group):
        return replace(condition, parts=tuple(_limited(part, reach) for part in condition.parts))
    return replace(condition, reach=reach) if condition.operator == "like" else condition


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
        wanted = NAMED_VALUES[asked.operand.lower()]
        return lambda cell: (cell.value is wanted) is not asked.is_negated
    by_type = {
        Number: _test_if_fitting(asked, Kind.NUMBER),
        bool: _test_if_fitting(asked, Kind.BOOLEAN),
        str: _test_if_fitting(asked, Kind.TEXT),
    }
    return lambda cell: (test := by_type.get(type(cell.value))) is not None and test(cell)


def _test_if_fitting(asked: Filter, kind: Kind) -> Test | None:
    try:
        return make_test(asked, kind)
    except BadFilter:
        return None


def _of_kind(asked: Filter, kind: Kind) -> _Made:
    comparison = COMPARISONS[kind]
    if kind is Kind.NOTHING:
        raise BadFilter(
            f"{shown(asked)}: json and composite types cannot be filtered, since a null may be inside; filter by a "
            "generated column, such as doc ->> 'status'"
        )
    if asked.operator == "is":
        return _Made(_is(asked, kind, comparison))
    if kind is Kind.NULL_ONLY:
        raise BadFilter(
            f"{shown(asked)}: a column of this type or collation supports only is.null, since only PostgreSQL can "
            "compare it; filter by a generated column, such as lower(email)"
        )
    return _Made(_like(asked, comparison)) if asked.operator == "like" else _compare(asked, comparison)


def _is(asked: Filter, kind: Kind, comparison: Comparison) -> Test:
    wanted = NAMED_VALUES[asked.operand.lower()]
    if wanted is not None and kind is not Kind.BOOLEAN:
        raise BadFilter(f"{shown(asked)}: is.{asked.operand.lower()} is for booleans")

    def test(cell: Cell) -> bool:
        return (cell.value is None or comparison.fits(cell.value)) and (cell.value is wanted) is not asked.is_negated

    return test


def _like(asked: Filter, comparison: Comparison) -> Test:
    if not comparison.has_like:
        raise BadFilter(f"{shown(asked)}: like is for texts")
    like = Like(asked.operand)
    key = asked.operand, asked.reach

    def test(cell: Cell) -> bool:
        if not comparison.fits(cell.value):
            return False
        fits = cell.once(key, lambda: like(cell.value, asked.reach))
        return fits is None or fits is not asked.is_negated

    return test


def _compare(asked: Filter, comparison: Comparison) -> _Made:
    if asked.operator not in ("eq", "neq", "in") and not comparison.is_ordered:
        raise BadFilter(f"{shown(asked)}: a column of this type supports only eq, neq, in and is")
    read = comparison.key
    try:
        operands = [comparison.read_operand(value) for value in asked.values]
    except NO_KEY:
        raise BadFilter(f"{shown(asked)}: the column needs {comparison.expected}") from None
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


def shown(asked: Filter | str) -> str:
    """The start of its text, for an error."""
    text = str(asked)
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _quoted(text: str) -> str:
    """A name or a value as it must be written in a group."""
    return '"' + _ESCAPED.sub(r"\\\g<0>", text) + '"' if _NEEDS_QUOTES.search(text) else text


_NEEDS_QUOTES = re.compile(r"""[.,=()"\\]|^\s|\s\Z|^\Z""")
_ESCAPED = re.compile(r"""["\\]""")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}
OPERATORS = (*_COMPARE, "in", "is", "like")
NAMED_VALUES = {"null": None, "true": True, "false": False}  # of the operator `is`
