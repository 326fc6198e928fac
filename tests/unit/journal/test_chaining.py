"""Histories of rows in any order in, an order in which they can have happened out."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changefeed.journal.chaining import Edge, Entry, Transaction, walk

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


@settings(deadline=None, max_examples=500)
@given(st.randoms(use_true_random=False), st.booleans())
def test_whatever_the_ids_are_the_walk_is_strict(draw: random.Random, has_key: bool):
    """The preferred order being the real one, and where rows that end as they began did so being known."""
    at_start, changes = history(draw, has_key=has_key, moves_keys=True)
    began = {key + 1000: ~(key + 1000) for key in range(3)} | {key + 1000: digest((key, n)) for key, n in at_start}
    ids = draw.sample(range(len(changes)), len(changes))
    found = walk([edge(changes[rank], rank, has_key=has_key) for rank in ids], began)
    assert is_strict(at_start, [changes[ids[place]] for place in found], has_key=has_key)


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
    began = {key + 1000: ~(key + 1000) for key in range(3)} | {key + 1000: digest((key, n)) for key, n in at_start}
    for ids in itertools.permutations(range(len(changes))):
        found = walk([edge(changes[rank], rank, has_key=True) for rank in ids], began)
        assert is_strict(at_start, [changes[ids[place]] for place in found], has_key=True)


@settings(deadline=None, max_examples=500)
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


def entry(
    number: int,
    depth: int,
    before: int,
    after: int,
    table: str = "t",
    columns: int = 1,
    *,
    is_followed: bool = False,
    command: int = 0,
) -> Entry:
    return Entry(
        number, number, "U", depth, is_followed, command or number * 3, table, columns, before or None, after or None,
        1 if before else None, 1 if after else None,
    )  # fmt: skip


def sources(*entries: Entry) -> list[int]:
    transaction = Transaction()
    for each in entries:
        transaction.add(each)
    order = transaction.order({})
    return [order.source(each.id) for each in entries]


@pytest.mark.parametrize(("is_followed", "expected"), [(True, [2, 1]), (False, [1, 2])])
def test_of_a_circle_the_statement_s_beginning_comes_first(is_followed: bool, expected: list[int]):
    assert sources(entry(1, 2, 7, 8), entry(2, 1, 8, 7, is_followed=is_followed)) == expected


def test_statements_within_statements_begin_before_what_they_caused():
    nested = [(1, 3, 8, 7), (2, 2, 7, 8), (3, 1, 8, 7), (4, 2, 7, 8), (5, 1, 8, 7)]
    entries = [entry(*each, is_followed=each[1] < 3) for each in nested]
    assert sources(*entries)[:3] == [3, 2, 1]


def test_nothing_passes_what_holds_no_row():
    cut = entry(2, 1, 0, 0)
    first, last = entry(1, 2, 7, 8), entry(3, 1, 0, 7, is_followed=True)
    assert sources(first, last) == [3, 1]
    assert sources(first, cut, last) == [1, 2, 3]
    assert sources(first, cut._replace(table="another"), last) == [3, 2, 1]


def test_nothing_passes_ddl():
    """Without it, only a DELETE that came first leads on to an INSERT of another row with its key."""
    came, went = entry(1, 1, 0, 7), entry(2, 1, 8, 0, columns=2)
    assert sources(came, went._replace(columns=1)) == [2, 1]
    assert sources(came, went) == [1, 2]


def test_after_a_truncate_no_row_is_there():
    """However the statements are preferred."""
    came, went = entry(2, 1, 0, 7), entry(3, 1, 7, 0)
    truncate = entry(1, 1, 0, 0)._replace(action="T")
    for first, second in ((came, went), (went, came)):
        entries = [first._replace(id=2), second._replace(id=3)]
        assert sources(*entries) == [2, 3]
        assert sources(truncate, *entries) == ([1, 2, 3] if first is came else [1, 3, 2])
        # And one that came since, before DDL, is.
        after_ddl = [each._replace(columns=2) for each in entries]
        assert sources(truncate._replace(id=0), entry(1, 1, 0, 7), *after_ddl)[2:] == (
            [3, 2] if first is came else [2, 3]
        )


def keyless(*entries: Entry) -> list[Entry]:
    return [each._replace(key_before=None, key_after=None) for each in entries]


@pytest.mark.parametrize(("steps", "expected"), [(1, [2, 1]), (2, [1, 2])])
def test_of_plain_entries_without_a_key_only_those_of_one_statement_change_places(steps: int, expected: list[int]):
    entries = keyless(entry(1, 1, 7, 8, command=1), entry(2, 1, 6, 7, command=1 + steps))
    assert sources(*entries) == expected


def test_a_row_that_ends_as_it_began_goes_before_it_comes_in_one_statement_alone():
    came, went = entry(1, 1, 0, 7, command=1)._replace(action="I"), entry(2, 1, 7, 0)._replace(action="D")
    assert sources(came, went._replace(command=2)) == [2, 1]
    assert sources(came, went._replace(command=3)) == [1, 2]


def test_an_update_of_several_rows_is_a_command_more():
    came, went = (
        entry(1, 1, 0, 7, command=1)._replace(action="I"),
        entry(2, 1, 7, 9, command=3)._replace(key_before=1, key_after=2),
    )
    another = entry(3, 1, 5, 6, command=3)._replace(call=2, key_before=3, key_after=4)
    assert sources(came, went, another) == [2, 1, 3]
    assert sources(came, went, another._replace(call=3)) == [1, 2, 3]


def test_rows_whose_columns_change_in_between_are_two_walks():
    edges = [Edge(2, 3, 1, 1, 1), Edge(0, 2, 0, 1, 0), Edge(13, 14, 1, 1, 3), Edge(12, 13, 1, 1, 2)]
    assert list(walk(edges)) == [1, 0, 3, 2]
