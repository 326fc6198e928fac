"""One process that serves: starts everything in the order of the flow, and stops it in the reverse order."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any

from app.alerting import keep_alerting
from app.assembly import make_feed
from app.demo import Demo
from app.hang_up import HangUp
from app.running import running
from app.source import Source
from app.starting import first_contact, first_of, prepare_tables
from app.stopping import stop_serving
from app.webhook import Webhook
from changefeed.change.exposure import Payload
from changefeed.echo import Echo
from changefeed.postgres.clock_offset import DatabaseClock
from changefeed.postgres.pool import DatabaseUnavailable
from handlers.access.tokens import reload_tokens
from handlers.delivery.outages import KNOWN_DEADLINE_SECONDS
from handlers.http.certificate import load_certificate
from handlers.http.context import ProcessSlot, ServerContext
from handlers.http.server import make_server
from handlers.metrics.gauges import keep_sampling
from handlers.routes import make_app
from process.supervisor import SupervisorLink
from settings.table import Settings, SettingsError

logger = logging.getLogger("server")


async def serve(
    settings: Settings,
    source: Source,
    share: ProcessSlot,
    stopping: asyncio.Event,
    hang_up: HangUp,
    *,
    listen: Callable[[], list[socket.socket]],
    ready: Callable[[], None],
    parent: SupervisorLink | None = None,
) -> None:
    """Until `stopping`; ready() is called when what is committed is heard. Raises StartError."""
    state_changed = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        echo = stack.enter_context(contextlib.closing(Echo())) if settings.echo and share.is_first else None
        feed = make_feed(settings, source.conninfo, source.name, state_changed.set, echo, share)
        stack.callback(feed.close)
        certificate = load_certificate(settings)
        tls = certificate.context if certificate else None
        http_server = make_server(make_app(feed), feed, ssl_options=tls)
        if certificate:
            hang_up.reloads.append(certificate.reload)
            await stack.enter_async_context(running(certificate.follow()))
        if settings.asks_for_tokens:
            hang_up.reloads.append(lambda: reload_tokens_of(feed))
        stack.push_async_callback(stop_serving, http_server, feed)
        if not share.others_are_ready:
            http_server.add_sockets(listen())
        if share.is_first:
            await stack.enter_async_context(running(feed.gate.tokens.prepare()))
        if parent:
            await stack.enter_async_context(running(follow_parent(parent, feed, stopping)))
        await stack.enter_async_context(running(feed.listener.run()))
        if not await first_contact(feed, state_changed, stopping):
            return
        if share.prepares and not await prepare_tables(feed, stopping, is_demo=source.is_demo):
            return
        if settings.payload is Payload.KEYS:
            with contextlib.suppress(DatabaseUnavailable):  # until it is read, a plain trigger's rows have no key
                await feed.catalog.until_read()
        if parent and (counts := await parent.ask_others()):
            feed.history.take_over(counts)
            feed.change_counts.begin()
        await stack.enter_async_context(running(feed.history.run()))
        await stack.enter_async_context(running(feed.follower.run()))
        await stack.enter_async_context(running(feed.live_clients.keep_advancing_cursors()))
        await stack.enter_async_context(running(keep_sampling(feed)))
        if parent:
            await stack.enter_async_context(running(feed.gate.keep_ending()))
        # Who connects once it is announced misses nothing that is committed from then on.
        known = feed.follower.until_known(KNOWN_DEADLINE_SECONDS)
        await first_of(known, stopping.wait(), within_seconds=KNOWN_DEADLINE_SECONDS)
        await stack.enter_async_context(running(feed.lookout.run()))
        clock = DatabaseClock(feed.database, feed.hub.tally.set_database_ahead)
        await stack.enter_async_context(running(clock.run()))
        if share.is_first:
            await stack.enter_async_context(running(feed.watching.tend()))
        if share.is_first and source.is_demo:
            await stack.enter_async_context(running(Demo(feed.database, settings.demo_rate).run()))
        if share.is_first and settings.alert:
            await stack.enter_async_context(running(alerting(feed)))
        if share.others_are_ready:
            http_server.add_sockets(listen())
        ready()
        await stopping.wait()
        logger.info("stopping; %d clients are connected", sum(share.census.here().values()))


def reload_tokens_of(feed: ServerContext) -> None:
    """What is open by a token that is gone, or has other rights now, is closed as if it had expired."""
    try:
        gone = reload_tokens(feed.gate.tokens, feed.settings)
    except SettingsError as error:
        logger.warning("the tokens are not reloaded: %s", error)
        return
    feed.gate.expiries.end_all_of(lambda identity: identity in gone)
    logger.info("reloaded the tokens; %d are gone, or have other rights", len(gone))


async def alerting(feed: ServerContext) -> None:
    if feed.settings.alert_webhook is None:
        await keep_alerting(feed, send=lambda _: None)
        return
    webhook = Webhook(feed.settings.alert_webhook)
    async with running(webhook.run()):
        await keep_alerting(feed, webhook.send)


async def follow_parent(parent: SupervisorLink, feed: ServerContext, stopping: asyncio.Event) -> None:
    def hand_over() -> dict[str, Any]:
        feed.change_counts.sample()  # the other goes on from these
        return feed.history.hand_over(feed.follower.memory)

    await parent.hear(tell=hand_over)
    if not stopping.is_set():
        logger.warning("the parent process is gone: stopping")
        stopping.set()
