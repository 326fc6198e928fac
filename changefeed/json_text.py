"""JSON text in, the members of an object out, the text of each value byte for byte. Knows nothing but JSON.

PostgreSQL's numbers have more digits than a float holds, so no value is read and written again. msgspec does the work
where it can. It calls itself for each level of nesting, which Python bounds (some 1,000 levels in 3.11), and it refuses
half of a surrogate pair, which is JSON. PostgreSQL stores both, nested more than 10,000 levels deep. So what msgspec
refuses is read here, without recursion. Either way takes time in proportion to the text.
"""

import json
import re
from collections.abc import Mapping, Set
from functools import lru_cache
from json.encoder import encode_basestring

import msgspec
from msgspec import Raw

Members = dict[str, Raw]  # the text of each value, by its key

_SPACES = " \t\r\n"
_SPACE = f"[{_SPACES}]*+"
_STRING = r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})[^"\\\x00-\x1f]*+)*+"'
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+"
# A brace or comma is one token with the key behind it, and so are brackets of one kind without anything between them.
_TOKEN = rf"[{{,](?:{_SPACE}({_STRING}){_SPACE}:)?+|\[++|\]++|\}}++|{_STRING}|{_NUMBER}|true|false|null|\Z"
# Group 1 is the token, 2 the key. The token is empty at the end of the text, and None where none begins.
_tokens = re.compile(rf"{_SPACE}(?:({_TOKEN})|.)", re.DOTALL).finditer
# A token's first character says which it is, so a string of them says which may come next.
_VALUE = '"[{tfn-0123456789'
_VALUE_OR_END = _VALUE + "]"
_CACHED_CHARACTERS = 256 << 10
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
    return (_read_tokens if len(text) > _CACHED_CHARACTERS else _read_tokens_once)(text)


def _read_tokens(text: str) -> Members | None:
    """As members()."""
    found: Members = {}
    is_object, key, value_begins = False, "", 0
    closers: list[str] = []  # of the arrays and objects that are open
    expected = _VALUE
    for match in _tokens(text):
        token = match[1]
        if not token or token[0] not in expected:
            if token == expected:
                break
            raise _malformed(match)
        kind = token[0]
        if kind == "[":
            closers.extend("]" * len(token))
            expected = _VALUE_OR_END
        elif kind in "{,":
            next_key = match[2]
            if kind == "{":
                is_object = is_object or not closers
                closers.append("}")
            elif (next_key is None) is (closers[-1] == "}"):
                raise _malformed(match)
            expected = _VALUE if next_key or kind == "," else "}"
            if next_key and len(closers) == 1:
                key, value_begins = next_key, match.end()
        else:  # a value ends, or several within each other
            value_ends = match.end()
            if kind in "]}":
                closers.pop()  # it was expected
                for closer in token[1:]:
                    if not closers or closers.pop() != closer:
                        raise _malformed(match)
                if not closers:
                    value_ends -= 1  # the last of them ends the whole
            if key and len(closers) <= 1:
                found[json.loads(key)] = Raw(text[value_begins:value_ends].strip(_SPACES))
                key = ""
            expected = "," + closers[-1] if closers else ""
    return found if is_object else None


# Each audience asks for the same row, and each client that catches up. Nobody changes what the cache gives.
_read_tokens_once = lru_cache(maxsize=64)(_read_tokens)


def _malformed(match: re.Match[str]) -> NotJSON:
    return NotJSON("it ends too early" if match[1] == "" else f"malformed at character {match.end() - 1}")
