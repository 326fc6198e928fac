"""Those who come in, each let through or told when to come back out: so many a second. Knows no socket."""

import time
from collections.abc import Callable

BURST_SECONDS = 10  # so many seconds' worth may come at once
LONGEST_WAIT_SECONDS = 60.0
ADDRESS_LIMIT = 10_000  # whose pace is remembered: some 3 MB


class RateLimiter:
    """A token bucket that also gives out turns: `per_second` of 0 lets everybody through."""

    __slots__ = ("_at", "_clock", "_left", "_per_second", "_promised")

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._left = per_second * BURST_SECONDS
        self._at = clock()
        self._promised = 0.0  # up to when turns are given out

    def wait_seconds(self) -> float:
        """0 for one who may come in now; else in how many seconds, each of a crowd at a time of his own."""
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
    """A RateLimiter for each address; beyond ADDRESS_LIMIT the one goes that has not come for longest."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._paces: dict[str, RateLimiter] = {}

    def wait_seconds(self, address: str) -> float:
        """As RateLimiter has it."""
        if not self._per_second:
            return 0.0
        pace = self._paces.pop(address, None) or RateLimiter(self._per_second, self._clock)
        self._paces[address] = pace
        if len(self._paces) > ADDRESS_LIMIT:
            del self._paces[next(iter(self._paces))]
        return pace.wait_seconds()
