"""tests.feed_case: a task of the server that dies fails the test with its traceback, instead of letting it wait for ever."""

import asyncio
import unittest
from collections.abc import Awaitable, Callable
from unittest import mock

from tornado.testing import gen_test

from changefeed.journal.follower import Follower
from tests.feed_case import FeedTestCase


def errors_with(run: Callable[[Follower, asyncio.Event], Awaitable[None]]) -> str:
    """What is reported of a test that waits for ever, on a server whose follower runs as `run`. The event: it waits."""
    waits = asyncio.Event()

    class Waiting(FeedTestCase):
        @gen_test(timeout=0.5)
        async def test_it(self):
            waits.set()
            await asyncio.Event().wait()

    result = unittest.TestResult()
    with mock.patch.object(Follower, "run", lambda follower: run(follower, waits)):
        Waiting("test_it").run(result)
    return "\n".join(text for _, text in result.errors)


def test_one_that_dies_at_the_start_fails_it():
    async def die(follower: Follower, waits: asyncio.Event) -> None:
        raise NameError("a misspelt name")

    assert "in die\n    raise NameError" in errors_with(die)


def test_a_task_that_dies_is_reported_with_the_test():
    run = Follower.run

    async def die(follower: Follower, waits: asyncio.Event) -> None:
        running = asyncio.ensure_future(run(follower))
        await waits.wait()
        running.cancel()
        raise NameError("a misspelt name")

    errors = errors_with(die)
    assert "in die\n    raise NameError" in errors
    assert "Operation timed out" in errors
