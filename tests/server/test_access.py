"""Each route with each kind of token: what is refused, and what a client with limited rights can see."""

import asyncio
import json
import re
import time
from typing import Any

from tornado.testing import gen_test
from tornado.web import RequestHandler
from tornado.websocket import WebSocketClientConnection, websocket_connect

from handlers.access.authentication import Need
from handlers.http import socket as sockets
from handlers.http.base import BaseHandler, NotFoundHandler
from handlers.http.close_codes import CloseCode
from handlers.routes import ROUTES
from tests.access_case import KINDS, RIGHTS, AccessTestCase, closing, issued, token_of
from tests.feed_case import message

OPEN = 101
OTHERS = 4300000001  # a customer whose number is found in nothing else
Outcome = int | tuple[int, str]


class Probe:
    """One route: what each kind of token is answered, in the order of KINDS, and what it is then told."""

    def __init__(self, path: str, *outcomes: Outcome, method: str = "GET") -> None:
        self.path = path
        self.method = method
        self.outcomes = dict(zip(KINDS, outcomes, strict=True))


UNAUTHORIZED: tuple[Outcome, ...] = ((401, "sign_in"), (401, "bad_token"), (401, "token_expired"))
KNOCKING: tuple[Outcome, ...] = (CloseCode.SIGN_IN, 401, 401)  # a page without a token gets it in the socket
FOR_ALL: tuple[Outcome, ...] = (200,) * len(KINDS)
NO_RIGHT = (403, "no_right")
NO_RIGHTS = (403, "no_rights")

# KINDS:                                        none, wrong, expired, full, narrow, admin, orders, nothing
PROBES: dict[str, list[Probe]] = {
    "/ws": [Probe("/ws", *KNOCKING, OPEN, OPEN, OPEN, OPEN, OPEN)],
    "/ws/activity": [Probe("/ws/activity", *KNOCKING, OPEN, OPEN, OPEN, OPEN, OPEN)],
    "/listen/(.+)": [
        Probe("/listen/people", *KNOCKING, OPEN, 403, 403, OPEN, 403),
        Probe("/listen/changefeed", *KNOCKING, 403, 403, 403, 403, 403),
    ],
    "/events": [Probe("/events", *UNAUTHORIZED, 200, 200, 200, 200, NO_RIGHTS)],
    "/api/changes": [Probe("/api/changes", *UNAUTHORIZED, 200, 200, 200, 200, NO_RIGHTS)],
    "/api/rows": [Probe("/api/rows?table=orders", *UNAUTHORIZED, 200, 200, 200, 200, NO_RIGHTS)],
    "/api/activity": [Probe("/api/activity", *UNAUTHORIZED, 200, 200, 200, 200, NO_RIGHTS)],
    "/api/tables": [Probe("/api/tables", *UNAUTHORIZED, 200, 200, 200, 200, NO_RIGHTS)],
    "/api/tables/(.+)/watch": [
        Probe("/api/tables/public.orders/watch", *UNAUTHORIZED, 200, NO_RIGHT, 200, NO_RIGHT, NO_RIGHT, method="PUT"),
        Probe(
            "/api/tables/public.salaries/watch",
            *(*UNAUTHORIZED, 200, NO_RIGHT, (404, "no_such_table"), NO_RIGHT, NO_RIGHT),
            method="PUT",
        ),
        Probe(
            "/api/tables/public.salaries/watch",
            *(*UNAUTHORIZED, 200, NO_RIGHT, (404, "no_such_table"), NO_RIGHT, NO_RIGHT),
            method="DELETE",
        ),
    ],
    "/api/status": [Probe("/api/status", *UNAUTHORIZED, 200, NO_RIGHT, 200, NO_RIGHT, NO_RIGHT)],
    "/api/change": [
        Probe(
            "/api/change?cursor=rubbish",
            *(*UNAUTHORIZED, *((400, "not_a_cursor"),) * 4, NO_RIGHTS),
        )
    ],
    "/api/place": [Probe("/api/place?at=1", *UNAUTHORIZED, 200, 200, 200, 200, NO_RIGHTS)],
    "/metrics": [Probe("/metrics", *UNAUTHORIZED, 200, NO_RIGHT, NO_RIGHT, NO_RIGHT, NO_RIGHT)],
    "/api/session": [Probe("/api/session", *FOR_ALL)],
    r"/api/openapi\.json": [Probe("/api/openapi.json", *FOR_ALL)],
    "/healthz": [Probe("/healthz", *FOR_ALL)],
    "/readyz": [Probe("/readyz", *FOR_ALL)],
    "/()": [Probe("/", *FOR_ALL)],
    r"/(favicon\.svg|client\.js|client\.d\.ts|assets/[\w.-]+)": [Probe("/client.js", *FOR_ALL)],
}
SOCKETS = ("/ws", "/ws/activity", "/listen/(.+)")
STREAM = "/events"


def test_every_route_is_probed_with_every_kind_of_token():
    assert {route.regex.pattern.removesuffix("$") for route in ROUTES} == set(PROBES)


def handler_classes() -> set[type[RequestHandler]]:
    found = {route.handler_class for route in ROUTES} | {NotFoundHandler}
    return {one for one in found if isinstance(one, type)}


def test_no_handler_goes_round_the_gate():
    for handler in handler_classes():
        assert issubclass(handler, BaseHandler)
        assert handler.prepare is BaseHandler.prepare, f"{handler.__name__} has a prepare() of its own"
        assert isinstance(handler.needs, Need)


def test_a_handler_admits_only_all_rights_by_default():
    assert BaseHandler.needs is Need.ALL_RIGHTS


class WalkTest(AccessTestCase):
    @gen_test
    async def test_each_kind_of_token_gets_just_what_it_has_a_right_to(self):
        for pattern, probes in PROBES.items():
            for probe in probes:
                for kind, expected in probe.outcomes.items():
                    with self.subTest(f"{probe.method} {probe.path}", token=kind):
                        assert await self.outcome(pattern, probe, kind, expected) == expected

    async def outcome(self, pattern: str, probe: Probe, kind: str, expected: Outcome) -> Outcome:
        if pattern in SOCKETS:
            socket = await self.knock(kind, probe.path)
            if isinstance(socket, int):
                return socket
            return (await closing(socket) or 0) if expected == CloseCode.SIGN_IN else OPEN
        if pattern == STREAM and expected == 200:
            return await self.status_of_stream(kind, probe.path)
        body = None if probe.method in ("GET", "DELETE") else ""
        status, answer = await self.ask(kind, probe.path, method=probe.method, body=body)
        return (status, answer["error"]["code"]) if isinstance(expected, tuple) else status

    async def status_of_stream(self, kind: str, path: str) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode())
        writer.write("".join(f"{name}: {value}\r\n" for name, value in self.headers(kind).items()).encode() + b"\r\n")
        status = int((await reader.readline()).split()[1])
        writer.close()
        return status

    @gen_test
    async def test_a_refusal_explains_how_to_authenticate(self):
        answer = await self.http_client.fetch(self.get_url("/api/changes"), raise_error=False)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "Authorization: Bearer" in json.loads(answer.body)["error"]["message"]
        for header in ("Basic dTpw", "Bearer", "Bearer  ", "the-token-of-the-settings"):
            status, said = await self.ask("none", "/api/tables", headers={"Authorization": header})
            assert (status, said["error"]["code"]) == (401, "bad_token"), header

    @gen_test
    async def test_a_token_in_the_url_is_refused_everywhere(self):
        for probes in PROBES.values():
            for name in ("token", "access_token", "JWT"):
                path = f"{probes[0].path}{'&' if '?' in probes[0].path else '?'}{name}={token_of('full')}"
                status, said = await self.ask("full", path)
                assert (status, said["error"]["code"]) == (400, "token_in_url"), path
                assert "the-token" not in json.dumps(said)

    @gen_test
    async def test_health_routes_reveal_no_data(self):
        assert await self.ask("none", "/healthz") == (200, {"status": "ok"})
        _, ready = await self.ask("none", "/readyz")
        assert (ready["database"]["name"], ready["database"]["reason"]) == ("PostgreSQL", "")


def normal(said: Any) -> str:
    """What is said, but the time, and a sealed cursor's text: of that only how long it is."""
    text = re.sub(r"s\.[A-Za-z0-9_-]{40,}", lambda found: f"cursor of {len(found[0])}", json.dumps(said))
    text = re.sub(r"\d{4}-\d\d-\d\dT[0-9:.]+(Z|\+00:00)", "time", text)
    return re.sub(r"\b\d{10}\.\d+", "now", text)


ASKED = (
    "/api/tables",
    "/api/activity",
    "/api/activity?step=60",
    "/api/place?at=1",
    "/api/session",
    "/readyz",
    "/api/changes",
    "/api/changes?limit=1",
    "/api/changes?table=nothing",
    "/api/changes?filter=customer_id=gt.1&columns=id",
)


class UnseenTest(AccessTestCase):
    """Salaries, and the orders of others: three orders of customer 42 are all that may be seen."""

    last = 1000

    def write_unseen(self) -> None:
        self.pay(60)
        for number in range(100, 110):
            self.order(number, customer=OTHERS)
        self.write(
            "UPDATE orders SET note = 'more' WHERE customer_id = 4300000001; UPDATE salaries SET amount = 'unseen too'"
        )
        self.write("UPDATE orders SET note = note || '!' WHERE customer_id = 42")
        self.write("ANALYZE orders; DELETE FROM orders WHERE customer_id = 4300000001; TRUNCATE salaries")

    async def until_published(self) -> None:
        """Until what was written is known to the server."""
        self.last += 1
        self.order(self.last, customer=OTHERS)
        while not any(f'"id":{self.last},' in change.text for change in self.feed.hub.newest(10)):
            await self.feed.follower.until_moved()

    async def frames(self, path: str, count: int, *, protocol: bool = False) -> list[Any]:
        socket = await self.knock("narrow", path, protocol=protocol)
        assert not isinstance(socket, int)
        said = [await message(socket) for _ in range(count)]
        socket.close()
        return said

    async def all_told(self) -> dict[str, str]:
        told: dict[str, Any] = {path: await self.ask("narrow", path) for path in ASKED}
        [*_, newest] = (await self.ask("narrow", "/api/changes"))[1]["changes"]
        told["change"] = await self.ask("narrow", f"/api/change?cursor={newest['cursor']}")
        told["status"] = (await self.ask("admin", "/api/status"))[1]["watched"]
        cursor, pages = "", []
        while not pages or pages[-1]["has_more"]:
            _, page = await self.ask("narrow", f"/api/changes?limit=2{cursor and f'&since={cursor}'}")
            pages.append(page)
            cursor = page["cursor"]
        told["pages"] = pages
        told["plain"] = await self.frames("/ws?replay=100", 3)
        told["resumed"] = await self.frames(f"/ws?since={pages[0]['cursor']}", 1)
        told["protocol"] = await self.frames("/ws?replay=100", 2, protocol=True)
        told["caught up"] = await self.frames(f"/ws?since={cursor}", 2, protocol=True)
        told["dashboard"] = await self.frames("/ws/activity", 1)
        return {name: normal(said) for name, said in told.items()}

    @gen_test(timeout=60)
    async def test_unseen_changes_do_not_affect_what_is_sent(self):
        for number in (1, 2, 3):
            self.order(number)
        await self.until_published()
        before = await self.all_told()
        self.write_unseen()
        await self.until_published()
        after = await self.all_told()
        for name, told in before.items():
            assert told == after[name], name
            for unseen in ("salaries", "amount", "unseen", str(OTHERS)):
                assert unseen not in re.sub("cursor of [0-9]+", "", told), name
        assert '"id": 1' in before["pages"]

    @gen_test(timeout=60)
    async def test_live_only_what_may_be_seen_arrives(self):
        plain, protocol = await self.knock("narrow", "/ws"), await self.knock("narrow", "/ws", protocol=True)
        dashboard = await self.knock("narrow", "/ws/activity")
        assert not isinstance(plain, int)
        assert not isinstance(protocol, int)
        assert not isinstance(dashboard, int)
        await message(protocol, "hello")
        await message(dashboard, "hello")
        self.write_unseen()
        self.order(7)
        one = await message(plain)
        assert (one["data"], one.keys() & {"xid", "old"}) == ({"id": 7, "customer_id": 42}, set())
        said = await message(protocol)
        assert [change["data"]["id"] for change in said["changes"]] == [7]
        assert re.search(r"^s\.", said["cursor"])
        told: dict[str, Any] = {"rows": {"changes": []}}
        while not told["rows"]["changes"]:
            told = await message(dashboard, "activity")
            counts = told.get("totals", {}), told.get("buckets", {}), told.get("other", 0)  # not in every message
            assert counts == ({}, {}, 0)
            assert told["rows"]["of"] == len(told["rows"]["changes"])
        assert json.loads(told["rows"]["changes"][0])["data"] == {"id": 7, "customer_id": 42}

    @gen_test(timeout=60)
    async def test_a_row_that_goes_to_another_customer_leaves_as_it_was(self):
        self.order(7)
        socket = await self.knock("narrow", "/ws")
        assert not isinstance(socket, int)
        self.write("UPDATE orders SET customer_id = 4300000001, id = 8, note = 'unseen too' WHERE id = 7")
        left = await message(socket)
        assert (left["filter"], left["data"]) == ("leave", {"id": 7, "customer_id": 42})
        self.write("UPDATE orders SET customer_id = 42, id = 9 WHERE id = 8")
        entered = await message(socket)
        assert (entered["filter"], entered["data"]) == ("enter", {"id": 9, "customer_id": 42})
        assert "old" not in left.keys() | entered.keys()

    @gen_test
    async def test_a_cursor_of_other_rights_starts_over_with_a_gap(self):
        self.order(1)
        await self.until_published()
        _, page = await self.ask("full", "/api/changes?limit=1")
        _, narrow = await self.ask("narrow", f"/api/changes?since={page['cursor']}")
        assert "other rights" in narrow["gap"]["why"]
        [change] = narrow["changes"]
        assert change["data"]["id"] == 1
        _, again = await self.ask("narrow", f"/api/changes?since={change['cursor']}")
        assert (again["changes"], again["gap"]) == ([], None)
        status, said = await self.ask("narrow", "/api/changes?since=1f3.rubbish")
        assert (status, said["error"]["code"]) == (400, "not_a_cursor")

    @gen_test
    async def test_a_foreign_sealed_cursor_answers_like_a_forged_one(self):
        self.order(1)
        self.order(2, customer=OTHERS)
        await self.until_published()
        _, page = await self.ask("orders", "/api/changes")
        seen, unseen, *_ = (change["cursor"] for change in page["changes"])
        made_up = "s." + "A" * (len(seen) - 2)
        _, mine = await self.ask("narrow", "/api/changes")
        assert (await self.ask("orders", f"/api/change?cursor={mine['changes'][0]['cursor']}"))[0] == 404
        for path in ("/api/change?cursor={}", "/api/changes?since={}", "/api/changes?limit=1&since={}"):
            answers = {normal(await self.ask("narrow", path.format(cursor))) for cursor in (seen, unseen, made_up)}
            assert len(answers) == 1, answers
        told = [
            normal(await self.frames(f"/ws?since={cursor}", 2, protocol=True)) for cursor in (seen, unseen, made_up)
        ]
        assert len(set(told)) == 1, told
        assert "gap" in told[0]
        # The same rights in another token go on.
        assert (await self.ask("admin", f"/api/change?cursor={mine['changes'][0]['cursor']}"))[0] == 200

    @gen_test
    async def test_a_place_is_sent_regularly_in_any_case(self):
        self.order(1)
        await self.until_published()
        socket = await self.knock("narrow", "/ws", protocol=True)
        assert not isinstance(socket, int)
        await message(socket, "hello")
        cursors = set()
        for _ in range(2):
            self.feed.live_clients.advance_cursors()
            told = await message(socket, "changes")
            assert told["changes"] == []
            cursors.add(told["cursor"])
        assert len(cursors) == 2

    @gen_test
    async def test_rights_may_be_a_group_and_are_the_same_in_another_form(self):
        groups = ("or=(customer_id.eq.42,and(id.gte.7,id.lt.9))", "or=(and(id.lt.9,id.gte.7),customer_id.eq.42)")
        rights = [{"tables": {"public.orders": {"filter": [group]}}} for group in groups]
        first, second = ({"Authorization": f"Bearer {issued(one)}"} for one in rights)
        socket = await self.connect("/ws?filter=not.and=(id.eq.1,id.eq.2)", **first)
        self.order(1)
        self.order(6, customer=OTHERS)
        self.order(7, customer=OTHERS)
        self.write("UPDATE orders SET id = 8 WHERE id = 6")
        self.write("UPDATE orders SET id = 9 WHERE id = 7")
        self.write("DELETE FROM orders")
        changes = [await message(socket) for _ in range(6)]
        shown = [(one["action"], one["data"]["id"], one.get("filter")) for one in changes]
        assert shown[:4] == [
            ("INSERT", 1, None),
            ("INSERT", 7, None),
            ("UPDATE", 8, "enter"),
            ("UPDATE", 7, "leave"),
        ]
        assert sorted(shown[4:]) == [("DELETE", 1, None), ("DELETE", 8, None)]
        path = self.get_url(f"/api/changes?since={changes[3]['cursor']}")
        answer = json.loads((await self.http_client.fetch(path, headers=second)).body)
        assert answer["gap"] is None
        assert [one["data"]["id"] for one in answer["changes"]] == [one["data"]["id"] for one in changes[4:]]

    @gen_test
    async def test_clients_of_the_same_rights_are_one_audience(self):
        for _ in range(2):
            assert not isinstance(await self.knock("narrow", "/ws"), int)
        assert [len(audience.clients) for audience in self.feed.live_clients._audiences] == [2]


class AuthenticateTest(AccessTestCase):
    """By the first message of changefeed.v1."""

    async def socket(self, path: str = "/ws") -> WebSocketClientConnection:
        return await self.connect(path, protocol=True)

    async def say(self, socket: WebSocketClientConnection, token: str | None, **fields: Any) -> None:
        await socket.write_message(json.dumps({"type": "authenticate", "token": token, **fields}))

    @gen_test
    async def test_nothing_is_sent_before_authentication(self):
        socket = await self.socket("/ws?table=orders")
        self.order(1)
        await self.say(socket, token_of("narrow"))
        assert (await message(socket))["type"] == "hello"
        self.order(2)
        assert (await message(socket, "changes"))["changes"][0]["data"] == {"id": 2, "customer_id": 42}

    @gen_test
    async def test_without_a_token_the_only_answer_is_to_sign_in(self):
        first = (
            {"type": "subscribe"},
            {"type": "subscribe", "table": "nothing"},
            {"type": "nothing"},
            "no object",
        )
        for one in first:
            socket = await self.socket("/ws?table=nothing")
            await socket.write_message(json.dumps(one))
            assert await closing(socket) == CloseCode.SIGN_IN, one

    @gen_test
    async def test_a_refused_token_gets_the_reason(self):
        for token, code, close_code, why in (
            (token_of("wrong"), "bad_token", CloseCode.SIGN_IN, "neither one of --token's nor"),
            (token_of("expired"), "token_expired", CloseCode.SIGN_IN, "get a new one"),
            (issued(RIGHTS["full"], aud="others"), "bad_token", CloseCode.SIGN_IN, "audience"),
            (issued({"table": {}}), "bad_token", CloseCode.SIGN_IN, "the claim changefeed"),
            (token_of("nothing"), "no_rights", 1008, "its claim changefeed"),
            (issued(None), "bad_token", CloseCode.SIGN_IN, "claim changefeed"),
            (None, "sign_in", CloseCode.SIGN_IN, "authenticate"),
        ):
            socket = await self.socket("/ws?table=nothing")
            await self.say(socket, token)
            said = await message(socket)
            assert (said["type"], said["code"]) == ("error", code), token
            assert why.removeprefix("the ") in said["message"]
            assert await closing(socket) == close_code
            assert socket.close_reason == code

    @gen_test
    async def test_every_route_reports_a_missing_right(self):
        headers = self.headers("nothing")
        socket = await self.connect("/ws", protocol=True, **headers)
        said = await message(socket)
        assert (said["type"], said["code"]) == ("error", "no_rights")
        assert (await closing(socket), socket.close_reason) == (1008, "no_rights")
        for path in ("/ws", "/ws/activity"):
            socket = await self.connect(path, **headers)
            assert (await closing(socket), socket.close_reason) == (1008, "no_rights")
        assert len(self.feed.live_clients.connected) == 0
        status, said = await self.ask(
            "none", "/api/session", method="POST", body=json.dumps({"token": token_of("nothing")})
        )
        assert (status, said["error"]["code"]) == NO_RIGHTS

    @gen_test
    async def test_a_token_with_any_right_is_not(self):
        for rights in ({"channels": ["people"]}, {"admin": True}, {"tables": {"public.no_such": {}}}):
            status, _ = await self.ask("none", "/api/changes", headers={"Authorization": f"Bearer {issued(rights)}"})
            assert status == 200

    @gen_test
    async def test_a_client_that_needs_no_token_may_say_that_it_has_none(self):
        socket = await self.connect("/ws", protocol=True, **self.headers("narrow"))
        assert (await message(socket))["type"] == "hello"
        await socket.write_message(json.dumps({"type": "authenticate"}))
        await socket.write_message(json.dumps({"type": "subscribe"}))
        assert (await message(socket))["type"] == "hello"

    @gen_test
    async def test_a_request_that_opens_no_socket_learns_whether_the_address_is_right(self):
        for path, code in (
            ("/ws", "not_a_websocket"),
            ("/ws?table=nothing&rows=true&since=nothing", "not_a_websocket"),
            ("/ws?token=x", "token_in_url"),
            ("/sw", "not_found"),
        ):
            _, said = await self.ask("none", path)
            assert said["error"]["code"] == code, path

    @gen_test
    async def test_a_silent_client_is_closed_in_time(self):
        deadline, sockets.AUTHENTICATE_SECONDS = sockets.AUTHENTICATE_SECONDS, 0.01
        try:
            socket = await self.socket()
            assert await closing(socket) == CloseCode.SIGN_IN
        finally:
            sockets.AUTHENTICATE_SECONDS = deadline

    @gen_test
    async def test_a_subscription_that_cannot_be_is_refused_after(self):
        socket = await self.socket("/ws?table=salaries")
        await self.say(socket, token_of("narrow"))
        assert (await message(socket, "error"))["code"] == "unknown_table"
        assert await closing(socket) == 1008

    @gen_test
    async def test_a_new_token_of_the_same_rights_lets_a_client_stay(self):
        socket = await self.socket()
        await self.say(socket, issued(RIGHTS["narrow"], 2))
        await message(socket, "hello")
        await self.say(socket, issued(RIGHTS["narrow"], 3600))
        await self.say(socket, issued(RIGHTS["full"]))
        assert (await message(socket, "error"))["code"] == "other_rights"
        [identity] = self.feed.authenticator.expiries.identities
        assert (identity.expires_at or 0) > time.time() + 1800

    @gen_test
    async def test_a_socket_ends_with_its_token(self):
        for path, protocol in (("/ws", True), ("/ws", False), ("/ws/activity", False), ("/listen/people", False)):
            headers = {"Authorization": f"Bearer {issued(RIGHTS['full'], 1.5)}"}
            socket = await self.connect(path, protocol=protocol, **headers)
            while await socket.read_message() is not None:
                pass
            assert socket.close_code == CloseCode.TOKEN_EXPIRED, path

    @gen_test
    async def test_a_stream_ends_with_its_token(self):
        headers = {"Authorization": f"Bearer {issued(RIGHTS['full'], 1.5)}"}
        answer = await self.http_client.fetch(self.get_url("/events"), headers=headers, request_timeout=0)
        assert answer.code == 200


class SessionTest(AccessTestCase):
    """The dashboard's sign-in."""

    async def sign_in(self, token: str, **headers: str) -> tuple[int, Any, str]:
        answer = await self.http_client.fetch(
            self.get_url("/api/session"),
            method="POST",
            body=json.dumps({"token": token}),
            headers=headers,
            raise_error=False,
        )
        return answer.code, json.loads(answer.body), answer.headers.get("Set-Cookie", "")

    @gen_test
    async def test_an_httponly_cookie_replaces_the_token(self):
        for kind in ("full", "narrow"):
            status, said, cookie = await self.sign_in(token_of(kind) or "")
            assert (status, said["is_signed_in"], said["sees_everything"]) == (200, True, kind == "full")
            assert said["not_counted"] == ([] if kind == "full" else ["public.orders"])
            for attribute in ("HttpOnly", "SameSite=Strict", "Path=/"):
                assert attribute in cookie
            assert "the-token-of-the-settings" not in cookie
            cookies = {"Cookie": cookie.partition(";")[0]}
            assert (await self.ask("none", "/api/tables", headers=cookies))[0] == 200
            among_others = {"Cookie": f'a="\\"; b;{cookies["Cookie"]} ;changefeed_session_2=x'}
            assert (await self.ask("none", "/api/tables", headers=among_others))[0] == 200
            _, state = await self.ask("none", "/api/session", headers=cookies)
            assert state == said
            socket = await self.connect("/ws/activity", **cookies)
            assert (await message(socket))["type"] == "hello"

    @gen_test
    async def test_what_is_no_token_opens_no_session(self):
        for kind, code in (("wrong", "bad_token"), ("expired", "token_expired")):
            status, said, cookie = await self.sign_in(token_of(kind) or "")
            assert (status, said["error"]["code"], cookie) == (401, code, "")
        for body in ("", "[]", '{"token": 1}', '{"token": ""}', "[" * 100_000):
            status, said = await self.ask("none", "/api/session", method="POST", body=body)
            assert (status, said["error"]["code"]) == (400, "bad_sign_in")

    @gen_test
    async def test_a_session_ends(self):
        _, _, cookie = await self.sign_in(token_of("full") or "")
        status, said = await self.ask(
            "none", "/api/session", method="DELETE", headers={"Cookie": cookie.partition(";")[0]}
        )
        assert (status, said["is_signed_in"]) == (200, False)
        # The token is taken out of the settings.
        self.feed.authenticator.tokens._known.clear()
        status, said = await self.ask("none", "/api/tables", headers={"Cookie": cookie.partition(";")[0]})
        assert (status, said["error"]["code"]) == (401, "sign_in")

    @gen_test
    async def test_a_forged_cookie_is_ignored(self):
        _, _, cookie = await self.sign_in(token_of("full") or "")
        value = cookie.partition(";")[0]
        for forged in (
            value[:-1] + ("0" if value[-1] != "0" else "1"),
            "changefeed_session=x",
            "changefeed_session=;;",
        ):
            status, said = await self.ask("none", "/api/tables", headers={"Cookie": forged})
            assert (status, said["error"]["code"]) == (401, "sign_in"), forged

    @gen_test
    async def test_a_cookie_counts_for_pages_of_this_server_only(self):
        _, _, cookie = await self.sign_in(token_of("full") or "")
        cookies = {"Cookie": cookie.partition(";")[0]}
        own = f"http://127.0.0.1:{self.get_http_port()}"
        for origin, expected in (({"Origin": own}, 200), ({"Origin": "http://127.0.0.1:1"}, 401)):
            assert (await self.ask("none", "/api/tables", headers={**cookies, **origin}))[0] == expected
        for site, expected in (("same-origin", 200), ("none", 200), ("same-site", 401), ("cross-site", 401)):
            headers = {**cookies, "Sec-Fetch-Site": site}
            assert (await self.ask("none", "/api/tables", headers=headers))[0] == expected, site

    @gen_test
    async def test_a_page_of_another_origin_changes_nothing(self):
        _, _, cookie = await self.sign_in(token_of("full") or "")
        path = "/api/tables/public.orders/watch"
        foreign = ({"Origin": "https://evil.example.com"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"})
        for headers in foreign:
            for one in (headers, {**headers, "Cookie": cookie.partition(";")[0]}):
                status, said = await self.ask("none", path, method="DELETE", headers=one)
                assert (status, said["error"]["code"]) == (403, "foreign_origin"), one
            status, said, _ = await self.sign_in(token_of("full") or "", **headers)
            assert (status, said["error"]["code"]) == (403, "foreign_origin"), headers
            status, _ = await self.ask("full", path, method="PUT", body="", headers=headers)
            assert status == 200  # a token in the header is no browser's doing


class OpenTest(AccessTestCase):
    """Without any token in the settings."""

    def get_app(self) -> Any:
        super().get_app()
        return self.without_tokens()

    def without_tokens(self) -> Any:
        type(self).flags = ()
        return super(AccessTestCase, self).get_app()

    @gen_test
    async def test_an_open_server_gives_all_rights_and_no_session(self):
        assert (await self.ask("none", "/api/status"))[0] == 200
        _, state = await self.ask("none", "/api/session", method="POST", body="")
        assert (state["is_required"], state["is_admin"], state["sees_everything"]) == (False, True, True)
        socket = await websocket_connect(f"ws://127.0.0.1:{self.get_http_port()}/ws/activity")
        self.sockets.append(socket)
        assert (await message(socket))["type"] == "hello"

    @gen_test
    async def test_an_open_server_looks_at_no_token(self):
        socket = await self.connect("/ws", protocol=True)
        assert (await message(socket))["type"] == "hello"
        for fields in ({}, {"token": "of another server"}):
            await socket.write_message(json.dumps({"type": "authenticate", **fields}))
        await socket.write_message(json.dumps({"type": "subscribe"}))
        assert (await message(socket))["type"] == "hello"
