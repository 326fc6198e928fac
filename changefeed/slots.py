"""Limits how many work at once; the others wait, and each owner has its turn. Knows no work."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from changefeed.owners import Holding, Line, Owner, Quotas


class FairSlots:
    """`limit` slots. A free one goes to the waiting party with the fewest; of several, to the one that waits longest.

    So an owner that asks for much does not keep the others waiting. If the slots are `divided`, no party has them all.
    """

    def __init__(self, limit: int, *, divided: bool = True) -> None:
        self.waiting = 0  # claims
        self._quotas = Quotas(limit, divided=divided)
        self._line: Line[Claim] = Line()

    def claim(self) -> "Claim":
        return Claim(self, Holding(self._quotas), self._line)

    @contextlib.asynccontextmanager
    async def slot(self, owner: Owner) -> AsyncIterator[None]:
        claim = self.claim()
        claim.join(owner)
        async with claim:
            yield

    def give_out(self) -> None:
        """Called when a claim may have become the next one that is granted."""
        while claim := self._line.take_within(self._quotas):
            claim.grant()


class Claim:
    """For one slot, which it has inside `async with`, or from take() to give_back().

    Owners that need the same work share a claim: it is granted when it is the turn of any of them.
    """

    def __init__(self, slots: FairSlots, holding: Holding, line: Line["Claim"]) -> None:
        self._slots = slots
        self._holding = holding
        self._line = line
        self._turn: asyncio.Future[None] | None = None  # while it waits

    async def __aenter__(self) -> None:
        await self.take()

    async def __aexit__(self, *_: object) -> None:
        self.give_back()

    def join(self, owner: Owner) -> None:
        self._holding.join(owner)
        if self._turn:
            self._line.add(owner, self)
            self._slots.give_out()

    def leave(self, owner: Owner) -> None:
        """Called once for each join()."""
        self._holding.leave(owner)
        if owner not in self._holding.owners:
            self._line.discard(owner, self)
        self._slots.give_out()  # the owner may take another one now

    async def take(self) -> None:
        """Returns when it has a slot. If it is cancelled it has none."""
        self._turn = turn = asyncio.get_running_loop().create_future()
        self._slots.waiting += 1
        for owner in self._holding.owners:
            self._line.add(owner, self)
        self._slots.give_out()
        try:
            await turn
        except asyncio.CancelledError:
            self._stop_waiting()
            self.give_back()
            raise

    def grant(self) -> None:
        assert self._turn
        turn = self._turn
        self._stop_waiting()
        if not turn.cancelled():
            self._holding.grow()
            turn.set_result(None)

    def give_back(self) -> None:
        """A second call does nothing."""
        if self._holding.amount:
            self._holding.clear()
            self._slots.give_out()

    def _stop_waiting(self) -> None:
        if self._turn:
            self._turn = None
            self._slots.waiting -= 1
            for owner in self._holding.owners:
                self._line.discard(owner, self)
