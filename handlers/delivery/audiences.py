"""Clients and what they asked for in; for each change, the audiences it is for out. Knows no socket.

Clients with the same subscription in the same dialect are one audience: what they get is picked and encoded once.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any, Generic, TypeVar

from changefeed.change.change import Change
from changefeed.change.changed_row import Row
from changefeed.selection.filter_kinds import ToComparable
from changefeed.selection.filters import Equality
from changefeed.selection.subscription import ALL_CHANGES, Selection, Subscription
from handlers.delivery.dialects import Dialect

Client = TypeVar("Client")


class Audience(Generic[Client]):
    """`told` is the cursor its clients were last given; `trouble` the code of why nothing can fit any more."""

    def __init__(self, dialect: Dialect, selection: Selection) -> None:
        self.dialect = dialect
        self.selection = selection
        self.clients: set[Client] = set()
        self.told: str | None = None
        self.trouble = ""


class Audiences(Generic[Client]):
    """Every audience that has a client."""

    def __init__(self) -> None:
        self._all: dict[tuple[Dialect, Subscription], Audience[Client]] = {}
        self._tables: dict[tuple[str, bool], _TableIndex[Client]] = {}

    def __iter__(self) -> Iterator[Audience[Client]]:
        return iter(tuple(self._all.values()))

    def join(self, client: Client, dialect: Dialect, selection: Selection) -> Audience[Client]:
        """Into the audience of all who asked for what `selection` selects, with the same rights."""
        subscription = selection.subscription
        audience = self._all.get((dialect, subscription))
        if audience is None:
            audience = self._all[dialect, subscription] = Audience(dialect, selection)
            for index in self._tables.values():
                index.add(audience)
        audience.clients.add(client)
        return audience

    def leave(self, client: Client, audience: Audience[Client]) -> None:
        audience.clients.discard(client)
        if not audience.clients:
            self._all.pop((audience.dialect, audience.selection.subscription), None)
            for index in self._tables.values():
                index.discard(audience)

    def route(self, changes: Sequence[Change]) -> Iterator[tuple[Audience[Client], Sequence[Change]]]:
        """Each audience that gets something, and what; a change is parsed if some filter asks for it, and once."""
        picked: dict[Audience[Client], list[Change]] = {}
        asked_for_all = 0
        for audience in self:
            if audience.selection.subscription == ALL_CHANGES:
                asked_for_all += 1
                yield audience, changes
        if asked_for_all == len(self._all):
            return
        for change in changes:
            row = Row(change)
            for audience in self._index(change.table, change.is_journaled).concerned(row):
                chosen = audience.selection.pick_one(change, row)
                if chosen is not None:
                    picked.setdefault(audience, []).append(chosen)
        yield from picked.items()

    def refresh_columns(self) -> None:
        """The columns of some table are others than before, or known at last."""
        for audience in self._all.values():
            audience.selection.refresh_columns()
        self._tables.clear()

    def _index(self, table: str, is_journaled: bool) -> "_TableIndex[Client]":
        index = self._tables.get((table, is_journaled))
        if index is None:
            index = self._tables[table, is_journaled] = _TableIndex(table, is_exact=is_journaled)
            for audience in self._all.values():
                index.add(audience)
        return index


class _TableIndex(Generic[Client]):
    """The audiences that one table's changes may be for.

    One that asks for certain values of a column is found by the values a change has, so that a thousand clients may
    each follow a customer of their own at little more than the cost of one.
    """

    def __init__(self, table: str, *, is_exact: bool) -> None:
        self._table = table
        self._is_exact = is_exact
        self._scanned: set[Audience[Client]] = set()
        self._by_value: dict[tuple[str, ToComparable], dict[Any, set[Audience[Client]]]] = {}
        self._placed: dict[Audience[Client], Equality | None] = {}

    def add(self, audience: Audience[Client]) -> None:
        if audience.selection.subscription == ALL_CHANGES:
            return  # gets all changes as they are, without being looked for
        selected = audience.selection.for_table(self._table, is_exact=self._is_exact)
        if selected is None:
            return
        self._placed[audience] = equality = selected.equality
        if equality is None:
            self._scanned.add(audience)
            return
        by_value = self._by_value.setdefault((equality.column, equality.key), {})
        for value in equality.values:
            by_value.setdefault(value, set()).add(audience)

    def discard(self, audience: Audience[Client]) -> None:
        equality = self._placed.pop(audience, None)
        if equality is None:
            self._scanned.discard(audience)
            return
        by_value = self._by_value[equality.column, equality.key]
        for value in equality.values:
            by_value[value].discard(audience)
            if not by_value[value]:
                del by_value[value]

    def concerned(self, row: Row) -> Iterable[Audience[Client]]:
        """At least those that the change is for."""
        if not self._by_value:
            return self._scanned
        if not row.is_known:
            return self._placed
        found = set(self._scanned)
        for (column, key), by_value in self._by_value.items():
            found |= by_value.get(row.cell(column).key(key), _NOBODY)
            if row.has_changed(column):
                found |= by_value.get(row.old_cell(column).key(key), _NOBODY)
        return found


_NOBODY: Set[Any] = frozenset()
