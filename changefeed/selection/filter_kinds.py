"""The text of a value or operand in, a key out; keys compare as PostgreSQL's values do. Knows no filter.

An operand is read as PostgreSQL reads a quoted one in a session whose TimeZone is UTC. What PostgreSQL accepts beyond
the usual forms ("yesterday", "Jan 5", the name of a time zone) is refused, never guessed.
"""

import enum
import functools
import ipaddress
import math
import re
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from changefeed.change.changed_row import Nested, Number
from changefeed.selection import filter_times

ToComparable = Callable[[Any], Any]


class Kind(enum.StrEnum):
    """How the values of a column's type compare; sql/server.sql assigns a kind to each type."""

    NUMBER = "number"  # integers and numeric
    FLOAT4 = "float4"
    FLOAT8 = "float8"
    BOOLEAN = "boolean"
    DATE = "date"
    TIME = "time"
    TIMETZ = "timetz"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    INTERVAL = "interval"
    UUID = "uuid"
    TEXT = "text"
    PADDED = "padded"  # character(n), which ignores trailing spaces
    ENUM = "enum"
    INET = "inet"
    CIDR = "cidr"
    MACADDR = "macaddr"
    MACADDR8 = "macaddr8"
    BIT = "bit"  # and bit varying
    BYTEA = "bytea"
    NULL_ONLY = "null_only"  # only PostgreSQL knows whether two texts mean the same value
    NOTHING = "nothing"  # json and composite types, where SQL's null looks like a null inside


# Raised for a value or operand that has no key.
NO_KEY = (ValueError, ArithmeticError)


OPERAND_LIMIT_CHARACTERS = 50_000
# Longer than any value that PostgreSQL writes, except texts and bytes: a longer value has another type.
_LONGEST = 200_000


@dataclass(frozen=True, eq=False)
class Comparison:
    """How the values of one kind compare. The functions raise one of NO_KEY."""

    read_operand: Callable[[str], Any]
    expected: str = ""  # describes an operand, for the error
    json_types: tuple[type, ...] = (str,)
    read_value: Callable[[Any], Any] | None = None  # if a value has another form than an operand
    is_ordered: bool = True
    has_like: bool = False
    longest: int = _LONGEST  # characters of a value

    def fits(self, value: Any) -> bool:
        """Whether a value, as ChangedRow has it, can be of this kind: not if the column's type was changed since."""
        return type(value) in self.json_types

    def key(self, value: Any) -> Any:
        """The key of a value, as ChangedRow has it; None if it has none, like null."""
        if not self.fits(value) or (isinstance(value, str) and len(value) > self.longest):
            return None
        try:
            return (self.read_value or self.read_operand)(value)
        except NO_KEY:
            return None


_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,6})?)\s*", re.ASCII | re.IGNORECASE)
_NAMED_NUMBERS = {
    "nan": Decimal("NaN"),
    **{sign + name: Decimal(sign + name) for sign in ("", "+", "-") for name in ("inf", "infinity")},
}
_NAN = (True, 0)  # equal to itself, and larger than every (False, number)


def _number(text: str) -> Decimal:
    if found := _NUMBER.fullmatch(text):
        return Decimal(found[1])
    if (named := _NAMED_NUMBERS.get(text.strip().lower())) is None:
        raise ValueError("no number")
    return named


def _numeric(text: str) -> tuple[bool, Decimal | int]:
    value = _number(text)
    if value.is_nan():
        return _NAN
    if value.is_finite() and (value.adjusted() > 131_071 or int(value.as_tuple().exponent) < -16_383):
        raise ValueError("PostgreSQL has no such numeric")
    return False, value


def _numeric_value(text: str) -> tuple[bool, Decimal | int]:
    return _NAN if text == "NaN" else (False, Decimal(text))


def _of_json(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """`read` for JSON values: a number, or one of the strings for numbers that JSON cannot express."""

    def read_value(value: str) -> Any:
        if not isinstance(value, Number) and value not in ("NaN", "Infinity", "-Infinity"):
            raise ValueError("of another type")
        return read(value)

    return read_value


def _float8(text: str) -> tuple[bool, float]:
    exact = _number(text)
    if exact.is_nan():
        return _NAN
    value = float(exact)
    if exact.is_finite() and (math.isinf(value) or (exact and not value)):
        raise ValueError("PostgreSQL has no such float8")
    return False, value


def _float4(text: str) -> tuple[bool, float]:
    is_nan, value = _float8(text)
    if is_nan or math.isinf(value):
        return is_nan, value
    error = _number(text) - Decimal(value)
    (bits,) = struct.unpack("<q", struct.pack("<d", value))
    if error and bits % 2 == 0:
        # Rounding twice gives the same as rounding once if the first rounding makes the last bit odd.
        value = math.nextafter(value, math.copysign(math.inf, error))
    (single,) = struct.unpack("<f", struct.pack("<f", value))
    if value and not single:
        raise ValueError("PostgreSQL has no such float4")
    return False, single


def _boolean(text: str) -> bool:
    """Unambiguous prefixes of the words count too."""
    word = text.strip().lower()
    if word in ("1", "on") or (word and ("true".startswith(word) or "yes".startswith(word))):
        return True
    if word in ("0", "of", "off") or (word and ("false".startswith(word) or "no".startswith(word))):
        return False
    raise ValueError("neither true nor false")


def _inet(text: str) -> tuple[int, int, int, int]:
    """In PostgreSQL's order: the network, its length, the host."""
    if not re.fullmatch(r"[0-9a-fA-F:.]+(/(0|[1-9][0-9]*))?", text):
        raise ValueError("no address")
    address = ipaddress.ip_interface(text)
    return address.version, int(address.network.network_address), address.network.prefixlen, int(address.ip)


def _cidr(text: str) -> tuple[int, int, int, int]:
    version, network, length, host = _inet(text)
    if host != network:
        raise ValueError("bits to the right of the mask are set")
    return version, network, length, host


def _hexadecimal(pattern: str) -> Callable[[str], str]:
    """Extracts the digits of a text of the form `pattern`, in which X is a hexadecimal digit."""
    match = re.compile(pattern.replace("X", "[0-9a-fA-F]")).fullmatch

    def read(text: str) -> str:
        if not match(text):
            raise ValueError("not of this form")
        return text.translate(_SEPARATORS).lower()

    return read


_SEPARATORS = str.maketrans("", "", ":-.{}")
_bytes = _hexadecimal(r"\\x(XX)*")


def _bits(text: str) -> str:
    if text.strip("01"):
        raise ValueError("no bits")
    return text


def _beginning(read: Callable[[str], str]) -> Callable[[str], str]:
    """`read` for a value of any length: no comparison needs more than the length of the longest operand."""
    return lambda text: read(text[: OPERAND_LIMIT_CHARACTERS + 2])  # an even number, since a byte has two digits


def _refuse(text: str) -> Any:
    raise ValueError("does not compare")


def _of_time(read: Callable[..., Any], expected: str) -> Comparison:
    return Comparison(read, expected, read_value=functools.partial(read, is_exact=True))


_NUMBERS = (Number, str)  # NaN and Infinity are strings in JSON
_ANY_JSON = (Number, str, bool, Nested)

COMPARISONS = {
    Kind.NUMBER: Comparison(_numeric, "a number", _NUMBERS, _of_json(_numeric_value)),
    Kind.FLOAT4: Comparison(_float4, "a number that a float4 can hold", _NUMBERS, _of_json(_float4)),
    Kind.FLOAT8: Comparison(_float8, "a number that a float8 can hold", _NUMBERS, _of_json(_float8)),
    Kind.BOOLEAN: Comparison(_boolean, "true or false", (bool,), bool),
    Kind.DATE: _of_time(filter_times.read_date, "a date, such as 2026-11-22"),
    Kind.TIME: _of_time(filter_times.read_time, "a time of day, such as 07:13:08"),
    Kind.TIMETZ: _of_time(filter_times.read_timetz, "a time of day, such as 07:13:08+02 (in a URL %2B02)"),
    Kind.TIMESTAMP: _of_time(filter_times.read_timestamp, "a date or a time, such as 2026-11-22T07:13:08"),
    Kind.TIMESTAMPTZ: _of_time(
        filter_times.read_timestamptz, "a date or a time, such as 2026-11-22T07:13:08+02:00 (in a URL %2B02:00)"
    ),
    Kind.INTERVAL: Comparison(filter_times.read_interval, "an interval, such as 1 year 2 mons 3 days 04:05:06"),
    Kind.UUID: Comparison(_hexadecimal(r"XXXX(-?XXXX){7}|\{XXXX(-?XXXX){7}\}"), "a uuid"),
    Kind.TEXT: Comparison(str, has_like=True, longest=sys.maxsize),
    Kind.PADDED: Comparison(lambda text: text.rstrip(" "), has_like=True, longest=sys.maxsize),
    Kind.ENUM: Comparison(str, is_ordered=False),
    Kind.INET: Comparison(_inet, "an address, such as 10.0.0.1 or 10.0.0.0/8"),
    Kind.CIDR: Comparison(_cidr, "a network, such as 10.0.0.0/8, with no bit set to the right of its mask"),
    Kind.MACADDR: Comparison(
        _hexadecimal(r"XX(:XX){5}|XX(-XX){5}|X{6}[:-]X{6}|XXXX([.-]XXXX){2}|X{12}"),
        "an address, such as 08:00:2b:01:02:03",
    ),
    Kind.MACADDR8: Comparison(
        _hexadecimal("XX(:XX){7}|XX(-XX){7}|X{16}"), "an address, such as 08:00:2b:01:02:03:04:05"
    ),
    Kind.BIT: Comparison(_bits, "bits, such as 0101", read_value=_beginning(_bits), longest=sys.maxsize),
    Kind.BYTEA: Comparison(
        _bytes, r"bytes in hexadecimal, such as \xdeadbeef", read_value=_beginning(_bytes), longest=sys.maxsize
    ),
    Kind.NULL_ONLY: Comparison(_refuse, json_types=_ANY_JSON),
    Kind.NOTHING: Comparison(_refuse, json_types=_ANY_JSON),
}
