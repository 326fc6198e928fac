"""Requests that arrive all at once, on connections that had one before, take turns with everything else."""

import asyncio
from typing import Any

from tornado.testing import gen_test

from handlers.http.server import STARTS_PER_TURN
from tests.feed_case import FeedTestCase
from tests.raw_client import RawClient

CONNECTIONS, REQUESTS = 60, 50
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


class PipelinedTest(FeedTestCase):
    async def pipeline(self) -> list[RawClient]:
        """Many connections, each with many requests."""
        clients = [RawClient(self.get_http_port(), little_room=False) for _ in range(CONNECTIONS)]
        for client in clients:
            self.addCleanup(client.close)
            await client.open()
            await client.send(REQUEST * REQUESTS)
        return clients

    async def answers_of(self, client: RawClient, count: int) -> int:
        text = b""
        while text.count(b"HTTP/1.1 200 OK") < count or not text.endswith(b"}"):
            text += await client.read()
        return text.count(b"HTTP/1.1 200 OK")

    @gen_test(timeout=60)
    async def test_a_turn_of_the_loop_starts_few_of_them(self):
        started = [0]  # in each turn of the loop
        start = self.http_server.request_callback.start_request

        def start_request(server_conn: Any, request_conn: Any) -> Any:
            request = start(server_conn, request_conn)
            finish = request.finish

            def counted() -> None:
                started[-1] += 1
                finish()

            request.finish = counted
            return request

        self.http_server.request_callback.start_request = start_request

        async def count_turns() -> None:
            while True:
                started.append(0)
                await asyncio.sleep(0)

        clients = await self.pipeline()
        for client in clients:  # each has had its first answer
            assert await client.read()
        started[:] = [0]
        counting = asyncio.ensure_future(count_turns())
        other = RawClient(self.get_http_port())
        self.addCleanup(other.close)
        await other.open()
        await other.send(REQUEST)
        assert await self.answers_of(other, 1) == 1
        counting.cancel()
        assert max(started) <= 2 * STARTS_PER_TURN + 1  # what is counted as one may be parts of two turns
        assert sum(started) < CONNECTIONS * (REQUESTS - 1)  # the others still wait

    @gen_test(timeout=60)
    async def test_all_of_them_are_answered_in_their_order(self):
        clients = await self.pipeline()
        reading = [asyncio.ensure_future(self.answers_of(client, REQUESTS)) for client in clients]
        assert await asyncio.gather(*reading) == [REQUESTS] * CONNECTIONS

    @gen_test
    async def test_a_connection_that_ends_while_it_waits_takes_no_turn_from_others(self):
        for client in await self.pipeline():
            client.abort()
        assert (await self.fetch_json("/healthz"))["status"] == "ok"
        while len(self.http_server._connections) > 1:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)
