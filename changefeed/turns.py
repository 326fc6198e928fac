"""Sizes the work of one turn of the event loop by what the last ones cost, and spaces turns. Knows no loop."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TURN_SECONDS = 0.02  # how long everything else waits
FIRST_COUNT = 16  # for the first turn, whose cost is unknown
GROWTH = 8  # at most, from one turn to the next


class Stopwatch:
    """Adds up the `seconds` that blocks of code take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = 0.0
        self.clock = clock

    @contextmanager
    def running(self) -> Iterator[None]:
        began = self.clock()
        yield
        self.seconds += self.clock() - began


class TurnSize:
    """`count` is how many items the next turn may process, to last TURN_SECONDS if each costs as much as the last.

    A turn lasts from begin() to end(). Only costs that grow with the number of items count. Fixed costs, for which
    `left_out` runs, do not: smaller turns would only add to them.
    """

    def __init__(self, left_out: Stopwatch | None = None) -> None:
        self.count = FIRST_COUNT
        self.left_out = left_out or Stopwatch()
        self._began = 0.0

    def begin(self) -> None:
        self._began = self._now()

    def _now(self) -> float:
        return self.left_out.clock() - self.left_out.seconds

    def end(self, count: int) -> None:
        """Ends the turn, in which `count` items were processed."""
        seconds = self._now() - self._began
        most = self.count * GROWTH
        fitting = most if seconds * most <= TURN_SECONDS * count else int(TURN_SECONDS * count / seconds)
        self.count = max(1, fitting)


class Floor:
    """Keeps at least `seconds` between one begin() and the next. After a longer pause there is no wait."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._began = float("-inf")

    def begin(self) -> None:
        self._began = self._clock()

    @property
    def left_seconds(self) -> float:
        """How long to wait before the next begins."""
        return max(0.0, self._began + self.seconds - self._clock())
