"""Changes in, the newest of each row out, for a client that does not keep up and needs only the newest state.

The caller bounds its size by `bytes`. Knows no client.
"""

from collections.abc import Iterator, Sequence

from changefeed.change.change import Change
from changefeed.change.changed_row import ChangedRow, KeyColumns


class Conflation:
    """Holds the newest change of each row, in the order in which these came.

    A change of the key is also kept under the old key, until that key has another change: otherwise the client would
    never learn that the old row is gone. A TRUNCATE replaces everything before it in its table.
    """

    def __init__(self, key_columns: KeyColumns) -> None:
        self.bytes = 0
        self._key_columns = key_columns
        self._newest: dict[tuple[object, ...], Change] = {}
        self._added = 0

    def add(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._added += 1
            if change.action == "TRUNCATE":
                for key in [key for key in self._newest if key[0] == change.table]:
                    self._forget(key)
            for key in self._keys(change):
                self._forget(key)
                self._newest[key] = change
                self.bytes += len(change.text)

    def take(self) -> tuple[list[Change], int]:
        """Removes and returns the changes that are held, and the number of changes that they replaced."""
        changes = list({id(change): change for change in self._newest.values()}.values())
        skipped = self._added - len(changes)
        self.bytes = self._added = 0
        self._newest.clear()
        return changes, skipped

    def _forget(self, key: tuple[object, ...]) -> None:
        before = self._newest.pop(key, None)
        if before is not None:
            self.bytes -= len(before.text)

    def _keys(self, change: Change) -> Iterator[tuple[object, ...]]:
        """The row's identities: by its new and its old key. Without a key or a row, none is equal to another."""
        row = ChangedRow(change)
        columns = self._key_columns(change.table)
        key = [row.value(column) for column in columns]
        if not columns or None in key:
            yield change.table, self._added
            return
        yield change.table, *map(str, key)
        if any(map(row.has_changed, columns)):
            yield change.table, *(str(row.old_value(column)) for column in columns)
