"""The entries of one transaction in, the order in which its rows really changed out. Knows no database.

Triggers write the journal, and those of statements fire in an order of their own: what a row trigger, a BEFORE trigger,
a foreign key's action or a writing CTE wrote comes before or after the statement that caused it, by rules that differ
from case to case. But each entry holds whole rows. So the states of the rows give the order (see state_walk.py); where
they allow several, the order in which the statements began is preferred (see statement_order.py). The entries of a
statement come before those that its AFTER triggers wrote, which have a greater depth and smaller ids.

Only entries of the same row need it. A component is what is linked by an equal primary key, or by an equal state where
there is none. Its entries change places among themselves and with no other. So the transaction keeps the ids it has,
and nothing passes another transaction's change of the same row, which waited for this one's lock. What holds no row (a
TRUNCATE, a mere count, a loss) is passed by nothing; nor is DDL, seen by the columns' names: PostgreSQL refuses it
while a statement on the table, or a trigger, is at work.

All takes linear time, but for the sorting of a component's entries.
"""

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from changefeed.ordering.row_states import NOTHING, Edge, Entry
from changefeed.ordering.state_walk import circles, is_by_rank, settled, walk
from changefeed.ordering.statement_order import PreferredOrder, Statements


class Doubt(NamedTuple):
    """Why a reader of a transaction may have found another order of it: it saw other entries of earlier ones.

    `ids` are the transaction's. `seen` are the transactions on which the order depends, and which may have ended later;
    None if it depends on what retention has deleted.
    """

    ids: range
    seen: frozenset[str] | None

    def concerns(self, entry_id: int, sees: Callable[[int], bool]) -> bool:
        """Whether a client that has got the entries up to this one may have them in another order."""
        return entry_id in self.ids[:-1] and (self.seen is None or not all(sees(int(xid)) for xid in self.seen))


class Order:
    """Which entry's content belongs at each id: that of source(id). Ids that it does not hold keep their own.

    `doubt` says when another reader may have found another order.
    """

    def __init__(self, ids: "array[int]", sources: "array[int]") -> None:
        self._ids = ids  # ascending
        self._sources = sources
        self.doubt: Doubt | None = None

    @classmethod
    def as_recorded(cls) -> "Order":
        return cls(array("q"), array("q"))

    def __len__(self) -> int:
        """How many entries move."""
        return len(self._ids)

    def source(self, entry_id: int) -> int:
        place = bisect_left(self._ids, entry_id)
        return self._sources[place] if place < len(self._ids) and self._ids[place] == entry_id else entry_id


class Transaction:
    """Collects a transaction's entries in the order of id, some 50 bytes each; then order() computes their order."""

    def __init__(self) -> None:
        self._ids = array("q")
        self._states = (array("q"), array("q"), array("q"), array("q"))  # before, after, key before, key after
        self._statements = Statements()
        self._preferred = PreferredOrder()
        self._open_runs: dict[str, _Run] = {}  # by table
        self._runs: list[_Run] = []
        self._is_accompanied = False
        self.is_nested = False  # triggers wrote some of its entries

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> range:
        """From its first entry's to its last one's."""
        return range(self._ids[0], self._ids[-1] + 1) if self._ids else range(0)

    def add(self, entry: Entry) -> None:
        number = len(self._ids)
        self._ids.append(entry.id)
        for column, digest in zip(self._states, _states_of(entry), strict=True):
            column.append(NOTHING if digest is None else digest or 1)
        self._preferred.add(number, entry)
        is_joined = self._statements.add(entry)
        self.is_nested |= entry.depth > 1
        self._is_accompanied |= entry.is_accompanied
        run = self._open_runs.get(entry.table)
        if entry.before is None and entry.after is None:
            self._open_runs[entry.table] = _Run(entry.table, follows_truncate=entry.action == "T")
            return
        if run is None or (run.numbers and run.columns != entry.columns):
            run = self._open_runs[entry.table] = _Run(entry.table, goes_on_after=run)
        if not run.numbers:
            run.columns = entry.columns
            self._runs.append(run)
        run.numbers.append(number)
        run.is_nested |= entry.depth > 1
        run.has_keys |= bool(entry.key_before or entry.key_after)
        run.is_joined |= is_joined

    def circles(self) -> dict[tuple[str, int], int]:
        """The rows, by table and key, that end as they began, each with the id of its first entry.

        Leaves out rows for which an earlier part of the transaction shows how they began. Where no trigger wrote, it
        leaves out those that were removed before they were added, too: no statement removes a row that it added itself.
        It leaves out all if no other trigger ran commands in between: then the commands' numbers show the statements.
        """
        found: dict[tuple[str, int], int] = {}
        for run, began, numbers, edges in self._parts({}):
            is_sure = not run.is_nested and is_by_rank(edges)
            added_first = _added_first(edges) if is_sure and self._is_accompanied else set()
            if added_first or not is_sure:
                for key, first in circles(edges).items():
                    if key not in began and (key in added_first or not is_sure):
                        found.setdefault((run.table, key), self._ids[numbers[first]])
        return found

    def order(self, began: Mapping[tuple[str, int], int]) -> Order:
        """Computes the order. `began` has the states in which rows of circles() began, if known."""
        ids, sources = self._ids, array("q", self._ids)
        for run, began_here, numbers, edges in self._parts(began):
            places = walk(edges, began_here) if run.is_nested else settled(edges, began_here)
            for number, place in zip(numbers, places, strict=True):
                sources[number] = ids[numbers[place]]
        moved = [number for number in range(len(ids)) if ids[number] != sources[number]]
        return Order(array("q", (ids[number] for number in moved)), array("q", (sources[number] for number in moved)))

    def _parts(
        self, began: Mapping[tuple[str, int], int]
    ) -> "Iterator[tuple[_Run, Mapping[int, int], list[int], list[Edge]]]":
        """Yields each component with its run, and the known states in which the run's rows began, by key."""
        preferred = self._preferred.ranks(len(self._ids))
        before, after, key_before, key_after = self._states
        of_table: dict[str, dict[int, int]] = defaultdict(dict)
        for (table, key), state in began.items():
            of_table[table][key] = state
        for run in self._runs:
            if run.follows_truncate:
                of_table[run.table] = {}
            if run.was_emptied:
                for key in {key for column in (key_before, key_after) for key in map(column.__getitem__, run.numbers)}:
                    of_table[run.table].setdefault(key, ~key)
            if run.is_nested or run.has_keys or run.is_joined:
                ranks = preferred if run.is_nested else self._statements.ranks
                for numbers in self._components(run):
                    yield (
                        run,
                        of_table[run.table],
                        numbers,
                        [
                            Edge(before[number], after[number], key_before[number], key_after[number], ranks[number])
                            for number in numbers
                        ],
                    )
            if run.is_gone_on_after:
                of_table[run.table].update(self._left_by(run))

    def _left_by(self, run: "_Run") -> dict[int, int]:
        """The states in which a run left the rows that it changed, by key."""
        balance: Counter[tuple[int, int]] = Counter()
        for number in run.numbers:
            before, after, key_before, key_after = (column[number] for column in self._states)
            edge = Edge(before, after, key_before, key_after, rank=0)
            balance.subtract((edge.key_of(state), state) for state in edge.takes)
            balance.update((edge.key_of(state), state) for state in edge.gives)
        return {key: state for (key, state), count in balance.items() if key and count > 0}

    def _components(self, run: "_Run") -> Iterator[list[int]]:
        """The groups of linked entries of a run that have at least two members."""
        numbers, is_one_statement_linked = run.numbers, run.is_joined and not (run.has_keys or run.is_nested)
        parents = array("q", range(len(numbers)))

        def root_of(place: int) -> int:
            while parents[place] != place:
                parents[place] = place = parents[parents[place]]
            return place

        first_with: dict[int, int] = {}
        for place, number in enumerate(numbers):
            before, after, key_before, key_after = (column[number] for column in self._states)
            links = {key_before or before, key_after or after} - {NOTHING}
            if is_one_statement_linked:
                links.add(~self._statements.number(number))
            for link in links:
                first, second = root_of(first_with.setdefault(link, place)), root_of(place)
                parents[max(first, second)] = min(first, second)
        del first_with
        # The members of each are a chain from the first one on; lists would take ten times the memory.
        following = array("q", bytes(8 * len(numbers)))
        for place in reversed(range(len(numbers))):
            root = root_of(place)
            if root != place:
                following[place], following[root] = following[root], place
        for place in range(len(numbers)):
            if parents[place] == place and following[place]:
                members = [place]
                while following[members[-1]]:
                    members.append(following[members[-1]])
                yield [numbers[member] for member in members]


def _states_of(entry: Entry) -> tuple[int | None, ...]:
    return entry.before, entry.after, entry.key_before, entry.key_after


def _added_first(edges: Iterable[Edge]) -> set[int]:
    """The keys whose first edge adds their row."""
    found, others = set[int](), set[int]()
    for edge in edges:
        if edge.key_after != edge.key_before and edge.key_after not in others:
            found.add(edge.key_after)
        others |= {edge.key_before, edge.key_after} - found
    return found - {NOTHING}


class _Run:
    """The entries of a table between two barriers, which no entry may cross."""

    def __init__(self, table: str, *, follows_truncate: bool = False, goes_on_after: "_Run | None" = None) -> None:
        self.table = table
        self.columns: int | None = None  # those of all its entries
        self.numbers = array("q")
        self.is_nested = False  # triggers wrote some of its entries
        self.has_keys = False
        self.is_joined = False  # several trigger calls may be for one statement
        self.follows_truncate = follows_truncate
        self.was_emptied: bool = follows_truncate or (goes_on_after is not None and goes_on_after.was_emptied)
        self.is_gone_on_after = False
        if goes_on_after:
            goes_on_after.is_gone_on_after = True
