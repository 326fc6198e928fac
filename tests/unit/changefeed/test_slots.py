"""Slots are never exceeded, owners take turns, those of shared work lend it theirs, and a cancelled wait loses none."""

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from changefeed.owners import Owner
from changefeed.slots import Claim, FairSlots

MUCH, LITTLE = Owner("much", "192.0.2.1"), Owner("little", "192.0.2.1")


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def claim(slots: FairSlots, *owners: Owner) -> Claim:
    made = slots.claim()
    for owner in owners:
        made.join(owner)
    return made


async def taken(slots: FairSlots, *owners: Owner) -> Claim:
    made = claim(slots, *owners)
    await asyncio.wait_for(made.take(), 10)
    return made


async def waiting(slots: FairSlots, *owners: Owner) -> tuple[Claim, "asyncio.Task[None]"]:
    made = claim(slots, *owners)
    task = asyncio.ensure_future(made.take())
    await asyncio.sleep(0)
    assert not task.done()
    return made, task


def is_unused(slots: FairSlots) -> bool:
    return not (slots.waiting or slots._line or slots._quotas.used or slots._quotas._used)


@in_a_loop
async def test_no_more_work_than_slots_and_all_is_done():
    slots, chance, running, done = FairSlots(3), random.Random(1), 0, 0
    owners = [Owner(holder, address) for holder in ("a", "b", None) for address in ("1", "2")]

    async def work(shared: Claim, owner: Owner) -> None:
        nonlocal running, done
        shared.join(owner)
        async with shared:
            running += 1
            assert running <= 3
            other = chance.choice(owners)
            shared.join(other)
            await asyncio.sleep(0)
            shared.leave(other)
            running -= 1
        done += 1
        shared.leave(owner)

    claims = [slots.claim() for _ in range(200)]
    tasks = [asyncio.ensure_future(work(one, chance.choice(owners))) for one in claims]
    for one in chance.sample(claims, 100):
        lender = chance.choice(owners)
        one.join(lender)
        if chance.random() < 0.5:
            await asyncio.sleep(0)
        one.leave(lender)
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert ended == [None] * 200
    assert done == 200
    assert is_unused(slots)


@in_a_loop
async def test_no_slot_is_lost_when_some_leave():
    slots, chance, running, done = FairSlots(3), random.Random(1), 0, 0

    async def work(holder: str) -> None:
        nonlocal running, done
        async with slots.slot(Owner(holder, "192.0.2.1")):
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
    assert is_unused(slots)


@in_a_loop
async def test_one_busy_owner_does_not_delay_others():
    slots, order = FairSlots(1), list[Owner]()

    async def work(owner: Owner) -> None:
        async with slots.slot(owner):
            order.append(owner)
            await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(work(owner)) for owner in [*(MUCH,) * 10, LITTLE, LITTLE]]
    await asyncio.gather(*tasks)
    assert order[:5] == [MUCH, MUCH, LITTLE, MUCH, LITTLE]


@pytest.mark.parametrize("holder", ["much", None])
@in_a_loop
async def test_no_owner_has_all_slots(holder: str | None):
    """Neither a token, nor one address of it, nor one address without a token."""
    slots, mine = FairSlots(4), 2 if holder else 3
    for _ in range(mine):
        await taken(slots, Owner(holder, "192.0.2.1"))
    await waiting(slots, Owner(holder, "192.0.2.1"))
    await taken(slots, Owner(holder, "192.0.2.2"))
    if holder:
        await waiting(slots, Owner(holder, "192.0.2.3"))
        await taken(slots, LITTLE)


@in_a_loop
async def test_a_single_slot_is_for_all():
    slots = FairSlots(1)
    (await taken(slots, MUCH)).give_back()
    await taken(slots, LITTLE)


@in_a_loop
async def test_addresses_of_a_holder_compete_and_add_nothing_to_its_turns():
    slots, order = FairSlots(1), list[Owner]()
    addresses = [Owner("much", str(n)) for n in range(5)]

    async def work(owner: Owner) -> None:
        async with slots.slot(owner):
            order.append(owner)
            await asyncio.sleep(0)

    asked = [*addresses, addresses[0], LITTLE, LITTLE]
    await asyncio.gather(*(asyncio.ensure_future(work(owner)) for owner in asked))
    assert order == [addresses[0], addresses[1], LITTLE, addresses[2], LITTLE, addresses[3], addresses[4], addresses[0]]


@in_a_loop
async def test_owners_of_shared_work_lend_it_their_turns():
    slots = FairSlots(4)
    mine = [await taken(slots, MUCH) for _ in range(2)]
    shared, task = await waiting(slots, MUCH)
    shared.join(LITTLE)
    await asyncio.wait_for(task, 10)
    # It counts for both, as long as they share it.
    await taken(slots, LITTLE)
    _, next_one = await waiting(slots, LITTLE)
    mine[0].give_back()
    await asyncio.sleep(0)
    assert not next_one.done()
    shared.leave(LITTLE)
    await asyncio.wait_for(next_one, 10)


@in_a_loop
async def test_an_owner_that_leaves_takes_its_turn_along():
    slots = FairSlots(4)
    for _ in range(2):
        await taken(slots, MUCH)
    for _ in range(2):
        await taken(slots, LITTLE)
    shared, task = await waiting(slots, MUCH, LITTLE)
    other = Owner("other", "192.0.2.1")
    _, of_other = await waiting(slots, other)
    shared.join(other)
    shared.leave(other)
    shared.leave(LITTLE)
    assert slots.waiting == 2
    assert set(slots._line._waiting) == {("much",), ("other",)}
    task.cancel()
    await asyncio.wait({task})
    assert (slots.waiting, set(slots._line._waiting)) == (1, {("other",)})
    of_other.cancel()


@in_a_loop
async def test_a_cancelled_wait_is_not_counted():
    slots = FairSlots(1)
    await taken(slots, MUCH)
    tasks = [(await waiting(slots, MUCH))[1] for _ in range(3)]
    tasks[1].cancel()
    await asyncio.wait(tasks[1:2])
    assert slots.waiting == 2
