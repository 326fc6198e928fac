"""The channel of the original's trigger: on which anybody can make up changes, and which can be switched off."""

import json
from typing import ClassVar
from urllib.parse import quote

import pytest
from tornado.testing import gen_test

from changefeed.counts.tally import TABLE_LIMIT, UNKNOWN_TABLES, Tally
from changefeed.hub import Hub
from tests.access_case import AccessTestCase, issued
from tests.feed_case import ORDERS, UPGRADE, FeedTestCase

INNOCENT = '{"table": "orders", "action": "INSERT", "data": {"id": 1, "status": "open"}}'


def innocent(number: int) -> str:
    return INNOCENT.replace("1", str(number))


def nested(depth: int) -> str:
    return '{"table": "orders", "action": "INSERT", "data": {"status": ' + "[" * depth + "]" * depth + "}}"


class PlainTest(FeedTestCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.write("CREATE TABLE hidden (id int)")
        self.write("CREATE TABLE plain (id int)")
        self.watch("public.orders")
        self.watch("public.hidden")
        self.watch_with_notify("plain")

    def notify(self, payloads: list[str]) -> None:
        """In one transaction, so that they come in one turn."""
        self.write("SELECT pg_notify('events', payload) FROM unnest(%s) AS payload", [payloads])

    @gen_test
    async def test_made_up_tables_hide_none_that_there_are(self):
        await self.feed.catalog.until_read()
        made_up = [f'{{"table": "made up {number}", "action": "INSERT"}}' for number in range(TABLE_LIMIT + 100)]
        client = await self.connect()
        self.notify(made_up)
        self.write("INSERT INTO hidden VALUES (1)")
        self.write("INSERT INTO plain VALUES (1)")
        seen = [json.loads(await client.read_message() or "")["table"] for _ in range(len(made_up) + 2)]
        assert set(seen[-2:]) == {"hidden", "plain"}
        totals = self.feed.hub.tally.totals
        assert (totals["public.hidden"][0], totals["plain"][0]) == (1, 1)
        assert UNKNOWN_TABLES in totals
        for path in ("/api/activity?window=900&step=1",):
            said = json.dumps(await self.fetch_json(path))
            assert '"public.hidden"' in said
            assert '"plain"' in said

    @gen_test
    async def test_payloads_of_any_depth_cost_no_other_of_their_turn(self):
        clients = [
            await self.connect(path)
            for path in (f"/ws?filter={quote('status=eq.open')}", "/ws?columns=id,status", "/ws?table=orders", "/ws")
        ]
        depths = (*range(1, 200, 50), *range(940, 1000), 3900)
        self.notify([payload for depth in depths for payload in (nested(depth), innocent(depth))])
        self.notify(['{"table": "orders", "action": "DELETE", "data": {"id": 2, "status": "open"}}'])
        for client in clients:
            texts: list[str] = []
            while "DELETE" not in (text := str(await client.read_message())):
                texts.append(text)
            assert sum('"open"' in text for text in texts) == len(depths)
            if client is not clients[0]:
                assert [text.count("[") for text in texts if '"open"' not in text] == list(depths)


class SwitchedOffTest(FeedTestCase):
    flags = ("--no-plain-channel", "--channels", "*")

    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch("public.orders")

    @gen_test
    async def test_it_is_not_listened_to_and_changes_nothing(self):
        sessions = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
        assert self.write(f"SELECT {sessions} AND query LIKE '%LISTEN \"events\"%'") == []
        client = await self.connect()
        raw = await self.connect("/listen/events")
        self.write("SELECT pg_notify('events', %s)", [INNOCENT])
        assert await raw.read_message() == INNOCENT  # on the wire it is what its client asked for
        self.write("INSERT INTO orders VALUES (7, 'open', 1)")
        assert json.loads(await client.read_message() or "")["data"]["id"] == 7
        assert set(self.feed.hub.tally.totals) == {"public.orders"}
        assert not self.feed.hub.has_plain_triggers


class RawTest(AccessTestCase):
    more_flags: ClassVar[tuple[str, ...]] = ("--channels", "*")

    @gen_test
    async def test_payloads_do_not_reveal_tables_that_the_client_may_not_see(self):
        for tables in ({"public.orders": {}}, {"*": {"columns": ["id"]}}, {"*": {}, "hr.*": {"columns": ["id"]}}, {}):
            token = issued({"tables": tables, "channels": ["*"]})
            said = await self.fetch_json("/listen/events", 403, headers={"Authorization": f"Bearer {token}", **UPGRADE})
            assert said["error"]["code"] == "channel_not_allowed"
        assert self.feed.raw_clients.connected == []
        everything = issued({"tables": {"*": {}}, "channels": ["events"]})
        raw = await self.connect("/listen/events", Authorization=f"Bearer {everything}")
        self.write("SELECT pg_notify('events', '[1]')")
        assert await raw.read_message() == "[1]"


@pytest.mark.parametrize(
    ("payload", "is_taken"),
    [
        (nested(5000), True),
        (nested(5000)[:-3], False),
        (json.dumps({"table": "t", "action": "INSERT", "data": "[" * 5000}), True),
        (json.dumps({"table": "t", "action": "INSERT", "data": '\\"[' * 2000}), True),
        (json.dumps([[]] * 1000), True),
        ('"' + "[" * 5000, False),
        ("\\" * 100 + "[" * 5000, False),
    ],
)
def test_json_is_taken_however_deep_and_nothing_else(payload: str, is_taken: bool):
    published: list[str] = []
    hub = Hub(Tally(0.0), [lambda changes, cursor: published.extend(change.text for change in changes)])
    hub._complained_at = float("inf")  # what it would log is another test's
    hub.receive([payload, INNOCENT])
    assert published == [*([payload] if is_taken else []), INNOCENT]
