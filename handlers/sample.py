"""Changes in, the texts of a dashboard's rows out. One that is too long is cut, and says so and where the rest is."""

import json
from collections import deque
from collections.abc import Sequence

from changefeed.change import Change
from handlers.feed import iso_of

ROWS_PER_SECOND = 200
SAVED_ROWS = 200  # for a burst after a lull
ROWS_IN_HELLO = 200
ROW_LIMIT_CHARACTERS = 16 << 10
BEGINNING_CHARACTERS = 2_000
CHARACTERS_PER_SECOND = 45_000  # a moderate load of each dashboard, whatever that of the database
SAVED_CHARACTERS = 100_000  # for a burst of long rows after a lull
HELLO_LIMIT_CHARACTERS = 256 << 10  # well below a client's outbox


def sample_texts(changes: Sequence[Change], limit_characters: int) -> list[str]:
    """The newest of them that fit into the limit, and at least one, oldest first."""
    texts: list[str] = []
    left = limit_characters
    for change in reversed(changes):
        text = change.text if len(change.text) <= ROW_LIMIT_CHARACTERS else _cut(change)
        left -= len(text)
        if left < 0 and texts:
            break
        texts.append(text)
    return texts[::-1]


class Matches:
    """What a filter lets through between two messages: how many, and the newest of them."""

    def __init__(self) -> None:
        self.count = 0
        self._newest: deque[Change] = deque(maxlen=SAVED_ROWS)

    def add(self, changes: Sequence[Change]) -> None:
        self.count += len(changes)
        self._newest.extend(changes)

    def newest(self, limit: int) -> Sequence[Change]:
        return tuple(self._newest)[-limit:] if limit else ()


class Budget:
    """How much may be sent now: so much a second, saved up to a bound."""

    def __init__(self, per_second: float, most: float) -> None:
        self._per_second = per_second
        self._most = most
        self._left = most
        self._at = 0.0

    def left(self, now: float) -> int:
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        return max(0, int(self._left))

    def spend(self, amount: int) -> None:
        self._left -= amount


def _cut(change: Change) -> str:
    """What the dashboard says of a change until somebody asks for /api/change?cursor=…"""
    return json.dumps(
        {
            "name": change.table,
            "action": change.action,
            "at": iso_of(change.at) if change.at else None,
            "cursor": change.cursor,
            "cut": {"characters": len(change.text), "beginning": change.text[:BEGINNING_CHARACTERS]},
        }
    )
