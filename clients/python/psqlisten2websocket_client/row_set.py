"""The rows of a table at one moment and each change after it in, the rows now out. Knows no connection."""

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from psqlisten2websocket_client.changes import Change, Row

Key = Hashable
"""The value of the key column; of several columns, a tuple of their values. A list or an object is its JSON text."""

Kept = tuple[Iterable[Row], str]
"""All rows of one moment, and its cursor."""


class Rows(Mapping[Key, Row]):
    """The rows of a table by key, at one moment. It never changes: when the rows do, there is another one.

    `cursor`: the changes up to here are in it.
    """

    __slots__ = ("_rows", "cursor")

    def __init__(self, rows: Mapping[Key, tuple[Row, ...]], cursor: str) -> None:
        self._rows = rows
        self.cursor = cursor

    def __getitem__(self, key: Key) -> Row:
        return self._rows[key][-1]

    @property
    def kept(self) -> Kept:
        """What rows() takes as `since`, to continue with these rows after a restart. May be pickled."""
        return [row for rows in self._rows.values() for row in rows], self.cursor

    def __iter__(self) -> Iterator[Key]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<{len(self)} rows>"


class RowSet:
    """The rows by key, in the order in which they came."""

    def __init__(self, key: Sequence[str]) -> None:
        self._key = key
        # Two rows have one key while a statement moves keys along (1 to 2, 2 to 3), or a deferred constraint allows it.
        self._rows: dict[Key, tuple[Row, ...]] = {}

    def at(self, cursor: str) -> Rows:
        """The rows as they are now, copied."""
        return Rows(dict(self._rows), cursor)

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            key = self.key_of(row)
            self._rows[key] = (*self._rows.get(key, ()), row)

    def apply(self, change: Change) -> bool:
        """False if the change does not say which rows it is about: then they have to be read again."""
        if change.action == "TRUNCATE":
            self._rows.clear()
            return True
        if change.count is not None or change.data is None:
            return False
        old = {**change.data, **(change.old or {})}
        if change.action == "DELETE":
            self._remove(change.data)
        elif change.action == "INSERT" or change.filter == "enter":
            self.add([change.data])
        elif change.filter == "leave":
            self._remove(old)
        else:
            self._update(old, change.data)
        return True

    def key_of(self, row: Row) -> Key:
        """Raises ValueError if the row has no such column."""
        missing = [column for column in self._key if column not in row]
        if missing:
            raise ValueError(f"the rows have no column {missing[0]}: name the columns of their key")
        values = tuple(map(_hashable, (row[column] for column in self._key)))
        return values[0] if len(values) == 1 else values

    def _update(self, old: Row, row: Row) -> None:
        key = self.key_of(old)
        if key in self._rows and key == self.key_of(row):
            rows = self._rows[key]
            place = _place(old, rows)
            self._rows[key] = (*rows[:place], row, *rows[place + 1 :])
        else:
            self._remove(old)
            self.add([row])

    def _remove(self, row: Row) -> None:
        key = self.key_of(row)
        rows = self._rows.get(key, ())
        if len(rows) > 1:
            place = _place(row, rows)
            self._rows[key] = rows[:place] + rows[place + 1 :]
        else:
            self._rows.pop(key, None)


def _place(row: Row, rows: Sequence[Row]) -> int:
    """Which of several rows of one key it is: the equal one, else the one that came first."""
    return rows.index(row) if row in rows else 0


def _hashable(value: Any) -> Hashable:
    return value if isinstance(value, str | int | Decimal | None) else json.dumps(value, default=str)
