"""Runs the server until a signal stops it, in one process or several."""

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from functools import partial

from app.announcement import announce, url_of
from app.hang_up import HangUp
from app.running import running
from app.serve import serve
from app.source import source_of
from app.starting import bind
from app.workers import run_supervisor, run_worker
from changefeed.hub import PLAIN_CHANNEL
from handlers.access.tokens import load_tokens
from handlers.http.certificate import load_certificate
from handlers.http.context import ProcessSlot
from handlers.metrics.gauges import one_line_of
from process.open_files import raise_limit
from process.supervisor import SupervisorLink
from process.systemd import ServiceManager
from settings.table import DEMO_RATE, Settings

logger = logging.getLogger("server")

# Of names in .env that are the database's, what the user may have meant.
OWN_SETTINGS = {"PORT": "; the server's own port is HTTP_PORT", "HOST": "; the address to listen on is ADDRESS"}


async def run(settings: Settings, argv: Sequence[str]) -> None:
    """Serves until SIGINT or SIGTERM. Raises StartError, SettingsError, EmbeddedError or NeverStarted."""
    stopping = asyncio.Event()
    manager = ServiceManager(os.environ)
    stop_now = partial(stop, manager, stopping)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop_now)
    load_tokens(settings)  # reports faulty tokens, or a faulty certificate, before anything is opened
    load_certificate(settings)
    hang_up = HangUp(stop_now)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
    files = raise_limit()
    if parent := await SupervisorLink.find():
        await run_worker(settings, parent, stopping, hang_up)
        return
    if settings.client_limit > files:
        logger.warning(
            "--client-limit %d is more than the %d files a process may open here; see ulimit -n",
            settings.client_limit,
            files,
        )
    if PLAIN_CHANNEL in settings.channels and settings.asks_for_tokens:
        logger.warning(
            "--channels %s carries rows of any table: /listen/%s requires a token with a right to every table",
            PLAIN_CHANNEL,
            PLAIN_CHANNEL,
        )
    if settings.alert_webhook and not settings.alert:
        logger.warning("--alert-webhook has no effect without --alert")
    if settings.database_url is not None:
        for name, is_set in (("--demo-rate", settings.demo_rate != DEMO_RATE), ("--data-dir", settings.data_dir)):
            if is_set:
                logger.warning(
                    "%s has no effect with --database-url: it is for the demo, which has a database of its own", name
                )
    for name in settings.without_effect:
        logger.warning(
            "%s in .env has no effect: it is the database's, which DATABASE_URL or a variable of libpq names already%s",
            name,
            OWN_SETTINGS.get(name, ""),
        )
    if settings.processes > 1:
        await run_supervisor(settings, argv, stopping, manager, hang_up)
        return
    listening = bind(settings.address, settings.port)
    url, slot = url_of(listening, settings), ProcessSlot()
    with source_of(settings) as source:
        async with running(manager.keep_telling(lambda: one_line_of(slot.numbers))):
            await serve(
                settings,
                source,
                slot,
                stopping,
                hang_up,
                listen=lambda: listening,
                ready=lambda: announce(url, source, settings, manager),
            )


def stop(manager: ServiceManager, stopping: asyncio.Event) -> None:
    """Begins to stop the server, and notifies systemd."""
    manager.stopping()
    stopping.set()
