"""What turns of the event loop took in; how much the next one is to take on, and how soon, out. Knows no loop."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TURN_SECONDS = 0.02  # everybody else waits so long
FIRST_COUNT = 16  # nobody knows what these will cost
GROWTH = 8  # at most, from one turn to the next


class TurnSize:
    """`count` is how many things the next turn takes on, so that it lasts TURN_SECONDS if each costs what the last did.

    Of a turn, which lasts from begin() to end(), counts what grows with the things. What is the same however many they
    are is left out: done more often, it would only cost more.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = FIRST_COUNT
        self._clock = clock
        self._began = 0.0

    def begin(self) -> None:
        self._began = self._clock()

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """What is done in the block takes the same however many things the turn took on."""
        began = self._clock()
        yield
        self._began += self._clock() - began

    def end(self, count: int) -> None:
        """The turn is over, in which so many things were done."""
        seconds = self._clock() - self._began
        most = self.count * GROWTH
        fitting = most if seconds * most <= TURN_SECONDS * count else int(TURN_SECONDS * count / seconds)
        self.count = max(1, fitting)


class Floor:
    """At least `seconds` lie between one beginning and the next. Who begins seldom never waits."""

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
