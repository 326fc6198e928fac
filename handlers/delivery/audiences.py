"""Groups clients by what they asked for, and finds the audiences of each change. Knows no socket.

Clients with the same subscription in the same dialect are one audience: their changes are picked and encoded once.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Generic, TypeVar

from changefeed.change.change import Change
from changefeed.change.changed_row import ChangedRow
from changefeed.change.table_names import Pattern, TableName, could_mean
from changefeed.selection.filter_kinds import ToComparable
from changefeed.selection.subscription import ALL_CHANGES, Selection, Subscription, TableSelection
from handlers.delivery.dialects import Dialect

# Any role of the database can make up any number of table names. So at most this many indexes are kept, and names that
# no table has are distinguished only as far as the clients' subscriptions do.
TABLES_LIMIT = 1_000
UNKNOWN_LIMIT = 100
LEFT_LIMIT = 100  # audiences that have left but may stay in an index; or as many as it holds
COPIES_LIMIT_CHARACTERS = 4 << 20  # of the reduced copies of changes that wait for the rest of their changes

Client = TypeVar("Client")


class Audience(Generic[Client]):
    """`told` is the cursor that its clients were last sent; `trouble` the error, if no change can match any more."""

    def __init__(self, number: int, dialect: Dialect, selection: Selection) -> None:
        self.number = number  # rising in the order in which audiences joined
        self.dialect = dialect
        self.selection = selection
        self.gets_all = selection.subscription == ALL_CHANGES
        self.clients: set[Client] = set()
        self.told: str | None = None
        self.trouble = ""


@dataclass(frozen=True, slots=True)
class Share(Generic[Client]):
    """Changes for one audience. `cursor` is one after the last of them, before any that it did not get."""

    audience: Audience[Client]
    changes: Sequence[Change]
    cursor: str | None


class Audiences(Generic[Client]):
    """Every audience that has a client.

    `is_known` says whether a name, as a user's trigger spells it, may be that of an existing table. A new audience
    enters a table's index when the index is next used, so that joining costs the same however many tables there are.
    """

    def __init__(self, is_known: Callable[[str], bool] = lambda table: True) -> None:
        self._is_known = is_known
        self._all: dict[tuple[Dialect, Subscription], Audience[Client]] = {}
        self._unfiltered: set[Audience[Client]] = set()  # those that get all changes
        self._newest = 0  # the number of the last audience
        self._left = 0  # how many audiences have ever left
        self._tables: OrderedDict[Hashable, _TableIndex[Client]] = OrderedDict()
        self._unknown: OrderedDict[Hashable, _TableIndex[Client]] = OrderedDict()
        self._patterns = _Patterns()

    def __iter__(self) -> Iterator[Audience[Client]]:
        return iter(tuple(self._all.values()))

    def join(self, client: Client, dialect: Dialect, selection: Selection) -> Audience[Client]:
        """Adds the client to the audience of all with the same selection, rights and dialect."""
        subscription = selection.subscription
        audience = self._all.get((dialect, subscription))
        if audience is None:
            self._newest += 1
            audience = self._all[dialect, subscription] = Audience(self._newest, dialect, selection)
            if audience.gets_all:
                self._unfiltered.add(audience)
            if self._patterns.add(subscription.patterns):
                self._unknown.clear()
        audience.clients.add(client)
        return audience

    def leave(self, client: Client, audience: Audience[Client]) -> None:
        audience.clients.discard(client)
        subscription = audience.selection.subscription
        if not audience.clients and self._all.pop((audience.dialect, subscription), None) is not None:
            self._left += 1
            self._unfiltered.discard(audience)
            self._patterns.discard(subscription.patterns)
            for kept in (self._tables, self._unknown):
                if kept and next(iter(kept.values())).is_stale(self._left):
                    kept.popitem(last=False)

    def route(self, changes: Sequence[Change], cursor: str | None) -> Iterator[Share[Client] | None]:
        """Yields what each audience gets, in order and once; `cursor` is the one after the last change.

        Yields None wherever the caller may do something else first, even between two audiences of one change. It may
        let clients join and leave meanwhile: an audience that joins may get the rest of the changes, or nothing.
        A change is parsed if some filter asks for it, and once.
        """
        for audience in tuple(self._unfiltered):
            yield Share(audience, changes, cursor)
        if len(self._unfiltered) == len(self._all):
            return
        picked: dict[Audience[Client], list[Change]] = {}
        copied = 0  # characters
        before: Change | None = None
        for change in changes:
            if change.table:
                row = ChangedRow(change)
                index = yield from self._index(change.table, change.is_from_journal)
                for audience, selected in index.concerned(row):
                    chosen = selected.pick(change, row)
                    if chosen is not None:
                        picked.setdefault(audience, []).append(chosen)
                        copied += 0 if chosen is change else len(chosen.text)
                    if copied >= COPIES_LIMIT_CHARACTERS:
                        # The audiences that come later have not got this change yet.
                        for each, some in picked.items():
                            last = change if some[-1].id == change.id else before
                            yield Share(each, some, last.cursor if last else None)
                        picked, copied = {}, 0
                    yield None
            before = change
        for audience, some in picked.items():
            yield Share(audience, some, cursor)

    def refresh_columns(self) -> None:
        """Called when a table's columns have changed or have become known."""
        for audience in self._all.values():
            audience.selection.refresh_columns()
        self._tables.clear()
        self._unknown.clear()

    def _index(self, table: str, is_from_journal: bool) -> "Generator[None, None, _TableIndex[Client]]":
        """Returns the table's index. Yields wherever the caller may do something else first."""
        key: Hashable = (table, is_from_journal)
        kept, limit = self._tables, TABLES_LIMIT
        if key not in kept and not is_from_journal and not self._is_known(table):
            kept, limit, key = self._unknown, UNKNOWN_LIMIT, self._patterns.tell_apart(table)
        index = kept.get(key)
        if index is None or index.is_stale(self._left):
            index = kept[key] = _TableIndex(table, is_exact=is_from_journal, left=self._left)
        kept.move_to_end(key)
        if len(kept) > limit:
            kept.popitem(last=False)
        missing = list(takewhile(lambda each: each.number > index.newest, reversed(self._all.values())))
        for audience in reversed(missing):
            index.add(audience)
            yield
        return index


class _Patterns:
    """The table patterns that the subscriptions and rights of all audiences name."""

    def __init__(self) -> None:
        self._counts: Counter[Pattern] = Counter()
        self._of_table: dict[str, set[Pattern]] = {}

    def add(self, patterns: Iterable[Pattern]) -> bool:
        """Returns whether any of them is new."""
        is_any_new = False
        for pattern in patterns:
            is_any_new |= pattern not in self._counts
            self._counts[pattern] += 1
            if pattern.table is not None:
                self._of_table.setdefault(pattern.table, set()).add(pattern)
        return is_any_new

    def discard(self, patterns: Iterable[Pattern]) -> None:
        for pattern in patterns:
            self._counts[pattern] -= 1
            if self._counts[pattern]:
                continue
            del self._counts[pattern]
            if pattern.table is not None:
                self._of_table[pattern.table].discard(pattern)
                if not self._of_table[pattern.table]:
                    del self._of_table[pattern.table]

    def tell_apart(self, name: str) -> Hashable:
        """A key for the name: equal for all names that every subscription treats alike, while no table has them."""
        readings = could_mean(name)
        return sum(one.schema is not None for one in readings) == 1, frozenset(map(self._concerned, readings))

    def _concerned(self, reading: TableName) -> tuple[bool, frozenset[Pattern]]:
        found = {pattern for pattern in self._of_table.get(reading.table, ()) if pattern.may_cover(reading)}
        if reading.schema is not None:
            found |= {Pattern(reading.schema, None)} & self._counts.keys()
        return reading.schema is None, frozenset(found)


class _TableIndex(Generic[Client]):
    """The audiences that may match the changes of one table, or of all names that are treated alike.

    An audience that asks for certain values of a column, or of one of several columns, is looked up by a change's
    values. So a thousand clients may each follow a different customer at little more than the cost of one. Audiences
    that have left are not removed one by one: when there may be many, the whole index is rebuilt.
    """

    def __init__(self, table: str, *, is_exact: bool, left: int) -> None:
        self.newest = 0  # the number of the last audience that was added
        self._table = table
        self._is_exact = is_exact
        self._left = left
        self._scanned: set[Audience[Client]] = set()
        self._by_value: dict[tuple[str, ToComparable], dict[Any, set[Audience[Client]]]] = {}
        self._placed: dict[Audience[Client], TableSelection] = {}

    def is_stale(self, left: int) -> bool:
        """Whether many of its audiences may have left; `left` is how many have ever left."""
        return left - self._left > max(LEFT_LIMIT, len(self._placed))

    def add(self, audience: Audience[Client]) -> None:
        self.newest = audience.number
        if audience.gets_all:
            return  # without a lookup
        selected = audience.selection.for_table(self._table, is_exact=self._is_exact)
        if selected is None:
            return
        self._placed[audience] = selected
        if not selected.equalities:
            self._scanned.add(audience)
        for equality in selected.equalities:
            by_value = self._by_value.setdefault((equality.column, equality.key), {})
            for value in equality.values:
                by_value.setdefault(value, set()).add(audience)

    def concerned(self, row: ChangedRow) -> Iterator[tuple[Audience[Client], TableSelection]]:
        """Yields the audiences that may match the change, at least those that do, with their selection of the table.

        Audiences may join and leave meanwhile.
        """
        return ((audience, self._placed[audience]) for audience in tuple(self._candidates(row)) if audience.clients)

    def _candidates(self, row: ChangedRow) -> Iterable[Audience[Client]]:
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
