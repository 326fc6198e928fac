"""Entries in the order of id in, the statements that wrote them out. Knows no states of rows.

PostgreSQL calls the triggers of a statement when it ends. So the ids give the order in which statements end, and say
that of their beginnings only together with the depth of the triggers that wrote.
"""

from array import array

from changefeed.ordering.row_states import Entry

ACTIONS = "DUI"  # in the order in which the triggers of one statement are called


class Statements:
    """Groups trigger calls by statement, as those of a writing CTE, as far as the numbers of commands show it.

    A writing statement is a command, and so is each INSERT into the journal. So two calls are at least two commands
    apart if the second is for another statement. Calls for one statement are one apart; or two, which is taken for
    another statement, where record.sql first tries in vain to write a row of types that need a look.
    """

    def __init__(self) -> None:
        # By statement, then by action: within a statement rows are removed before others are added.
        self.ranks = array("q")
        self._number = 0
        self._last: Entry | None = None

    def number(self, number: int) -> int:
        return self.ranks[number] // (len(ACTIONS) + 1)

    def add(self, entry: Entry) -> bool:
        """Adds an entry; returns whether it joins its call to the one before."""
        last, self._last = self._last, entry
        is_joined = False
        if last is None or (entry.call, entry.action, entry.table) != (last.call, last.action, last.table):
            is_joined = last is not None and (entry.depth, entry.command) == (last.depth, last.command + 1)
            self._number += not is_joined
        self.ranks.append(self._number * (len(ACTIONS) + 1) + ACTIONS.find(entry.action) + 1)
        return is_joined


class PreferredOrder:
    """Turns the order in which statements end, which is that of the ids, into the order in which they begin."""

    def __init__(self) -> None:
        self._next = array("q")
        self._segments: list[
            tuple[int, int, int]
        ] = []  # depth, first and last number; deeper ones are nearer to the end
        self._statement: _Statement | None = None  # the one being taken

    def add(self, number: int, entry: Entry) -> None:
        self._next.append(-1)
        if self._statement and self._statement.takes(entry):
            self._next[self._statement.last] = number
            self._statement.last = number
        else:
            self._end_statement()
            self._statement = _Statement(number, entry)

    def ranks(self, count: int) -> "array[int]":
        self._end_statement()
        ranks, rank = array("q", bytes(8 * count)), 0
        for _, first, _ in self._segments:
            number = first
            while number >= 0:
                ranks[number], rank, number = rank, rank + 1, self._next[number]
        return ranks

    def _end_statement(self) -> None:
        if self._statement is None:
            return
        depth, first, last = self._statement.depth, self._statement.first, self._statement.last
        if self._statement.is_followed:
            end = last
            while self._segments and self._segments[-1][0] > depth:
                _, nested_first, nested_last = self._segments.pop()
                # Each deeper segment goes between the statement and what was moved behind it before.
                self._next[nested_last], self._next[end] = self._next[end], nested_first
                last = last if last != end else nested_last
        else:
            while self._segments and self._segments[-1][0] > depth:
                _, nested_first, nested_last = self._segments.pop()
                self._next[nested_last], first = first, nested_first
        if self._segments and self._segments[-1][0] == depth:
            _, before_first, before_last = self._segments.pop()
            self._next[before_last], first = first, before_first
        self._segments.append((depth, first, last))
        self._statement = None


class _Statement:
    """Consecutive entries of one statement. An upsert or MERGE has a call for each action: D, U, I."""

    def __init__(self, number: int, entry: Entry) -> None:
        self.depth = entry.depth
        self.first = self.last = number
        self.is_followed = entry.is_followed
        self._table = entry.table
        self._call = entry.call
        self._action = entry.action

    def takes(self, entry: Entry) -> bool:
        if (entry.depth, entry.table) != (self.depth, self._table):
            return False
        if entry.call != self._call:
            if ACTIONS.find(entry.action) <= ACTIONS.find(self._action):
                return False
            self._call, self._action = entry.call, entry.action
        self.is_followed |= entry.is_followed
        return True
