"""When somebody's token ends, or is taken back, a call: what is open must not outlive it."""

import asyncio
import time
from collections.abc import Callable
from typing import ClassVar

from handlers.tokens import Identity

LONGEST_WAIT_SECONDS = 86400.0  # a token may be good for longer than a timer can count


class Expiry:
    """Calls `on_end` once, when `identity` expires, or is ended before."""

    waiting: ClassVar[set["Expiry"]] = set()

    def __init__(self, identity: Identity, on_end: Callable[[], None]) -> None:
        self.identity = identity
        self._on_end = on_end
        self._timer: asyncio.TimerHandle | None = None
        self.waiting.add(self)
        self._wait()

    @classmethod
    def end_all_of(cls, is_ended: Callable[[Identity], bool]) -> None:
        """Ends what is open by a token, or a session, that was taken back."""
        for expiry in [expiry for expiry in cls.waiting if is_ended(expiry.identity)]:
            expiry._end()

    def cancel(self) -> None:
        self.waiting.discard(self)
        if self._timer:
            self._timer.cancel()

    def _end(self) -> None:
        self.cancel()
        self._on_end()

    def _wait(self) -> None:
        if self.identity.expires_at is None:
            return
        left = self.identity.expires_at - time.time()
        then = self._end if left <= LONGEST_WAIT_SECONDS else self._wait
        self._timer = asyncio.get_running_loop().call_later(max(0.0, min(left, LONGEST_WAIT_SECONDS)), then)
