"""Every route there is: it answers, with security headers, and refuses in the one shape of an error."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urljoin

from tornado.httpclient import HTTPResponse
from tornado.testing import ExpectLog, gen_test

from changefeed import __version__
from handlers.routes import ROUTES
from tests.feed_case import FeedTestCase, message

SECURITY_HEADERS = {
    "Content-Security-Policy": re.compile(r"default-src 'none'; .*frame-ancestors 'none'"),
    "X-Content-Type-Options": re.compile("nosniff"),
    "Referrer-Policy": re.compile("no-referrer"),
    "Server": re.compile("psqlisten2websocket"),  # and no version of Tornado
}
Check = Callable[["RoutesTest", str], Awaitable[None]]


async def check_events(case: "RoutesTest", path: str) -> None:
    socket = await case.connect(path)
    case.write("SELECT pg_notify('events', '[1]')")
    assert await socket.read_message() == "[1]"


async def check_activity_socket(case: "RoutesTest", path: str) -> None:
    assert (await message(await case.connect(path)))["type"] == "hello"


async def check_listen(case: "RoutesTest", path: str) -> None:
    socket = await case.connect(path)
    case.write("NOTIFY people, 'hello'")
    assert await socket.read_message() == "hello"


async def check_activity(case: "RoutesTest", path: str) -> None:
    answer = await case.fetch_json(path)
    assert {"now", "since", "totals", "other", "buckets", "deaf"} <= answer.keys()


async def check_stream(case: "RoutesTest", path: str) -> None:
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def take(chunk: bytes) -> None:
        if b"data: " in chunk and not arrived.done():
            arrived.set_result(chunk)

    streaming = case.http_client.fetch(case.get_url(path), streaming_callback=take, request_timeout=0)
    while not arrived.done():
        case.write('SELECT pg_notify(\'events\', \'{"table": "orders", "action": "INSERT"}\')')
        await asyncio.wait({arrived}, timeout=0.05)
    assert b'"table": "orders"' in await arrived
    for client in tuple(case.feed.live_clients.connected):
        client.leave("")
    answer = await streaming
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    case.assert_has_security_headers(answer, path)


async def check_changes(case: "RoutesTest", path: str) -> None:
    assert (await case.fetch_json(path, 404))["error"]["code"] == "no_journal"


async def check_watch(case: "RoutesTest", path: str) -> None:
    answer = await case.fetch_json(path, 404, method="PUT", body="")
    assert answer["error"]["code"] == "no_such_table"


async def check_status(case: "RoutesTest", path: str) -> None:
    answer = await case.fetch_json(path)
    assert answer.keys() == {"server", "database", "clients", "process", "payload", "journal", "watched", "not_watched"}


async def check_tables(case: "RoutesTest", path: str) -> None:
    assert await case.fetch_json(path) == {"tables": []}


async def check_description(case: "RoutesTest", path: str) -> None:
    assert (await case.fetch_json(path))["openapi"] == "3.1.0"


async def check_health(case: "RoutesTest", path: str) -> None:
    assert await case.fetch_json(path) == {"status": "ok", "version": __version__}


async def check_ready(case: "RoutesTest", path: str) -> None:
    answer = await case.fetch_json(path)
    assert (answer["status"], answer["database"]["state"]) == ("ready", "listening")


async def check_metrics(case: "RoutesTest", path: str) -> None:
    answer = await case.get(path)
    assert (answer.code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert b"changefeed_listener_up" in answer.body


async def check_session(case: "RoutesTest", path: str) -> None:
    answer = await case.fetch_json(path)
    assert (answer["is_required"], answer["is_signed_in"]) == (False, True)


async def check_page(case: "RoutesTest", path: str) -> None:
    page = await case.get(path)
    assert (page.code, page.headers["Cache-Control"]) == (200, "no-cache")
    assert "text/html" in page.headers["Content-Type"]
    assert "<!doctype html>" in page.body.decode().lower()


async def check_files(case: "RoutesTest", path: str) -> None:
    """What the page names is there; what carries a hash in its name is kept."""
    page = (await case.get("/")).body.decode()
    named = [urljoin("/", file) for file in re.findall(r'(?:src|href)="([^"]+)"', page)]
    assert path in named
    for file in named:
        answer = await case.get(file)
        assert answer.code == 200, file
        assert ("immutable" in answer.headers["Cache-Control"]) == file.startswith("/assets/"), file


# Pattern of each route, a path that it fits, and what must hold of the answer.
CHECKS: dict[str, tuple[str, Check]] = {
    "/ws": ("/ws", check_events),
    "/ws/activity": ("/ws/activity", check_activity_socket),
    "/listen/(.+)": ("/listen/people", check_listen),
    "/api/activity": ("/api/activity", check_activity),
    "/api/change": ("/api/change", check_changes),
    "/api/place": ("/api/place?at=0", check_changes),
    "/events": ("/events", check_stream),
    "/api/changes": ("/api/changes", check_changes),
    "/api/rows": ("/api/rows?table=orders", check_changes),
    "/api/tables": ("/api/tables", check_tables),
    "/api/tables/(.+)/watch": ("/api/tables/public.nothing/watch", check_watch),
    "/api/status": ("/api/status", check_status),
    "/api/session": ("/api/session", check_session),
    r"/api/openapi\.json": ("/api/openapi.json", check_description),
    "/healthz": ("/healthz", check_health),
    "/readyz": ("/readyz", check_ready),
    "/metrics": ("/metrics", check_metrics),
    "/()": ("/", check_page),
    r"/(favicon\.svg|client\.js|client\.d\.ts|assets/[\w.-]+)": ("/favicon.svg", check_files),
}
# Those that answer a GET and end.
PATHS = [path for path, check in CHECKS.values() if check is not check_stream]
WATCH_PATH = "/api/tables/public.nothing/watch"
CHANGING = {(WATCH_PATH, "PUT"), (WATCH_PATH, "DELETE"), ("/api/session", "POST"), ("/api/session", "DELETE")}


class RoutesTest(FeedTestCase):
    flags = ("--channels", "people")

    async def get(self, path: str, **options: Any) -> HTTPResponse:
        return await self.http_client.fetch(self.get_url(path), raise_error=False, **options)

    def assert_is_error(self, answer: HTTPResponse, status: int, about: str) -> None:
        """The one shape: {"error": {"code", "message"}}, both for people and programs, never from a cache."""
        assert answer.code == status, about
        assert answer.headers["Content-Type"] == "application/json; charset=UTF-8", about
        assert answer.headers["Cache-Control"] == "no-store", about
        error = json.loads(answer.body)
        assert error.keys() == {"error"}, about
        assert error["error"].keys() == {"code", "message"}, about
        assert re.search(r"^[a-z0-9_]+$", error["error"]["code"]), about
        assert len(error["error"]["message"]) > 10, about
        self.assert_has_security_headers(answer, about)

    def assert_has_security_headers(self, answer: HTTPResponse, about: str) -> None:
        for name, expected in SECURITY_HEADERS.items():
            assert re.search(expected, answer.headers.get(name, "")), f"{name} of {about}"

    def test_every_route_has_its_check_here(self):
        assert {route.regex.pattern.removesuffix("$") for route in ROUTES} == set(CHECKS)

    @gen_test
    async def test_every_route_answers(self):
        for path, check in CHECKS.values():
            with self.subTest(path):
                await check(self, path)

    @gen_test
    async def test_every_answer_has_security_headers(self):
        for path in PATHS:
            self.assert_has_security_headers(await self.get(path), path)

    @gen_test
    async def test_what_is_true_only_now_is_kept_by_no_cache(self):
        for path in PATHS:
            answer = await self.get(path)
            if "application/json" in answer.headers["Content-Type"]:
                assert answer.headers["Cache-Control"] == "no-store", path

    @gen_test
    async def test_an_unknown_path_is_an_error_of_the_one_shape(self):
        for path in (
            "/nothing",
            "/ws/",
            "/ws/nothing",
            "/api",
            "/api/nothing",
            "/favicon.ico",
            "/assets/nothing.js",
            "//",
        ):
            self.assert_is_error(await self.get(path), 404, path)

    @gen_test
    async def test_an_unknown_method_is_an_error_of_the_one_shape(self):
        for path in [*PATHS, "/nothing"]:
            for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
                if (path, method) in CHANGING:
                    continue
                answer = await self.get(path, method=method, allow_nonstandard_methods=True)
                self.assert_is_error(answer, 404 if path == "/nothing" else 405, f"{method} {path}")
                assert ("Allow" in answer.headers) == (path != "/nothing"), f"{method} {path}"

    @gen_test
    async def test_names_that_postgresql_could_not_have_are_refused(self):
        for name in ("public.%00", "%00", "public.a%00b"):
            answer = await self.get(f"/api/tables/{name}/watch", method="PUT", body="")
            self.assert_is_error(answer, 404, name)
        for option in ("omit", "hash"):
            for column in ("\0", "\ud800", "a\udfffb"):
                answer = await self.get(WATCH_PATH, method="PUT", body=json.dumps({option: [column]}))
                self.assert_is_error(answer, 400, column)

    @gen_test
    async def test_a_malformed_body_is_answered_and_not_logged(self):
        headers = {"Content-Type": "multipart/form-data"}
        answer = await self.get("/api/session", method="POST", body="x", headers=headers)
        self.assert_is_error(answer, 400, "multipart")  # and conftest.py fails a test that logs a warning

    @gen_test
    async def test_a_socket_route_opened_as_a_page_explains_itself(self):
        for path in ("/ws", "/ws/activity", "/listen/people"):
            answer = await self.get(path)
            self.assert_is_error(answer, 400, path)
            assert "WebSocket" in json.loads(answer.body)["error"]["message"]

    @gen_test
    async def test_a_foreign_origin_gets_the_name_of_the_setting(self):
        handshake = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "13",
            "Origin": "https://evil.example.com",
        }
        for path in ("/ws", "/ws/activity", "/listen/people"):
            answer = await self.get(path, headers=handshake)
            self.assert_is_error(answer, 403, path)
            assert "--allow-origin" in json.loads(answer.body)["error"]["message"]

    @gen_test
    async def test_no_file_outside_the_dashboards_folder_is_given_out(self):
        for path in ("/assets/../../../server.py", "/assets/..%2f..%2f..%2fserver.py", "/assets/%2fetc%2fpasswd"):
            with ExpectLog("tornado.general", ".*is not in root static directory", level=30, required=False):
                answer = await self.get(path)
            assert answer.code in (403, 404), path
            self.assert_is_error(answer, answer.code, path)

    @gen_test
    async def test_an_internal_error_has_the_usual_shape_and_is_logged(self):
        self.feed.hub.tally = None  # type: ignore[assignment]
        with ExpectLog("tornado.application", "Uncaught exception GET /api/activity", level=40):
            answer = await self.get("/api/activity")
        self.assert_is_error(answer, 500, "/api/activity")
        assert "NoneType" not in answer.body.decode()
