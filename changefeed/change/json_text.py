"""JSON text in, the members of an object out, the text of each value byte for byte. Knows nothing but JSON.

PostgreSQL's numbers have more digits than a float holds, so no value is read and written again. msgspec does the work
where it can. It recurses for each level of nesting, which Python limits (some 1,000 levels in 3.11), and it refuses
half of a surrogate pair, which JSON allows. PostgreSQL stores both, up to some 10,000 levels deep. So what msgspec
refuses is parsed here, without recursion. Both take time in proportion to the text; texts above a bound, which only
this parser has, count as malformed.
"""

import json
import re
from collections.abc import Mapping, Set
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any

import msgspec
from msgspec import Raw

Members = dict[str, Raw]  # the text of each value, by its key

_SPACES = " \t\r\n"
_SPACE = f"[{_SPACES}]*+"
_STRING = r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})[^"\\\x00-\x1f]*+)*+"'
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+"
# A brace or comma and the key after it are one token, and so are adjacent brackets of one kind.
_TOKEN = rf"[{{,](?:{_SPACE}({_STRING}){_SPACE}:)?+|\[++|\]++|\}}++|{_STRING}|{_NUMBER}|true|false|null|\Z"
# Group 1 is the token, 2 the key. The token is empty at the end of the text, and None if it is malformed.
_token = re.compile(rf"{_SPACE}(?:({_TOKEN})|.)", re.DOTALL).match


def _containers_of(item: str) -> str:
    """A pattern for arrays and objects of a few such items; with more, a failed match would waste time."""
    member = rf"{_STRING}{_SPACE}:{_SPACE}{item}{_SPACE}"
    array = rf"\[{_SPACE}(?:{item}{_SPACE}(?:,{_SPACE}{item}{_SPACE}){{0,7}}+)?+\]"
    return rf"{array}|\{{{_SPACE}(?:{member}(?:,{_SPACE}{member}){{0,7}}+)?+\}}"


# An item that is nested no deeper than that is skipped in one match, if it follows another item.
_SCALAR = rf"{_STRING}|{_NUMBER}|true|false|null"
_FLAT = rf"(?:{_SCALAR}|{_containers_of(f'(?:{_SCALAR})')})"
_ITEM = rf"(?:{_SCALAR}|{_containers_of(_FLAT)})"
_more_items = re.compile(rf"(?:{_SPACE},{_SPACE}{_ITEM})*+").match
_more_members = re.compile(rf"(?:{_SPACE},{_SPACE}{_STRING}{_SPACE}:{_SPACE}{_ITEM})*+").match
# The limits of a row that is parsed here: some 50 ms. PostgreSQL's values have at most some 10,000 levels.
STEPS_LIMIT = 20_000
LIMIT_CHARACTERS = 512 << 10
# A token's first character is its kind, so a string lists the kinds that may come next.
_VALUE = '"[{tfn-0123456789'
_VALUE_OR_END = _VALUE + "]"
_TOO_MUCH = "it is nested too deeply and has too many parts to be parsed in time"
_CACHED_CHARACTERS = 256 << 10
half_character = re.compile("[\ud800-\udfff]").search

_read_object = msgspec.json.Decoder(Members).decode
_read_any = msgspec.json.Decoder(Raw).decode


class NotJSON(ValueError):
    """The text is malformed, and the message says where; or parsing it would take too long."""


def parse_unique(text: str | bytes) -> Any:
    """Parses as json.loads() does, but refuses an object that has a member twice. Raises ValueError or RecursionError.

    JSON says nothing of which one counts; a second one by mistake must not lift the limit that the first one sets.
    """
    return json.loads(text, object_pairs_hook=_unique)


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in members:
        if name in found:
            raise ValueError(f"{name[:80]!r} is given twice")
        found[name] = value
    return found


def members(text: str | Raw, *, rows: int = 1) -> Members | None:
    """An object's members; None for other JSON. Raises NotJSON, also if parsing takes too long for `rows`."""
    try:
        return _read_object(text)
    except (msgspec.DecodeError, RecursionError):
        whole = text_of(text)
        if whole.lstrip()[:1] == "{":
            return _read_by_hand(whole, rows)
        check_json(whole)
        return None


def check_json(text: str) -> None:
    """Raises NotJSON unless the text is JSON."""
    try:
        _read_any(text)
    except (msgspec.DecodeError, RecursionError):
        _read_by_hand(text, 1)


def text_of(value: str | Raw) -> str:
    return value if isinstance(value, str) else str(value, "utf-8")


def string_of(value: Raw | None) -> str | None:
    """The text of a JSON string; None for any other value."""
    text = bytes(value or b"")
    if not text.startswith(b'"'):
        return None
    try:
        decoded: str = msgspec.json.decode(text)
    except msgspec.DecodeError:
        decoded = json.loads(text)  # half of a surrogate pair
    return decoded


def quoted(text: str) -> str:
    """The text as a JSON string, as PostgreSQL writes it."""
    return json.dumps(text) if half_character(text) else encode_basestring(text)


def some(found: Members, keys: Set[str]) -> Members:
    """The members with these keys."""
    return {key: value for key, value in found.items() if key in keys}


def write(found: Mapping[str, str | Raw], *, space: str = "") -> str:
    """Writes an object: without spaces, as PostgreSQL writes a row, or with `space`, as on the wire."""
    return "{" + f",{space}".join([f"{quoted(key)}:{space}{text_of(value)}" for key, value in found.items()]) + "}"


def changed_columns(old_row: str, new_row: str) -> str:
    """A JSON object of the old row's members that differ or are missing in the new row. Raises NotJSON."""
    if old_row == new_row:
        check_json(new_row)
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
        assert match  # the pattern matches anything
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
        else:  # one or more nested values end
            value_ends = match.end()
            if kind in "]}":
                closers.pop()  # it was expected
                for closer in token[1:]:
                    if not closers or closers.pop() != closer:
                        raise _malformed(match)
                if not closers:
                    value_ends -= 1  # the last closes the outermost value
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


# All audiences, and clients that catch up, parse the same row. Nothing changes the cached objects.
_read_tokens_once = lru_cache(maxsize=64)(_read_tokens)


def _malformed(match: re.Match[str]) -> NotJSON:
    return NotJSON("it ends too early" if match[1] == "" else f"malformed at character {match.end() - 1}")
