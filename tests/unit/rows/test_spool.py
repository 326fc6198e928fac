"""A spool gives what it got, from memory or from its file; and counts what it has."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from changefeed.rows import spool
from changefeed.rows.spool import Spool, SpoolFull, SpoolSpace


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@in_a_loop
async def test_parts_come_back_whether_in_memory_or_in_the_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spool, "MEMORY_BYTES", 100)
    space = SpoolSpace(10_000)
    one, other = Spool(space, "a"), Spool(space, "b")
    parts = [bytes([n]) * n * 10 for n in range(1, 20)]
    for part in parts:
        await asyncio.gather(one.append(part), other.append(part[::-1]))
    assert space.bytes == 2 * sum(map(len, parts))
    assert [await one.part(n) for n in range(len(one))] == parts
    assert await asyncio.gather(*(other.part(n) for n in (18, 0, 9))) == [parts[n] for n in (18, 0, 9)]
    file = one._file
    assert file
    one.close()
    other.close()
    assert space.bytes == 0
    await asyncio.wrap_future(spool._disk.submit(lambda: None))
    assert file.closed


@in_a_loop
async def test_all_together_have_a_bound_and_one_holder_half_of_it():
    space = SpoolSpace(100)
    one, another_one, other, third = Spool(space, "a"), Spool(space, "a"), Spool(space, "b"), Spool(space, "c")
    await one.append(b"x" * 40)
    with pytest.raises(SpoolFull):
        await another_one.append(b"x" * 20)
    await other.append(b"x" * 50)
    with pytest.raises(SpoolFull):
        await third.append(b"x" * 20)
    one.close()
    await another_one.append(b"x" * 20)
    await third.append(b"x" * 20)
    for each in (another_one, other, third):
        each.close()
    assert space.bytes == 0
