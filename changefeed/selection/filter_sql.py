"""A parsed filter in, the same condition as SQL out. Knows no table and no connection.

It is true of the rows that the feed's test lets through, whatever the session's settings are: an operand is written
from the key by which the feed compares it, and each operator, type and function is pg_catalog's.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from psycopg2.extensions import encodings

from changefeed.selection import filter_times
from changefeed.selection.filter_kinds import COMPARISONS, Kind
from changefeed.selection.filters import BadFilter, Condition, Filter, Group, make_test, shown

_OPERATORS = {"eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_ORDERING = ("lt", "lte", "gt", "gte")


def sql_condition(
    filters: Iterable[Condition],
    kinds: Mapping[str, Kind],
    alias: str,
    *,
    expressions: Mapping[str, str] | None = None,
    encoding: str = "UTF8",
) -> tuple[str, tuple[str, ...]]:
    """The SQL of a boolean expression that is true where all filters hold, and its parameters, for psycopg2.

    `alias` names the table; `expressions` are the SQL of columns that are compared as something else, such as a hash.
    `encoding` is the database's. Raises BadFilter if a filter does not fit its column or there is no such column.
    """
    writer = _Writer(kinds, alias, expressions or {}, encoding)
    texts = [writer.write(one) for one in filters]
    return " AND ".join(texts) or "TRUE", tuple(writer.parameters)


@dataclass(frozen=True)
class _Writer:
    kinds: Mapping[str, Kind]
    alias: str
    expressions: Mapping[str, str]
    encoding: str
    parameters: list[str] = field(default_factory=list)

    def write(self, condition: Condition) -> str:
        if isinstance(condition, Group):
            return "(" + f" {condition.operator.upper()} ".join(map(self.write, condition.parts)) + ")"
        kind = self.kinds.get(condition.column)
        if kind is None:
            raise BadFilter(f"{shown(condition)}: there is no such column")
        make_test(condition, kind)  # refuses what the feed refuses
        value = self.expressions.get(condition.column) or f"{_identifier(self.alias)}.{_identifier(condition.column)}"
        if condition.operator == "is":
            return f"({value} IS {'NOT ' * condition.is_negated}{condition.operand.upper()})"
        if condition.operator == "like":
            return self._like(condition, kind, value)
        compared = self._compare(condition, kind, value)
        return f"(NOT {compared})" if condition.is_negated else compared

    def _constant(self, text: str, type_name: str) -> str:
        self.parameters.append(text)
        return f"%s::pg_catalog.{type_name}"

    def _constants(self, texts: Iterable[str], type_name: str) -> list[str]:
        return [self._constant(text, type_name) for text in texts]

    def _operand(self, kind: Kind, key: Any) -> str:
        type_name, write = _CONSTANTS[kind]
        text = write(key)
        if kind is Kind.NUMBER and _is_int8(key):
            type_name = "int8"  # so that an index of a column of integers is used
        if text.startswith("294277-01-01 00"):  # PostgreSQL does not read this timestamp, but rounds to it
            text, type_name = text.replace("294277-01-01 00:00:00.0", "294276-12-31 23:59:59.9"), f"{type_name}(0)"
        return self._constant(text, type_name)

    def _compare(self, asked: Filter, kind: Kind, value: str) -> str:
        keys = sorted({COMPARISONS[kind].read_operand(operand) for operand in asked.values})
        if kind in _TEXTS:
            return self._compare_texts(asked, kind, value, keys)
        if kind is Kind.INTERVAL and any(map(math.isinf, keys)):
            return self._compare_infinite(asked, value, keys)
        return _compared(value, asked.operator, [self._operand(kind, key) for key in keys])

    def _compare_texts(self, asked: Filter, kind: Kind, value: str, keys: list[str]) -> str:
        if kind is Kind.ENUM:
            # Written as a text by the type's output function: a cast might call a function of the type's owner.
            value = f"(CASE WHEN {value} IS NOT NULL THEN pg_catalog.concat({value}) END)"
        type_name = "bpchar" if kind is Kind.PADDED else "text"
        is_ordering = asked.operator in _ORDERING
        plain = [key for key in keys if self._is_plain(key) and (self._is_in_order or not is_ordering)]
        others = [_bytes(key) for key in sorted(set(keys) - set(plain))]
        found = []
        if plain and is_ordering:
            if kind is Kind.PADDED:
                value, type_name = f"{value}::pg_catalog.text", "text"
            value = f'{value} COLLATE pg_catalog."C"'
        if plain:
            found.append(_compared(value, asked.operator, self._constants(plain, type_name)))
        if others:
            value = f"pg_catalog.convert_to({value}::pg_catalog.text, 'UTF8'::pg_catalog.name)"
            found.append(_compared(value, asked.operator, self._constants(others, "bytea")))
        return _any_of(found)

    @property
    def _is_in_order(self) -> bool:
        """Whether bytes of the database's encoding are ordered like code points."""
        return self.encoding in ("UTF8", "SQL_ASCII")

    def _is_plain(self, text: str) -> bool:
        """Whether PostgreSQL certainly takes it as a text."""
        return "\0" not in text and (text.isascii() or (self._is_in_order and _has_bytes(text, "utf-8")))

    def _compare_infinite(self, asked: Filter, value: str, keys: list[filter_times.Instant]) -> str:
        """Only PostgreSQL 17 and newer have infinite intervals; older ones refuse the word."""
        rank = (
            f"(CASE WHEN pg_catalog.isfinite({value}) THEN 0 "
            f"WHEN {value} OPERATOR(pg_catalog.>) '0'::pg_catalog.interval THEN 1 WHEN {value} IS NOT NULL THEN -1 END)"
        )
        infinite = ["1" if key > 0 else "-1" for key in keys if math.isinf(key)]
        finite = [self._operand(Kind.INTERVAL, int(key)) for key in keys if not math.isinf(key)]
        found = [_compared(value, asked.operator, finite)] if finite else []
        return _any_of([*found, _compared(rank, asked.operator, self._constants(infinite, "int4"))])

    def _like(self, asked: Filter, kind: Kind, value: str) -> str:
        pieces = _pieces(asked.operand)
        if not self._may_occur("".join(pieces)):
            return f"({value} IS NOT NULL)" if asked.is_negated else "FALSE"
        full = self._matches(value, "%".join(pieces), asked.is_negated)
        if asked.reach is None or not any(pieces[1:-1]):
            return full
        # As in the feed: a longer text is not searched.
        text = f"pg_catalog.concat({value})" if kind is Kind.PADDED else value  # length() ignores trailing blanks
        beyond = (
            f"({value} IS NOT NULL)" if asked.is_negated else self._matches(value, f"{pieces[0]}%{pieces[-1]}", False)
        )
        return f"(CASE WHEN pg_catalog.length({text}) <= {asked.reach} THEN {full} ELSE {beyond} END)"

    def _matches(self, value: str, pattern: str, is_negated: bool) -> str:
        operator = "!~~" if is_negated else "~~"
        return f"({value} OPERATOR(pg_catalog.{operator}) {self._constant(pattern, 'text')})"

    def _may_occur(self, text: str) -> bool:
        """Whether the database's encoding has all of its characters."""
        codec = "utf-8" if self._is_in_order else encodings.get(self.encoding)
        return "\0" not in text and (codec is None or _has_bytes(text, codec))  # what else it lacks, PostgreSQL says


def _compared(value: str, operator: str, constants: list[str]) -> str:
    if operator == "in":
        return f"({value} OPERATOR(pg_catalog.=) ANY (ARRAY[{', '.join(constants)}]))"
    return f"({value} OPERATOR(pg_catalog.{_OPERATORS[operator]}) {constants[0]})"


def _any_of(conditions: list[str]) -> str:
    return conditions[0] if len(conditions) == 1 else f"({' OR '.join(conditions)})"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'


def _has_bytes(text: str, codec: str) -> bool:
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def _bytes(text: str) -> str:
    """In the order of code points, also where they are no characters."""
    return "\\x" + text.encode("utf-8", "surrogatepass").hex()


def _pieces(pattern: str) -> list[str]:
    """The parts between the stars, as PostgreSQL's LIKE takes them."""
    pieces = [""]
    for character in re.findall(r"\\.|.", pattern, re.DOTALL):
        if character in ("%", "*"):
            pieces.append("")
        else:
            pieces[-1] += character
    return pieces


def _is_int8(key: tuple[bool, Any]) -> bool:
    is_nan, number = key
    return not is_nan and abs(number) < 2**63 and number == int(number)


def _number(key: tuple[bool, Any]) -> str:
    is_nan, number = key
    if is_nan:
        return "NaN"
    return str(int(number)) if _is_int8(key) else str(Decimal(number))


def _float(key: tuple[bool, float]) -> str:
    is_nan, number = key
    return "NaN" if is_nan else repr(number)


def _address(key: tuple[int, int, int, int]) -> str:
    version, _, length, host = key
    interface = ipaddress.IPv4Interface if version == 4 else ipaddress.IPv6Interface
    return interface((host, length)).with_prefixlen


_TEXTS = (Kind.TEXT, Kind.PADDED, Kind.ENUM)
# The type of an operand, and its text for a key.
_CONSTANTS: Mapping[Kind, tuple[str, Callable[[Any], str]]] = {
    Kind.NUMBER: ("numeric", _number),
    Kind.FLOAT4: ("float4", _float),
    Kind.FLOAT8: ("float8", _float),
    Kind.BOOLEAN: ("bool", str),
    Kind.DATE: ("date", filter_times.write_date),
    Kind.TIME: ("time", filter_times.write_time),
    Kind.TIMETZ: ("timetz", filter_times.write_timetz),
    Kind.TIMESTAMP: ("timestamp", filter_times.write_timestamp),
    Kind.TIMESTAMPTZ: ("timestamptz", lambda key: filter_times.write_timestamp(key, "+00")),
    Kind.INTERVAL: ("interval", filter_times.write_interval),
    Kind.UUID: ("uuid", str),
    Kind.INET: ("inet", _address),
    Kind.CIDR: ("inet", _address),
    Kind.MACADDR: ("macaddr", str),
    Kind.MACADDR8: ("macaddr8", str),
    Kind.BIT: ('"bit"', str),
    Kind.BYTEA: ("bytea", str),
}
