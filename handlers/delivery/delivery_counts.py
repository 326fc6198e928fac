"""What clients were given, and who and what was dropped, counted into the meters. Knows no client and no metric.

A broadcast is counted once, when it has been handed to the last socket: counting each delivery would cost as much as
making it.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from changefeed.change.change import Change
from handlers.delivery.client_counts import KINDS
from process.shared_numbers import SharedNumbers

LATENCY_BOUNDS_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    60.0,
    float("inf"),
)
DELIVERIES = "changefeed_deliveries_total"
CLIENTS_DROPPED = "changefeed_clients_dropped_total"
CHANGES_DROPPED = "changefeed_changes_dropped_total"
LATENCY_BUCKET, LATENCY_SUM = "changefeed_latency_seconds_bucket", "changefeed_latency_seconds_sum"


class Deliveries:
    """Of one process. A delivery is one change, or payload, handed to one client's outbox. `clock` is PostgreSQL's."""

    def __init__(self, meters: SharedNumbers, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held_back = 0
        self._feed = meters.meter(DELIVERIES, "feed")
        self._raw = meters.meter(DELIVERIES, "raw")
        self._conflated = meters.meter(CHANGES_DROPPED, "conflated")
        self._latencies = [meters.meter(LATENCY_BUCKET, f"{bound:g}") for bound in LATENCY_BOUNDS_SECONDS]
        self._latency_sum = meters.meter(LATENCY_SUM)
        self._outbox_full = {kind: meters.meter(CLIENTS_DROPPED, kind, "outbox_full") for kind in KINDS}
        self._sent_too_much = {kind: meters.meter(CLIENTS_DROPPED, kind, "sent_too_much") for kind in KINDS}
        self._deaf = meters.meter(CLIENTS_DROPPED, "raw", "deaf")

    def broadcast(self, count: int, at: float) -> None:
        """So many deliveries are done; the oldest of their changes is of `at`, in epoch seconds, 0 for unknown."""
        count, self._held_back = count - self._held_back, 0
        if count:
            self._feed.add(count)
            if at:
                self._observe(max(0.0, self._clock() - at))

    def counting(
        self, deliver: Callable[[Sequence[Change], str | None], int]
    ) -> Callable[[Sequence[Change], str | None], None]:
        """The broadcast, which returns how many deliveries it made, with these counted."""

        def broadcast(changes: Sequence[Change], cursor: str | None) -> None:
            self.broadcast(deliver(changes, cursor), changes[0].at)

        return broadcast

    def hold_back(self, count: int) -> None:
        """Of the broadcast that is under way, so many were conflated and not delivered yet."""
        self._held_back += count

    def catch_up(self, count: int) -> None:
        """As broadcast(), of changes of the past to one client."""
        self._feed.add(count)

    def raw(self, count: int) -> None:
        self._raw.add(count)

    def conflated(self, count: int) -> None:
        """Changes that one client will not get."""
        self._conflated.add(count)

    def outbox_full(self, kind: str) -> None:
        """A client was closed."""
        self._outbox_full[kind].add(1)

    def sent_too_much(self, kind: str) -> None:
        """A client was closed."""
        self._sent_too_much[kind].add(1)

    def deaf(self, count: int) -> None:
        """So many clients of raw payloads were closed, because nobody knows what they missed."""
        self._deaf.add(count)

    def _observe(self, seconds: float) -> None:
        self._latencies[bisect_left(LATENCY_BOUNDS_SECONDS, seconds)].add(1)
        self._latency_sum.add(seconds)
