"""Bounds the requests under way: how many there are, and how many work at the same time. Knows no request.

They compete first by token, then by address, so that one busy token or address does not delay the others.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable

from changefeed.owners import Owner, Party
from changefeed.slots import Claim, FairSlots
from handlers.access.errors import ApiError
from process.shared_numbers import SharedNumbers

logger = logging.getLogger("handlers.requests")

REQUESTS_REFUSED = "changefeed_requests_refused_total"
REQUESTS_GIVEN_UP = "changefeed_requests_given_up_total"
REASONS = ("crowded", "late")
AT_ONCE = 4  # more would only hold more memory: PostgreSQL and this process answer no faster
WAIT_SECONDS = 20.0  # for a turn; many a client gives up after 30 s
LOG_INTERVAL_SECONDS = 60.0


class RequestUnderWay:
    """A request under way, until leave(). `give_way` ends it in favor of another; None once it must not be ended."""

    def __init__(
        self,
        requests: "RequestsUnderWay",
        owner: Owner,
        give_way: Callable[[ApiError], None] | None,
        claim: Claim,
    ) -> None:
        self.owner = owner
        self.give_way = give_way
        self.claim = claim
        self._requests = requests
        claim.join(owner)

    async def until_turn(self) -> None:
        """Returns when it may work. Raises ApiError if that takes too long."""
        await self._requests.until_turn(self)

    def leave(self) -> None:
        self._requests.leave(self)


class RequestsUnderWay:
    """At most `limit`. Beyond it the newest one gives way, of the owner that has most."""

    def __init__(self, limit: int, numbers: SharedNumbers, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._under_way: dict[Owner, dict[RequestUnderWay, None]] = {}  # in the order in which they came
        self._count = 0
        self._slots = FairSlots(AT_ONCE)
        self._refused = {reason: numbers.number(REQUESTS_REFUSED, reason) for reason in REASONS}
        self._given_up = numbers.number(REQUESTS_GIVEN_UP)
        self._untold, self._told_at = 0, float("-inf")

    def __len__(self) -> int:
        return self._count

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return self._slots.waiting

    def enter(self, owner: Owner, give_way: Callable[[ApiError], None] | None = None) -> RequestUnderWay:
        """Counts a request until it leaves. Raises ApiError if it is the one that has to give way."""
        newcomer = RequestUnderWay(self, owner, give_way, self._slots.claim())
        self._under_way.setdefault(owner, {})[newcomer] = None
        self._count += 1
        if self._count > self._limit:
            error = self._refusal("crowded", f"the server has {self._limit} requests to answer; try again later")
            one = self._one_too_many(newcomer)
            self.leave(one)
            if one is newcomer or one.give_way is None:
                raise error
            one.give_way(error)
        return newcomer

    def give_up(self) -> None:
        """Counts a request whose client was gone before it had its answer."""
        self._given_up.add(1)

    def leave(self, request: RequestUnderWay) -> None:
        """Called when the request is over; a second call does nothing."""
        requests = self._under_way.get(request.owner, {})
        if request in requests:
            del requests[request]
            self._count -= 1
            if not requests:
                del self._under_way[request.owner]
        request.claim.give_back()

    async def until_turn(self, request: RequestUnderWay) -> None:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await request.claim.take()
        except TimeoutError:
            raise self._refusal("late", f"it was not your turn within {WAIT_SECONDS:g} s; try again later") from None

    def _one_too_many(self, newcomer: RequestUnderWay) -> RequestUnderWay:
        counts: Counter[Party] = Counter()
        for owner, requests in self._under_way.items():
            counts.update(dict.fromkeys(owner.parties, len(requests)))

        def weight(owner: Owner) -> list[int]:
            return [counts[party] for party in owner.parties]

        for owner in sorted(self._under_way, key=weight, reverse=True):
            if owner == newcomer.owner or weight(owner) == weight(newcomer.owner):
                return newcomer
            for request in reversed(self._under_way[owner]):
                if request.give_way:
                    return request
        return newcomer

    def _refusal(self, reason: str, message: str) -> ApiError:
        self._refused[reason].add(1)
        self._untold += 1
        now = self._clock()
        if now - self._told_at >= LOG_INTERVAL_SECONDS:
            logger.warning("refused %d requests, as too many are under way: %s", self._untold, message)
            self._untold, self._told_at = 0, now
        return ApiError(503, "too_many_requests", message)
