"""Requests without an answer yet end with their client, are bounded, and owners take turns."""

import asyncio
import json
from typing import Any, cast

from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpclient import HTTPResponse
from tornado.testing import ExpectLog, gen_test
from tornado.web import RequestHandler

from handlers.access.requests import AT_ONCE, REQUESTS_GIVEN_UP, REQUESTS_REFUSED
from handlers.api.changes import ChangesHandler
from handlers.metrics.gauges import REQUESTS, sample
from tests import postgres
from tests.access_case import RIGHTS, AccessTestCase, issued
from tests.feed_case import FeedTestCase
from tests.raw_client import RawClient

READERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
    "AND query NOT LIKE 'LOCK%'"
)


class StuckCase(FeedTestCase):
    """While `holder` has its lock, nobody can read the journal."""

    def prepare_database(self) -> None:
        self.write("CREATE TABLE orders (id bigint PRIMARY KEY, note text)")
        self.watch("public.orders")
        self.write("INSERT INTO orders SELECT n, repeat('x', 10000) FROM generate_series(1, 200) AS n")

    async def stick(self) -> None:
        self.running[1].cancel()  # the follower, which would complain
        await asyncio.wait({self.running[1]})
        self.holder = postgres.connect(self.conninfo)
        self.addCleanup(self.holder.close)
        self.holder.cursor().execute("BEGIN; LOCK TABLE changefeed.journal IN ACCESS EXCLUSIVE MODE")

    def go_on(self) -> None:
        self.holder.cursor().execute("ROLLBACK")

    async def ask_and_wait(self, path: str, headers: str = "", method: str = "GET", more: bytes = b"") -> RawClient:
        client = RawClient(self.get_http_port())
        self.addCleanup(client.close)
        await client.open()
        request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"
        await client.send(request.encode() + more)
        return client

    async def until_under_way(self, count: int) -> None:
        while len(self.feed.admission.requests) != count:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)

    async def until_database(self, statement: str, count: int) -> None:
        while (await asyncio.to_thread(self.write, statement))[0][0] != count:
            pass

    def counted(self, name: str, *labels: str) -> float:
        sample(self.feed)
        return self.feed.slot.numbers.number(name, *labels).value

    def under_way(self) -> int:
        """How many tasks answer requests."""
        return sum(task.get_coro().__name__ == RequestHandler._execute.__name__ for task in asyncio.all_tasks())  # type: ignore[union-attr]


class GivenUpTest(StuckCase):
    @gen_test
    async def test_requests_of_gone_clients_leave_nothing(self):
        await self.stick()
        tasks = len(asyncio.all_tasks())
        clients = [await self.ask_and_wait("/api/changes?limit=10000") for _ in range(50)]
        await self.until_under_way(50)
        assert self.counted(REQUESTS, "answering") == AT_ONCE - 1  # one is for others
        assert self.counted(REQUESTS, "waiting") == 50 - AT_ONCE + 1
        for number, client in enumerate(clients):
            (client.abort if number % 2 else client.close)()
        await self.until_under_way(0)
        while len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)
        assert self.counted(REQUESTS_GIVEN_UP) == 50
        pool = self.feed.request_pool._pool.conns
        assert not pool.busy
        assert not pool.waiting_queue
        assert not self.feed.journal._reading_for_clients._quotas.used
        assert not self.feed.admission.unread.weight
        self.go_on()
        page = await self.fetch_json("/api/changes")
        assert len(page["changes"]) == 200
        await self.until_database(READERS, 0)

    @gen_test
    async def test_every_route_that_waits_ends_with_its_client(self):
        since = (await self.fetch_json("/api/changes?limit=1"))["cursor"]
        await self.stick()
        self.feed.journal.forget_proofs()
        assert self.feed.follower.cache
        self.feed.follower.cache._pages.clear()
        upgrade = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n"
            "Sec-WebSocket-Version: 13\r\n"
        )
        for path, headers in (
            ("/api/changes", ""),
            (f"/api/changes?since={since}", ""),
            (f"/api/change?cursor={since}", ""),
            ("/api/place?at=1", ""),
            ("/api/status", ""),
            ("/metrics", ""),
        ):
            client = await self.ask_and_wait(path, headers)
            await self.until_database(READERS, 1)
            assert self.under_way() == 1, path
            client.close()
            while self.under_way():  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)
            await self.until_database(READERS, 0)
        for path, headers in (("/ws", upgrade), ("/events", ""), ("/ws/activity", upgrade)):
            self.feed.follower._known.clear()  # the start of a client waits for the journal
            client = await self.ask_and_wait(path + "?since=" + since, headers)
            while not self.under_way():  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)
            client.close()
            while self.under_way():  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)
            assert self.feed.admission.count == 0

    @gen_test
    async def test_a_pipelined_request_is_noticed_at_its_turn(self):
        await self.stick()
        clients = [await self.ask_and_wait("/api/changes") for _ in range(AT_ONCE)]
        await self.until_under_way(AT_ONCE)
        gone = await self.ask_and_wait("/api/changes", more=b"GET /")
        await self.until_under_way(AT_ONCE + 1)
        gone.abort()
        self.go_on()
        for client in clients:
            await client.read()
        await self.until_under_way(0)
        assert self.counted(REQUESTS_GIVEN_UP) == 1
        while len(self.http_server._connections) > AT_ONCE:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)

    @gen_test
    async def test_an_answer_that_cannot_be_written_is_not_kept(self):
        await self.stick()
        client = await self.ask_and_wait("/api/changes", more=b"GET /")
        await self.until_database(READERS, 1)
        [connection] = self.http_server._connections
        stream = cast(HTTP1ServerConnection, connection).stream
        client.abort()
        self.go_on()
        await self.until_under_way(0)
        assert stream.closed()
        assert isinstance(stream.error, OSError)
        assert stream.error.__traceback__ is None  # whose frames have the answer

    @gen_test
    async def test_a_writing_request_is_finished_without_its_client(self):
        self.write("CREATE TABLE late (id int PRIMARY KEY)")
        holder = postgres.connect(self.conninfo)
        self.addCleanup(holder.close)
        holder.cursor().execute("BEGIN; LOCK TABLE late IN SHARE ROW EXCLUSIVE MODE")
        client = await self.ask_and_wait("/api/tables/public.late/watch", "Content-Length: 0\r\n", "PUT")
        await self.until_database(READERS, 1)
        client.close()
        await asyncio.sleep(0)
        holder.cursor().execute("ROLLBACK")
        await self.until_under_way(0)
        tables = (await self.fetch_json("/api/tables"))["tables"]
        assert [one["is_watched"] for one in tables if one["table"] == "late"] == [True]


class CrowdTest(StuckCase):
    flags = ("--request-limit", "20")

    @gen_test
    async def test_requests_above_the_limit_are_refused(self):
        await self.stick()
        with ExpectLog("handlers.requests", "refused 1 requests", level=30):
            clients = [await self.ask_and_wait("/api/changes?limit=10") for _ in range(40)]
            while self.counted(REQUESTS_REFUSED, "crowded") < 20:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)
        assert self.under_way() == 20
        assert self.counted(REQUESTS, "answering") == AT_ONCE - 1
        assert (await self.fetch_json("/healthz"))["status"] == "ok"
        self.assert_refused(await self.http_client.fetch(self.get_url("/api/tables"), raise_error=False))
        self.go_on()
        answers = [(await client.read(12))[-3:] for client in clients]
        assert sorted(answers) == [b"200"] * 20 + [b"503"] * 20

    @staticmethod
    def assert_refused(answer: HTTPResponse) -> None:
        assert answer.code == 503
        assert json.loads(answer.body)["error"]["code"] == "too_many_requests"
        assert 2 <= int(answer.headers["Retry-After"]) <= 10


class OwnersTest(AccessTestCase):
    more_flags = ("--request-limit", "20")

    @gen_test
    async def test_busy_clients_give_way_to_others(self):
        self.order(1)
        self.running[1].cancel()
        await asyncio.wait({self.running[1]})
        holder = postgres.connect(self.conninfo)
        self.addCleanup(holder.close)
        holder.cursor().execute("BEGIN; LOCK TABLE changefeed.journal IN ACCESS EXCLUSIVE MODE")
        much, little = (f"Bearer {issued(RIGHTS['orders'], sub=name)}" for name in ("much", "little"))
        with ExpectLog("handlers.requests", "refused 1 requests", level=30):
            raw = [RawClient(self.get_http_port()) for _ in range(20)]
            for client in raw:
                self.addCleanup(client.close)
                await client.open()
                request = f"GET /api/changes HTTP/1.1\r\nHost: localhost\r\nAuthorization: {much}\r\n\r\n"
                await client.send(request.encode())
            while len(self.feed.admission.requests) < 20:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)
            asked = asyncio.ensure_future(self.fetch_json("/api/changes", headers={"Authorization": little}))
            last = await raw[-1].read(15)
        assert last.startswith(b"HTTP/1.1 503")
        assert not asked.done()
        holder.cursor().execute("ROLLBACK")
        assert len((await asked)["changes"]) == 1
        for client in raw[:-1]:
            assert (await client.read(15)).startswith(b"HTTP/1.1 200")


class HeldBytesTest(StuckCase):
    def prepare_database(self) -> None:
        super().prepare_database()
        self.write("INSERT INTO orders VALUES (0, repeat('x', 12000000))")

    @gen_test
    async def test_what_an_answer_has_so_far_counts_as_unread(self):
        held: list[int] = []
        hold = ChangesHandler.hold
        ChangesHandler.hold = lambda handler, size: (hold(handler, size), held.append(self.weight))[0]  # type: ignore[method-assign]
        self.addCleanup(setattr, ChangesHandler, "hold", hold)
        await self.fetch_json("/api/changes")
        assert max(held) > 1_000_000
        await self.until_under_way(0)
        assert self.weight == 0

    @gen_test
    async def test_a_slowly_read_answer_takes_only_counted_memory(self):
        client = await self.ask_and_wait("/api/changes")
        await client.read(1)
        [connection] = self.feed.admission.unread._owners
        buffer: Any = cast(HTTP1Connection, connection).stream._write_buffer
        assert 0 < sum(len(part) for _, part in buffer._buffers) <= self.weight

    @property
    def weight(self) -> int:
        return self.feed.admission.unread.weight
