"""A row in, the part that --payload allows out: all, the primary key's values, or nothing. Knows no client.

The journal's reader and the hub apply it first. So the cache and all routes never have more.
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
        """The error for a client that asks for a withheld column."""
        if self is Payload.KEYS:
            return "the server sends only the columns of primary keys (--payload keys)"
        return "the server sends only counts, and no columns (--payload off)"


Value = TypeVar("Value")


def key_members(row: str | None, key: Sequence[str]) -> str | None:
    """The row's JSON with only the columns of the key, each value byte for byte; an empty object without a key.

    Raises NotJSON.
    """
    return None if row is None else _key_of(members(row) or {}, key)


def shown_columns(payload: Payload, columns: Mapping[str, Value], key: Sequence[str]) -> Mapping[str, Value]:
    """The table's columns that may leave the server."""
    match payload:
        case Payload.FULL:
            return columns
        case Payload.KEYS:
            return {column: value for column, value in columns.items() if column in key}
        case Payload.OFF:
            return {}


def reduce(change: Change, payload: Payload, key_of: KeyColumns) -> Change | None:
    """A NOTIFY trigger's change, reduced to what may leave the server; None if its shape is unknown.

    Besides `data` only the table's name and the action are kept: other members may contain row data.
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
