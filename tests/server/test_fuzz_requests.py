"""Any path, header or parameter on every route: an answer below 500, and no traceback in the log."""

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from urllib.parse import quote_from_bytes

from tornado.testing import gen_test

from handlers.routes import ROUTES
from tests.access_case import AccessTestCase, token_of
from tests.feed_case import ORDERS
from tests.unit.access.test_tokens import signed

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW")
# What urlsplit(), int(), float(), a decoder, a date's parser or the file system raises something for, or might.
ODD = (
    *(b"", b"\x80\xff", b"\xed\xa0\x80", b"\xe2\x80\xae", b"%00", b"%", b"%ff", b"%ed%a0%80", b"%0d%0a", b"http://["),
    *(b"http://a:b:c", b"//\xe2\x84\x80", b"-1", b"1e999", b"nan", b"9" * 5_000, b"\xc2\xb2", b"[" * 5_000, b'{"', b",;="),
    *(b"..", b"*", b"x" * 5_000, b"bytes=9-1", b"Bearer a.b.c", b"Basic \xff", b"2|1:0|10:x|1:x|1:x|", b"fe80::1%eth0"),
    *(b"__Host-changefeed_session=\xff", b"changefeed_session=2|1:0|10:1|18:changefeed_session|0:|x", b"1.2.3.4, ["),
    *(b"Sat, 99 Feb 99999 99:99:99 GMT", b"multipart/form-data; boundary=", b"gzip;q=x", b"text/plain;version=x;q=x"),
    b"Bearer " + signed("[" * 5_000, "{}").encode(),
    b"Bearer " + signed('{"alg": "HS256", "kid": "\\ud800"}', "{}").encode(),
)  # fmt: skip
HEADERS = (
    *("Accept", "Accept-Encoding", "Access-Control-Request-Method", "Authorization", "Content-Encoding", "Content-Type"),
    *("Cookie", "Forwarded", "Host", "If-Modified-Since", "If-None-Match", "Last-Event-ID", "Origin", "Range"),
    *("Sec-Fetch-Site", "Sec-WebSocket-Extensions", "Sec-WebSocket-Key", "Sec-WebSocket-Origin", "Sec-WebSocket-Protocol"),
    *("Sec-WebSocket-Version", "Upgrade", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP"),
)  # fmt: skip
PARAMETERS = (
    *("action", "before", "columns", "cursor", "filter", "from", "id", "limit", "old", "replay", "since", "slow", "step"),
    *("table", "time", "to", "at", "token", "nonsense"),
)  # fmt: skip
BODIES = (
    *ODD,
    b'{"omit": ["\\ud800"]}',
    b'{"token": "\\ud800"}',
    b'{"row_limit": 1e999}',
    b'{"hash": null, "strict": NaN}',
)
UPGRADE = {
    "Upgrade": b"websocket",
    "Connection": b"Upgrade",
    "Sec-WebSocket-Version": b"13",
    "Sec-WebSocket-Key": b"AAAAAAAAAAAAAAAAAAAAAA==",
}
PATHS = [route.regex.pattern.removesuffix("$").replace("\\", "").replace("()", "") for route in ROUTES]
CONNECTIONS = 20
EVERY = 8  # one of this many values, another on each route
Request = tuple[str, bytes, dict[str, bytes], bytes]  # method, target, headers, body


def example_of(pattern: str) -> bytes:
    """A path of the route."""
    return re.sub(r"\(favicon.*", "client.js", pattern).replace("(.+)", "public.orders").encode()


def on_every_route(make: Callable[[str, bytes, dict[str, bytes]], Iterator[Request]]) -> Iterator[Request]:
    for pattern in PATHS:
        path = example_of(pattern)
        yield from make(pattern, path, UPGRADE if path.startswith((b"/ws", b"/listen")) else {})


def odd_headers(pattern: str, path: bytes, own: dict[str, bytes]) -> Iterator[Request]:
    step = 1 if path in (b"/ws", b"/client.js", b"/api/changes") else EVERY
    for number, header in enumerate(HEADERS, PATHS.index(pattern)):
        for odd in ODD[number % step :: step]:
            yield "GET", path, {**own, header: odd}, b""
    for header in HEADERS[:4]:
        for method in METHODS:
            yield method, path, {**own, header: b"x"}, b""


def odd_paths(pattern: str, path: bytes, own: dict[str, bytes]) -> Iterator[Request]:
    for odd in {quote_from_bytes(odd, "/%").encode() for odd in ODD}:
        for query in (odd, odd + b"=" + odd):
            yield "GET", path + b"?" + query, own, b""
        for method in ("GET", "HEAD", "PUT") if "(" in pattern else ("GET",):
            for other in (path.replace(b"public.orders", odd).replace(b"client.js", b"assets/" + odd), path + odd):
                yield method, other, own, b""


def odd_parameters(pattern: str, path: bytes, own: dict[str, bytes]) -> Iterator[Request]:
    for number, parameter in enumerate(PARAMETERS, PATHS.index(pattern)):
        for odd in ODD[number % EVERY :: EVERY]:
            yield "GET", path + b"?%s=%s" % (parameter.encode(), quote_from_bytes(odd, "%").encode()), own, b""


def odd_bodies(pattern: str, path: bytes, own: dict[str, bytes]) -> Iterator[Request]:
    if path.startswith(b"/api/"):
        for body in BODIES:
            for kind in (b"application/json", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x"):
                yield "PUT" if b"watch" in path else "POST", path, {"Content-Type": kind}, body


class AnyRequestTest(AccessTestCase):
    more_flags = (
        "--clients-per-second",
        "0",
        "--clients-per-second-per-address",
        "0",
        "--trusted-proxies",
        "127.0.0.1",
    )
    tracebacks: ClassVar[list[str]]

    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()

    def get_app(self) -> Any:
        self.tracebacks: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.tracebacks.append(str(record.exc_info)) if record.exc_info else None  # type: ignore[method-assign]
        logging.getLogger().addHandler(handler)
        self.addCleanup(logging.getLogger().removeHandler, handler)
        return super().get_app()

    async def status(self, method: str, target: bytes, headers: dict[str, bytes], body: bytes) -> int:
        """0 where the server says nothing: what is no HTTP."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
        own = {"Host": b"127.0.0.1", "Content-Length": b"%d" % len(body), **headers}
        lines = b"".join(b"%s: %s\r\n" % (name.encode(), value) for name, value in own.items())
        writer.write(method.encode() + b" " + target + b" HTTP/1.1\r\n" + lines + b"\r\n" + body)
        try:
            line = await reader.readline()
        except ConnectionError:
            line = b""
        finally:
            writer.close()
        return int(line.split()[1]) if line else 0

    async def assert_answers(self, asked: Iterator[Request], **more: bytes) -> None:
        failed = []

        async def work() -> None:
            for method, target, headers, body in asked:
                status = await self.status(method, target, {**more, **headers}, body)
                if status >= 500:
                    failed.append(
                        f"{status} {method} {target[:100]!r} {list(headers.items())[-1:]} {body[:60]!r}"[:400]
                    )

        await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
        assert (failed, self.tracebacks) == ([], [])

    @gen_test(timeout=110)
    async def test_no_header_of_a_visitor_is_an_error_of_the_server(self):
        await self.assert_answers(on_every_route(odd_headers))

    @gen_test(timeout=110)
    async def test_nor_a_path_or_a_body(self):
        await self.assert_answers(on_every_route(odd_paths))
        await self.assert_answers(on_every_route(odd_bodies))

    @gen_test(timeout=110)
    async def test_nor_any_query_or_body_with_all_rights(self):
        authorization = f"Bearer {token_of('full')}".encode()
        await self.assert_answers(on_every_route(odd_parameters), Authorization=authorization)
        await self.assert_answers(on_every_route(odd_bodies), Authorization=authorization)
