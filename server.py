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
from changefeed.backoff import backoff
from changefeed.catalog import Catalog
from changefeed.connection import complete, display_name
from changefeed.database import Database, DatabaseUnavailable
from changefeed.demo import Demo, make_tables
from changefeed.echo import Echo
from changefeed.embedded import EmbeddedError, EmbeddedPostgres, default_data_dir
from changefeed.follower import Follower
from changefeed.gap import Gap
from changefeed.history import load_history
from changefeed.hub import RECENT_LIMIT, Broadcast, Hub
from changefeed.journal import Journal
from changefeed.listener import Listener, ListenerState, Outage
from changefeed.memory import Memory
from changefeed.queries import load
from changefeed.settings import Settings, SettingsError
from changefeed.settings import load as load_settings
from changefeed.tally import Tally
from changefeed.watching import CannotWatch, NoSuchTable, Watching
from handlers.activity import ActivitySocket
from handlers.admission import Admission
from handlers.feed import Feed
from handlers.feed_client import FeedClient
from handlers.listen import ListenSocket
from handlers.routes import make_app

logger = logging.getLogger("server")

PLAIN_CHANNEL = "events"  # the original's
JOURNAL_CHANNEL = "changefeed"
QUERIES = load("server.sql")
CORRECT_IT = "correct --database-url (user, password, database name)"
CORRECT_OR_WAIT = "is PostgreSQL running there? Correct --database-url, or wait longer with --database-wait-seconds"
KNOWN_DEADLINE_SECONDS = 60.0  # after which a database is taken for one without a journal


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
        echo = stack.enter_context(contextlib.closing(Echo())) if settings.echo else None
        database_name = "demo (embedded)" if embedded else display_name(conninfo)
        feed = make_feed(settings, conninfo, database_name, state_changed.set, echo)
        stack.callback(feed.database.close)
        http_server = HTTPServer(make_app(feed), xheaders=False)
        http_server.add_sockets(listening_sockets)
        stack.push_async_callback(stop_serving, http_server)
        await stack.enter_async_context(running(feed.listener.run()))
        if not await first_contact(feed, state_changed, stopping):
            return
        if not await prepare_tables(feed, stopping, is_demo=embedded is not None):
            return
        await stack.enter_async_context(running(feed.watching.tend()))
        await stack.enter_async_context(running(feed.follower.run()))
        await stack.enter_async_context(running(FeedClient.keep_telling_places()))
        if embedded:
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
    settings: Settings,
    conninfo: str,
    database_name: str,
    on_state: Callable[[], None] = lambda: None,
    echo: Broadcast | None = None,
) -> Feed:
    """The flow, put together: listener -> follower of the journal -> hub -> tally and clients. Nothing runs yet."""
    broadcasts: list[Broadcast] = [FeedClient.broadcast, *([echo] if echo else [])]
    hub = Hub(Tally(time.time()), broadcasts)
    database = Database(conninfo)
    journal = Journal(database)

    telling: set[asyncio.Future[None]] = set()  # a task that nobody holds may vanish

    def tell_gap(gap: Gap) -> None:
        FeedClient.tell_gap(gap)
        ActivitySocket.tell_gap(gap)

    async def recall(memory: Memory) -> None:
        hub.remember(memory.newest(RECENT_LIMIT))
        await load_history(database, hub.tally, memory.edge.batch)

    follower = Follower(
        journal,
        publish=lambda page, cursor: hub.publish(page.changes, cursor),
        before_first=recall,
        tell_gap=tell_gap,
        drained=FeedClient.drained,
    )

    def on_payloads(payloads: list[tuple[str, str]]) -> None:
        plain = [payload for payload in payloads if payload[0] == PLAIN_CHANNEL]
        if plain:
            hub.receive(plain)
        if any(channel == JOURNAL_CHANNEL for channel, _ in payloads):
            follower.wake()
        ListenSocket.broadcast(payloads)

    def tell_state() -> None:
        if listener.state is ListenerState.LISTENING:
            follower.reidentify()
        ActivitySocket.tell_database(feed)
        on_state()

    def tell_outage(outage: Outage) -> None:
        database.renew()  # what made the listener deaf may have done so to the others
        feed.remember(outage)
        ListenSocket.tell_outage()
        telling.add(task := asyncio.ensure_future(tell_of(outage)))
        task.add_done_callback(telling.discard)

    async def tell_of(outage: Outage) -> None:
        """The journal keeps what happened meanwhile; plain notifications nobody keeps."""
        await follower.until_known(KNOWN_DEADLINE_SECONDS)
        if follower.memory is None or hub.has_plain_triggers or await watching.has_plain_triggers():
            why = f"the server did not hear PostgreSQL: {outage.reason}"
            tell_gap(Gap(why, since=outage.since, until=outage.until))

    listener = Listener(
        conninfo,
        [PLAIN_CHANNEL, JOURNAL_CHANNEL],
        send=lambda channel, payload: database.fetch(QUERIES["notify"], {"channel": channel, "payload": payload}),
        on_payloads=on_payloads,
        on_state=tell_state,
        on_outage=tell_outage,
    )
    watching = Watching(database, settings.watch, settings.retention_hours * 3600, settings.retention_bytes)
    catalog = Catalog(database, FeedClient.look_again)
    admission = Admission(settings.client_limit, settings.client_limit_per_address)
    feed = Feed(settings, hub, listener, journal, follower, watching, database, catalog, admission, database_name)
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
        if listener.reason and (listener.is_hopeless or left <= 0):
            advice = CORRECT_IT if listener.is_hopeless else CORRECT_OR_WAIT
            raise StartError(f"cannot use the database {feed.database_name}: {listener.reason}; {advice}")
        if listener.reason and listener.reason != told:
            told = listener.reason
            logger.warning("waiting up to %g s for the database %s: %s", wait_seconds, feed.database_name, told)
        state_changed.clear()
        await first_of(state_changed.wait(), stopping.wait(), within_seconds=max(left, 0.05))
    return not stopping.is_set()


async def prepare_tables(feed: Feed, stopping: asyncio.Event, *, is_demo: bool) -> bool:
    """True when what is to be watched is watched, False when the server is to stop before. Raises StartError."""
    delays, complaint = backoff(), ""
    while not stopping.is_set():
        try:
            await feed.watching.start()
            if is_demo:
                await make_tables(feed.database, feed.watching)
            return True
        except (NoSuchTable, CannotWatch) as error:
            raise StartError(str(error)) from None
        except DatabaseUnavailable as error:  # it was there a moment ago
            if complaint != (complaint := str(error)):
                logger.warning(
                    "the database %s went away: %s; trying again until it is back", feed.database_name, error
                )
        await first_of(stopping.wait(), within_seconds=next(delays))
    return False


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
    for client in tuple(FeedClient.connected):
        client.leave("the server is stopping")
    for other in (*ActivitySocket.clients, *ListenSocket.all()):
        other.leave("the server is stopping")
    await http_server.close_all_connections()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
