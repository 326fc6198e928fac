"""Limits the clients: in all, of one address, of one token, and new ones in a second. Counts those connected.

Sockets that have not authenticated yet are counted apart, so that they cannot take the places of clients with a token.
Knows no socket.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Hashable

from changefeed.owners import PARTY_SHARE, Owner
from handlers.access.crowd import Crowd
from handlers.access.errors import ApiError
from handlers.access.forwarded import network_of
from handlers.access.rate import RateLimiterPerKey, SharedRateLimiter
from handlers.access.requests import RequestsUnderWay
from handlers.delivery.client_counts import ClientCounts
from process.shared_numbers import SharedNumbers
from settings.table import Settings

CLIENTS_REFUSED = "changefeed_clients_refused_total"
REASONS = ("pace", "address_pace", "all", "address", "token", "sign_in")


class Admission:
    """Counts admitted clients in `client_counts`, by kind, and refused ones in `numbers`, by reason.

    `outside` holds the sockets that have not authenticated yet, `unread` the bytes of unread answers by connection,
    `requests` those that have no answer yet. An IPv6 address counts as its /64.
    """

    def __init__(self, settings: Settings, client_counts: ClientCounts, numbers: SharedNumbers) -> None:
        self._limit = settings.client_limit
        self._limit_per_address = settings.client_limit_per_address
        # A token that could take all places could keep out all others.
        self._limit_per_token = settings.client_limit_per_token or max(1, int(settings.client_limit * PARTY_SHARE))
        self._pace = SharedRateLimiter(settings.clients_per_second)  # of those with a token
        self._pace_without_token = SharedRateLimiter(settings.clients_per_second)
        self._pace_per_address = RateLimiterPerKey(settings.clients_per_second_per_address)
        self.outside: Crowd[Hashable] = Crowd(settings.sign_in_limit)
        self.unread: Crowd[Hashable] = Crowd(settings.unread_limit_bytes)
        self.requests = RequestsUnderWay(settings.request_limit, numbers)
        self._inside = 0
        self._addresses: Counter[str] = Counter()
        self._holders: Counter[str] = Counter()
        self._client_counts = client_counts
        self._refused = {reason: numbers.number(CLIENTS_REFUSED, reason) for reason in REASONS}
        self._left = asyncio.Event()

    @property
    def count(self) -> int:
        """How many clients are connected, including those that have not authenticated yet."""
        return self._inside + len(self.outside)

    def check_rate(self, address: str | None, holder: str | None = None) -> None:
        """Counts a new connection; `holder` identifies its token, if any. Raises ApiError if there are too many."""
        owner = Owner(holder, network_of(address or ""))
        if holder:
            self._wait("pace", self._pace.wait_seconds(owner))
        else:
            self._wait("address_pace", self._pace_per_address.wait_seconds(owner.address))
            self._wait("pace", self._pace_without_token.wait_seconds(owner))

    def _wait(self, reason: str, wait_seconds: float) -> None:
        if wait_seconds:
            seconds = math.ceil(wait_seconds)
            raise self._refusal(
                reason,
                f"too many clients connect at the same time; try again in {seconds} s",
                retry_after_seconds=seconds,
            )

    def check(self, address: str | None, holder: str | None = None) -> None:
        """Raises ApiError if there is no room. `holder` identifies the client's token or its `sub`, if any."""
        if self._inside >= self._limit:
            raise self._refusal("all", f"{self._limit} clients are connected already; try again later")
        if self._limit_per_address and self._addresses[network_of(address or "")] >= self._limit_per_address:
            raise self._refusal(
                "address",
                f"{self._limit_per_address} clients from this address are connected already; close one of them",
            )
        if holder and self._holders[holder] >= self._limit_per_token:
            raise self._refusal(
                "token",
                f"{self._limit_per_token} clients with this token are connected already; close one of them, or raise "
                "--client-limit-per-token",
            )

    def wait_outside(self, newcomer: Hashable, address: str | None) -> list[Hashable]:
        """Adds a socket that has yet to authenticate. Returns those that must close to make room for it."""
        gone = self.outside.add(newcomer, Owner(None, network_of(address or "")))
        self._refused["sign_in"].add(len(gone))
        return gone

    def leave_outside(self, newcomer: Hashable) -> None:
        self.outside.discard(newcomer)
        self._left.set()

    def enter(self, address: str | None, kind: str, holder: str | None = None) -> None:
        """Takes a place after check(); call leave() with the same arguments."""
        self._inside += 1
        self._client_counts.add(kind, 1)
        self._addresses[network_of(address or "")] += 1
        if holder:
            self._holders[holder] += 1

    def leave(self, address: str | None, kind: str, holder: str | None = None) -> None:
        self._inside -= 1
        self._client_counts.add(kind, -1)
        self._left.set()
        _take_one(self._addresses, network_of(address or ""))
        if holder:
            _take_one(self._holders, holder)

    async def until_empty(self) -> None:
        """Returns when no client is connected."""
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
        del counter[key]  # so that the counter does not grow with every client there ever was
