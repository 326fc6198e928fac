"""A query in, its reading out, within the bounds of all readings. Knows no client.

Clients that ask for the same at the same time share a reading. It begins when it is the turn of any of them, and ends
when none needs it any more, whether it is waiting, running or over.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from changefeed.change.change import Change
from changefeed.change.exposure import Payload
from changefeed.change.gap import Gap
from changefeed.change.table_names import TableName, exact
from changefeed.journal.journal import Journal
from changefeed.owners import Owner, Quotas
from changefeed.postgres.pool import Database, Fetch
from changefeed.rows.query import RowsQuery, SortKey, query_for
from changefeed.rows.reading import Limits, Reading, SharedByReadings
from changefeed.rows.refusal import Reason, RowsRefused
from changefeed.selection.catalog import Catalog
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.rights import visible
from changefeed.selection.subscription import BadSubscription, Subscription
from changefeed.slots import FairSlots

logger = logging.getLogger("changefeed.rows")

READINGS_LIMIT = 10_000  # that wait, run, or have rows for clients
KEEP_SECONDS = 1.0  # how long rows are kept for clients that come a moment later
SPOOLS = 4  # how many of the largest readings may be kept for clients at the same time


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
        will_watch: Callable[[TableName], bool] = lambda table: False,
    ) -> None:
        self._slots = FairSlots(at_once)
        self._readings_quota = Quotas(READINGS_LIMIT)
        self._catalog = catalog
        self._journal = journal
        self._payload = payload
        space_quota = Quotas(SPOOLS * limits.bytes)
        self._shared = SharedByReadings(
            database,
            journal,
            self._slots,
            self._readings_quota,
            space_quota,
            limits,
            payload,
            trusted_owners,
            will_watch,
            self._kinds,
        )
        self._newest: dict[RowsQuery, Reading] = {}
        self._running: dict[Reading, asyncio.Task[None]] = {}  # until no client needs them, also when they are over
        self._logged = ""
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

    @contextlib.contextmanager
    def reading(
        self, query: RowsQuery, owner: Owner, is_current: Callable[[Reading], bool] = lambda reading: False
    ) -> Iterator[Reading]:
        """A reading that begins now, or when it is the owner's turn; or another client's of the same query.

        That is one that has not begun, so that it sees all that is committed by now; or, for clients that get the
        changes after it, one that `is_current`. Raises RowsRefused if too many wait.
        """
        found = self._newest.get(query)
        if found is None or found.refused or (found.has_begun and not is_current(found)):
            found = self._begin(query, owner)
        with self.held(found, owner):
            yield found

    @contextlib.contextmanager
    def held(self, reading: Reading, owner: Owner) -> Iterator[Reading]:
        """Keeps the reading for one more client."""
        reading.join(owner)
        try:
            yield reading
        finally:
            if reading.is_over and not reading.refused:
                # The owner keeps it a moment longer, so that it counts for an owner as long as it is there.
                asyncio.get_running_loop().call_later(KEEP_SECONDS, self._leave, reading, owner)
            else:
                self._leave(reading, owner)

    def outdate(self, changes: Sequence[Change], _cursor: str | None = None) -> None:
        """Called with the changes before clients get them, as a broadcast is: some are a reason to read the rows again.

        These are statements of too many rows, and losses. No reading that has begun before is shared after them: its
        clients, which come again, would get the rows that they have, and the same change after them.
        """
        if not self._newest:
            return
        tables = {change.table for change in changes if change.is_from_journal and (change.count > 1 or change.is_loss)}
        if tables:
            self._outdate(tables.__contains__)

    def outdate_by(self, gap: Gap) -> None:
        """The same for a gap before clients get it."""
        self._outdate(lambda table: gap.table in (None, table))

    def _outdate(self, is_concerned: Callable[[str], bool]) -> None:
        for query, reading in tuple(self._newest.items()):
            if reading.has_begun and is_concerned(query.name):
                del self._newest[query]

    def close(self) -> None:
        """Called when the server ends."""
        for reading in tuple(self._running):
            self._end(reading)

    def _begin(self, query: RowsQuery, owner: Owner) -> Reading:
        if not self._readings_quota.have_room(owner):
            raise RowsRefused(Reason.BUSY, "too many others wait for rows; try again later")
        selection = self._catalog.select(query.subscription, self._journal.seal_for(query.subscription.within))
        reading = Reading(query, selection, self._shared)
        self._newest[query] = reading
        self._running[reading] = asyncio.create_task(self._run(reading))
        return reading

    async def _kinds(self, table: str, fetch: Fetch) -> Mapping[str, Kind]:
        await self._catalog.confirm([table], fetch)
        return self._catalog.columns(table) or {}

    def _leave(self, reading: Reading, owner: Owner) -> None:
        reading.leave(owner)
        if not reading.is_used:
            self._end(reading)

    def _end(self, reading: Reading) -> None:
        running = self._running.pop(reading, None)
        if running is None:
            return  # it was ended before
        if self._newest.get(reading.query) is reading:
            del self._newest[reading.query]
        running.cancel()
        running.add_done_callback(lambda _: reading.close())

    async def _run(self, reading: Reading) -> None:
        ended = "left"
        try:
            await reading.run()
            ended = str(reading.refused.reason) if reading.refused else "complete"
            if reading.refused and reading.refused.private not in ("", self._logged):
                self._logged = reading.refused.private  # not shown to clients with limited rights
                logger.info("rows were refused: %s", self._logged)
        finally:
            self.counts[ended] += 1
            self.rows += reading.rows
