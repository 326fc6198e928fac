"""Limits how many work at once; the others wait, and each owner has its turn. Knows no work."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator

# For instance the holder of a token, then an address: owners compete by the first part, of an equal one by the second.
Owner = tuple[str | None, ...]


class FairSlots:
    """`limit` slots. A free one goes to the waiting owner with the fewest; of several, to the one that waits longest.

    So an owner that asks for much does not keep the others waiting. Those with the same first part have at most
    `share` slots together. At most `waiting_limit` wait.
    """

    def __init__(self, limit: int, *, share: int, waiting_limit: int) -> None:
        self._free = limit
        self._share = share
        self._waiting_limit = waiting_limit
        self._running: Counter[Owner] = Counter()  # by owner, and by the first parts of owners
        self._waiting: dict[Owner, dict[asyncio.Future[None], None]] = {}  # the one that waits longest comes first
        self.waiting = 0

    @property
    def is_full(self) -> bool:
        """Whether no more may wait."""
        return self.waiting >= self._waiting_limit

    @contextlib.asynccontextmanager
    async def slot(self, owner: Owner) -> AsyncIterator[None]:
        await self.take(owner)
        try:
            yield
        finally:
            self.give_back(owner)

    async def take(self, owner: Owner) -> None:
        """Returns when the owner has one slot more. If it is cancelled it has none."""
        if self._may_take(owner):
            self._count(owner)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, {})[turn] = None
        self.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._stop_waiting(owner, turn)
            else:
                self.give_back(owner)
            raise

    def give_back(self, owner: Owner) -> None:
        self._free += 1
        for part in _parts(owner):
            self._running[part] -= 1
            if not self._running[part]:
                del self._running[part]
        while next_ones := [one for one in self._waiting if self._may_take(one)]:
            chosen = min(next_ones, key=lambda one: tuple(self._running[part] for part in _parts(one)))
            turn = next(iter(self._waiting[chosen]))
            self._stop_waiting(chosen, turn)
            if chosen in self._waiting:  # goes behind the others that wait
                self._waiting[chosen] = self._waiting.pop(chosen)
            if not turn.cancelled():
                self._count(chosen)
                turn.set_result(None)

    def _may_take(self, owner: Owner) -> bool:
        return self._free > 0 and self._running[owner[:1]] < self._share

    def _count(self, owner: Owner) -> None:
        self._free -= 1
        self._running.update(_parts(owner))

    def _stop_waiting(self, owner: Owner, turn: "asyncio.Future[None]") -> None:
        turns = self._waiting.get(owner, {})
        if turn in turns:
            self.waiting -= 1
            del turns[turn]
            if not turns:
                del self._waiting[owner]


def _parts(owner: Owner) -> Iterator[Owner]:
    return (owner[: end + 1] for end in range(len(owner)))
