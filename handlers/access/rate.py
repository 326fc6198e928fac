"""Token buckets that also tell refused callers when to retry. Knows no socket."""

import time
from collections.abc import Callable, Hashable

from changefeed.owners import ADDRESS_SHARE, PARTY_SHARE, Owner

BURST_SECONDS = 10  # this many seconds' worth may come at once
LONGEST_WAIT_SECONDS = 60.0
KEY_LIMIT = 10_000  # whose rate is remembered: some 3 MB


class RateLimiter:
    """A token bucket of `per_second`, without a limit if that is 0. Refused callers get different times to retry at."""

    __slots__ = ("_at", "_clock", "_left", "_per_second", "_promised")

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._left = per_second * BURST_SECONDS
        self._at = clock()
        self._promised = 0.0  # up to when retries are given out

    def wait_seconds(self, kept: float = 0.0) -> float:
        """0 if the caller may go on now; else in how many seconds to retry, which is different for each of a crowd.

        The caller must leave the part `kept` of what may come at once.
        """
        if not self._per_second:
            return 0.0
        now = self._clock()
        burst = self._per_second * BURST_SECONDS
        self._left = min(burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left - kept * burst >= 1:
            self._left -= 1
            return 0.0
        self._promised = min(max(self._promised, now) + 1 / self._per_second, now + LONGEST_WAIT_SECONDS)
        return self._promised - now


class RateLimiterPerKey:
    """A RateLimiter per key, as an address; beyond KEY_LIMIT the one that was not used for longest is dropped."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._limiters: dict[Hashable, RateLimiter] = {}

    def wait_seconds(self, key: Hashable) -> float:
        """As RateLimiter.wait_seconds()."""
        if not self._per_second:
            return 0.0
        limiter = self._limiters.pop(key, None) or RateLimiter(self._per_second, self._clock)
        self._limiters[key] = limiter
        if len(self._limiters) > KEY_LIMIT:
            del self._limiters[next(iter(self._limiters))]
        return limiter.wait_seconds()


class SharedRateLimiter:
    """A RateLimiter for owners that compete. An owner that comes often leaves a part of it to the others.

    That part is what is beyond the shares of changefeed.owners. Alone, such an owner still has the whole rate, in
    bursts as large as its share.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._all = RateLimiter(per_second, clock)
        self._often = RateLimiterPerKey(per_second * (1 - PARTY_SHARE), clock)

    def wait_seconds(self, owner: Owner) -> float:
        """As RateLimiter.wait_seconds()."""
        kept = [
            1 - share
            for party, share in zip(owner.parties, (PARTY_SHARE, ADDRESS_SHARE), strict=False)
            if self._often.wait_seconds(party)
        ]
        return self._all.wait_seconds(max(kept, default=0.0))
