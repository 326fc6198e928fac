"""Counts refused tokens, and logs one line a minute for each reason. Knows no request."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from process.shared_numbers import SharedNumbers

logger = logging.getLogger("handlers.refusals")

TOKENS_REFUSED = "changefeed_tokens_refused_total"
UNCHECKED_RIGHT = "unchecked_right"
CODES = ("bad_token", "token_expired", "no_rights", UNCHECKED_RIGHT)
INTERVAL_SECONDS = 60.0
MESSAGE_LIMIT_CHARACTERS = 300


@dataclass
class _Reason:
    count: int = 0  # since it was last logged
    logged_at: float = float("-inf")


class Refusals:
    """`reason` distinguishes refusals of the same code; it is one of a fixed few, never a text from outside."""

    def __init__(self, numbers: SharedNumbers, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reasons: dict[tuple[str, str], _Reason] = {}
        self._numbers = {code: numbers.number(TOKENS_REFUSED, code) for code in CODES}

    def tell(self, code: str, message: str, reason: str = "") -> None:
        """Counts and logs a refusal. `message` is what the caller is sent, and contains nothing of the token."""
        self._numbers[code].add(1)
        found = self._reasons.setdefault((code, reason), _Reason())
        found.count += 1
        now = self._clock()
        if now - found.logged_at >= INTERVAL_SECONDS:
            logger.info("refused %d with a token (%s): %s", found.count, code, message[:MESSAGE_LIMIT_CHARACTERS])
            found.count, found.logged_at = 0, now
