"""Changes in, the texts of a dashboard's rows out. A long row is cut, with a note of where to find the rest."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from changefeed.change.change import Change
from changefeed.change.times import iso_of

ROWS_IN_HELLO = 200
ROW_LIMIT_CHARACTERS = 16 << 10
BEGINNING_CHARACTERS = 2_000
KEPT_CHARACTERS = 4 << 20  # of the newest rows, kept between two messages
HELLO_LIMIT_CHARACTERS = 256 << 10  # well below a client's outbox


@dataclass(frozen=True)
class SampleRate:
    """The most that a page is sent in a second, whatever the load of the database."""

    rows_per_second: int
    characters_per_second: int
    saved_characters: int  # saved up for a burst of long rows after a lull; of rows, one second's worth is saved

    @property
    def bounds(self) -> dict[str, int]:
        return {"rows_per_second": self.rows_per_second, "characters_per_second": self.characters_per_second}


PACES: Mapping[str, SampleRate] = {
    "50": SampleRate(50, 45_000, 100_000),
    "200": SampleRate(200, 45_000, 100_000),
    "1000": SampleRate(1_000, 250_000, HELLO_LIMIT_CHARACTERS),
    "all": SampleRate(5_000, 1_000_000, HELLO_LIMIT_CHARACTERS),  # bounded like every queue here
}
USUAL_PACE = "200"
MOST_ROWS = max(pace.rows_per_second for pace in PACES.values())


def sample_texts(changes: Sequence[Change], limit_characters: int) -> list[str]:
    """The newest rows that fit into the limit, at least one, oldest first."""
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
    """The changes that passed a filter between two messages: their number, and the newest of them."""

    def __init__(self) -> None:
        self.count = 0
        self._newest: deque[Change] = deque()
        self._characters = 0

    def add(self, changes: Sequence[Change]) -> None:
        self.count += len(changes)
        newest = changes[-MOST_ROWS:]
        self._newest.extend(newest)
        self._characters += sum([len(change.text) for change in newest])
        while len(self._newest) > MOST_ROWS or (self._characters > KEPT_CHARACTERS and len(self._newest) > 1):
            self._characters -= len(self._newest.popleft().text)

    def newest(self, limit: int) -> Sequence[Change]:
        return tuple(self._newest)[-limit:] if limit else ()


class Budget:
    """How much may be sent now: `per_second`, saved up to `most`."""

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


class Allowance:
    """The rows and characters that may be sent now at one SampleRate."""

    def __init__(self, pace: SampleRate) -> None:
        self._rows = Budget(pace.rows_per_second, pace.rows_per_second)
        self._characters = Budget(pace.characters_per_second, pace.saved_characters)

    def left(self, now: float) -> tuple[int, int]:
        """How many rows and characters may be sent."""
        return self._rows.left(now), self._characters.left(now)

    def spend(self, samples: Sequence[Sequence[str]]) -> None:
        """Counts the largest of the samples, which is the most that one client gets."""
        self._rows.spend(max(map(len, samples), default=0))
        self._characters.spend(max((sum(map(len, texts)) for texts in samples), default=0))


def _cut(change: Change) -> str:
    """The change as shown in the list. If it is cut, the whole is at /api/change?cursor=…"""
    return json.dumps(
        {
            "name": change.table,
            "action": change.action,
            "at": iso_of(change.at) if change.at else None,
            "cursor": change.cursor,
            "cut": {"characters": len(change.text), "beginning": change.text[:BEGINNING_CHARACTERS]},
        }
    )
