"""Changes in, the texts of a dashboard's rows out. One that is too long is cut, and says so and where the rest is."""

import json
from collections.abc import Sequence

from changefeed.change import Change
from handlers.feed import iso_of

ROWS_PER_MESSAGE = 20
ROWS_IN_HELLO = 200
ROW_LIMIT_CHARACTERS = 16 << 10
BEGINNING_CHARACTERS = 2_000
MESSAGE_LIMIT_CHARACTERS = 5_000  # ten of them a second are a moderate 50 kB/s, whatever the load
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
