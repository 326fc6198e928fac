"""Payloads and changes in; out to the tally and to every broadcast. The one place each change passes once.

Knows no socket: whom to call is an argument.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from changefeed.change.change import Change, parse, without_losses
from changefeed.change.json_text import NotJSON
from changefeed.counts.tally import Tally

logger = logging.getLogger(__name__)

PLAIN_CHANNEL = "events"  # the original's
RECENT_LIMIT = 1_000
RECENT_LIMIT_BYTES = 4 << 20
COMPLAINT_INTERVAL_SECONDS = 60.0

Broadcast = Callable[[Sequence[Change], str | None], None]


class Hub:
    """Publishes to `broadcasts` in their order; keeps the newest changes for whoever comes later.

    A broadcast is called with the changes and the cursor after the last, None for those that did not come from the
    journal. Where not all may leave the server, `reduce` gives of what a trigger told what may, None where that is
    nothing; changes of the journal come reduced.
    """

    def __init__(
        self,
        tally: Tally,
        broadcasts: Iterable[Broadcast],
        clock: Callable[[], float] = time.time,
        reduce: Callable[[Change], Change | None] | None = None,
    ) -> None:
        self.tally = tally
        self._reduce = reduce
        self.published = 0
        self.has_plain_triggers = False  # whether anything came that is not from the journal
        self._broadcasts = tuple(broadcasts)
        self._clock = clock
        self._recent: deque[Change] = deque()
        self._recent_bytes = 0
        self._complained_at = float("-inf")

    def receive(self, payloads: Sequence[str]) -> None:
        """Publishes what plain triggers sent in one turn of the listener. What is not JSON stays here."""
        changes = []
        for payload in payloads:
            try:
                change = parse(payload)
            except NotJSON as error:
                self.tally.not_json += 1
                self._complain(f"not JSON ({error})", self.tally.not_json)
                continue
            left = self._reduce(change) if self._reduce else change
            if left is None:
                self.tally.withheld += 1
                self._complain("of no shape whose rows --payload could withhold", self.tally.withheld)
            else:
                changes.append(left)
        if changes:
            self.has_plain_triggers = True
            self.publish(changes)

    def publish(
        self, changes: Sequence[Change], cursor: str | None = None, uncounted: Sequence[Change] | None = None
    ) -> None:
        """`uncounted`: those of the changes that the tally does not hold yet, where that is not all."""
        told = without_losses(changes)
        self.tally.count(told if uncounted is None else without_losses(uncounted), self._clock())
        self.published += len(changes)
        self._remember(told)
        for broadcast in self._broadcasts:
            broadcast(changes, cursor)

    def recall(self, changes: Sequence[Change]) -> None:
        """Keeps for newest() of the journal's changes these, which an earlier server published, and no others."""
        plain = [change for change in self._recent if not change.at]
        self._recent.clear()
        self._recent_bytes = 0
        self._remember(without_losses([*changes, *plain]))

    def forget_journaled(self) -> None:
        """Keeps none of the journal's changes: it is another one now."""
        self.recall([])

    def _remember(self, changes: Sequence[Change]) -> None:
        newest = changes[-RECENT_LIMIT:]
        self._recent.extend(newest)
        self._recent_bytes += sum([len(change.text) for change in newest])
        while len(self._recent) > RECENT_LIMIT or self._recent_bytes > RECENT_LIMIT_BYTES:
            self._recent_bytes -= len(self._recent.popleft().text)

    def newest(self, limit: int) -> list[Change]:
        """The newest changes, oldest first: at most `limit`, RECENT_LIMIT, and RECENT_LIMIT_BYTES of them."""
        return list(islice(self._recent, max(0, len(self._recent) - limit), None))

    def _complain(self, what: str, count: int) -> None:
        now = self._clock()
        if now - self._complained_at >= COMPLAINT_INTERVAL_SECONDS:
            self._complained_at = now
            logger.warning(
                "a payload on channel %s is %s and was passed on to nobody; %d so far", PLAIN_CHANNEL, what, count
            )
