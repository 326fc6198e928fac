"""Rows that transactions leave as they found them in, the states in which they found them out. Reads the journal.

Transactions that are near each other share a look back, so that many small ones cost about as much as one. What each
finds does not depend on the others, and so not on the page.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from changefeed.ordering.digests import DEADLINE_SECONDS, TOO_MUCH, Digests, complain
from changefeed.ordering.look_back import Found, LookBack, RowKey, SeenPart
from changefeed.ordering.row_states import UNKNOWN, Entry
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database

QUERIES = load_queries("ordering.sql")
LOOK_BACK_IDS = 2_000  # how far back in the journal to look for a row that ends as it began
PLAIN_LOOK_BACK_IDS = 200  # where no trigger wrote: such transactions are many, and seldom need it
LOOK_BACK_STEP = 200  # it begins at a multiple of this, which is then further back, and often the same for many
LOOK_BACK_ENTRIES = 20_000  # including those that were written at the same time
LOOK_BACK_PARTS = 16  # each of STATES_AT_ONCE or STATES_LIMIT_BYTES
INLINE_ENTRIES = 1_000  # more are processed in a thread


class Sought(NamedTuple):
    """A transaction's rows whose earlier states are looked for, each with the id of its first entry there."""

    xid: str
    rows: Mapping[RowKey, int]
    begin: int  # entries are read from this id on

    @classmethod
    def of(cls, xid: str, rows: Mapping[RowKey, int], *, is_nested: bool) -> "Sought":
        begin = min(rows.values()) - (LOOK_BACK_IDS if is_nested else PLAIN_LOOK_BACK_IDS)
        return cls(xid, rows, begin - begin % LOOK_BACK_STEP)

    @property
    def end(self) -> int:
        return max(self.rows.values())


class Before(NamedTuple):
    """What the journal says of rows before a transaction."""

    began: dict[RowKey, int]  # the states in which the transaction found them, where known
    is_in_doubt: bool  # another reader may have known something else
    seen: frozenset[str] | None  # by one that did not see all of these transactions; None if by one before retention


class _Past(NamedTuple):
    """What was read of a stretch of the journal."""

    begin: int
    entries: dict[str, list[Entry]]  # by transaction, the newest first
    parts: dict[str, SeenPart]  # of those that are not known as a whole
    lacking: dict[str, int]  # the first ids of those of which retention may have deleted entries
    deleted_id: int  # the highest that retention has deleted, 0 for none
    unread_of: frozenset[str]  # which transactions kept older entries from being read

    def before(self, sought: Sought, found: Mapping[RowKey, Found]) -> Before:
        began = {row: state for row, (state, _) in found.items() if state not in (None, UNKNOWN)}
        is_open = any(state is None for state, _ in found.values())
        may_lack = any(xid != sought.xid and first_id < sought.end for xid, first_id in self.lacking.items())
        if may_lack or (is_open and self.deleted_id >= max(self.begin, 1)):
            return Before(began, is_in_doubt=True, seen=None)
        seen = frozenset(xid for _, xid in found.values() if xid) | (self.unread_of if is_open else frozenset())
        return Before(began, is_in_doubt=bool(seen), seen=seen)


class EarlierStates:
    """Looks back in the journal."""

    def __init__(self, database: Database, digests: Digests) -> None:
        self._database = database
        self._digests = digests

    async def before(self, sought: Iterable[Sought]) -> dict[str, Before]:
        """What the journal says before each transaction, which does not depend on the others."""
        found: dict[str, Before] = {}
        groups = _sharing(sought)
        while groups:
            group = groups.pop()
            past = await self._read(group)
            if past is None:
                groups += [[one] for one in group]
                continue
            is_short = sum(map(len, past.entries.values())) + sum(len(one.rows) for one in group) <= INLINE_ENTRIES
            found |= _looked_back(past, group) if is_short else await asyncio.to_thread(_looked_back, past, group)
        return found

    async def _read(self, group: Sequence[Sought]) -> _Past | None:
        """The part of the journal that all of them look back on; None if it is too large to be shared."""
        begin, end = group[0].begin, max(one.end for one in group)
        excepted = group[0].xid if len(group) == 1 else "0"  # it may have more entries than are read
        bounds = {"begin": begin, "end": end, "limit": LOOK_BACK_ENTRIES, "excepted": excepted}
        counts = await self._database.fetch(QUERIES["transactions before"], bounds, DEADLINE_SECONDS)
        is_whole, parts_read = sum(count for _, count, *_ in counts) < LOOK_BACK_ENTRIES, 0
        entries: dict[str, list[Entry]] = {}
        failures: dict[int, str] = {}
        ended = [xid for xid, _, _, goes_on in counts if not goes_on]
        async for states in self._digests.states_of(ended, begin=begin, end=end):
            for xid, entry in states.entries:
                entries.setdefault(xid, []).append(entry)
            failures |= states.failures
            parts_read += 1
            if parts_read == LOOK_BACK_PARTS and not states.is_all:
                if len(group) > 1:
                    return None
                is_whole = False
                entries.popitem()  # its last ones may be missing
                break
        complain({entry_id: why for entry_id, why in failures.items() if why != TOO_MUCH})
        # After the reading, so that it includes what retention deleted meanwhile.
        [(deleted_xid, deleted_id)] = await self._database.fetch(QUERIES["newest deleted"])
        # A transaction of two partitions may have lost its first entries, and one that began earlier is not read whole.
        lacking = {xid: of_xid[0].id for xid, of_xid in entries.items() if int(xid) <= deleted_xid}
        begun = [xid for xid, _, has_more, _ in counts if has_more and xid in entries.keys() - lacking.keys()]
        unsure = await self._digests.mixed_of(begun) | lacking.keys()
        return _Past(
            begin,
            entries,
            {xid: SeenPart.UNSURE if xid in unsure else SeenPart.IN_ORDER for xid in {*begun, *lacking}},
            lacking,
            deleted_id,
            frozenset() if is_whole else frozenset(xid for xid, *_ in counts),
        )


def _sharing(sought: Iterable[Sought]) -> list[list[Sought]]:
    """Groups that share a look back: they begin at the same id, and have no more entries than each may read."""
    groups: defaultdict[tuple[int, str], list[Sought]] = defaultdict(list)
    for one in sought:
        groups[one.begin, one.xid if one.end - one.begin >= LOOK_BACK_ENTRIES else ""].append(one)
    return list(groups.values())


def _looked_back(past: _Past, group: Iterable[Sought]) -> dict[str, Before]:
    is_from_beginning = not past.unread_of and past.begin <= 1 and not past.deleted_id
    look_back = LookBack(is_from_beginning=is_from_beginning)
    for xid, entries in past.entries.items():
        look_back.add(xid, entries, past.parts.get(xid, SeenPart.WHOLE))
    return {
        one.xid: past.before(one, {row: look_back.state_before(row, first_id) for row, first_id in one.rows.items()})
        for one in group
    }
