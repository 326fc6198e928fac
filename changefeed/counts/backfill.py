"""What happened before in, counts in the tally out: so that the charts are full at page load and after a restart.

It comes from another process of this server, which has counted all along, or else from the journal.
"""

import asyncio
import functools
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg2

from changefeed.backoff import backoff
from changefeed.change.change import BY_LETTER, Change
from changefeed.change.table_names import qualified
from changefeed.counts.tally import STEPS, Tally
from changefeed.journal.cursor import NOTHING, NotACursor, Place, Snapshot
from changefeed.journal.journal import ForeignCursor, Journal
from changefeed.journal.page_cache import Page, PageCache
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database, DatabaseUnavailable, DbRow, one_line

logger = logging.getLogger("changefeed.history")

QUERIES = load_queries("server.sql")
PART_ENTRIES = 50_000  # are counted by PostgreSQL at once, in some 0.1 s
LEAST_PART_ENTRIES = 100
REST = 0.25  # of the time that a part took, before the next one: clients wait for the same database
BEYOND_IDS = (1 << 63) - 1
LONG_AGO_SECONDS = 86_400  # the step of what is older than the charts, and is not counted
SLICE_ROWS = 500  # are added in one turn of the loop


class CountsBackfill:
    """Fills `tally` with what was before what is published, which is counted as it is published.

    begin() is called when it is known from where on that is. run() then reads the rest from the journal, the newest
    first, while all else goes on, and adds it all at once. Until then is_loaded is false. Whatever is not news is done
    to the tally by apply(what). `turns` is another number whenever the counts became others by that.
    """

    def __init__(
        self,
        database: Database,
        journal: Journal,
        tally: Tally,
        apply: Callable[[Callable[[], None]], None] = lambda what: what(),
    ) -> None:
        self.turns = 0
        self.counting_since: float | None = None  # until it is loaded: from when on all is counted, in epoch seconds
        self._loaded = asyncio.Event()
        self._loaded.set()
        self._database = database
        self._journal = journal
        self._tally = tally
        self._apply = apply
        self._has_begun = False
        self._wanted: Snapshot | None = None  # up to where the journal is still to be counted
        self._identity: str | None = None  # of that journal
        self._is_wanted = asyncio.Event()
        self._cursor: str | None = None  # up to where the other process had counted when it handed over
        self._uncounted: str | None = None  # and what it had still to load, if anything
        self._counted: Place | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the counts of what was before are in the tally."""
        return self._loaded.is_set()

    async def until_loaded(self) -> None:
        await self._loaded.wait()

    def hand_over(self, memory: PageCache | None) -> dict[str, Any]:
        """The counts of this process, whose place in the journal is the edge of `memory`; for JSON."""
        return {
            "tally": self._tally.dump(),
            "cursor": self._journal.encode(memory.edge) if memory else None,
            "uncounted": str(self._wanted) if self._wanted else None,
        }

    def take_over(self, state: dict[str, Any]) -> None:
        """Counts what another process had counted when it handed over.

        For the journal that is exact. Of plain notifications, which have no place, one that was under way in that
        moment may count twice or not at all.
        """
        self._tally.restore(state["tally"])
        self._cursor = state["cursor"]
        self._uncounted = state["uncounted"]

    def begin(self, memory: PageCache) -> None:
        """What comes after the edge of `memory` is published; it holds at least what came since a hand-over.

        Once more where the journal, or its past, is another one than before: then all is counted anew.
        """
        cursor, self._cursor = self._cursor, None
        self._counted = self._place_of(cursor)
        if self._counted:
            self._tally.count(_beyond(self._counted, memory.newest(sys.maxsize)), now=0)
            wanted = Snapshot.parse(self._uncounted) if self._uncounted else NOTHING
        else:
            if self._has_begun or cursor:
                self._apply(functools.partial(self._tally.reset, time.time()))
            wanted = memory.edge.batch
        self._has_begun = True
        self._want(wanted)

    def uncounted(self, page: Page) -> Sequence[Change]:
        """Of what is published next, what is still to be counted: the other process may have been ahead."""
        if self._counted and self._counted.is_within(page.start):
            self._counted = None
        return _beyond(self._counted, page.changes) if self._counted else page.changes

    async def run(self) -> None:
        """Loads whenever begin() asks for it, until cancelled."""
        while True:
            await self._is_wanted.wait()
            self._is_wanted.clear()
            wanted = self._wanted
            loaded = await self._load(wanted) if wanted else None
            if loaded and self._wanted is wanted:
                self._apply(functools.partial(self._tally.add_before, loaded))
                self._want(NOTHING)

    def _want(self, wanted: Snapshot) -> None:
        self.turns += 1
        if wanted == NOTHING:
            self._wanted = self.counting_since = None
            self._loaded.set()
            return
        self._wanted = wanted
        self._identity = self._journal.identity
        self.counting_since = time.time() + (self._tally.database_ahead_seconds or 0.0)
        self._loaded.clear()
        self._is_wanted.set()

    def _place_of(self, cursor: str | None) -> Place | None:
        """None where there is none, or where it is of another journal since a moment ago."""
        try:
            return self._journal.decode(cursor) if cursor else None
        except (NotACursor, ForeignCursor):
            return None

    async def _load(self, wanted: Snapshot) -> Tally | None:
        """What the snapshot sees; None where it is no longer wanted."""
        delays, loaded, entries = backoff(), Tally(time.time()), PART_ENTRIES
        bounds: dict[str, object] = {}
        below = BEYOND_IDS
        while self._wanted is wanted:
            began = time.monotonic()
            try:
                bounds = bounds or await self._bounds()
                rows = await self._database.fetch(
                    QUERIES["activity"], {**bounds, "snapshot": str(wanted), "below": below, "limit": entries}
                )
            except (DatabaseUnavailable, psycopg2.Error) as error:
                logger.info("what happened before cannot be counted yet: %s; trying again", one_line(error))
                entries = max(LEAST_PART_ENTRIES, entries // 2)
                await asyncio.sleep(next(delays))
                continue
            identity, lowest, looked_at, *_ = rows[0]
            if self._identity not in (None, identity):
                return None  # the follower will see that, too, and begin anew
            counted = [row[3:] for row in rows if row[3] not in (None, LONG_AGO_SECONDS)]
            is_long_ago = not counted and rows[0][3] is not None
            for begin in range(0, len(counted), SLICE_ROWS):
                _add(loaded, counted[begin : begin + SLICE_ROWS])
                await asyncio.sleep(0)
            if looked_at < entries or is_long_ago:
                return loaded
            delays, below = backoff(), lowest
            await asyncio.sleep(REST * (time.monotonic() - began))
        return None

    async def _bounds(self) -> dict[str, object]:
        """Where the steps of the charts begin that are counted: none is counted in part."""
        [(now,)] = await self._database.fetch(QUERIES["clock"])
        begins = {step: (now // step - kept + 1) * step for step, kept in STEPS.items()}
        return {"seconds_from": begins[1], "tens_from": begins[10], "minutes_from": begins[60]}


def _add(loaded: Tally, rows: Sequence[DbRow]) -> None:
    for step_seconds, at, schema, table, letter, count, first_at in rows:
        loaded.load(step_seconds, at, qualified(schema, table), BY_LETTER[letter], count, first_at)


def _beyond(place: Place, changes: Sequence[Change]) -> Sequence[Change]:
    return [change for change in changes if not place.has_passed(change.xid, change.id)]
