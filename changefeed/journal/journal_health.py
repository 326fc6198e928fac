"""Knows whether the journal answers, and if not, why. Knows no client, and not what is read.

Everything that reads the journal does so in reading(), and says afterwards whether it failed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from changefeed.postgres.pool import DatabaseUnavailable, one_line, waiting

logger = logging.getLogger("changefeed.follower")

# After a statement has taken this long, as while the journal is locked, the server counts as not ready. It is far more
# than any of a page needs. Between statements the server may be busy, as with a large transaction; then it is behind.
STALLED_SECONDS = 2.0

UNREADABLE = "the journal cannot be read"


class JournalHealth:
    """on_state() is called when `trouble` changes, or whether there is a journal."""

    def __init__(self, on_state: Callable[[], None] = lambda: None) -> None:
        self._on_state = on_state
        self._trouble: str | None = "the journal has not been read yet"
        self._had_journal = False
        self._is_stalled = False
        self._asked_at = 0.0  # monotonic

    @property
    def trouble(self) -> str | None:
        """Why a commit now would not be delivered; None if it would."""
        if self._trouble is None and self._is_stalled:
            return f"the journal has not answered for {time.monotonic() - self._asked_at:.0f} s"
        return self._trouble

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """A block that reads the journal; the journal counts as stalled while an answer takes too long."""
        before = waiting.set(self._waiting)
        try:
            yield
        finally:
            waiting.reset(before)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self._asked_at = time.monotonic()
        stalling = asyncio.get_running_loop().call_later(STALLED_SECONDS, self._set_stalled, True)
        try:
            yield
        finally:
            stalling.cancel()
            self._set_stalled(False)

    def fail(self, error: Exception) -> None:
        """Called when the journal could not be read."""
        before, self._trouble = self._trouble, f"{UNREADABLE}: {one_line(error)}"
        if before != self._trouble:
            # The listener reports that the database is unreachable.
            level = logging.INFO if isinstance(error, DatabaseUnavailable) else logging.WARNING
            logger.log(level, "%s; trying again until it can", self._trouble)
            self._on_state()

    def recover(self, *, has_journal: bool) -> None:
        """Called when the journal was read, or there is none."""
        before, self._trouble = self._trouble, None
        had_journal, self._had_journal = self._had_journal, has_journal
        if before is not None and before.startswith(UNREADABLE) and has_journal:
            logger.info("the journal can be read again")
        if before is not None or had_journal is not has_journal:
            self._on_state()

    def _set_stalled(self, is_stalled: bool) -> None:
        if is_stalled is not self._is_stalled:
            self._is_stalled = is_stalled
            if self._trouble is None:
                what = "has not answered for" if is_stalled else "answers again, after"
                logger.info("the journal %s %.0f s", what, time.monotonic() - self._asked_at)
            self._on_state()
