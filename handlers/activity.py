"""What the dashboard draws: counts in buckets over HTTP, and the same with a sample of rows over /ws/activity.

The counts are exact and absolute; only the rows are a sample, and each message says of how many.
"""

import time
from typing import ClassVar

from tornado.ioloop import PeriodicCallback

from changefeed import __version__
from changefeed.listener import Outage
from changefeed.tally import KEPT_BUCKETS, STEP_SECONDS
from handlers.base import ApiError, ApiHandler
from handlers.events import gap_of, message_frame
from handlers.feed import Feed, iso
from handlers.socket import BaseSocket

TICK_SECONDS = 0.1  # so that there are at most ten messages a second, whatever the load
HEARTBEAT_SECONDS = 1.0
ROWS_PER_MESSAGE = 20
ROWS_IN_HELLO = 50


class ActivityHandler(ApiHandler):
    """The last `window` seconds: {"now", "since", "step_seconds", "totals", "other", "buckets", "deaf"}."""

    def get(self) -> None:
        window = self.get_query_argument("window", str(KEPT_BUCKETS))
        if not (window.isascii() and window.isdigit() and len(window) < 10 and 1 <= int(window) <= KEPT_BUCKETS):
            raise ApiError(400, "bad_window", f"window is a whole number of seconds from 1 to {KEPT_BUCKETS}")
        now = time.time()
        self.finish({**_tally_state(self.feed, now), **_history(self.feed, now, int(window))})


class ActivitySocket(BaseSocket):
    """A dashboard. Its messages are made once for all of them, by a ticker that runs while there are any."""

    _ticker: ClassVar[PeriodicCallback | None] = None
    _told_at: ClassVar[float] = 0.0
    _told_published: ClassVar[int] = 0

    def open(self, *args: str, **kwargs: str) -> None:
        feed, now = self.feed, time.time()
        # The others hear first what came since the last tick; it is in the newcomer's `hello` already.
        ActivitySocket.tick(feed)
        super().open()
        if ActivitySocket._ticker is None:
            ActivitySocket._ticker = PeriodicCallback(lambda: ActivitySocket.tick(feed), TICK_SECONDS * 1000)
            ActivitySocket._ticker.start()
        self.send(
            message_frame(
                "hello",
                server={"version": __version__, "started_at": iso(feed.started_at)},
                database=feed.database_state(),
                recent=feed.hub.newest(ROWS_IN_HELLO),
                **_tally_state(feed, now),
            )
        )

    def on_close(self) -> None:
        super().on_close()
        if not self.clients and ActivitySocket._ticker:
            ActivitySocket._ticker.stop()
            ActivitySocket._ticker = None

    def on_message(self, message: str | bytes) -> None:
        self.send(message_frame("error", code="unknown_type", message="this socket takes no messages"))

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
                rows={"of": of, "changes": feed.hub.newest(min(of, ROWS_PER_MESSAGE))},
            )
        )

    @classmethod
    def tell_database(cls, feed: Feed) -> None:
        cls._tell_all(message_frame("database", **feed.database_state()))

    @classmethod
    def tell_gap(cls, outage: Outage) -> None:
        cls._tell_all(message_frame("gap", **gap_of(outage)))

    @classmethod
    def _tell_all(cls, frame: bytes) -> None:
        for client in tuple(cls.clients):
            client.send(frame)


def _tally_state(feed: Feed, now: float) -> dict[str, object]:
    tally = feed.hub.tally
    return {
        "now": now,
        "since": iso(tally.since),
        "step_seconds": STEP_SECONDS,
        "totals": tally.totals,
        "other": tally.foreign,
    }


def _history(feed: Feed, now: float, window_seconds: int) -> dict[str, object]:
    return {"buckets": feed.hub.tally.buckets(now - window_seconds), "deaf": feed.deaf_spans(now)}
