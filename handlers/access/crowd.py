"""Keeps what waits at each address below a common limit, and picks which must go beyond it. Knows no socket."""

from typing import Generic, TypeVar

Waiting = TypeVar("Waiting")


class Crowd(Generic[Waiting]):
    """Holds members up to a total weight of `limit`. Beyond it, the longest-waiting one of the heaviest address goes.

    So an address that fills the limit alone only displaces its own members, and quick clients are not affected. The
    newcomer always stays.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._addresses: dict[Waiting, str] = {}
        self._by_address: dict[str, dict[Waiting, int]] = {}  # the weights, in the order in which they came
        self.weight = 0

    def __len__(self) -> int:
        return len(self._addresses)

    def add(self, newcomer: Waiting, address: str, weight: int = 1) -> list[Waiting]:
        """Adds a member, or starts its wait again; removes and returns those that must go for it."""
        self.discard(newcomer)
        self._addresses[newcomer] = address
        self._by_address.setdefault(address, {})[newcomer] = weight
        self.weight += weight
        gone = []
        while self.weight > self._limit and len(self) > 1:
            gone.append(one := self._next_to_go(newcomer))
            self.discard(one)
        return gone

    def discard(self, one: Waiting) -> None:
        address = self._addresses.pop(one, None)
        if address is None:
            return
        weights = self._by_address[address]
        self.weight -= weights.pop(one)
        if not weights:
            del self._by_address[address]

    def _next_to_go(self, newcomer: Waiting) -> Waiting:
        heaviest_first = sorted(self._by_address.values(), key=lambda weights: sum(weights.values()), reverse=True)
        return next(one for weights in heaviest_first for one in weights if one is not newcomer)
