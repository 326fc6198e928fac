"""Histories of rows in any order in, an order in which they can have happened out."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from changefeed.ordering.row_states import Edge, Entry, state_after
from changefeed.ordering.state_walk import walk

State = tuple[int, int]  # key and value
Change = tuple[State | None, State | None]


def digest(state: State | None) -> int:
    return 0 if state is None else 100 + state[0] * 10 + state[1]


def edge(change: Change, rank: int, *, has_key: bool) -> Edge:
    keys = [0 if state is None or not has_key else 1000 + state[0] for state in change]
    return Edge(digest(change[0]), digest(change[1]), *keys, rank)


def is_strict(at_start: list[State], changes: list[Change], *, has_key: bool) -> bool:
    rows = Counter(at_start)
    for before, after in changes:
        if before is not None:
            if not rows[before]:
                return False
            rows[before] -= 1
        if after is not None:
            rows[after] += 1
            if has_key and sum(count for state, count in rows.items() if state[0] == after[0]) > 1:
                return False
    return True


def history(draw: random.Random, *, has_key: bool, moves_keys: bool) -> tuple[list[State], list[Change]]:
    keys, values = draw.choice((1, 1, 2, 3)), draw.choice((1, 2, 3, 6))
    at_start = [(key, draw.randrange(values)) for key in range(keys) if draw.random() < 0.5]
    if not has_key:
        at_start += at_start[: draw.randrange(3)]
    rows, changes = list(at_start), list[Change]()
    for _ in range(draw.randrange(1, 14)):
        kind, key = draw.random(), draw.randrange(keys)
        if kind < 0.35 or not rows:
            if not (has_key and any(row[0] == key for row in rows)):
                rows.append((key, draw.randrange(values)))
                changes.append((None, rows[-1]))
        elif kind < 0.5:
            changes.append((rows.pop(draw.randrange(len(rows))), None))
        else:
            place = draw.randrange(len(rows))
            before = rows[place]
            if not moves_keys or draw.random() < 0.8 or (has_key and any(row[0] == key for row in rows)):
                key = before[0]
            rows[place] = (key, draw.randrange(values))
            changes.append((before, rows[place]))
    return at_start, changes


def began_in(at_start: list[State]) -> dict[int, int]:
    """In which state each key was at the start, if any."""
    return {key + 1000: ~(key + 1000) for key in range(3)} | {key + 1000: digest((key, n)) for key, n in at_start}


@settings(max_examples=500)
@given(st.randoms(use_true_random=False), st.booleans())
def test_whatever_the_ids_are_the_walk_is_strict(draw: random.Random, has_key: bool):
    """The preferred order being the real one, and where rows that end as they began did so being known."""
    at_start, changes = history(draw, has_key=has_key, moves_keys=True)
    ids = draw.sample(range(len(changes)), len(changes))
    found = walk([edge(changes[rank], rank, has_key=has_key) for rank in ids], began_in(at_start))
    assert is_strict(at_start, [changes[ids[place]] for place in found], has_key=has_key)


@settings(max_examples=500)
@given(st.randoms(use_true_random=False))
@example(random.Random(202))  # where a state is left for good before another row has been there
def test_whatever_is_preferred_the_walk_is_strict(draw: random.Random):
    at_start, changes = history(draw, has_key=True, moves_keys=True)
    ids, ranks = (draw.sample(range(len(changes)), len(changes)) for _ in range(2))
    found = walk([edge(changes[i], ranks[i], has_key=True) for i in ids], began_in(at_start))
    assert is_strict(at_start, [changes[ids[place]] for place in found], has_key=True)


@pytest.mark.parametrize(
    ("at_start", "changes"),
    [
        ([(0, 0), (1, 0)], [((0, 0), (2, 0)), ((1, 0), (0, 0))]),
        ([(0, 1), (1, 0)], [((0, 1), (0, 0)), ((1, 0), (2, 4)), ((0, 0), (0, 3)), ((0, 3), (1, 0))]),
        (
            [(0, 1)],
            [((0, 1), None), (None, (0, 0)), ((0, 0), (1, 1)), ((1, 1), None), (None, (0, 0)), ((0, 0), (0, 0))],
        ),
    ],
)
def test_a_key_that_another_row_takes_is_free_first(at_start: list[State], changes: list[Change]):
    for ids in itertools.permutations(range(len(changes))):
        found = walk([edge(changes[rank], rank, has_key=True) for rank in ids], began_in(at_start))
        assert is_strict(at_start, [changes[ids[place]] for place in found], has_key=True)


@settings(max_examples=500)
@given(st.randoms(use_true_random=False))
def test_whatever_is_preferred_the_states_decide(draw: random.Random):
    at_start, changes = history(draw, has_key=True, moves_keys=False)
    ids = draw.sample(range(len(changes)), len(changes))
    found = [changes[ids[place]] for place in walk([edge(changes[i], n, has_key=True) for n, i in enumerate(ids)])]
    for key in range(3):
        own = [change for change in found if key in {state[0] for state in change if state}]
        befores, afters = (Counter(change[side] for change in own) for side in (0, 1))
        if befores != afters:  # else it ends as it began, and may have begun in any of its states
            assert is_strict([state for state in at_start if state[0] == key], own, has_key=True)


def test_rows_of_changed_columns_are_two_walks():
    edges = [Edge(2, 3, 1, 1, 1), Edge(0, 2, 0, 1, 0), Edge(13, 14, 1, 1, 3), Edge(12, 13, 1, 1, 2)]
    assert list(walk(edges)) == [1, 0, 3, 2]


@pytest.mark.parametrize(("depth", "state"), [(1, 11), (2, None)])
def test_ids_decide_unless_triggers_wrote(depth: int, state: int | None):
    entries = [
        Entry(1, 1, "U", depth, False, False, 1, "t", 5, 11, 12, 7, 7),
        Entry(2, 2, "U", 1, False, False, 2, "t", 5, 12, 11, 7, 7),
    ]
    assert state_after(entries, 7) == state
