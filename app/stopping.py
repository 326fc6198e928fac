"""Closes every connection: clients lose nothing that was sent, and do not all reconnect at once."""

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
    """How long the reconnecting of this many clients is spread over."""
    return max(LEAST_SPREAD_SECONDS, clients / RETURNS_PER_SECOND)


async def stop_serving(http_server: HTTPServer, context: ServerContext) -> None:
    """Stops accepting, tells each client when to reconnect, and closes what is open."""
    http_server.stop()
    live = tuple(context.live_clients.connected)
    # The other processes stop too, and have as many clients each; their own numbers may be falling already.
    spread = spread_seconds(len(live) * context.slot.of)
    for live_client in live:
        live_client.go_away(round(random.uniform(0, spread) * 1000))
    connected = context.connected
    busy = [asyncio.ensure_future(client.outbox.drained()) for client in connected if client.outbox.is_busy]
    if busy:
        await asyncio.wait(busy, timeout=DRAIN_DEADLINE_SECONDS)
    for client in connected:
        client.leave(REASON)
    with contextlib.suppress(TimeoutError):  # the kernel closes the rest
        async with asyncio.timeout(CLOSE_DEADLINE_SECONDS):
            await context.admission.until_empty()
    await http_server.close_all_connections()
