"""What pages of other origins are answered: preflights, headers, and what a cache may keep of them."""

import json
from typing import Any

from tornado.httpclient import HTTPResponse
from tornado.testing import gen_test

from tests.access_case import AccessTestCase
from tests.feed_case import FeedTestCase

NAMED, OTHER = "https://app.example.com", "https://evil.example.com"
PATHS = (
    "/events",
    "/api/changes",
    "/api/tables",
    "/api/tables/public.orders/watch",
    "/api/session",
    "/client.js",
    "/ws",
)


class OriginCase(FeedTestCase):
    async def send(self, method: str, path: str, **options: Any) -> HTTPResponse:
        return await self.http_client.fetch(
            self.get_url(path), method=method, raise_error=False, allow_nonstandard_methods=True, **options
        )

    async def preflight(
        self, path: str, origin: str, method: str = "GET", asked: str = "authorization"
    ) -> HTTPResponse:
        headers = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": asked}
        return await self.send("OPTIONS", path, headers=headers)


class NamedOriginTest(OriginCase, AccessTestCase):
    more_flags = ("--allow-origin", "https://App.example.com")

    @gen_test
    async def test_a_preflight_of_a_named_origin_needs_no_token(self):
        for path in PATHS:
            answer = await self.preflight(path, NAMED, "PUT")
            assert (answer.code, answer.body) == (204, b""), path
            headers = answer.headers
            assert headers["Access-Control-Allow-Origin"] == NAMED
            assert "Origin" in headers["Vary"].split(", ")
            assert headers["Access-Control-Max-Age"] == "600"
            allowed = headers["Access-Control-Allow-Headers"].split(", ")
            assert {"Authorization", "Content-Type", "Last-Event-ID"} <= set(allowed)
            assert "Access-Control-Allow-Credentials" not in headers
        methods = (await self.preflight(PATHS[3], NAMED, "PUT")).headers["Access-Control-Allow-Methods"].split(", ")
        assert set(methods) == {"PUT", "DELETE"}

    @gen_test
    async def test_a_foreign_preflight_names_the_setting(self):
        for origin in (OTHER, "null", "https://app.example.com.evil.example.com", "http://app.example.com", ""):
            for path in PATHS:
                answer = await self.preflight(path, origin)
                assert answer.code == 403, (path, origin)
                assert "Access-Control-Allow-Origin" not in answer.headers
                error = json.loads(answer.body)["error"]
                assert error["code"] == "foreign_origin"
                assert "--allow-origin" in error["message"]

    @gen_test
    async def test_other_options_requests_are_405_or_404(self):
        for headers in ({}, {"Origin": NAMED}, {"Access-Control-Request-Method": "GET"}):
            assert (await self.send("OPTIONS", "/healthz", headers=headers)).code == 405
        assert (await self.preflight("/nothing", NAMED)).code == 404

    @gen_test
    async def test_a_preflight_of_a_foreign_host_is_refused(self):
        headers = {"Origin": NAMED, "Access-Control-Request-Method": "GET", "Host": "evil.example.com"}
        assert (await self.send("OPTIONS", "/api/changes", headers=headers)).code == 403

    @gen_test
    async def test_every_answer_varies_by_origin(self):
        token = self.headers("full")
        for path, headers, status in (
            ("/client.js", {}, 200),
            ("/healthz", {}, 200),
            ("/api/tables", token, 200),
            ("/api/changes?limit=x", token, 400),
            ("/api/changes", {}, 401),
            ("/nothing", {}, 404),
        ):
            with self.subTest(path):
                answer = await self.send("GET", path, headers={"Origin": NAMED, **headers})
                assert answer.code == status
                assert answer.headers["Access-Control-Allow-Origin"] == NAMED
                assert answer.headers["Access-Control-Expose-Headers"] == "Retry-After"
                assert "Access-Control-Allow-Credentials" not in answer.headers
                for origin in ({}, {"Origin": OTHER}):
                    answer = await self.send("GET", path, headers={**origin, **headers})
                    assert "Origin" in answer.headers["Vary"].split(", ")
                    assert "Access-Control-Allow-Origin" not in answer.headers

    @gen_test
    async def test_an_unchanged_cached_file_varies_by_origin(self):
        kept = (await self.send("GET", "/client.js")).headers["Etag"]
        answer = await self.send("GET", "/client.js", headers={"Origin": NAMED, "If-None-Match": kept})
        assert (answer.code, answer.headers["Vary"].split(", ")[0]) == (304, "Origin")
        assert answer.headers["Access-Control-Allow-Origin"] == NAMED

    @gen_test
    async def test_nothing_is_given_to_pages_that_ask_without_cors(self):
        for path in ("/client.js", "/healthz", "/api/changes", "/nothing"):
            answer = await self.send("GET", path)
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin", path
            assert "Strict-Transport-Security" not in answer.headers  # which means nothing without TLS

    @gen_test
    async def test_the_cookie_counts_for_the_servers_own_pages_only(self):
        signed_in = await self.send("POST", "/api/session", body=json.dumps({"token": "the-token-of-the-settings"}))
        cookie = signed_in.headers["Set-Cookie"].partition(";")[0]
        for headers, status in (({}, 200), ({"Origin": NAMED}, 401), ({"Sec-Fetch-Site": "cross-site"}, 401)):
            answer = await self.send("GET", "/api/tables", headers={"Cookie": cookie, **headers})
            assert answer.code == status, headers


class NoOriginTest(OriginCase):
    @gen_test
    async def test_without_named_origins_no_preflight_passes(self):
        assert (await self.preflight("/api/changes", NAMED)).code == 403
        answer = await self.send("GET", "/client.js", headers={"Origin": NAMED})
        assert "Access-Control-Allow-Origin" not in answer.headers


class AnyOriginTest(OriginCase):
    flags = ("--allow-origin", "*")

    @gen_test
    async def test_any_page_may_read_but_not_write_without_a_token(self):
        assert (await self.preflight("/api/changes", OTHER)).code == 204
        answer = await self.send("GET", "/healthz", headers={"Origin": OTHER})
        assert answer.headers["Access-Control-Allow-Origin"] == OTHER
        answer = await self.send("PUT", PATHS[3], headers={"Origin": OTHER}, body="")
        assert answer.code == 403
        made_up = {"Origin": OTHER, "Authorization": "Bearer x", "Sec-Fetch-Site": "cross-site"}
        for method, body in (("PUT", "{}"), ("DELETE", None)):
            answer = await self.send(method, PATHS[3], headers=made_up, body=body)
            assert (answer.code, json.loads(answer.body)["error"]["code"]) == (403, "foreign_origin")
