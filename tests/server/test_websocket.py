"""What a client of /ws gets: the original's frames, the subprotocol's messages, and a bound on its slowness."""

import json

import pytest
from tornado.httpclient import HTTPClientError
from tornado.testing import ExpectLog, gen_test

from changefeed import __version__
from tests.feed_case import ORDERS, FeedTestCase, message


class PlainSocketTest(FeedTestCase):
    @gen_test
    async def test_each_action_arrives_at_every_socket_byte_for_byte(self):
        self.write(ORDERS)
        self.watch_with_notify()
        sockets = [await self.connect() for _ in range(3)]
        row = {"id": 9007199254740993, "status": 'ä"\\\n☃', "total": None}
        self.write("INSERT INTO orders VALUES (%(id)s, %(status)s, 1.10)", row)
        inserted = self.payload("INSERT", "orders")
        self.write("UPDATE orders SET total = 123456789012345678901234567890.10")
        updated = self.payload("UPDATE", "orders")
        self.write("DELETE FROM orders")
        deleted = updated.replace("UPDATE", "DELETE")
        for socket in sockets:
            assert [await socket.read_message() for _ in range(3)] == [inserted, updated, deleted]

    def payload(self, action: str, table: str) -> str:
        """What to_json gives for the only row of `table`, as the trigger puts it."""
        [(text,)] = self.write(
            f"SELECT json_build_object('table', '{table}', 'action', '{action}', 'data', row_to_json(r))::text "
            f"FROM {table} AS r"
        )
        return text

    @gen_test
    async def test_a_page_written_for_the_original_reads_the_id_and_url(self):
        self.write("CREATE TABLE portal_eventrequests (id bigint, url text)")
        self.watch_with_notify("portal_eventrequests")
        socket = await self.connect()
        self.write("INSERT INTO portal_eventrequests VALUES (74036, 'https://example.com/x')")
        parsed = json.loads(await socket.read_message())
        assert (parsed["data"]["id"], parsed["data"]["url"]) == (74036, "https://example.com/x")
        assert list(parsed) == ["table", "action", "data"]
        assert socket.selected_subprotocol is None

    @gen_test
    async def test_foreign_json_passes_and_what_is_not_json_does_not(self):
        socket = await self.connect()
        with ExpectLog("changefeed.hub", "dropped a payload on channel events that is not JSON", level=30):
            for payload in ("not json", '{"hello": 1}', "{", "[1, 2]"):
                self.write("SELECT pg_notify('events', %s)", [payload])
            assert await socket.read_message() == '{"hello": 1}'
            assert await socket.read_message() == "[1, 2]"
        assert (self.feed.hub.tally.not_json, self.feed.hub.tally.foreign) == (2, 2)

    @gen_test
    async def test_messages_of_a_plain_client_are_ignored(self):
        self.write(ORDERS)
        self.watch_with_notify()
        socket = await self.connect()
        await socket.write_message("hello?")
        self.write("INSERT INTO orders VALUES (1)")
        assert (await message(socket))["action"] == "INSERT"

    @gen_test
    async def test_a_page_of_another_origin_is_refused(self):
        with (
            ExpectLog("tornado.access", "403", level=30, required=False),
            pytest.raises(HTTPClientError) as refused,
        ):
            await self.connect(Origin="http://evil.example.com")
        assert refused.value.code == 403


class AllowedOriginTest(FeedTestCase):
    flags = ("--allow-origin", "https://App.example.com")

    @gen_test
    async def test_a_page_of_an_allowed_origin_may_connect(self):
        await self.connect(Origin="https://app.example.com")


class ProtocolSocketTest(FeedTestCase):
    @gen_test
    async def test_hello_comes_first_and_changes_follow_in_their_order(self):
        self.write(ORDERS)
        self.watch_with_notify()
        socket = await self.connect(protocol=True)
        assert socket.selected_subprotocol == "changefeed.v1"
        hello = await message(socket)
        assert (hello["type"], hello["server"]["version"]) == ("hello", __version__)
        self.write("INSERT INTO orders SELECT generate_series(1, 3)")
        changes = []
        while len(changes) < 3:
            changes += (await message(socket, "changes"))["changes"]
        assert [change["data"]["id"] for change in changes] == [1, 2, 3]

    @gen_test
    async def test_a_bad_message_gets_an_error_and_keeps_the_socket(self):
        socket = await self.connect(protocol=True)
        for sent, code in (
            ("{", "not_json"),
            ("[" * 60_000, "not_json"),
            ("[]", "no_type"),
            ('{"type": 1}', "no_type"),
            ('{"type": "nonsense"}', "unknown_type"),
        ):
            await socket.write_message(sent)
            error = await message(socket, "error")
            assert error["code"] == code
        assert error["message"] == "unknown type of message: 'nonsense'; write subscribe or authenticate"

    @gen_test
    async def test_a_message_beyond_the_limit_closes_the_socket(self):
        socket = await self.connect(protocol=True)
        await message(socket, "hello")
        await socket.write_message("x" * 70_000)
        assert await socket.read_message() is None
        assert socket.close_code == 1009
