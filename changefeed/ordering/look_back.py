"""What earlier transactions say of rows that a transaction leaves as it found them. Knows no database.

Takes time that is linear in the entries and the rows asked for, whatever the entries are of.
"""

import enum
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from operator import itemgetter, neg
from typing import NamedTuple

from changefeed.ordering.row_states import UNKNOWN, Entry, state_after

RowKey = tuple[str, int]  # a row's table and the digest of its key


class SeenPart(enum.Enum):
    """What is known of an earlier transaction."""

    WHOLE = enum.auto()
    IN_ORDER = enum.auto()  # only its last entries, which are in the order in which they happened
    UNSURE = enum.auto()  # only its last entries, which triggers wrote too: an earlier one may have happened later


class Found(NamedTuple):
    """The state in which a row was: see state_after(). None if no entry says it.

    `hidden_by` is the transaction whose count or loss leaves it unknown.
    """

    state: int | None
    hidden_by: str | None = None


class LookBack:
    """Collects earlier transactions, the newest first; then state_before() finds the states in which they left rows."""

    def __init__(self, *, is_from_beginning: bool = False) -> None:
        self._is_from_beginning = is_from_beginning  # of the journal, which never had other entries
        self._xids: list[str] = []
        self._parts: list[SeenPart] = []
        self._last_ids: list[int] = []
        # By the transaction's number, which is its index in these lists.
        self._of_rows: defaultdict[RowKey, dict[int, list[Entry]]] = defaultdict(dict)
        self._barriers: defaultdict[str, list[tuple[int, Entry]]] = defaultdict(
            list
        )  # last entries of no row, by table
        self._left: dict[tuple[int, RowKey], int | None] = {}  # the states, for the next one that looks back on them

    def add(self, xid: str, entries: Sequence[Entry], part: SeenPart = SeenPart.WHOLE) -> None:
        """The entries of one transaction, in the order of id; its last one must be among them."""
        number = len(self._xids)
        self._xids.append(xid)
        self._parts.append(part)
        for table, entry in {entry.table: entry for entry in entries if entry.before is entry.after is None}.items():
            self._barriers[table].append((number, entry))
        for entry in entries:
            for key in {key for key in (entry.key_before, entry.key_after) if key is not None}:
                self._of_rows[entry.table, key].setdefault(number, []).append(entry)
        self._last_ids.append(entries[-1].id)

    def state_before(self, row: RowKey, first_id: int) -> Found:
        """The state in which a row was before the entry `first_id`.

        A row that the whole journal has not seen counts as new.
        """
        _, key = row
        is_seen = False
        for number, entries in self._concerned(row, first_id):
            is_seen, part = True, self._parts[number]
            if part is SeenPart.UNSURE:
                return Found(UNKNOWN)
            if (number, row) not in self._left:
                self._left[number, row] = state_after(entries if part is SeenPart.WHOLE else entries[-1:], key)
            state = self._left[number, row]
            if state is not None:
                is_hidden = state == UNKNOWN and entries[0].before is entries[0].after is None
                return Found(state, self._xids[number] if is_hidden else None)
        return Found(None if is_seen or not self._is_from_beginning else ~key)

    def _concerned(self, row: RowKey, first_id: int) -> Iterator[tuple[int, list[Entry]]]:
        """The transactions that may say it, each with its entries of the row, from the last one of no row on.

        One that ended later ran at the same time, so it did not write the row before: it would have held its lock.
        """
        table, _ = row
        newest = bisect_right(self._last_ids, -first_id, key=neg)
        of_row, barriers = self._of_rows.get(row, {}), self._barriers[table]
        place = bisect_left(barriers, newest, key=itemgetter(0))
        last, barrier = barriers[place] if place < len(barriers) else (len(self._xids), None)
        for number, entries in of_row.items():
            if newest <= number < last:
                yield number, entries
        if barrier:  # which leaves no state open
            yield last, [barrier, *(entry for entry in of_row.get(last, ()) if barrier.id < entry.id)]
