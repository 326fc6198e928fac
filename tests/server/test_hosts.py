"""By which name, through which proxy and below which path the server is asked for."""

import json
from pathlib import Path

from tornado.testing import gen_test

from handlers.access.authentication import Hosts, hosts_of
from settings.sources import load_settings
from tests.access_case import AccessTestCase, token_of
from tests.feed_case import FeedTestCase, message


class HostTest(FeedTestCase):
    flags = (
        *("--allow-host", "feed.example.com", "--allow-origin", "https://pages.example.com:8443"),
        "--allow-anonymous",
    )

    @gen_test
    async def test_on_loopback_only_names_that_are_the_servers_reach_it(self):
        for path in ("/", "/api/tables", "/healthz", "/ws"):
            for host in ("evil.example.com", "evil.example.com:8080", "localhost.example.com", "127.0.0.1.example.com"):
                said = await self.fetch_json(path, 403, headers={"Host": host})
                assert said["error"]["code"] == "foreign_host", host
                assert "--allow-host" in said["error"]["message"]

    @gen_test
    async def test_its_own_names_and_those_of_the_settings_do(self):
        for host in (
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "feed.example.com",
            "pages.example.com",
        ):
            await self.fetch_json("/healthz", headers={"Host": host})


PUBLIC_NAMES = ("rebind.evil.example", "evil.com", "127.0.0.1.evil.com", "localhost.evil.com", "127.1", "local.", "ai.")


class AnonymousHostTest(FeedTestCase):
    """Everybody on the network is let in, and no page of elsewhere whose name was made to point here."""

    flags = ("--address", "0.0.0.0", "--allow-anonymous")

    @gen_test
    async def test_a_public_name_must_be_named(self):
        for path in ("/", "/api/changes", "/healthz", "/ws", "/api/session"):
            for host in PUBLIC_NAMES:
                said = await self.fetch_json(path, 403, headers={"Host": host})
                assert said["error"]["code"] == "foreign_host", host
                assert f"--allow-host {host}" in said["error"]["message"]

    @gen_test
    async def test_addresses_and_names_of_ones_own_network_need_not(self):
        for host in (
            *("192.0.2.7:8080", "10.0.0.1", "[2001:db8::1]:8080", "127.0.0.1", "localhost:8080", "feed:8080"),
            *("printer.local", "feed.default.svc.cluster.local", "host.docker.internal"),
        ):
            await self.fetch_json("/healthz", headers={"Host": host})


class AnonymousNamedHostTest(FeedTestCase):
    flags = ("--address", "0.0.0.0", "--allow-anonymous", "--allow-host", "feed.example.com")

    @gen_test
    async def test_a_public_name_that_is_named_is_the_servers(self):
        for host, status in (("feed.example.com", 200), ("feed:8080", 200), ("evil.example.com", 403)):
            await self.fetch_json("/healthz", status, headers={"Host": host})


class OpenHereTest(FeedTestCase):
    """Without a word on who may come in, everybody on this machine may, and nobody else."""

    flags = ("--allow-origin", "https://pages.example.com")

    @gen_test
    async def test_a_request_through_a_proxy_is_refused(self):
        for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Forwarded-Host", "X-Forwarded-Proto", "Via"):
            for path in ("/api/changes", "/api/session", "/ws", "/"):
                said = await self.fetch_json(path, 403, headers={header: "192.0.2.1"})
                assert said["error"]["code"] == "proxied", header
                assert "--allow-anonymous" in said["error"]["message"]

    @gen_test
    async def test_an_origin_that_may_connect_is_no_name_of_the_server(self):
        await self.fetch_json("/healthz", 403, headers={"Host": "pages.example.com"})


def test_beyond_loopback_names_count_where_names_are_set():
    def hosts(*flags: str) -> Hosts | None:
        tokens = ("--token", "0123456789abcdef")
        return hosts_of(load_settings(("--address", "192.0.2.1", *tokens, *flags), {}, Path("/nonexistent")))

    assert hosts() is None
    named = hosts("--allow-host", "feed.example.com")
    assert named
    for host in ("feed.example.com", "192.0.2.1", "localhost"):
        assert host in named
    assert "feed" not in named


class BasePathTest(AccessTestCase):
    more_flags = ("--base-path", "/a/feed/")

    @gen_test
    async def test_every_route_is_below_the_path_and_nowhere_else(self):
        for path in ("/healthz", "/client.js", "/api/session", "/"):
            assert (await self.ask("none", f"/a/feed{path}"))[0] == 200, path
            assert (await self.ask("none", path))[0] == 404, path
        assert (await self.ask("none", "/aXfeed/healthz"))[0] == 404
        socket = await self.knock("full", "/a/feed/ws/activity")
        assert not isinstance(socket, int)
        assert (await message(socket))["type"] == "hello"

    @gen_test
    async def test_without_the_slash_it_leads_to_the_dashboard(self):
        answer = await self.http_client.fetch(self.get_url("/a/feed"), follow_redirects=False, raise_error=False)
        assert (answer.code, answer.headers["Location"]) == (301, "/a/feed/")

    @gen_test
    async def test_the_cookie_is_for_the_path_only(self):
        answer = await self.http_client.fetch(
            self.get_url("/a/feed/api/session"), method="POST", body=json.dumps({"token": token_of("full")})
        )
        assert "Path=/a/feed;" in answer.headers["Set-Cookie"] + ";"


class ProxyTest(AccessTestCase):
    more_flags = ("--trusted-proxies", "127.0.0.1", "--client-limit-per-address", "1")

    @gen_test
    async def test_the_client_is_the_one_that_the_proxy_names(self):
        headers = self.headers("full")
        for address in ("192.0.2.1", "192.0.2.2"):
            await self.connect("/ws", **headers, **{"X-Forwarded-For": f"10.9.9.9, {address}"})
        status, said = await self.ask("full", "/events", headers={"X-Forwarded-For": "192.0.2.2"})
        assert (status, said["error"]["code"]) == (503, "too_many_clients")

    @gen_test
    async def test_a_cookie_is_for_tls_only_where_the_page_came_by_it(self):
        for scheme, is_secure in (("https", True), ("http", False), ("", False), ("http, https", True), ("ftp", False)):
            answer = await self.http_client.fetch(
                self.get_url("/api/session"),
                method="POST",
                body=json.dumps({"token": token_of("full")}),
                headers={"X-Forwarded-Proto": scheme},
            )
            cookie = answer.headers["Set-Cookie"]
            assert ("Secure" in cookie) == is_secure, scheme
            # No other host can set it, where a browser would let none: by TLS, for all paths.
            assert cookie.startswith("__Host-changefeed_session=") == is_secure, scheme
            assert (await self.ask("none", "/api/tables", headers={"Cookie": cookie.split(";")[0]}))[0] == 200

    @gen_test
    async def test_the_host_cookie_wins(self):
        secure = {"X-Forwarded-Proto": "https"}
        answer = await self.http_client.fetch(
            self.get_url("/api/session"), method="POST", body=json.dumps({"token": token_of("full")}), headers=secure
        )
        ours = answer.headers["Set-Cookie"].split(";")[0]
        before = ours.removeprefix("__Host-")  # as a server of an earlier version set it
        for cookies, status in (
            (before, 200),
            (f"changefeed_session=forged; {ours}", 200),
            ("changefeed_session=x", 401),
        ):
            assert (await self.ask("none", "/api/tables", headers={"Cookie": cookies}))[0] == status, cookies
        gone = await self.http_client.fetch(
            self.get_url("/api/session"), method="DELETE", headers={"Cookie": ours, **secure}
        )
        cleared = gone.headers.get_list("Set-Cookie")
        assert [cookie.split("=")[0] for cookie in cleared] == ["changefeed_session", "__Host-changefeed_session"]
        assert "Secure" in cleared[1]


class NoProxyTest(AccessTestCase):
    more_flags = ("--client-limit-per-address", "1", "--trusted-proxies", "10.0.0.0/8")

    @gen_test
    async def test_only_trusted_proxies_are_believed(self):
        await self.connect("/ws", **self.headers("full"), **{"X-Forwarded-For": "192.0.2.1"})
        status, _ = await self.ask("full", "/events", headers={"X-Forwarded-For": "192.0.2.2"})
        assert status == 503
