"""A replay that takes several turns of the loop is of the newest changes when the client begins."""

import asyncio
from unittest import mock

import pytest

from changefeed import turns
from changefeed.change.change import Change
from changefeed.counts.tally import Tally
from changefeed.hub import RECENT_LIMIT, Hub
from changefeed.selection.subscription import Selection, Subscription
from handlers.feed.replay import Replay

NUMBERS = Subscription.parse({"filter": ["n=like.*x*"]})


def selection() -> Selection:
    return Selection(NUMBERS, lambda table: None)


def some(first: int, count: int) -> list[Change]:
    return [
        Change(f'{{"table": "a", "data": {{"n": "{"xy"[number % 2]}", "id": {number}}}}}', "a", "INSERT", 1, number)
        for number in range(first, first + count)
    ]


@pytest.mark.parametrize("between", [0, 10, RECENT_LIMIT + 10])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_what_is_published_meanwhile_is_in_it(between: int, *, is_replaced: bool):
    async def examine() -> None:
        hub = Hub(Tally(0.0), ())
        hub.publish(some(1, 100))
        replay = Replay(hub, selection())
        examining = asyncio.ensure_future(replay.examine())
        await asyncio.sleep(0)
        hub.publish(some(101, between))
        await examining
        hub.publish(some(101 + between, 5))
        if is_replaced:
            hub.recall(some(5_000, 30))
        expected = selection().pick(hub.newest(RECENT_LIMIT))
        assert [change.id for change in replay.newest(10)] == [change.id for change in expected[-10:]]
        assert replay.newest(RECENT_LIMIT)[-len(expected) :] == expected

    with mock.patch.object(turns, "TURN_SECONDS", 0.0):
        asyncio.run(examine())


@pytest.mark.parametrize("count", [10, 20, 40])
def test_one_turn_examines_no_more_of_more_changes(count: int):
    async def most_in_one_turn() -> int:
        hub, most = Hub(Tally(0.0), ()), 0
        hub.publish(some(1, count))
        with mock.patch.object(Selection, "pick", return_value=[]) as pick:
            examining = asyncio.ensure_future(Replay(hub, selection()).examine())
            while not examining.done():
                pick.reset_mock()
                await asyncio.sleep(0)
                most = max(most, pick.call_count)
        return most

    with mock.patch.object(turns, "TURN_SECONDS", 0.0):
        assert asyncio.run(most_in_one_turn()) == 1
