"""Starts everything, in the order of the flow, and stops it in the reverse order. `python server.py --help`."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from changefeed import __version__, doctor
from changefeed.clock import DatabaseClock
from changefeed.database import DatabaseUnavailable
from changefeed.demo import Demo
from changefeed.echo import Echo
from changefeed.embedded import EmbeddedError
from changefeed.log_lines import JSON, TEXT, log_to_stderr
from changefeed.meters import Meters, shared_memory
from changefeed.open_files import raise_limit
from changefeed.payload import Payload
from changefeed.printable import printable
from changefeed.processes import NeverStarted, Parent, Processes
from changefeed.service_manager import ServiceManager
from changefeed.settings import Settings, SettingsError
from changefeed.settings_sources import load as load_settings
from changefeed.source import Source, source_of
from handlers.alerting import keep_alerting
from handlers.assembly import KNOWN_DEADLINE_SECONDS, make_feed
from handlers.certificate import load_certificate
from handlers.ended_sessions import PART_BYTES as ENDED_BYTES
from handlers.ended_sessions import EndedSessions
from handlers.feed import Feed, Share
from handlers.http_server import make_server
from handlers.routes import make_app
from handlers.sampling import keep_sampling, one_line_of
from handlers.starting import StartError, bind, first_contact, first_of, prepare_tables
from handlers.stopping import stop_serving
from handlers.tokens import load_tokens, reload_tokens
from handlers.webhook import Webhook

logger = logging.getLogger("server")


def main(argv: Sequence[str]) -> int:
    """The exit code: 0 after SIGINT or SIGTERM, 2 when it could not start; for `doctor` and `bench` see there."""
    log_format = TEXT
    try:
        if argv[:1] == ["doctor"]:
            return doctor.main(
                load_settings(argv[1:], os.environ, Path(".env"), command="doctor", description=doctor.DESCRIPTION)
            )
        if argv[:1] == ["bench"]:
            from benchmarks import own  # the server itself needs none of it

            return own.main(argv[1:], os.environ, Path(".env"))
        settings = load_settings(argv, os.environ, Path(".env"))
        log_to_stderr(log_format := settings.log_format)
        uvloop.run(run(settings, argv))
    except NeverStarted:
        return 2  # the process has said why
    except (SettingsError, StartError, EmbeddedError) as error:
        if log_format == JSON:
            logger.error("%s", error)
        else:
            print(f"server.py: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


class HangUp:
    """What SIGHUP does: the files of the settings are read again, by `reloads`.

    It also comes when the terminal is closed that the server was started from: then the server ends.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self.reloads: list[Callable[[], None]] = []
        self._stop = stop
        self._had_terminal = _has_terminal()

    def __call__(self) -> None:
        if self._had_terminal and not _has_terminal():
            self._stop()
            return
        for reload in self.reloads:
            reload()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def run(settings: Settings, argv: Sequence[str]) -> None:
    """Serves until SIGINT or SIGTERM. Raises StartError, SettingsError, EmbeddedError or NeverStarted."""
    stopping = asyncio.Event()
    manager = ServiceManager(os.environ)

    def stop() -> None:
        manager.stopping()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    load_tokens(settings)  # what is wrong with them, or with the certificate, is said before anything is opened
    load_certificate(settings)
    hang_up = HangUp(stop)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
    files = raise_limit()
    if parent := await Parent.find():
        await work(settings, parent, stopping, hang_up)
        return
    if settings.client_limit > files:
        logger.warning(
            "--client-limit %d is more than the %d files a process may open here; see ulimit -n",
            settings.client_limit,
            files,
        )
    if settings.alert_webhook and not settings.alert:
        logger.warning("--alert-webhook has no effect without --alert")
    if settings.processes > 1:
        await lead(settings, argv, stopping, manager, hang_up)
        return
    listening = bind(settings.address, settings.port)
    url, share = url_of(listening, settings), Share()
    with source_of(settings) as source:
        async with running(manager.keep_telling(lambda: one_line_of(share.meters))):
            await serve(
                settings,
                source,
                share,
                stopping,
                hang_up,
                listen=lambda: listening,
                ready=lambda: announce(url, source, settings, manager),
            )


async def lead(
    settings: Settings, argv: Sequence[str], stopping: asyncio.Event, manager: ServiceManager, hang_up: HangUp
) -> None:
    """The parent of --processes, which serves nobody itself."""
    # First without SO_REUSEPORT: a port that another server holds is refused, and not shared with it.
    checked = bind(settings.address, settings.port)
    url, port = url_of(checked, settings), checked[0].getsockname()[1]
    for free in checked:
        free.close()
    with (
        source_of(settings) as source,
        shared_memory(settings.processes) as memory,
        shared_memory(settings.processes, ENDED_BYTES) as ended_sessions,
    ):
        orders = {
            "source": asdict(source),
            "port": port,
            "memory": memory,
            "ended_sessions": ended_sessions,
            "started_at": datetime.now(UTC).isoformat(),
            "session_secret": Share().session_secret,
        }
        meters = Meters(1, settings.processes, memory)
        processes = Processes(
            (sys.executable, __file__, *argv),
            settings.processes,
            orders=orders,
            inherited=(memory, ended_sessions),
            ended=meters.clear,
        )
        hang_up.reloads.append(processes.hang_up)
        async with running(manager.keep_telling(lambda: one_line_of(meters))):
            await processes.run(stopping, on_ready=lambda: announce(url, source, settings, manager))


async def work(settings: Settings, parent: Parent, stopping: asyncio.Event, hang_up: HangUp) -> None:
    """One of the processes of --processes. It ends with its parent, however that ends."""
    orders = parent.orders
    number, port = orders["number"], orders["port"]
    log_to_stderr(settings.log_format, number)
    share = Share(
        number,
        settings.processes,
        prepares=number == 1 and orders["is_first_start"],
        others_are_ready=orders["others_are_ready"],
        meters=Meters(number, settings.processes, orders["memory"]),
        started_at=datetime.fromisoformat(orders["started_at"]),
        session_secret=orders["session_secret"],
        ended_sessions=EndedSessions(number, settings.processes, orders["ended_sessions"]),
    )
    await serve(
        settings,
        Source(**orders["source"]),
        share,
        stopping,
        hang_up,
        listen=lambda: bind(settings.address, port, is_shared=True),
        ready=parent.say_ready,
        parent=parent,
    )


async def serve(
    settings: Settings,
    source: Source,
    share: Share,
    stopping: asyncio.Event,
    hang_up: HangUp,
    *,
    listen: Callable[[], list[socket.socket]],
    ready: Callable[[], None],
    parent: Parent | None = None,
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
        await stack.enter_async_context(running(feed.live_clients.keep_telling_places()))
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


def reload_tokens_of(feed: Feed) -> None:
    """What is open by a token that is gone, or has other rights now, is closed as if it had expired."""
    try:
        gone = reload_tokens(feed.gate.tokens, feed.settings)
    except SettingsError as error:
        logger.warning("the tokens are not reloaded: %s", error)
        return
    feed.gate.expiries.end_all_of(lambda identity: identity in gone)
    logger.info("reloaded the tokens; %d are gone, or have other rights", len(gone))


async def alerting(feed: Feed) -> None:
    if feed.settings.alert_webhook is None:
        await keep_alerting(feed, send=lambda _: None)
        return
    webhook = Webhook(feed.settings.alert_webhook)
    async with running(webhook.run()):
        await keep_alerting(feed, webhook.send)


async def follow_parent(parent: Parent, feed: Feed, stopping: asyncio.Event) -> None:
    def hand_over() -> dict[str, Any]:
        feed.change_counts.sample()  # the other goes on from these
        return feed.history.hand_over(feed.follower.memory)

    await parent.hear(tell=hand_over)
    if not stopping.is_set():
        logger.warning("the parent process is gone: stopping")
        stopping.set()


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


def url_of(listening: Sequence[socket.socket], settings: Settings) -> str:
    host, port = listening[0].getsockname()[:2]
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{settings.base_path}/"


def announce(url: str, source: Source, settings: Settings, manager: ServiceManager) -> None:
    manager.ready()
    if settings.from_environment:
        logger.info("settings that the environment gave: %s", ", ".join(settings.from_environment))
    demo = f" (demo; look into its database with: {source.psql_command})" if source.is_demo else ""
    if settings.log_format == JSON:
        logger.info("psqlisten2websocket %s shows the changes at %s%s", __version__, url, demo)
    else:
        print(f"psqlisten2websocket {__version__} shows the changes at {url}{demo}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
