"""Keeps what waits for each owner below a common limit, and picks which must go beyond it. Knows no socket."""

from collections import Counter
from typing import Generic, TypeVar

from changefeed.owners import Owner, Party

Waiting = TypeVar("Waiting")


class Crowd(Generic[Waiting]):
    """Holds members up to a total weight of `limit`. Beyond it, the longest-waiting one of the heaviest owner goes.

    That is the heaviest address of the heaviest holder. So an owner that fills the limit alone only displaces its own
    members, and quick clients are not affected. The newcomer always stays.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._owners: dict[Waiting, Owner] = {}
        self._of_owners: dict[Owner, dict[Waiting, int]] = {}  # the weights, in the order in which they came
        self._weights: Counter[Party] = Counter()
        self.weight = 0

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, newcomer: Waiting, owner: Owner, weight: int = 1) -> list[Waiting]:
        """Adds a member, or starts its wait again; removes and returns those that must go for it."""
        self.discard(newcomer)
        self._owners[newcomer] = owner
        self._of_owners.setdefault(owner, {})[newcomer] = weight
        self._add_weight(owner, weight)
        gone = []
        while self.weight > self._limit and len(self) > 1:
            gone.append(one := self._next_to_go(newcomer))
            self.discard(one)
        return gone

    def discard(self, one: Waiting) -> None:
        owner = self._owners.pop(one, None)
        if owner is None:
            return
        weights = self._of_owners[owner]
        self._add_weight(owner, -weights.pop(one))
        if not weights:
            del self._of_owners[owner]
            for party in owner.parties:
                if not self._weights[party]:
                    del self._weights[party]

    def _add_weight(self, owner: Owner, weight: int) -> None:
        self.weight += weight
        for party in owner.parties:
            self._weights[party] += weight

    def _next_to_go(self, newcomer: Waiting) -> Waiting:
        heaviest_first = sorted(
            self._of_owners, key=lambda owner: [self._weights[party] for party in owner.parties], reverse=True
        )
        return next(one for owner in heaviest_first for one in self._of_owners[owner] if one is not newcomer)
