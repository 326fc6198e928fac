"""A client that does not read is closed with a reason, or gets a gap; the others do not notice."""

import asyncio
import json
import struct

from tornado.testing import gen_test
from tornado.websocket import WebSocketClientConnection

from tests.feed_case import FeedTestCase, message
from tests.raw_client import CLOSE_FRAME, RawClient
from tests.slow_client_case import SlowClientCase


class SlowClientTest(SlowClientCase):
    @gen_test
    async def test_it_is_closed_with_1013_and_the_others_get_everything(self):
        stuck = RawClient(self.get_http_port())
        await stuck.connect("/ws")
        others = [await self.connect() for _ in range(3)]
        # Tornado ends the connection 5 s after that, whether the client has read why or not.
        given_up = asyncio.Event()
        count = self.feed.delivery_counts.count_outbox_full
        self.feed.delivery_counts.count_outbox_full = lambda kind: (count(kind), given_up.set())  # type: ignore[method-assign]
        self.write("INSERT INTO wide SELECT n, n, repeat('x', 1000) FROM generate_series(1, 12000) AS n")

        async def ids_of(other: WebSocketClientConnection) -> list[int]:
            return [json.loads(await other.read_message())["data"]["id"] for _ in range(12_000)]

        async def read_at_last() -> list[tuple[int, bytes]]:
            await given_up.wait()
            return [frame async for frame in stuck.frames()]

        frames, *all_got = await asyncio.gather(read_at_last(), *map(ids_of, others))
        for got in all_got:
            assert got == list(range(1, 12001))
        opcode, reason = frames.pop()
        assert (opcode, struct.unpack("!H", reason[:2])) == (CLOSE_FRAME, (1013,))
        assert b"the outbox is full" in reason
        ids = [json.loads(payload)["data"]["id"] for _, payload in frames]
        assert ids == list(range(1, len(ids) + 1))
        assert len(ids) < 12000
        cursor = json.loads(frames[-1][1])["cursor"]
        again = await self.connect(f"/ws?since={cursor}")
        assert json.loads(await again.read_message())["data"]["id"] == len(ids) + 1

    @gen_test
    async def test_conflating_keeps_each_rows_newest_change(self):
        stuck, other, seen = await self.left_behind()
        self.write("DELETE FROM wide WHERE id = 8")
        await message(other, "changes")
        rows: dict[int, int] = {}
        got = skipped = 0
        async for _, payload in stuck.frames():
            told = json.loads(payload)
            skipped += told.get("skipped", 0)
            for change in told.get("changes", ()):
                got += 1
                rows[change["data"]["id"]] = change["data"]["number"]
                if change["action"] == "DELETE":
                    del rows[change["data"]["id"]]
            if got + skipped == seen + 1:
                break
        assert rows == dict.fromkeys(range(1, 8), 250)
        assert skipped > 0


class NotifiedClientTest(FeedTestCase):
    @gen_test
    async def test_a_burst_waits_in_postgresql_for_reading_clients(self):
        clients = [await self.connect() for _ in range(3)]
        self.write(
            "SELECT count(pg_notify('events', json_build_object('n', n, 'x', repeat('x', 1000))::text)) "
            "FROM generate_series(1, 20000) AS n"
        )

        async def numbers(client: WebSocketClientConnection) -> list[int]:
            return [json.loads(await client.read_message())["n"] for _ in range(20_000)]

        for got in await asyncio.gather(*map(numbers, clients)):
            assert got == list(range(1, 20001))
