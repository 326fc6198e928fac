"""Divides what is limited among its owners: how much each may have, and whose turn is next. Knows no work."""

from collections import Counter
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

# Of what is limited, the most that one party may have, and one address of a holder. So others find room.
PARTY_SHARE = 3 / 4
ADDRESS_SHARE = 1 / 2

Item = TypeVar("Item")
Counted = TypeVar("Counted")

Party = tuple[str | None, ...]
AnyParty = TypeVar("AnyParty", bound=Party)


class Owner(NamedTuple):
    """The holder of a token at an address; without a token, the address alone.

    Holders compete with each other, and so do the addresses of one holder. Without tokens addresses compete.
    """

    holder: str | None
    address: str

    @property
    def parties(self) -> tuple[Party, ...]:
        """Those that compete for it: the holder, and then the address of this holder."""
        return ((self.holder,), self) if self.holder else (self,)


class Quotas:
    """What is limited, and how much of it each owner has. If it is `divided`, no party may have all."""

    def __init__(self, limit: int, *, divided: bool = True) -> None:
        self.used = 0
        self._limit = limit
        shares = (PARTY_SHARE, ADDRESS_SHARE) if divided else (1, 1)
        self._quotas = [max(1, int(limit * share)) for share in shares]
        self._used: Counter[Party] = Counter()

    @property
    def is_used_up(self) -> bool:
        return self.used >= self._limit

    def used_by(self, party: Party) -> int:
        return self._used[party]

    def have_room(self, owner: Owner, amount: int = 1) -> bool:
        """Whether the owner may have so much more."""
        return self.used + amount <= self._limit and all(
            self._used[party] + amount <= quota for party, quota in zip(owner.parties, self._quotas, strict=False)
        )

    def party_has_room(self, party: Party) -> bool:
        """Whether a party, the first of an owner's, may have one more."""
        return self._used[party] < self._quotas[0]

    def count(self, party: Party, amount: int) -> None:
        self._used[party] += amount
        if not self._used[party]:
            del self._used[party]


class Holding:
    """The part that one owner has, or several share. It counts for each of them, however often they ask for it."""

    def __init__(self, quotas: Quotas) -> None:
        self.amount = 0
        self.owners: Counter[Owner] = Counter()
        self._quotas = quotas
        self._parties: Counter[Party] = Counter()

    def may_grow(self, amount: int = 1) -> bool:
        """Whether one of the owners may have so much more."""
        return any(self._quotas.have_room(owner, amount) for owner in self.owners)

    def grow(self, amount: int = 1) -> None:
        self.amount += amount
        self._quotas.used += amount
        for party in self._parties:
            self._quotas.count(party, amount)

    def clear(self) -> None:
        self.grow(-self.amount)

    def join(self, owner: Owner) -> None:
        self.owners[owner] += 1
        for party in owner.parties:
            self._parties[party] += 1
            if self._parties[party] == 1:
                self._quotas.count(party, self.amount)

    def leave(self, owner: Owner) -> None:
        """Called once for each join()."""
        _drop_one(self.owners, owner)
        for party in owner.parties:
            if _drop_one(self._parties, party):
                self._quotas.count(party, -self.amount)


class Line(Generic[Item]):
    """What waits, each item of an owner or of several. The party goes next that has waited longest since its last turn.

    Among the addresses of a holder it is the same, and the items of one owner keep their order.
    """

    def __init__(self) -> None:
        self._waiting: dict[Party, dict[Owner, dict[Item, None]]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, owner: Owner, item: Item) -> None:
        self._waiting.setdefault(owner.parties[0], {}).setdefault(owner, {})[item] = None

    def discard(self, owner: Owner, item: Item) -> None:
        party = owner.parties[0]
        owners = self._waiting.get(party, {})
        items = owners.get(owner, {})
        items.pop(item, None)
        if not items:
            owners.pop(owner, None)
        if not owners:
            self._waiting.pop(party, None)

    def take(self) -> Item:
        """The item that is next; there must be one."""
        party = next(iter(self._waiting))
        return self._take(party, next(iter(self._waiting[party])))

    def take_within(self, quotas: Quotas) -> Item | None:
        """The item that is next of an owner that may have more, if any. The party with least goes first."""
        if quotas.is_used_up:
            return None
        ready = (
            party
            for party, owners in self._waiting.items()
            if quotas.party_has_room(party) and any(map(quotas.have_room, owners))
        )
        party = _with_least(ready, quotas)
        owner = _with_least(filter(quotas.have_room, self._waiting[party]), quotas) if party else None
        return self._take(party, owner) if party and owner else None

    def _take(self, party: Party, owner: Owner) -> Item:
        owners = self._waiting.pop(party)
        items = owners.pop(owner)
        item = next(iter(items))
        del items[item]
        # Both go behind the others.
        if items:
            owners[owner] = items
        if owners:
            self._waiting[party] = owners
        return item


def _with_least(ready: Iterable[AnyParty], quotas: Quotas) -> AnyParty | None:
    """The first of those with least. The search ends at one that has nothing, as all but a few do where many wait."""
    least = None
    for party in ready:
        if least is None or quotas.used_by(party) < quotas.used_by(least):
            least = party
        if not quotas.used_by(least):
            break
    return least


def _drop_one(counter: "Counter[Counted]", counted: Counted) -> bool:
    """Whether it was the last one."""
    counter[counted] -= 1
    if counter[counted]:
        return False
    del counter[counted]
    return True
