"""Changes in, tables out, strictly: what cannot happen to a table is refused. Knows nothing but JSON.

So an order that is wrong for one row, a change that is missing and one that came twice are noticed at once, not only when
the tables are compared.
"""

import json
from collections import Counter
from typing import Any

from tests.oracle.schema import TABLES, Table

Row = dict[str, Any]
Key = tuple[Any, ...]
Change = dict[str, Any]


class Refused(AssertionError):
    """The change does not fit what the tables hold; the message says why."""


def parse(text: str) -> Any:
    """JSON with numbers to the last digit: those with a point stay text."""
    return json.loads(text, parse_float=str)


class Rows:
    """One table's rows; without a key, equal ones are counted."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.rows: dict[Key, Row] = {}
        self.counts: Counter[str] = Counter()

    def key(self, row: Row) -> Key:
        return tuple(row[column] for column in self._table.key)

    def add(self, row: Row) -> None:
        if not self._table.key:
            self.counts[json.dumps(row, sort_keys=True)] += 1
        elif (there := self.rows.setdefault(self.key(row), row)) is not row:
            raise Refused(f"there is such a row already: {there}")

    def remove(self, row: Row) -> None:
        if not self._table.key:
            text = json.dumps(row, sort_keys=True)
            if not self.counts[text]:
                raise Refused(f"there is no such row: {text}")
            self.counts[text] -= 1
            return
        there = self.rows.pop(self.key(row), None)
        if there is None:
            raise Refused(f"there is no row {self.key(row)}")
        if there != row:
            raise Refused(f"before it, the row was {there}, not {row}")

    def clear(self) -> None:
        self.rows.clear()
        self.counts.clear()

    def differences(self, real: list[Row]) -> list[str]:
        """What a table that holds `real` has otherwise."""
        if not self._table.key:
            wanted = Counter(json.dumps(row, sort_keys=True) for row in real)
            return [
                f"{text}: {self.counts[text]} times, not {wanted[text]}"
                for text in self.counts | wanted
                if self.counts[text] != wanted[text]
            ]
        known = {self.key(row): row for row in real}
        return [
            f"{key}: {self.rows.get(key)}, not {known.get(key)}"
            for key in self.rows.keys() | known.keys()
            if self.rows.get(key) != known.get(key)
        ]


class Replica:
    """All tables, rebuilt from the feed alone."""

    def __init__(self) -> None:
        self.tables = {name: Rows(table) for name, table in TABLES.items()}

    def apply(self, change: Change) -> None:
        """Raises Refused."""
        if list(change)[:3] != ["table", "action", "data"] or change.get("schema") != "public":
            raise Refused("its first keys are not table, action, data, or its schema is not public")
        name, action, data = change["table"], change["action"], change["data"]
        if name not in self.tables:
            raise Refused(f"there is no table {name!r}")
        rows = self.tables[name]
        if action == "TRUNCATE":
            if data is not None:
                raise Refused("it has data")
            rows.clear()
            return
        if ("old" in change) != (action == "UPDATE"):
            raise Refused("old belongs to an UPDATE, and to nothing else")
        if action == "INSERT":
            rows.add(data)
        elif action == "DELETE":
            rows.remove(data)
        elif action == "UPDATE":
            old = change["old"]
            if same := [column for column, value in old.items() if data[column] == value]:
                raise Refused(f"old names {same}, which did not change")
            rows.remove({**data, **old})
            rows.add(data)
        else:
            raise Refused("there is no such action")
        if action != "DELETE":
            self._check_parent(name, data)

    def _check_parent(self, name: str, row: Row) -> None:
        if foreign := TABLES[name].parent:
            column, parent, _ = foreign
            if (row[column],) not in self.tables[parent].rows:
                raise Refused(f"its cause comes later, or never: {parent} {row[column]}")
