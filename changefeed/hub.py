"""Payloads and changes in; out to the tally and to every broadcast. The one place each change passes once.

Knows no socket: whom to call is an argument.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from changefeed.change import Change, NotJSON, parse
from changefeed.tally import Tally

logger = logging.getLogger(__name__)

RECENT_LIMIT = 200
COMPLAINT_INTERVAL_SECONDS = 60.0

Broadcast = Callable[[Sequence[Change]], None]


class Hub:
    """Publishes to `broadcasts` in their order; keeps the newest changes for whoever comes later."""

    def __init__(self, tally: Tally, broadcasts: Iterable[Broadcast], clock: Callable[[], float] = time.time) -> None:
        self.tally = tally
        self.published = 0
        self._broadcasts = tuple(broadcasts)
        self._clock = clock
        self._recent: deque[str] = deque(maxlen=RECENT_LIMIT)
        self._complained_at = float("-inf")

    def receive(self, payloads: Sequence[tuple[str, str]]) -> None:
        """Publishes what one turn of the listener brought: (channel, payload) pairs. What is not JSON stays here."""
        changes = []
        for channel, payload in payloads:
            try:
                changes.append(parse(payload))
            except NotJSON as error:
                self.tally.not_json += 1
                self._complain(channel, error)
        if changes:
            self.publish(changes)

    def publish(self, changes: Sequence[Change]) -> None:
        self.tally.count(changes, self._clock())
        self.published += len(changes)
        self._recent.extend(change.text for change in islice(changes, max(0, len(changes) - RECENT_LIMIT), None))
        for broadcast in self._broadcasts:
            broadcast(changes)

    def newest(self, limit: int) -> list[str]:
        """The texts of the newest changes, at most `limit` and RECENT_LIMIT of them, oldest first."""
        return list(islice(self._recent, max(0, len(self._recent) - limit), None))

    def _complain(self, channel: str, error: NotJSON) -> None:
        now = self._clock()
        if now - self._complained_at >= COMPLAINT_INTERVAL_SECONDS:
            self._complained_at = now
            logger.warning(
                "a payload on channel %s is not JSON (%s) and was passed on to nobody; %d so far",
                channel,
                error,
                self.tally.not_json,
            )
