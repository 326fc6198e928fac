"""What the dashboards show that may not see everything: counts and rows of what their rights name, and of nothing else.

Nothing here is told because of something unseen: not a message, not its number, not a count.
"""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from changefeed import __version__
from changefeed.change import Change
from changefeed.delays import LEAST_SECONDS, PER_DOUBLING
from changefeed.hub import RECENT_LIMIT
from changefeed.subscription import Subscription
from changefeed.tally import STEPS
from changefeed.times import iso
from handlers.counted_tables import CountedTables
from handlers.dialects import message_frame
from handlers.feed import Feed
from handlers.outbox import Outbox
from handlers.sample import (
    HELLO_LIMIT_CHARACTERS,
    PACES,
    ROWS_IN_HELLO,
    Allowance,
    Matches,
    sample_texts,
)

HEARTBEAT_SECONDS = 1.0


class Shown(Protocol):
    outbox: Outbox


Client = TypeVar("Client", bound=Shown)


class BoundedView(Generic[Client]):
    """The dashboards of those with the same rights, filter and pace; their messages are made once for all."""

    def __init__(self, feed: Feed, subscription: Subscription, pace: str) -> None:
        self.clients: set[Client] = set()
        self.selection = feed.catalog.select(subscription, feed.journal.seal_for(subscription.within))
        self._counted = CountedTables(subscription.within, feed.catalog)
        self._all = feed.catalog.select(
            Subscription(within=subscription.within), feed.journal.seal_for(subscription.within)
        )
        self._has_filter = self.selection.subscription != self._all.subscription
        self._feed = feed
        self._matches = Matches()
        self._of = 0
        self._touched: dict[int, set[int]] = {step: set() for step in STEPS}
        self.key = (subscription, pace)
        self._allowance = Allowance(PACES[pace])
        self._number = 0
        self._told_at = 0.0

    def add(self, changes: Sequence[Change], now: float) -> None:
        """What is published."""
        seen = self._all.pick(changes)
        self._of += len(seen)
        for change in seen:
            for step, begins in self._touched.items():
                begins.add(int(change.at or now) // step * step)
        self._matches.add(self.selection.pick(changes) if self._has_filter else seen)

    def hello(self, now: float) -> bytes:
        recent = self._all.pick(self._feed.hub.newest(RECENT_LIMIT))[-ROWS_IN_HELLO:]
        return message_frame(
            "hello",
            server={"version": __version__, "started_at": iso(self._feed.share.started_at)},
            database=self._feed.database_state(is_full=False),
            payload=self._feed.settings.payload,
            recent=sample_texts(recent, HELLO_LIMIT_CHARACTERS),
            steps=STEPS,
            delays={"least_seconds": LEAST_SECONDS, "per_doubling": PER_DOUBLING},
            paces={name: pace.bounds for name, pace in PACES.items()},
            cursor=self._cursor(),
            **self._counted.state(self._feed, now),
        )

    def tick(self, now: float) -> None:
        """Tells what happened since the last tick, or once a second that nothing did."""
        if not self._of and now - self._told_at < HEARTBEAT_SECONDS:
            return
        self._number += 1
        self._told_at = now
        row_limit, character_limit = self._allowance.left(now)
        texts = sample_texts(self._matches.newest(row_limit), character_limit)
        self._allowance.spend([texts])
        rows: dict[str, object] = {"of": self._of, "changes": texts}
        if self._has_filter:
            rows["matching"] = self._matches.count
        self.tell(
            message_frame("activity", number=self._number, now=now, cursor=self._cursor(), **self._counts(), rows=rows)
        )
        self._of, self._matches = 0, Matches()

    def tell(self, frame: bytes) -> None:
        for client in tuple(self.clients):
            client.outbox.send(frame)

    def look_again(self) -> None:
        self.selection.look_again()
        self._all.look_again()

    def _counts(self) -> dict[str, object]:
        """What changed of the counts since they were told."""
        tally = self._feed.hub.tally
        told = {}
        for step, begins in self._touched.items():
            if begins:
                changed = [one for one in tally.by_step[step].since(min(begins)) if one["at"] in begins]
                told[step] = self._counted.buckets(self._feed.whole(changed))
                begins.clear()
        return {
            "totals": self._counted.totals(tally.totals) if told else {},
            "other": 0,
            "buckets": {step: buckets for step, buckets in told.items() if buckets},
        }

    def _cursor(self) -> str | None:
        memory = self._feed.follower.memory
        return self.selection.cursor(self._feed.journal.encode(memory.edge)) if memory else None
