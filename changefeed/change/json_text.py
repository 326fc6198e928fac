"""JSON text in, the members of an object out, the text of each value byte for byte. Knows nothing but JSON.

PostgreSQL's numbers have more digits than a float holds, so no value is read and written again. msgspec does the work
where it can. It calls itself for each level of nesting, which Python bounds (some 1,000 levels in 3.11), and it refuses
half of a surrogate pair, which is JSON. PostgreSQL stores both, nested up to some 10,000 levels deep. So what msgspec
refuses is read here, without recursion. Either way takes time in proportion to the text; by hand up to a bound, beyond
which the text is told like one that is no JSON.
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
_token = re.compile(rf"{_SPACE}(?:({_TOKEN})|.)", re.DOTALL).match


def _containers_of(item: str) -> str:
    """The arrays and objects of a few such items, as a pattern: of many it would be read in vain that it fits none."""
    member = rf"{_STRING}{_SPACE}:{_SPACE}{item}{_SPACE}"
    array = rf"\[{_SPACE}(?:{item}{_SPACE}(?:,{_SPACE}{item}{_SPACE}){{0,7}}+)?+\]"
    return rf"{array}|\{{{_SPACE}(?:{member}(?:,{_SPACE}{member}){{0,7}}+)?+\}}"


# What is not nested any deeper than that is passed over at once, where it follows another item.
_SCALAR = rf"{_STRING}|{_NUMBER}|true|false|null"
_FLAT = rf"(?:{_SCALAR}|{_containers_of(f'(?:{_SCALAR})')})"
_ITEM = rf"(?:{_SCALAR}|{_containers_of(_FLAT)})"
_more_items = re.compile(rf"(?:{_SPACE},{_SPACE}{_ITEM})*+").match
_more_members = re.compile(rf"(?:{_SPACE},{_SPACE}{_STRING}{_SPACE}:{_SPACE}{_ITEM})*+").match
# Of a row that is read by hand: some 50 ms. PostgreSQL has no deeper value than of some 10,000 levels.
STEPS_LIMIT = 20_000
LIMIT_CHARACTERS = 512 << 10
# A token's first character says which it is, so a string of them says which may come next.
_VALUE = '"[{tfn-0123456789'
_VALUE_OR_END = _VALUE + "]"
_TOO_MUCH = "it is nested so deeply, and has so many parts, that reading it would take too long"
_CACHED_CHARACTERS = 256 << 10
half_character = re.compile("[\ud800-\udfff]").search

_read_object = msgspec.json.Decoder(Members).decode
_read_any = msgspec.json.Decoder(Raw).decode


class NotJSON(ValueError):
    """The text is not JSON, and the message says where it stops being so; or to read it would take too long."""


def members(text: str | Raw, *, rows: int = 1) -> Members | None:
    """An object's members; None for JSON that is no object. Raises NotJSON, also where it takes too long for `rows`."""
    try:
        return _read_object(text)
    except (msgspec.DecodeError, RecursionError):
        whole = text_of(text)
        if whole.lstrip()[:1] == "{":
            return _read_by_hand(whole, rows)
        check(whole)
        return None


def check(text: str) -> None:
    """Raises NotJSON."""
    try:
        _read_any(text)
    except (msgspec.DecodeError, RecursionError):
        _read_by_hand(text, 1)


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


def changed_columns(old_row: str, new_row: str) -> str:
    """A JSON object of the old row's members that the new row has otherwise, or not at all. Raises NotJSON."""
    if old_row == new_row:
        check(new_row)
        return "{}"
    old, new = members(old_row) or {}, members(new_row) or {}
    return write({key: value for key, value in old.items() if new.get(key) != value}, space=" ")


def _read_by_hand(text: str, rows: int) -> Members | None:
    if len(text) > rows * LIMIT_CHARACTERS:
        raise NotJSON(_TOO_MUCH)
    return (_read_tokens if len(text) > _CACHED_CHARACTERS else _read_tokens_once)(text, rows * STEPS_LIMIT)


def _read_tokens(text: str, steps_limit: int = STEPS_LIMIT) -> Members | None:
    """As members()."""
    found: Members = {}
    is_object, key, value_begins = False, "", 0
    closers: list[str] = []  # of the arrays and objects that are open
    expected = _VALUE
    at = 0
    for _ in range(steps_limit):
        match = _token(text, at)
        assert match  # anything is one
        token, at = match[1], match.end()
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
            if len(closers) > 1 or (closers and not is_object):
                passed = (_more_items if closers[-1] == "]" else _more_members)(text, at)
                at = passed.end() if passed else at
    else:
        raise NotJSON(_TOO_MUCH)
    return found if is_object else None


# Each audience asks for the same row, and each client that catches up. Nobody changes what the cache gives.
_read_tokens_once = lru_cache(maxsize=64)(_read_tokens)


def _malformed(match: re.Match[str]) -> NotJSON:
    return NotJSON("it ends too early" if match[1] == "" else f"malformed at character {match.end() - 1}")
