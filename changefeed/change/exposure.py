"""What a row says in, what of it may leave the server out: all, the primary key's values, or nothing. Knows no client.

The journal's reader and the hub reduce by it what they hand on; so the memory and every route have what is left, and
nothing else.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import TypeVar

from msgspec import Raw

from changefeed.change.change import Change
from changefeed.change.changed_row import ChangedRow, KeyColumns
from changefeed.change.json_text import Members, members, quoted, some, string_of, write


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


Value = TypeVar("Value")


def key_members(row: str | None, key: Sequence[str]) -> str | None:
    """The row's JSON with just the columns of the key, each value byte for byte; an empty object without a key.

    Raises NotJSON.
    """
    return None if row is None else _key_of(members(row) or {}, key)


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
    row = ChangedRow(change)
    parts: dict[str, str | Raw] = {
        "table": row.message["table"],
        "action": quoted(change.action),
        "data": "null" if payload is Payload.OFF or row.data is None else _key_of(row.data, key_of(change.table)),
    }
    schema = string_of(row.message.get("schema"))
    if schema is not None:
        parts["schema"] = quoted(schema)
    return Change(write(parts, space=" "), change.table, change.action)


def _key_of(row: Members, key: Sequence[str]) -> str:
    return write(some(row, frozenset(key)))
