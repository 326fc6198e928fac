"""The time spans in which all changes are counted, and those of outages. Knows no request."""

from collections.abc import Sequence

from changefeed.counts.backfill import CountsBackfill
from changefeed.counts.buckets import BucketMessage
from changefeed.hub import Hub
from changefeed.journal.follower import Follower
from changefeed.postgres.listener import Listener, ListenerState
from handlers.delivery.outages import Outages


class CountedTime:
    """Describes what the tally of one server covers."""

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
        """Whether the journal's earlier changes are counted. True without a journal, which has nothing to count."""
        return self._follower.is_known and (self._follower.cache is None or self._backfill.is_loaded)

    @property
    def since(self) -> float:
        """The time from which all changes are counted, in epoch seconds."""
        since = self._hub.tally.since.timestamp()
        return since if self.has_history else max(since, self._backfill.counting_since or 0.0)

    @property
    def generation(self) -> tuple[bool, int]:
        """Takes another value each time when counting starts over, or when the backfill has ended."""
        return self.has_history, self._backfill.generation

    def whole(self, buckets: Sequence[BucketMessage]) -> Sequence[BucketMessage]:
        """The buckets that are counted completely; until the backfill has ended, older ones are not."""
        if self.has_history:
            return buckets
        return [bucket for bucket in buckets if bucket["at"] >= self.since]

    def span(self, now: float) -> tuple[float, float] | None:
        """The span in which every change is in the tally: from and to, in epoch seconds of the changes' clock.

        None while either end is unknown.
        """
        if not self.has_history:
            return None
        tally = self._hub.tally
        has_outage = self._listener.state is not ListenerState.LISTENING
        outage_until = max((to or now for _, to in self.outage_spans(now, now)), default=0.0)
        known_from = max(tally.since.timestamp(), outage_until)
        if self._follower.cache is None:
            return None if has_outage else (known_from, now)
        # Changes of the journal have PostgreSQL's time, those of plain triggers this machine's.
        ahead_seconds = tally.database_ahead_seconds
        if ahead_seconds is None or (has_outage and self._hub.has_plain_triggers):
            return None
        if self._hub.has_plain_triggers:
            ahead_seconds = min(ahead_seconds, 0.0)
        return known_from, self._follower.read_until + ahead_seconds

    def outage_spans(self, now: float, window_seconds: float) -> list[list[float | None]]:
        """The outages, as [from, to] in epoch seconds; `to` is None if one lasts.

        The journal's changes of such a time are counted later. Changes that only NOTIFY carries are missing from it.
        """
        if self._follower.cache is not None and not self._hub.has_plain_triggers:
            return []
        spans: list[list[float | None]] = [
            [outage.since.timestamp(), outage.until.timestamp()]
            for outage in self._outages.recent
            if outage.until.timestamp() > now - window_seconds
        ]
        if self._listener.state is ListenerState.LOST:
            spans.append([self._listener.since.timestamp(), None])
        return spans
