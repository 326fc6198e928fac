"""Token buckets that also tell refused callers when to retry. Knows no socket."""

import time
from collections.abc import Callable

BURST_SECONDS = 10  # this many seconds' worth may come at once
LONGEST_WAIT_SECONDS = 60.0
ADDRESS_LIMIT = 10_000  # whose rate is remembered: some 3 MB


class RateLimiter:
    """A token bucket of `per_second`, without a limit if that is 0. Refused callers get different times to retry at."""

    __slots__ = ("_at", "_clock", "_left", "_per_second", "_promised")

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._left = per_second * BURST_SECONDS
        self._at = clock()
        self._promised = 0.0  # up to when retries are given out

    def wait_seconds(self) -> float:
        """0 if the caller may go on now; else in how many seconds to retry, which is different for each of a crowd."""
        if not self._per_second:
            return 0.0
        now = self._clock()
        self._left = min(self._per_second * BURST_SECONDS, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        self._promised = min(max(self._promised, now) + 1 / self._per_second, now + LONGEST_WAIT_SECONDS)
        return self._promised - now


class RateLimiterPerAddress:
    """A RateLimiter per address; beyond ADDRESS_LIMIT the one that was not used for longest is dropped."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._limiters: dict[str, RateLimiter] = {}

    def wait_seconds(self, address: str) -> float:
        """As RateLimiter.wait_seconds()."""
        if not self._per_second:
            return 0.0
        limiter = self._limiters.pop(address, None) or RateLimiter(self._per_second, self._clock)
        self._limiters[address] = limiter
        if len(self._limiters) > ADDRESS_LIMIT:
            del self._limiters[next(iter(self._limiters))]
        return limiter.wait_seconds()
