"""The Python client's set of rows by key: random statements leave what PostgreSQL has."""

import pickle
import random
from decimal import Decimal
from typing import Any

import pytest
from psqlisten2websocket_client import Change
from psqlisten2websocket_client.row_set import RowSet


def change(action: Any, data: Any, **more: Any) -> Change:
    return Change("items", action, data, **more)


def set_of(*rows: dict[str, Any]) -> RowSet:
    rows_now = RowSet(["id"])
    rows_now.add(rows)
    return rows_now


A, B, C = ({"id": id, "name": name} for id, name in ((1, "A"), (2, "B"), (3, "C")))


def after(rows: RowSet, *changes: Change) -> list[Any]:
    assert all(map(rows.apply, changes))
    return sorted(rows.at("").values(), key=lambda row: row["id"])


def test_rows_come_change_and_go_enter_and_leave():
    assert after(set_of(A), change("INSERT", C)) == [A, C]
    assert after(set_of(A, B), change("DELETE", A)) == [B]
    assert after(set_of(A), change("UPDATE", {"id": 1, "name": "a"}, old={"name": "A"})) == [{"id": 1, "name": "a"}]
    assert after(set_of(A), change("UPDATE", B, old={"name": "x"}, filter="enter")) == [A, B]
    assert after(set_of(A, B), change("UPDATE", {"id": 9, "name": "B"}, old={"id": 2}, filter="leave")) == [A]
    assert after(set_of(A, B), change("TRUNCATE", None), change("INSERT", C)) == [C]
    assert not set_of(A).apply(change("UPDATE", None, count=5000))


def test_rows_of_one_moment_never_change():
    rows = set_of(A)
    before = rows.at("one")
    rows.apply(change("UPDATE", {"id": 1, "name": "a"}, old={"name": "A"}))
    rows.apply(change("INSERT", C))
    after = rows.at("two")
    assert (before, before.cursor) == ({1: A}, "one")
    assert (after, after.cursor) == ({1: {"id": 1, "name": "a"}, 3: C}, "two")
    assert repr(after) == "<2 rows>"


def test_what_is_kept_in_the_middle_of_a_statement_has_all_rows():
    rows = set_of(A, B)
    rows.apply(change("UPDATE", {"id": 2, "name": "A"}, old={"id": 1}))
    kept, cursor = pickle.loads(pickle.dumps(rows.at("middle").kept))
    assert cursor == "middle"
    assert after(set_of(*kept), change("UPDATE", {"id": 1, "name": "B"}, old={"id": 2})) == [
        {"id": 1, "name": "B"},
        {"id": 2, "name": "A"},
    ]


def test_keys_may_be_swapped_by_one_statement():
    swap = [
        change("UPDATE", {"id": 2, "name": "A"}, old={"id": 1}),
        change("UPDATE", {"id": 1, "name": "B"}, old={"id": 2}),
    ]
    assert after(set_of(A, B), *swap) == [{"id": 1, "name": "B"}, {"id": 2, "name": "A"}]


def test_a_key_is_its_value_or_a_tuple_and_never_missing():
    assert RowSet(["a", "b"]).key_of({"a": 7, "b": "x"}) == (7, "x")
    assert RowSet(["a"]).key_of({"a": Decimal("1.10")}) == Decimal("1.10")
    assert RowSet(["a"]).key_of({"a": [1, Decimal("2.5")]}) == '[1, "2.5"]'
    with pytest.raises(ValueError, match="no column id"):
        set_of({"name": "A"})


@pytest.mark.parametrize("seed", range(20))
def test_random_statements_leave_what_the_table_has(seed: int):
    choose = random.Random(seed)
    table: dict[int, str] = {}
    rows = set_of()
    for _ in range(300):
        step = choose.randrange(3)
        if step == 0 and (id := choose.randrange(8)) not in table:
            table[id] = choose.choice("xy")
            rows.apply(change("INSERT", {"id": id, "name": table[id]}))
        elif step == 1 and table:
            id = choose.choice(list(table))
            rows.apply(change("DELETE", {"id": id, "name": table.pop(id)}))
        elif step == 2:
            by = choose.randint(1, 3)
            moved = {id: id + by if choose.random() < 0.5 else id for id in table}
            if len(set(moved.values())) < len(moved):
                continue
            for old, new in choose.sample(list(moved.items()), len(moved)):
                if old != new:
                    rows.apply(change("UPDATE", {"id": new, "name": table[old]}, old={"id": old}))
            table = {moved[id]: name for id, name in table.items()}
        assert {key: row["name"] for key, row in rows.at("").items()} == table
