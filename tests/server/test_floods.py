"""Clients without a token, or that read nothing, take no place, rate or much memory from the others."""

import asyncio
import json
from typing import Any

from tornado.testing import gen_test
from tornado.websocket import WebSocketClientConnection

from handlers.access.admission import CLIENTS_REFUSED
from handlers.http.close_codes import CloseCode
from handlers.http.server import BODY_LIMIT_BYTES, CLOSED
from handlers.metrics.gauges import SIGNING_IN, UNREAD_BYTES, sample
from tests.access_case import AccessTestCase, closing, token_of
from tests.feed_case import FeedTestCase, message
from tests.raw_client import RawClient

AUTHENTICATE = json.dumps({"type": "authenticate", "token": token_of("full")})


class DoorCase(AccessTestCase):
    def counted(self, name: str, *labels: str) -> float:
        return self.feed.slot.numbers.number(name, *labels).value

    async def sign_in(self) -> WebSocketClientConnection:
        socket = await self.connect(protocol=True)
        await socket.write_message(AUTHENTICATE)
        await message(socket, "hello")
        return socket


class PaceOfStrangersTest(DoorCase):
    more_flags = (
        *("--clients-per-second", "2", "--clients-per-second-per-address", "1"),
        *("--trusted-proxies", "127.0.0.1"),
    )

    @gen_test
    async def test_a_flood_without_a_token_blocks_no_token_holder(self):
        for kind in ("none", "wrong", "expired"):
            answers = [await self.ask(kind, "/events", headers={"X-Forwarded-For": kind}) for _ in range(12)]
            assert [status for status, _ in answers[-2:]] == [503, 503], kind
            assert answers[-1][1]["error"]["code"] == "too_many_at_once"
        for _ in range(10):
            assert not isinstance(await self.knock("full", "/ws"), int)

    @gen_test
    async def test_a_flood_from_one_address_leaves_the_others_their_pace(self):
        for number in range(12):
            status = (await self.ask("none", "/events", headers={"X-Forwarded-For": f"2001:db8::{number}"}))[0]
        assert status == 503
        assert self.counted(CLIENTS_REFUSED, "address_pace") == 2
        for address in ("2001:db8:0:1::1", "192.0.2.1"):
            status, _ = await self.ask("none", "/events", headers={"X-Forwarded-For": address})
            assert status == 401, address

    @gen_test
    async def test_those_of_many_addresses_have_a_pace_of_their_own_together(self):
        answers = [await self.ask("none", "/events", headers={"X-Forwarded-For": f"192.0.2.{n}"}) for n in range(22)]
        assert answers[-1][0] == 503
        assert self.counted(CLIENTS_REFUSED, "pace") == 2
        assert not isinstance(await self.knock("full", "/ws"), int)

    @gen_test
    async def test_a_token_that_connects_often_leaves_the_others_their_pace(self):
        one_token = {"Authorization": "Bearer for-narrow-clients"}
        while (await self.ask("none", "/ws", headers=one_token))[0] != 503:
            pass
        for _ in range(4):
            assert not isinstance(await self.knock("full", "/ws"), int)


class StrangersTest(DoorCase):
    more_flags = (
        "--client-limit",
        "2",
        "--client-limit-per-token",
        "2",
        "--sign-in-limit",
        "3",
        "--trusted-proxies",
        "127.0.0.1",
    )

    @gen_test
    async def test_unauthenticated_sockets_take_no_clients_place(self):
        strangers = [await self.connect(protocol=True) for _ in range(3)]
        sample(self.feed)
        assert self.counted(SIGNING_IN) == 3
        await self.connect("/ws", **self.headers("full"))
        await strangers[0].write_message(AUTHENTICATE)
        await message(strangers[0], "hello")
        await strangers[1].write_message(AUTHENTICATE)
        assert await closing(strangers[1]) == CloseCode.TRY_AGAIN_LATER  # --client-limit
        sample(self.feed)
        assert self.counted(SIGNING_IN) == 1

    @gen_test
    async def test_for_one_more_the_oldest_goes_of_the_address_that_has_most(self):
        other = await self.connect(protocol=True, **{"X-Forwarded-For": "192.0.2.1"})
        many = [await self.connect(protocol=True, **{"X-Forwarded-For": "192.0.2.2"}) for _ in range(20)]
        for socket in many[:-2]:
            assert await closing(socket) == CloseCode.TRY_AGAIN_LATER
        assert self.counted(CLIENTS_REFUSED, "sign_in") == 18
        await other.write_message(AUTHENTICATE)
        await message(other, "hello")

    @gen_test
    async def test_a_refused_client_that_stays_makes_room(self):
        stubborn = []
        for _ in range(10):
            client = RawClient(self.get_http_port())
            self.addCleanup(client.close)
            await client.connect("/ws")
            stubborn.append(client)
        for client in stubborn[:-3]:
            assert await client.until_closed() == CloseCode.SIGN_IN
        assert self.feed.admission.count <= 3
        await self.sign_in()


class BodyTest(DoorCase):
    @gen_test
    async def test_bodies_are_bounded_before_authentication(self):
        token = json.dumps({"token": token_of("full")})
        for body, status in (
            (token.ljust(BODY_LIMIT_BYTES), 200),
            ("[" * 200_000, 400),
            ('{"token": "' + "x" * 20_000, 400),
        ):
            assert (await self.ask("none", "/api/session", method="POST", body=body))[0] == status
        columns = json.dumps({"omit": ["a" * 60] * 500})
        status, said = await self.ask("full", "/api/tables/public.orders/watch", method="PUT", body=columns)
        assert (status, said["error"]["code"]) == (413, "body_too_large")

    @gen_test
    async def test_bodies_that_never_end_are_not_kept(self):
        kept: list[int] = []
        start = self.http_server.start_request

        def start_request(server_conn: Any, request_conn: Any) -> Any:
            delegate = start(server_conn, request_conn)
            hand_on = delegate._request.data_received
            delegate._request.data_received = lambda chunk: (kept.append(len(chunk)), hand_on(chunk))[1]
            return delegate

        self.http_server.start_request = start_request  # type: ignore[method-assign]
        for framing in ("Content-Length: 262000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n1D4C0\r\n"):
            client = RawClient(self.get_http_port())
            self.addCleanup(client.close)
            await client.open()
            await client.send(f"POST /api/session HTTP/1.1\r\nHost: localhost\r\n{framing}".encode() + b"x" * 120_000)
            while sum(kept) <= BODY_LIMIT_BYTES:
                await self.ask("none", "/healthz")
            await self.ask("none", "/healthz")
            assert sum(kept) == BODY_LIMIT_BYTES + 1
            kept.clear()


class UnreadTest(FeedTestCase):
    flags = ("--unread-limit-bytes", str(8 << 20))

    def prepare_database(self) -> None:
        self.write("CREATE TABLE orders (id bigint PRIMARY KEY, note text)")
        self.watch("public.orders")
        self.write("INSERT INTO orders SELECT n, repeat('x', 100000) FROM generate_series(1, 30) AS n")

    @gen_test
    async def test_unread_answers_are_bounded_and_the_oldest_closed(self):
        numbers = self.feed.slot.numbers
        closed = numbers.number(CLOSED, "unread")
        clients: list[Any] = []
        while closed.value < 3:
            client = RawClient(self.get_http_port())
            self.addCleanup(client.close)
            await client.open()
            await client.send(b"GET /api/changes HTTP/1.1\r\nHost: localhost\r\n\r\n")
            clients.append(client)
            await client.read(1)  # so that it is its turn, and its answer waits
            assert self.feed.admission.unread.weight <= 8 << 20
        sample(self.feed)
        assert numbers.number(UNREAD_BYTES).value > 2 << 20
        said = b""
        while part := await clients[0].read():
            said += part
        assert len(said) < 3000000  # cut short
        page = await self.fetch_json("/api/changes", headers={"Accept-Encoding": "identity"})
        assert len(page["changes"]) == 30
        for client in clients:
            client.abort()
        while self.feed.admission.unread.weight:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)
