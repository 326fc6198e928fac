"""That changes may have been lost, as a value: losing data is a message, never a silence."""

from dataclasses import dataclass
from datetime import datetime

READ_AGAIN = "read the tables you follow once more; the feed goes on from here"


@dataclass(frozen=True)
class Gap:
    """Between `since` and `until`, or between two cursors, where either is known, changes may be missing: `why`."""

    why: str
    from_cursor: str | None = None
    to_cursor: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    what_to_do: str = READ_AGAIN
    skipped: int | None = None  # how many changes, where that is known
    table: str | None = None  # the only one whose changes may be missing, by its qualified() name
