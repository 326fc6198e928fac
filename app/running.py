"""Runs a coroutine in the background of a block; if the coroutine fails, the block ends with its error."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any


@contextlib.asynccontextmanager
async def running(background: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs `background` as long as the block runs. If it fails before, the block is cancelled and the error raised."""
    failure = None
    async with asyncio.TaskGroup() as group:
        task = group.create_task(background)
        try:
            yield
        except Exception as error:  # noqa: BLE001  # raised below, where the TaskGroup does not wrap it
            failure = error
        task.cancel()
    if failure:
        raise failure
