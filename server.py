"""Starts everything, in the order of the flow, and stops it in the reverse order. `python server.py --help`."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import uvloop
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from changefeed import __version__
from changefeed.connection import complete, display_name, is_hopeless
from changefeed.database import Database
from changefeed.demo import Demo, make_tables
from changefeed.echo import Echo
from changefeed.embedded import EmbeddedError, EmbeddedPostgres, default_data_dir
from changefeed.hub import Broadcast, Hub
from changefeed.listener import Listener, ListenerState, Outage
from changefeed.queries import load
from changefeed.settings import Settings, SettingsError
from changefeed.settings import load as load_settings
from changefeed.tally import Tally
from handlers.activity import ActivitySocket
from handlers.events import EventSocket
from handlers.feed import Feed
from handlers.routes import make_app

logger = logging.getLogger("server")

CHANNEL = "events"  # the original's
QUERIES = load("server.sql")


class StartError(Exception):
    """The server cannot start; the message is one line that says why and what to do."""


def main(argv: Sequence[str]) -> int:
    """The exit code: 0 after SIGINT or SIGTERM, 2 when it could not start."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    try:
        settings = load_settings(argv, os.environ, Path(".env"))
        uvloop.run(run(settings))
    except (SettingsError, StartError, EmbeddedError) as error:
        print(f"server.py: {error}", file=sys.stderr)
        return 2
    return 0


async def run(settings: Settings) -> None:
    """Serves until SIGINT or SIGTERM. Raises StartError or EmbeddedError."""
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    listening_sockets = bind(settings)
    async with contextlib.AsyncExitStack() as stack:
        embedded = None
        if settings.database_url is None:
            embedded = EmbeddedPostgres(settings.data_dir or default_data_dir())
            embedded.start()
            stack.callback(embedded.stop)
        conninfo = complete(embedded.conninfo if embedded else settings.database_url or "")
        state_changed = asyncio.Event()
        feed = make_feed(
            settings, conninfo, "demo (embedded)" if embedded else display_name(conninfo), state_changed.set
        )
        stack.callback(feed.database.close)
        http_server = HTTPServer(make_app(feed), xheaders=False)
        http_server.add_sockets(listening_sockets)
        stack.push_async_callback(stop_serving, http_server)
        await stack.enter_async_context(running(feed.listener.run()))
        if not await first_contact(feed, state_changed, stopping):
            return
        if embedded:
            await make_tables(feed.database)
            await stack.enter_async_context(running(Demo(feed.database, settings.demo_rate).run()))
        announce(listening_sockets[0], embedded)
        await stopping.wait()


def bind(settings: Settings) -> list[socket.socket]:
    try:
        return bind_sockets(settings.port, settings.address)
    except UnicodeError:
        raise StartError(f"{settings.address!r} is no address; choose another --address, such as 127.0.0.1") from None
    except OSError as error:
        where = f"{settings.address}:{settings.port}"
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"{where} is in use; stop what listens there, or choose another --port") from None
        raise StartError(f"cannot listen on {where} ({error.strerror}); choose another --address or --port") from None


def make_feed(
    settings: Settings, conninfo: str, database_name: str, on_state: Callable[[], None] = lambda: None
) -> Feed:
    """The flow, put together: listener -> hub -> tally and sockets. Nothing runs yet."""
    broadcasts: list[Broadcast] = [EventSocket.broadcast, *([Echo()] if settings.echo else [])]
    hub = Hub(Tally(time.time()), broadcasts)
    database = Database(conninfo)

    def tell_state() -> None:
        ActivitySocket.tell_database(feed)
        on_state()

    def tell_outage(outage: Outage) -> None:
        feed.remember(outage)
        EventSocket.tell_gap(outage)
        ActivitySocket.tell_gap(outage)

    listener = Listener(
        conninfo,
        [CHANNEL],
        send=lambda channel, payload: database.fetch(QUERIES["notify"], {"channel": channel, "payload": payload}),
        on_payloads=hub.receive,
        on_state=tell_state,
        on_outage=tell_outage,
    )
    feed = Feed(settings, hub, listener, database, database_name)
    return feed


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


async def first_contact(feed: Feed, state_changed: asyncio.Event, stopping: asyncio.Event) -> bool:
    """True when the listener listens, False when the server is to stop before. Raises StartError when it is no use."""
    listener, wait_seconds = feed.listener, feed.settings.database_wait_seconds
    deadline = time.monotonic() + wait_seconds
    told = None
    while listener.state is ListenerState.CONNECTING and not stopping.is_set():
        left = deadline - time.monotonic()
        if listener.reason and (is_hopeless(listener.reason) or left <= 0):
            raise StartError(
                f"cannot use the database {feed.database_name}: {listener.reason}; {advice(listener.reason)}"
            )
        if listener.reason and listener.reason != told:
            told = listener.reason
            logger.warning("waiting up to %g s for the database %s: %s", wait_seconds, feed.database_name, told)
        state_changed.clear()
        await first_of(state_changed.wait(), stopping.wait(), within_seconds=max(left, 0.05))
    return not stopping.is_set()


def advice(reason: str) -> str:
    if is_hopeless(reason):
        return "correct --database-url (user, password, database name)"
    return "is PostgreSQL running there? Correct --database-url, or wait longer with --database-wait-seconds"


async def first_of(*waits: Coroutine[Any, Any, Any], within_seconds: float) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=within_seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def announce(listening: socket.socket, embedded: EmbeddedPostgres | None) -> None:
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    demo = f" (demo; look into its database with: {embedded.psql_command})" if embedded else ""
    print(f"psqlisten2websocket {__version__} shows the changes at {url}{demo}", file=sys.stderr, flush=True)


async def stop_serving(http_server: HTTPServer) -> None:
    http_server.stop()
    for sockets in (EventSocket, ActivitySocket):
        sockets.close_all("the server is stopping")
    await http_server.close_all_connections()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
