"""Two rows' JSON in, the old values of the columns that changed out. Knows nothing but JSON text.

Both texts are PostgreSQL's row_to_json of one table, and the values go out as they came in, byte for byte: the texts
are cut where the values begin and end, and never written anew.
"""

import re
from json import JSONDecoder
from json.decoder import scanstring  # type: ignore[attr-defined]  # C, not in typeshed
from json.scanner import make_scanner
from typing import Any, cast

_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# A member whose value is no array and no object, up to the comma or brace behind it; PostgreSQL puts no space there.
_scalar_members = re.compile(rf'({_STRING}):({_STRING}|[^"\[{{,}} \t\r\n]+)[,}}]').findall
# The scanner behind JSONDecoder: where does the value that begins here end?
_value_end: Any = make_scanner(cast(Any, JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)))
_skip_space = re.compile(r"[ \t\r\n]*").match


def changed_columns(old_row: str, new_row: str) -> str:
    """A JSON object of the old row's members that the new row has otherwise, or not at all."""
    if old_row == new_row:
        return "{}"
    new = dict(members(new_row))
    return "{" + ", ".join(f"{key}: {value}" for key, value in members(old_row) if new.get(key) != value) + "}"


def members(row: str) -> list[tuple[str, str]]:
    """A JSON object's members: the key as it stands there, in quotes, and the text of the value."""
    found = _scalar_members(row)
    if 1 + sum(len(key) + len(value) + 2 for key, value in found) == len(row):
        return found
    return _nested_members(row)  # some value is an array, an object, or a json column's text with spaces about it


def some_members(row: str, names: frozenset[str]) -> str:
    """The object with just these members, by their names as JSON strings."""
    return "{" + ",".join(f"{name}:{value}" for name, value in members(row) if name in names) + "}"


def _nested_members(row: str) -> list[tuple[str, str]]:
    found = []
    at = _after_space(row, 1)
    while row[at] == '"':
        _, key_ends = scanstring(row, at + 1)
        value_begins = _after_space(row, _after_space(row, key_ends) + 1)  # past the colon
        _, value_ends = _value_end(row, value_begins)
        found.append((row[at:key_ends], row[value_begins:value_ends]))
        at = _after_space(row, value_ends)
        if row[at] == ",":
            at = _after_space(row, at + 1)
    return found


def _after_space(text: str, at: int) -> int:
    match = _skip_space(text, at)
    assert match  # it matches the empty text too
    return match.end()
