"""Earlier transactions: what they say of a row, beside the simplest way to find it."""

import random

import pytest

from changefeed.ordering.look_back import Found, LookBack, SeenPart
from changefeed.ordering.row_states import UNKNOWN, Entry, state_after

TABLES = ("t", "u")
KEYS = (7, 8, 9)


def entry(entry_id: int, action: str, table: str = "t", key: int | None = 7, state: int = 1) -> Entry:
    """Of a row, or of none if `key` is None."""
    there, gone = (state, key), (None, None)
    if key is None:
        there = gone
    (before, key_before), (after, key_after) = {"I": (gone, there), "D": (there, gone), "U": (there, there)}.get(
        action, (gone, gone)
    )
    return Entry(entry_id, 0, action, 1, False, False, 0, table, None, before, after, key_before, key_after)


def looking_back(*transactions: list[Entry], part: SeenPart = SeenPart.WHOLE) -> LookBack:
    """Past transactions, the newest first; `part` is the first one's."""
    look_back = LookBack()
    for number, entries in enumerate(transactions):
        look_back.add(str(number), entries, SeenPart.WHOLE if number else part)
    return look_back


def simplest(transactions: list[list[Entry]], table: str, key: int, first_id: int) -> int | None:
    for entries in transactions:
        if entries[-1].id >= first_id:
            continue
        concerned = [
            entry
            for entry in entries
            if entry.table == table
            and (key in (entry.key_before, entry.key_after) or entry.before is entry.after is None)
        ]
        if (state := state_after(concerned, key)) is not None:
            return state
    return None


@pytest.mark.parametrize("seed", range(50))
def test_it_finds_what_a_search_of_all_entries_finds(seed: int):
    rng = random.Random(seed)
    ids = rng.sample(range(1, 100), 30)
    transactions: list[list[Entry]] = []
    while ids:
        cut = rng.randint(1, 6)
        own, ids = sorted(ids[:cut]), ids[cut:]
        transactions.append(
            [
                entry(
                    entry_id,
                    rng.choice("IIDDUT" if seed % 2 else "ID"),
                    rng.choice(TABLES),
                    rng.choice((*KEYS, *KEYS, None)),
                )
                for entry_id in own
            ]
        )
    transactions.sort(key=lambda entries: -entries[-1].id)
    look_back = looking_back(*transactions)
    for table in TABLES:
        for key in KEYS:
            for first_id in range(0, 101, 5):
                assert look_back.state_before((table, key), first_id).state == simplest(
                    transactions, table, key, first_id
                )


def test_the_last_entries_of_a_transaction_without_triggers():
    look_back = looking_back([entry(5, "I"), entry(6, "D")], [entry(3, "I")], part=SeenPart.IN_ORDER)
    assert look_back.state_before(("t", 7), 10).state == ~7


def test_the_last_entries_of_a_transaction_in_which_triggers_wrote():
    """An entry of a lower id, which is not among them, may have happened later."""
    look_back = looking_back([entry(6, "I")], [entry(3, "I"), entry(4, "I", key=8)], part=SeenPart.UNSURE)
    assert look_back.state_before(("t", 7), 10).state == UNKNOWN
    assert look_back.state_before(("t", 8), 10).state == 1


def test_a_young_journal_takes_a_row_for_new_that_it_has_never_seen():
    look_back = LookBack(is_from_beginning=True)
    look_back.add("5", [entry(3, "D"), entry(4, "I")])
    assert look_back.state_before(("t", 7), 10).state is None
    assert look_back.state_before(("t", 8), 10).state == ~8
    assert looking_back([entry(3, "D")]).state_before(("t", 8), 10).state is None


@pytest.mark.parametrize("actions", ["DI", "ID"])
def test_the_last_statement_on_a_row_says_how_it_left_it(actions: str):
    first, second = (entry(number, action) for number, action in enumerate(actions, 3))
    look_back = looking_back([first, second._replace(command=2)])
    assert look_back.state_before(("t", 7), 10).state == (1 if actions == "DI" else ~7)
    for together in (second._replace(command=1), second._replace(command=2, depth=2)):
        assert looking_back([first, together]).state_before(("t", 7), 10).state is None


def test_the_transaction_of_a_count_that_hides_a_state_is_known():
    look_back = looking_back([entry(5, "U", key=None)], [entry(3, "I")])
    assert look_back.state_before(("t", 7), 10) == Found(UNKNOWN, hidden_by="0")
    truncated = looking_back([entry(5, "T", key=None)], [entry(3, "I")])
    assert truncated.state_before(("t", 7), 10) == Found(~7)


def test_a_transaction_that_ended_later_says_nothing():
    """It ran at the same time as one that holds the row's lock, so its count is of other rows."""
    look_back = looking_back([entry(5, "U", key=None), entry(12, "I", "u")], [entry(3, "I")])
    assert look_back.state_before(("t", 7), 10) == Found(1)
    assert look_back.state_before(("t", 7), 13) == Found(UNKNOWN, hidden_by="0")
