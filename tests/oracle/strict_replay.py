"""What the feed says of a table in, Differs out where it is not what happened. Knows no database.

Between two moments at which the table's rows are known, each transaction is replayed strictly: an UPDATE's or a DELETE's old
row must be there, an INSERT's key must be free; and the replay must end with the rows that the table has. Only the order in
which rows of one component (rows that shared a key, or were equal where there is none) were sent may be wrong, and only where
docs/database.md, "The order of one row", names the limit. Each such limit is looked for in the rows themselves.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from changefeed.ordering.earlier_states import PLAIN_LOOK_BACK_IDS

Row = tuple[str, ...]
SEARCH_STEPS = 50_000


class Differs(AssertionError):
    """The feed is not what happened; the message says which seed it was, and how."""


class Said(NamedTuple):
    """A change of the feed, by the row before and after it; a TRUNCATE and a loss have neither."""

    id: int
    xid: str
    action: str
    before: Row | None
    after: Row | None
    columns: frozenset[str] = frozenset()  # also those that are not compared

    @property
    def is_of_no_row(self) -> bool:
        return self.before is None and self.after is None


def _key(row: Row) -> Row:
    return (row[0].partition(".")[0],)  # of a numeric, 1.0 is 1


class StrictReplay:
    """A table's rows, by what the feed says of it."""

    def __init__(self, rows: Counter[Row], *, has_key: bool) -> None:
        self.rows = +rows
        self.limits: Counter[str] = Counter()  # the components that were sent in another order, by the limit
        self._has_key = has_key
        self._before: list[Said] = []

    def take(self, changes: Sequence[Said], rows: Counter[Row]) -> None:
        """Replays the changes, after which the table had these rows. No change passes a TRUNCATE or DDL."""
        for (_, action, _), part in groupby(
            changes, key=lambda said: (said.xid, said.action == "TRUNCATE", said.columns)
        ):
            if action:
                self.rows.clear()
                self._before.extend(part)
            else:
                self._take_part(list(part))
        if self.rows != +rows:
            raise Differs(f"is read as {sorted(self.rows)}, and is {sorted(+rows)}")

    def resume(self, changes: Sequence[Said], rows: Counter[Row]) -> None:
        """Goes on with these rows after a loss, across which nothing is put in order."""
        self._before.extend(changes)
        self.rows = +rows

    def _take_part(self, changes: Sequence[Said]) -> None:
        for component in self._components(changes):
            try:
                self._replay(component)
            except Differs:
                limit = self._limit_of(component)
                if limit is None:
                    raise
                self.limits[limit] += 1
        rows = self._after(changes)
        if any(count < 0 for count in rows.values()):
            raise Differs(f"rows are taken away that are not there: {sorted(-rows)}")
        self.rows = +rows
        self._before.extend(changes)

    def _after(self, changes: Sequence[Said]) -> Counter[Row]:
        rows = Counter(self.rows)
        rows.subtract(said.before for said in changes if said.before)
        rows.update(said.after for said in changes if said.after)
        return rows

    def _keys(self, said: Said) -> set[Row]:
        rows = (row for row in (said.before, said.after) if row)
        return set(map(_key, rows)) if self._has_key else set(rows)

    def _components(self, changes: Sequence[Said]) -> Iterator[list[Said]]:
        """Those that share a key with each other; the first ones first."""
        components: list[tuple[set[Row], list[Said]]] = []
        for said in changes:
            keys = self._keys(said)
            linked = [component for component in components if component[0] & keys]
            components = [component for component in components if not component[0] & keys]
            for of_others, _ in linked:
                keys |= of_others
            members = sorted((each for _, others in linked for each in others), key=lambda each: each.id)
            components.append((keys, [*members, said]))
        yield from (members for _, members in components)

    def _replay(self, changes: Sequence[Said]) -> None:
        rows = Counter(self.rows)
        for said in changes:
            if (why := self._obstacle(rows, said)) is not None:
                raise Differs(f"{why} before {said}: {sorted(+rows)}")
            self._apply(rows, said)

    def _obstacle(self, rows: Counter[Row], said: Said) -> str | None:
        if said.before and not rows[said.before]:
            return f"the row {said.before} is not there"
        if not self._has_key or not said.after or (said.before and _key(said.before) == _key(said.after)):
            return None
        if any(_key(row) == _key(said.after) for row in (+rows)):
            return f"the key of {said.after} is there already"
        return None

    def _apply(self, rows: Counter[Row], said: Said) -> None:
        if said.before:
            rows[said.before] -= 1
        if said.after:
            rows[said.after] += 1

    def _limit_of(self, changes: Sequence[Said]) -> str | None:
        """The limit because of which this component may be in another order."""
        after = self._after(changes)
        if self._has_key:
            if not self._can_be_strict(changes):
                return "keys that are taken"
            for key in {key for said in changes for key in self._keys(said)}:
                there = [row for row in (+self.rows) if _key(row) == key]
                if there == [row for row in (+after) if _key(row) == key] and not self._previous_change_says(
                    key, changes[0].id
                ):
                    return "rows that end as they began"
        elif all(self.rows[row] == after[row] for said in changes for row in self._keys(said)):
            return "equal rows without a key that end as they began"
        return None

    def _previous_change_says(self, key: Row, first_id: int) -> bool:
        """Whether an entry that is looked back to shows how the row began."""
        balance: Counter[Row | None] = Counter()
        xid, columns = "", None
        for said in reversed(self._before):
            # The feed does not show whether a trigger wrote, for which the server looks back further.
            if said.id < first_id - PLAIN_LOOK_BACK_IDS or (said.is_of_no_row and said.action != "TRUNCATE"):
                return False
            if said.action == "TRUNCATE":
                return True
            if said.xid != xid and any(balance.values()):
                return True
            if columns not in (None, said.columns):
                return False
            xid, columns = said.xid, said.columns
            if key in self._keys(said):
                balance[said.before if said.before and _key(said.before) == key else None] -= 1
                balance[said.after if said.after and _key(said.after) == key else None] += 1
        return any(balance.values())

    def _can_be_strict(self, changes: Sequence[Said]) -> bool:
        """Whether there is an order in which each old row is there and each key free; also if that would take too long to say."""
        rows, order = Counter(self.rows), list[int]()
        taken, dead, choices = 0, set[int](), [iter(range(len(changes)))]
        for _ in range(SEARCH_STEPS):
            if len(order) == len(changes):
                return True
            index = next(choices[-1], None)
            if index is None:
                dead.add(taken)
                choices.pop()
                if not order:
                    return False
                undone = order.pop()
                taken ^= 1 << undone
                said = changes[undone]
                self._apply(rows, said._replace(before=said.after, after=said.before))
            elif (
                not taken >> index & 1
                and taken | 1 << index not in dead
                and self._obstacle(rows, changes[index]) is None
            ):
                self._apply(rows, changes[index])
                order.append(index)
                taken |= 1 << index
                choices.append(iter(range(len(changes))))
        return True
