"""A message's JSON in, changes and gaps out. Knows no socket."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

Row = Mapping[str, Any]
"""A row by column. Numbers keep every digit: they are int or Decimal, never float."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row's change."""

    table: str
    action: Literal["INSERT", "UPDATE", "DELETE", "TRUNCATE"]
    data: Row | None
    """The new row; on DELETE the old one; None on TRUNCATE, and on a change with a `count`."""
    schema: str | None = None
    old: Row | None = None
    """On UPDATE: the previous values of the columns that changed."""
    at: str | None = None
    """When the statement ran, ISO 8601."""
    xid: str | None = None
    cursor: str | None = None
    """The place after this change, None if it is in no journal."""
    filter: Literal["enter", "leave"] | None = None
    """With a filter, on an UPDATE that moves the row into or out of it."""
    count: int | None = None
    """The number of rows, on a change that represents a whole statement above its table's `row_limit`."""

    @classmethod
    def of(cls, value: Any) -> Self:
        """A payload of another trigger, which names no table, becomes a change with that payload as `data`."""
        if not isinstance(value, dict) or not {"table", "action", "data"} <= value.keys():
            value = {"table": "", "action": "", "data": value}
        return cls(**{name: value[name] for name in cls.__slots__ if name in value})


@dataclass(frozen=True, slots=True)
class Gap:
    """Changes may be missing: between two cursors, or two times (ISO 8601), where they are known."""

    why: str
    what_to_do: str = "read the tables you follow again; the feed continues from here"
    from_cursor: str | None = None
    to_cursor: str | None = None
    since: str | None = None
    until: str | None = None
    table: str | None = None
    """The only table whose changes may be missing, as in "public.orders"."""
    skipped: int | None = None
    """The number of changes, where it is known."""

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Self:
        renamed = {"from_cursor": message.get("from"), "to_cursor": message.get("to")}
        return cls(**{name: message[name] for name in cls.__slots__ if name in message} | renamed)
