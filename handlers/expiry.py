"""When somebody's token ends, a call: what is open must not outlive it."""

import asyncio
import time
from collections.abc import Callable

from handlers.tokens import Identity

LONGEST_WAIT_SECONDS = 86400.0  # a token may be good for longer than a timer can count


class Expiry:
    """Calls `on_end` once, when `identity` expires; never for one that does not."""

    def __init__(self, identity: Identity, on_end: Callable[[], None]) -> None:
        self._expires_at = identity.expires_at
        self._on_end = on_end
        self._timer: asyncio.TimerHandle | None = None
        self._wait()

    def cancel(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _wait(self) -> None:
        if self._expires_at is None:
            return
        left = self._expires_at - time.time()
        then = self._on_end if left <= LONGEST_WAIT_SECONDS else self._wait
        self._timer = asyncio.get_running_loop().call_later(max(0.0, min(left, LONGEST_WAIT_SECONDS)), then)
