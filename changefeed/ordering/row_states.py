"""The states of a row before and after a journal entry, as digests. Knows no order.

States are known by digests of 64 bits.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

NOTHING = 0  # the state before an INSERT and after a DELETE, and the key of a row that has none
UNKNOWN = 0  # of state_after(), which says by a key's complement that a row is not there


class Entry(NamedTuple):
    """A journal entry, reduced to what its order depends on."""

    id: int
    call: int  # time of the trigger's call that wrote it
    action: str
    depth: int
    is_followed: bool  # AFTER triggers of its statement may have written the entries before it
    is_accompanied: bool  # other triggers of its table, as of foreign keys, may run commands in its statement
    command: int  # number of the transaction's command that wrote the entry itself
    table: str
    columns: int | None  # digest of their names
    before: int | None  # digests of the row's states
    after: int | None
    key_before: int | None  # and of its key in them
    key_after: int | None


class Edge(NamedTuple):
    """An entry as an edge between states of its row; `rank` is its position in the preferred order."""

    before: int
    after: int
    key_before: int
    key_after: int
    rank: int

    @property
    def changes_key(self) -> bool:
        return NOTHING not in (self.key_before, self.key_after) and self.key_before != self.key_after

    def key_of(self, state: int) -> int:
        """The key whose row is in `state` before or after this entry; ~key is the state in which the row is absent."""
        if state == self.before or state == ~self.key_before:
            return self.key_before
        return self.key_after if state in (self.after, ~self.key_after) else NOTHING

    @property
    def takes(self) -> tuple[int, ...]:
        """The states that it needs before it, and that no row is in afterwards."""
        if not self.before:
            return (~self.key_after if self.key_after else NOTHING,)
        if self.changes_key:
            return self.before, ~self.key_after
        return (self.before,)

    @property
    def gives(self) -> tuple[int, ...]:
        """The states that rows are in after it."""
        if not self.after:
            return (~self.key_before if self.key_before else NOTHING,)
        if self.changes_key:
            return self.after, ~self.key_before
        return (self.after,)


def state_after(entries: Iterable[Entry], key: int) -> int | None:
    """The state in which one transaction's entries left the row of a key, ~key for none; None where they do not say.

    UNKNOWN where something else may have changed it: the statement of a count or a loss, or DDL, before which rows were
    written in another way. `entries` are those of the row, and those that are of no single row.
    """
    balance: Counter[int] = Counter()
    columns: int | None = None
    is_known = True
    has_come_or_gone = False
    is_in_order = True  # a trigger's change has a lower id than the one that made it fire
    is_one_by_one = True  # each by another statement (see Statements), and none by a trigger
    last: Entry | None = None
    for entry in entries:
        is_of_no_row = entry.before is None and entry.after is None
        if is_of_no_row or columns not in (None, entry.columns):
            balance.clear()
            is_known, has_come_or_gone, is_one_by_one = entry.action == "T" and is_of_no_row, False, True
            last = None
        columns = entry.columns
        if is_of_no_row:
            if is_known:
                balance[~key] = 1
            continue
        is_one_by_one &= entry.depth == 1 and (last is None or entry.command > last.command + 1)
        last = entry
        if entry.key_before != entry.key_after or entry.before != entry.after:
            balance[(entry.before or 1) if entry.key_before == key else ~key] -= 1
            balance[(entry.after or 1) if entry.key_after == key else ~key] += 1
        if entry.key_before == entry.key_after:
            is_in_order &= entry.depth == 1 or entry.before == entry.after
        else:
            has_come_or_gone = True
    state = next((state for state, count in balance.items() if count > 0), None)
    if state is None and last and (is_one_by_one or (is_in_order and not has_come_or_gone)):
        state = (last.after or 1) if last.key_after == key else ~key
    return UNKNOWN if state is None and not is_known else state
