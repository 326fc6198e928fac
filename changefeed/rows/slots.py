"""Limits how many work at once; the others wait, and each holder has its turn. Knows no work."""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator


class FairSlots:
    """`limit` slots. A free one goes to the waiting holder with the fewest; of several, to the one that waits longest.

    So one holder that asks for much does not keep the others waiting. At most `waiting_limit` wait.
    """

    def __init__(self, limit: int, waiting_limit: int) -> None:
        self._free = limit
        self._waiting_limit = waiting_limit
        self._running: Counter[str | None] = Counter()
        self._waiting: dict[str | None, deque[asyncio.Future[None]]] = {}
        self.waiting = 0

    @property
    def is_full(self) -> bool:
        """Whether nobody more may wait."""
        return self.waiting >= self._waiting_limit

    @contextlib.asynccontextmanager
    async def slot(self, holder: str | None) -> AsyncIterator[None]:
        await self._take(holder)
        try:
            yield
        finally:
            self._give_back(holder)

    async def _take(self, holder: str | None) -> None:
        if self._free:
            self._free -= 1
            self._running[holder] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(holder, deque()).append(turn)
        self.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(holder)
            raise

    def _give_back(self, holder: str | None) -> None:
        self._running[holder] -= 1
        if not self._running[holder]:
            del self._running[holder]
        self._free += 1
        while self._free and self._waiting:
            chosen = min(self._waiting, key=lambda one: self._running[one])
            turn = self._waiting[chosen].popleft()
            # Who had a turn goes behind the others that wait.
            rest = self._waiting.pop(chosen)
            if rest:
                self._waiting[chosen] = rest
            self.waiting -= 1
            if not turn.cancelled():
                self._free -= 1
                self._running[chosen] += 1
                turn.set_result(None)
