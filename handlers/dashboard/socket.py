"""Serves what the dashboard draws: counts in buckets over HTTP, and counts with a sample of rows over /ws/activity.

Counts are exact and absolute. Only the rows are sampled, and each message has the number of all.
"""

import contextlib
import json
import time

from changefeed.change.exposure import Payload
from changefeed.change.gap import Gap
from changefeed.counts.tally import STEPS
from changefeed.postgres.pool import DatabaseUnavailable
from changefeed.selection.subscription import Subscription, UncheckedRight
from handlers.access.authentication import Need
from handlers.access.errors import ApiError, whole_number
from handlers.dashboard.view import DashboardView
from handlers.dashboard.visible_counts import CountedTables
from handlers.delivery.dashboards import Dashboard, View
from handlers.delivery.dialects import gap_fields, message_frame
from handlers.delivery.row_sample import PACES
from handlers.feed.query import fields_of_message, parse_query
from handlers.feed.start import JOURNAL_DEADLINE_SECONDS, check_subscription, find_place, note_unchecked
from handlers.http.base import ApiHandler
from handlers.http.socket import BaseSocket

SAID_LIMIT_CHARACTERS = 1_000


class ActivityHandler(ApiHandler):
    """Answers with the last `window` seconds in buckets of `step`: {"now", "since", "step_seconds", "totals", …}.

    If `has_history` is false, changes from before `since` are still being counted from the journal.
    """

    needs = Need.TOKEN
    query_names = ("window", "step")

    async def get(self) -> None:
        tally = self.context.hub.tally
        step = self.get_query_argument("step", "1")
        if step not in map(str, STEPS):
            raise ApiError(400, "bad_step", f"step must be one of {', '.join(map(str, STEPS))}, in seconds")
        buckets = tally.by_step[int(step)]
        most = buckets.window_seconds
        window = whole_number("window", self.get_query_argument("window", str(most)), 1, most, "seconds")
        now = time.time()
        counted = CountedTables(self.rights.tables, self.context.catalog)
        await self.finish_large(
            {
                **counted.state(self.context, now),
                "step_seconds": buckets.step_seconds,
                "buckets": counted.buckets(self.context.counted.whole(buckets.since(now - window))),
                "deaf": self.context.counted.outage_spans(now, window),
            }
        )


class ActivitySocket(BaseSocket):
    """A dashboard's socket. The page may send three types of messages:

    {"type": "seen", "message": n} acknowledges the newest message that it has drawn. A page that falls behind is sent
    counts without rows until it has caught up, since a browser's WebSocket has no backpressure of its own.
    {"type": "rows", "wanted": false} stops the rows, as while the page is hidden; with true it may name a `pace`, one
    of those in `hello`.
    {"type": "filter"} has `table`, `action` and `filter` as on /ws. The rows are then a sample of the matching changes,
    and `matching` is their number. The counts still include all changes.
    """

    kind = "dashboards"
    _gap: Gap | None = None
    _unchecked: UncheckedRight | None = None
    _dashboard: Dashboard | None = None  # while the socket is open and authenticated
    _view: View | None = None

    async def check_request(self, *args: str) -> None:
        if not self.rights.sees_everything:
            with contextlib.suppress(DatabaseUnavailable):  # then it shows only what is safe to show without it
                await self.context.catalog.until_read()
                self._unchecked = note_unchecked(self.context, self.rights.tables)
        self._gap = await self._read_since(self.get_query_argument("since", None))

    def begin(self) -> None:
        context, grants = self.context, self.rights.tables
        self._dashboard = Dashboard(self.outbox, self.leave)
        self._view = context.dashboards.enter(self._dashboard, grants, lambda: DashboardView(context, grants))
        if self._gap:
            self.outbox.send(message_frame("gap", **gap_fields(self._gap)))
        if self._unchecked:
            self.send_message("error", code=self._unchecked.code, message=str(self._unchecked))

    def on_close(self) -> None:
        super().on_close()
        if self._dashboard and self._view:
            self.context.dashboards.leave(self._dashboard, self._view)
            self._dashboard = self._view = None

    async def on_message(self, message: str | bytes) -> None:
        """Tornado reads the next message once this returns."""
        if self._dashboard is None:
            return
        match _said(message):
            case {"type": "seen", "message": int(number)}:
                self._dashboard.seen = number
            case {"type": "rows", "wanted": bool(wanted), **more}:
                self._dashboard.wants_rows = wanted
                self._go_at(self._dashboard, more.get("pace", self._dashboard.pace))
            case {"type": "filter", **fields}:
                await self.while_open(self._filter({str(name): value for name, value in fields.items()}))
            case _:
                advice = 'send {"type": "seen", "message": n}, {"type": "rows", "wanted": true} or {"type": "filter"}'
                self.send_message("error", code="unknown_type", message=advice)

    def _go_at(self, dashboard: Dashboard, pace: object) -> None:
        if isinstance(pace, str) and pace in PACES:
            dashboard.pace = pace
        else:
            advice = f"pace must be one of {', '.join(PACES)}: the most rows per second"
            self.send_message("error", code="bad_pace", message=advice)

    async def _filter(self, fields: dict[str, object]) -> None:
        try:
            query = parse_query(fields_of_message(fields), self.rights)
            if self.context.settings.payload is not Payload.FULL:
                await check_subscription(self.context, query.subscription)  # --payload may withhold a column
        except ApiError as error:
            self.tell_error(error)
        else:
            if self._dashboard and self._view:  # else the page has left
                self._view.filter(self._dashboard, query.subscription)

    async def _read_since(self, since: str | None) -> Gap | None:
        """The gap for a page that reconnects with a cursor, if changes after it can no longer be read.

        The page's counts are right in any case: they are absolute. An invalid cursor is also answered with a gap, since
        a page cannot read why its handshake was refused.
        """
        if not since:
            return None
        await self.context.follower.until_known(JOURNAL_DEADLINE_SECONDS)
        try:
            _, gap = await find_place(self.context, since, Subscription(within=self.rights.tables))
        except ApiError as error:
            return Gap(error.message, from_cursor=since)
        return gap


def _said(message: str | bytes) -> object:
    if len(message) > SAID_LIMIT_CHARACTERS:
        return None
    try:
        return json.loads(message)
    except (ValueError, RecursionError):
        return None
