"""What happened before in, counts in the tally out: so that the charts are full at page load and after a restart.

It comes from another process of this server, which has counted all along, or else from the journal.
"""

import sys
from collections.abc import Sequence
from typing import Any

from changefeed.buckets import Buckets
from changefeed.change import BY_LETTER, Change
from changefeed.cursor import NotACursor, Place, Snapshot
from changefeed.database import Database
from changefeed.journal import ForeignCursor, Journal
from changefeed.memory import Memory, Page
from changefeed.queries import load
from changefeed.table_names import qualified
from changefeed.tally import Tally

QUERIES = load("server.sql")
DEADLINE_SECONDS = 120.0  # a journal of a gigabyte is read once, before anything is published


class History:
    """Fills `tally` once, before anything is published; what comes later is counted as it is published."""

    def __init__(self, database: Database, journal: Journal, tally: Tally) -> None:
        self._database = database
        self._journal = journal
        self._tally = tally
        self._cursor: str | None = None
        self._counted: Place | None = None  # by the other process, when it handed over

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

    async def load(self, memory: Memory) -> None:
        """Counts up to the edge of `memory`, which holds at least what came while another process handed over."""
        if self._cursor is None:
            for buckets in self._tally.by_step.values():
                await self._load(memory.edge.batch, buckets)
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

    async def _load(self, snapshot: Snapshot, buckets: Buckets) -> None:
        parameters = {"step": buckets.step_seconds, "kept": buckets.kept, "snapshot": str(snapshot)}
        rows = await self._database.fetch(QUERIES["activity"], parameters, DEADLINE_SECONDS)
        for at, schema, table, letter, count, first_at in rows:
            name = qualified(schema, table)
            self._tally.load(buckets.step_seconds, at, name, BY_LETTER[letter], count, first_at)


def _beyond(place: Place, changes: Sequence[Change]) -> Sequence[Change]:
    return [change for change in changes if not place.has_passed(change.xid, change.id)]
