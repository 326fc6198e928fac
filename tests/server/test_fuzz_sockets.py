"""Any message, any bytes and any payload at the real server: it answers, or closes that one, and goes on with the others.

FUZZ_EXAMPLES is how many of each, 100 without it.
"""

import asyncio
import json
import struct
from collections.abc import Coroutine
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from tornado.websocket import WebSocketClientConnection

from tests.feed_case import ORDERS, FeedTestCase, message
from tests.unit.test_fuzz_inputs import DEEP, FILTERS, JSON_VALUES, PAYLOADS, TEXTS, fuzz

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: changefeed.v1\r\n\r\n"
)
FIELDS = st.sampled_from(["table", "action", "filter", "columns", "since", "replay", "slow", "token", "nonsense"])
MESSAGES = (
    TEXTS
    | st.binary(max_size=100)
    | JSON_VALUES.map(json.dumps)
    | st.builds(
        lambda kind, fields: json.dumps({"type": kind, **fields}),
        st.sampled_from(["subscribe", "authenticate", "filter", "rows", "seen"]),
        st.dictionaries(FIELDS, JSON_VALUES | st.lists(TEXTS | FILTERS, max_size=3), max_size=3),
    )
)
# A frame's first bytes, a length that may be a lie, and what may be in it.
FRAMES = st.builds(
    lambda first, second, rest: bytes([first, second]) + rest,
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=200),
)


class SocketsTest(FeedTestCase):
    flags = ("--client-messages-per-second", "100000", "--client-bytes-per-second", "100000000")
    probes = 0

    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()

    def setUp(self) -> None:
        super().setUp()
        self.feed.hub._complained_at = float("inf")  # what is no JSON is logged; another test says so

    def run_now(self, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            await asyncio.wait_for(work, 20)

        self.io_loop.run_sync(run)

    async def answers(self, client: WebSocketClientConnection) -> list[Any]:
        """What comes before the answer to a probe, which is known by its name."""
        self.probes += 1
        await client.write_message(json.dumps({"type": f"probe-{self.probes}"}))
        said: list[Any] = []
        while True:
            text = await client.read_message()
            assert text is not None, f"closed with {client.close_code}"
            one = json.loads(text or "")
            if one["type"] == "error" and f"'probe-{self.probes}'" in one["message"]:
                return said
            said.append(one)

    @fuzz
    @given(MESSAGES)
    @example(DEEP[:60_000])
    @example('{"type": "subscribe", "filter": ' + DEEP[:60_000])
    @example('{"type": "subscribe", "filter": ["\\ud800=eq.\\udfff"], "since": "\\ud800"}')
    @example('{"type": "authenticate", "token": "\\ud800"}')
    @example('{"type": "\\ud800"}')
    @example('{"type": "subscribe", "since": "' + "f" * 60_000 + '"}')
    @example('{"type": "subscribe", "replay": 1' + "0" * 5_000 + "}")
    def test_any_message_is_answered_and_the_socket_kept(self, said: str | bytes):
        async def run() -> None:
            if not self.sockets:
                await message(await self.connect(protocol=True), "hello")
            [client] = self.sockets
            if isinstance(said, str) and any("\ud800" <= character <= "\udfff" for character in said):
                return  # no text frame can hold it
            await client.write_message(said, binary=isinstance(said, bytes))
            kinds = {one["type"] for one in await self.answers(client)}
            assert kinds <= {"hello", "error", "changes"}, kinds
            if b"authenticate" not in (said if isinstance(said, bytes) else said.encode()):
                assert kinds, "no answer"

        self.run_now(run())

    @fuzz
    @given(MESSAGES)
    @example('{"type": "filter", "filter": ["\\ud800=eq.1"]}')
    @example('{"type": "seen", "message": 1' + "0" * 900 + "}")
    def test_any_message_to_the_dashboards_socket_leaves_it_open(self, said: str | bytes):
        async def run() -> None:
            if not self.sockets:
                await message(await self.connect("/ws/activity"), "hello")
            [client] = self.sockets
            if isinstance(said, str) and any("\ud800" <= character <= "\udfff" for character in said):
                return
            await client.write_message(said, binary=isinstance(said, bytes))
            await client.write_message('{"type": "filter", "table": "orders*"}')
            while (await message(client)).get("code") != "bad_table":
                pass

        self.run_now(run())

    @fuzz
    @given(st.lists(FRAMES | st.binary(max_size=50), min_size=1, max_size=4).map(b"".join))
    @example(b"\x81\xff" + struct.pack(">Q", 1 << 62))
    @example(b"\xc1\x85maskhello")
    def test_any_bytes_at_most_close_the_socket_they_came_by(self, sent: bytes):
        async def run() -> None:
            if not self.sockets:
                await message(await self.connect(protocol=True), "hello")
            reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
            writer.write(HANDSHAKE)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(sent)
            writer.write_eof()
            await self.answers(self.sockets[0])
            writer.close()

        self.run_now(run())

    @fuzz
    @given(PAYLOADS.filter(lambda payload: len(payload.encode("utf-8", "surrogatepass")) < 7_900))
    @example("[" * 7_900)
    @example('{"table": "t", "action": "INSERT", "data": {"n": ' + "9" * 7_000 + "}}")
    @example('{"table": "t", "action": "INSERT", "data": {"n": "\\u0000\\ud800"}}')
    @example('{"table": "\\udfff", "action": "INSERT", "data": null}')
    @example("")
    def test_any_plain_payload_lets_the_next_one_pass(self, payload: str):
        async def run() -> None:
            if not self.sockets:
                await self.connect()
                await self.connect("/ws?columns=n&table=t", protocol=True)
                await self.connect("/ws/activity")
            self.probes += 1
            told = json.dumps({"table": "t", "action": "INSERT", "data": {"probe": self.probes}})
            self.write("SELECT pg_notify('events', %s), pg_notify('events', %s)", (payload, told))
            plain, *_ = self.sockets
            while (text := await plain.read_message()) != told:
                assert text == payload

        self.run_now(run())
