"""A client that was let in is counted until it leaves, and open no longer than its token is valid."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

from handlers.access.admission import Admission
from handlers.access.admitted import AdmittedClient
from handlers.access.errors import ApiError
from handlers.access.expiry import Expiries
from handlers.access.tokens import ANONYMOUS, Identity
from handlers.delivery.client_counts import ClientCounts
from handlers.http.close_codes import CloseCode
from process.shared_numbers import SharedNumbers
from settings.sources import load_settings


class Door:
    def __init__(self) -> None:
        numbers = SharedNumbers()
        self.admission = Admission(load_settings((), {}, Path("/nonexistent")), ClientCounts(numbers), numbers)
        self.expiries = Expiries()
        self.expired: list[Identity] = []
        self.has_expired = asyncio.Event()

    def let_in(self, identity: Identity) -> AdmittedClient:
        def note() -> None:
            self.expired.append(identity)
            self.has_expired.set()

        return AdmittedClient(self.admission, self.expiries, "127.0.0.1", "feed", identity, note)


def lasting(seconds: float) -> Identity:
    return replace(ANONYMOUS, expires_at=time.time() + seconds)


def test_a_client_that_left_is_not_counted_and_never_expires():
    async def go() -> None:
        door = Door()
        client = door.let_in(lasting(3600))
        assert (door.admission.count, len(door.expiries.identities)) == (1, 1)
        client.leave()
        assert (door.admission.count, door.expiries.identities) == (0, [])
        door.expiries.end_all_of(lambda identity: True)
        assert door.expired == []

    asyncio.run(go())


def test_a_newer_token_lets_it_stay():
    async def go() -> None:
        door = Door()
        older, newer = lasting(3600), lasting(7200)
        client = door.let_in(older)
        client.renew(newer)
        assert door.expiries.identities == [newer]
        door.expiries.end_all_of(lambda identity: identity is older)
        assert door.expired == []
        door.expiries.end_all_of(lambda identity: identity is newer)
        assert door.expired == [older]  # the call is the client's own
        client.leave()

    asyncio.run(go())


def test_a_client_with_an_expired_token_is_closed_once():
    async def go() -> None:
        door = Door()
        client = door.let_in(lasting(-1))
        await door.has_expired.wait()
        assert door.expiries.identities == []
        client.leave()
        assert (len(door.expired), door.admission.count) == (1, 0)

    asyncio.run(go())


def test_the_expiries_of_one_server_end_nothing_of_another():
    async def go() -> None:
        one, other = Door(), Door()
        clients = one.let_in(lasting(3600)), other.let_in(lasting(3600))
        one.expiries.end_all_of(lambda identity: True)
        assert (len(one.expired), other.expired) == (1, [])
        for client in clients:
            client.leave()

    asyncio.run(go())


def test_an_errors_status_decides_the_close_code():
    for status, code in ((401, 4401), (403, 1008), (400, 1008), (404, 1008), (410, 1008), (503, 1013), (500, 1013)):
        assert CloseCode.of(ApiError(status, "code", "message")) == code
