"""What earlier transactions say of rows that a transaction leaves as it found them. Knows no database.

Takes time that is linear in the entries and the rows asked for, whatever the entries are of.
"""

import enum
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate
from operator import attrgetter

from changefeed.ordering.row_states import UNKNOWN, Entry, state_after

RowKey = tuple[str, int]  # a row's table and the digest of its key
_id = attrgetter("id")


class SeenPart(enum.Enum):
    """What is known of an earlier transaction."""

    WHOLE = enum.auto()
    IN_ORDER = enum.auto()  # only its last entries, which are in the order in which they happened
    UNSURE = enum.auto()  # only its last entries, which triggers wrote too: an earlier one may have happened later


class LookBack:
    """Collects earlier transactions, the newest first; then state_before() finds the states in which they left rows."""

    def __init__(self, *, is_from_beginning: bool = False) -> None:
        self._is_from_beginning = is_from_beginning  # of the journal, which never had other entries
        self.hidden_by: set[str] = set()  # the transactions whose count or loss leaves a state unknown
        self._xids: list[str] = []
        self._parts: list[SeenPart] = []
        # By the transaction's number, which is its index in these lists.
        self._of_rows: defaultdict[RowKey, dict[int, list[Entry]]] = defaultdict(dict)
        self._of_no_row: defaultdict[str, dict[int, list[Entry]]] = defaultdict(dict)  # by table
        self._newest: dict[str, tuple[list[int], list[int]]] = {}

    def add(self, xid: str, entries: Iterable[Entry], part: SeenPart = SeenPart.WHOLE) -> None:
        """The entries of one transaction, in the order of id."""
        number = len(self._xids)
        self._xids.append(xid)
        self._parts.append(part)
        for entry in entries:
            if entry.before is entry.after is None:
                self._of_no_row[entry.table].setdefault(number, []).append(entry)
            for key in {key for key in (entry.key_before, entry.key_after) if key is not None}:
                self._of_rows[entry.table, key].setdefault(number, []).append(entry)

    def state_before(self, table: str, key: int, first_id: int) -> int | None:
        """The state in which a row was before the entry `first_id`: see state_after(). None if none of them says.

        A row that the whole journal has not seen counts as new.
        """
        is_seen = False
        for number, entries in self._concerned(table, key, first_id):
            is_seen, part = True, self._parts[number]
            if part is SeenPart.UNSURE:
                return UNKNOWN
            state = state_after(entries if part is SeenPart.WHOLE else entries[-1:], key)
            if state is not None:
                if state == UNKNOWN and entries[0].before is entries[0].after is None:
                    self.hidden_by.add(self._xids[number])
                return state
        return None if is_seen or not self._is_from_beginning else ~key

    def _concerned(self, table: str, key: int, first_id: int) -> Iterator[tuple[int, list[Entry]]]:
        """The transactions that may say it, each with its entries of the row, from the last one of no row on."""
        of_row, last = self._of_rows.get((table, key), {}), self._newest_of_no_row(table, first_id)
        for number, entries in of_row.items():
            if last is not None and number >= last:
                break
            if concerned := [entry for entry in entries if entry.id < first_id]:
                yield number, concerned
        if last is not None:  # which leaves no state open
            of_no_row = self._of_no_row[table][last]
            barrier = of_no_row[bisect_left(of_no_row, first_id, key=_id) - 1]
            yield last, [barrier, *(entry for entry in of_row.get(last, []) if barrier.id < entry.id < first_id)]

    def _newest_of_no_row(self, table: str, first_id: int) -> int | None:
        """The newest transaction that has an entry of no row of the table before that id."""
        if table not in self._newest:
            found = sorted((e.id, number) for number, entries in self._of_no_row[table].items() for e in entries)
            self._newest[table] = [i for i, _ in found], list(accumulate((number for _, number in found), min))
        ids, newest = self._newest[table]
        before = bisect_left(ids, first_id)
        return newest[before - 1] if before else None
