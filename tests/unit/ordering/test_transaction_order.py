"""The order of a transaction's rows, from its entries and statements."""

import pytest

from changefeed.ordering.row_states import Entry
from changefeed.ordering.transaction_order import Transaction


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
        number, number, "U", depth, is_followed, False, command or number * 3, table, columns, before or None, after or None,
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


def test_nested_statements_follow_their_cause():
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
def test_keyless_entries_move_only_within_their_statement(steps: int, expected: list[int]):
    entries = keyless(entry(1, 1, 7, 8, command=1), entry(2, 1, 6, 7, command=1 + steps))
    assert sources(*entries) == expected


def test_a_delete_precedes_its_equal_insert_in_one_statement():
    came, went = entry(1, 1, 0, 7, command=1)._replace(action="I"), entry(2, 1, 7, 0)._replace(action="D")
    assert sources(came, went._replace(command=2)) == [2, 1]
    assert sources(came, went._replace(command=3)) == [1, 2]
