"""A change of one table in, what may be seen of it out. Knows no subscription and no client.

Whatever a client asks for is asked of what is seen here, so that no filter, column or cursor tells of more. An UPDATE
that takes a row into sight shows the new row and nothing of the old one; one that takes it out of sight shows the row
as it was, and nothing of the new one.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import Raw

from changefeed.change.change import Change
from changefeed.change.changed_row import Cell, ChangedRow
from changefeed.change.json_text import Members, some, write
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.filters import Equality, Filter, equality, make_test
from changefeed.selection.rights import Bound, fits

# Not xid, which counts the transactions of the whole cluster, nor what a trigger says beside the contract.
_SHOWN = frozenset({"table", "action", "data", "schema", "old", "at", "count", "cursor"})

SealCursor = Callable[[str], str]


def visibility_of(bound: Bound, columns: Mapping[str, Kind] | None, seal: SealCursor) -> "TableVisibility | None":
    """None where nothing of the table can be shown. Without `columns`, of a table not known yet, only equality is safe:

    whatever type the column turns out to have, an equal text is an equal value.
    """
    if columns is not None and not fits(bound.filters, columns):
        return None
    if columns is None and any(term.is_negated or term.operator not in ("eq", "in") for term in bound.filters):
        return None
    return TableVisibility(bound, [(term, columns[term.column] if columns else None) for term in bound.filters], seal)


class TableVisibility:
    """What may be seen of one table's changes."""

    def __init__(self, bound: Bound, terms: Sequence[tuple[Filter, Kind | None]], seal: SealCursor) -> None:
        self._seal = seal
        self._key = bound, tuple(kind for _, kind in terms), seal
        self._tests = [(term.column, make_test(term, kind)) for term, kind in terms]
        self._has_limits = bool(terms) or bound.columns is not None
        self._columns = bound.columns
        self.equality: Equality | None = next(filter(None, (equality(term, kind) for term, kind in terms)), None)

    def see(self, change: Change, row: ChangedRow) -> tuple[Change, str, ChangedRow] | None:
        """The change as it is seen, "enter" or "leave" where it takes the row into or out of sight, and what is seen of
        the row: the same for all who have the same rights."""
        return row.once(self._key, lambda: self._see_row(change, row))

    def _see_row(self, change: Change, row: ChangedRow) -> tuple[Change, str, ChangedRow] | None:
        seen = self._see(change, row)
        return (*seen, ChangedRow(seen[0])) if seen else None

    def _see(self, change: Change, row: ChangedRow) -> tuple[Change, str] | None:
        if not change.id and not self._has_limits:
            return change, ""  # as a trigger of the user's says it
        if not row.is_known:
            # In the journal that is a TRUNCATE, or a statement of many rows. A trigger's may be anything.
            return (self._show(change, row), "") if change.id else None
        is_seen = was_seen = self._lets_through(row, row.cell)
        if change.action == "UPDATE" and row.is_changed:
            was_seen = self._lets_through(row, row.old_cell)
        if is_seen and was_seen:
            if row.old is not None and not self._shows_change(row):
                # What changed may not be seen, and neither that something did; `omit` may have left it out already.
                return None
            return self._show(change, row, has_old=row.is_changed), ""
        if is_seen:
            return self._show(change, row), "enter"
        return (self._show(change, row, as_before=True), "leave") if was_seen else None

    def _lets_through(self, row: ChangedRow, cell: Callable[[str], Cell]) -> bool:
        # A column that is not there is no null: it may have been renamed since the filter was made.
        return all(row.has(column) and test(cell(column)) for column, test in self._tests)

    def _shows_change(self, row: ChangedRow) -> bool:
        return self._columns is None or any(map(row.has_changed, self._columns))

    def _show(self, change: Change, row: ChangedRow, *, as_before: bool = False, has_old: bool = False) -> Change:
        parts: dict[str, str | Raw] = {**some(row.message, _SHOWN)}
        if not has_old:
            parts.pop("old", None)
        if self._tests:
            parts.pop("count", None)  # of rows that may all be others'
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
