"""What the dashboard draws: counts in buckets over HTTP, and the same with a sample of rows over /ws/activity.

The counts are exact and absolute; only the rows are a sample, and each message says of how many.
"""

import time
from collections.abc import Sequence
from typing import Any, ClassVar

from tornado.ioloop import PeriodicCallback

from changefeed import __version__
from changefeed.change import Change
from changefeed.cursor import NotACursor
from changefeed.gap import Gap
from changefeed.journal import ForeignCursor
from handlers.base import ApiHandler
from handlers.dialects import gap_fields, message_frame
from handlers.errors import ApiError
from handlers.feed import Feed, iso
from handlers.feed_client import JOURNAL_DEADLINE_SECONDS
from handlers.socket import BaseSocket

TICK_SECONDS = 0.1  # so that there are at most ten messages a second, whatever the load
HEARTBEAT_SECONDS = 1.0
ROWS_PER_MESSAGE = 20
ROWS_IN_HELLO = 50
ROW_LIMIT_BYTES = 16 << 10


class ActivityHandler(ApiHandler):
    """The last `window` seconds in buckets of `step`: {"now", "since", "step_seconds", "totals", "buckets", …}."""

    def get(self) -> None:
        tally = self.feed.hub.tally
        step = self.get_query_argument("step", "1")
        if step not in ("1", "60"):
            raise ApiError(400, "bad_step", "step is 1 or 60, in seconds")
        buckets = tally.seconds if step == "1" else tally.minutes
        window = self.get_query_argument("window", str(buckets.window_seconds))
        if not (
            window.isascii() and window.isdigit() and len(window) < 9 and 1 <= int(window) <= buckets.window_seconds
        ):
            raise ApiError(400, "bad_window", f"window is a whole number of seconds from 1 to {buckets.window_seconds}")
        now = time.time()
        self.finish(
            {
                **_tally_state(self.feed, now),
                "step_seconds": buckets.step_seconds,
                "buckets": buckets.since(now - int(window)),
                "deaf": self.feed.deaf_spans(now, int(window)),
            }
        )


class ActivitySocket(BaseSocket):
    """A dashboard. Its messages are made once for all of them, by a ticker that runs while there are any."""

    kind = "dashboards"
    clients: ClassVar[set["ActivitySocket"]] = set()
    _ticker: ClassVar[PeriodicCallback | None] = None
    _told_at: ClassVar[float] = 0.0
    _told_published: ClassVar[int] = 0

    async def get(self, *args: Any, **kwargs: Any) -> None:
        self._gap = await self._read_since(self.get_query_argument("since", None))
        await super().get(*args, **kwargs)

    def open(self, *args: str, **kwargs: str) -> None:
        super().open()
        feed, now = self.feed, time.time()
        # The others hear first what came since the last tick; it is in the newcomer's `hello` already.
        ActivitySocket.tick(feed)
        self.clients.add(self)
        if ActivitySocket._ticker is None:
            ActivitySocket._ticker = PeriodicCallback(lambda: ActivitySocket.tick(feed), TICK_SECONDS * 1000)
            ActivitySocket._ticker.start()
        self.outbox.send(
            message_frame(
                "hello",
                server={"version": __version__, "started_at": iso(feed.share.started_at)},
                database=feed.database_state(),
                recent=_texts(feed.hub.newest(ROWS_IN_HELLO)),
                step_seconds=feed.hub.tally.seconds.step_seconds,
                cursor=_cursor(feed),
                **_tally_state(feed, now),
            )
        )
        if self._gap:
            self.outbox.send(message_frame("gap", **gap_fields(self._gap)))

    def on_close(self) -> None:
        super().on_close()
        self.clients.discard(self)
        if not self.clients and ActivitySocket._ticker:
            ActivitySocket._ticker.stop()
            ActivitySocket._ticker = None

    def on_message(self, message: str | bytes) -> None:
        self.outbox.send(message_frame("error", code="unknown_type", message="this socket takes no messages"))

    @classmethod
    def tick(cls, feed: Feed) -> None:
        """Tells every dashboard what happened since the last tick, or once a second that nothing did."""
        now = time.time()
        of = feed.hub.published - cls._told_published
        if not of and now - cls._told_at < HEARTBEAT_SECONDS:
            return
        cls._told_at, cls._told_published = now, feed.hub.published
        totals, buckets = feed.hub.tally.take_touched()
        cls._tell_all(
            message_frame(
                "activity",
                now=now,
                totals=totals,
                other=feed.hub.tally.foreign,
                buckets=buckets,
                rows={"of": of, "changes": _texts(feed.hub.newest(min(of, ROWS_PER_MESSAGE)))},
                cursor=_cursor(feed),
            )
        )

    @classmethod
    def tell_database(cls, feed: Feed) -> None:
        cls._tell_all(message_frame("database", **feed.database_state()))

    @classmethod
    def tell_gap(cls, gap: Gap) -> None:
        cls._tell_all(message_frame("gap", **gap_fields(gap)))

    @classmethod
    def _tell_all(cls, frame: bytes) -> None:
        for client in tuple(cls.clients):
            client.outbox.send(frame)

    async def _read_since(self, since: str | None) -> Gap | None:
        """Whether a page that comes back, and had seen everything up to a cursor, missed what nobody has any more.

        Its counts are right in any case: those are absolute, and loaded from the journal.
        """
        if not since:
            return None
        await self.feed.follower.until_known(JOURNAL_DEADLINE_SECONDS)
        try:
            place = self.feed.journal.decode(since)
        except NotACursor as error:
            raise ApiError(400, "not_a_cursor", str(error)) from None
        except ForeignCursor as error:
            return Gap(str(error), from_cursor=since)
        if self.feed.journal.losses.concern(place):
            return Gap("the page was away for longer than the journal's retention", from_cursor=since)
        return None


def _tally_state(feed: Feed, now: float) -> dict[str, object]:
    tally = feed.hub.tally
    return {"now": now, "since": iso(tally.since), "totals": tally.totals, "other": tally.foreign}


def _cursor(feed: Feed) -> str | None:
    memory = feed.follower.memory
    return feed.journal.encode(memory.edge) if memory else None


def _texts(changes: Sequence[Change]) -> list[str]:
    """The rows shown. One that is too long for a sample is left out; it is counted all the same."""
    return [change.text for change in changes if len(change.text) <= ROW_LIMIT_BYTES]
