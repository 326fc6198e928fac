"""How many clients are let in: in all, and from one address; and who of them is there. Knows no socket."""

import asyncio
from collections import Counter

from handlers.census import Census
from handlers.errors import ApiError


class Admission:
    """`limit_per_address` of 0 is none. Whoever is let in is counted in `census`, by kind."""

    def __init__(self, limit: int, limit_per_address: int, census: Census) -> None:
        self._limit = limit
        self._limit_per_address = limit_per_address
        self._clients: Counter[str] = Counter()
        self._count = 0
        self._census = census
        self._left = asyncio.Event()

    def check(self, address: str | None) -> None:
        """Raises ApiError for one too many."""
        if self._count >= self._limit:
            raise ApiError(503, "too_many_clients", f"{self._limit} clients are connected already; try again later")
        if self._limit_per_address and self._clients[address or ""] >= self._limit_per_address:
            raise ApiError(
                503,
                "too_many_clients",
                f"{self._limit_per_address} clients of this address are connected already; close one of them",
            )

    def enter(self, address: str | None, kind: str) -> None:
        self._count += 1
        self._census.add(kind, 1)
        self._clients[address or ""] += 1

    def leave(self, address: str | None, kind: str) -> None:
        self._count -= 1
        self._census.add(kind, -1)
        self._left.set()
        self._clients[address or ""] -= 1
        if not self._clients[address or ""]:
            del self._clients[address or ""]

    async def until_empty(self) -> None:
        """Returns when nobody is there any more."""
        while self._count:
            self._left.clear()
            await self._left.wait()
