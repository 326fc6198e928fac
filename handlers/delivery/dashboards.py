"""The dashboards of one server: passes changes, gaps and the database's state to each, by the view of its rights.

A server makes the registry when it starts and closes it when it ends. A ticker runs while there are dashboards.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from tornado.ioloop import PeriodicCallback

from changefeed.change.change import Change, without_losses
from changefeed.change.gap import Gap
from changefeed.selection.rights import Grants
from changefeed.selection.subscription import Subscription
from changefeed.turns import Work, WorkQueue
from handlers.delivery.audiences import Audience
from handlers.delivery.outbox import Outbox
from handlers.delivery.row_sample import USUAL_PACE

TICK_SECONDS = 0.1  # so at most ten messages a second, whatever the load


@dataclass(eq=False)
class Dashboard:
    """One open page: where its messages go, which rows it wants, and how far it has drawn them."""

    outbox: Outbox
    leave: Callable[[str], None]  # closes the transport, with a reason that the page may read
    pace: str = USUAL_PACE
    wants_rows: bool = True
    seen: int | None = None  # number of the newest message that the page has drawn; None if it does not report that
    filter: "Audience[Dashboard] | None" = None


class View(Protocol):
    """What the registry needs of a view; DashboardView implements it."""

    @property
    def dashboards(self) -> Collection[Dashboard]: ...

    def enter(self, dashboard: Dashboard, now: float) -> None: ...

    def discard(self, dashboard: Dashboard) -> None: ...

    def filter(self, dashboard: Dashboard, subscription: Subscription) -> None: ...

    def add(self, changes: Sequence[Change], now: float) -> None: ...

    def match(self, changes: Sequence[Change]) -> Work: ...

    def tick(self, now: float) -> None: ...

    def tell_database(self) -> None: ...

    def tell_gap(self, gap: Gap) -> None: ...

    def refresh_columns(self) -> None: ...

    def forget_cursors(self) -> None: ...


@dataclass(eq=False)
class _Published:
    """Published changes, and the views that have yet to add them."""

    changes: Sequence[Change]
    at: float
    owed: dict[View, None]


class Dashboards:
    """Groups the dashboards into views, one per set of rights. `work` may be shared."""

    def __init__(self, work: WorkQueue | None = None) -> None:
        self._work = work or WorkQueue()
        self._published: deque[_Published] = deque()
        self._views: dict[Grants, View] = {}
        self._ticker: PeriodicCallback | None = None

    @property
    def connected(self) -> Sequence[Dashboard]:
        return [dashboard for view in self._views.values() for dashboard in view.dashboards]

    def enter(self, dashboard: Dashboard, grants: Grants, make_view: Callable[[], View]) -> View:
        """Greets the dashboard, and sends it from now on what these rights may see. Returns its view, for leave().

        The view is made if no other dashboard has the same rights.
        """
        view = self._views.get(grants)
        if view is None:
            view = self._views[grants] = make_view()
        for published in self._published:
            if view in published.owed:  # they are in its `hello`, and must not come again after that
                del published.owed[view]
                view.add(published.changes, published.at)
        view.enter(dashboard, time.time())
        if self._ticker is None:
            self._ticker = PeriodicCallback(self.tick, TICK_SECONDS * 1000)
            self._ticker.start()
        return view

    def leave(self, dashboard: Dashboard, view: View) -> None:
        view.discard(dashboard)
        self._views = {grants: view for grants, view in self._views.items() if view.dashboards}
        if not self._views:
            self.close()

    def close(self) -> None:
        """Stops the ticker: the server ends, or the last dashboard has left."""
        if self._ticker:
            self._ticker.stop()
            self._ticker = None

    def tick(self) -> None:
        now = time.time()
        for view in tuple(self._views.values()):
            view.tick(now)

    def broadcast(self, changes: Sequence[Change], cursor: str | None) -> None:
        """Passes the changes to each view, which counts them and keeps the newest for the next tick."""
        if not self._views:
            return
        left, now = without_losses(changes), time.time()
        for loss in changes if left is not changes else ():
            if loss.is_loss:
                self.tell_gap(Gap.of_loss(loss))
        self._published.append(_Published(left, now, dict.fromkeys(self._views.values())))
        self._work.add(self._add(self._published[-1]))

    def _add(self, published: _Published) -> Work:
        views = tuple(published.owed)
        while published.owed:
            view = next(iter(published.owed))
            del published.owed[view]
            view.add(published.changes, published.at)
            yield
        self._published.remove(published)
        for view in views:
            yield from view.match(published.changes)

    def tell_database(self) -> None:
        for view in self._views.values():
            view.tell_database()

    def tell_gap(self, gap: Gap) -> None:
        for view in self._views.values():
            view.tell_gap(gap)

    def refresh_columns(self) -> None:
        """Called after the tables were read again: their columns may have changed."""
        for view in self._views.values():
            view.refresh_columns()

    def forget_cursors(self) -> None:
        """Forgets the cursors so far: they belong to another journal, or to a past that is lost."""
        for view in self._views.values():
            view.forget_cursors()
