"""A canary proves that a connection receives notifications, whatever happens to the pool."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from psycopg2 import sql

from changefeed.postgres.canary import Canary, CanaryLost
from changefeed.postgres.pool import DatabaseUnavailable
from changefeed.postgres.raw_channels import ChannelRefused

Send = Callable[[str, str], Awaitable[Any]]


async def fly(canary: Canary, run: Any = None, lost: "asyncio.Future[None] | None" = None) -> bool:
    try:
        return await canary.fly(run or refuse, lost or asyncio.get_running_loop().create_future())
    finally:
        canary.forget()


async def refuse(statement: sql.Composable) -> None:
    raise AssertionError("the connection was not asked to notify itself")


async def swallow(channel: str, payload: str) -> None:
    """As a transaction pooler does."""


async def never(channel: str, payload: str) -> None:
    await asyncio.Event().wait()


async def fail(channel: str, payload: str) -> None:
    raise DatabaseUnavailable("too many clients")


def test_one_that_returns_proves_the_connection():
    async def go() -> None:
        async def send(channel: str, payload: str) -> None:
            assert channel == canary.channel
            canary.receive("another's")
            assert canary.came_back
            assert not canary.came_back.done()
            canary.receive(payload)

        canary = Canary(send)
        assert await fly(canary)
        assert (canary.error, canary.round_trip_seconds is not None) == (None, True)

    asyncio.run(go())


@pytest.mark.parametrize(("send", "why"), [(swallow, "pool_mode=transaction"), (never, "has not answered")])
def test_a_missing_one_is_explained_by_its_sending(send: Send, why: str):
    with pytest.raises(CanaryLost, match=why):
        asyncio.run(fly(Canary(send, deadline_seconds=0.01)))


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_self_notifying_connection_is_not_deaf(is_refused: bool):
    async def go() -> None:
        async def run(statement: sql.Composable) -> None:
            if is_refused:
                raise ChannelRefused("the queue of notifications is full")
            canary.receive(canary._payload)

        canary = Canary(fail, deadline_seconds=0.1)
        assert not await fly(canary, run)
        assert canary.error == "the canary could not be sent: too many clients"

    asyncio.run(go())


def test_as_long_as_anything_arrives_it_is_waited_for():
    async def go() -> None:
        loop = asyncio.get_running_loop()
        canary = Canary(swallow, deadline_seconds=0.05)
        flying = asyncio.ensure_future(fly(canary))
        begun = loop.time()
        while loop.time() < begun + 3 * canary.deadline_seconds:
            canary.note_arrival()
            await asyncio.sleep(0)
        assert not flying.done()
        with pytest.raises(CanaryLost):
            await flying

    asyncio.run(go())


def test_a_connection_that_breaks_ends_the_flight_with_its_reason():
    async def go() -> None:
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.set_exception(ConnectionError("broken"))
        with pytest.raises(ConnectionError, match="broken"):
            await fly(Canary(never), lost=lost)

    asyncio.run(go())
