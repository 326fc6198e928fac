"""Counts deliveries, dropped changes and dropped clients, in shared numbers. Knows no client and no metric.

A broadcast is counted as a whole, once the last socket has it: counting each delivery would cost as much as making it.
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


class DeliveryCounts:
    """The counts of one process. A delivery is one change or payload in one outbox. `clock` is PostgreSQL's."""

    def __init__(self, numbers: SharedNumbers, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held_back = 0
        self._feed = numbers.number(DELIVERIES, "feed")
        self._raw = numbers.number(DELIVERIES, "raw")
        self._conflated = numbers.number(CHANGES_DROPPED, "conflated")
        self._latencies = [numbers.number(LATENCY_BUCKET, f"{bound:g}") for bound in LATENCY_BOUNDS_SECONDS]
        self._latency_sum = numbers.number(LATENCY_SUM)
        self._outbox_full = {kind: numbers.number(CLIENTS_DROPPED, kind, "outbox_full") for kind in KINDS}
        self._sent_too_much = {kind: numbers.number(CLIENTS_DROPPED, kind, "sent_too_much") for kind in KINDS}
        self._outage = numbers.number(CLIENTS_DROPPED, "raw", "deaf")

    def count_broadcast(self, count: int, at: float) -> None:
        """Counts `count` deliveries. `at` is the time of their oldest change, in epoch seconds; 0 if unknown."""
        count, self._held_back = count - self._held_back, 0
        if count:
            self._feed.add(count)
            if at:
                self._observe(max(0.0, self._clock() - at))

    def counting(
        self, deliver: Callable[[Sequence[Change], str | None, Callable[[int], None]], None]
    ) -> Callable[[Sequence[Change], str | None], None]:
        """Wraps a broadcast that reports how many deliveries it made, so that they are counted."""

        def broadcast(changes: Sequence[Change], cursor: str | None) -> None:
            deliver(changes, cursor, lambda count: self.count_broadcast(count, changes[0].at))

        return broadcast

    def count_held_back(self, count: int) -> None:
        """Takes `count` changes out of the current broadcast: they are held back for conflation."""
        self._held_back += count

    def count_past(self, count: int) -> None:
        """Counts deliveries of past changes to one client."""
        self._feed.add(count)

    def count_raw(self, count: int) -> None:
        self._raw.add(count)

    def count_conflated(self, count: int) -> None:
        """Counts changes that conflation dropped for one client."""
        self._conflated.add(count)

    def count_outbox_full(self, kind: str) -> None:
        """Counts a client that was closed because its outbox was full."""
        self._outbox_full[kind].add(1)

    def count_sent_too_much(self, kind: str) -> None:
        """Counts a client that was closed because it sent too much."""
        self._sent_too_much[kind].add(1)

    def count_cut_off(self, count: int) -> None:
        """Counts clients of raw payloads that were closed after an outage, as they may have missed some."""
        self._outage.add(count)

    def _observe(self, seconds: float) -> None:
        self._latencies[bisect_left(LATENCY_BOUNDS_SECONDS, seconds)].add(1)
        self._latency_sum.add(seconds)
