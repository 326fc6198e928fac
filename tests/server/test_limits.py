"""What a client, a token or a crowd may take of the server, on real sockets; and that each refusal is counted."""

import asyncio
import contextlib
import json
import socket
import struct
import tempfile
from pathlib import Path
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.httpclient import HTTPClientError
from tornado.iostream import IOStream
from tornado.testing import AsyncHTTPSTestCase, gen_test
from tornado.websocket import WebSocketClientConnection, WebSocketProtocol, WebSocketProtocol13, _WebSocketParams

from handlers.access.admission import CLIENTS_REFUSED
from handlers.delivery.delivery_counts import CLIENTS_DROPPED
from handlers.http import server
from handlers.http.certificate import Certificate
from handlers.http.close_codes import CloseCode
from handlers.http.server import CLOSED
from tests.access_case import RIGHTS, AccessTestCase, closing, issued, token_of
from tests.certificates import write_certificate
from tests.feed_case import FeedTestCase, message

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


class LimitCase(FeedTestCase):
    def counted(self, name: str, *labels: str) -> float:
        return self.feed.slot.numbers.number(name, *labels).value

    async def open(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
        writer.write(sent)
        self.addCleanup(writer.close)
        return reader, writer

    async def refused(self, path: str = "/ws", **headers: str) -> Any:
        """The answer to a handshake."""
        try:
            await self.connect(path, **headers)
        except HTTPClientError as error:
            return error.response
        raise AssertionError("let in")


class PaceTest(LimitCase):
    flags = ("--clients-per-second", "1")

    @gen_test
    async def test_a_crowd_gets_different_times_to_retry_at(self):
        for _ in range(7):  # one address leaves a part of the 10 to others
            await self.connect()
        answers = [await self.refused("/ws/activity") for _ in range(3)]
        assert [answer.code for answer in answers] == [503] * 3
        waits = [int(answer.headers["Retry-After"]) for answer in answers]
        assert waits == sorted(waits)
        assert waits[0] < waits[-1]
        error = json.loads(answers[0].body)["error"]
        assert error["code"] == "too_many_at_once"
        assert f"try again in {waits[0]} s" in error["message"]
        assert (await self.fetch_json("/events", 503))["error"]["code"] == "too_many_at_once"
        assert self.counted(CLIENTS_REFUSED, "pace") == 4

    @gen_test
    async def test_what_is_no_client_is_let_through(self):
        for _ in range(12):
            await self.fetch_json("/readyz")


class TokenLimitTest(LimitCase, AccessTestCase):
    more_flags = ("--client-limit-per-token", "2")

    async def say(self, token: str) -> WebSocketClientConnection:
        opened = await self.connect(protocol=True)
        await opened.write_message(json.dumps({"type": "authenticate", "token": token}))
        return opened

    @gen_test
    async def test_a_token_has_a_number_of_places_on_all_transports_together(self):
        await self.connect("/ws", **self.headers("full"))
        first = await self.say(token_of("full") or "")
        await message(first, "hello")
        for path in ("/ws/activity", "/listen/people", "/events"):
            status, said = await self.ask("full", path)
            if path == "/events":
                assert (status, said["error"]["code"]) == (503, "too_many_clients")
            else:
                answer = await self.refused(path, **self.headers("full"))
                assert (answer.code, json.loads(answer.body)["error"]["code"]) == (503, "too_many_clients")
        await self.connect("/ws", Authorization="Bearer for-narrow-clients")
        assert await closing(await self.say(token_of("full") or "")) == CloseCode.TRY_AGAIN_LATER
        assert self.counted(CLIENTS_REFUSED, "token") == 4
        first.close()
        await first.read_message()
        await message(await self.say(token_of("full") or ""), "hello")

    @gen_test
    async def test_tokens_of_one_subject_count_together(self):
        for number in range(2):
            token = issued(RIGHTS["full"], 3600 + number, sub="anna")
            await self.connect("/ws", Authorization=f"Bearer {token}")
        anna = issued(RIGHTS["full"], 4000, sub="anna")
        assert (await self.refused(Authorization=f"Bearer {anna}")).code == 503
        await self.connect("/ws", Authorization=f"Bearer {issued(RIGHTS['full'], 4000, sub='bert')}")
        nameless = issued(RIGHTS["full"], 4001)
        for _ in range(2):
            await self.connect("/ws", Authorization=f"Bearer {nameless}")
        assert (await self.refused(Authorization=f"Bearer {nameless}")).code == 503
        await self.connect("/ws", Authorization=f"Bearer {issued(RIGHTS['full'], 4002)}")

    @gen_test
    async def test_a_repeated_token_takes_one_place(self):
        first = await self.say(token_of("full") or "")
        await message(first, "hello")
        await first.write_message(json.dumps({"type": "authenticate", "token": token_of("full")}))
        await message(await self.say(token_of("full") or ""), "hello")


class TalkTest(LimitCase):
    flags = ("--client-messages-per-second", "2", "--client-bytes-per-second", "1000", "--channels", "people")

    async def until_closed(self, client: WebSocketClientConnection) -> int | None:
        while await client.read_message() is not None:
            pass
        return client.close_code

    @gen_test
    async def test_a_client_that_sends_too_many_messages_is_closed(self):
        for path, protocol, kind in (
            ("/ws", True, "feed"),
            ("/ws/activity", False, "dashboards"),
            ("/listen/people", False, "raw"),
        ):
            client = await self.connect(path, protocol=protocol)
            for _ in range(20):
                await client.write_message('{"type": "seen", "message": 1}')
            assert self.counted(CLIENTS_DROPPED, kind, "sent_too_much") == 0
            await client.write_message('{"type": "seen", "message": 1}')
            assert await self.until_closed(client) == CloseCode.POLICY_VIOLATION, path
            assert "reconnect in 10 s" in (client.close_reason or "")
            assert self.counted(CLIENTS_DROPPED, kind, "sent_too_much") == 1

    @gen_test
    async def test_a_client_that_sends_too_many_bytes_is_closed(self):
        client = await self.connect(protocol=True)
        await client.write_message("x" * 9_000)
        assert (await message(client, "error"))["code"] == "not_json"
        await client.write_message("x" * 2_000)
        assert await self.until_closed(client) == CloseCode.POLICY_VIOLATION

    @gen_test
    async def test_pings_and_frames_that_make_no_message_count_too(self):
        ping, unfinished, more = (bytes([first, 0x80]) + b"mask" for first in (0x89, 0x01, 0x00))
        for frames in ([ping] * 21, [unfinished, *[more] * 20]):
            reader, writer = await self.open(
                b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"".join(frames))
            said = b""
            while struct.pack(">H", CloseCode.POLICY_VIOLATION) not in said:
                part = await reader.read(1000)
                assert part, "closed without a word"
                said += part


class SlowRequestTest(LimitCase):
    flags = ("--request-seconds", "0.3")

    async def until_counted(self, count: float) -> None:
        while self.counted(CLOSED, "slow") < count:  # noqa: ASYNC110  # a number sets no event
            await asyncio.sleep(0)

    async def until_gone(self, sent: bytes, more: bytes) -> bytes:
        """What the server said until it closed, while it was sent more and more."""
        reader, writer = await self.open(sent)

        async def trickle() -> None:
            while True:
                writer.write(more)
                await asyncio.sleep(0.05)

        trickling = asyncio.ensure_future(trickle())
        try:
            with contextlib.suppress(ConnectionError):
                return await reader.read()
            return b""
        finally:
            trickling.cancel()

    @gen_test
    async def test_unfinished_and_idle_requests_are_closed(self):
        slow_body = GET.replace(b"GET /healthz", b"PUT /api/tables/public.orders/watch")
        for sent, more in (
            (b"", b""),
            (b"GET ", b"x"),
            (GET, b"X-A: b\r\n"),
            (slow_body + b"Content-Length: 1000\r\n\r\n", b"x"),
            (slow_body + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        ):
            before = self.counted(CLOSED, "slow")
            assert await self.until_gone(sent, more) == b"", sent
            await self.until_counted(before + 1)

    @gen_test
    async def test_one_that_asks_no_more_is_closed(self):
        said = await self.until_gone(GET + b"\r\n", b"")
        assert b"HTTP/1.1 200" in said
        await self.until_counted(1)

    @gen_test
    async def test_a_client_that_is_in_may_stay(self):
        client = await self.connect(protocol=True)
        await message(client, "hello")
        await self.until_gone(b"", b"")
        await self.until_counted(1)
        await client.write_message("{")
        assert (await message(client, "error"))["code"] == "not_json"


class SlowHandshakeTest(SlowRequestTest, AsyncHTTPSTestCase):
    """By TLS, whose handshake may be what never ends."""

    test_one_that_asks_no_more_is_closed = test_a_client_that_is_in_may_stay = None  # type: ignore[assignment]

    def get_ssl_options(self) -> Any:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return Certificate(*write_certificate(Path(folder.name))).context

    @gen_test
    async def test_unfinished_and_idle_requests_are_closed(self):
        for sent in (b"", b"\x16\x03\x01\x02\x00"):
            before = self.counted(CLOSED, "slow")
            await self.until_gone(sent, b"")
            await self.until_counted(before + 1)


class UnreadAnswerTest(LimitCase):
    flags = ("--request-seconds", "0.5")

    def prepare_database(self) -> None:
        self.write("CREATE TABLE orders (id bigint PRIMARY KEY, note text)")
        self.watch("public.orders")
        self.write("INSERT INTO orders SELECT n, repeat('x', 100000) FROM generate_series(1, 60) AS n")

    @gen_test
    async def test_one_that_does_not_read_its_answer_is_ended_by_tcp(self):
        closed = asyncio.Event()
        forget = self.http_server.on_close

        def on_close(server_conn: object) -> None:
            forget(server_conn)
            closed.set()

        self.http_server.on_close = on_close  # type: ignore[method-assign]
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.addCleanup(near.close)
        near.setblocking(False)
        await asyncio.get_running_loop().sock_connect(near, ("127.0.0.1", self.get_http_port()))
        near.send(b"GET /api/changes HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await closed.wait()


class BigRequestTest(LimitCase):
    @gen_test
    async def test_headers_and_bodies_beyond_the_bound_are_not_read(self):
        for sent in (
            GET + b"X-A: " + b"a" * server.HEADERS_LIMIT_BYTES,
            GET.replace(b"GET", b"PUT") + b"Content-Length: 100000000\r\n\r\n",
        ):
            reader, _ = await self.open(sent)
            with contextlib.suppress(ConnectionError):
                assert b" 200 " not in await reader.read()


def test_tornado_has_what_is_relied_on_below_its_interface():
    for name in ("_receive_frame_loop", "_receive_frame", "_abort"):
        assert name in vars(WebSocketProtocol13) | vars(WebSocketProtocol)
    near, far = socket.socketpair()
    with contextlib.closing(far), asyncio.Runner() as runner:

        async def run() -> None:
            connection = HTTP1Connection(IOStream(near), False)
            assert connection._read_finished is False
            assert connection._pending_write is None
            assert len(connection.stream._write_buffer) == 0
            assert WebSocketProtocol13(None, False, _WebSocketParams())._wire_bytes_in == 0
            connection.close()

        runner.run(run())


class CrowdedTest(LimitCase):
    flags = ("--waiting-connection-limit", "3")

    @gen_test
    async def test_the_longest_waiting_connection_is_closed(self):
        idle = [await self.open() for _ in range(3)]
        asked, _ = await self.open(GET + b"\r\n")
        assert b"200" in await asked.readline()
        assert await idle[0][0].read() == b""
        assert self.counted(CLOSED, "crowded") == 1
        client = await self.connect(protocol=True)
        await message(client, "hello")
        for _ in range(20):
            await self.open()
        assert b"200" in await self.fetch_raw(GET + b"\r\n")
        await client.write_message("{")
        assert (await message(client, "error"))["code"] == "not_json"
        assert await idle[2][0].read() == b""

    @gen_test
    async def test_few_open_files_close_a_waiting_connection(self):
        clients = [await self.connect() for _ in range(2)]
        self.http_server._open_limit = 3
        idle, _ = await self.open()
        await self.open()
        assert await idle.read() == b""
        clients.append(await self.connect())
        said = await (await self.open())[0].read()
        assert said.startswith(b"HTTP/1.1 503 "), said
        assert "try again in 10 s" in json.loads(said.partition(b"\r\n\r\n")[2])["error"]["message"]
        assert self.counted(CLOSED, "files") == 3

    async def fetch_raw(self, sent: bytes) -> bytes:
        reader, _ = await self.open(sent)
        return await reader.readline()


class TokenShareTest(LimitCase, AccessTestCase):
    more_flags = ("--client-limit", "4")

    @gen_test
    async def test_a_token_alone_cannot_take_all_places(self):
        for _ in range(3):
            await self.connect("/ws", **self.headers("full"))
        status, said = await self.ask("full", "/events")
        assert (status, said["error"]["code"]) == (503, "too_many_clients")
        assert "--client-limit-per-token" in said["error"]["message"]
        assert self.counted(CLIENTS_REFUSED, "token") == 1
        await self.connect("/ws", Authorization="Bearer for-narrow-clients")
        status, said = await self.ask("narrow", "/events")
        assert (status, self.counted(CLIENTS_REFUSED, "all")) == (503, 1)
