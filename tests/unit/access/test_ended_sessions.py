"""Signing out ends the session on the server, for every holder of the cookie and in every process."""

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.testing import gen_test
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from handlers.access.ended_sessions import ENDED_SESSIONS_BYTES, RINGS, SESSIONS_KEPT, EndedSessions, Session
from handlers.http.close_codes import CloseCode
from process.shared_numbers import shared_memory
from tests import postgres
from tests.access_case import AccessTestCase, closing, token_of
from tests.feed_case import message
from tests.server_process import ServerProcess

TOKEN = "0123456789abcdef0123456789abcdef"


def session(number: int, token: str = TOKEN) -> Session:
    return Session(f"{number:016x}", 1000.0 + number, token)


def test_one_that_was_ended_is_ended_in_every_process():
    with shared_memory(3, ENDED_SESSIONS_BYTES) as descriptor:
        one, two, three = (EndedSessions(number, 3, descriptor) for number in (1, 2, 3))
        one.end(session(1))
        two.end(session(2))
        for each in (one, two, three):
            assert [each.has(session(number)) for number in (0, 1, 2, 3)] == [False, True, True, False]
            assert not each.news()
        again = EndedSessions(1, 3, descriptor)  # the process was started again
        again.end(session(3))
        assert [three.has(session(number)) for number in (1, 2, 3, 4)] == [True, True, True, False]


def test_many_ended_sessions_stay_ended_in_little_memory():
    ended, slowly = EndedSessions(), EndedSessions()
    many = [session(number, f"token {number % RINGS}") for number in range(3 * RINGS * SESSIONS_KEPT)]
    for one in many:
        ended.end(one)
        slowly.end(one)
        slowly.news()
    for each in (ended, slowly):
        assert all(map(each.has, many))
        assert len(each._ended) <= 2 * RINGS * SESSIONS_KEPT


def test_a_token_that_signs_out_often_ends_only_its_own_sessions():
    ended = EndedSessions()
    mine = [session(number) for number in range(3 * SESSIONS_KEPT)]
    others = [session(0, f"token {number}") for number in range(2 * RINGS)]
    for one in mine:
        ended.end(one)
    assert all(map(ended.has, mine))
    assert not ended.has(session(len(mine)))
    assert not [one for one in others if ended.has(one) and one.ring != mine[0].ring]
    assert len({one.ring for one in others}) > RINGS / 2


class SignOutTest(AccessTestCase):
    async def sign_in(self, kind: str = "full") -> dict[str, str]:
        answer = await self.http_client.fetch(
            self.get_url("/api/session"), method="POST", body=json.dumps({"token": token_of(kind)})
        )
        return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}

    async def status(self, cookies: dict[str, str]) -> int:
        return (await self.ask("none", "/api/tables", headers=cookies))[0]

    @gen_test
    async def test_a_signed_out_cookie_is_refused(self):
        for kind in ("full", "narrow", "orders"):
            mine, other = await self.sign_in(kind), await self.sign_in(kind)
            assert mine != other
            opened = [await self.connect(path, **mine) for path in ("/ws", "/ws/activity")]
            kept = await self.connect("/ws/activity", **other)
            for socket in (opened[1], kept):
                await message(socket, "hello")
            waiting = len(self.feed.authenticator.expiries.identities)
            await self.ask("none", "/api/session", method="DELETE", headers=mine)
            assert len(self.feed.authenticator.expiries.identities) == waiting - len(opened)
            assert await closing(opened[0]) == CloseCode.TOKEN_EXPIRED
            assert (await self.status(mine), await self.status(other)) == (401, 200)
            _, said = await self.ask("none", "/api/tables", headers=mine)
            assert "the session was ended" in said["error"]["message"]
            status, said = await self.ask("none", "/api/session", headers=mine)
            assert (status, said["is_signed_in"]) == (200, False)
            refused = await self.connect("/ws", **mine)
            assert await refused.read_message() is None
            ended = list(self.feed.authenticator.ended._counts)
            await self.ask("none", "/api/session", method="DELETE", headers=mine)  # once more does nothing
            assert not self.feed.authenticator.ended.news()
            assert self.feed.authenticator.ended._counts == ended
            assert await self.status(other) == 200

    @gen_test
    async def test_only_the_holder_ends_a_session(self):
        mine = await self.sign_in()
        for headers in (
            {},
            {"Cookie": mine["Cookie"][:-1] + ("0" if mine["Cookie"][-1] != "0" else "1")},
            {**mine, "Origin": "https://evil.example.com"},
            {**mine, "Sec-Fetch-Site": "cross-site"},
        ):
            await self.ask("none", "/api/session", method="DELETE", headers=headers)
            assert await self.status(mine) == 200


@contextlib.contextmanager
def asked(port: int) -> Iterator[http.client.HTTPConnection]:
    """A connection, which one of the processes holds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    yield connection
    connection.close()


def test_signing_out_in_one_process_is_signing_out_in_all(tmp_path: Path):
    flags = ("--port", "0", "--processes", "3", "--token", TOKEN)
    with ServerProcess(tmp_path, *flags, DATABASE_URL=postgres.new_database()) as server:
        port = server.port()
        with asked(port) as connection:
            connection.request("POST", "/api/session", json.dumps({"token": TOKEN}))
            answer = connection.getresponse()
            cookies = {"Cookie": str(answer.headers["Set-Cookie"]).partition(";")[0]}
            answer.read()
            with contextlib.ExitStack() as stack:
                clients = [
                    stack.enter_context(connect(f"ws://127.0.0.1:{port}/ws", proxy=None, additional_headers=cookies))
                    for _ in range(12)
                ]
                connection.request("DELETE", "/api/session", headers=cookies)
                assert connection.getresponse().status == 200
                for client in clients:
                    with pytest.raises(ConnectionClosed) as closed:
                        client.recv(timeout=30)
                    assert closed.value.rcvd
                    assert closed.value.rcvd.code == CloseCode.TOKEN_EXPIRED
        for _ in range(12):
            with asked(port) as another:
                another.request("GET", "/api/tables", headers=cookies)
                assert another.getresponse().status == 401
