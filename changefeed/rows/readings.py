"""A query in, its reading out, within the bounds of all readings. Knows no client.

A reading ends when nobody needs it any more, whether it is waiting, running or over.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable

from changefeed.change.exposure import Payload
from changefeed.change.table_names import exact
from changefeed.journal.journal import Journal
from changefeed.postgres.pool import Database
from changefeed.rows.query import RowsQuery, SortKey, query_for
from changefeed.rows.reading import Limits, Reading, Road
from changefeed.rows.refusal import Reason, RowsRefused
from changefeed.rows.slots import FairSlots
from changefeed.rows.spool import SpoolSpace
from changefeed.selection.catalog import Catalog
from changefeed.selection.rights import visible
from changefeed.selection.subscription import BadSubscription, Selection, Subscription

WAITING_LIMIT = 10_000
SPOOLS = 4  # how many of the largest readings may be kept for clients at the same time

Select = Callable[[Subscription], Selection]


class Readings:
    """All readings of one server, at most `at_once` at the same time. `trusted_owners` are roles, see sql/rows.sql."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        catalog: Catalog,
        limits: Limits,
        at_once: int,
        payload: Payload,
        trusted_owners: tuple[str, ...] = (),
    ) -> None:
        self._slots = FairSlots(at_once, WAITING_LIMIT)
        self._catalog = catalog
        self._journal = journal
        self._payload = payload
        space = SpoolSpace(SPOOLS * limits.bytes)
        self._road = Road(database, journal, self._slots, space, limits, payload, trusted_owners)
        self.counts = Counter({"complete": 0})  # readings that are over, by how they ended
        self.rows = 0  # that were read

    @property
    def waiting(self) -> int:
        """How many readings wait for their turn."""
        return self._slots.waiting

    async def query(
        self, subscription: Subscription, order: tuple[SortKey, ...] = (), limit: int | None = None
    ) -> RowsQuery:
        """The query for the rows of this subscription. Raises RowsRefused, BadSubscription and DatabaseUnavailable."""
        if self._payload is Payload.OFF:
            raise BadSubscription("withheld_column", self._payload.withheld)
        await self._catalog.check(subscription)
        columns = self._catalog.tables.columns
        named = {name: columns[name] for name in columns if subscription.names((exact(name),))}
        return query_for(subscription, visible(subscription.within, named).keys(), order, limit)

    @contextlib.asynccontextmanager
    async def reading(self, query: RowsQuery, holder: str | None) -> AsyncIterator[Reading]:
        """A reading that begins now, or when it is its turn. Raises RowsRefused if too many wait."""
        if self._slots.is_full:
            raise RowsRefused(Reason.BUSY, "too many others wait for rows; try again later")
        selection = self._catalog.select(query.subscription, self._journal.seal_for(query.subscription.within))
        kinds = self._catalog.columns(str(query.subscription.tables[0])) or {}
        reading = Reading(query, selection, kinds, self._road, holder)
        running = asyncio.create_task(self._run(reading))
        try:
            yield reading
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            reading.close()

    async def _run(self, reading: Reading) -> None:
        ended = "left"
        try:
            await reading.run()
            ended = str(reading.refused.reason) if reading.refused else "complete"
        finally:
            self.counts[ended] += 1
            self.rows += reading.rows
