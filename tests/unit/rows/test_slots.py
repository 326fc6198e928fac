"""Slots: never more at once than there are, each holder in turn, and none is lost by who leaves."""

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine
from typing import Any

from changefeed.rows.slots import FairSlots


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@in_a_loop
async def test_never_more_work_than_there_are_slots_and_all_of_it_is_done():
    slots, chance, running, done = FairSlots(3, 1_000), random.Random(1), 0, 0

    async def work(holder: str) -> None:
        nonlocal running, done
        async with slots.slot(holder):
            running += 1
            assert running <= 3
            try:
                await asyncio.sleep(0)
            finally:
                running -= 1
            done += 1

    tasks = [asyncio.ensure_future(work(chance.choice("abc"))) for _ in range(200)]
    await asyncio.sleep(0)
    leaving = chance.sample(tasks, 50)
    for one in leaving:  # whether it is waiting, has just got a turn, or works
        one.cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert not [failure for failure in ended if isinstance(failure, Exception)]
    assert done >= 150
    assert (slots.waiting, slots._waiting, slots._free, dict(slots._running)) == (0, {}, 3, {})


@in_a_loop
async def test_who_asks_for_much_does_not_keep_others_waiting():
    slots, order = FairSlots(1, 1_000), []

    async def work(holder: str) -> None:
        async with slots.slot(holder):
            order.append(holder)
            await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(work(holder)) for holder in [*("much",) * 10, "little", "little"]]
    await asyncio.gather(*tasks)
    assert order[:5] == ["much", "much", "little", "much", "little"]


@in_a_loop
async def test_only_some_may_wait():
    slots = FairSlots(1, 1)
    async with slots.slot(None):
        assert not slots.is_full
        waiting = asyncio.ensure_future(slots._take(None))
        await asyncio.sleep(0)
        assert slots.is_full
    await waiting
