"""The schema in, every second; out, what it has become: the catalog read anew, and the gaps of tables nobody recorded.

It asks, and needs no event trigger, which takes a superuser. Each process looks for itself and tells its own clients.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import psycopg2

from changefeed.catalog import Catalog
from changefeed.cursor import Place, Snapshot
from changefeed.database import Database, DatabaseUnavailable, one_line
from changefeed.gap import READ_AGAIN, Gap
from changefeed.journal import Journal
from changefeed.queries import load
from changefeed.recording import READ_ELSEWHERE, Member, Missed, Recorded, Recording
from changefeed.subscription import Subscription
from changefeed.table_names import exact, parse_pattern, qualified

logger = logging.getLogger(__name__)

QUERIES = load("server.sql")
LOOK_SECONDS = 1.0
MOST_SECONDS = 10.0
# A look takes at most one part in so many of the time: with 8,000 partitions and 500 tables one takes some 0.1 s.
COST_PART = 20
SIZE_DEADLINE_SECONDS = 2.0
TOLD_LIMIT = 1_000  # gaps that are told by table to those who come back; older ones are told as one, to everybody


class Lookout:
    """Tells tell_gap(gap) of what was not recorded, and on_change() that the schema is another.

    `patterns` are those of --watch: their tables are to be recorded from their first row on.
    """

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        journal: Journal,
        patterns: Collection[str],
        *,
        edge: Callable[[], Place | None],
        tell_gap: Callable[[Gap], None],
        on_change: Callable[[], None],
    ) -> None:
        self.recording = Recording()
        self._database = database
        self._catalog = catalog
        self._journal = journal
        self._patterns = [one for pattern in patterns for one in parse_pattern(pattern).possible]
        self._edge = edge
        self._tell_gap = tell_gap
        self._on_change = on_change
        self._epoch: bytes | None = None
        self._snapshot: str | None = None
        self._fingerprint: str | None = None
        self._looked_at, self._looked_from = datetime.now(UTC), edge()
        self._told: deque[tuple[Place, Gap]] = deque()  # and what was seen then
        self._forgotten: Place | None = None  # what was seen at the newest gap that is not among these any more
        self._complaint = ""

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            began = time.monotonic()
            try:
                await self.look()
                self._complaint = ""
            except DatabaseUnavailable:
                pass  # which the listener says
            except psycopg2.Error as error:
                if self._complaint != (complaint := one_line(error)):
                    self._complaint = complaint
                    logger.warning("the schema cannot be looked at: %s; trying again until it can", complaint)
            cost = time.monotonic() - began
            await asyncio.sleep(min(max(LOOK_SECONDS, COST_PART * cost), MOST_SECONDS))

    async def look(self) -> None:
        """Raises DatabaseUnavailable or psycopg2.Error; then the next look finds what this one did not."""
        before = {"before": self._snapshot}
        [(snapshot, fingerprint)] = await self._database.fetch(QUERIES["schema fingerprint"], before)
        if fingerprint not in (None, self._fingerprint):
            is_first = self._fingerprint is None
            await self._look_closely(Place.after(Snapshot.parse(snapshot)))
            if not is_first:
                await self._catalog.read_anew()
                await self._tell_retyped()
                self._on_change()
            self._fingerprint = fingerprint
        self._snapshot = snapshot
        self._looked_at, self._looked_from = datetime.now(UTC), self._edge()

    def missed_since(self, place: Place, cursor: str, subscription: Subscription) -> Gap | None:
        """The gap of somebody who was not there when it was told, and comes back with this cursor of this place."""
        if self._forgotten and not self._forgotten.is_within(place):
            return Gap("changes of some tables were not recorded", from_cursor=cursor)
        gaps = {
            gap.table: gap
            for told_at, gap in self._told
            if gap.table and subscription.concerns(gap.table, gap.columns) and not told_at.is_within(place)
        }
        if not gaps:
            return None
        if len(gaps) == 1 and not subscription.is_bounded:
            return replace(next(iter(gaps.values())), from_cursor=cursor, to_cursor=None)
        why = f"some changes of {', '.join(sorted(map(str, gaps)))} were not recorded"
        return Gap(why, from_cursor=cursor, table=next(iter(gaps)) if len(gaps) == 1 else None)

    async def _look_closely(self, place: Place) -> None:
        rows = await self._database.fetch(QUERIES["recorded tables"])
        [(come_watched,)] = await self._database.fetch(QUERIES["partitions come watched"])
        tables = {
            qualified(schema, table): Recorded(oid, is_complete, dict(zip(oids, map(Member, *members), strict=True)))
            for schema, table, oid, is_complete, oids, *members in rows
        }
        if not self._journal.is_named(self._epoch):  # of another journal's past every client is told
            self.recording = Recording()
            self._told.clear()
            self._forgotten = None
        self._epoch = self._journal.epoch
        missed = self.recording.look(tables, partitions_come_watched=come_watched)
        for name in self.recording.begun:
            if self._is_promised(name) and await self._has_rows(tables[name]):
                missed[name] = Missed(f"what was written to {name} before it was watched is not recorded")
        self._tell(missed, place)

    async def _tell_retyped(self) -> None:
        """Until the catalog was read, filters compared these columns as what they were before."""
        if not (retyped := self._catalog.take_retyped()):
            return
        [(snapshot, _)] = await self._database.fetch(QUERIES["schema fingerprint"], {"before": None})
        place = Place.after(Snapshot.parse(snapshot))
        for name, columns in sorted(retyped.items()):
            named = ", ".join(sorted(columns))
            why = f"filters by {named} of {name}, whose type is another, did not find every change for a moment"
            self._tell_one(name, Missed(why), place, frozenset(columns))

    def _is_promised(self, name: str) -> bool:
        return any(pattern.schema is not None and pattern.covers(exact(name)) for pattern in self._patterns)

    async def _has_rows(self, table: Recorded) -> bool:
        """Where that cannot be known, it may have."""
        try:
            [(has_rows,)] = await self._database.fetch(
                QUERIES["has rows"], {"members": list(table.members)}, SIZE_DEADLINE_SECONDS
            )
        except (DatabaseUnavailable, psycopg2.Error):
            return True
        return bool(has_rows)

    def _tell(self, missed: Mapping[str, Missed], place: Place) -> None:
        for name, found in sorted(missed.items()):
            self._tell_one(name, found, place)

    def _tell_one(self, name: str, found: Missed, place: Place, columns: frozenset[str] = frozenset()) -> None:
        # Who stops watching a table means to; who leaves it half recorded does not.
        is_meant = found.is_over or name not in (self.recording.tables or {})
        logger.log(logging.INFO if is_meant else logging.WARNING, "changes are missing: %s", found.why)
        gap = Gap(
            found.why,
            self._cursor(self._looked_from),
            self._cursor(self._edge()),
            self._looked_at,
            datetime.now(UTC),
            READ_AGAIN if found.is_over else READ_ELSEWHERE,
            table=name,
            columns=columns,
        )
        self._told.append((place, gap))
        if len(self._told) > TOLD_LIMIT:
            self._forgotten, _ = self._told.popleft()
        self._tell_gap(gap)

    def _cursor(self, place: Place | None) -> str | None:
        return self._journal.encode(place) if place and self._journal.epoch else None
