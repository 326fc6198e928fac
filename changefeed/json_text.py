"""JSON text in, the members of an object out, the text of each value byte for byte. Knows nothing but JSON.

PostgreSQL's numbers have more digits than a float holds, so no value is read and written again. msgspec does the work
where it can. It calls itself for each level of nesting, which Python bounds (some 1,000 levels in 3.11), and it refuses
half of a surrogate pair, which is JSON. PostgreSQL stores both, nested more than 10,000 levels deep. So what msgspec
refuses is read here, without recursion. Either way takes time in proportion to the text.
"""

import json
import re
from collections.abc import Mapping, Set
from json.encoder import encode_basestring

import msgspec
from msgspec import Raw

Members = dict[str, Raw]  # the text of each value, by its key

_SPACES = " \t\r\n"
_STRING = r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})[^"\\\x00-\x1f]*+)*+"'
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+"
# Group 1 is the token. It is empty at the end of the text, and None where no token begins.
_tokens = re.compile(rf"[{_SPACES}]*+(?:({_STRING}|{_NUMBER}|true|false|null|[\[\]{{}},:]|\Z)|.)", re.DOTALL).finditer
# A token's first character says which it is, so a string of them says which may come next.
_VALUE = '"[{tfn-0123456789'
_VALUE_OR_END = _VALUE + "]"
_KEY = '"'
_KEY_OR_END = '"}'
_CLOSERS = {"[": "]", "{": "}"}
half_character = re.compile("[\ud800-\udfff]").search

_read_object = msgspec.json.Decoder(Members).decode
_read_any = msgspec.json.Decoder(Raw).decode


class NotJSON(ValueError):
    """The text is not JSON; the message says where it stops being so."""


def members(text: str | Raw) -> Members | None:
    """An object's members; None for JSON that is no object. Raises NotJSON."""
    try:
        return _read_object(text)
    except (msgspec.DecodeError, RecursionError):
        return _read_by_hand(text_of(text))


def check(text: str) -> None:
    """Raises NotJSON."""
    try:
        _read_any(text)
    except (msgspec.DecodeError, RecursionError):
        _read_by_hand(text)


def text_of(value: str | Raw) -> str:
    return value if isinstance(value, str) else str(value, "utf-8")


def string_of(value: Raw | None) -> str | None:
    """What a JSON string says; None for any other value."""
    text = bytes(value or b"")
    if not text.startswith(b'"'):
        return None
    try:
        said: str = msgspec.json.decode(text)
    except msgspec.DecodeError:
        said = json.loads(text)  # half of a surrogate pair
    return said


def quoted(text: str) -> str:
    """As a JSON string, the way PostgreSQL writes it."""
    return json.dumps(text) if half_character(text) else encode_basestring(text)


def some(found: Members, keys: Set[str]) -> Members:
    """Those with these keys."""
    return {key: value for key, value in found.items() if key in keys}


def write(found: Mapping[str, str | Raw], *, space: str = "") -> str:
    """The object with these members: without spaces as PostgreSQL writes a row, or with one as the wire has it."""
    return "{" + f",{space}".join([f"{quoted(key)}:{space}{text_of(value)}" for key, value in found.items()]) + "}"


def _read_by_hand(text: str) -> Members | None:
    """As members(), token by token."""
    found: Members = {}
    is_object, key, value_begins = False, "", 0
    closers: list[str] = []  # of the arrays and objects that are open
    expected = _VALUE
    for match in _tokens(text):
        token = match[1]
        if token == expected == "":
            break
        if not token or token[0] not in expected:
            raise NotJSON("it ends too early" if token == "" else f"malformed at character {match.end() - 1}")
        kind = token[0]
        if kind in "[{":
            is_object = is_object or (kind == "{" and not closers)
            closers.append(_CLOSERS[kind])
            expected = _KEY_OR_END if kind == "{" else _VALUE_OR_END
        elif kind == ",":
            expected = _KEY if closers[-1] == "}" else _VALUE
        elif kind == ":":
            expected = _VALUE
            if len(closers) == 1:
                value_begins = match.end()
        elif kind == '"' and expected in (_KEY, _KEY_OR_END):
            expected = ":"
            if len(closers) == 1:
                key = json.loads(token)
        else:  # a value ends
            if kind in "]}":
                closers.pop()
            expected = "," + closers[-1] if closers else ""
            if is_object and len(closers) == 1:
                found[key] = Raw(text[value_begins : match.end()].strip(_SPACES))
    return found if is_object else None
