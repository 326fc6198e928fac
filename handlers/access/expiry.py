"""Closes connections when their token or session expires or is revoked. Knows no socket."""

import asyncio
import time
from collections.abc import Callable, Sequence

from handlers.access.tokens import Identity

LONGEST_WAIT_SECONDS = 86400.0  # a token may be valid for longer than a timer can count


class Expiries:
    """The open connections of one server, each with its identity."""

    def __init__(self) -> None:
        self._waiting: set[Expiry] = set()

    @property
    def identities(self) -> Sequence[Identity]:
        """Those of all open connections."""
        return [expiry.identity for expiry in self._waiting]

    def watch(self, identity: Identity, on_end: Callable[[], None]) -> "Expiry":
        """Calls on_end() once, when `identity` expires or is ended, unless it is cancelled before."""
        return Expiry(identity, on_end, self._waiting)

    def end_all_of(self, is_ended: Callable[[Identity], bool]) -> None:
        """Ends the connections whose token or session was revoked."""
        for expiry in [expiry for expiry in self._waiting if is_ended(expiry.identity)]:
            expiry.end()


class Expiry:
    """Stays in `waiting` until it has ended or is cancelled."""

    def __init__(self, identity: Identity, on_end: Callable[[], None], waiting: "set[Expiry]") -> None:
        self.identity = identity
        self._on_end = on_end
        self._waiting = waiting
        self._timer: asyncio.TimerHandle | None = None
        self._waiting.add(self)
        self._wait()

    def cancel(self) -> None:
        self._waiting.discard(self)
        if self._timer:
            self._timer.cancel()

    def end(self) -> None:
        self.cancel()
        self._on_end()

    def _wait(self) -> None:
        if self.identity.expires_at is None:
            return
        left = self.identity.expires_at - time.time()
        then = self.end if left <= LONGEST_WAIT_SECONDS else self._wait
        self._timer = asyncio.get_running_loop().call_later(max(0.0, min(left, LONGEST_WAIT_SECONDS)), then)
