"""How many clients are let in: in all, from one address, with one token, in a second; and who is there.

Those without a token are counted apart, before the door, so that they cannot take the places of those with one.
Knows no socket.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Hashable

from handlers.access.crowd import Crowd
from handlers.access.errors import ApiError
from handlers.access.forwarded import place_of
from handlers.access.rate import RateLimiter, RateLimiterPerAddress
from handlers.delivery.client_counts import ClientCounts
from process.shared_numbers import SharedNumbers
from settings.table import Settings

REFUSED = "changefeed_clients_refused_total"
REASONS = ("pace", "address_pace", "all", "address", "token", "sign_in")


class Admission:
    """Whoever is let in is counted in `census`, by kind; whoever is not, in `meters`, by reason.

    `outside` are the sockets that have not said yet who they are, `unread` the bytes of answers by connection that
    nobody has read yet. An IPv6 address stands for its /64.
    """

    def __init__(self, settings: Settings, client_counts: ClientCounts, meters: SharedNumbers) -> None:
        self._limit = settings.client_limit
        self._limit_per_address = settings.client_limit_per_address
        self._limit_per_token = settings.client_limit_per_token
        self._pace = RateLimiter(settings.clients_per_second)  # of those with a token
        self._pace_of_strangers = RateLimiter(settings.clients_per_second)
        self._pace_per_address = RateLimiterPerAddress(settings.clients_per_second_per_address)
        self.outside: Crowd[Hashable] = Crowd(settings.sign_in_limit)
        self.unread: Crowd[Hashable] = Crowd(settings.unread_limit_bytes)
        self._inside = 0
        self._addresses: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._client_counts = client_counts
        self._refused = {reason: meters.meter(REFUSED, reason) for reason in REASONS}
        self._left = asyncio.Event()

    @property
    def count(self) -> int:
        """Those who stay, also before the door."""
        return self._inside + len(self.outside)

    def check_rate(self, address: str | None, token: str | None = None) -> None:
        """Somebody comes; `token` stands for the one that he has shown. Raises ApiError for one of too many at once."""
        if token:
            self._wait("pace", self._pace.wait_seconds())
        else:
            self._wait("address_pace", self._pace_per_address.wait_seconds(place_of(address or "")))
            self._wait("pace", self._pace_of_strangers.wait_seconds())

    def _wait(self, reason: str, wait_seconds: float) -> None:
        if wait_seconds:
            seconds = math.ceil(wait_seconds)
            raise self._refusal(
                reason, f"too many clients come at the same time; come back in {seconds} s", retry_after_seconds=seconds
            )

    def check(self, address: str | None, token: str | None = None) -> None:
        """Raises ApiError for one too many. `token` stands for that by which he was let in, where one is asked for."""
        if self._inside >= self._limit:
            raise self._refusal("all", f"{self._limit} clients are connected already; try again later")
        if self._limit_per_address and self._addresses[place_of(address or "")] >= self._limit_per_address:
            raise self._refusal(
                "address",
                f"{self._limit_per_address} clients of this address are connected already; close one of them",
            )
        if token and self._limit_per_token and self._tokens[token] >= self._limit_per_token:
            raise self._refusal(
                "token", f"{self._limit_per_token} clients with this token are connected already; close one of them"
            )

    def wait_outside(self, stranger: Hashable, address: str | None) -> list[Hashable]:
        """One is there, and is to say who he is. Those who must go for him."""
        gone = self.outside.add(stranger, place_of(address or ""))
        self._refused["sign_in"].add(len(gone))
        return gone

    def leave_outside(self, stranger: Hashable) -> None:
        self.outside.discard(stranger)
        self._left.set()

    def enter(self, address: str | None, kind: str, token: str | None = None) -> None:
        """After check(), as leave() with the same."""
        self._inside += 1
        self._client_counts.add(kind, 1)
        self._addresses[place_of(address or "")] += 1
        if token:
            self._tokens[token] += 1

    def leave(self, address: str | None, kind: str, token: str | None = None) -> None:
        self._inside -= 1
        self._client_counts.add(kind, -1)
        self._left.set()
        _take_one(self._addresses, place_of(address or ""))
        if token:
            _take_one(self._tokens, token)

    async def until_empty(self) -> None:
        """Returns when nobody is there any more."""
        while self.count:
            self._left.clear()
            await self._left.wait()

    def _refusal(self, reason: str, message: str, retry_after_seconds: int | None = None) -> ApiError:
        self._refused[reason].add(1)
        code = "too_many_at_once" if retry_after_seconds else "too_many_clients"
        return ApiError(503, code, message, retry_after_seconds)


def _take_one(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]  # who was there once is not kept for ever
