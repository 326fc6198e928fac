"""From when to when everything is counted, and when nothing was heard. Knows no request."""

from collections.abc import Sequence

from changefeed.counts.backfill import CountsBackfill
from changefeed.counts.buckets import BucketMessage
from changefeed.hub import Hub
from changefeed.journal.follower import Follower
from changefeed.postgres.listener import Listener, ListenerState
from handlers.delivery.outages import Outages


class CountedTime:
    """Of the tally of one server."""

    def __init__(
        self, hub: Hub, listener: Listener, follower: Follower, backfill: CountsBackfill, outages: Outages
    ) -> None:
        self._hub = hub
        self._listener = listener
        self._follower = follower
        self._backfill = backfill
        self._outages = outages

    @property
    def has_history(self) -> bool:
        """Whether what the journal held before is counted; without a journal, there is nothing to count."""
        return self._follower.is_known and (self._follower.memory is None or self._backfill.is_loaded)

    @property
    def since(self) -> float:
        """Epoch seconds: from then on all is counted."""
        since = self._hub.tally.since.timestamp()
        return since if self.has_history else max(since, self._backfill.counting_since or 0.0)

    @property
    def turn(self) -> tuple[bool, int]:
        """Another value each time that all is counted anew, or what was before has been counted."""
        return self.has_history, self._backfill.turns

    def whole(self, buckets: Sequence[BucketMessage]) -> Sequence[BucketMessage]:
        """Those that are not counted in part only, as long as what was before is still to be."""
        if self.has_history:
            return buckets
        return [bucket for bucket in buckets if bucket["at"] >= self.since]

    def span(self, now: float) -> tuple[float, float] | None:
        """From and to in epoch seconds, by the clock of what is counted: all that happened between is in the tally.

        None while it isn't known to when that is, or from when.
        """
        if not self.has_history:
            return None
        tally = self._hub.tally
        is_deaf = self._listener.state is not ListenerState.LISTENING
        deaf_until = max((to or now for _, to in self.deaf_spans(now, now)), default=0.0)
        known_from = max(tally.since.timestamp(), deaf_until)
        if self._follower.memory is None:
            return None if is_deaf else (known_from, now)
        # The journal's changes are counted by PostgreSQL's clock, those of plain triggers by ours.
        ahead_seconds = tally.database_ahead_seconds
        if ahead_seconds is None or (is_deaf and self._hub.has_plain_triggers):
            return None
        if self._hub.has_plain_triggers:
            ahead_seconds = min(ahead_seconds, 0.0)
        return known_from, self._follower.read_until + ahead_seconds

    def deaf_spans(self, now: float, window_seconds: float) -> list[list[float | None]]:
        """When nothing was heard that NOTIFY alone tells of, as [from, to] in epoch seconds; to is None for still.

        What the journal holds of such a time was counted later; a span is for what has no journal.
        """
        if self._follower.memory is not None and not self._hub.has_plain_triggers:
            return []
        spans: list[list[float | None]] = [
            [outage.since.timestamp(), outage.until.timestamp()]
            for outage in self._outages.recent
            if outage.until.timestamp() > now - window_seconds
        ]
        if self._listener.state is ListenerState.LOST:
            spans.append([self._listener.since.timestamp(), None])
        return spans
