"""The entries of one transaction in, the order in which its rows really changed out. Knows no database.

The journal is written by triggers for statements, which fire in an order of their own: what a row trigger, a BEFORE
trigger, a foreign key's action or a writing CTE wrote stands before or after the statement that caused it, by rules
that differ from case to case. But each entry holds whole rows. So the entries of one table are edges between the states
of its rows: an INSERT leads from nothing to a state, an UPDATE from one to another, a DELETE to nothing. The order is a
walk along all.

Only entries of the same row need it. A component is what is linked by an equal primary key, or by an equal state where
there is none. Its entries change places among themselves and with no other. So the transaction keeps the ids it has,
and nothing passes another transaction's change of the same row, which waited for this one's lock. What holds no row (a
TRUNCATE, a mere count, a loss) is passed by nothing; nor is DDL, seen by the columns' names: PostgreSQL refuses it
while a statement on the table, or a trigger, is at work.

A row that ends in the state in which it began leads in a circle, and may have begun anywhere in it. circles() names
those; what the journal says of the row before decides. Else, and where states allow several orders, that of the
statements' beginnings is preferred. The entries of a statement come before those that its AFTER triggers wrote, which
have a greater depth and smaller ids.

States are known by digests of 64 bits. All is linear, but for the sorting of a component's entries.
"""

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from types import MappingProxyType
from typing import NamedTuple

ACTIONS = "DUI"  # in the order in which the triggers of one statement are called
NOTHING = 0  # the state before an INSERT and after a DELETE, and the key of a row that has none


class Entry(NamedTuple):
    """What an entry of the journal says of its row."""

    id: int
    call: int  # of the trigger that wrote it: when that was
    action: str
    depth: int
    is_followed: bool  # what stands before it, AFTER triggers of its statement may have written
    command: int  # number of the transaction's command that wrote the entry itself
    table: str
    columns: int | None  # digest of their names
    before: int | None  # digests of the row's states
    after: int | None
    key_before: int | None  # and of its key in them
    key_after: int | None


class Edge(NamedTuple):
    """An entry within its component; `rank` is its place in the preferred order."""

    before: int
    after: int
    key_before: int
    key_after: int
    rank: int

    @property
    def changes_key(self) -> bool:
        return NOTHING not in (self.key_before, self.key_after) and self.key_before != self.key_after

    def key_of(self, state: int) -> int:
        """The key whose row is in `state`, before or after this entry; ~key is the state in which it is not there."""
        if state == self.before or state == ~self.key_before:
            return self.key_before
        return self.key_after if state in (self.after, ~self.key_after) else NOTHING


class Order:
    """Where the content of entries stands: at each id that of source(id). Ids that are not in it are their own."""

    def __init__(self, ids: "array[int]", sources: "array[int]") -> None:
        self._ids = ids  # ascending
        self._sources = sources

    @classmethod
    def as_recorded(cls) -> "Order":
        return cls(array("q"), array("q"))

    def __len__(self) -> int:
        """How many entries change places."""
        return len(self._ids)

    def source(self, entry_id: int) -> int:
        place = bisect_left(self._ids, entry_id)
        return self._sources[place] if place < len(self._ids) and self._ids[place] == entry_id else entry_id


def state_after(entries: Iterable[Entry], key: int) -> int | None:
    """The state in which one transaction's entries left the row of a key, ~key for none; None where they do not say."""
    balance: Counter[int] = Counter()
    columns: int | None = None
    for entry in entries:
        if entry.columns != columns:
            balance.clear()  # how it was written before DDL, it is not written now
            columns = entry.columns
        if entry.before is None and entry.after is None:
            balance.clear()
            if entry.action == "T":
                balance[~key] = 1
            continue
        if entry.key_before != entry.key_after or entry.before != entry.after:
            balance[(entry.before or 1) if entry.key_before == key else ~key] -= 1
            balance[(entry.after or 1) if entry.key_after == key else ~key] += 1
    return next((state for state, count in balance.items() if count > 0), None)


class Transaction:
    """Takes entries in the order of id, some 50 bytes each; order() is for when all are in."""

    def __init__(self) -> None:
        self._ids = array("q")
        self._states = (array("q"), array("q"), array("q"), array("q"))  # before, after, key before, key after
        self._statements = _Statements()
        self._preferred = _PreferredOrder()
        self._open_runs: dict[str, _Run] = {}  # by table
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, entry: Entry) -> None:
        number = len(self._ids)
        self._ids.append(entry.id)
        for column, digest in zip(self._states, entry[8:], strict=True):
            column.append(NOTHING if digest is None else digest or 1)
        self._preferred.add(number, entry)
        is_joined = self._statements.add(entry)
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

        But for those of which an earlier part of the transaction says how they began.
        """
        found: dict[tuple[str, int], int] = {}
        for run, began, numbers, edges in self._parts({}):
            if only_walk(edges) is None and (run.is_nested or _by_rank(edges) != list(range(len(edges)))):
                for key, steps in _Walk(edges).circles.items():
                    if key not in began:
                        found.setdefault((run.table, key), self._ids[numbers[steps[0][0]]])
        return found

    def order(self, began: Mapping[tuple[str, int], int]) -> Order:
        """`began` says of circles() the state in which the row began, where that is known."""
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
        """Each component with its run, and the states in which the run's rows began, by key, as far as known."""
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
        """The states in which a run left the rows that it did not leave as they were, by key."""
        balance: Counter[tuple[int, int]] = Counter()
        for number in run.numbers:
            before, after, key_before, key_after = (column[number] for column in self._states)
            edge = Edge(before, after, key_before, key_after, rank=0)
            balance.subtract((edge.key_of(state), state) for state in _taken_by(edge))
            balance.update((edge.key_of(state), state) for state in _given_by(edge))
        return {key: state for (key, state), count in balance.items() if key and count > 0}

    def _components(self, run: "_Run") -> Iterator[list[int]]:
        """Of the entries of a run those that are linked, where there are two at least."""
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
        # The members of each as a chain from the first one on; lists would take ten times the room.
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


class _Run:
    """The entries of a table between two that nothing passes."""

    def __init__(self, table: str, *, follows_truncate: bool = False, goes_on_after: "_Run | None" = None) -> None:
        self.table = table
        self.columns: int | None = None  # those of its first entry, as of all
        self.numbers = array("q")
        self.is_nested = False  # triggers wrote some of them
        self.has_keys = False
        self.is_joined = False  # more than one call of a trigger may have been for one statement
        self.follows_truncate = follows_truncate
        self.was_emptied: bool = follows_truncate or (goes_on_after is not None and goes_on_after.was_emptied)
        self.is_gone_on_after = False
        if goes_on_after:
            goes_on_after.is_gone_on_after = True


class _Statements:
    """Which calls were for one statement, as a writing CTE's are, as far as the commands tell.

    A statement that writes is a command, and so is each INSERT into the journal. So between two calls of which the
    second is for another statement there are two at least. Within one statement's calls there is one; and two before
    those of an UPDATE of several rows, for which record.sql tries in vain what serves for one row.
    """

    def __init__(self) -> None:
        self.ranks = array("q")  # by statement, then by action: within a statement each row goes before another comes
        self._number = 0
        self._last: Entry | None = None
        self._may_be_joined = False  # by the call's next entry

    def number(self, number: int) -> int:
        return self.ranks[number] // (len(ACTIONS) + 1)

    def add(self, entry: Entry) -> bool:
        """Whether the entry joins its call to the one before."""
        last, self._last = self._last, entry
        is_joined = False
        if last is None or (entry.call, entry.action, entry.table) != (last.call, last.action, last.table):
            is_near = last is not None and entry.depth == last.depth
            steps = entry.command - last.command if last else 0
            is_joined = is_near and steps == 1
            self._may_be_joined = is_near and steps == 2 and entry.action == "U"
            self._number += not is_joined
        elif self._may_be_joined:
            self._may_be_joined = False
            is_joined = True
            self._number -= 1
            self.ranks[-1] -= len(ACTIONS) + 1
        self.ranks.append(self._number * (len(ACTIONS) + 1) + ACTIONS.find(entry.action) + 1)
        return is_joined


class _PreferredOrder:
    """From the order in which statements end, which is that of the ids, to the one in which they begin."""

    def __init__(self) -> None:
        self._next = array("q")
        self._segments: list[tuple[int, int, int]] = []  # depth, first and last; deeper ones are nearer to the end
        self._statement: _Statement | None = None  # the one being taken

    def add(self, number: int, entry: Entry) -> None:
        self._next.append(-1)
        if self._statement and self._statement.takes(entry):
            self._next[self._statement.last] = number
            self._statement.last = number
        else:
            self._end_statement()
            self._statement = _Statement(number, entry)

    def ranks(self, count: int) -> "array[int]":
        self._end_statement()
        ranks, rank = array("q", bytes(8 * count)), 0
        for _, first, _ in self._segments:
            number = first
            while number >= 0:
                ranks[number], rank, number = rank, rank + 1, self._next[number]
        return ranks

    def _end_statement(self) -> None:
        if self._statement is None:
            return
        depth, first, last = self._statement.depth, self._statement.first, self._statement.last
        if self._statement.is_followed:
            end = last
            while self._segments and self._segments[-1][0] > depth:
                _, nested_first, nested_last = self._segments.pop()
                # Each deeper segment goes between the statement and what was taken from behind it.
                self._next[nested_last], self._next[end] = self._next[end], nested_first
                last = last if last != end else nested_last
        else:
            while self._segments and self._segments[-1][0] > depth:
                _, nested_first, nested_last = self._segments.pop()
                self._next[nested_last], first = first, nested_first
        if self._segments and self._segments[-1][0] == depth:
            _, before_first, before_last = self._segments.pop()
            self._next[before_last], first = first, before_first
        self._segments.append((depth, first, last))
        self._statement = None


class _Statement:
    """Entries that follow each other. An upsert or a MERGE writes a table's in a call for each action: D, U, I."""

    def __init__(self, number: int, entry: Entry) -> None:
        self.depth = entry.depth
        self.first = self.last = number
        self.is_followed = entry.is_followed
        self._table = entry.table
        self._call = entry.call
        self._action = entry.action

    def takes(self, entry: Entry) -> bool:
        if (entry.depth, entry.table) != (self.depth, self._table):
            return False
        if entry.call != self._call:
            if ACTIONS.find(entry.action) <= ACTIONS.find(self._action):
                return False
            self._call, self._action = entry.call, entry.action
        self.is_followed |= entry.is_followed
        return True


def walk(edges: Sequence[Edge], began: Mapping[int, int] = MappingProxyType({})) -> Sequence[int]:
    """The places of a component's edges, which are in the order of id, in an order in which they can have happened.

    Where DDL changed how rows are written, no state links what was before and after it: each part has its own
    walk. Where there is none at all, that is the order of id.
    """
    found = only_walk(edges)
    if found is None:
        preferred = _by_rank(edges)
        found = preferred if _replays(edges, preferred, began) else _Walk(edges, began).find()
    if found is not None:
        return found
    order: list[int] = []
    parts = list(_unlinked_parts(edges))
    for begin, end in parts:
        part = _Walk(edges[begin:end], began).find() if len(parts) > 1 else None
        order.extend(range(begin, end) if part is None else (begin + place for place in part))
    return order


def settled(edges: Sequence[Edge], began: Mapping[int, int]) -> Sequence[int]:
    """The same where no trigger wrote: there the order of id is right, but for what one statement wrote.

    A writing CTE that is not read to its end is recorded behind what reads it, and of several foreign keys' actions
    any may be recorded first. So another order is looked for only where the states do not allow these.
    """
    for order in (_by_rank(edges), range(len(edges))):
        if _replays(edges, order, began):
            return order
    return walk(edges, began)


def _by_rank(edges: Sequence[Edge]) -> list[int]:
    return sorted(range(len(edges)), key=lambda place: edges[place].rank)


def _replays(edges: Sequence[Edge], order: Iterable[int], began: Mapping[int, int]) -> bool:
    """Whether each edge takes what the ones before it left.

    Of rows without a key several may be equal. That no more were there before than must have been is sure to be right
    for whoever counts them.
    """
    here: dict[int, int] = {}  # by key
    equal = Counter(edge.before for edge in edges if not edge.key_before)
    equal.subtract(edge.after for edge in edges if not edge.key_after)
    for place in order:
        edge = edges[place]
        for state in _taken_by(edge):
            if key := edge.key_of(state):
                if key not in here and key in began and not _may_begin(edges, key, began[key], state):
                    return False
                if here.setdefault(key, state) != state:
                    return False
            elif state:
                if equal[state] < 1:
                    return False
                equal[state] -= 1
        for state in _given_by(edge):
            if key := edge.key_of(state):
                here[key] = state
            else:
                equal[state] += 1
    return True


def _may_begin(edges: Sequence[Edge], key: int, began: int, state: int) -> bool:
    """Whether a row can be in `state` that began as the journal says. Before DDL it was written in another way."""
    if began == state:
        return True
    is_of_now = any(began in (edge.before, edge.after) for edge in edges)
    return not is_of_now and ~key not in (began, state)


def only_walk(edges: Sequence[Edge]) -> Sequence[int] | None:
    """The walk of a row that is in no state twice, as most are; of those that just come, or go, the order of id."""
    leaving = {edge.before: place for place, edge in enumerate(edges)}
    entered = {edge.after for edge in edges}
    if leaving.keys() == {NOTHING} or entered == {NOTHING}:
        return range(len(edges))
    if any(edge.changes_key for edge in edges):
        return None  # the states of one row may have to wait for another row to give a key free
    starts = leaving.keys() - entered
    if len(leaving) < len(edges) or len(entered) < len(edges) or len(starts) != 1:
        return None
    order, state = list[int](), starts.pop()
    while (place := leaving.get(state)) is not None:
        order.append(place)
        state = edges[place].after
    return order if len(order) == len(edges) else None


def _unlinked_parts(edges: Sequence[Edge]) -> Iterator[tuple[int, int]]:
    """Cuts the order of id wherever no state stands on both sides."""
    last_with = {state: place for place, edge in enumerate(edges) for state in (edge.before, edge.after)}
    last_with.pop(NOTHING, None)
    begin = end = 0
    for place, edge in enumerate(edges):
        end = max(end, *(last_with.get(state, 0) for state in (edge.before, edge.after)))
        if end <= place:
            yield begin, place + 1
            begin = place + 1
    if begin < len(edges):
        yield begin, len(edges)


class _Walk:
    """One walk along all edges. A state can be left as often as it was entered, or as rows were in it at the start.

    That a key's row is not there is a state too: an INSERT leaves it, a DELETE enters it. So there is always one row of
    each key, in one state or another. An UPDATE of the key moves two of them at once.
    """

    def __init__(self, edges: Sequence[Edge], began: Mapping[int, int] = MappingProxyType({})) -> None:
        self._edges = edges
        self._began = began
        self.circles: dict[int, list[tuple[int, int, int]]] = {}  # by key: place, state before and after of its edges
        self._takes = [_taken_by(edge) for edge in edges]
        self._gives = [_given_by(edge) for edge in edges]
        self._preferred = sorted(range(len(edges)), key=lambda place: edges[place].rank)
        self._leaving: dict[int, deque[int]] = defaultdict(deque)  # by state, in the preferred order
        for place in self._preferred:
            [state, *_] = self._takes[place]
            if self._takes[place] == self._gives[place]:
                self._leaving[state].appendleft(place)  # changes nothing: goes first where its state is
            else:
                self._leaving[state].append(place)
        self._at_start = self._states_at_start()
        self._here = Counter(self._at_start)
        self._ready: list[tuple[int, int]] = []  # rank and place, the first on top
        self._waiting: dict[int, list[int]] = defaultdict(list)  # by the second state that they take
        self._all_waiting: list[tuple[int, int]] = []  # the same, as those that are ready
        self._is_waiting = bytearray(len(edges))
        self._taken: list[int] = []
        self._is_taken = bytearray(len(edges))
        self._last_leaving: dict[int, int] = {}
        self._inserted: dict[int, list[int]] = {}  # a circuit's edges, by the edge that they go before

    def find(self) -> list[int] | None:
        for state in self._at_start:
            self._offer(state)
        untaken = iter(self._preferred)
        self._go_on()
        while not all(self._is_taken):
            if not (self._force_one() or self._insert_circuits()):
                # Nothing leads there: its rows were there at the start, and are at the end.
                place = next((place for place in untaken if not self._is_taken[place]), None)
                if place is None:
                    return None
                state = self._takes[place][0]
                self._at_start[state] += 1
                self._enter(state)
            self._go_on()
        order = list(self._flattened())
        return order if self._is_strict(order) else None

    def _states_at_start(self) -> Counter[int]:
        """States that are left more often than entered. A key without any leads in a circle: see _start_of_circle()."""
        balance: Counter[int] = Counter()
        key_of = {NOTHING: NOTHING}
        steps: dict[int, list[tuple[int, int, int]]] = defaultdict(list)  # of a key: place, state before and after
        for place, edge in enumerate(self._edges):
            balance.update(self._takes[place])
            balance.subtract(self._gives[place])
            for state in self._takes[place] + self._gives[place]:
                key_of[state] = edge.key_of(state)
            for key in {edge.key_before, edge.key_after} - {NOTHING}:
                [before] = [state for state in self._takes[place] if key_of[state] == key]
                [after] = [state for state in self._gives[place] if key_of[state] == key]
                steps[key].append((place, before, after))
        del balance[NOTHING]
        at_start = Counter({state: count for state, count in balance.items() if count > 0})
        uneven = {key_of[state] for state, count in balance.items() if count}
        self.circles = {key: steps[key] for key in steps.keys() - uneven}
        at_start.update(self._start_of_circle(key) for key in self.circles)
        self._keys = Counter(key_of[state] for state in at_start.elements())
        at_start[NOTHING] = len(self._edges)  # it is never used up
        return at_start

    def _start_of_circle(self, key: int) -> int:
        """The state in which a row began that ended in the same.

        Where that is not known, the preferred order is asked if it was in one state only. Else none, since rows come
        and go but seldom come back to the very same values. Where DDL came between, what is known is that it was there.
        """
        steps = self.circles[key]
        states = {state for _, before, after in steps for state in (before, after)}
        began = self._began.get(key)
        if began in states:
            return began
        if began is None and ~key in states and len(states) > 2:
            return ~key
        was_there = began is not None
        return min((before == ~key and was_there, self._edges[place].rank, before) for place, before, _ in steps)[2]

    def _offer(self, state: int) -> None:
        if self._here[state] and self._leaving[state]:
            place = self._leaving[state][0]
            heappush(self._ready, (self._edges[place].rank, place))

    def _go_on(self) -> None:
        """Takes edges for as long as there is one that can be."""
        while self._ready:
            _, place = heappop(self._ready)
            [state, *other] = self._takes[place]
            leaving = self._leaving[state]
            if not (self._here[state] and leaving and leaving[0] == place):
                continue
            leaving.popleft()
            if other and not self._here[other[0]]:
                self._is_waiting[place] = True
                self._waiting[other[0]].append(place)
                heappush(self._all_waiting, (self._edges[place].rank, place))
                self._offer(state)
            else:
                self._take(place)

    def _take(self, place: int) -> None:
        self._taken.append(place)
        self._is_taken[place] = True
        for state in self._takes[place]:
            self._here[state] -= 1
            self._last_leaving[state] = place
            self._offer(state)
        for state in self._gives[place]:
            self._enter(state)

    def _enter(self, state: int) -> None:
        self._here[state] += 1
        for waiting in reversed(self._waiting.pop(state, ())):
            if self._is_waiting[waiting]:
                self._stop_waiting(waiting)
        self._offer(state)

    def _stop_waiting(self, place: int) -> None:
        self._is_waiting[place] = False
        [state, *_] = self._takes[place]
        self._leaving[state].appendleft(place)
        self._offer(state)

    def _force_one(self) -> bool:
        """Takes the first of those that wait for a key: of rows that swap their keys, one must be first."""
        while self._all_waiting:
            _, place = heappop(self._all_waiting)
            if not self._is_waiting[place]:
                continue
            if self._here[self._takes[place][0]]:
                self._is_waiting[place] = False
                self._take(place)
                return True
            self._stop_waiting(place)
        return False

    def _insert_circuits(self) -> bool:
        """What is left leads in circles; each goes where its state was there for the last time (Hierholzer)."""
        known = [
            (self._edges[places[0]].rank, state)
            for state, places in self._leaving.items()
            if places and state in self._last_leaving
        ]
        heapify(known)
        has_inserted = bool(known)
        while known:
            _, begin = heappop(known)
            state, circuit = begin, list[int]()
            before = self._last_leaving[begin]
            # It ends where it began: what is left enters each state as often as it leaves it.
            while self._leaving[state]:
                place = self._leaving[state].popleft()
                circuit.append(place)
                self._is_taken[place] = True
                self._last_leaving.setdefault(state, place)
                if state != begin and self._leaving[state]:
                    heappush(known, (self._edges[self._leaving[state][0]].rank, state))
                [state, *_] = self._gives[place]
            if circuit:
                self._inserted.setdefault(before, []).extend(circuit)
        return has_inserted

    def _flattened(self) -> Iterator[int]:
        stack = [iter(self._taken)]
        while stack:
            for place in stack[-1]:
                if place in self._inserted:
                    stack.append(iter([*self._inserted.pop(place), place]))
                    break
                yield place
            else:
                stack.pop()

    def _is_strict(self, order: Iterable[int]) -> bool:
        """Whether each edge takes what is there, and each key begins in one state."""
        if any(count != 1 for key, count in self._keys.items() if key):
            return False
        here = Counter(self._at_start)
        for place in order:
            for state in self._takes[place]:
                if here[state] < 1:
                    return False
                here[state] -= 1
            here.update(self._gives[place])
        return True


def _taken_by(edge: Edge) -> tuple[int, ...]:
    if not edge.before:
        return (~edge.key_after if edge.key_after else NOTHING,)
    if edge.changes_key:
        return edge.before, ~edge.key_after
    return (edge.before,)


def _given_by(edge: Edge) -> tuple[int, ...]:
    if not edge.after:
        return (~edge.key_before if edge.key_before else NOTHING,)
    if edge.changes_key:
        return edge.after, ~edge.key_before
    return (edge.after,)
