"""Changes of linked rows in any order in, an order in which they can have happened out. Knows no journal.

Each change is an edge from one state of a row to another: an INSERT leads from nothing to a state, an UPDATE from one
to another, a DELETE to nothing. The order is a walk along all edges. Where the states allow several walks, the one
nearest to the edges' ranks is preferred.

A row that ends in the state in which it began leads in a circle, and may have begun anywhere in it. circles() names
those rows; `began` has the first state of some.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from types import MappingProxyType

from changefeed.ordering.row_states import NOTHING, Edge

SEARCH_STEPS = 20_000  # some 10 ms
SEARCH_EDGES = 1_000  # each dead end is remembered in as many bits


def walk(edges: Sequence[Edge], began: Mapping[int, int] = MappingProxyType({})) -> Sequence[int]:
    """The indexes of a component's edges, which are in the order of id, in an order in which they can have happened.

    If DDL changed how rows are written, no state links the parts before and after it: each has its own walk. A part
    without any walk keeps the order of id.
    """
    found = _only_walk(edges)
    if found is None:
        preferred = _by_rank(edges)
        found = preferred if _replays(edges, preferred, began) else _found(edges, began)
    if found is not None:
        return found
    order: list[int] = []
    parts = list(_unlinked_parts(edges))
    for begin, end in parts:
        part = _found(edges[begin:end], began) if len(parts) > 1 else None
        order.extend(range(begin, end) if part is None else (begin + index for index in part))
    return order


def settled(edges: Sequence[Edge], began: Mapping[int, int]) -> Sequence[int]:
    """The same if no trigger wrote: then the order of id is right, except within one statement.

    A writing CTE that is not read to its end is recorded after what reads it, and the actions of several foreign keys
    are recorded in any order. So another order is searched only if the states rule out the two usual ones.
    """
    for order in (_by_rank(edges), range(len(edges))):
        if _replays(edges, order, began):
            return order
    return walk(edges, began)


def circles(edges: Sequence[Edge]) -> dict[int, int]:
    """The keys of rows that end as they began, each with the index of its first edge; none where one walk is sure."""
    if _only_walk(edges) is not None:
        return {}
    return {key: steps[0][0] for key, steps in _Walk(edges).circles.items()}


def is_by_rank(edges: Sequence[Edge]) -> bool:
    return all(before.rank <= after.rank for before, after in pairwise(edges))


def _found(edges: Sequence[Edge], began: Mapping[int, int]) -> list[int] | None:
    found = _Walk(edges, began).find()
    return found if found or len(edges) > SEARCH_EDGES else _Walk(edges, began).search()


def _by_rank(edges: Sequence[Edge]) -> list[int]:
    return sorted(range(len(edges)), key=lambda index: edges[index].rank)


def _replays(edges: Sequence[Edge], order: Iterable[int], began: Mapping[int, int]) -> bool:
    """Whether each edge needs only states that the edges before it left.

    Rows without a key may be equal. It assumes no more of them at the start than necessary, which keeps counts right.
    """
    here: dict[int, int] = {}  # by key
    equal = Counter(edge.before for edge in edges if not edge.key_before)
    equal.subtract(edge.after for edge in edges if not edge.key_after)
    for index in order:
        edge = edges[index]
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
    """Whether a row that began in `began` can be in `state`. Before DDL, states were written in another way."""
    if began == state:
        return True
    is_of_now = any(began in (edge.before, edge.after) for edge in edges)
    return not is_of_now and ~key not in (began, state)


def _only_walk(edges: Sequence[Edge]) -> Sequence[int] | None:
    """The walk of a row that is never twice in a state, as most are; the order of id if rows only come, or only go."""
    leaving = {edge.before: index for index, edge in enumerate(edges)}
    entered = {edge.after for edge in edges}
    if leaving.keys() == {NOTHING} or entered == {NOTHING}:
        return range(len(edges))
    if any(edge.changes_key for edge in edges):
        return None  # a row may have to wait until another one frees its key
    starts = leaving.keys() - entered
    if len(leaving) < len(edges) or len(entered) < len(edges) or len(starts) != 1:
        return None
    order, state = list[int](), starts.pop()
    while (index := leaving.get(state)) is not None:
        order.append(index)
        state = edges[index].after
    return order if len(order) == len(edges) else None


def _unlinked_parts(edges: Sequence[Edge]) -> Iterator[tuple[int, int]]:
    """Cuts the order of id wherever no state occurs on both sides."""
    last_with = {state: index for index, edge in enumerate(edges) for state in (edge.before, edge.after)}
    last_with.pop(NOTHING, None)
    begin = end = 0
    for index, edge in enumerate(edges):
        end = max(end, *(last_with.get(state, 0) for state in (edge.before, edge.after)))
        if end <= index:
            yield begin, index + 1
            begin = index + 1
    if begin < len(edges):
        yield begin, len(edges)


class _Walk:
    """One walk along all edges. A state can be left as often as it was entered, plus the rows in it at the start.

    The absence of a key's row is a state too: an INSERT leaves it, a DELETE enters it. So each key always has one row,
    in some state. An UPDATE of the key moves two rows at once.
    """

    def __init__(self, edges: Sequence[Edge], began: Mapping[int, int] = MappingProxyType({})) -> None:
        self._edges = edges
        self._began = began
        self.circles: dict[
            int, list[tuple[int, int, int]]
        ] = {}  # by key: index, state before and state after of its edges
        self._takes = [edge.takes for edge in edges]
        self._gives = [edge.gives for edge in edges]
        self._preferred = sorted(range(len(edges)), key=lambda index: edges[index].rank)
        self._ranks = [edge.rank for edge in edges]
        self._leaving = self._edges_by_state()
        self._at_start = self._states_at_start()
        self._here = Counter(self._at_start)
        self._ready: list[tuple[int, int]] = []  # rank and index, the first on top
        self._waiting: dict[int, list[int]] = defaultdict(list)  # by the second state that they need
        self._all_waiting: list[tuple[int, int]] = []  # the same edges as rank and index
        self._is_waiting = bytearray(len(edges))
        self._taken: list[int] = []
        self._is_taken = bytearray(len(edges))
        self._last_leaving: dict[int, int] = {}
        self._inserted: dict[int, list[int]] = {}  # the edges of circuits, by the edge before which they go

    def find(self) -> list[int] | None:
        for state in self._at_start:
            self._offer(state)
        untaken = iter(self._preferred)
        self._go_on()
        while not all(self._is_taken):
            if not (self._force_one() or self._insert_circuits()):
                # Nothing leads there: its rows are in that state at the start and at the end.
                index = next((index for index in untaken if not self._is_taken[index]), None)
                if index is None:
                    return None
                state = self._takes[index][0]
                self._at_start[state] += 1
                self._enter(state)
            self._go_on()
        order = list(self._flattened())
        return order if self._is_strict(order) else None

    def _edges_by_state(self) -> dict[int, deque[int]]:
        """The edges that leave each state, in the preferred order.

        Those that change nothing go first, and as early as those behind them, which have to wait for them.
        """
        leaving: dict[int, deque[int]] = defaultdict(deque)
        idle: dict[int, list[int]] = defaultdict(list)
        for index in self._preferred:
            [state, *_] = self._takes[index]
            (idle if self._takes[index] == self._gives[index] else leaving)[state].append(index)
        for state, indexes in idle.items():
            if leaving[state]:
                first = self._ranks[leaving[state][0]]
                for index in indexes:
                    self._ranks[index] = min(first, self._ranks[index])
            leaving[state].extendleft(reversed(indexes))
        return leaving

    def search(self) -> list[int] | None:
        """Tries one order after another, the preferred ones first, for as long as SEARCH_STEPS allow.

        For where find() leaves a key's state for good before another row has been there.
        """
        here, dead = Counter(self._at_start), set[int]()  # which edges were taken, as bits, where there is no way on
        order, taken, choices = list[int](), 0, [iter(self._preferred)]
        for _ in range(SEARCH_STEPS):
            index = next(choices[-1], None)
            if index is None:
                dead.add(taken)
                choices.pop()
                if not order:
                    return None
                index = order.pop()
                taken ^= 1 << index
                here.subtract(self._gives[index])
                here.update(self._takes[index])
            elif not taken >> index & 1 and taken | 1 << index not in dead and all(here[s] for s in self._takes[index]):
                here.subtract(self._takes[index])
                here.update(self._gives[index])
                order.append(index)
                taken |= 1 << index
                if len(order) == len(self._edges):
                    return order if self._is_strict(order) else None
                choices.append(iter(self._preferred))
        return None

    def _states_at_start(self) -> Counter[int]:
        """States that are left more often than entered. A key without any is a circle: see _start_of_circle()."""
        balance: Counter[int] = Counter()
        key_of = {NOTHING: NOTHING}
        steps: dict[int, list[tuple[int, int, int]]] = defaultdict(list)  # by key: index, state before and state after
        for index, edge in enumerate(self._edges):
            balance.update(self._takes[index])
            balance.subtract(self._gives[index])
            for state in self._takes[index] + self._gives[index]:
                key_of[state] = edge.key_of(state)
            for key in {edge.key_before, edge.key_after} - {NOTHING}:
                [before] = [state for state in self._takes[index] if key_of[state] == key]
                [after] = [state for state in self._gives[index] if key_of[state] == key]
                steps[key].append((index, before, after))
        del balance[NOTHING]
        at_start = Counter({state: count for state, count in balance.items() if count > 0})
        uneven = {key_of[state] for state, count in balance.items() if count}
        self.circles = {key: steps[key] for key in steps.keys() - uneven}
        at_start.update(self._start_of_circle(key) for key in self.circles)
        self._keys = Counter(key_of[state] for state in at_start.elements())
        at_start[NOTHING] = len(self._edges)  # it never runs out
        return at_start

    def _start_of_circle(self, key: int) -> int:
        """The state in which a row began that ended in the same.

        If unknown, and the row was present in only one state, the preferred order decides. Else the row was absent:
        rows come and go, but seldom return to the very same values. After DDL, it is only known that the row existed.
        """
        steps = self.circles[key]
        states = {state for _, before, after in steps for state in (before, after)}
        began = self._began.get(key)
        if began in states:
            return began
        if began is None and ~key in states and len(states) > 2:
            return ~key
        was_there = began is not None
        return min((before == ~key and was_there, self._edges[index].rank, before) for index, before, _ in steps)[2]

    def _offer(self, state: int) -> None:
        if self._here[state] and self._leaving[state]:
            index = self._leaving[state][0]
            heappush(self._ready, (self._ranks[index], index))

    def _go_on(self) -> None:
        """Takes edges as long as one is possible."""
        while self._ready:
            _, index = heappop(self._ready)
            [state, *other] = self._takes[index]
            leaving = self._leaving[state]
            if not (self._here[state] and leaving and leaving[0] == index):
                continue
            leaving.popleft()
            if other and not self._here[other[0]]:
                self._is_waiting[index] = True
                self._waiting[other[0]].append(index)
                heappush(self._all_waiting, (self._ranks[index], index))
                self._offer(state)
            else:
                self._take(index)

    def _take(self, index: int) -> None:
        self._taken.append(index)
        self._is_taken[index] = True
        for state in self._takes[index]:
            self._here[state] -= 1
            self._last_leaving[state] = index
            self._offer(state)
        for state in self._gives[index]:
            self._enter(state)

    def _enter(self, state: int) -> None:
        self._here[state] += 1
        for waiting in reversed(self._waiting.pop(state, ())):
            if self._is_waiting[waiting]:
                self._stop_waiting(waiting)
        self._offer(state)

    def _stop_waiting(self, index: int) -> None:
        self._is_waiting[index] = False
        [state, *_] = self._takes[index]
        self._leaving[state].appendleft(index)
        self._offer(state)

    def _force_one(self) -> bool:
        """Takes the first edge that waits for a key: if rows swap their keys, one must go first."""
        while self._all_waiting:
            _, index = heappop(self._all_waiting)
            if not self._is_waiting[index]:
                continue
            if self._here[self._takes[index][0]]:
                self._is_waiting[index] = False
                self._take(index)
                return True
            self._stop_waiting(index)
        return False

    def _insert_circuits(self) -> bool:
        """The remaining edges are circuits: inserts each where its state was left for the last time (Hierholzer)."""
        known = [
            (self._edges[indexes[0]].rank, state)
            for state, indexes in self._leaving.items()
            if indexes and state in self._last_leaving
        ]
        heapify(known)
        has_inserted = bool(known)
        while known:
            _, begin = heappop(known)
            state, circuit = begin, list[int]()
            before = self._last_leaving[begin]
            # It ends where it began, as the remaining edges enter each state as often as they leave it.
            while self._leaving[state]:
                index = self._leaving[state].popleft()
                circuit.append(index)
                self._is_taken[index] = True
                self._last_leaving.setdefault(state, index)
                if state != begin and self._leaving[state]:
                    heappush(known, (self._edges[self._leaving[state][0]].rank, state))
                [state, *_] = self._gives[index]
            if circuit:
                self._inserted.setdefault(before, []).extend(circuit)
        return has_inserted

    def _flattened(self) -> Iterator[int]:
        stack = [iter(self._taken)]
        while stack:
            for index in stack[-1]:
                if index in self._inserted:
                    stack.append(iter([*self._inserted.pop(index), index]))
                    break
                yield index
            else:
                stack.pop()

    def _is_strict(self, order: Iterable[int]) -> bool:
        """Whether each edge needs only present states, and each key begins in one state."""
        if any(count != 1 for key, count in self._keys.items() if key):
            return False
        here = Counter(self._at_start)
        for index in order:
            for state in self._takes[index]:
                if here[state] < 1:
                    return False
                here[state] -= 1
            here.update(self._gives[index])
        return True
