"""No value of a row stops the feed: the deepest, the most quoted, on every road, and what comes after it comes to all."""

import asyncio
import json
from typing import Any, ClassVar

from tornado.testing import gen_test
from tornado.websocket import WebSocketClientConnection

from tests.access_case import AccessTestCase, issued
from tests.feed_case import FeedTestCase

DEPTH = 5_000
# SQL that gives a text of JSON, and whether jsonb takes it too.
VALUES: dict[str, tuple[str, bool]] = {
    "arrays in arrays": (f"repeat('[', {DEPTH}) || repeat(']', {DEPTH})", True),
    "objects in objects": (f"repeat('{{\"a\":', {DEPTH}) || '1' || repeat('}}', {DEPTH})", True),
    "just beyond Python's limit": ("repeat('[', 985) || repeat(']', 985)", True),
    "quotes in an array": ("to_json(ARRAY[repeat('\"', 40000)])::text", True),
    "HTML": ("to_json(ARRAY[repeat('<a href=\"x\">', 5000)])::text", True),
    "backslashes": ("to_json(repeat('\\', 100000))::text", True),
    "half characters": ("'[\"' || repeat('\\ud800', 5000) || '\"]'", False),
    "digits": ("repeat('9', 100000)", True),
}
DOCS = "CREATE TABLE docs (id bigint PRIMARY KEY, doc json, docb jsonb, body text, tags text[])"
LIMITS = {"public.docs": {"columns": ["id", "doc", "docb"], "filter": ["body=neq.hidden"]}}


LAST = 1 + sum(1 + is_for_jsonb for _, is_for_jsonb in VALUES.values())


def write_all(case: FeedTestCase) -> None:
    """Each value by INSERT, by UPDATE of it and beside it, and by DELETE. The last change is an INSERT of LAST."""
    row = 0
    for value, is_for_jsonb in VALUES.values():
        for column in ("doc", "docb") if is_for_jsonb else ("doc",):
            row += 1
            case.write(f"INSERT INTO docs (id, {column}, body) VALUES ({row}, ({value})::{_type_of(column)}, 'a')")
            case.write(f"UPDATE docs SET body = 'b', tags = ARRAY[repeat('\"', 40000)] WHERE id = {row}")
            case.write(f"UPDATE docs SET {column} = '[]' WHERE id = {row}")
            case.write(f"DELETE FROM docs WHERE id = {row}")
    case.write(f"INSERT INTO docs (id, body) VALUES ({LAST}, 'a')")


def _type_of(column: str) -> str:
    return {"doc": "json", "docb": "jsonb"}[column]


async def texts_until(socket: WebSocketClientConnection, last: int) -> list[str]:
    texts: list[str] = []
    while not texts or f'"id":{last}' not in texts[-1].replace("\\", ""):  # in a dashboard's message the row is a text
        said = await socket.read_message()
        assert isinstance(said, str), f"the socket was closed after {len(texts)}: {socket.close_code}"
        texts.append(said)
    return texts


def without_cursors(texts: list[str]) -> list[str]:
    """A sealed one is another each time."""
    return [text.rpartition(', "cursor": ')[0] for text in texts]


class ValuesTest(AccessTestCase):
    PATHS = (
        "/ws",
        "/ws?filter=body=neq.hidden",
        "/ws?filter=id=gte.0&columns=id,doc",
        "/ws?columns=id,docb",
        "/ws?table=docs&action=INSERT",
    )

    def prepare_database(self) -> None:
        self.write(DOCS)
        self.watch("public.docs")

    @gen_test(timeout=120)
    async def test_every_client_gets_every_change_live_and_later(self):
        bounded = {"Authorization": f"Bearer {issued({'tables': LIMITS})}"}
        everyone = [(path, self.headers("full")) for path in self.PATHS] + [
            ("/ws", bounded),
            ("/ws?columns=id", bounded),
        ]
        start = (await self.ask("full", "/api/place?at=0"))[1]["cursor"]
        live = [await self.connect(path, **headers) for path, headers in everyone]
        conflated = await self.connect("/ws?slow=conflate", protocol=True, **self.headers("full"))
        dashboard = await self.connect("/ws/activity", **bounded)
        reading = [asyncio.ensure_future(texts_until(socket, LAST)) for socket in (*live, conflated, dashboard)]
        await asyncio.to_thread(write_all, self)
        heard = (await asyncio.gather(*reading))[: len(live)]
        for (path, headers), texts in zip(everyone, heard, strict=True):
            # The bounded are not told of the UPDATE of what they may not see.
            per_value = 1 if "INSERT" in path else 3 if headers is bounded else 4
            assert len(texts) == per_value * (LAST - 1) + 1, path
        # Whole, to the byte: the first one's UPDATE tells the old value.
        assert '"old": {"doc": ' + "[" * DEPTH + "]" * DEPTH + "}" in heard[0][2]
        assert '"doc":' + "[" * DEPTH + "]" * DEPTH in heard[2][0]
        for (path, headers), texts in zip(everyone, heard, strict=True):
            if headers is not bounded:
                again = await self.connect(f"{path}{'&' if '?' in path else '?'}since={start}", **headers)
                assert await texts_until(again, LAST) == texts, path
            replaying = await self.connect(f"{path}{'&' if '?' in path else '?'}replay=10", **headers)
            replayed = await texts_until(replaying, LAST)  # fewer, where ten are more than is in memory
            assert without_cursors(replayed) == without_cursors(texts)[-len(replayed) :]
            page = await self.http_client.fetch(
                self.get_url("/api/changes" + path.removeprefix("/ws")), headers=headers, decompress_response=True
            )
            assert '"changes":[{' in page.body.decode()
        cursor = heard[0][0].rpartition('"cursor": "')[2].removesuffix('"}')
        permalink = self.get_url(f"/api/change?cursor={cursor}")
        found = await self.http_client.fetch(permalink, headers=self.headers("full"))
        assert found.body.decode() == heard[0][0]


class KeysTest(FeedTestCase):
    flags: ClassVar[tuple[str, ...]] = ("--payload", "keys")

    def prepare_database(self) -> None:
        self.write(DOCS)
        self.watch("public.docs")

    @gen_test(timeout=120)
    async def test_every_row_is_sent_with_its_key(self):
        client = await self.connect()
        reading = asyncio.ensure_future(texts_until(client, LAST))
        await asyncio.to_thread(write_all, self)
        rows: list[Any] = [json.loads(text)["data"] for text in await reading]
        assert [row["id"] for row in rows] == [*(id for id in range(1, LAST) for _ in range(4)), LAST]
        assert {len(row) for row in rows} == {1}
