"""The payloads of any channel that the settings name, as pg_eventserv gives them; and the feed does not notice."""

import asyncio
import fcntl
import json
import sys
import termios
import threading
from typing import Any
from unittest import mock
from urllib.parse import quote

import pytest
from psycopg2.extensions import make_dsn
from tornado.httpclient import HTTPClientError
from tornado.testing import ExpectLog, gen_test
from tornado.websocket import WebSocketClientConnection

from changefeed.postgres import listener
from changefeed.postgres.connection import open_connection
from changefeed.postgres.listener import ListenerState
from handlers.feed import raw
from handlers.http import socket as sockets
from handlers.http.close_codes import CloseCode
from tests import postgres
from tests.access_case import AccessTestCase, closing, token_of
from tests.feed_case import UPGRADE, FeedTestCase

BACKEND = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE query LIKE '%LISTEN%' AND pid <> pg_backend_pid() AND datname = current_database()"
)


class ListenCase(FeedTestCase):
    flags = ("--channels", "*")

    async def listen(self, channel: str, **headers: str) -> WebSocketClientConnection:
        return await self.connect(f"/listen/{quote(channel, safe='')}", **headers)

    async def refusal(self, channel: str, status: int) -> Any:
        return (await self.fetch_json(f"/listen/{quote(channel, safe='')}", status, headers=UPGRADE))["error"]

    def notify(self, channel: str, *payloads: str) -> None:
        for payload in payloads:
            self.write("SELECT pg_notify(%s, %s)", [channel, payload])


class ListenTest(ListenCase):
    @gen_test
    async def test_payloads_reach_their_channels_clients_unchanged(self):
        payloads = ["people", '{"id": 9007199254740993}', "", "not json", 'ä"\\\n☃ \U0001f418', "x" * 7999]
        clients = [await self.listen("people") for _ in range(3)]
        other = await self.listen("pets")
        self.notify("people", *payloads)
        self.notify("pets", "cat")
        for client in clients:
            assert [await client.read_message() for _ in payloads] == payloads
        assert await other.read_message() == "cat"

    @gen_test
    async def test_a_channel_is_open_when_the_handshake_is_answered(self):
        for number in range(50):
            client = await self.listen(f"fresh {number}")
            self.notify(f"fresh {number}", "first")
            assert await client.read_message() == "first"

    @gen_test
    async def test_a_name_may_have_any_case_and_any_letters(self):
        for channel in ("People", "people", 'a "quoted" one', "a/b?c#d%20e", "größe ☃", "x" * 63, "; SELECT 1"):
            client = await self.listen(channel)
            self.notify(channel, channel)
            assert await client.read_message() == channel

    @gen_test
    async def test_the_channel_of_the_feed_itself_can_be_followed_raw(self):
        raw, feed = await self.listen("events"), await self.connect()
        self.notify("events", "[1]")
        assert await raw.read_message() == "[1]"
        raw.close()
        while "events" in self.feed.raw_clients.channels:
            await self.fetch_json("/healthz")
        self.notify("events", "[2]")
        assert [await feed.read_message(), await feed.read_message()] == ["[1]", "[2]"]

    @gen_test
    async def test_the_last_client_to_leave_ends_the_listen(self):
        arrived: list[str] = []
        hand_on = self.feed.listener._on_payloads
        self.feed.listener._on_payloads = lambda payloads: (arrived.extend(payloads), hand_on(payloads))
        stays = await self.listen("stays")
        first, last = await self.listen("goes"), await self.listen("goes")
        first.close()
        assert await first.read_message() is None
        self.notify("goes", "one is left")
        assert await last.read_message() == "one is left"
        last.close()
        assert await last.read_message() is None
        is_heard = True
        while is_heard:  # until PostgreSQL has answered UNLISTEN
            arrived.clear()
            self.notify("goes", "nobody is left")
            self.notify("stays", "here")
            assert await stays.read_message() == "here"
            is_heard = "goes" in arrived
        back = await self.listen("goes")
        self.notify("goes", "back again")
        assert await back.read_message() == "back again"

    @gen_test
    async def test_messages_and_queries_of_clients_are_ignored(self):
        client = await self.connect("/listen/people?since=1f3.AbCd&table=nothing&filter=x")
        await client.write_message("hello?")
        self.notify("people", "hello")
        assert await client.read_message() == "hello"

    @gen_test
    async def test_the_servers_own_channels_are_refused(self):
        for channel in ("changefeed", self.feed.listener.canary.channel):
            error = await self.refusal(channel, 403)
            assert error["code"] == "channel_not_allowed"
            assert "internal to the server" in error["message"]

    @gen_test
    async def test_a_name_that_postgresql_would_cut_is_refused(self):
        for channel in ("x" * 64, "ä" * 32, "x\0y"):
            assert (await self.refusal(channel, 400))["code"] == "bad_channel"

    @gen_test
    async def test_changing_channels_loses_no_notification(self):
        feed = await self.connect()
        writer = postgres.connect(self.conninfo)
        stopping = threading.Event()
        writing = asyncio.get_running_loop().run_in_executor(None, self.notify_until, stopping, writer)
        for came_and_went in range(20):
            clients = [await self.listen(f"churn {came_and_went % 7} {number}") for number in range(3)]
            for client in clients:
                client.close()
        stopping.set()
        sent = await writing
        writer.close()
        got = [int(await feed.read_message()) for _ in range(sent)]
        assert got == list(range(sent))
        assert self.feed.listener.reconnects == 0

    @staticmethod
    def notify_until(stopping: threading.Event, writer: Any) -> int:
        """Three at a time; how many in all."""
        sent = 0
        with writer.cursor() as db_cursor:
            while not stopping.is_set():
                db_cursor.execute(
                    "SELECT pg_notify('events', i::text) FROM generate_series(%s, %s) i", [sent, sent + 2]
                )
                sent += 3
        return sent


class OutageTest(ListenCase):
    @gen_test
    async def test_after_an_outage_sockets_close_and_new_ones_work(self):
        client = await self.listen("people")
        with ExpectLog("changefeed.listener", "lost the LISTEN connection", level=30):
            self.write(BACKEND)
            assert await client.read_message() is None
        assert (client.close_code, client.close_reason) == (1013, raw.RAW_OUTAGE)
        again = await self.listen("people")
        self.notify("people", "here I am")
        assert await again.read_message() == "here I am"

    @gen_test
    async def test_a_client_that_comes_in_an_outage_is_let_in_after_it(self):
        with ExpectLog("changefeed.listener", "lost the LISTEN connection|still lost", level=30):
            with mock.patch.object(raw, "LISTEN_DEADLINE_SECONDS", 25), postgres.stopped():
                await self.until_state(ListenerState.LOST)
                with mock.patch.object(raw, "LISTEN_DEADLINE_SECONDS", 0.1):
                    assert (await self.refusal("people", 503))["code"] == "not_ready"
                coming = asyncio.ensure_future(self.listen("people"))
            client = await coming
        self.notify("people", "here I am")
        assert await client.read_message() == "here I am"


class AnswerTest(ListenCase):
    def setUp(self) -> None:
        async def open_and_keep(*arguments: Any) -> Any:
            self.hearing = await open_connection(*arguments)
            return self.hearing

        for name, value in (("open_connection", open_and_keep), ("CANARY_INTERVAL_SECONDS", 3600)):
            patch = mock.patch.object(listener, name, value)
            patch.start()
            self.addCleanup(patch.stop)
        super().setUp()

    @gen_test
    async def test_a_notification_with_listens_answer_is_sent_at_once(self):
        heard: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.feed.listener._on_payloads = heard.set_result
        entering = asyncio.ensure_future(self.feed.listener.raw_channels.enter("people"))
        while not self.hearing.isexecuting():  # noqa: ASYNC110  # nothing says so by itself
            await asyncio.sleep(0)
        # From here on the loop stands still, so that both are there when it looks.
        while not (answer_bytes := self.readable_bytes()):
            pass
        self.notify("people", "first")
        while self.readable_bytes() == answer_bytes:
            pass
        await entering
        assert await heard == {"people": ["first"]}
        self.feed.listener.raw_channels.leave("people")

    def readable_bytes(self) -> int:
        return int.from_bytes(fcntl.ioctl(self.hearing.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


class RefusedByPostgreSQLTest(ListenCase):
    """A database whose encoding does not know every character."""

    def server_conninfo(self) -> str:
        create = "CREATE DATABASE {0} ENCODING latin1 LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
        name = self.conninfo.partition("dbname=")[2].split()[0] + "_latin1"
        self.write(create.format(name))
        self.conninfo = str(make_dsn(self.conninfo, dbname=name))
        return self.conninfo

    @gen_test
    async def test_a_refused_channel_does_not_affect_others(self):
        feed, good = await self.connect(), await self.listen("größe")
        error = await self.refusal("☃", 400)
        assert error["code"] == "bad_channel"
        assert "has no equivalent in encoding" in error["message"]
        self.notify("events", "[1]")
        self.notify("größe", "still here")
        assert [await feed.read_message(), await good.read_message()] == ["[1]", "still here"]
        assert self.feed.listener.reconnects == 0


class ClosedByDefaultTest(ListenCase):
    flags = ()

    @gen_test
    async def test_without_channels_the_refusal_names_the_setting(self):
        error = await self.refusal("people", 403)
        assert error["code"] == "channel_not_allowed"
        assert "--channels" in error["message"]


class PatternsTest(ListenCase):
    flags = ("--channels", "chat_*", "--channels", "People", "--client-limit", "2", "--allow-origin", "*")

    @gen_test
    async def test_only_what_the_patterns_name_is_open_with_its_case(self):
        for channel in ("chat_1", "People"):
            (await self.listen(channel)).close()
        for channel in ("people", "Chat_1", "my_chat_1", "chat"):
            await self.refusal(channel, 403)

    @gen_test
    async def test_the_limits_of_clients_hold_here_too(self):
        for _ in range(2):
            await self.listen("chat_1")
        with pytest.raises(HTTPClientError) as refused:
            await self.listen("chat_1")
        assert refused.value.code == 503

    @gen_test
    async def test_a_page_from_a_file_is_let_in_by_the_setting(self):
        client = await self.listen("chat_1", Origin="null")
        self.notify("chat_1", "hello")
        assert await client.read_message() == "hello"


class AuthenticateTest(AccessTestCase):
    """A page cannot send a header: with changefeed.v1 its first message says who it is."""

    async def say(self, path: str, *messages: str) -> WebSocketClientConnection:
        client = await self.connect(path, protocol=True)
        assert client.selected_subprotocol == "changefeed.v1"
        for one in messages:
            await client.write_message(one)
        return client

    @staticmethod
    def token(kind: str) -> str:
        return json.dumps({"type": "authenticate", "token": token_of(kind)})

    @gen_test
    async def test_a_token_by_message_lets_in_and_payloads_come_as_they_are(self):
        for kind in ("full", "orders"):
            client = await self.say("/listen/people", self.token(kind))
            assert json.loads(str(await client.read_message())) == {"type": "hello", "channel": "people"}
            self.write("NOTIFY people, 'first'")
            assert await client.read_message() == "first"
            await client.write_message("means nothing")
            self.write('NOTIFY people, \'{"type": "hello"}\'')
            assert await client.read_message() == '{"type": "hello"}'

    @gen_test
    async def test_before_it_nothing_is_sent(self):
        client = await self.say("/listen/people")
        self.write("NOTIFY people, 'before'")
        await self.ask("none", "/healthz")
        await client.write_message(self.token("full"))
        assert json.loads(str(await client.read_message()))["type"] == "hello"
        self.write("NOTIFY people, 'after'")
        assert await client.read_message() == "after"

    @gen_test
    async def test_an_invalid_token_is_refused(self):
        for first in ("hello", "{}", '{"type": "subscribe"}'):
            assert await closing(await self.say("/listen/people", first)) == CloseCode.SIGN_IN, first
        for kind, code in (("wrong", "bad_token"), ("expired", "token_expired")):
            client = await self.say("/listen/people", self.token(kind))
            assert json.loads(str(await client.read_message()))["code"] == code
            assert await closing(client) == CloseCode.SIGN_IN

    @gen_test
    async def test_a_silent_client_is_closed_in_time(self):
        with mock.patch.object(sockets, "AUTHENTICATE_SECONDS", 0.01):
            assert await closing(await self.say("/listen/people")) == CloseCode.SIGN_IN

    @gen_test
    async def test_a_missing_right_is_reported_however_it_authenticates(self):
        for client in (
            await self.say("/listen/people", self.token("narrow")),
            await self.connect("/listen/people", protocol=True, **self.headers("narrow")),
        ):
            error = json.loads(str(await client.read_message()))
            assert (error["type"], error["code"]) == ("error", "channel_not_allowed")
            assert await closing(client) == CloseCode.POLICY_VIOLATION

    @gen_test
    async def test_without_the_subprotocol_all_is_as_with_pg_eventserv(self):
        assert await closing(await self.connect("/listen/people")) == CloseCode.SIGN_IN
        client = await self.connect("/listen/people", **self.headers("orders"))
        assert client.selected_subprotocol is None
        self.write("NOTIFY people, 'first'")
        assert await client.read_message() == "first"

    @gen_test
    async def test_a_client_that_leaves_early_leaves_no_channel(self):
        for _ in range(10):
            client = await self.say("/listen/people", self.token("full"))
            client.close()
            await client.read_message()
        while self.feed.admission.count or self.feed.raw_clients.channels:
            await self.ask("none", "/healthz")
        assert self.feed.listener.raw_channels._wanted == {}
