"""Slots are never exceeded, owners take turns, and a cancelled wait loses none."""

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine
from typing import Any

from changefeed.slots import FairSlots


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@in_a_loop
async def test_no_more_work_than_slots_and_all_is_done():
    slots, chance, running, done = FairSlots(3, share=2, waiting_limit=1_000), random.Random(1), 0, 0

    async def work(holder: str) -> None:
        nonlocal running, done
        async with slots.slot((holder,)):
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
async def test_one_busy_owner_does_not_delay_others():
    slots, order = FairSlots(1, share=1, waiting_limit=1_000), []

    async def work(holder: str) -> None:
        async with slots.slot((holder,)):
            order.append(holder)
            await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(work(holder)) for holder in [*("much",) * 10, "little", "little"]]
    await asyncio.gather(*tasks)
    assert order[:5] == ["much", "much", "little", "much", "little"]


@in_a_loop
async def test_only_some_may_wait():
    slots = FairSlots(1, share=1, waiting_limit=1)
    async with slots.slot((None,)):
        assert not slots.is_full
        waiting = asyncio.ensure_future(slots.take((None,)))
        await asyncio.sleep(0)
        assert slots.is_full
    await waiting


@in_a_loop
async def test_one_leaves_a_slot_to_the_others_as_far_as_its_share_goes():
    slots = FairSlots(3, share=2, waiting_limit=1_000)
    for address in ("1", "2"):
        await slots.take(("much", address))
    third = asyncio.ensure_future(slots.take(("much", "3")))
    await asyncio.wait_for(slots.take(("little", "1")), 10)
    slots.give_back(("little", "1"))
    await asyncio.sleep(0)
    assert not third.done()
    slots.give_back(("much", "1"))
    await third


@in_a_loop
async def test_owners_with_the_same_first_part_compete_by_the_second():
    slots, order = FairSlots(2, share=2, waiting_limit=1_000), list[str]()
    for _ in range(2):
        await slots.take(("token", "1"))

    async def work(address: str) -> None:
        await slots.take(("token", address))
        order.append(address)

    tasks = [asyncio.ensure_future(work(address)) for address in ("1", "2")]
    await asyncio.sleep(0)
    for _ in tasks:
        slots.give_back(("token", "1"))
    await asyncio.gather(*tasks)
    assert order == ["2", "1"]


@in_a_loop
async def test_a_cancelled_wait_is_not_counted():
    slots = FairSlots(1, share=1, waiting_limit=1_000)
    await slots.take(("much",))
    waiting = [asyncio.ensure_future(slots.take(("much",))) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    await asyncio.wait(waiting[1:2])
    assert slots.waiting == 2
