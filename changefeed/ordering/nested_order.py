"""Rows of the journal by id in, in the order in which they changed out. Knows no client.

If triggers, a foreign key's actions or a writing CTE wrote, ids may not be in that order (see transaction_order.py).
Then an entry gets the content of another entry of its transaction; its id, and so each cursor, stays. Every server of
the database computes the same order, once, from the journal's entries of the transaction.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from operator import itemgetter

import psycopg2

from changefeed.change.change import LOSS
from changefeed.ordering.digests import DEADLINE_SECONDS, Digests, complain
from changefeed.ordering.earlier_states import EarlierStates, Sought
from changefeed.ordering.look_back import RowKey
from changefeed.ordering.transaction_order import Doubt, Order, Transaction
from changefeed.postgres.apart import may_be_of_a_row, read_apart
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database, DatabaseUnavailable, DbRow

QUERIES = load_queries("ordering.sql")
INLINE_ENTRIES = 1_000  # more are ordered in a thread
REMEMBERED_ENTRIES = 1 << 21  # moved entries in the cached orders of transactions; 16 bytes each
REMEMBERED_ORDERS = 10_000
_TAKING, _BRINGING = frozenset("UDL"), frozenset("IUL")
_CALL = itemgetter(1, 2, 3, 4, 5)  # of a JournalRow: its transaction, and what one call of a trigger has in common


class NestedOrder:
    """Puts pages in order. Contents above `row_limit_bytes` become losses; without it, no contents are read."""

    def __init__(self, database: Database, row_limit_bytes: int | None) -> None:
        self._database = database
        self._row_limit_bytes = row_limit_bytes
        self._orders: OrderedDict[str, Order] = OrderedDict()  # by xid, the one used last at the end
        self._remembered_entries = 0
        self._doubts: dict[str, Doubt] = {}  # of those of `_orders`
        self._digests = Digests(database)
        self._earlier = EarlierStates(database, self._digests)
        self._computing: dict[str, asyncio.Task[dict[str, Order]]] = {}

    def forget(self) -> None:
        """Forgets all orders: the database may be another one, or have lost commits, so that xids come again."""
        self._orders.clear()
        self._doubts.clear()
        self._computing.clear()
        self._digests.forget()
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
        mixed = mixed | await self._digests.mixed_of(unexamined)
        as_recorded = {xid: Order.as_recorded() for xid in unexamined if xid not in mixed}
        xids = [xid for xid in xids if xid in mixed]
        transactions = {xid: Transaction() for xid in xids}
        failures: dict[int, str] = {}
        async for states in self._digests.states_of(xids):
            for xid, entry in states.entries:
                transactions[xid].add(entry)
            failures |= states.failures
        complain(failures)
        is_short = sum(map(len, transactions.values())) <= INLINE_ENTRIES
        circles = _circles(transactions) if is_short else await asyncio.to_thread(_circles, transactions)
        before = await self._earlier.before(
            Sought.of(xid, rows_there, is_nested=transactions[xid].is_nested)
            for xid, rows_there in circles.items()
            if rows_there
        )
        began = {xid: found.began for xid, found in before.items()}
        orders = _in_order(transactions, began) if is_short else await asyncio.to_thread(_in_order, transactions, began)
        for xid, order in orders.items():
            # A transaction of two partitions may have lost its first entries.
            if int(xid) <= deleted_xid:
                order.doubt = Doubt(transactions[xid].ids, None)
            elif xid in before and before[xid].is_in_doubt:
                order.doubt = Doubt(transactions[xid].ids, before[xid].seen)
        return as_recorded | orders

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
