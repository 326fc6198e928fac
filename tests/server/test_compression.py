"""Answers as gzip: each file is compressed once, and nothing large in one turn of the event loop."""

import asyncio
import gzip
import json
import re
from typing import Any
from unittest import mock
from urllib.parse import urljoin

from tornado import web
from tornado.httpclient import HTTPResponse
from tornado.testing import gen_test

from handlers.dashboard.static import dashboard_files
from handlers.http.compression import PIECE_BYTES, compress_in_pieces
from tests.feed_case import ORDERS, FeedTestCase

GZIP = {"Accept-Encoding": "gzip"}
# All that those without a token may ask for.
OPEN_PATHS = ("/", "/client.js", "/client.d.ts", "/api/openapi.json", "/healthz", "/readyz", "/api/session", "/nothing")


class CompressionCase(FeedTestCase):
    async def ask(self, path: str, method: str = "GET", **headers: str) -> HTTPResponse:
        return await self.http_client.fetch(
            self.get_url(path), method=method, headers=headers, decompress_response=False, raise_error=False
        )


class FilesTest(CompressionCase):
    @gen_test
    async def test_nothing_is_compressed_for_a_request_without_a_token(self):
        page = (await self.ask("/")).body.decode()
        named = re.findall(r'(?:src|href)="([^"]+)"', page)
        paths = (*OPEN_PATHS, *(urljoin("/", file) for file in named))
        for path in paths:
            await self.ask(path, **GZIP)  # the first may be the one that does
        with mock.patch.object(web.gzip, "GzipFile", wraps=gzip.GzipFile) as compressing:
            for path in paths:
                await self.ask(path, **GZIP)
        assert compressing.call_count == 0

    @gen_test
    async def test_each_encoding_has_its_headers_and_its_tag(self):
        for path in ("/", "/client.js", "/client.d.ts", "/api/openapi.json"):
            with self.subTest(path):
                plain = await self.ask(path)
                assert "Content-Encoding" not in plain.headers
                small = await self.ask(path, **GZIP)
                assert small.headers["Content-Encoding"] == "gzip"
                assert gzip.decompress(small.body) == plain.body
                assert len(small.body) < len(plain.body)
                assert small.headers["Etag"] != plain.headers["Etag"]
                for answer, headers in ((plain, {}), (small, GZIP)):
                    assert "Accept-Encoding" in answer.headers["Vary"].split(", ")
                    assert int(answer.headers["Content-Length"]) == len(answer.body)
                    tags = {"If-None-Match": f'"other", W/{answer.headers["Etag"]}'}
                    unchanged = await self.ask(path, **headers, **tags)
                    assert (unchanged.code, unchanged.body) == (304, b"")
                    assert unchanged.headers["Etag"] == answer.headers["Etag"]
                    assert "Accept-Encoding" in unchanged.headers["Vary"].split(", ")
                other = await self.ask(path, **GZIP, **{"If-None-Match": plain.headers["Etag"]})
                assert other.code == 200

    @gen_test
    async def test_the_head_of_a_file_is_that_of_its_answer(self):
        for headers in ({}, GZIP):
            whole, head = [await self.ask("/client.js", method, **headers) for method in ("GET", "HEAD")]
            assert (head.code, head.body) == (200, b"")
            for name in ("Content-Length", "Content-Type", "Etag", "Vary", "Cache-Control"):
                assert head.headers[name] == whole.headers[name], name
            assert head.headers.get("Content-Encoding") == whole.headers.get("Content-Encoding")

    @gen_test
    async def test_gzip_is_sent_to_those_that_take_it(self):
        for accepted, is_gzipped in (
            ("gzip", True),
            ("br, GZIP;q=0.5", True),
            ("deflate,gzip ; q=0.001", True),
            ("gzip;q=0", False),
            ("gzip; q=0.0, br", False),
            ("x-gzip-other", False),
            ("identity", False),
        ):
            answer = await self.ask("/client.js", **{"Accept-Encoding": accepted})
            assert ("Content-Encoding" in answer.headers) == is_gzipped, accepted

    @gen_test
    async def test_a_part_of_a_file_is_not_sent_as_the_whole(self):
        """A server may answer with all of it (RFC 9110, 14.2), as 200."""
        whole = await self.ask("/client.js")
        for asked in ("bytes=0-9", "bytes=999999-", "bytes=-5"):
            for headers in ({}, GZIP):
                answer = await self.ask("/client.js", **headers, Range=asked)
                assert answer.code == 200
                body = gzip.decompress(answer.body) if headers else answer.body
                assert body == whole.body

    def test_all_files_are_kept(self):
        assert {"index.html", "client.js", "client.d.ts", "favicon.svg"} < dashboard_files().keys()


class LargeAnswersTest(CompressionCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()

    @gen_test
    async def test_a_large_answer_is_compressed_in_pieces(self):
        self.write("INSERT INTO orders (id) SELECT generate_series(1, 2000)")
        sizes: list[int] = []

        class Counted(gzip.GzipFile):
            def write(self, data: Any) -> int:
                sizes.append(len(data))
                return super().write(data)

        with mock.patch.object(web.gzip, "GzipFile", Counted):
            answer = await self.ask("/api/changes?limit=2000", **GZIP)
            rows = await self.ask("/api/rows?table=orders", **GZIP)
        body = gzip.decompress(answer.body)
        assert answer.headers["Content-Encoding"] == "gzip"
        assert len(body) > 2 * PIECE_BYTES
        assert len(json.loads(body)["changes"]) == 2000
        assert len(json.loads(gzip.decompress(rows.body))["rows"]) == 2000
        assert max(sizes) <= PIECE_BYTES + len('{"rows":[')

    @gen_test
    async def test_twice_as_large_takes_twice_the_turns(self):
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.ensure_future(count())
        taken = []
        for size in (10, 20, 40):
            before = turns
            content = b"[1, 2, 3]" * (size * PIECE_BYTES // 9)
            assert gzip.decompress(await compress_in_pieces(content)) == content
            taken.append(turns - before)
        counting.cancel()
        assert [9 <= count / times <= 12 for count, times in zip(taken, (1, 2, 4), strict=True)] == [True] * 3
