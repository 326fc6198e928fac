"""How many clients are let in: in all, and from one address. Knows no socket."""

from collections import Counter

from handlers.errors import ApiError


class Admission:
    """`limit_per_address` of 0 is none."""

    def __init__(self, limit: int, limit_per_address: int) -> None:
        self._limit = limit
        self._limit_per_address = limit_per_address
        self._clients: Counter[str] = Counter()
        self._count = 0

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

    def enter(self, address: str | None) -> None:
        self._count += 1
        self._clients[address or ""] += 1

    def leave(self, address: str | None) -> None:
        self._count -= 1
        self._clients[address or ""] -= 1
        if not self._clients[address or ""]:
            del self._clients[address or ""]
