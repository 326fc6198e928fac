"""Makes the messages for all dashboards with the same rights. Knows no socket.

Each message is made once for all that want the same rows. Nothing that these rights do not allow to see has an effect
here: not on whether a message is sent, nor on its number, nor on a count.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

from changefeed import __version__
from changefeed.change.change import Change
from changefeed.change.gap import Gap
from changefeed.change.times import iso
from changefeed.counts.delays import LEAST_SECONDS, PER_DOUBLING
from changefeed.counts.tally import STEPS
from changefeed.hub import RECENT_LIMIT
from changefeed.selection.rights import EVERY_TABLE, Grants
from changefeed.selection.subscription import Selection, Subscription
from changefeed.turns import Work
from handlers.dashboard.count_policies import AllCounts, CountPolicy, VisibleCounts
from handlers.dashboard.visible_counts import CountedTables
from handlers.delivery.audiences import Audience, Audiences
from handlers.delivery.dashboards import Dashboard
from handlers.delivery.dialects import V1, gap_fields, gap_within, message_frame
from handlers.delivery.row_sample import (
    HELLO_LIMIT_CHARACTERS,
    PACES,
    ROWS_IN_HELLO,
    Allowance,
    Matches,
    sample_texts,
)
from handlers.http.context import ServerContext

COUNTS_SECONDS = 0.25  # how often counts are sent, or with every third tick
COARSE_SECONDS = 1.0  # how often buckets of more than a second are sent, and a message if nothing happened
BEHIND_SECONDS = 3.0  # a page that has not drawn what was sent this long ago gets no rows


class DashboardView:
    """One view per set of rights. A CountPolicy chooses the counts; everything else is the same for all rights."""

    def __init__(self, context: ServerContext, grants: Grants) -> None:
        self.dashboards: set[Dashboard] = set()
        self._context = context
        self._is_full = grants == EVERY_TABLE
        self._selection = context.select(Subscription(within=grants))
        self._counted = CountedTables(grants, context.catalog)
        self._counts: CountPolicy = AllCounts(context) if self._is_full else VisibleCounts(context, self._counted)
        self._filters: Audiences[Dashboard] = Audiences(context.catalog.may_mean_some)
        self._allowances = {name: Allowance(pace) for name, pace in PACES.items()}
        # Since the last message: the number of changes, and the matching ones by filter; None is no filter.
        self._of = 0
        self._matches: dict[Audience[Dashboard] | None, Matches] = {}
        self._number = 0
        self._told_at: deque[float] = deque(maxlen=100)  # when the latest messages were sent, the newest last
        self._counts_told_at = self._coarse_told_at = 0.0
        self._generation = self._context.counted.generation

    def enter(self, dashboard: Dashboard, now: float) -> None:
        # First sends the others what came since the last tick, as the newcomer's `hello` includes it.
        self.tick(now)
        self.dashboards.add(dashboard)
        dashboard.outbox.send(self._hello(now))

    def discard(self, dashboard: Dashboard) -> None:
        self.filter(dashboard, self._selection.subscription)
        self.dashboards.discard(dashboard)

    def filter(self, dashboard: Dashboard, subscription: Subscription) -> None:
        """Limits the dashboard's rows to the subscription; its counts still include all changes."""
        if dashboard.filter:
            self._filters.leave(dashboard, dashboard.filter)
            dashboard.filter = None
        if subscription != self._selection.subscription:
            dashboard.filter = self._filters.join(dashboard, V1, self._select(subscription))

    def add(self, changes: Sequence[Change], now: float) -> None:
        """Adds published changes, without losses; match() looks for those that pass a filter."""
        seen = self._selection.pick(changes)
        self._of += len(seen)
        self._counts.add(seen, now)
        self._matches.setdefault(None, Matches()).add(seen)

    def match(self, changes: Sequence[Change]) -> Work:
        """Finds the rows of the dashboards that have a filter."""
        for share in self._filters.route(changes, None):
            if share:
                self._matches.setdefault(share.audience, Matches()).add(share.changes)
            yield

    def tick(self, now: float) -> None:
        """Sends what happened since the last tick; if nothing did, sends that once a second."""
        is_coarse = now - self._coarse_told_at >= COARSE_SECONDS
        has_counts = is_coarse or (self._counts.has_news and now - self._counts_told_at >= COUNTS_SECONDS)
        if self._of or has_counts:
            self._tell_activity(now, has_counts=has_counts, is_coarse=is_coarse)
        if self._generation != (generation := self._context.counted.generation):
            # The backfill has ended, or counting has started over: every dashboard starts again with a `hello`.
            self._generation = generation
            self.tell(self._hello(now))

    def tell_database(self) -> None:
        self.tell(message_frame("database", **self._context.readiness.database_state(is_full=self._is_full)))

    def tell_gap(self, gap: Gap) -> None:
        if within := gap_within(self._selection, gap):
            self.tell(message_frame("gap", **gap_fields(within)))

    def tell(self, frame: bytes) -> None:
        for dashboard in tuple(self.dashboards):
            dashboard.outbox.send(frame)

    def refresh_columns(self) -> None:
        """Called after the tables were read again: their columns may have changed."""
        self._selection.refresh_columns()
        self._filters.refresh_columns()

    def forget_cursors(self) -> None:
        """Drops the rows that wait: their cursors are no longer valid."""
        self._matches.clear()

    def _hello(self, now: float) -> bytes:
        recent = self._selection.pick(self._context.hub.newest(RECENT_LIMIT))[-ROWS_IN_HELLO:]
        return message_frame(
            "hello",
            server={"version": __version__, "started_at": iso(self._context.slot.started_at)},
            database=self._context.readiness.database_state(is_full=self._is_full),
            payload=self._context.settings.payload,
            recent=sample_texts(recent, HELLO_LIMIT_CHARACTERS),
            steps=STEPS,
            delays={"least_seconds": LEAST_SECONDS, "per_doubling": PER_DOUBLING},
            paces={name: pace.bounds for name, pace in PACES.items()},
            cursor=self._cursor(),
            **self._counted.state(self._context, now),
        )

    def _tell_activity(self, now: float, *, has_counts: bool, is_coarse: bool) -> None:
        self._number += 1
        self._told_at.append(now)
        told: dict[str, object] = {"number": self._number, "now": now, "cursor": self._cursor()}
        if has_counts:
            self._counts_told_at = now
            self._coarse_told_at = now if is_coarse else self._coarse_told_at
            told |= self._counts.take(is_coarse=is_coarse)
        samples: dict[str, list[list[str]]] = {name: [] for name in PACES}
        frames: dict[object, bytes] = {}
        for dashboard in tuple(self.dashboards):
            why, pace = self._reason_for_no_rows(dashboard, now), dashboard.pace
            key = why or (dashboard.filter, pace)
            if key not in frames:
                rows = _no_rows(why) if why else self._rows(dashboard.filter, pace, now)
                samples[pace].append(rows["changes"])
                frames[key] = message_frame("activity", **told, rows={"of": self._of, **rows})
            dashboard.outbox.send(frames[key])
        for name, allowance in self._allowances.items():
            allowance.spend(samples[name])
        self._of = 0
        self._matches.clear()

    def _rows(self, audience: Audience[Dashboard] | None, pace: str, now: float) -> dict[str, Any]:
        row_limit, limit_characters = self._allowances[pace].left(now)
        matches = self._matches.get(audience) or Matches()
        changes = sample_texts(matches.newest(row_limit), limit_characters)
        return {"changes": changes} if audience is None else {"matching": matches.count, "changes": changes}

    def _reason_for_no_rows(self, dashboard: Dashboard, now: float) -> str | None:
        """Why the dashboard gets no rows now: it is behind, or does not want them. None if it gets them."""
        if dashboard.seen is not None and dashboard.seen < self._number - 1:
            unseen = min(self._number - dashboard.seen, len(self._told_at))
            if now - self._told_at[-unseen] > BEHIND_SECONDS:
                return "behind"
        return None if dashboard.wants_rows else "unwanted"

    def _select(self, subscription: Subscription) -> Selection:
        if not self._is_full:
            return self._context.select(subscription)
        # Without the columns' types the value's own decides: the page itself compares texts.
        return Selection(subscription, lambda table: None)

    def _cursor(self) -> str | None:
        cache = self._context.follower.cache
        return self._selection.cursor(self._context.journal.encode(cache.edge)) if cache else None


def _no_rows(why: str) -> dict[str, Any]:
    return {"changes": [], "withheld": why}
