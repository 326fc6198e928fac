"""The listener never dies quietly: killed, restarted and deaf connections are noticed, reported and replaced."""

import asyncio
from collections.abc import Iterator
from unittest import mock

from tornado.testing import ExpectLog, gen_test

from changefeed import turns
from changefeed.journal import follower
from changefeed.postgres import listener
from changefeed.postgres.listener import ListenerState
from changefeed.postgres.pool import DatabaseUnavailable
from tests import postgres
from tests.feed_case import ORDERS, FeedTestCase, message
from tests.proxy import Proxy

BACKEND = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
)


class ListenerTest(FeedTestCase):
    @gen_test
    async def test_a_killed_backend_is_replaced_and_the_clients_get_a_gap(self):
        self.write(ORDERS)
        self.watch_with_notify()
        plain, protocol = await self.connect(), await self.connect(protocol=True)
        dashboard = await self.connect("/ws/activity")
        with ExpectLog("changefeed.listener", "lost the LISTEN connection", level=30):
            assert self.write(BACKEND) == [(True,)]
            gap = await message(protocol, "gap")
        assert "server closed the connection" in gap["why"]
        assert gap["since"] < gap["until"]
        assert (await message(dashboard, "database"))["state"] == "lost"
        assert (await message(dashboard, "database"))["state"] == "listening"
        assert (await message(dashboard, "gap"))["why"] == gap["why"]
        self.write("INSERT INTO orders VALUES (1)")
        assert (await message(plain))["data"]["id"] == 1
        assert (await message(protocol, "changes"))["changes"][0]["data"]["id"] == 1

    @gen_test
    async def test_a_restart_of_postgresql_is_survived_and_reported(self):
        self.write(ORDERS)
        self.watch_with_notify()
        socket = await self.connect()
        with ExpectLog("changefeed.listener", "lost the LISTEN connection|still lost", level=30):
            with postgres.stopped():
                await self.until_state(ListenerState.LOST)
                error = (await self.fetch_json("/readyz", 503))["error"]
                assert error["code"] == "not_ready"
                assert (await self.fetch_json("/api/tables", 503))["error"]["code"] == "database_unavailable"
                assert (await self.fetch_json("/healthz"))["status"] == "ok"
                assert (await self.fetch_json("/api/activity"))["deaf"][-1][1] is None
            await self.until_state(ListenerState.LISTENING)
        await self.fetch_json("/readyz")
        self.write("INSERT INTO orders VALUES (1)")
        assert (await message(socket))["data"]["id"] == 1

    @gen_test
    async def test_channel_names_are_quoted_and_bursts_complete(self):
        socket = await self.connect()
        self.write("SELECT pg_notify('events', i::text) FROM generate_series(1, 12000) i")
        assert [int(await socket.read_message()) for _ in range(12000)] == list(range(1, 12001))


class LateCanaryTest(FeedTestCase):
    DEADLINE_SECONDS = 0.5

    def prepare_database(self) -> None:
        self.feed.listener.canary.deadline_seconds = self.DEADLINE_SECONDS
        patched = mock.patch.object(listener, "CANARY_INTERVAL_SECONDS", 0.01)
        patched.start()
        self.addCleanup(patched.stop)

    @gen_test
    async def test_one_turn_hands_on_no_more_than_its_share_of_a_burst(self):
        taken: list[int] = []
        hand_on = self.feed.listener._on_payloads
        self.feed.listener._on_payloads = lambda payloads: (
            taken.append(sum(map(len, payloads.values()))),
            hand_on(payloads),
        )
        socket = await self.connect()
        self.write(
            """SELECT pg_notify('events', '{"table": "t", "data": {"id": ' || n || '}}') FROM generate_series(1, 1000) n"""
        )
        assert [(await message(socket))["data"]["id"] for _ in range(1000)] == list(range(1, 1001))
        assert max(taken) <= listener.DRAIN_LIMIT

    @gen_test
    async def test_a_turn_takes_the_fewer_the_dearer_they_are(self):
        taken: list[int] = []
        hand_on = self.feed.listener._on_payloads
        self.feed.listener._on_payloads = lambda payloads: (
            taken.append(sum(map(len, payloads.values()))),
            hand_on(payloads),
        )
        socket = await self.connect()
        with mock.patch.object(turns, "TURN_SECONDS", 0.0):  # so that each is dearer than a turn may be
            self.write("NOTIFY events, '0'")
            assert await socket.read_message() == "0"
            self.write("SELECT pg_notify('events', n::text) FROM generate_series(1, 100) n")
            assert [int(await socket.read_message()) for _ in range(100)] == list(range(1, 101))
        assert taken == [1] * 101

    @gen_test
    async def test_a_canary_behind_a_burst_is_awaited(self):
        socket, clock = await self.connect(), asyncio.get_running_loop().time
        with (
            ExpectLog("changefeed.listener", "lost the LISTEN connection|still lost", level=30),
            mock.patch.object(self.feed.listener.canary, "receive"),
        ):
            begun = clock()
            while clock() < begun + 3 * self.DEADLINE_SECONDS:
                self.write("NOTIFY events, '1'")
                assert await socket.read_message() == "1"
                assert self.feed.listener.state is ListenerState.LISTENING
            await self.until_state(ListenerState.LOST)
        await self.until_state(ListenerState.LISTENING)

    @gen_test
    async def test_the_canarys_sender_is_awaited_after_its_arrival(self):
        """Else its connection of the pool is closed in the middle of a query, and the next one is opened when it may be too late."""
        send, answered = self.feed.listener.canary.send, asyncio.Event()

        async def be_answered_late(channel: str, payload: str) -> None:
            await send(channel, payload)
            assert self.feed.listener.canary.came_back
            await asyncio.shield(self.feed.listener.canary.came_back)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            answered.set()

        self.feed.listener.canary.send = be_answered_late
        await answered.wait()
        self.feed.listener.canary.send = send

    @gen_test
    async def test_a_receiving_connection_is_kept_while_the_pool_fails(self):
        send, canaries, third = self.feed.listener.canary.send, set(), asyncio.Event()

        async def fail(channel: str, payload: str) -> None:
            canaries.add(payload)
            if len(canaries) == 3:
                third.set()
            raise DatabaseUnavailable("too many clients")

        with ExpectLog("changefeed.listener", "the canary could not be sent: too many clients", level=30):
            self.feed.listener.canary.send = fail
            await third.wait()
            assert "too many clients" in self.feed.listener.not_ready_reason
        assert self.feed.listener.state is ListenerState.LISTENING
        self.feed.listener.canary.send = send
        while self.feed.listener.canary.error:  # noqa: ASYNC110  # until one was sent
            await asyncio.sleep(0)
        assert self.feed.listener.reconnects == 0


class DeafConnectionTest(FeedTestCase):
    def server_conninfo(self) -> str:
        self.proxy = Proxy(self.conninfo)
        self.io_loop.run_sync(self.proxy.start)
        return self.proxy.conninfo

    def tearDown(self) -> None:
        self.proxy.cut()
        super().tearDown()

    @gen_test(timeout=60)
    async def test_a_deaf_connection_is_noticed_by_its_canary_and_replaced(self):
        protocol = await self.connect(protocol=True)
        with ExpectLog(
            "changefeed.listener", "lost the LISTEN connection: PostgreSQL has not answered|still lost", level=30
        ):
            self.proxy.go_deaf()
            await self.until_state(ListenerState.LOST)
            assert "has not answered" in (await self.fetch_json("/readyz", 503))["error"]["message"]
            self.proxy.hear_again()
            assert "has not answered" in (await message(protocol, "gap"))["why"]
        await self.until_state(ListenerState.LISTENING)

    @gen_test
    async def test_deafness_is_found_whatever_the_pool_meets(self):
        async def fail(channel: str, payload: str) -> None:
            raise DatabaseUnavailable("no answer within 5 s")

        send = self.feed.listener.canary.send
        with (
            ExpectLog("changefeed.listener", "lost the LISTEN connection: PostgreSQL has not answered", level=30),
            ExpectLog("changefeed.listener", "still lost", level=30, required=False),
        ):
            self.feed.listener.canary.send = fail
            self.proxy.go_deaf()
            await self.until_state(ListenerState.LOST)
            self.feed.listener.canary.send = send
            self.proxy.hear_again()
            await self.until_state(ListenerState.LISTENING)

    @gen_test
    async def test_a_cut_connection_is_noticed_at_once(self):
        with ExpectLog("changefeed.listener", "lost the LISTEN connection", level=30):
            self.proxy.cut()
            await self.until_state(ListenerState.LOST)
            await self.until_state(ListenerState.LISTENING)


class ReturnTest(FeedTestCase):
    """Whoever waits out a delay of an hour is late: none may be waited out when PostgreSQL is back."""

    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()

    @gen_test
    async def test_the_journal_is_read_as_soon_as_the_listener_is_back(self):
        waits = asyncio.Event()

        def delays() -> Iterator[float]:
            while True:
                waits.set()
                yield 3600.0

        with (
            ExpectLog("changefeed.listener", "lost the LISTEN connection|still lost", level=30),
            ExpectLog("changefeed.follower", "the journal cannot be read", level=20),
            mock.patch.object(follower, "backoff", delays),
        ):
            self.running[1].cancel()
            self.running[1] = self.start_task(self.feed.follower.run())
            with postgres.stopped():
                self.feed.follower.wake()
                await waits.wait()
            socket = await self.connect()
            self.write("INSERT INTO orders VALUES (1)")
            assert (await message(socket))["data"]["id"] == 1

    @gen_test
    async def test_a_canary_that_could_not_be_sent_is_sent_again_at_once(self):
        send, tries = self.feed.listener.canary.send, []

        async def fail_first(channel: str, payload: str) -> None:
            tries.append(payload)
            if len(tries) == 1:
                raise DatabaseUnavailable("too many clients")
            await send(channel, payload)

        with (
            ExpectLog("changefeed.listener", "lost the LISTEN connection", level=30),
            mock.patch.object(listener, "CANARY_INTERVAL_SECONDS", 3600.0),
        ):
            self.feed.listener.canary.send = fail_first
            self.write(BACKEND)
            await self.until_state(ListenerState.LOST)
            await self.until_state(ListenerState.LISTENING)
        assert len(tries) == 2


class PoolerTest(FeedTestCase):
    """What a transaction pooler does to LISTEN: it is accepted, and nothing ever arrives."""

    def setUp(self) -> None:
        self.swallowed = asyncio.Event()
        super().setUp()

    @gen_test(timeout=60)
    async def test_a_listen_without_notifications_is_reported(self):
        async def swallow(channel: str, payload: str) -> None:
            self.swallowed.set()

        with ExpectLog("changefeed.listener", ".*a transaction pooler", level=30):
            self.feed.listener.canary.send = swallow  # the canary is sent and reaches nobody
            await self.until_state(ListenerState.LOST)
        assert self.swallowed.is_set()
        assert "pool_mode=transaction" in self.feed.listener.not_ready_reason
