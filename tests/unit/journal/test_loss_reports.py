"""Loss reports: each lost statement is a gap, once at once and once when the table has its last state; few log lines."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tornado.testing import ExpectLog

from changefeed.change.change import LOSS, Change
from changefeed.change.gap import Gap
from changefeed.journal.cursor import Place
from changefeed.journal.horizon import Horizon
from changefeed.journal.journal import BEGINNING
from changefeed.journal.loss_reports import UNRECORDED, LossReports


class FakeJournal:
    """Knows the running transactions, and encodes a place as its id."""

    def __init__(self) -> None:
        self.now_running: frozenset[int] = frozenset()
        self.horizon = Horizon()
        self.on_lost: Callable[[int], None] | None = None

    async def running(self) -> frozenset[int]:
        return self.now_running

    def encode(self, place: Place) -> str:
        return str(place.id)


def read_at(number: int) -> datetime:
    """When the read with this number began."""
    return datetime(2026, 1, 1, 0, 0, number, tzinfo=UTC)


class Ground:
    def __init__(self) -> None:
        self.journal: Any = FakeJournal()
        self.gaps: list[Gap] = []
        self.reports = LossReports(self.journal, self.gaps.append)
        self.reports.begin(read_at(0))

    def count_to(self, total: int) -> None:
        """A read finds that the counter has risen."""
        count, self.journal.horizon = total - self.journal.horizon.lost_statements, Horizon(lost_statements=total)
        self.journal.on_lost(count)

    def report(self, *running: int, read: int = 0) -> list[str | None]:
        """Where the gaps begin that a report of that moment sends, after the read with this number."""
        self.journal.now_running, self.gaps[:] = frozenset(running), []
        asyncio.run(self.reports.report_unrecorded(replace(BEGINNING, id=7), read_at(read)))
        assert all(gap.why == UNRECORDED for gap in self.gaps)
        return [gap.from_cursor for gap in self.gaps]


def test_a_loss_is_reported_at_once_and_after_the_transaction_that_lost_it():
    ground = Ground()
    assert ground.report(3) == []
    ground.count_to(3)
    with ExpectLog("changefeed.follower", f"changes are missing: {UNRECORDED}"):
        assert ground.report(3, 4) == ["7"]
    assert ground.report(3) == []  # it may be the one, and not be over
    assert ground.report(5) == ["7"]
    assert ground.report(5) == []
    assert ground.reports.reported == 3


def test_a_gap_has_the_number_and_begins_when_the_counter_was_last_seen_lower():
    ground, said = Ground(), list[tuple[int | None, datetime | None]]()
    with ExpectLog("changefeed.follower", "changes are missing"):
        for read, total, *running in ((1, 0), (2, 2, 7), (3, 3, 7, 8), (4, 3, 8), (5, 3)):
            if total > ground.journal.horizon.lost_statements:
                ground.count_to(total)
            ground.report(*running, read=read)
            said += [(gap.skipped, gap.since) for gap in ground.gaps]
    # At last all are reported again.
    assert said == [(2, read_at(1)), (1, read_at(2)), (3, read_at(1))]
    for counted, since in ((0, read_at(1)), (1, read_at(1)), (2, read_at(2))):
        gap = ground.reports.unrecorded_after(counted, "c")
        assert (gap.skipped, gap.since, gap.from_cursor) == (3 - counted, since, "c")
        assert gap.until is not None


def test_since_when_the_counter_rose_before_the_start_is_unknown():
    ground = Ground()
    ground.journal.horizon = Horizon(lost_statements=4)
    ground.reports.begin(read_at(0))
    assert ground.report() == []
    with ExpectLog("changefeed.follower", "changes are missing"):
        ground.count_to(5)
        ground.report(read=1)
    assert [(gap.skipped, gap.since) for gap in ground.gaps] == [(1, read_at(0))]
    assert (gap := ground.reports.unrecorded_after(3, None)).since is None
    assert gap.skipped == 2
    assert ground.reports.reported == 1


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
