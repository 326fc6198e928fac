"""What happened before in, counts in the tally out: so that the charts are full at page load and after a restart.

It comes from another process of this server, which has counted all along, or else from the journal.
"""

import asyncio
import functools
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import psycopg2

from changefeed.backoff import backoff
from changefeed.buckets import Buckets
from changefeed.change import BY_LETTER, Change
from changefeed.cursor import NotACursor, Place, Snapshot
from changefeed.database import Database, DatabaseUnavailable, Row, one_line
from changefeed.journal import ForeignCursor, Journal
from changefeed.memory import Memory, Page
from changefeed.queries import load
from changefeed.table_names import qualified
from changefeed.tally import Tally

logger = logging.getLogger(__name__)

QUERIES = load("server.sql")
DEADLINE_SECONDS = 120.0  # a journal of a gigabyte is read once for each step of the charts


class History:
    """Fills `tally` with what was before what is published, which is counted as it is published.

    begin() is called when it is known from where on that is. run() then reads the rest from the journal, while all else
    goes on, and adds it all at once: apply(add) calls add(). Until then is_loaded is false.
    """

    def __init__(
        self,
        database: Database,
        journal: Journal,
        tally: Tally,
        apply: Callable[[Callable[[], None]], None] = lambda add: add(),
    ) -> None:
        self._loaded = asyncio.Event()
        self._loaded.set()
        self._database = database
        self._journal = journal
        self._tally = tally
        self._apply = apply
        self._wanted: Snapshot | None = None  # up to where the journal is still to be counted
        self._is_wanted = asyncio.Event()
        self._cursor: str | None = None
        self._counted: Place | None = None  # by the other process, when it handed over

    @property
    def is_loaded(self) -> bool:
        """Whether the counts of what was before are in the tally."""
        return self._loaded.is_set()

    async def until_loaded(self) -> None:
        await self._loaded.wait()

    def hand_over(self, memory: Memory | None) -> dict[str, Any]:
        """The counts of this process, whose place in the journal is the edge of `memory`; for JSON."""
        return {"tally": self._tally.dump(), "cursor": self._journal.encode(memory.edge) if memory else None}

    def take_over(self, state: dict[str, Any]) -> None:
        """Counts what another process had counted when it handed over.

        For the journal that is exact. Of plain notifications, which have no place, one that was under way in that
        moment may count twice or not at all.
        """
        self._tally.restore(state["tally"])
        self._cursor = state["cursor"]

    def begin(self, memory: Memory) -> None:
        """What comes after the edge of `memory` is published; it holds at least what came since a hand-over."""
        if self._cursor is None:
            self._wanted = memory.edge.batch
            self._loaded.clear()
            self._is_wanted.set()
            return
        try:
            self._counted = self._journal.decode(self._cursor)
        except (NotACursor, ForeignCursor):
            return  # it is another journal since a moment ago
        self._tally.count(_beyond(self._counted, memory.newest(sys.maxsize)), now=0)

    def uncounted(self, page: Page) -> Sequence[Change]:
        """Of what is published next, what is still to be counted: the other process may have been ahead."""
        if self._counted and self._counted.is_within(page.start):
            self._counted = None
        return _beyond(self._counted, page.changes) if self._counted else page.changes

    async def run(self) -> None:
        """Loads whenever begin() asks for it, until cancelled."""
        delays = backoff()
        while True:
            await self._is_wanted.wait()
            wanted = self._wanted
            if wanted is None:
                self._is_wanted.clear()
                continue
            try:
                loaded = [(step, await self._read(wanted, buckets)) for step, buckets in self._tally.by_step.items()]
            except (DatabaseUnavailable, psycopg2.Error) as error:
                logger.info("what happened before cannot be counted yet: %s; trying again", one_line(error))
                await asyncio.sleep(next(delays))
                continue
            if self._wanted is wanted:  # else it is another journal meanwhile
                self._wanted = None
                self._apply(functools.partial(self._add, loaded))
                self._loaded.set()

    async def _read(self, snapshot: Snapshot, buckets: Buckets) -> list[Row]:
        parameters = {"step": buckets.step_seconds, "kept": buckets.kept, "snapshot": str(snapshot)}
        return await self._database.fetch(QUERIES["activity"], parameters, DEADLINE_SECONDS)

    def _add(self, loaded: Sequence[tuple[int, list[Row]]]) -> None:
        for step_seconds, rows in loaded:
            for at, schema, table, letter, count, first_at in rows:
                self._tally.load(step_seconds, at, qualified(schema, table), BY_LETTER[letter], count, first_at)


def _beyond(place: Place, changes: Sequence[Change]) -> Sequence[Change]:
    return [change for change in changes if not place.has_passed(change.xid, change.id)]
