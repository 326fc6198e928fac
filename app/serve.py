"""One process that serves: starts everything in the order in which changes flow, and stops it in reverse order."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from app.alerting import keep_alerting
from app.assembly import make_context
from app.demo import Demo
from app.hang_up import HangUp
from app.running import running
from app.source import DatabaseSource
from app.starting import first_contact, first_of, prepare_tables
from app.stopping import stop_serving
from app.webhook import Webhook
from changefeed.change.exposure import Payload
from changefeed.echo import Echo
from changefeed.postgres.clock_offset import DatabaseClock
from changefeed.postgres.pool import DatabaseUnavailable
from changefeed.selection.rights import unchecked
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

UNCHECKED_SHOWN = 5


async def serve(
    settings: Settings,
    source: DatabaseSource,
    slot: ProcessSlot,
    stopping: asyncio.Event,
    hang_up: HangUp,
    *,
    listen: Callable[[], list[socket.socket]],
    ready: Callable[[], None],
    parent: SupervisorLink | None = None,
) -> None:
    """Serves until `stopping`. Calls ready() once no later commit can be missed. Raises StartError."""
    state_changed = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        echo = stack.enter_context(contextlib.closing(Echo())) if settings.echo and slot.is_first else None
        context = make_context(settings, source.conninfo, source.name, state_changed.set, echo, slot)
        stack.callback(context.close)
        certificate = load_certificate(settings)
        tls = certificate.context if certificate else None
        http_server = make_server(make_app(context), context, ssl_options=tls)
        if certificate:
            hang_up.reloads.append(certificate.reload)
            await stack.enter_async_context(running(certificate.follow()))
        if settings.asks_for_tokens:
            hang_up.reloads.append(lambda: reload_tokens_of(context))
        stack.push_async_callback(stop_serving, http_server, context)
        if not slot.others_are_ready:
            http_server.add_sockets(listen())
        if slot.is_first:
            await stack.enter_async_context(running(context.authenticator.tokens.prepare()))
        if parent:
            context.watching.installation.on_seen = partial(parent.remember, has_seen_schema=True)
            await stack.enter_async_context(running(follow_parent(parent, context, stopping)))
        await stack.enter_async_context(running(context.listener.run()))
        if not await first_contact(context, state_changed, stopping):
            return
        if slot.prepares and not await prepare_tables(context, stopping, is_demo=source.is_demo):
            return
        if settings.payload is Payload.KEYS:
            with contextlib.suppress(DatabaseUnavailable):  # until it is read, rows of NOTIFY triggers have no key
                await context.catalog.until_read()
        if parent and (counts := await parent.ask_others()):
            take_over(context, counts)
        if slot.is_first:
            await stack.enter_async_context(running(look_for_unchecked_rights(context)))
        await context.lookout.note_watched()
        await stack.enter_async_context(running(context.backfill.run()))
        await stack.enter_async_context(running(context.follower.run()))
        stack.enter_context(slot.siblings.receiving(context.follower.exchange.receive))
        await stack.enter_async_context(running(context.live_clients.keep_advancing_cursors()))
        await stack.enter_async_context(running(keep_sampling(context)))
        if parent:
            await stack.enter_async_context(running(context.authenticator.keep_ending()))
        # A client that connects after the announcement misses nothing that is committed from then on.
        known = context.follower.until_known(KNOWN_DEADLINE_SECONDS)
        await first_of(known, stopping.wait(), within_seconds=KNOWN_DEADLINE_SECONDS)
        await stack.enter_async_context(running(context.lookout.run()))
        clock = DatabaseClock(context.request_pool, context.hub.tally.set_database_ahead)
        await stack.enter_async_context(running(clock.run()))
        if slot.is_first:
            await stack.enter_async_context(running(context.watching.maintain()))
        if slot.is_first and source.is_demo:
            await stack.enter_async_context(running(Demo(context.request_pool, settings.demo_rate).run()))
        if slot.is_first and settings.alert:
            await stack.enter_async_context(running(alerting(context)))
        if slot.others_are_ready:
            http_server.add_sockets(listen())
        ready()
        await stopping.wait()
        logger.info("stopping; %d clients are connected", sum(slot.client_counts.here().values()))


def reload_tokens_of(context: ServerContext) -> None:
    """Reads the tokens again. Closes connections whose token is gone or has other rights, as if it had expired."""
    try:
        gone = reload_tokens(context.authenticator.tokens, context.settings)
    except SettingsError as error:
        logger.warning("could not reload the tokens: %s", error)
        return
    context.authenticator.expiries.end_all_of(lambda identity: identity in gone)
    logger.info("reloaded the tokens; %d were removed or have other rights", len(gone))
    log_unchecked_rights(context)


async def look_for_unchecked_rights(context: ServerContext) -> None:
    if any(grant.filters for grant in context.authenticator.tokens.known_grants):
        with contextlib.suppress(DatabaseUnavailable):
            await context.catalog.until_read()
            log_unchecked_rights(context)


def log_unchecked_rights(context: ServerContext) -> None:
    """Logs where a filter of the token file cannot be checked, before a holder comes."""
    found = sorted(unchecked(context.authenticator.tokens.known_grants, context.catalog.tables.columns))
    if found and context.slot.is_first:
        logger.warning(
            "--token-file: filters cannot be checked on %s%s: there is no such column, or its type does not fit; such "
            "tokens get nothing of the table; correct the file and send SIGHUP",
            ", ".join(f"{column} of {table}" for table, column in found[:UNCHECKED_SHOWN]),
            f" and {len(found) - UNCHECKED_SHOWN} more" if len(found) > UNCHECKED_SHOWN else "",
        )


async def alerting(context: ServerContext) -> None:
    if context.settings.alert_webhook is None:
        await keep_alerting(context, send=lambda _: None)
        return
    webhook = Webhook(context.settings.alert_webhook)
    async with running(webhook.run()):
        await keep_alerting(context, webhook.send)


def hand_over(context: ServerContext) -> dict[str, Any]:
    """The counts of this process, as JSON, for one that starts. That one counts on from the numbers sampled now."""
    context.change_counts.sample()
    return context.backfill.hand_over(context.follower.cache)


def take_over(context: ServerContext, counts: dict[str, Any]) -> None:
    """Takes what hand_over() of another process returned, before this one counts."""
    context.backfill.take_over(counts)
    context.change_counts.begin()


async def follow_parent(parent: SupervisorLink, context: ServerContext, stopping: asyncio.Event) -> None:
    await parent.attend(tell=partial(hand_over, context))
    if not stopping.is_set():
        logger.warning("the parent process is gone: stopping")
        stopping.set()
