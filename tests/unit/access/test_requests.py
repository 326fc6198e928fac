"""Which requests under way are next, and which give way."""

import asyncio
import logging
from typing import Any
from unittest import mock

import pytest

from changefeed.owners import Owner
from handlers.access import requests
from handlers.access.errors import ApiError
from handlers.access.requests import AT_ONCE, LOG_INTERVAL_SECONDS, REQUESTS_REFUSED, RequestsUnderWay, RequestUnderWay
from process.shared_numbers import SharedNumbers

MUCH, LITTLE, OTHER = Owner("much", "192.0.2.1"), Owner("little", "192.0.2.1"), Owner("other", "192.0.2.2")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(work: Any) -> None:
    with asyncio.Runner() as runner:
        runner.run(work)


def test_each_owner_has_its_turn_and_one_that_leaves_gives_it_on():
    async def work() -> None:
        under_way, done = RequestsUnderWay(100, SharedNumbers()), list[str | None]()

        async def answer(entry: RequestUnderWay) -> None:
            try:
                await entry.until_turn()
                done.append(entry.owner[0])
            finally:
                await asyncio.sleep(0)
                entry.leave()

        busy = [
            under_way.enter(owner) for owner in (MUCH, MUCH, Owner("busy", "192.0.2.1"), Owner("busy", "192.0.2.2"))
        ]
        assert len(busy) == AT_ONCE
        for entry in busy:
            await entry.until_turn()
        tasks = [asyncio.create_task(answer(under_way.enter(owner))) for owner in (*[MUCH] * 10, *[LITTLE] * 2, OTHER)]
        await asyncio.sleep(0)
        assert under_way.waiting == 13
        tasks[0].cancel()
        await asyncio.sleep(0)
        assert under_way.waiting == 12
        for entry in busy:
            entry.leave()
            entry.leave()
        await asyncio.wait(tasks)
        assert {*done[:3]} == {"little", "other", "much"} or {*done[:2]} == {"little", "other"}
        assert len(done) == 12
        assert (len(under_way), under_way.waiting) == (0, 0)
        assert not under_way._slots._quotas.used
        assert not under_way._slots._line

    run(work())


def test_a_request_that_waits_too_long_is_refused():
    async def work() -> None:
        numbers = SharedNumbers()
        under_way = RequestsUnderWay(100, numbers)
        for number in range(AT_ONCE):
            await under_way.enter(Owner(str(number), "192.0.2.1")).until_turn()
        with mock.patch.object(requests, "WAIT_SECONDS", 0.01), pytest.raises(ApiError, match="503"):
            await under_way.enter(LITTLE).until_turn()
        assert under_way.waiting == 0
        assert numbers.number(REQUESTS_REFUSED, "late").value == 1

    with mock.patch.object(logging.getLogger("handlers.requests"), "warning"):
        run(work())


def test_the_newest_of_the_owner_with_most_gives_way():
    ended: list[int] = []
    with mock.patch.object(logging.getLogger("handlers.requests"), "warning"):
        under_way = RequestsUnderWay(10, SharedNumbers())
        for number in range(9):
            under_way.enter(MUCH, lambda _, number=number: ended.append(number))
        under_way.enter(LITTLE)
        with pytest.raises(ApiError):
            under_way.enter(MUCH, lambda _: None)
        for _ in range(3):
            under_way.enter(OTHER)
        assert ended == [8, 7, 6]
        assert len(under_way) == 10
        # The addresses of one token compete among themselves.
        under_way.enter(Owner("other", "192.0.2.3"))
        under_way.enter(Owner("other", "192.0.2.3"))
        with pytest.raises(ApiError):
            under_way.enter(OTHER)
        assert ended == [8, 7, 6, 5, 4]


def test_one_that_must_not_be_ended_stays():
    with mock.patch.object(logging.getLogger("handlers.requests"), "warning"):
        under_way = RequestsUnderWay(2, SharedNumbers())
        under_way.enter(MUCH)
        under_way.enter(MUCH)
        with pytest.raises(ApiError):
            under_way.enter(LITTLE)
        assert len(under_way) == 2


def test_refusals_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture):
    clock = Clock()
    under_way = RequestsUnderWay(1, SharedNumbers(), clock)
    under_way.enter(MUCH)
    for _ in range(5):
        with pytest.raises(ApiError):
            under_way.enter(MUCH)
    clock.now = LOG_INTERVAL_SECONDS
    with pytest.raises(ApiError):
        under_way.enter(MUCH)
    told = [record.getMessage() for record in caplog.records]
    caplog.clear()
    assert [line.partition(",")[0] for line in told] == ["refused 1 requests", "refused 5 requests"]
