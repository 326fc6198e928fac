"""/events as an EventSource, a polyfill and a program ask for it: what is refused, and where it goes on."""

import asyncio
import json
import re
from typing import Any

from tornado.testing import gen_test

from changefeed.journal.cursor import Place, Snapshot, encode
from tests.access_case import AccessTestCase
from tests.feed_case import ORDERS, FeedTestCase

AS_A_BROWSER = {"Accept": "text/event-stream"}
OF_ANOTHER_JOURNAL = "s." + "A1_-" * 20


class Stream:
    """One answer of /events, read as it comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.status = 0
        self.headers = ""

    async def begin(self) -> None:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        self.status, self.headers = int(head.split()[1]), head

    async def block(self) -> str:
        """The next event, comment or other block of lines."""
        return (await self._reader.readuntil(b"\n\n")).decode()

    async def until(self, word: str) -> str:
        while word not in (block := await self.block()):
            pass
        return block


class StreamCase(FeedTestCase):
    async def ask(self, path: str, **headers: str) -> Stream:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
        self.addCleanup(writer.close)
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode())
        stream = Stream(reader, writer)
        await stream.begin()
        return stream

    async def refusal(self, path: str, **headers: str) -> tuple[Any, str]:
        """The error of a stream that ends at once, and all of it."""
        answer = await self.http_client.fetch(self.get_url(path), headers={**AS_A_BROWSER, **headers})
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-store"
        text = answer.body.decode()
        assert text.endswith("\n\n"), text
        [data] = re.findall(r"^event: error\ndata: (.+)$", text, re.MULTILINE)
        return json.loads(data)["error"], text


class RefusedForNowTest(StreamCase):
    flags = ("--client-limit", "1", "--clients-per-second", "1")

    @gen_test
    async def test_a_refused_browser_gets_a_stream_and_others_a_status(self):
        await self.connect()
        waits = set()
        for _ in range(5):
            error, text = await self.refusal("/events")
            assert error["code"] == "too_many_clients"
            assert "try again later" in error["message"]
            [retry] = re.findall(r"^retry: (\d+)$", text, re.MULTILINE)
            assert 2000 <= int(retry) <= 10000, retry
            waits.add(retry)
        assert len(waits) > 1
        assert (await self.fetch_json("/events", 503))["error"]["code"] == "too_many_clients"

    @gen_test
    async def test_one_of_too_many_at_once_comes_back_at_a_time_of_its_own(self):
        await self.connect()
        error, text = await self.refusal("/events")
        while error["code"] != "too_many_at_once":
            error, text = await self.refusal("/events")
        [seconds] = re.findall(r"try again in (\d+) s", error["message"])
        [retry] = re.findall(r"^retry: (\d+)$", text, re.MULTILINE)
        assert int(retry) >= int(seconds) * 1000

    @gen_test
    async def test_the_client_keeps_its_last_event_id(self):
        """Per the standard an event without an id makes the last one empty: the next attempt would begin now."""
        await self.connect()
        for path, headers in (
            ("/events", {"Last-Event-ID": OF_ANOTHER_JOURNAL}),
            (f"/events?lastEventId={OF_ANOTHER_JOURNAL}", {}),
        ):
            with self.subTest(path):
                _, text = await self.refusal(path, **headers)
                assert f"id: {OF_ANOTHER_JOURNAL}\n" in text


class JournalUnknownTest(StreamCase):
    @gen_test
    async def test_a_cursor_that_cannot_be_looked_up_yet_is_no_end(self):
        async def never(seconds: float) -> bool:
            return False

        self.feed.follower.until_known = never  # type: ignore[method-assign]
        forged = "/events?since=1f3.AbCdEfGh&lastEventId=a%0Adata:%20forged"
        error, text = await self.refusal(forged)
        assert error["code"] == "not_ready"
        assert "forged" not in text


class RefusedForGoodTest(StreamCase, AccessTestCase):
    @gen_test
    async def test_what_can_never_work_keeps_its_status(self):
        for path, headers, status in (
            ("/events", AS_A_BROWSER, 401),
            ("/events?filter=x", {**AS_A_BROWSER, **self.headers("full")}, 400),
            ("/events", {**AS_A_BROWSER, **self.headers("full"), "Last-Event-ID": "nothing"}, 400),
            ("/events?lastEventId=nothing", {**AS_A_BROWSER, **self.headers("full")}, 400),
            ("/events", {**AS_A_BROWSER, "Host": "evil.example.com"}, 403),
        ):
            await self.fetch_json(path, status, headers=headers)


class LastEventIdTest(StreamCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()

    def order(self, number: int) -> None:
        self.write("INSERT INTO orders VALUES (%s)", [number])

    async def cursors(self, *numbers: int) -> list[str]:
        """The cursors after the changes of these orders."""
        stream = await self.ask("/events")
        cursors = []
        for number in numbers:
            self.order(number)
            block = await stream.until(f'"id":{number}')
            cursors += re.findall(r"^id: (.+)$", block, re.MULTILINE)
        stream.writer.close()
        return cursors

    @gen_test
    async def test_polyfills_may_send_it_in_the_query(self):
        first, _ = await self.cursors(1, 2)
        for name in ("lastEventId", "lastEventID", "Last-Event-ID", "last_event_id", "lasteventid"):
            with self.subTest(name):
                stream = await self.ask(f"/events?{name}={first}")
                assert '"id":2' in await stream.until("data: ")

    @gen_test
    async def test_the_header_counts_before_the_query_and_that_before_since(self):
        first, second, third = await self.cursors(1, 2, 3)
        self.order(4)
        for path, headers, expected in (
            (f"/events?since={first}&lastEventId={second}", {"Last-Event-ID": third}, 4),
            (f"/events?since={first}&lastEventId={second}", {}, 3),
            (f"/events?lastEventId={second}&since={first}", {}, 3),
            (f"/events?since={first}&lastEventId=", {}, 2),
        ):
            stream = await self.ask(path, **headers)
            assert f'"id":{expected}' in await stream.until("data: "), path

    @gen_test
    async def test_a_stream_begins_with_its_place(self):
        stream = await self.ask("/events")
        [begin] = re.findall(r"^id: (.+)$", await stream.block(), re.MULTILINE)
        stream.writer.close()
        self.order(1)
        stream = await self.ask("/events", **{"Last-Event-ID": begin})
        assert '"id":1' in await stream.until("data: ")

    @gen_test
    async def test_a_cursor_beyond_what_postgresql_can_count_is_refused(self):
        assert self.feed.journal.epoch
        for xid in (2**63, 2**63 + 5, 2**64 - 2):
            snapshot = Snapshot(xid, xid)
            cursor = encode(self.feed.journal.epoch, Place(snapshot, snapshot, 1))
            for path in ("/events?since=", "/api/changes?since=", "/api/change?cursor="):
                error = (await self.fetch_json(path + cursor, 400, headers=AS_A_BROWSER))["error"]
                assert error["code"] == "not_a_cursor"

    @gen_test
    async def test_a_cursor_that_is_too_old_stays_until_the_gap_is_sent(self):
        stream = await self.ask("/events", **{"Last-Event-ID": OF_ANOTHER_JOURNAL})
        assert f"id: {OF_ANOTHER_JOURNAL}\n" in await stream.block()
        assert "event: gap\n" in await stream.block()
        # On a quiet feed the place that follows is all that it has to come back with.
        [place] = re.findall(r"^id: (.+)\n\n$", await stream.block())
        stream.writer.close()
        stream = await self.ask("/events", **{"Last-Event-ID": place})
        assert f"id: {place}\n" in await stream.block()
        self.order(1)
        assert '"id":1' in await stream.block()
