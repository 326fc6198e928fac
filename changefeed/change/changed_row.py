"""A change's text in, the values of its row out, for filters and for selecting columns. Knows no filter.

Numbers stay text: a float would round them.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from changefeed.change.change import Change
from changefeed.change.json_text import Members, members, string_of, text_of

T = TypeVar("T")
KeyColumns = Callable[[str], Sequence[str]]  # the columns of a table's primary key; empty without one


class Number(str):
    """A JSON number as PostgreSQL wrote it."""

    __slots__ = ()


class Nested(str):
    """A JSON array or object as PostgreSQL wrote it. It is never parsed, however deeply it is nested."""

    __slots__ = ()


class Cell:
    """A column's value, and what is computed of it once, since many filters may ask."""

    __slots__ = ("_known", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self._known: dict[Hashable, Any] = {}

    def key(self, read: Callable[[Any], Any]) -> Any:
        """read(value), computed once."""
        if read not in self._known:
            self._known[read] = read(self.value)
        return self._known[read]

    def once(self, question: Hashable, answer: Callable[[], T]) -> T:
        """answer(), remembered by a question that has the same answer for the same value."""
        if question not in self._known:
            self._known[question] = answer()
        found: T = self._known[question]
        return found


class _Message(msgspec.Struct):
    data: Members | None = None
    old: Members | None = None


_read = msgspec.json.Decoder(_Message).decode
_NAMES: Mapping[str, Any] = {"null": None, "true": True, "false": False}


class ChangedRow:
    """The row of a change, parsed once and when needed; each value is decoded when needed."""

    __slots__ = ("_cells", "_change", "_data", "_is_parsed", "_message", "_old", "_old_cells", "_worked_out")

    def __init__(self, change: Change) -> None:
        self._change = change
        self._is_parsed = False
        self._message: Members | None = None
        self._worked_out: dict[Hashable, Any] = {}

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """compute(), remembered by a key that gives the same result for this row."""
        if key not in self._worked_out:
            self._worked_out[key] = compute()
        found: T = self._worked_out[key]
        return found

    @property
    def message(self) -> Members:
        """The members of the change itself."""
        if self._message is None:
            self._message = (
                members(self._change.text, rows=3) or {}
            )  # three: the row, the old row, and the message around them
        return self._message

    @property
    def data(self) -> Members | None:
        """The row's columns; None if the change has no row."""
        self._parse()
        return self._data

    @property
    def old(self) -> Members | None:
        """The old values of the columns that an UPDATE changed; None if unknown."""
        self._parse()
        return self._old

    @property
    def is_known(self) -> bool:
        """Whether the change has a row: a TRUNCATE does not."""
        return self.data is not None

    def value(self, column: str) -> Any:
        """The column's value, after a DELETE the last one; None for null and for a missing column."""
        return self.cell(column).value

    def cell(self, column: str) -> Cell:
        """The same, as a Cell for comparing."""
        self._parse()
        return _cell(self._cells, self._data, column)

    def has(self, column: str) -> bool:
        """Whether the row has the column, even if it is null."""
        return self.data is not None and column in self.data

    def has_changed(self, column: str) -> bool:
        """Whether an UPDATE is known to have changed the column."""
        return self.old is not None and column in self.old

    def old_value(self, column: str) -> Any:
        """The column's value before an UPDATE."""
        return self.old_cell(column).value

    def old_cell(self, column: str) -> Cell:
        """The same, as a Cell for comparing."""
        return _cell(self._old_cells, self._old, column) if self.has_changed(column) else self.cell(column)

    @property
    def is_changed(self) -> bool:
        """Whether it is known which columns an UPDATE changed."""
        return bool(self.old)

    def _parse(self) -> None:
        if self._is_parsed:
            return
        self._is_parsed = True
        self._cells: dict[str, Cell] = {}
        self._old_cells: dict[str, Cell] = {}
        try:
            message = _read(self._change.text)
            self._data, self._old = message.data, message.old
        except (msgspec.DecodeError, RecursionError):
            self._data, self._old = self._members("data"), self._members("old")

    def _members(self, name: str) -> Members | None:
        text = self.message.get(name)
        return members(text) if text is not None else None


def _cell(cells: dict[str, Cell], row: Members | None, column: str) -> Cell:
    """The cell of the column, kept in `cells`."""
    if column not in cells:
        text = row.get(column) if row else None
        cells[column] = Cell(None if text is None else _decode(text))
    return cells[column]


def _decode(text: Raw) -> Any:
    value = text_of(text)
    if value[0] == '"':
        return string_of(text)
    if value in _NAMES:
        return _NAMES[value]
    return Nested(value) if value[0] in "[{" else Number(value)
