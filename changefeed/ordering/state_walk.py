"""The changes of linked rows in any order in, an order in which they can have happened out. Knows no journal.

Each change is an edge from one state of a row to another: an INSERT leads from nothing to a state, an UPDATE from one
to another, a DELETE to nothing. The order is a walk along all edges. Where the states allow several walks, the one
nearest to the edges' ranks is preferred.

A row that ends in the state in which it began leads in a circle, and may have begun anywhere in it. circles() names
those rows; `began` says of some the state in which they began.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from types import MappingProxyType

from changefeed.ordering.row_states import NOTHING, Edge


def walk(edges: Sequence[Edge], began: Mapping[int, int] = MappingProxyType({})) -> Sequence[int]:
    """The places of a component's edges, which are in the order of id, in an order in which they can have happened.

    Where DDL changed how rows are written, no state links what was before and after it: each part has its own
    walk. Where there is none at all, that is the order of id.
    """
    found = _only_walk(edges)
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


def circles(edges: Sequence[Edge]) -> dict[int, int]:
    """The keys of rows that end as they began, each with the place of its first edge; none where one walk is sure."""
    if _only_walk(edges) is not None:
        return {}
    return {key: steps[0][0] for key, steps in _Walk(edges).circles.items()}


def is_by_rank(edges: Sequence[Edge]) -> bool:
    return all(before.rank <= after.rank for before, after in pairwise(edges))


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
        for state in edge.takes:
            if key := edge.key_of(state):
                if key not in here and key in began and not _may_begin(edges, key, began[key], state):
                    return False
                if here.setdefault(key, state) != state:
                    return False
            elif state:
                if equal[state] < 1:
                    return False
                equal[state] -= 1
        for state in edge.gives:
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


def _only_walk(edges: Sequence[Edge]) -> Sequence[int] | None:
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
        self._takes = [edge.takes for edge in edges]
        self._gives = [edge.gives for edge in edges]
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
