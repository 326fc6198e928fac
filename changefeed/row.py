"""A change's text in, the values of its row out, for the filters. Knows no filter.

Numbers stay the text they are: a float would round them.
"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from changefeed.change import Change


class Number(str):
    """A JSON number as PostgreSQL wrote it."""

    __slots__ = ()


class _Message(msgspec.Struct):
    data: dict[str, msgspec.Raw] | None = None
    old: dict[str, msgspec.Raw] | None = None


_read = msgspec.json.Decoder(_Message).decode
_NAMES: Mapping[bytes, Any] = {b"null": None, b"true": True, b"false": False}


class Row:
    """Parsed when somebody looks, and once; of its values only those that somebody looks at."""

    __slots__ = ("_change", "_data", "_old")

    def __init__(self, change: Change) -> None:
        self._change: Change | None = change

    @property
    def is_known(self) -> bool:
        """Whether the change names a row at all: a TRUNCATE does not."""
        self._parse()
        return self._data is not None

    def value(self, column: str) -> Any:
        """What the column is now, or was before the row was deleted; null, and a column that is not there, are None."""
        self._parse()
        return _value(self._data, column) if self._data else None

    def has(self, column: str) -> bool:
        """Whether the row says anything of it, null included."""
        self._parse()
        return self._data is not None and column in self._data

    def has_changed(self, column: str) -> bool:
        """Whether an UPDATE has changed it, as far as is known."""
        self._parse()
        return self._old is not None and column in self._old

    def old_value(self, column: str) -> Any:
        """What the column was before an UPDATE."""
        return _value(self._old, column) if self._old and self.has_changed(column) else self.value(column)

    @property
    def is_changed(self) -> bool:
        """Whether anything is known of what an UPDATE has changed."""
        self._parse()
        return bool(self._old)

    def _parse(self) -> None:
        if self._change is None:
            return
        try:
            message = _read(self._change.text)
            self._data: dict[str, Any] | None = message.data
            self._old: dict[str, Any] | None = message.old
        except (msgspec.DecodeError, RecursionError):
            # Half characters in it, which are JSON all the same, or data that is no object.
            parsed = json.loads(self._change.text, parse_int=Number, parse_float=Number)
            self._data, self._old = (row if isinstance(row, dict) else None for row in map(parsed.get, ("data", "old")))
        self._change = None


def _value(row: dict[str, Any], column: str) -> Any:
    value = row.get(column)
    if isinstance(value, msgspec.Raw):
        text = bytes(value)
        if text[0] in b"-0123456789":
            value = Number(text.decode())
        else:
            value = _NAMES[text] if text in _NAMES else msgspec.json.decode(text)
        row[column] = value
    return value
