"""That changes may have been lost, as a value: losing data is a message, never a silence."""

from dataclasses import dataclass
from datetime import UTC, datetime

from changefeed.change import Change

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
    columns: frozenset[str] = frozenset()  # where there are any, only who filters by one of them misses changes

    @classmethod
    def of_loss(cls, loss: Change) -> "Gap":
        """What stands in the feed for changes that the journal does not have."""
        at = datetime.fromtimestamp(loss.at, UTC)
        why = f"a statement on {loss.table} could not be journaled, or not be read; PostgreSQL's log says why"
        skipped = loss.count if loss.count > 1 else None
        return cls(why, to_cursor=loss.cursor, since=at, until=at, skipped=skipped, table=loss.table)
