"""What a row says in, what of it may leave the server out: all, the primary key's values, or nothing. Knows no client.

The journal's reader and the hub reduce by it what they hand on; so the memory and every route have what is left, and
nothing else.
"""

import enum
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from changefeed.change import Change
from changefeed.old_values import some_members


class Payload(enum.StrEnum):
    """The setting --payload."""

    FULL = "full"
    KEYS = "keys"
    OFF = "off"

    @property
    def withheld(self) -> str:
        """Why a column cannot be asked for, for whoever did."""
        if self is Payload.KEYS:
            return "the server gives out the columns of primary keys only (--payload keys)"
        return "the server gives out counts only, and no column (--payload off)"


KeyColumns = Callable[[str], Sequence[str]]  # a table's primary key; none where it has none
Value = TypeVar("Value")


class _Message(msgspec.Struct):
    data: dict[str, msgspec.Raw] | None = None


_read = msgspec.json.Decoder(_Message).decode


def key_members(row: str | None, key: Sequence[str]) -> str | None:
    """The row's JSON with just the columns of the key, each value byte for byte; an empty object without a key."""
    return None if row is None else some_members(row, frozenset(map(_json, key)))


def shown_columns(payload: Payload, columns: Mapping[str, Value], key: Sequence[str]) -> Mapping[str, Value]:
    """Of a table's columns those that may leave."""
    match payload:
        case Payload.FULL:
            return columns
        case Payload.KEYS:
            return {column: value for column, value in columns.items() if column in key}
        case Payload.OFF:
            return {}


def reduce(change: Change, payload: Payload, key_of: KeyColumns) -> Change | None:
    """What a trigger that notifies tells of, as it may leave; None where it is of another shape than the original's.

    Beside `data` only the table's name and the action are passed on: what else a trigger says may be a row's.
    """
    if payload is Payload.FULL:
        return change
    if change.is_foreign:
        return None
    said = json.loads(change.text, parse_int=str, parse_float=str)
    data = "null"
    if payload is Payload.KEYS and isinstance(said.get("data"), dict):
        data = _key_of(change, key_of(change.table))
    schema = said.get("schema")
    about_schema = f', "schema": {_json(schema)}' if isinstance(schema, str) else ""
    text = f'{{"table": {_json(said["table"])}, "action": "{change.action}", "data": {data}{about_schema}}}'
    return Change(text, change.table, change.action)


def _key_of(change: Change, key: Sequence[str]) -> str:
    try:
        row = _read(change.text).data or {}
    except (msgspec.DecodeError, RecursionError):
        return "{}"  # half characters in it, which are JSON all the same
    return "{" + ",".join(f"{_json(name)}:{bytes(row[name]).decode()}" for name in key if name in row) + "}"


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
