"""Each server has its own clients, and gives them up when it ends."""

import ast
import asyncio
import dataclasses
import enum
import importlib
import inspect
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.netutil import bind_sockets
from tornado.testing import ExpectLog, gen_test
from tornado.websocket import WebSocketClientConnection, websocket_connect

from app.assembly import make_context
from changefeed.change.change import parse_payload
from changefeed.journal.cursor import decode
from changefeed.owners import Owner
from changefeed.postgres.connection import complete
from changefeed.postgres.named_queries import read_script
from changefeed.postgres.pool import DatabaseUnavailable
from changefeed.selection.subscription import Selection
from handlers.delivery.delivery_counts import DeliveryCounts
from handlers.delivery.dialects import V1
from handlers.delivery.live_clients import LiveClients
from handlers.feed import start
from handlers.feed.client import FeedClient
from handlers.feed.query import FeedQuery
from handlers.feed.start import Start
from handlers.feed.websocket import EventSocket, event_socket_of
from handlers.http.close_codes import CloseCode
from handlers.http.server import make_server
from handlers.routes import make_app
from settings.sources import load_settings
from tests import ROOT, postgres
from tests.access_case import AccessTestCase, token_of
from tests.feed_case import ORDERS, FeedTestCase, message

HANDLERS = ROOT / "handlers"
IMMUTABLE = (
    str,
    bytes,
    int,
    float,
    tuple,
    frozenset,
    type(None),
    enum.Enum,
    property,
    cached_property,
    classmethod,
    staticmethod,
    Path,
)


class OtherServer:
    """A second server of this process, of a database of its own."""

    def __init__(self, conninfo: str, flags: tuple[str, ...]) -> None:
        self.conninfo = conninfo
        self.feed = make_context(load_settings(flags, {}, Path("/nonexistent")), complete(conninfo), "other")
        self._http_server = make_server(make_app(self.feed), self.feed)
        sockets = bind_sockets(0, "127.0.0.1")
        self.port = sockets[0].getsockname()[1]
        self._http_server.add_sockets(sockets)

    @classmethod
    @asynccontextmanager
    async def running(cls, flags: tuple[str, ...]) -> AsyncIterator["OtherServer"]:
        conninfo = postgres.new_database()
        postgres.execute(conninfo, ORDERS)
        postgres.execute(conninfo, read_script("install.sql"))
        postgres.execute(conninfo, "SELECT changefeed.watch('orders')")
        server = cls(conninfo, flags)
        tasks = [asyncio.ensure_future(work.run()) for work in (server.feed.listener, server.feed.follower)]
        try:
            await server.feed.follower.until_known(30)
            yield server
        finally:
            server._http_server.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            server.feed.close()

    async def connect(self, path: str) -> WebSocketClientConnection:
        return await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{self.port}{path}"), subprotocols=["changefeed.v1"])


class TwoServersTest(FeedTestCase):
    flags = ("--channels", "people")

    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()

    async def assert_hear_only(
        self, number: int, feed: WebSocketClientConnection, dashboard: WebSocketClientConnection
    ) -> None:
        changes = (await message(feed, "changes"))["changes"]
        assert [change["data"]["id"] for change in changes] == [number]
        rows: list[str] = []
        while not rows:
            rows = (await message(dashboard, "activity"))["rows"]["changes"]
        assert [json.loads(row)["data"]["id"] for row in rows] == [number]

    @gen_test
    async def test_side_by_side_each_tells_its_own_clients_and_no_others(self):
        async with OtherServer.running(self.flags) as other:
            ours = [await self.connect("/ws", protocol=True), await self.connect("/ws/activity")]
            theirs = [await other.connect("/ws"), await other.connect("/ws/activity")]
            raw, their_raw = await self.connect("/listen/people"), await other.connect("/listen/people")
            assert (await message(their_raw))["type"] == "hello"
            self.write("INSERT INTO orders VALUES (1)")
            self.write("NOTIFY people, 'ours'")
            await self.assert_hear_only(1, *ours)
            assert await raw.read_message() == "ours"
            postgres.execute(other.conninfo, "INSERT INTO orders VALUES (2)")
            postgres.execute(other.conninfo, "NOTIFY people, 'theirs'")
            await self.assert_hear_only(2, *theirs)
            assert await their_raw.read_message() == "theirs"
            assert len(self.feed.connected) == 3
            assert len(other.feed.connected) == 3
            for socket in (*theirs, their_raw):
                socket.close()
            await other.feed.admission.until_empty()
            assert len(self.feed.connected) == 3

    @gen_test
    async def test_one_after_the_other_the_second_knows_nothing_of_the_first(self):
        async with OtherServer.running(()) as first:
            socket = await first.connect("/ws?table=orders&action=DELETE")
            await message(socket, "hello")
            postgres.execute(first.conninfo, "INSERT INTO orders VALUES (1)")
            while not first.feed.hub.published:
                await first.feed.follower.until_moved()
        ours = await self.connect("/ws?table=orders&action=DELETE", protocol=True)
        hello = await message(ours, "hello")
        self.feed.live_clients.advance_cursors()  # no place of the first one's
        self.write("DELETE FROM orders WHERE id = 5")
        self.write("INSERT INTO orders VALUES (5)")
        self.write("DELETE FROM orders")
        changes = await message(ours, "changes")
        assert [change["action"] for change in changes["changes"]] == ["DELETE"]
        assert decode(changes["cursor"])[0].hex() == hello["epoch"]


def mutable_attributes(owner: type) -> list[str]:
    """The class attributes that hold something which can change, and so would be shared by all servers."""
    found: list[str] = []
    if issubclass(owner, enum.Enum):
        return found
    for name, value in vars(owner).items():
        is_fixed = isinstance(value, IMMUTABLE) or callable(value) or inspect.isdatadescriptor(value)
        is_frozen = dataclasses.is_dataclass(value) and value.__dataclass_params__.frozen  # type: ignore[union-attr]
        if not (is_fixed or is_frozen or name.startswith("__") or name == "_abc_impl"):
            found.append(name)
    return found


@pytest.mark.parametrize("module", sorted(HANDLERS.glob("**/*.py")), ids=lambda path: path.stem)
def test_no_class_of_the_handlers_holds_state_of_a_server(module: Path):
    name = ".".join(module.relative_to(HANDLERS.parent).with_suffix("").parts)
    imported = importlib.import_module(name.removesuffix(".__init__"))
    classes = [one for one in vars(imported).values() if inspect.isclass(one) and one.__module__ == imported.__name__]
    assert {one.__name__: found for one in classes if (found := mutable_attributes(one))} == {}
    # Nor is one given such state later.
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            assert node.value.id != "cls", f"{module.name}:{node.lineno}"
            assert node.value.id not in {one.__name__ for one in classes}, f"{module.name}:{node.lineno}"


class Stateful:
    registry: ClassVar[set[int]] = set()
    owner: ClassVar[LiveClients] = LiveClients()
    name = "fixed"


def test_a_registry_in_a_class_would_be_found():
    assert mutable_attributes(Stateful) == ["registry", "owner"]


def test_the_class_level_broadcast_reaches_its_servers_clients():
    one, other = mock.Mock(spec=LiveClients), mock.Mock(spec=LiveClients)
    event_socket_of(one).broadcast((), "cursor", print)
    one.broadcast.assert_called_once_with((), "cursor", print)
    other.broadcast.assert_not_called()
    assert issubclass(event_socket_of(other), EventSocket)


class OtherJournalTest(FeedTestCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()

    @gen_test
    async def test_no_message_bears_a_cursor_of_the_epoch_before(self):
        elsewhere = await self.connect("/ws?table=orders&action=DELETE", protocol=True)
        everything = await self.connect(protocol=True)
        dashboard = await self.connect("/ws/activity")
        before = (await message(elsewhere, "hello"))["epoch"]
        self.write("INSERT INTO orders VALUES (1)")
        await message(everything, "changes")
        with ExpectLog("changefeed.follower", "the journal was replaced"):
            self.write(read_script("uninstall.sql"))
            self.write(read_script("install.sql"))
            self.write("SELECT changefeed.watch('orders')")
            assert "was replaced" in (await message(elsewhere, "gap"))["why"]
        self.feed.live_clients.advance_cursors()
        late = await self.connect(protocol=True)
        after = (await message(late, "hello"))["epoch"]
        assert after != before
        self.write("INSERT INTO orders VALUES (2)")
        await message(late, "changes")
        self.feed.live_clients.advance_cursors()
        place = await message(elsewhere)
        assert (place["type"], place["changes"]) == ("changes", [])
        assert decode(place["cursor"])[0].hex() == after
        while (await message(dashboard))["type"] != "gap":
            pass
        activity = await message(dashboard, "activity")
        while not activity["rows"]["changes"]:
            assert (activity["cursor"] and decode(activity["cursor"])[0].hex()) in (None, after)
            activity = await message(dashboard, "activity")
        cursors = [json.loads(row)["cursor"] for row in activity["rows"]["changes"]]
        assert {decode(cursor)[0].hex() for cursor in cursors} == {after}


def test_invalid_cursors_drop_held_back_changes():
    sent: list[bytes] = []
    outbox: Any = SimpleNamespace(is_busy=True, send=sent.append)
    delivery_counts = mock.Mock(spec=DeliveryCounts)
    live_clients = LiveClients()
    feed: Any = SimpleNamespace(
        live_clients=live_clients,
        delivery_counts=delivery_counts,
        select=lambda subscription: Selection(subscription, lambda table: None),
        catalog=SimpleNamespace(key=lambda table: ("id",)),
        settings=SimpleNamespace(outbox_limit_bytes=1_000),
    )
    transport: Any = SimpleNamespace(outbox=outbox, leave=None, give_up=None)
    FeedClient(feed, transport, V1, Start(FeedQuery(conflates=True)), Owner(None, ""))
    change = parse_payload('{"table": "orders", "action": "INSERT", "data": {"id": 1}}')
    live_clients.broadcast([change, change], "cursor of before")
    live_clients.forget_cursors()
    outbox.on_drained()
    live_clients.advance_cursors()
    assert sent == []
    delivery_counts.count_conflated.assert_called_once_with(2)


class RestrictedDashboardTest(AccessTestCase):
    @gen_test
    async def test_a_hidden_dashboard_gets_counts_and_no_rows(self):
        for kind in ("full", "orders"):
            socket = await self.knock(kind, "/ws/activity")
            assert not isinstance(socket, int)
            await message(socket, "hello")
            await socket.write_message('{"type": "rows", "wanted": false}')
            await socket.write_message("{}")
            await message(socket, "error")  # so that it has heard the one before
            self.write("INSERT INTO orders VALUES ((SELECT count(*) FROM orders))")
            told = await message(socket, "activity")
            while not told["rows"]["of"]:
                told = await message(socket, "activity")
            assert told["rows"] == {"of": 1, "changes": [], "withheld": "unwanted"}, kind


class SameOutageTest(AccessTestCase):
    """What a client asked for cannot be looked up: the answer says so, and that it may come back."""

    @gen_test
    async def test_an_outage_is_503_by_header_and_1013_by_message(self):
        unreachable = mock.AsyncMock(side_effect=DatabaseUnavailable("no answer within 5 s"))
        cursor = (await self.ask("full", "/api/changes"))[1]["cursor"]
        cache = self.feed.follower.cache
        assert cache is not None
        with (
            mock.patch.object(self.feed.journal, "proves", unreachable),
            mock.patch.object(cache, "proves", return_value=False),
        ):
            with pytest.raises(HTTPClientError) as refused:
                await self.connect(f"/ws?since={cursor}", protocol=True, **self.headers("full"))
            assert refused.value.code == 503
            socket = await self.connect(f"/ws?since={cursor}", protocol=True)
            await socket.write_message(json.dumps({"type": "authenticate", "token": token_of("full")}))
            while await socket.read_message() is not None:
                pass
            assert (socket.close_code, socket.close_reason) == (CloseCode.TRY_AGAIN_LATER, "database_unavailable")

    @gen_test
    async def test_an_unknown_journal_is_503_by_header_and_1013_by_message(self):
        self.feed.follower._known.clear()
        with mock.patch.object(start, "JOURNAL_DEADLINE_SECONDS", 0.01):
            with pytest.raises(HTTPClientError) as refused:
                await self.connect(protocol=True, **self.headers("full"))
            assert refused.value.code == 503
            socket = await self.connect(protocol=True)
            await socket.write_message(json.dumps({"type": "authenticate", "token": token_of("full")}))
            while await socket.read_message() is not None:
                pass
            assert (socket.close_code, socket.close_reason) == (CloseCode.TRY_AGAIN_LATER, "not_ready")
