"""Publishes changes: counts each in the tally and passes it to every broadcast. Each change passes here once.

Knows no socket: the broadcasts are an argument.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from changefeed.change.change import Change, parse_payload, without_losses
from changefeed.change.json_text import NotJSON
from changefeed.counts.tally import Tally

logger = logging.getLogger(__name__)

PLAIN_CHANNEL = "events"  # that of the original's trigger
RECENT_LIMIT = 1_000
RECENT_LIMIT_BYTES = 4 << 20
COMPLAINT_INTERVAL_SECONDS = 60.0

Broadcast = Callable[[Sequence[Change], str | None], None]


class Hub:
    """Publishes to `broadcasts` in their order, and keeps the newest changes for clients that come later.

    A broadcast is called with the changes and the cursor after the last; the cursor is None for changes that are not
    from the journal. `reduce` removes what --payload withholds from a trigger's change, and returns None if it cannot;
    the journal's changes are reduced already.
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
        self.recalls = 0  # how many times newest() was replaced
        self.has_plain_triggers = False  # whether any change came that is not from the journal
        self._broadcasts = tuple(broadcasts)
        self._clock = clock
        self._recent: deque[Change] = deque()
        self._recent_bytes = 0
        self._complained_at = float("-inf")

    def receive(self, payloads: Sequence[str]) -> None:
        """Publishes the payloads of plain triggers that arrived together. Drops what is not JSON."""
        changes = []
        for payload in payloads:
            try:
                change = parse_payload(payload)
            except NotJSON as error:
                self.tally.not_json += 1
                self._complain(f"that is not JSON ({error})", self.tally.not_json)
                continue
            left = self._reduce(change) if self._reduce else change
            if left is None:
                self.tally.withheld += 1
                self._complain("that --payload cannot redact", self.tally.withheld)
            else:
                changes.append(left)
        if changes:
            self.has_plain_triggers = True
            self.publish(changes)

    def publish(
        self, changes: Sequence[Change], cursor: str | None = None, uncounted: Sequence[Change] | None = None
    ) -> None:
        """Publishes the changes. `uncounted` are those that the tally does not hold yet, if not all.

        A process that replaces another takes over the counts of a third, which may be ahead of what it has published
        itself. Counting those changes again would make the dashboards of the processes differ for good.
        """
        told = without_losses(changes)
        is_new = told if uncounted is None or uncounted is changes else without_losses(uncounted)
        self.tally.count(is_new, self._clock())
        self.published += len(changes)
        self._remember(told)
        for broadcast in self._broadcasts:
            broadcast(changes, cursor)

    def recall(self, changes: Sequence[Change]) -> None:
        """Replaces the journal's changes in newest() by these, which an earlier server published."""
        self.recalls += 1
        plain = [change for change in self._recent if not change.at]
        self._recent.clear()
        self._recent_bytes = 0
        self._remember(without_losses([*changes, *plain]))

    def forget_journal(self) -> None:
        """Removes the journal's changes from newest(): the journal was replaced."""
        self.recall([])

    def _remember(self, changes: Sequence[Change]) -> None:
        newest = changes[-RECENT_LIMIT:]
        if len(newest) == RECENT_LIMIT:  # and so nothing else is kept
            self._recent.clear()
            self._recent_bytes = 0
        self._recent.extend(newest)
        self._recent_bytes += sum([len(change.text) for change in newest])
        while len(self._recent) > RECENT_LIMIT or self._recent_bytes > RECENT_LIMIT_BYTES:
            self._recent_bytes -= len(self._recent.popleft().text)

    def newest(self, limit: int) -> list[Change]:
        """The newest changes, oldest first: at most `limit`, RECENT_LIMIT, and RECENT_LIMIT_BYTES of them."""
        return list(islice(self._recent, max(0, len(self._recent) - limit), None))

    def _complain(self, which: str, count: int) -> None:
        now = self._clock()
        if now - self._complained_at >= COMPLAINT_INTERVAL_SECONDS:
            self._complained_at = now
            logger.warning("dropped a payload on channel %s %s (%d so far)", PLAIN_CHANNEL, which, count)
