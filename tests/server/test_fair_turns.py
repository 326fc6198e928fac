"""An owner that asks for much, a token or one of its addresses, keeps no other waiting: with rows, catch-ups, space.

Nothing here is measured: what is stuck stays so until all others have their answers.
"""

import asyncio
import json
from typing import Any, ClassVar
from unittest import mock

from tornado.testing import ExpectLog, gen_test
from tornado.web import Application
from tornado.websocket import WebSocketClientConnection

from changefeed.rows import reading
from tests import postgres
from tests.access_case import AccessTestCase, issued
from tests.feed_case import FeedTestCase
from tests.raw_client import RawClient
from tests.server.test_requests_under_way import StuckCase

RIGHTS = {"tables": {"*": {}}}
MUCH, LITTLE = (issued(RIGHTS, sub=name) for name in ("much", "little"))


class StuckReadings(AccessTestCase):
    """While `writer` has its lock, nobody can read the rows of salaries."""

    stuck: ClassVar[int] = 20

    def setUp(self) -> None:
        patience = mock.patch.object(reading, "LOCK_SECONDS", 600)
        patience.start()
        self.addCleanup(patience.stop)
        super().setUp()

    def prepare_database(self) -> None:
        super().prepare_database()
        for number in range(5):
            self.order(number)
        self.writer = postgres.connect(self.conninfo)
        self.addCleanup(self.writer.close)

    async def ask_rows(self, query: str, token: str, address: str = "127.0.0.1") -> RawClient:
        client = RawClient(self.get_http_port(), address=address)
        self.addCleanup(client.close)
        await client.open()
        more = f"Authorization: Bearer {token}\r\n" if token else ""
        await client.send(f"GET /api/rows?{query} HTTP/1.0\r\nHost: localhost\r\n{more}\r\n".encode())
        return client

    async def ids(self, client: RawClient) -> list[int]:
        text = b""
        while part := await client.read():
            text += part
        head, _, body = text.partition(b"\r\n\r\n")
        assert b" 200 " in head, text
        return [row["id"] for row in json.loads(body)["rows"]]

    async def until_waiting(self, count: int) -> None:
        while self.feed.readings.waiting != count:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)

    async def stick(self, token: str, address: str = "127.0.0.1", may_run: int = 2) -> None:
        """More readings of one owner than it may have at the same time."""
        self.writer.cursor().execute("BEGIN; LOCK TABLE salaries")
        for number in range(self.stuck):
            await self.ask_rows(f"table=salaries&filter=id=gt.{number}", token, address)
        await self.until_waiting(self.stuck - may_run)


class TokensTest(StuckReadings):
    @gen_test
    async def test_another_token_is_read_for_meanwhile(self):
        await self.stick(MUCH)
        assert await self.ids(await self.ask_rows("table=orders&limit=1&order=id", LITTLE)) == [0]

    @gen_test
    async def test_another_token_lends_its_turn_to_a_reading_that_waits(self):
        await self.stick(MUCH)
        first = await self.ask_rows("table=orders&limit=2&order=id", MUCH)
        await self.until_waiting(self.stuck - 1)
        second = await self.ask_rows("table=orders&limit=2&order=id", LITTLE)
        assert await self.ids(second) == await self.ids(first) == [0, 1]
        assert self.feed.readings.counts["complete"] == 1

    @gen_test
    async def test_a_client_of_the_feed_lends_its_turn_to_a_reading_that_waits(self):
        await self.stick(MUCH)
        await self.ask_rows("table=orders", MUCH)
        await self.until_waiting(self.stuck - 1)
        socket = await self.connect("/ws?table=orders&rows=true", protocol=True, Authorization=f"Bearer {LITTLE}")
        while (message := json.loads(str(await socket.read_message())))["type"] != "rows":
            assert message["type"] == "hello"
        assert len(message["rows"]) == 5

    @gen_test
    async def test_the_reading_goes_on_without_the_one_whose_turn_it_was(self):
        await self.stick(MUCH)
        first = await self.ask_rows("table=salaries&limit=1", MUCH)
        await self.until_waiting(self.stuck - 1)
        second = await self.ask_rows("table=salaries&limit=1", LITTLE)
        await self.until_waiting(self.stuck - 2)
        second.close()
        while len(self.feed.admission.requests) > self.stuck + 1:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)
        self.writer.cursor().execute("ROLLBACK")
        assert await self.ids(first) == []

    @gen_test
    async def test_other_addresses_of_a_token_and_then_other_tokens_have_their_turns(self):
        await self.stick(MUCH)
        await self.ask_rows("table=salaries&limit=1", MUCH, "127.0.0.2")
        waiting = await self.ask_rows("table=orders&limit=3&order=id", MUCH, "127.0.0.3")
        await self.until_waiting(self.stuck - 1)
        assert await self.ids(await self.ask_rows("table=orders&limit=1&order=id", LITTLE)) == [0]
        self.writer.cursor().execute("ROLLBACK")
        assert await self.ids(waiting) == [0, 1, 2]


class AddressesTest(StuckReadings):
    """Without tokens."""

    def get_app(self) -> Application:
        return FeedTestCase.get_app(self)

    @gen_test
    async def test_another_address_is_read_for_meanwhile(self):
        await self.stick("", may_run=3)
        shared = [await self.ask_rows("table=orders&limit=2&order=id", "")]
        await self.until_waiting(self.stuck - 2)
        shared.append(await self.ask_rows("table=orders&limit=2&order=id", "", "127.0.0.2"))
        for client in (*shared, await self.ask_rows("table=orders&limit=2&order=id", "", "127.0.0.3")):
            assert await self.ids(client) == [0, 1]


class SpaceTest(StuckReadings):
    """Whose rows wait for slow clients."""

    more_flags = ("--rows-limit-bytes", str(1 << 20))

    def prepare_database(self) -> None:
        super().prepare_database()
        self.write("SET session_replication_role = replica; UPDATE orders SET note = repeat('x', 200000)")

    @gen_test
    async def test_one_that_reads_nothing_leaves_others_room(self):
        for number in (1, 2):
            await self.ask_rows(f"table=orders&filter=id=gt.-{number}", MUCH)
        while self.feed.readings.counts["complete"] != 2:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)
        query = "table=orders&order=id"
        with ExpectLog("changefeed.rows", "no space for rows", level=30):
            refused = await self.ask_rows(query, MUCH)
            assert b"rows_busy" in await refused.read()
        for token, address in ((MUCH, "127.0.0.2"), (LITTLE, "127.0.0.1")):
            assert await self.ids(await self.ask_rows(query, token, address)) == [0, 1, 2, 3, 4]


class RequestsTest(StuckCase):
    """Without tokens. While the journal cannot be read, the tables can."""

    @gen_test
    async def test_one_address_leaves_a_turn_to_others(self):
        await self.stick()
        for _ in range(8):
            await self.ask_and_wait("/api/changes")
        await self.until_under_way(8)
        request = b"GET /api/tables HTTP/1.0\r\nHost: localhost\r\n\r\n"
        other = RawClient(self.get_http_port(), address="127.0.0.2")
        self.addCleanup(other.close)
        await other.open()
        await other.send(request)
        assert b" 200 " in await other.read(15)


class ChangingRequestsTest(AccessTestCase):
    more_flags = ("--request-limit", "20")

    @gen_test
    async def test_those_that_have_not_begun_give_way(self):
        admin = issued({**RIGHTS, "admin": True}, sub="much")
        holder = postgres.connect(self.conninfo)
        self.addCleanup(holder.close)
        holder.cursor().execute("BEGIN; LOCK TABLE changefeed.meta")
        request = (
            "PUT /api/tables/public.orders/watch HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n"
            f"Authorization: Bearer {admin}\r\n\r\n"
        )
        flood = [RawClient(self.get_http_port()) for _ in range(20)]
        with ExpectLog("handlers.requests", "refused 1 requests", level=30):
            for client in flood:
                self.addCleanup(client.close)
                await client.open()
                await client.send(request.encode())
            while len(self.feed.admission.requests) < 20:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)
            asked = asyncio.ensure_future(self.fetch_json("/api/tables", headers={"Authorization": f"Bearer {LITTLE}"}))
            assert b" 503 " in await flood[-1].read(15)
        holder.cursor().execute("ROLLBACK")
        assert (await asked)["tables"]
        for client in flood[:-1]:
            assert b" 200 " in await client.read(15)


class CatchUpTest(AccessTestCase):
    """Clients whose pages are read from the journal, since the server remembers none."""

    def forget_pages(self) -> None:
        cache = self.feed.follower.cache
        assert cache
        while cache._pages:
            cache._forget_oldest()

    async def until_seen(self, since: str, count: int) -> None:
        while len((await self.ask("full", f"/api/changes?since={since}"))[1]["changes"]) < count:
            pass

    @gen_test
    async def test_many_clients_of_one_token_delay_no_other(self):
        self.order(0)
        page: dict[str, Any] = {"changes": []}
        while not page["changes"]:
            _, page = await self.ask("full", "/api/changes")
        since = page["changes"][0]["cursor"]
        for number in (1, 2, 3):
            self.order(number)
            await self.until_seen(since, number)
        self.forget_pages()
        await self.until_seen(since, 3)  # from the journal, which proves the cursor
        self.running[1].cancel()  # the follower, which would complain
        await asyncio.wait({self.running[1]})
        holder = postgres.connect(self.conninfo)
        self.addCleanup(holder.close)
        holder.cursor().execute("BEGIN; LOCK TABLE changefeed.journal IN ACCESS EXCLUSIVE MODE")
        order: list[str] = []
        slots = self.feed.journal._reading_for_clients

        async def first_message(socket: WebSocketClientConnection, name: str) -> None:
            await socket.read_message()
            order.append(name)

        reading = []
        for name, token in (*[("much", MUCH)] * 20, ("little", LITTLE)):
            socket = await self.connect(f"/ws?since={since}", Authorization=f"Bearer {token}")
            reading.append(asyncio.ensure_future(first_message(socket, name)))
            while slots.waiting + slots._quotas.used < len(reading):  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)
        holder.cursor().execute("ROLLBACK")
        await asyncio.wait(reading)
        assert order.index("little") < 10
