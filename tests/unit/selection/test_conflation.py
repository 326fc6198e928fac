"""What a client that does not keep up gets when it reads again: the newest change of each row."""

import json

from changefeed.change.change import Change
from changefeed.selection.conflation import Conflation


def change(
    action: str, data: dict[str, object] | None, old: dict[str, object] | None = None, table: str = "t"
) -> Change:
    return Change(json.dumps({"table": table, "action": action, "data": data, "old": old}), table, action)


def conflated(*changes: Change) -> tuple[list[Change], int]:
    conflation = Conflation(lambda table: {"t": ("id",), "pair": ("a", "b")}.get(table, ()))
    conflation.add(changes)
    held = conflation.take()
    assert (conflation.bytes, conflation.take()) == (0, ([], 0))
    return held


def test_the_newest_of_each_row_is_kept_in_the_order_of_the_newest():
    one, other = change("INSERT", {"id": 1}), change("INSERT", {"id": 2})
    update, delete = change("UPDATE", {"id": 1, "x": 2}, {"x": 1}), change("DELETE", {"id": 1})
    assert conflated(one, other) == ([one, other], 0)
    assert conflated(one, other, update) == ([other, update], 1)
    assert conflated(one, update, delete, other) == ([delete, other], 2)


def test_a_changed_key_keeps_telling_that_the_old_one_is_gone():
    inserted, moved = change("INSERT", {"id": 1}), change("UPDATE", {"id": 2}, {"id": 1})
    later = change("UPDATE", {"id": 2, "x": 1}, {"x": None})
    assert conflated(inserted, moved) == ([moved], 1)
    assert conflated(inserted, moved, later) == ([moved, later], 1)
    again = change("INSERT", {"id": 1})
    assert conflated(inserted, moved, later, again) == ([later, again], 2)


def test_a_truncate_takes_the_place_of_all_before_it_in_its_table():
    elsewhere, truncate = change("INSERT", {"a": 1, "b": 1}, table="pair"), change("TRUNCATE", None)
    after = change("INSERT", {"id": 1})
    assert conflated(change("INSERT", {"id": 1}), elsewhere, truncate, after) == ([elsewhere, truncate, after], 1)


def test_without_a_key_nothing_is_the_same():
    rows = [change("INSERT", {"id": 1}, table="keyless"), change("INSERT", {"id": 1}, table="keyless")]
    rows += [change("INSERT", {"a": 1}, table="pair"), change("INSERT", {"a": 1}, table="pair")]  # b was not asked for
    rows += [change("INSERT", None), change("INSERT", None)]
    assert conflated(*rows) == (rows, 0)


def test_what_it_holds_is_counted_in_bytes():
    conflation = Conflation(lambda table: ("id",))
    conflation.add([change("INSERT", {"id": 1}), newer := change("INSERT", {"id": 1, "x": 1})])
    assert conflation.bytes == len(newer.text)
