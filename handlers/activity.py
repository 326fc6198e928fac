"""What the dashboard draws: counts in buckets over HTTP, and the same with a sample of rows over /ws/activity.

The counts are exact and absolute; only the rows are a sample, and each message says of how many.
"""

import contextlib
import json
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, cast

from tornado.ioloop import PeriodicCallback

from changefeed import __version__
from changefeed.change import Change, without_losses
from changefeed.database import DatabaseUnavailable
from changefeed.delays import LEAST_SECONDS, PER_DOUBLING
from changefeed.gap import Gap
from changefeed.payload import Payload
from changefeed.rights import EVERY_TABLE
from changefeed.subscription import EVERYTHING, Selection, Subscription
from changefeed.tally import STEPS
from changefeed.times import iso
from handlers.audiences import Audience, Audiences
from handlers.base import ApiHandler
from handlers.bounded_view import BoundedView
from handlers.counted_tables import CountedTables
from handlers.dialects import PROTOCOL, gap_fields, gap_within, message_frame
from handlers.errors import ApiError
from handlers.feed import Feed
from handlers.feed_query import fields_of_message, parse_query
from handlers.feed_start import JOURNAL_DEADLINE_SECONDS, check_subscription, find_place
from handlers.gate import Need
from handlers.sample import (
    HELLO_LIMIT_CHARACTERS,
    PACES,
    ROWS_IN_HELLO,
    USUAL_PACE,
    Allowance,
    Matches,
    sample_texts,
)
from handlers.socket import BaseSocket

TICK_SECONDS = 0.1  # so that there are at most ten messages a second, whatever the load
COUNTS_SECONDS = 0.25  # counts are told that often, or by every third tick
COARSE_SECONDS = 1.0  # buckets of more than a second; and a message that nothing happened
BEHIND_SECONDS = 3.0  # a page that has not seen what was told that long ago gets no rows
SAID_LIMIT_CHARACTERS = 1_000


class ActivityHandler(ApiHandler):
    """The last `window` seconds in buckets of `step`: {"now", "since", "step_seconds", "totals", "buckets", …}.

    Without `has_history` what was before `since` is still being counted from the journal.
    """

    needs = Need.TOKEN

    def get(self) -> None:
        tally = self.feed.hub.tally
        step = self.get_query_argument("step", "1")
        if step not in map(str, STEPS):
            raise ApiError(400, "bad_step", f"step is one of {', '.join(map(str, STEPS))}, in seconds")
        buckets = tally.by_step[int(step)]
        window = self.get_query_argument("window", str(buckets.window_seconds))
        if not (
            window.isascii() and window.isdigit() and len(window) < 9 and 1 <= int(window) <= buckets.window_seconds
        ):
            raise ApiError(400, "bad_window", f"window is a whole number of seconds from 1 to {buckets.window_seconds}")
        now = time.time()
        counted = CountedTables(self.rights.tables, self.feed.catalog)
        self.finish(
            {
                **counted.state(self.feed, now),
                "step_seconds": buckets.step_seconds,
                "buckets": counted.buckets(self.feed.whole(buckets.since(now - int(window)))),
                "deaf": self.feed.deaf_spans(now, int(window)),
            }
        )


class ActivitySocket(BaseSocket):
    """A dashboard. Its messages are made once for all of them, by a ticker that runs while there are any.

    It may say {"type": "seen", "message": n}, the number of the newest message it drew: one that falls behind is sent
    counts and no rows until it has caught up, since a browser's WebSocket has no other way to say that it is slow.
    {"type": "rows", "wanted": false}, while nobody looks; with true also a `pace`, one of those that `hello` names.
    And {"type": "filter"} with `table`, `action` and `filter` as on /ws: then the rows are a sample of what fits, and
    `matching` says of how many; the counts stay those of all.
    """

    kind = "dashboards"
    # Those who may not see everything, and have nothing to do with the others but the ticker.
    views: ClassVar[dict[tuple[Subscription, str], BoundedView["ActivitySocket"]]] = {}
    _view: BoundedView["ActivitySocket"] | None = None
    _gap: Gap | None = None
    clients: ClassVar[set["ActivitySocket"]] = set()
    _ticker: ClassVar[PeriodicCallback | None] = None
    _told_published: ClassVar[int] = 0
    _counted_published: ClassVar[int] = 0
    _counts_told_at: ClassVar[float] = 0.0
    _coarse_told_at: ClassVar[float] = 0.0
    _counts_greeted: ClassVar[tuple[bool, int]] = (False, 0)  # which counts those who are there began with
    _numbered: ClassVar[int] = 0
    _told_at: ClassVar[deque[float]] = deque(maxlen=100)  # of the newest messages, the newest last

    _allowances: ClassVar[dict[str, Allowance]] = {name: Allowance(pace) for name, pace in PACES.items()}
    # Those with a filter, by what that is.
    audiences: ClassVar[Audiences["ActivitySocket"]] = Audiences()
    _matches: ClassVar[dict[Audience["ActivitySocket"], Matches]] = {}

    _audience: Audience["ActivitySocket"] | None = None
    _wants_rows = True
    _pace = USUAL_PACE
    _seen: int | None = None  # None: it never says

    async def look(self, *args: str) -> None:
        if not self.rights.sees_everything:
            with contextlib.suppress(DatabaseUnavailable):  # then only what is safe without it is shown
                await self.feed.catalog.until_read()
        self._gap = await self._read_since(self.get_query_argument("since", None))

    def entered(self) -> None:
        feed, now = self.feed, time.time()
        # The others hear first what came since the last tick; it is in the newcomer's `hello` already.
        ActivitySocket.tick(feed)
        if self.rights.sees_everything:
            self.clients.add(self)
        else:
            self._show(Subscription(within=self.rights.tables))
        if ActivitySocket._ticker is None:
            ActivitySocket._ticker = PeriodicCallback(lambda: ActivitySocket.tick(feed), TICK_SECONDS * 1000)
            ActivitySocket._ticker.start()
        hello = self._view.hello(now) if self._view else self._hello(feed, now)
        self.outbox.send(hello)
        if self._gap:
            self.outbox.send(message_frame("gap", **gap_fields(self._gap)))

    @staticmethod
    def _hello(feed: Feed, now: float) -> bytes:
        return message_frame(
            "hello",
            server={"version": __version__, "started_at": iso(feed.share.started_at)},
            database=feed.database_state(),
            payload=feed.settings.payload,
            recent=sample_texts(feed.hub.newest(ROWS_IN_HELLO), HELLO_LIMIT_CHARACTERS),
            steps=STEPS,
            delays={"least_seconds": LEAST_SECONDS, "per_doubling": PER_DOUBLING},
            paces={name: pace.bounds for name, pace in PACES.items()},
            cursor=_cursor(feed),
            **CountedTables(EVERY_TABLE, feed.catalog).state(feed, now),
        )

    def on_close(self) -> None:
        super().on_close()
        self.clients.discard(self)
        self._choose(EVERYTHING)
        self._leave_view()
        if not self.clients and not self.views and ActivitySocket._ticker:
            ActivitySocket._ticker.stop()
            ActivitySocket._ticker = None

    async def on_message(self, message: str | bytes) -> None:
        """Tornado reads the next message when this one is dealt with."""
        if self.identity is None:
            return
        match _said(message):
            case {"type": "seen", "message": int(number)}:
                self._seen = number
            case {"type": "rows", "wanted": bool(wanted), **more}:
                self._wants_rows = wanted
                self._go_at(more.get("pace", self._pace))
            case {"type": "filter", **fields}:
                await self._filter({str(name): value for name, value in fields.items()})
            case _:
                advice = 'say {"type": "seen", "message": n}, {"type": "rows", "wanted": true} or {"type": "filter"}'
                self.outbox.send(message_frame("error", code="unknown_type", message=advice))

    async def _filter(self, fields: dict[str, object]) -> None:
        try:
            query = parse_query(fields_of_message(fields), self.rights)
            if self.feed.settings.payload is not Payload.FULL:
                await check_subscription(self.feed, query.subscription)  # a column may be withheld
                if self.ws_connection is None:
                    return  # the page is gone
        except ApiError as error:
            self.outbox.send(message_frame("error", code=error.code, message=error.message))
        else:
            (self._show if self._view else self._choose)(query.subscription)

    def _go_at(self, pace: object) -> None:
        if not isinstance(pace, str) or pace not in PACES:
            advice = f"pace is one of {', '.join(PACES)}: rows a second, at most"
            self.outbox.send(message_frame("error", code="bad_pace", message=advice))
        elif pace != self._pace:
            self._pace = pace
            if self._view:
                self._show(self._view.selection.subscription)

    @classmethod
    def tick(cls, feed: Feed) -> None:
        """Tells every dashboard what happened since the last tick, or once a second that nothing did."""
        now = time.time()
        for view in tuple(cls.views.values()):
            view.tick(now)
        cls._tell(feed, now)
        counts = feed.has_history, feed.history.turns
        if cls._counts_greeted != counts:
            cls._counts_greeted = counts
            cls._greet_again(feed, now)

    @classmethod
    def _greet_again(cls, feed: Feed, now: float) -> None:
        """What was before has been counted, or all is counted anew: whoever is there begins as a newcomer does."""
        cls._tell_all(cls._hello(feed, now))
        for view in cls.views.values():
            view.tell(view.hello(now))

    @classmethod
    def _tell(cls, feed: Feed, now: float) -> None:
        of = feed.hub.published - cls._told_published
        is_coarse = now - cls._coarse_told_at >= COARSE_SECONDS
        has_counts = is_coarse or (
            cls._counted_published != feed.hub.published and now - cls._counts_told_at >= COUNTS_SECONDS
        )
        if not of and not has_counts:
            return
        cls._told_published = feed.hub.published
        cls._numbered += 1
        cls._told_at.append(now)
        told: dict[str, object] = {"number": cls._numbered, "now": now, "cursor": _cursor(feed)}
        if has_counts:
            told |= cls._counts(feed, now, is_coarse)
        samples: dict[str, list[list[str]]] = {name: [] for name in PACES}
        frames: dict[object, bytes] = {}
        for client in tuple(cls.clients):
            why, pace = client._withheld(now), client._pace
            key = why or (client._audience, pace)
            if key not in frames:
                rows = cls._rows(feed, of, why or client._audience, *cls._allowances[pace].left(now))
                samples[pace].append(rows["changes"])
                frames[key] = message_frame("activity", **told, rows={"of": of, **rows})
            client.outbox.send(frames[key])
        cls._matches.clear()
        for name, allowance in cls._allowances.items():
            allowance.spend(samples[name])

    @classmethod
    def broadcast(cls, changes: Sequence[Change], cursor: str | None) -> None:
        """Counts what each filter lets through, and keeps the newest of it until the next message."""
        told, changes = changes, without_losses(changes)
        for loss in told if changes is not told else ():
            if loss.is_loss:
                cls.tell_gap(Gap.of_loss(loss))
        for view in cls.views.values():
            view.add(changes, time.time())
        for audience, picked in cls.audiences.route(changes):
            cls._matches.setdefault(audience, Matches()).add(picked)

    @classmethod
    def _rows(cls, feed: Feed, of: int, key: object, row_limit: int, character_limit: int) -> dict[str, Any]:
        """The rows for all who share the key: why they get none, or their audience, or None for those who get any."""
        if isinstance(key, str):
            return {"changes": [], "withheld": key}
        if key is None:
            newest: Sequence[Change] = feed.hub.newest(min(of, row_limit))
            return {"changes": sample_texts(newest, character_limit)}
        matches = cls._matches.get(cast(Audience["ActivitySocket"], key)) or Matches()
        return {"matching": matches.count, "changes": sample_texts(matches.newest(row_limit), character_limit)}

    @classmethod
    def tell_database(cls, feed: Feed) -> None:
        cls._tell_all(message_frame("database", **feed.database_state()))
        for view in cls.views.values():
            view.tell(message_frame("database", **feed.database_state(is_full=False)))

    @classmethod
    def tell_gap(cls, gap: Gap) -> None:
        cls._tell_all(message_frame("gap", **gap_fields(gap)))
        for view in cls.views.values():
            if within := gap_within(view.selection, gap):
                view.tell(message_frame("gap", **gap_fields(within)))

    @classmethod
    def _counts(cls, feed: Feed, now: float, is_coarse: bool) -> dict[str, object]:
        """What changed of the counts since they were told."""
        tally = feed.hub.tally
        cls._counted_published, cls._counts_told_at = feed.hub.published, now
        if is_coarse:
            cls._coarse_told_at = now
        touched = {step: feed.whole(tally.by_step[step].take_touched()) for step in STEPS if is_coarse or step == 1}
        return {
            "totals": tally.take_touched_totals(),
            "other": tally.foreign,
            "buckets": {step: buckets for step, buckets in touched.items() if buckets},
        }

    @classmethod
    def _tell_all(cls, frame: bytes) -> None:
        for client in tuple(cls.clients):
            client.outbox.send(frame)

    @classmethod
    def all(cls) -> "list[ActivitySocket]":
        return [*cls.clients, *(client for view in cls.views.values() for client in view.clients)]

    @classmethod
    def look_again(cls) -> None:
        """The tables were read anew: their columns may be others."""
        for view in cls.views.values():
            view.look_again()

    def _show(self, subscription: Subscription) -> None:
        """To one who may not see everything."""
        self._leave_view()
        view = self.views.get((subscription, self._pace)) or BoundedView(self.feed, subscription, self._pace)
        self._view = self.views[view.key] = view
        self._view.clients.add(self)

    def _leave_view(self) -> None:
        if self._view:
            self._view.clients.discard(self)
            if not self._view.clients:
                self.views.pop(self._view.key, None)
            self._view = None

    def _choose(self, subscription: Subscription) -> None:
        if self._audience:
            self.audiences.leave(self, self._audience)
            self._audience = None
        if subscription != EVERYTHING:
            # Without the columns' types a value's own decides: what the page itself compares are texts.
            self._audience = self.audiences.join(self, PROTOCOL, Selection(subscription, lambda table: None))

    def _withheld(self, now: float) -> str | None:
        """Why this one gets no rows now: it is behind, or nobody looks; None where it gets them."""
        if self._seen is not None and self._seen < self._numbered - 1:
            unseen = min(self._numbered - self._seen, len(self._told_at))
            if now - self._told_at[-unseen] > BEHIND_SECONDS:
                return "behind"
        return None if self._wants_rows else "unwanted"

    async def _read_since(self, since: str | None) -> Gap | None:
        """Whether a page that comes back, and had seen everything up to a cursor, missed what nobody has any more.

        Its counts are right in any case: those are absolute, and loaded from the journal. A page can't read the answer
        to a refused handshake, so also what is no cursor of ours is told as a gap.
        """
        if not since:
            return None
        await self.feed.follower.until_known(JOURNAL_DEADLINE_SECONDS)
        try:
            _, gap = await find_place(self.feed, since, Subscription(within=self.rights.tables))
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


def _cursor(feed: Feed) -> str | None:
    memory = feed.follower.memory
    return feed.journal.encode(memory.edge) if memory else None
