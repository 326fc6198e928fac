"""Which counts a dashboard is sent, and what changed since the last: all of them, or those its rights allow."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from changefeed.change.change import Change
from changefeed.counts.buckets import BucketMessage
from changefeed.counts.tally import STEPS
from handlers.dashboard.visible_counts import CountedTables
from handlers.http.context import ServerContext


class CountPolicy(Protocol):
    """What a DashboardView needs of a policy."""

    @property
    def has_news(self) -> bool:
        """Whether anything was counted since the counts were last taken."""

    def add(self, seen: Sequence[Change], now: float) -> None:
        """Notes published changes that the dashboards may see."""

    def take(self, *, is_coarse: bool) -> dict[str, object]:
        """The counts that changed since they were last taken; those of the coarser steps only if `is_coarse`."""


class AllCounts:
    """The counts of all tables. The tally notes what changed, for the single view with all rights."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._has_news = False
        self.take(is_coarse=True)  # earlier changes are in the first `hello`

    @property
    def has_news(self) -> bool:
        return self._has_news

    def add(self, seen: Sequence[Change], now: float) -> None:
        self._has_news = self._has_news or bool(seen)

    def take(self, *, is_coarse: bool) -> dict[str, object]:
        self._has_news = False
        tally = self._context.hub.tally
        touched = {
            step: self._context.counted.whole(tally.by_step[step].take_touched())
            for step in STEPS
            if is_coarse or step == 1
        }
        return {"totals": tally.take_touched_totals(), "other": tally.foreign, "buckets": _told(touched)}


class VisibleCounts:
    """The counts of the tables that certain rights allow to count. Nothing unseen ever changes its answers."""

    def __init__(self, context: ServerContext, counted: CountedTables) -> None:
        self._context = context
        self._counted = counted
        self._touched: dict[int, set[int]] = {step: set() for step in STEPS}  # the start of each bucket that changed

    @property
    def has_news(self) -> bool:
        return bool(self._touched[1])

    def add(self, seen: Sequence[Change], now: float) -> None:
        for change in seen:
            for step, begins in self._touched.items():
                begins.add(int(change.at or now) // step * step)

    def take(self, *, is_coarse: bool) -> dict[str, object]:
        tally = self._context.hub.tally
        told: dict[int, Sequence[BucketMessage]] = {}
        for step, begins in self._touched.items():
            if begins and (is_coarse or step == 1):
                changed = [one for one in tally.by_step[step].since(min(begins)) if one["at"] in begins]
                told[step] = self._counted.buckets(self._context.counted.whole(changed))
                begins.clear()
        return {"totals": self._counted.totals(tally.totals) if told else {}, "other": 0, "buckets": _told(told)}


def _told(touched: Mapping[int, Sequence[BucketMessage]]) -> dict[int, Sequence[BucketMessage]]:
    return {step: buckets for step, buckets in touched.items() if buckets}
