"""The ground for tests of a whole server: a real PostgreSQL, the real application, real sockets."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from tornado.httpclient import HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application
from tornado.websocket import WebSocketClientConnection, websocket_connect

from app.assembly import make_context
from changefeed.postgres.connection import complete
from changefeed.postgres.listener import ListenerState
from changefeed.postgres.named_queries import SQL_DIR, read_script
from handlers.delivery import live_clients
from handlers.http.server import make_server
from handlers.routes import make_app
from settings.sources import load_settings
from tests import postgres

START_DEADLINE_SECONDS = 30
UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade"}  # headers of a handshake
ORDERS = "CREATE TABLE orders (id bigint PRIMARY KEY, status text, total numeric)"


class FeedTestCase(AsyncHTTPTestCase):
    """A server that listens to an empty database of its own. `flags` are the server's."""

    flags: ClassVar[tuple[str, ...]] = ()
    # The clients read in the server's own process here: on a busy machine that takes longer than it does elsewhere. Less
    # than a canary's deadline, which stays unknown while one that does not read at all is awaited.
    patience_seconds: ClassVar[float] = 3.0
    # Without it what was before is never counted, unless the test starts feed.backfill.run() itself.
    loads_history: ClassVar[bool] = True

    def new_database(self) -> str:
        """A test may bring a cluster of its own."""
        return postgres.new_database()

    def server_conninfo(self) -> str:
        """What the server connects with; a test may put a proxy in between."""
        return self.conninfo

    def get_app(self) -> Application:
        self.conninfo = self.new_database()
        self.state_changed = asyncio.Event()
        settings = load_settings(self.flags, {}, Path("/nonexistent"))
        self.feed = make_context(settings, complete(self.server_conninfo()), "test", self.state_changed.set)
        return make_app(self.feed)

    def get_http_server(self) -> HTTPServer:
        return make_server(self._app, self.feed, **self.get_httpserver_options())

    def setUp(self) -> None:
        patience = mock.patch.object(live_clients, "BURST_PATIENCE_SECONDS", self.patience_seconds)
        patience.start()
        self.addCleanup(patience.stop)
        super().setUp()
        self.sockets: list[WebSocketClientConnection] = []
        self.prepare_database()
        works = [self.feed.listener, self.feed.follower, *([self.feed.backfill] if self.loads_history else [])]
        self.running = [self.start_task(work.run()) for work in works]
        self.io_loop.run_sync(self._until_following, timeout=START_DEADLINE_SECONDS)

    def prepare_database(self) -> None:
        """What is there before the server looks."""

    def tearDown(self) -> None:
        for socket in self.sockets:
            socket.close()
        for task in self.running:
            task.cancel()
        self.io_loop.run_sync(self._settle)
        super().tearDown()

    async def _until_following(self) -> None:
        """Raises what a task of the server raised before it got so far."""
        following = asyncio.ensure_future(self._following())
        done, _ = await asyncio.wait({following, *self.running}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _following(self) -> None:
        await self.until_state(ListenerState.LISTENING)
        await self.feed.follower.until_known(30)
        if self.loads_history:
            await self.feed.backfill.until_loaded()

    async def _settle(self) -> None:
        ended = await asyncio.gather(*self.running, return_exceptions=True)
        self.feed.close()
        for failure in ended:
            if isinstance(failure, Exception):
                raise failure  # a task that nobody waits for: the test itself has only seen that nothing comes any more

    def start_task(self, work: Any) -> "asyncio.Task[None]":
        loop: asyncio.AbstractEventLoop = self.io_loop.asyncio_loop  # type: ignore[attr-defined]
        return loop.create_task(work)

    async def until_state(self, state: ListenerState) -> None:
        await self.until(lambda: self.feed.listener.state is state, self.state_changed)

    @staticmethod
    async def until(fact: Callable[[], bool], changed: asyncio.Event) -> None:
        """Waits until `fact` holds; `changed` is set whenever it may have begun to."""
        while not fact():
            changed.clear()
            await changed.wait()

    # -- the database's side

    def write(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        return postgres.execute(self.conninfo, statement, parameters)

    def watch_with_notify(self, table: str = "orders") -> None:
        """The original's row trigger, as its users have it."""
        self.write((SQL_DIR / "trigger_func.sql").read_text())
        self.write((SQL_DIR / "trigger.sql").read_text().replace("portal_eventrequests", table))

    def watch(self, table: str = "public.orders", options: str = "") -> None:
        """Journals a table; installs the schema where it is not there yet."""
        self.write(read_script("install.sql"))
        self.write(f"SELECT changefeed.watch('{table}'{options})")

    # -- the client's side

    async def connect(self, path: str = "/ws", *, protocol: bool = False, **headers: str) -> WebSocketClientConnection:
        request = HTTPRequest(f"ws://127.0.0.1:{self.get_http_port()}{path}", headers=headers)
        socket = await websocket_connect(request, subprotocols=["changefeed.v1"] if protocol else None)
        self.sockets.append(socket)
        return socket

    async def fetch_json(self, path: str, status: int = 200, **options: Any) -> Any:
        response = await self.http_client.fetch(self.get_url(path), raise_error=False, **options)
        assert response.code == status, response.body
        assert "application/json" in response.headers["Content-Type"]
        return json.loads(response.body)


async def message(socket: WebSocketClientConnection, kind: str | None = None) -> Any:
    """The next message; with `kind`, the next one of that type."""
    while True:
        text = await socket.read_message()
        if text is None:
            raise AssertionError(f"the socket was closed: {socket.close_code} {socket.close_reason}")
        parsed = json.loads(text)
        if kind is None or parsed["type"] == kind:
            return parsed
