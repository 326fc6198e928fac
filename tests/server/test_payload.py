"""--payload: what is withheld is on no route, and cannot be asked for; what is counted is counted all the same."""

import asyncio
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tornado.httpclient import HTTPClientError
from tornado.testing import ExpectLog, gen_test
from tornado.web import Application

from app.assembly import make_context
from changefeed.change.change import Change, parse_payload
from changefeed.change.exposure import Payload, reduce
from changefeed.echo import json_line, terminal_line
from changefeed.postgres.connection import complete
from handlers.routes import ROUTES, make_app
from settings.sources import load_settings
from settings.table import SettingsError
from tests import postgres
from tests.access_case import AccessTestCase
from tests.feed_case import FeedTestCase, message

SECRET, KEY = "a-secret-of-a-row", 9007199254740993
# Routes without the sockets and the stream, each with a query; what is not asked for here gives nothing of a row.
PAGES = {
    "/api/changes": "",
    "/api/change": "",
    "/api/place": "?at=0",
    "/api/rows": "?table=orders",
    "/api/activity": "",
    "/api/tables": "",
    "/api/status": "",
    "/api/session": "",
    "/api/openapi.json": "",
    "/healthz": "",
    "/readyz": "",
    "/metrics": "",
}
OTHERS = {"/ws", "/ws/activity", "/events", "/listen/(.+)", "/api/tables/(.+)/watch", "/()"}


class PayloadCase(FeedTestCase):
    """Rows with a secret in them: of the journal, from before the server and of now, and of the original's trigger."""

    def get_app(self) -> Application:
        self.conninfo = postgres.new_database()
        self.state_changed = asyncio.Event()
        self.echoed: list[str] = []
        settings = load_settings(self.flags, {}, Path("/nonexistent"))
        self.feed = make_context(settings, complete(self.conninfo), "test", self.state_changed.set, self.echo)
        return make_app(self.feed)

    def echo(self, changes: Any, cursor: str | None) -> None:
        self.echoed += [line(change) for change in changes for line in (json_line, terminal_line)]

    def prepare_database(self) -> None:
        for table in ("orders", "plain"):
            self.write(f"CREATE TABLE {table} (id bigint PRIMARY KEY, note text, more jsonb)")
        self.write("CREATE TABLE keyless (note text); CREATE TABLE done (id int PRIMARY KEY)")
        self.watch()
        self.watch("public.keyless")
        self.watch("public.done")
        self.watch_with_notify("plain")
        self.write_rows(KEY)

    def write_rows(self, number: int) -> None:
        for table in ("orders", "plain"):
            values = (number, SECRET, json.dumps({"deep": [SECRET]}))
            self.write(f"INSERT INTO {table} VALUES (%s, %s, %s)", values)
            self.write(f"UPDATE {table} SET note = note || '!', id = id + 2 WHERE id = %s", (number,))
            self.write(f"DELETE FROM {table} WHERE id = %s", (number + 2,))
        self.write("INSERT INTO keyless VALUES (%s)", (SECRET,))
        self.write("UPDATE keyless SET note = note || '!'; TRUNCATE keyless")


class WalkTestCase(PayloadCase):
    """Everything that every route says while rows come; subclasses say of which payload."""

    __test__ = False
    hides: ClassVar[bool] = True

    async def all_that_is_said(self) -> str:
        await self.feed.catalog.until_read()
        oldest = (await self.fetch_json("/api/changes?limit=1"))["cursor"]
        paths = ("/ws", "/ws?replay=1000", f"/ws?since={oldest}", "/ws?action=INSERT&action=UPDATE&replay=5")
        sockets = [await self.connect(path, protocol=protocol) for path in paths for protocol in (False, True)]
        sockets += [await self.connect("/ws?slow=conflate", protocol=True), await self.connect("/ws/activity")]
        streams = [self.stream(path) for path in ("/events?replay=1000", f"/events?since={oldest}")]
        for begun, _ in streams:
            await begun.wait()
        self.write_rows(KEY + 100)
        self.write("INSERT INTO done VALUES (1)")
        said = [text for socket in sockets for text in await self.until_done(socket)]
        said += [text for _, done in streams for text in await done]
        for client in tuple(self.feed.live_clients.connected):
            client.leave("")  # an event stream does not end by itself
        for path, query in PAGES.items():
            if path == "/api/change":
                changes = (await self.fetch_json("/api/changes"))["changes"]
                asked = [f"?cursor={change['cursor']}" for change in changes]
            else:
                asked = [query]
            # Without rows in the feed there are none to ask for.
            is_refused = path == "/api/rows" and self.feed.settings.payload is Payload.OFF
            for one in asked:
                answer = await self.http_client.fetch(self.get_url(path + one), raise_error=not is_refused)
                assert (answer.code == 400) == is_refused
                said.append(answer.body.decode())
        return "\n".join([*said, *self.echoed])

    @staticmethod
    async def until_done(socket: Any) -> list[str]:
        """What a socket says up to the last change."""
        said: list[str] = []
        while not said or "done" not in said[-1]:
            said.append(str(await socket.read_message()))
        return said

    def stream(self, path: str) -> "tuple[asyncio.Event, asyncio.Future[list[str]]]":
        """When it says the first thing, and all that it says up to the last change."""
        begun, said = asyncio.Event(), []
        done: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

        def take(chunk: bytes) -> None:
            begun.set()
            said.append(chunk.decode())
            if "done" in said[-1] and not done.done():
                done.set_result(said)

        self.http_client.fetch(self.get_url(path), streaming_callback=take, request_timeout=0)
        return begun, done

    @gen_test(timeout=60)
    async def test_the_secret_of_a_row_is_on_no_route(self):
        said = await self.all_that_is_said()
        assert (SECRET not in said) == self.hides
        assert (str(KEY) in said) == (self.feed.settings.payload is not Payload.OFF)
        assert (str(KEY + 102) in said) == (self.feed.settings.payload is not Payload.OFF)

    @gen_test
    async def test_status_and_dashboard_show_the_payload_setting(self):
        assert (await self.fetch_json("/api/status"))["payload"] == self.feed.settings.payload
        hello = await message(await self.connect("/ws/activity"), "hello")
        assert hello["payload"] == self.feed.settings.payload

    @gen_test
    async def test_everything_is_counted(self):
        socket = await self.connect()
        self.write_rows(KEY + 100)
        self.write("INSERT INTO done VALUES (1)")
        await self.until_done(socket)
        assert self.feed.hub.tally.totals["public.orders"] == [2, 2, 2, 0]
        assert self.feed.hub.tally.totals["plain"] == [1, 1, 1, 0]


class FullTest(WalkTestCase):
    __test__ = True
    hides = False


class KeysTest(WalkTestCase):
    __test__ = True
    flags = ("--payload", "keys")

    @gen_test
    async def test_of_a_row_the_columns_of_the_key_are_sent(self):
        await self.feed.catalog.until_read()
        socket = await self.connect()
        self.write("INSERT INTO orders VALUES (1, 'x'); UPDATE orders SET note = 'y'; UPDATE orders SET id = 2")
        self.write("INSERT INTO keyless VALUES ('x'); TRUNCATE keyless")
        got = [json.loads(await socket.read_message()) for _ in range(5)]
        assert [change["data"] for change in got] == [{"id": 1}, {"id": 1}, {"id": 2}, {}, None]
        assert [change.get("old") for change in got] == [None, {}, {"id": 1}, None, None]
        self.write("INSERT INTO plain VALUES (3, 'x')")
        assert await socket.read_message() == '{"table": "plain", "action": "INSERT", "data": {"id":3}}'

    @gen_test
    async def test_keys_of_several_columns_and_new_keys_are_current(self):
        self.write("CREATE TABLE parts (a int, b text, c text, PRIMARY KEY (a, b)) PARTITION BY LIST (a)")
        self.write("CREATE TABLE part PARTITION OF parts DEFAULT")
        self.watch("public.parts")
        socket = await self.connect()
        self.write("INSERT INTO part VALUES (1, 'ä', 'c')")
        assert json.loads(await socket.read_message())["data"] == {"a": 1, "b": "ä"}
        self.write("ALTER TABLE parts DROP CONSTRAINT parts_pkey; INSERT INTO parts VALUES (2, 'b', 'c')")
        assert json.loads(await socket.read_message())["data"] == {}

    @gen_test
    async def test_a_withheld_column_cannot_be_asked_for(self):
        for query in ("table=orders&filter=note=eq.x", "filter=note=is.null", "columns=note", "filter=nix=eq.1"):
            for path in ("/api/changes", "/events"):
                error = (await self.fetch_json(f"{path}?{query}", 400))["error"]
                assert error["code"] == "withheld_column", query
                assert "--payload keys" in error["message"]
        socket = await self.connect("/ws?filter=id=eq.7&columns=id")
        self.write("INSERT INTO orders VALUES (6, 'x'), (7, 'y')")
        assert json.loads(await socket.read_message())["data"] == {"id": 7}

    @gen_test
    async def test_a_dashboard_learns_it_too(self):
        dashboard = await self.connect("/ws/activity")
        dashboard.write_message(json.dumps({"type": "filter", "filter": ["note=eq.x"]}))
        assert (await message(dashboard, "error"))["code"] == "withheld_column"
        dashboard.write_message(json.dumps({"type": "filter", "filter": ["id=eq.7"]}))
        self.write("INSERT INTO orders VALUES (7, 'y')")
        while not (rows := (await message(dashboard, "activity")).get("rows", {})).get("matching"):
            pass
        assert json.loads(rows["changes"][0])["data"] == {"id": 7}


class OffTest(WalkTestCase):
    __test__ = True
    flags = ("--payload", "off")

    @gen_test
    async def test_of_a_row_nothing_is_sent_but_that_it_changed(self):
        socket = await self.connect()
        self.write("INSERT INTO orders VALUES (1, 'x'); UPDATE orders SET id = 2")
        for action in ("INSERT", "UPDATE"):
            change = json.loads(await socket.read_message())
            assert (change["table"], change["action"], change["data"]) == ("orders", action, None)
            assert change.keys() == {"table", "action", "data", "schema", "at", "xid", "cursor"}
        self.write("INSERT INTO plain VALUES (3, 'x')")
        assert await socket.read_message() == '{"table": "plain", "action": "INSERT", "data": null}'

    @gen_test
    async def test_no_column_can_be_asked_for(self):
        for query in ("filter=id=eq.1", "columns=id"):
            with pytest.raises(HTTPClientError) as refusal:
                await self.connect(f"/ws?{query}")
            assert refusal.value.code == 400
            socket = await self.connect(f"/ws?{query}", protocol=True)
            assert (await message(socket, "error"))["code"] == "withheld_column"
        socket = await self.connect("/ws", protocol=True)
        socket.write_message('{"type": "subscribe", "filter": ["id=eq.1"]}')
        assert "--payload off" in (await message(socket, "error"))["message"]
        dashboard = await self.connect("/ws/activity")
        dashboard.write_message('{"type": "filter", "filter": ["note=eq.x"]}')
        assert (await message(dashboard, "error"))["code"] == "withheld_column"

    @gen_test
    async def test_a_payload_of_another_shape_is_withheld_and_counted(self):
        socket = await self.connect()
        with ExpectLog("changefeed.hub", "dropped a payload on channel events that --payload cannot redact", level=30):
            for payload in ('["a secret"]', '{"table": 1, "data": "a secret"}', '"a secret"'):
                self.write("SELECT pg_notify('events', %s)", (payload,))
            self.write("INSERT INTO plain VALUES (3, 'x')")
            assert json.loads(await socket.read_message())["table"] == "plain"
        assert (self.feed.hub.tally.withheld, self.feed.hub.tally.foreign) == (3, 0)
        metrics = (await self.http_client.fetch(self.get_url("/metrics"))).body.decode()
        assert 'changefeed_payloads_dropped_total{reason="withheld"} 3.0' in metrics


class RightsTestCase(AccessTestCase):
    """A token whose rights filter on a column that is withheld sees nothing of the table; others see the other columns."""

    __test__ = False
    has_channels = False

    @gen_test
    async def test_a_right_by_a_withheld_column_shows_nothing(self):
        await self.feed.catalog.until_read()
        orders = await self.connect(**self.headers("orders"))
        dashboard = await self.connect("/ws/activity", **self.headers("narrow"))
        self.order(1)
        self.write("UPDATE orders SET note = 'other'; TRUNCATE orders")
        self.pay()
        for action in ("INSERT", "UPDATE", "TRUNCATE"):
            change = json.loads(await orders.read_message())
            assert (change["action"], "unseen" in str(change)) == (action, False)
        status, answer = await self.ask("orders", "/api/changes")
        assert (status, len(answer["changes"])) == (200, 3)
        assert await self.knock("narrow", "/ws") == 400
        status, answer = await self.ask("narrow", "/api/changes")
        assert (status, answer["error"]["code"]) == (400, "unknown_table")
        hello = await message(dashboard, "hello")
        assert (hello["recent"], hello["totals"], hello["payload"]) == ([], {}, self.feed.settings.payload)
        assert (await message(dashboard, "activity"))["rows"] == {"of": 0, "changes": []}

    @gen_test
    async def test_a_hidden_column_and_a_missing_one_get_the_same_answer(self):
        answers = [await self.ask("orders", f"/api/changes?filter={column}=eq.1") for column in ("note", "nix_")]
        there, not_there = (str(answer).replace("nix_", "note") for answer in answers)
        assert there == not_there


class KeysRightsTest(RightsTestCase):
    __test__ = True
    more_flags = ("--payload", "keys")


class OffRightsTest(RightsTestCase):
    __test__ = True
    more_flags = ("--payload", "off")


def test_every_route_is_looked_at():
    patterns = {route.regex.pattern.removesuffix("$").replace("\\.", ".") for route in ROUTES}
    assert {pattern for pattern in patterns if "assets" not in pattern} == PAGES.keys() | OTHERS


@pytest.mark.parametrize("payload", ["keys", "off"])
def test_raw_channels_would_go_around_it(payload: str):
    with pytest.raises(SettingsError, match=f"--channels sends payloads unchanged, .* --payload {payload}"):
        load_settings(["--payload", payload, "--channels", "chat"], {}, Path("/nonexistent"))
    assert load_settings(["--payload", "full", "--channels", "chat"], {}, Path("/nonexistent")).payload is Payload.FULL


PAYLOADS = [
    ('{"table":"t","action":"INSERT","data":{"id":1.10,"x":2},"old":{"x":1},"who":"me"}', '{"id":1.10}', "INSERT"),
    (' {"data" : { "x":1, "id" : [1] } , "action":"DELETE", "table":"t"}', '{"id":[1]}', "DELETE"),
    ('{"table":"t","action":"UPDATE","data":"text"}', "null", "UPDATE"),
    ('{"table":"t","action":"UPDATE","data":null}', "null", "UPDATE"),
    ('{"table":"t","action":"UPDATE"}', "null", "UPDATE"),
    ('{"table":"t","action":"UPDATE","data":{"x":1}}', "{}", "UPDATE"),
    ('{"table":"t","action":"INSERT","data":{"id":1,"x":"\\ud800"}}', '{"id":1}', "INSERT"),
    (f'{{"table":"t","action":"INSERT","data":{{"id":{"9" * 5000}}}}}', f'{{"id":{"9" * 5000}}}', "INSERT"),
]


@pytest.mark.parametrize(("payload", "data", "action"), PAYLOADS)
def test_of_what_a_plain_trigger_tells_the_key_is_left(payload: str, data: str, action: str):
    expected = f'{{"table": "t", "action": "{action}", "data": {data}}}'
    assert reduce(parse_payload(payload), Payload.KEYS, lambda table: ("id",)) == Change(expected, "t", action)
    assert reduce(parse_payload(payload), Payload.OFF, lambda table: ("id",)) == Change(
        f'{{"table": "t", "action": "{action}", "data": null}}', "t", action
    )
    assert reduce(parse_payload(payload), Payload.FULL, lambda table: ()) == parse_payload(payload)


def test_the_schema_that_a_plain_trigger_names_is_kept():
    change = parse_payload('{"table":"t","action":"INSERT","data":{"id":1},"schema":"s\\u00e4"}')
    found = reduce(change, Payload.OFF, lambda table: ())
    assert found == Change('{"table": "t", "action": "INSERT", "data": null, "schema": "sä"}', "sä.t", "INSERT")
    assert found == parse_payload(found.text)
