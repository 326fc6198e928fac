"""Divides work into turns of the event loop, sizes the turns by what the last ones cost, and spaces them."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from changefeed.owners import Line, Owner

TURN_SECONDS = 0.02  # how long everything else waits
FIRST_COUNT = 16  # for the first turn, whose cost is unknown
GROWTH = 8  # at most, from one turn to the next

# A piece of work: it yields wherever everything else may run in between.
Work = Iterator[None]


class Stopwatch:
    """Adds up the `seconds` that blocks of code take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = 0.0
        self._clock = clock

    @contextmanager
    def running(self) -> Iterator[None]:
        began = self._clock()
        yield
        self.seconds += self._clock() - began


class WorkQueue:
    """Does one piece of work after another, in their order, for at most some TURN_SECONDS in one turn of the loop.

    What is little work is done at once, before add() returns. `seconds` is how long it has worked.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = 0.0
        self._clock = clock
        self._waiting: deque[Work] = deque()
        self._is_working = False
        self._rest: asyncio.Task[None] | None = None  # works on in later turns

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def add(self, work: Work) -> None:
        self._waiting.append(work)
        if self._rest is None and not self._is_working:
            try:
                self._take_turn()
            finally:
                self._go_on_later()

    async def emptied(self) -> None:
        """Returns when nothing is left to do. Raises what the work raised."""
        while self._rest:
            await asyncio.shield(self._rest)

    def close(self) -> None:
        """Gives up the work that waits."""
        self._waiting.clear()
        if self._rest:
            self._rest.cancel()

    def _go_on_later(self) -> None:
        self._rest = asyncio.ensure_future(self._work_on()) if self._waiting else None

    async def _work_on(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(0)
                self._take_turn()
        except Exception:
            self._go_on_later()  # with the work after it
            raise
        self._rest = None

    def _take_turn(self) -> None:
        began = self._clock()
        self._is_working = True
        try:
            while self._waiting:
                for _ in self._waiting[0]:
                    if self._clock() - began >= TURN_SECONDS:
                        return
                self._waiting.popleft()
        except BaseException:
            self._waiting.popleft()
            raise
        finally:
            self._is_working = False
            self.seconds += self._clock() - began


class Turn:
    """A task's part of a turn of the loop; it ends the turn when this is over, and goes on in the next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()

    @property
    def is_over(self) -> bool:
        return self._clock() - self._began >= TURN_SECONDS

    async def end(self) -> None:
        await asyncio.sleep(0)
        self._began = self._clock()


class SharedTurns:
    """Does the work of many tasks, each owner's in turn, for at most some TURN_SECONDS in one turn of the loop.

    What is little work is done at once, unless others have used up the turn.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spent_seconds = 0.0  # in this turn
        self._waiting: Line[_Shared] = Line()
        self._is_next_due = False

    async def do(self, work: Work, owner: Owner) -> None:
        """Returns once the work is done. Raises what it raised."""
        if not self._waiting and self._spent_seconds < TURN_SECONDS and self._is_done_now(work):
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(owner, _Shared(work, owner, done))
        self._begin_turn_soon()
        await done

    def _is_done_now(self, work: Work) -> bool:
        """Works until it is done, or the turn is over."""
        self._begin_turn_soon()
        began = self._clock()
        try:
            return all(self._spent_seconds + self._clock() - began < TURN_SECONDS for _ in work)
        finally:
            self._spent_seconds += self._clock() - began

    def _begin_turn_soon(self) -> None:
        if not self._is_next_due:
            self._is_next_due = True
            asyncio.get_running_loop().call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_next_due, self._spent_seconds = False, 0.0
        while self._waiting:
            next_one = self._waiting.take()
            done = next_one.done
            if done.done():
                continue  # its task was cancelled
            try:
                if self._is_done_now(next_one.work):
                    done.set_result(None)
                else:
                    self._waiting.add(next_one.owner, next_one)
            except Exception as error:  # noqa: BLE001  # its task handles it
                done.set_exception(error)
            if self._spent_seconds >= TURN_SECONDS:
                return


@dataclass(frozen=True, eq=False)
class _Shared:
    work: Work
    owner: Owner
    done: "asyncio.Future[None]"


class LimitedStarts:
    """Lets at most `count` pieces of work start in one turn of the loop, each owner's in turn."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._started = 0  # in this turn
        self._waiting: Line[asyncio.Future[None]] = Line()
        self._is_next_due = False

    async def take(self, owner: Owner) -> None:
        """Returns when the work may start."""
        if self._started < self._count:  # then nobody waits
            self._started += 1
            self._begin_turn_soon()
            return
        may_start: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(owner, may_start)
        await may_start

    def _begin_turn_soon(self) -> None:
        if not self._is_next_due:
            self._is_next_due = True
            asyncio.get_running_loop().call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_next_due, self._started = False, 0
        while self._waiting and self._started < self._count:
            may_start = self._waiting.take()
            if not may_start.done():  # else its task was cancelled
                may_start.set_result(None)
                self._started += 1
        if self._started:
            self._begin_turn_soon()


class TurnSize:
    """`count` is how many items the next turn may process, to last TURN_SECONDS if each costs as much as the last.

    A turn lasts from begin() to end(), by the `clock`. Only costs that grow with the number of items should count: for
    fixed ones smaller turns would only add to them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = FIRST_COUNT
        self._clock = clock
        self._began = 0.0

    def begin(self) -> None:
        self._began = self._clock()

    def end(self, count: int) -> None:
        """Ends the turn, in which `count` items were processed."""
        seconds = self._clock() - self._began
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
