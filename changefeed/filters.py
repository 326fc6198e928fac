"""A filter's text in, a test of a column's value out. Knows no table, change or client.

The operators are PostgREST's (its manual, "Horizontal Filtering") and mean what they mean in SQL: nothing compares with
null, and NaN is the largest number. Texts compare by code point, as with COLLATE "C".
"""

import enum
import operator
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from changefeed.row import Number

VALUES_LIMIT = 1_000  # in one list

Test = Callable[[Any], bool]
Key = Callable[[str], Any]


class BadFilter(ValueError):
    """The filter is none, or does not fit its column; the message says what to write instead."""


class Kind(enum.StrEnum):
    """What the values of a column's type compare like."""

    NUMBER = "number"
    BOOLEAN = "boolean"
    TIME = "time"  # date, timestamp, timestamptz
    UUID = "uuid"
    TEXT = "text"
    PADDED = "padded"  # character(n), whose blanks at the end do not count
    OTHER = "other"  # only equal, or not
    STRUCTURED = "structured"  # json, arrays, composite types: only null, or not


@dataclass(frozen=True)
class Filter:
    """`column=operator.operand`, or `column=not.operator.operand`."""

    column: str
    operator: str
    operand: str
    is_negated: bool = False

    def __str__(self) -> str:
        return f"{self.column}={'not.' * self.is_negated}{self.operator}.{self.operand}"

    @property
    def values(self) -> tuple[str, ...]:
        """The operand, or each one of the list of `in`."""
        return _list(self.operand) if self.operator == "in" else (self.operand,)


@dataclass(frozen=True)
class Equality:
    """That key(value of the column) is one of `values`, which an index can find."""

    column: str
    key: Key
    values: frozenset[Any]


# What a key raises for a value that is not of its kind: null, or of a column whose type was changed since.
NO_VALUE = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError)


def parse_filter(text: str) -> Filter:
    """Raises BadFilter. A column's name with a = in it stands in double quotes."""
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
    found = Filter(column, name, operand, is_negated)
    if name == "is" and operand.lower() not in _IS:
        raise BadFilter(f"{_shown(text)}: after is. stands one of {', '.join(_IS)}")
    if name == "in" and len(found.values) > VALUES_LIMIT:
        raise BadFilter(f"{_shown(text)}: a list has at most {VALUES_LIMIT} values")
    return found


def make_test(asked: Filter, kind: Kind | None) -> Test:
    """The test of the column's value, as Row has it. Raises BadFilter where the operand does not fit `kind`.

    Without a kind, as for a table that only a trigger of the user's tells of, the value's own JSON type decides.
    """
    if asked.operator == "is":
        wanted = _IS[asked.operand.lower()]
        return lambda value: (value is wanted) is not asked.is_negated
    if kind is not None:
        return _guarded(_compare(asked, kind), asked.is_negated)
    by_type = {
        Number: _if_fitting(asked, Kind.NUMBER),
        bool: _if_fitting(asked, Kind.BOOLEAN),
        str: _if_fitting(asked, Kind.TEXT),
    }
    return lambda value: (test := by_type.get(type(value))) is not None and test(value)


def equality(asked: Filter, kind: Kind | None) -> Equality | None:
    """The filter as one, where it is one and make_test() took it."""
    if asked.operator not in ("eq", "in") or asked.is_negated or kind is None:
        return None
    return Equality(asked.column, _KEYS[kind], frozenset(map(_KEYS[kind], asked.values)))


def _column(text: str) -> tuple[str, str]:
    if quoted := re.match(r'"((?:[^"]|"")+)"=', text):
        return quoted[1].replace('""', '"'), text[quoted.end() :]
    column, _, rest = text.partition("=")
    return column, rest


def _list(text: str) -> tuple[str, ...]:
    """(a,b,"c,d"), as PostgREST has it: within double quotes a backslash keeps the next character as it is."""
    if not (text.startswith("(") and text.endswith(")")):
        raise BadFilter(f"{_shown(text)} is no list: write in.(a,b,c)")
    items = _LIST_ITEM.findall(text[1:-1] + ",")
    if sum(len(whole) for whole, _, _ in items) != len(text) - 1:
        raise BadFilter(
            f'{_shown(text)} is no list: a value with a comma or a quote stands in double quotes: in.("a,b",c)'
        )
    return tuple(re.sub(r"\\(.)", r"\1", quoted) if whole.startswith('"') else bare for whole, quoted, bare in items)


_LIST_ITEM = re.compile(r'("((?:[^"\\]|\\.)*)",|([^",]*),)', re.DOTALL)


def _if_fitting(asked: Filter, kind: Kind) -> Test | None:
    try:
        return _guarded(_compare(asked, kind), asked.is_negated)
    except BadFilter:
        return None


def _guarded(test: Test, is_negated: bool) -> Test:
    def guarded(value: Any) -> bool:
        try:
            return value is not None and test(value) is not is_negated
        except NO_VALUE:
            return False

    return guarded


def _compare(asked: Filter, kind: Kind) -> Test:
    if kind is Kind.STRUCTURED:
        raise BadFilter(f"{_shown(asked)}: a column of json, of an array or of a composite type knows only is.null")
    if asked.operator == "like":
        if kind not in (Kind.TEXT, Kind.PADDED, Kind.OTHER):
            raise BadFilter(f"{_shown(asked)}: like is for texts")
        return _like(asked.operand)
    key = _KEYS[kind]
    try:
        operands = [key(value) for value in asked.values]
    except NO_VALUE:
        raise BadFilter(f"{_shown(asked)}: the column wants {_EXPECTED[kind]}") from None
    if asked.operator == "in":
        wanted = frozenset(operands)
        return lambda value: key(value) in wanted
    if asked.operator not in ("eq", "neq") and kind in (Kind.BOOLEAN, Kind.OTHER):
        raise BadFilter(f"{_shown(asked)}: a column of this type knows only eq, neq, in and is")
    compare, [operand] = _COMPARISONS[asked.operator], operands
    return lambda value: compare(key(value), operand)


def _number(text: str) -> tuple[int, Decimal]:
    value = Decimal(text)
    return (1, Decimal(0)) if value.is_nan() else (0, value)


def _boolean(value: str | bool) -> bool:
    return value if isinstance(value, bool) else {"true": True, "t": True, "false": False, "f": False}[value.lower()]


def _time(text: str) -> tuple[int, datetime]:
    """Ordered as PostgreSQL orders them, as far as Python's years go: 1 to 9999."""
    if text in ("infinity", "-infinity"):
        return (2 if text == "infinity" else -2), _NO_TIME
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        if not re.match(r"\d{4,}-\d\d-\d\d", text):
            raise
        return (-1 if text.endswith("BC") else 1), _NO_TIME
    return 0, at if at.tzinfo else at.replace(tzinfo=UTC)


_NO_TIME = datetime(1, 1, 1, tzinfo=UTC)


def _like(pattern: str) -> Test:
    """SQL's LIKE, with * for % too, as PostgREST has it; a backslash takes the next character as it is.

    The pieces between the stars are of fixed length and looked for from the left, so no pattern makes it backtrack.
    """
    pieces, lengths = [""], [0]
    for escaped, plain in re.findall(r"\\(.)|(.)", pattern, re.DOTALL):
        if plain in ("%", "*"):
            pieces.append("")
            lengths.append(0)
        else:
            pieces[-1] += "." if plain == "_" else re.escape(escaped or plain)
            lengths[-1] += 1
    first, *others = [re.compile(piece, re.DOTALL) for piece in pieces]
    if not others:
        return lambda value: first.fullmatch(value) is not None
    *middle, last = others
    last_length = lengths[-1]
    steps = [first.match, *(piece.search for piece in middle)]

    def test(value: str) -> bool:
        begin = 0
        for step in steps:
            if (found := step(value, begin)) is None:
                return False
            begin = found.end()
        last_begin = len(value) - last_length
        return begin <= last_begin and last.fullmatch(value, last_begin) is not None

    return test


def _shown(asked: Filter | str) -> str:
    text = str(asked)
    return repr(text if len(text) <= 80 else text[:77] + "...")


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}
OPERATORS = (*_COMPARISONS, "in", "is", "like")
_IS = {"null": None, "true": True, "false": False}
_KEYS: dict[Kind, Key] = {
    Kind.NUMBER: _number,
    Kind.BOOLEAN: _boolean,
    Kind.TIME: _time,
    Kind.UUID: uuid.UUID,
    Kind.TEXT: str,
    Kind.PADDED: lambda text: text.rstrip(" "),
    Kind.OTHER: str,
}
_EXPECTED = {
    Kind.NUMBER: "a number",
    Kind.BOOLEAN: "true or false",
    Kind.TIME: "a date or a time, such as 2026-11-22 or 2026-11-22T07:13:08+00:00",
    Kind.UUID: "a uuid",
}
