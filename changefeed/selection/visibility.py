"""Reduces a change to what a client may see of it. Knows no subscription and no client.

Subscriptions are applied to the result, so that no filter, column or cursor reveals more. An UPDATE that makes a row
visible shows the new row and nothing of the old one; one that hides it shows the old row and nothing of the new one.
"""

from collections.abc import Callable, Mapping

import msgspec
from msgspec import Raw

from changefeed.change.change import Change
from changefeed.change.changed_row import Cell, ChangedRow
from changefeed.change.json_text import Members, some, write
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.filters import KindOf, equalities, filters_in, row_test
from changefeed.selection.rights import TableRights, fits

# Not xid, which counts the transactions of the whole cluster, nor additional members of a user's trigger.
_SHOWN = frozenset({"table", "action", "data", "schema", "old", "at", "count", "cursor"})

SealCursor = Callable[[str], str]


def visibility_of(
    granted: TableRights, columns: Mapping[str, Kind] | None, seal: SealCursor
) -> "TableVisibility | None":
    """The visibility of a table; None if nothing of it may be shown.

    Without `columns`, for a table that is not known yet, only equality is safe: an equal text is an equal value,
    whatever the column's type is.
    """
    if columns is not None and not fits(granted.filters, columns):
        return None
    if columns is None and any(
        term.is_negated or term.operator not in ("eq", "in") for term in filters_in(granted.filters)
    ):
        return None
    return TableVisibility(granted, (columns or {}).get, seal)


class TableVisibility:
    """Applies the rights to the changes of one table."""

    def __init__(self, granted: TableRights, kind_of: KindOf, seal: SealCursor) -> None:
        self._seal = seal
        self._tests = [row_test(condition, kind_of) for condition in granted.filters]
        filtered = dict.fromkeys(term.column for term in filters_in(granted.filters))
        self._filtered = tuple(filtered)
        self._key = granted, tuple(map(kind_of, filtered)), seal
        self._has_limits = bool(granted.filters) or granted.columns is not None
        self._columns = granted.columns
        # One of them at least holds of each visible row; empty if there are no such.
        self.equalities = equalities(granted.filters, kind_of)

    def see(self, change: Change, row: ChangedRow) -> tuple[Change, str, ChangedRow] | None:
        """The visible change, "enter" or "leave" if it shows or hides the row, and the visible row.

        The result is the same for all clients with the same rights, and computed once.
        """
        return row.once(self._key, lambda: self._see_row(change, row))

    def _see_row(self, change: Change, row: ChangedRow) -> tuple[Change, str, ChangedRow] | None:
        seen = self._see(change, row)
        return (*seen, ChangedRow(seen[0])) if seen else None

    def _see(self, change: Change, row: ChangedRow) -> tuple[Change, str] | None:
        if not change.id and not self._has_limits:
            return change, ""  # as the user's trigger sent it
        if not row.is_known:
            # In the journal this is a TRUNCATE, or a statement of many rows. From a user's trigger it may be anything.
            return (self._show(change, row), "") if change.id else None
        is_seen = was_seen = self._lets_through(row, row.cell)
        if change.action == "UPDATE" and row.is_changed:
            was_seen = self._lets_through(row, row.old_cell)
        if is_seen and was_seen:
            if row.old is not None and not self._shows_change(row):
                # Only hidden columns changed, so the change itself is hidden; `omit` may have removed them before.
                return None
            return self._show(change, row, has_old=row.is_changed), ""
        if is_seen:
            return self._show(change, row), "enter"
        return (self._show(change, row, as_before=True), "leave") if was_seen else None

    def _lets_through(self, row: ChangedRow, cell: Callable[[str], Cell]) -> bool:
        # A missing column does not count as null: it may have been renamed since the filter was made.
        return all(map(row.has, self._filtered)) and all(test(cell) for test in self._tests)

    def _shows_change(self, row: ChangedRow) -> bool:
        return self._columns is None or any(map(row.has_changed, self._columns))

    def _show(self, change: Change, row: ChangedRow, *, as_before: bool = False, has_old: bool = False) -> Change:
        parts: dict[str, str | Raw] = {**some(row.message, _SHOWN)}
        if not has_old:
            parts.pop("old", None)
        if self._tests:
            parts.pop("count", None)  # the counted rows may all be hidden ones
        if as_before:
            parts["data"] = self._columns_of((row.data or {}) | (row.old or {}))
        elif self._columns is not None:
            for name, found in (("data", row.data), ("old", row.old)):
                if name in parts:
                    parts[name] = self._columns_of(found)
        parts.pop("cursor", None)
        if change.cursor:
            parts["cursor"] = f'"{self._seal(change.cursor)}"'
        return msgspec.structs.replace(change, text=write(parts, space=" "))

    def _columns_of(self, row: Members | None) -> str:
        if row is None:
            return "null"
        return write(row if self._columns is None else some(row, self._columns))
