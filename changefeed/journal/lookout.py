"""Looks at the schema every second: reloads the catalog, and reports tables whose changes were not recorded.

It polls, since an event trigger would need a superuser. Each process looks for itself. The first to find unrecorded
changes writes them into the journal, and all get them from there (sql/unrecorded.sql). Filters that used outdated types
are reported by each process to its own clients.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime

import psycopg2

from changefeed.change.gap import Gap
from changefeed.change.table_names import TableName, parse_pattern, qualified
from changefeed.journal.cursor import Place, Snapshot
from changefeed.journal.journal import Journal
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database, DatabaseUnavailable, DbRow, one_line
from changefeed.postgres.trust import distrust
from changefeed.selection.catalog import Catalog
from changefeed.selection.subscription import Subscription

logger = logging.getLogger("changefeed.lookout")

QUERIES = load_queries("lookout.sql")
LOOK_SECONDS = 1.0
MOST_SECONDS = 10.0
# A look may take at most this fraction of the time: with 8,000 partitions and 500 tables it takes some 0.1 s.
COST_PART = 20
# The cost is what the quickest of the last looks took: the others may have waited for PostgreSQL, or for the loop.
LOOKS_MEASURED = 5
POSTPONED_SECONDS = 30.0  # after which the log names a table that is locked at every look
REMEMBERED_SECONDS = 30.0  # how long a table counts as one that may be watched again, as after a reinstall
RETYPED_KEPT = 1_000  # kept for clients that reconnect; older ones are combined, and sent to all clients


class Pace:
    """How long to pause after each look: LOOK_SECONDS, or longer where looks cost much, up to MOST_SECONDS."""

    def __init__(self) -> None:
        self._took = deque([0.0] * LOOKS_MEASURED, maxlen=LOOKS_MEASURED)  # seconds

    def pause_after(self, took_seconds: float) -> float:
        self._took.append(took_seconds)
        return min(max(LOOK_SECONDS, COST_PART * min(self._took)), MOST_SECONDS)


class Lookout:
    """Calls tell_gap(gap) for changes that were filtered wrongly, and on_change() when the schema has changed.

    create_missing_triggers() is called as soon as possible for new partitions, while these are known to be empty.

    `patterns` are those of --watch: their tables should be recorded from their first row on.
    """

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        journal: Journal,
        patterns: Collection[str],
        *,
        create_missing_triggers: Callable[[], Awaitable[None]],
        edge: Callable[[], Place | None],
        tell_gap: Callable[[Gap], None],
        on_change: Callable[[], None],
    ) -> None:
        self.incomplete = 0  # tables whose changes are not completely recorded
        self._database = database
        self._catalog = catalog
        self._journal = journal
        named = [one for pattern in patterns for one in parse_pattern(pattern).possible if one.schema is not None]
        self._promised = {"schemas": [one.schema for one in named], "tables": [one.table for one in named]}
        self._create_missing_triggers = create_missing_triggers
        self._edge = edge
        self._tell_gap = tell_gap
        self._on_change = on_change
        self._postponed: dict[str, float] = {}  # tables to be looked at again, each with the time of the first try
        self._snapshot: str | None = None
        self._fingerprint: str | None = None
        self._looked_at: datetime | None = None
        self._looked_from: Place | None = None
        self._may_look = False
        self._known: set[tuple[str, str]] = set()  # tables that it saw watched, by this journal or an earlier one
        self._watched_until: dict[TableName, float] = {}  # monotonic; infinity while it is watched
        self._at_start: set[tuple[str, str, int]] = set()  # those of the start, with the oid of their journal
        self._retyped: deque[tuple[Place, Gap]] = deque()  # each with the place up to which changes had been published
        self._retyped_number = 0  # of the newest that the schema has
        self._forgotten: Place | None = None  # the place of the newest one that is no longer kept
        self._epoch: bytes | None = None  # of the journal that these places belong to
        self._complaint = ""
        self._has_complained = False  # about a missing right

    async def run(self) -> None:
        """Looks until cancelled."""
        pace = Pace()
        while True:
            began, pause_seconds = time.monotonic(), LOOK_SECONDS
            try:
                await self.look()
                self._complaint = ""
                pause_seconds = pace.pause_after(time.monotonic() - began)
            except DatabaseUnavailable:
                pass  # the listener reports it
            except psycopg2.Error as error:
                if self._complaint != (complaint := one_line(error)):
                    self._complaint = complaint
                    logger.warning("could not look at the schema: %s; trying again until it can", complaint)
            await asyncio.sleep(pause_seconds)

    async def note_watched(self) -> None:
        """Notes the watched tables before clients get their changes, as the journal may be removed before a look."""
        with contextlib.suppress(DatabaseUnavailable, psycopg2.Error):
            self._at_start = set(await self._database.fetch(QUERIES["watched names"]))

    async def look(self) -> None:
        """Looks once. Raises DatabaseUnavailable or psycopg2.Error; then the next look finds what this one missed."""
        # A transaction that unlocks a postponed table may have changed nothing.
        before, began = {"before": None if self._postponed else self._snapshot}, datetime.now(UTC)
        [(snapshot, fingerprint)] = await self._database.fetch(QUERIES["schema fingerprint"], before)
        is_another = fingerprint not in (None, self._fingerprint)
        if is_another or self._postponed:
            await self._look_at_recording()
        if is_another:
            await self._learn_retyped()
            if self._fingerprint is not None:
                await self._catalog.reread()
                await self._tell_retyped()
                self._on_change()
            self._fingerprint = fingerprint
        self._snapshot = snapshot
        self._looked_at, self._looked_from = began, self._edge()

    def missed_since(self, place: Place, cursor: str, subscription: Subscription) -> Gap | None:
        """The gap for a client that was disconnected when it was reported, and resumes from this cursor and place."""
        if not self._journal.is_named(self._epoch):
            return None
        if self._forgotten and not self._forgotten.is_within(place):
            return Gap("filters did not find every change for a moment", from_cursor=cursor)
        gaps = {
            gap.table: gap
            for told_at, gap in self._retyped
            if gap.table and subscription.concerns(gap.table, gap.columns) and not told_at.is_within(place)
        }
        if not gaps:
            return None
        if len(gaps) == 1 and not subscription.is_restricted:
            return replace(next(iter(gaps.values())), from_cursor=cursor, to_cursor=None)
        why = f"filters did not find every change of {', '.join(sorted(map(str, gaps)))} for a moment"
        return Gap(why, from_cursor=cursor, table=next(iter(gaps)) if len(gaps) == 1 else None)

    async def _look_at_recording(self) -> None:
        """Its findings go into the journal, and from there, with a place, to all clients."""
        [(may_look, journal_oid)] = await self._database.fetch(QUERIES["may look"])
        if may_look is False and not self._has_complained:
            self._has_complained = True
            logger.warning(
                "tables that are not recorded cannot be reported: the server's role may not call changefeed.look; run "
                "psql -v role=… -f sql/grants.sql as the schema's owner"
            )
        if may_look is None:
            await self._create_missing_triggers()  # which notes that the schema is missing
        self._may_look = bool(may_look) and not await distrust(self._database)
        if not self._may_look:  # the follower reports it
            self._note_watched(await self._database.fetch(QUERIES["watched names"]))
            self.incomplete = 0
            self._postponed = {}
            return
        await self._create_missing_triggers()
        watched = await self._database.fetch(QUERIES["watched names"])
        self._note_watched(watched)
        # Those of this journal may be new: a look has not noted them yet.
        self._known.update((schema, table) for schema, table, oid in self._at_start if oid != journal_oid)
        known = {"known_schemas": [one for one, _ in self._known], "known_tables": [one for _, one in self._known]}
        rows = await self._database.fetch(QUERIES["look"], {"since": self._looked_at, **self._promised, **known})
        # A postponed table is not in changefeed.recorded yet, so it would be reported as watched again.
        postponed = {(schema, table) for schema, table, *_, is_over in rows if is_over is None}
        self._known.update({(schema, table) for schema, table, _ in watched} - postponed)
        self._at_start.clear()
        self.incomplete = sum(not is_complete for _, _, is_complete, *_ in rows)
        self._note_postponed({qualified(schema, table) for schema, table in postponed})
        for _, _, _, is_watched, why, is_over in rows:
            if why:
                # Unwatching a table is meant; leaving it partly recorded is not.
                is_meant = is_over or not is_watched
                logger.log(logging.INFO if is_meant else logging.WARNING, "changes are missing: %s", why)

    def was_watched(self, is_meant: Callable[[TableName], bool]) -> bool:
        """Whether one of these tables is watched, or was until a moment ago, so that it may soon be again."""
        now = time.monotonic()
        return any(now < until and is_meant(table) for table, until in self._watched_until.items())

    def _note_watched(self, watched: Iterable[DbRow]) -> None:
        now = time.monotonic()
        self._watched_until = {
            **{table: min(now + REMEMBERED_SECONDS, to) for table, to in self._watched_until.items() if to > now},
            **{TableName(schema, table): math.inf for schema, table, _ in watched},
        }

    def _note_postponed(self, names: set[str]) -> None:
        """A look never waits for a lock, so that all other tables are reported."""
        now = time.monotonic()
        self._postponed = {name: self._postponed.get(name, now) for name in names}
        for name, since in self._postponed.items():
            if since <= now - POSTPONED_SECONDS:
                self._postponed[name] = math.inf  # so that the log names it once
                logger.warning(
                    "could not look at %s, since it or one of its partitions is locked all the time: its gaps will be "
                    "reported when the transaction that holds the lock ends; pg_locks shows whose it is",
                    name,
                )

    async def _tell_retyped(self) -> None:
        """Reports columns whose type changed: until the catalog was read, filters compared them by the old type."""
        if not (retyped := self._catalog.take_retyped()):
            return
        [(snapshot, _)] = await self._database.fetch(QUERIES["schema fingerprint"], {"before": None})
        for name, columns in sorted(retyped.items()):
            begin, end = self._cursor(self._looked_from), self._cursor(self._edge())
            gap = _gap_of_retyped(name, columns, self._looked_at, datetime.now(UTC))
            logger.info("changes are missing: %s", gap.why)
            if self._may_look:
                noted = {"table": name, "columns": sorted(columns), "since": self._looked_at}
                await self._database.fetch(QUERIES["note retyped"], noted)
            else:
                self._forget_other_journal()
                self._keep_retyped(snapshot, gap)
            self._tell_gap(replace(gap, from_cursor=begin, to_cursor=end))
        await self._learn_retyped()

    async def _learn_retyped(self) -> None:
        """Reads the gaps that any process has sent, also before a restart."""
        self._forget_other_journal()
        if not self._may_look:
            return
        known = {"number": self._retyped_number}
        for number, seen, name, columns, since, until in await self._database.fetch(QUERIES["retyped after"], known):
            began, ended = (datetime.fromtimestamp(at, UTC) if at else None for at in (since, until))
            self._keep_retyped(seen, _gap_of_retyped(name, columns, began, ended))
            self._retyped_number = number

    def _forget_other_journal(self) -> None:
        if not self._journal.is_named(self._epoch):  # a replaced journal is reported to every client anyway
            self._retyped.clear()
            self._forgotten, self._retyped_number = None, 0
        self._epoch = self._journal.epoch

    def _keep_retyped(self, seen: str, gap: Gap) -> None:
        self._retyped.append((Place.after(Snapshot.parse(seen)), gap))
        if len(self._retyped) > RETYPED_KEPT:
            self._forgotten, _ = self._retyped.popleft()

    def _cursor(self, place: Place | None) -> str | None:
        return self._journal.encode(place) if place and self._journal.epoch else None


def _gap_of_retyped(name: str, columns: Collection[str], since: datetime | None, until: datetime | None) -> Gap:
    named = ", ".join(sorted(columns))
    why = f"filters by {named} of {name}, whose type has changed, did not find every change for a moment"
    return Gap(why, since=since, until=until, table=name, columns=frozenset(columns))
