"""Ends every connection, so that the clients lose nothing that was sent and do not all come back at once."""

import asyncio
import contextlib
import random

from tornado.httpserver import HTTPServer

from handlers.http.context import ServerContext

DRAIN_DEADLINE_SECONDS = 5.0  # for all outboxes at once
CLOSE_DEADLINE_SECONDS = 2.0  # for the answers to the close frames
RETURNS_PER_SECOND = 500
LEAST_SPREAD_SECONDS = 1.0
REASON = "the server is stopping"


def spread_seconds(clients: int) -> float:
    """Over how long so many come back."""
    return max(LEAST_SPREAD_SECONDS, clients / RETURNS_PER_SECOND)


async def stop_serving(http_server: HTTPServer, feed: ServerContext) -> None:
    """Lets nobody in any more, tells everybody when to come back, and closes what is open."""
    http_server.stop()
    followers = tuple(feed.live_clients.connected)
    # The other processes stop too, and have as many clients each; their own numbers may be falling already.
    spread = spread_seconds(len(followers) * feed.share.of)
    for follower in followers:
        follower.go_away(round(random.uniform(0, spread) * 1000))
    everybody = feed.connected
    busy = [asyncio.ensure_future(client.outbox.drained()) for client in everybody if client.outbox.is_busy]
    if busy:
        await asyncio.wait(busy, timeout=DRAIN_DEADLINE_SECONDS)
    for client in everybody:
        client.leave(REASON)
    with contextlib.suppress(TimeoutError):  # the kernel closes the rest
        async with asyncio.timeout(CLOSE_DEADLINE_SECONDS):
            await feed.admission.until_empty()
    await http_server.close_all_connections()
