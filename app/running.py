"""Runs a coroutine beside a block, and ends the block with an error should it end by one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any


@contextlib.asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs `work` beside the block. It ends with the block; should it end before, by a mistake, the server ends too."""
    trouble = None
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            yield
        except Exception as error:  # noqa: BLE001  # raised below, where the TaskGroup does not wrap it
            trouble = error
        task.cancel()
    if trouble:
        raise trouble
