"""A spool gives what it got, from memory or from its file; and counts what it has."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from changefeed.owners import Owner, Quotas
from changefeed.rows import spool
from changefeed.rows.spool import Spool, SpoolFull


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def spool_of(space: Quotas, address: str, holder: str | None = None) -> Spool:
    spool = Spool(space)
    spool.holding.join(Owner(holder, address))
    return spool


@in_a_loop
async def test_parts_come_back_whether_in_memory_or_in_the_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spool, "MEMORY_BYTES", 100)
    space = Quotas(10_000)
    one, other = spool_of(space, "a"), spool_of(space, "b")
    parts = [bytes([n]) * n * 10 for n in range(1, 20)]
    for part in parts:
        await asyncio.gather(one.append(part), other.append(part[::-1]))
    assert space.used == 2 * sum(map(len, parts))
    assert [await one.part(n) for n in range(len(one))] == parts
    assert await asyncio.gather(*(other.part(n) for n in (18, 0, 9))) == [parts[n] for n in (18, 0, 9)]
    file = one._file
    assert file
    one.close()
    other.close()
    assert space.used == 0
    await asyncio.wrap_future(spool._disk.submit(lambda: None))
    assert file.closed


@in_a_loop
async def test_all_together_have_a_bound_and_no_owner_has_all():
    space = Quotas(100)
    one, another_one, other = spool_of(space, "a"), spool_of(space, "a"), spool_of(space, "b")
    await one.append(b"x" * 60)
    with pytest.raises(SpoolFull):
        await another_one.append(b"x" * 20)
    await other.append(b"x" * 35)
    with pytest.raises(SpoolFull):
        await spool_of(space, "c").append(b"x" * 10)
    one.close()
    await another_one.append(b"x" * 20)
    await spool_of(space, "c").append(b"x" * 45)


@in_a_loop
async def test_what_is_shared_counts_for_each_and_fails_only_if_no_owner_has_room():
    space = Quotas(100)
    full, shared = spool_of(space, "a"), spool_of(space, "a")
    await full.append(b"x" * 75)
    with pytest.raises(SpoolFull):
        await shared.append(b"x")
    shared.holding.join(Owner(None, "b"))
    await shared.append(b"x" * 20)
    full.close()
    shared.holding.leave(Owner(None, "a"))
    await spool_of(space, "a").append(b"x" * 75)
    with pytest.raises(SpoolFull):
        await spool_of(space, "b").append(b"x" * 60)
    for each in (full, shared):
        each.close()
    assert dict(space._used) == {(None, "a"): 75}
