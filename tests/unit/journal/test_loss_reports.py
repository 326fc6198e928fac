"""Loss reports: each lost statement is a gap, once at once and once when the table has its last state; few log lines."""

import asyncio
from dataclasses import replace
from typing import Any

from tornado.testing import ExpectLog

from changefeed.change.change import LOSS, Change
from changefeed.change.gap import Gap
from changefeed.journal.cursor import Place
from changefeed.journal.journal import BEGINNING
from changefeed.journal.loss_reports import UNRECORDED, LossReports


class FakeJournal:
    """Knows the running transactions, and encodes a place as its id."""

    def __init__(self) -> None:
        self.now_running: frozenset[int] = frozenset()

    async def running(self) -> frozenset[int]:
        return self.now_running

    def encode(self, place: Place) -> str:
        return str(place.id)


class Ground:
    def __init__(self) -> None:
        self.journal: Any = FakeJournal()
        self.gaps: list[Gap] = []
        self.reports = LossReports(self.journal, self.gaps.append)

    def report(self, *running: int) -> list[str | None]:
        """Where the gaps begin that a report of that moment sends."""
        self.journal.now_running, self.gaps[:] = frozenset(running), []
        asyncio.run(self.reports.report_unrecorded(replace(BEGINNING, id=7)))
        assert all(gap.why == UNRECORDED for gap in self.gaps)
        return [gap.from_cursor for gap in self.gaps]


def test_a_loss_is_reported_at_once_and_after_the_transaction_that_lost_it():
    ground = Ground()
    assert ground.report(3) == []
    ground.reports.note_unrecorded(3)
    with ExpectLog("changefeed.follower", f"changes are missing: {UNRECORDED}"):
        assert ground.report(3, 4) == ["7"]
    assert ground.report(3) == []  # it may be the one, and not be over
    assert ground.report(5) == ["7"]
    assert ground.report(5) == []
    assert ground.reports.reported == 3


def test_losses_among_changes_are_counted_and_logged_together():
    ground = Ground()
    row, loss = (Change("{}", "public.a", action, 1, 1) for action in ("INSERT", LOSS))
    ground.reports.count([row])
    with ExpectLog(
        "changefeed.follower", r"changes are missing: .* \(2 of public\.a, 1 of public\.b\); PostgreSQL's log"
    ):
        ground.reports.count([loss, row, loss, Change("{}", "public.b", LOSS, 1, 1)])
    ground.reports.count([loss])  # a moment later, so that nothing is logged
    assert ground.reports.reported == 4
    assert ground.gaps == []  # clients get them with the changes
