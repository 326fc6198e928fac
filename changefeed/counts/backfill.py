"""Counts earlier changes into the tally, so that the charts are full at page load and after a restart.

The counts come from another process of this server, or else from the journal.
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
from changefeed.journal.cursor import EMPTY_SNAPSHOT, NotACursor, Place, Snapshot
from changefeed.journal.journal import ForeignCursor, Journal
from changefeed.journal.page_cache import Page, PageCache
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database, DatabaseUnavailable, DbRow, one_line

logger = logging.getLogger("changefeed.history")

QUERIES = load_queries("server.sql")
PART_ENTRIES = 50_000  # counted by PostgreSQL at once, in some 0.1 s
LEAST_PART_ENTRIES = 100
REST = 0.25  # pause before the next part, as a fraction of the last one's time: clients need the same database
BEYOND_IDS = (1 << 63) - 1
LONG_AGO_SECONDS = 86_400  # the step of changes that are too old for the charts, and are not counted
SLICE_ROWS = 500  # added in one turn of the loop


class CountsBackfill:
    """Fills `tally` with the changes before the first published one; published ones are counted as they come.

    begin() is called when that place is known. run() then reads the earlier changes from the journal, the newest
    first, in the background, and adds them all at once. Until then is_loaded is false. apply(what) makes changes to the
    tally that are not news. `generation` changes whenever the counts were changed that way.
    """

    def __init__(
        self,
        database: Database,
        journal: Journal,
        tally: Tally,
        apply: Callable[[Callable[[], None]], None] = lambda what: what(),
    ) -> None:
        self.generation = 0
        self.counting_since: float | None = (
            None  # while it is not loaded: the time from which all changes are counted, in epoch seconds
        )
        self._loaded = asyncio.Event()
        self._loaded.set()
        self._database = database
        self._journal = journal
        self._tally = tally
        self._apply = apply
        self._has_begun = False
        self._wanted: Snapshot | None = None  # up to which the journal has yet to be counted
        self._identity: str | None = None  # the identity of that journal
        self._is_wanted = asyncio.Event()
        self._cursor: str | None = None  # up to which the other process had counted when it handed over
        self._uncounted: str | None = None  # and what it had yet to load, if anything
        self._counted: Place | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the earlier changes are in the tally."""
        return self._loaded.is_set()

    async def until_loaded(self) -> None:
        await self._loaded.wait()

    def hand_over(self, cache: PageCache | None) -> dict[str, Any]:
        """The counts of this process, as of the edge of `cache`, for JSON."""
        return {
            "tally": self._tally.dump(),
            "cursor": self._journal.encode(cache.edge) if cache else None,
            "uncounted": str(self._wanted) if self._wanted else None,
        }

    def take_over(self, state: dict[str, Any]) -> None:
        """Takes the counts of another process.

        For the journal they are exact. A plain notification, which has no place, may count twice or not at all if it
        arrived at that moment.
        """
        self._tally.restore(state["tally"])
        self._cursor = state["cursor"]
        self._uncounted = state["uncounted"]

    def begin(self, cache: PageCache) -> None:
        """Called when publishing begins after the edge of `cache`, which holds at least what came since a hand-over.

        Called again if the journal or its past was replaced: then counting starts over.
        """
        cursor, self._cursor = self._cursor, None
        self._counted = self._place_of(cursor)
        if self._counted:
            self._tally.count(_beyond(self._counted, cache.newest(sys.maxsize)), now=0)
            wanted = Snapshot.parse(self._uncounted) if self._uncounted else EMPTY_SNAPSHOT
        else:
            if self._has_begun or cursor:
                self._apply(functools.partial(self._tally.reset, time.time()))
            wanted = cache.edge.batch
        self._has_begun = True
        self._want(wanted)

    def uncounted(self, page: Page) -> Sequence[Change]:
        """The changes of the page that are not counted yet: the other process may have been ahead."""
        if self._counted and self._counted.is_within(page.start):
            self._counted = None
        return _beyond(self._counted, page.changes) if self._counted else page.changes

    async def run(self) -> None:
        """Loads after each begin(). Runs until cancelled."""
        while True:
            await self._is_wanted.wait()
            self._is_wanted.clear()
            wanted = self._wanted
            loaded = await self._load(wanted) if wanted else None
            if loaded and self._wanted is wanted:
                self._apply(functools.partial(self._tally.add_before, loaded))
                self._want(EMPTY_SNAPSHOT)

    def _want(self, wanted: Snapshot) -> None:
        self.generation += 1
        if wanted == EMPTY_SNAPSHOT:
            self._wanted = self.counting_since = None
            self._loaded.set()
            return
        self._wanted = wanted
        self._identity = self._journal.identity
        self.counting_since = time.time() + (self._tally.database_ahead_seconds or 0.0)
        self._loaded.clear()
        self._is_wanted.set()

    def _place_of(self, cursor: str | None) -> Place | None:
        """The cursor's place; None without one, or if the journal was replaced a moment ago."""
        try:
            return self._journal.decode(cursor) if cursor else None
        except (NotACursor, ForeignCursor):
            return None

    async def _load(self, wanted: Snapshot) -> Tally | None:
        """Counts what the snapshot sees; None if it is no longer wanted."""
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
                logger.info("could not count earlier changes yet: %s; trying again", one_line(error))
                entries = max(LEAST_PART_ENTRIES, entries // 2)
                await asyncio.sleep(next(delays))
                continue
            identity, lowest, looked_at, *_ = rows[0]
            if self._identity not in (None, identity):
                return None  # the follower will notice that too, and call begin() again
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
        """The beginnings of the charts' oldest steps, so that no step is counted in part."""
        [(now,)] = await self._database.fetch(QUERIES["clock"])
        begins = {step: (now // step - kept + 1) * step for step, kept in STEPS.items()}
        return {"seconds_from": begins[1], "tens_from": begins[10], "minutes_from": begins[60]}


def _add(loaded: Tally, rows: Sequence[DbRow]) -> None:
    for step_seconds, at, schema, table, letter, count, first_at in rows:
        loaded.load(step_seconds, at, qualified(schema, table), BY_LETTER[letter], count, first_at)


def _beyond(place: Place, changes: Sequence[Change]) -> Sequence[Change]:
    return [change for change in changes if not place.has_passed(change.xid, change.id)]
