"""Rows of the journal by id in, in the order in which they changed out. Knows no client.

If triggers, a foreign key's actions or a writing CTE wrote, ids may not be in that order (see transaction_order.py).
Then an entry gets the content of another entry of its transaction; its id, and so each cursor, stays. Every server of
the database computes the same order, once, from the journal's entries of the transaction.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import psycopg2

from changefeed.change.change import LOSS
from changefeed.ordering.look_back import LookBack, RowKey, SeenPart
from changefeed.ordering.row_states import UNKNOWN, Entry
from changefeed.ordering.transaction_order import Doubt, Order, Transaction
from changefeed.postgres.apart import may_be_of_a_row, read_apart
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database, DatabaseUnavailable, DbRow

logger = logging.getLogger("changefeed.journal")

QUERIES = load_queries("ordering.sql")
STATES_AT_ONCE = 2_000  # entries that are processed in one turn of the event loop
STATES_LIMIT_BYTES = 16 << 20  # of the rows that one statement examines, and one row more
# Of a transaction's large rows only the first are examined: a value that is cheap to write may be expensive to parse.
SMALL_BYTES = 16 << 10
LARGE_ROWS_LIMIT_BYTES = 128 << 20  # some 20 s of the worst values
LOOK_BACK_IDS = 2_000  # how far back in the journal to look for a row that ends as it began
PLAIN_LOOK_BACK_IDS = 200  # where no trigger wrote: such transactions are many, and seldom need it
LOOK_BACK_ENTRIES = 20_000  # including those that were written at the same time
LOOK_BACK_PARTS = 16  # each of STATES_AT_ONCE or STATES_LIMIT_BYTES
INLINE_ENTRIES = 1_000  # more are ordered in a thread
REMEMBERED_ENTRIES = 1 << 21  # moved entries in the cached orders of transactions; 16 bytes each
REMEMBERED_ORDERS = 10_000
REMEMBERED_OPAQUE = 10_000  # entries whose rows PostgreSQL cannot take apart
DEADLINE_SECONDS = 60.0
_MOST = (1 << 63) - 1
_TAKING, _BRINGING = frozenset("UDL"), frozenset("IUL")
_CALL = itemgetter(1, 2, 3, 4, 5)  # of a JournalRow: its transaction, and what one call of a trigger has in common
_IS_EXAMINED, _ID = 2, 4  # of a row of the query "states"
_TOO_MUCH = f"their transaction has more than {LARGE_ROWS_LIMIT_BYTES >> 20} MB of large rows"


class _States(NamedTuple):
    """What the query "states" found: entries of one or several transactions, each with its transaction's xid."""

    entries: list[tuple[str, Entry]]
    is_all: bool  # what was asked for; else the next ones have to be asked for
    large_bytes: int  # of the rows of the last transaction that have more than SMALL_BYTES, so far
    failures: dict[int, str]  # why rows were not examined, by the entry's id

    @classmethod
    def of(cls, rows: Sequence[DbRow], failures: dict[int, str] | None = None) -> "_States":
        found, large_bytes = rows[-1][:2] if rows else (0, 0)
        return cls(
            [(xid, Entry._make(entry)) for _, _, _, xid, *entry in rows],
            not rows or len(rows) == found < STATES_AT_ONCE,
            large_bytes,
            dict.fromkeys((row[_ID] for row in rows if not row[_IS_EXAMINED]), _TOO_MUCH) | (failures or {}),
        )


class _Before(NamedTuple):
    """What the journal says of rows before a transaction."""

    began: dict[RowKey, int]  # the states in which the transaction found them, where known
    is_in_doubt: bool  # another reader may have known something else
    seen: frozenset[str] | None  # by one that did not see all of these transactions; None if by one before retention


class NestedOrder:
    """Puts pages in order. Contents above `row_limit_bytes` become losses; without it, no contents are read."""

    def __init__(self, database: Database, row_limit_bytes: int | None) -> None:
        self._database = database
        self._row_limit_bytes = row_limit_bytes
        self._orders: OrderedDict[str, Order] = OrderedDict()  # by xid, the one used last at the end
        self._remembered_entries = 0
        self._doubts: dict[str, Doubt] = {}  # of those of `_orders`
        self._opaque: dict[int, None] = {}  # the ids of entries that no statement may look into
        self._computing: dict[str, asyncio.Task[dict[str, Order]]] = {}

    def forget(self) -> None:
        """Forgets all orders: the database may be another one, or have lost commits, so that xids come again."""
        self._orders.clear()
        self._doubts.clear()
        self._computing.clear()
        self._opaque.clear()
        self._remembered_entries = 0

    def may_differ_after(self, entry_id: int, sees: Callable[[int], bool]) -> bool:
        """Whether it is in the middle of a transaction whose order may have been another one when it was sent.

        `sees` says which transactions ended before that.
        """
        return any(doubt.concerns(entry_id, sees) for doubt in self._doubts.values())

    async def apply(
        self,
        rows: Sequence[DbRow],
        *,
        nested: Collection[str],
        is_whole_batch: bool,
        deleted_xid: int,
        byte_limit: int,
    ) -> Sequence[DbRow]:
        """The rows of a page, as JournalRows, with their contents in order.

        `nested` and `deleted_xid`, the newest transaction that retention has deleted, are from changefeed.read(). The
        rows end early if their contents exceed about `byte_limit`, but there is at least one.
        """
        mixed = _mixed(rows).union(nested)
        # In a part of a batch, each transaction may have entries on other pages.
        xids = mixed if is_whole_batch else {row[1] for row in rows}
        if not xids:
            return rows
        orders = {xid: order for xid, order in (await self._orders_of(xids, mixed, deleted_xid)).items() if len(order)}
        if not orders:
            return rows
        sources = {row[0]: orders[row[1]].source(row[0]) for row in rows if row[1] in orders}
        sources = {entry_id: source for entry_id, source in sources.items() if source != entry_id}
        if not sources:
            return rows
        contents = {row[0]: row for row in rows}
        elsewhere = [source for source in sources.values() if source not in contents]
        if elsewhere:
            fetched = await self._entries(elsewhere, byte_limit)
            contents.update((row[0], row) for row in fetched)
            # The limit was reached after the last fetched one. Retention has just removed those missing before it.
            last = elsewhere.index(fetched[-1][0]) if fetched else len(elsewhere) - 1
            beyond, gone = set(elsewhere[last + 1 :]), set(elsewhere[: last + 1]) - contents.keys()
            self._forget_orders({row[1] for row in rows if sources.get(row[0]) in gone})
        else:
            beyond, gone = set(), set()
        ordered: list[DbRow] = []
        for row in rows:
            source = sources.get(row[0])
            if source in beyond:
                break
            is_moved = source is not None and source not in gone
            ordered.append((row[0], *contents[source][1:]) if is_moved else row)
        return ordered

    async def _orders_of(self, xids: set[str], mixed: set[str], deleted_xid: int) -> dict[str, Order]:
        """The orders of the transactions. `mixed` are known to need one; the others may."""
        known = {xid: self._orders[xid] for xid in xids & self._orders.keys()}
        for xid in known:
            self._orders.move_to_end(xid)
        unknown = sorted(xids - known.keys() - self._computing.keys(), key=int)
        if unknown:
            task = asyncio.create_task(self._compute(unknown, mixed, deleted_xid))
            task.add_done_callback(self._end)
            self._computing.update(dict.fromkeys(unknown, task))
        for task in {self._computing[xid] for xid in xids - known.keys()}:
            # Shielded: all readers of that page share the task.
            known.update(await asyncio.shield(task))
        return known

    def _end(self, task: "asyncio.Task[dict[str, Order]]") -> None:
        xids = [xid for xid, computing in self._computing.items() if computing is task]
        for xid in xids:
            del self._computing[xid]
        if task.cancelled() or task.exception() or not xids:
            return
        for xid, order in task.result().items():
            self._orders[xid] = order
            self._remembered_entries += len(order)
            if order.doubt:
                self._doubts[xid] = order.doubt
        while len(self._orders) > 1 and (
            self._remembered_entries > REMEMBERED_ENTRIES or len(self._orders) > REMEMBERED_ORDERS
        ):
            self._forget_orders([next(iter(self._orders))])

    def _forget_orders(self, xids: Iterable[str]) -> None:
        for xid in xids:
            self._doubts.pop(xid, None)
            if order := self._orders.pop(xid, None):
                self._remembered_entries -= len(order)

    async def _compute(self, xids: Sequence[str], mixed: set[str], deleted_xid: int) -> dict[str, Order]:
        unexamined = [xid for xid in xids if xid not in mixed]
        mixed = mixed | await self._mixed_of(unexamined)
        as_recorded = {xid: Order.as_recorded() for xid in unexamined if xid not in mixed}
        xids = [xid for xid in xids if xid in mixed]
        transactions = {xid: Transaction() for xid in xids}
        failures: dict[int, str] = {}
        async for states in self._states_of(xids):
            for xid, entry in states.entries:
                transactions[xid].add(entry)
            failures |= states.failures
        _complain(failures)
        is_short = sum(map(len, transactions.values())) <= INLINE_ENTRIES
        circles = _circles(transactions) if is_short else await asyncio.to_thread(_circles, transactions)
        before = {
            xid: await self._before(xid, rows_there, is_nested=transactions[xid].is_nested)
            for xid, rows_there in circles.items()
            if rows_there
        }
        began = {xid: found.began for xid, found in before.items()}
        orders = _in_order(transactions, began) if is_short else await asyncio.to_thread(_in_order, transactions, began)
        for xid, order in orders.items():
            # A transaction of two partitions may have lost its first entries.
            if int(xid) <= deleted_xid:
                order.doubt = Doubt(transactions[xid].ids, None)
            elif xid in before and before[xid].is_in_doubt:
                order.doubt = Doubt(transactions[xid].ids, before[xid].seen)
        return as_recorded | orders

    async def _states_of(self, xids: Sequence[str], *, begin: int = 0, end: int = _MOST) -> AsyncIterator[_States]:
        """All entries of the transactions, or those with ids from `begin` on and before `end`, some at a time."""
        after = large_bytes = 0
        while xids:
            states = await self._states(xids, after=after, large_bytes=large_bytes, begin=begin, end=end)
            yield states
            if states.is_all:
                return
            xid, last = states.entries[-1]
            after, large_bytes = last.id, states.large_bytes
            xids = xids[xids.index(xid) :]

    async def _states(self, xids: Sequence[str], *, after: int, large_bytes: int, begin: int, end: int) -> _States:
        parameters = {
            "xids": list(xids),
            "after": after,
            "large_bytes": large_bytes,
            "begin": begin,
            "end": end,
            "limit": STATES_AT_ONCE,
            "limit_bytes": STATES_LIMIT_BYTES,
            "small_bytes": SMALL_BYTES,
            "transaction_limit_bytes": LARGE_ROWS_LIMIT_BYTES,
            "first": 0,
            "last": _MOST,
        }
        try:
            return _States.of(await self._fetch_states(parameters))
        except (DatabaseUnavailable, psycopg2.Error) as error:
            if not may_be_of_a_row(error):
                raise
        return await self._states_apart(parameters)

    async def _fetch_states(self, parameters: dict[str, object]) -> list[DbRow]:
        return await self._database.fetch(
            QUERIES["states"], {"opaque": list(self._opaque), **parameters}, DEADLINE_SECONDS
        )

    async def _states_apart(self, parameters: dict[str, object]) -> _States:
        """The same where PostgreSQL cannot take some rows apart, such as JSON nested too deeply for it.

        As entries of no row they keep their places, and no entry of their table passes them; other tables' do.
        """
        rows = {row[_ID]: row for row in await self._fetch_states({**parameters, "opaque": None})}
        ids = sorted(row[_ID] for row in rows.values() if row[_IS_EXAMINED] and row[_ID] not in self._opaque)
        opaque, failures = await read_apart(
            ids, lambda part: self._database.fetch(QUERIES["opaque"], {"ids": list(part)}, DEADLINE_SECONDS)
        )
        found = {**dict.fromkeys((entry_id for (entry_id,) in opaque), "PostgreSQL cannot parse them"), **failures}
        self._opaque.update(dict.fromkeys(found))
        # What fails for another reason.
        examined, failures = await read_apart(
            [entry_id for entry_id in ids if entry_id not in found],
            lambda part: self._fetch_states({**parameters, "first": part[0], "last": part[-1]}),
        )
        self._opaque.update(dict.fromkeys(failures))
        found |= failures
        for entry_id in list(self._opaque)[: -max(REMEMBERED_OPAQUE, len(found))]:
            del self._opaque[entry_id]
        rows.update((row[_ID], row) for row in examined if row[_ID] in rows)
        return _States.of(list(rows.values()), found)

    async def _entries(self, ids: Sequence[int], byte_limit: int) -> list[DbRow]:
        """The entries with these ids, at least one; those that cannot be read are losses."""
        parameters = {"byte_limit": byte_limit, "row_limit_bytes": self._row_limit_bytes}
        try:
            return await self._fetch_entries({**parameters, "ids": list(ids)})
        except (DatabaseUnavailable, psycopg2.Error) as error:
            if not may_be_of_a_row(error):
                raise
        found: list[DbRow] = []
        size = 0
        for entry_id in ids:  # one by one, since a part may end at the limit
            rows, failures = await read_apart([entry_id], lambda one: self._fetch_entries({**parameters, "ids": one}))
            if failures:
                without_contents = {**parameters, "ids": [entry_id], "row_limit_bytes": None}
                rows = await self._database.fetch(QUERIES["entries"], without_contents, DEADLINE_SECONDS)
                rows = [(*row[:3], LOSS[0], *row[4:6], None, None, None) for row in rows]
            found += rows
            size += sum(len(text) for row in rows for text in row[6:8] if text)
            if size >= byte_limit:
                break
        return found

    async def _fetch_entries(self, parameters: dict[str, object]) -> list[DbRow]:
        return await self._database.fetch(QUERIES["entries"], parameters, DEADLINE_SECONDS, with_stand_ins=False)

    async def _before(self, xid: str, circles: dict[RowKey, int], *, is_nested: bool) -> _Before:
        """Looks for the states in which rows began that end as they began. `circles` has their first ids.

        Earlier writers of a row held its lock, so their entries are visible and have lower ids. Transactions that ran
        at the same time say nothing, whether they are visible yet or not.
        """
        ids = LOOK_BACK_IDS if is_nested else PLAIN_LOOK_BACK_IDS
        begin, end = min(circles.values()) - ids, max(circles.values())
        bounds = {"begin": begin, "end": end, "xid": xid, "limit": LOOK_BACK_ENTRIES}
        counts = await self._database.fetch(QUERIES["transactions before"], bounds, DEADLINE_SECONDS)
        xids = [earlier for earlier, *_ in counts]
        before: dict[str, list[Entry]] = {}  # by transaction, the newest first
        is_whole, parts_read = sum(count for _, count, _ in counts) < LOOK_BACK_ENTRIES, 0
        failures: dict[int, str] = {}
        async for states in self._states_of(xids, begin=begin, end=end):
            for earlier, entry in states.entries:
                before.setdefault(earlier, []).append(entry)
            failures |= states.failures
            parts_read += 1
            if parts_read == LOOK_BACK_PARTS and not states.is_all:
                is_whole = False
                before.popitem()  # its last entries may be missing
                break
        _complain({entry_id: why for entry_id, why in failures.items() if why != _TOO_MUCH})
        # After the reading, so that it includes what retention deleted meanwhile.
        [(deleted_xid, deleted_id)] = await self._database.fetch(QUERIES["newest deleted"])
        # A transaction of two partitions may have lost its first entries, and one that began earlier is not read whole.
        may_lack = {earlier for earlier in before if int(earlier) <= deleted_xid}
        begun = [earlier for earlier, _, has_more in counts if has_more and earlier in before.keys() - may_lack]
        mixed = await self._mixed_of(begun) | may_lack
        parts = {earlier: SeenPart.UNSURE if earlier in mixed else SeenPart.IN_ORDER for earlier in {*begun, *may_lack}}
        look_back = LookBack(is_from_beginning=is_whole and begin <= 1 and not deleted_id)
        is_short = len(circles) + sum(map(len, before.values())) <= INLINE_ENTRIES
        looked = (look_back, before, parts, circles)
        found = _looked_back(*looked) if is_short else await asyncio.to_thread(_looked_back, *looked)
        is_open = None in found.values()
        began = {row: state for row, state in found.items() if state not in (None, UNKNOWN)}
        if may_lack or (is_open and deleted_id >= max(begin, 1)):
            return _Before(began, is_in_doubt=True, seen=None)
        seen = look_back.hidden_by.union(xids if is_open and not is_whole else ())
        return _Before(began, is_in_doubt=bool(seen), seen=frozenset(seen))

    async def _mixed_of(self, xids: Sequence[str]) -> set[str]:
        """Those of the transactions that must be put in order."""
        if not xids:
            return set()
        return {xid for (xid,) in await self._database.fetch(QUERIES["mixed"], {"xids": xids}, DEADLINE_SECONDS)}


def _looked_back(
    look_back: LookBack,
    before: Mapping[str, Sequence[Entry]],
    parts: Mapping[str, SeenPart],
    circles: Mapping[RowKey, int],
) -> dict[RowKey, int | None]:
    """The states of the rows, by LookBack.state_before()."""
    for earlier, entries in before.items():
        look_back.add(earlier, entries, parts.get(earlier, SeenPart.WHOLE))
    return {(table, key): look_back.state_before(table, key, first_id) for (table, key), first_id in circles.items()}


def _complain(failures: dict[int, str]) -> None:
    if failures:
        logger.warning(
            "could not look into %d entries of the journal, the first of which is %d; their rows' changes keep the "
            "recorded order: %s",
            len(failures),
            min(failures),
            failures[min(failures)],
        )


def _circles(transactions: dict[str, Transaction]) -> dict[str, dict[RowKey, int]]:
    return {xid: transaction.circles() for xid, transaction in transactions.items()}


def _in_order(transactions: dict[str, Transaction], began: dict[str, dict[RowKey, int]]) -> dict[str, Order]:
    return {xid: transaction.order(began.get(xid, {})) for xid, transaction in transactions.items()}


def _mixed(rows: Sequence[DbRow]) -> set[str]:
    """The transactions in which two trigger calls for one table removed rows and added rows.

    The same as changefeed.mixed(). A loss may be of either.
    """
    actions = {row[3] for row in rows}
    if not (actions & _TAKING and actions & _BRINGING):
        return set()
    calls: dict[tuple[str, str, str], tuple[str, str]] = {}  # the first call of each transaction and table
    done: dict[tuple[str, str, str], set[str]] = {}  # the actions, if there was more than one call
    for (xid, at, action, schema, table), _ in groupby(rows, key=_CALL):  # most are one call's, one after another
        call = calls.setdefault((xid, schema, table), (at, action))
        if call != (at, action):
            done.setdefault((xid, schema, table), {call[1]}).add(action)
    return {xid for (xid, _, _), actions in done.items() if actions & _TAKING and actions & _BRINGING}
