"""How many clients are let in: in all, from one address, with one token, in a second; and who is there.

Knows no socket.
"""

import asyncio
import math
from collections import Counter

from changefeed.meters import Meters
from changefeed.settings import Settings
from handlers.census import Census
from handlers.errors import ApiError
from handlers.pace import Pace

REFUSED = "changefeed_clients_refused_total"
REASONS = ("pace", "all", "address", "token")


class Admission:
    """Whoever is let in is counted in `census`, by kind; whoever is not, in `meters`, by reason."""

    def __init__(self, settings: Settings, census: Census, meters: Meters) -> None:
        self._limit = settings.client_limit
        self._limit_per_address = settings.client_limit_per_address
        self._limit_per_token = settings.client_limit_per_token
        self._pace = Pace(settings.clients_per_second)
        self._addresses: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self.count = 0
        self._census = census
        self._refused = {reason: meters.meter(REFUSED, reason) for reason in REASONS}
        self._left = asyncio.Event()

    def knock(self) -> None:
        """Somebody comes; who it is is not known yet. Raises ApiError for one of too many at once."""
        if wait_seconds := self._pace.wait_seconds():
            seconds = math.ceil(wait_seconds)
            raise self._refusal(
                "pace", f"too many clients come at the same time; come back in {seconds} s", retry_after_seconds=seconds
            )

    def check(self, address: str | None, token: str | None = None) -> None:
        """Raises ApiError for one too many. `token` stands for that by which he was let in, where one is asked for."""
        if self.count >= self._limit:
            raise self._refusal("all", f"{self._limit} clients are connected already; try again later")
        if self._limit_per_address and self._addresses[address or ""] >= self._limit_per_address:
            raise self._refusal(
                "address",
                f"{self._limit_per_address} clients of this address are connected already; close one of them",
            )
        self.check_token(token)

    def check_token(self, token: str | None) -> None:
        """Raises ApiError."""
        if token and self._limit_per_token and self._tokens[token] >= self._limit_per_token:
            raise self._refusal(
                "token", f"{self._limit_per_token} clients with this token are connected already; close one of them"
            )

    def enter(self, address: str | None, kind: str) -> None:
        self.count += 1
        self._census.add(kind, 1)
        self._addresses[address or ""] += 1

    def enter_with(self, token: str | None) -> None:
        """One who is in has said who he is."""
        if token:
            self._tokens[token] += 1

    def leave(self, address: str | None, kind: str, token: str | None = None) -> None:
        """`token` is what he has entered with."""
        self.count -= 1
        self._census.add(kind, -1)
        self._left.set()
        _take_one(self._addresses, address or "")
        if token:
            _take_one(self._tokens, token)

    async def until_empty(self) -> None:
        """Returns when nobody is there any more."""
        while self.count:
            self._left.clear()
            await self._left.wait()

    def _refusal(self, reason: str, message: str, retry_after_seconds: int | None = None) -> ApiError:
        self._refused[reason].add(1)
        code = "too_many_at_once" if reason == "pace" else "too_many_clients"
        return ApiError(503, code, message, retry_after_seconds)


def _take_one(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]  # who was there once is not kept for ever
