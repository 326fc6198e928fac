"""A gap: the message that changes may have been lost. Losing data is a message, never a silence."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from changefeed.change.change import Change

READ_AGAIN = "read the tables you follow once more; the feed goes on from here"
WHY_LIMIT_CHARACTERS = 2_000  # of a gap that combines several
READ_ELSEWHERE = "read the table itself until it is watched again, which another gap reports"
# By what happened to a table that is no longer watched.
LEFT = {
    "dropped": "forget the table's rows; another gap reports when a table of its name is watched again",
    "renamed": "follow the table under its new name; another gap reports when a table of the old name is watched again",
}


@dataclass(frozen=True)
class Gap:
    """Changes may be missing between `since` and `until`, or between two cursors, if known; `why` is the reason."""

    why: str
    from_cursor: str | None = None
    to_cursor: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    what_to_do: str = READ_AGAIN
    skipped: int | None = None  # how many changes are missing, if known
    table: str | None = None  # qualified() name of the only table that is affected
    columns: frozenset[str] = frozenset()  # if not empty, only filters by one of these columns are affected

    @classmethod
    def of_loss(cls, loss: Change) -> "Gap":
        """The gap for changes that the journal does not have."""
        at = datetime.fromtimestamp(loss.at, UTC)
        if loss.finding:
            found = json.loads(loss.finding)
            since = datetime.fromtimestamp(found["since"], UTC) if found["since"] else None
            what_to_do = READ_AGAIN if found["is_over"] else LEFT.get(found.get("became"), READ_ELSEWHERE)
            return cls(found["why"], None, loss.cursor, since, at, what_to_do, table=loss.table)
        why = f"a statement on {loss.table} could not be recorded or read; PostgreSQL's log says why"
        skipped = loss.count if loss.count > 1 else None
        return cls(why, to_cursor=loss.cursor, since=at, until=at, skipped=skipped, table=loss.table)

    @classmethod
    def of_all(cls, gaps: Sequence["Gap"]) -> "Gap":
        """Combines the gaps, in their order. The result names a table only if all of them name it."""
        first, last = gaps[0], gaps[-1]
        if len(gaps) == 1:
            return first
        known = [gap.skipped for gap in gaps if gap.skipped is not None]
        return replace(
            last,
            why="; ".join(dict.fromkeys(gap.why for gap in gaps))[:WHY_LIMIT_CHARACTERS],
            from_cursor=first.from_cursor,
            since=first.since,
            what_to_do=last.what_to_do if len({gap.what_to_do for gap in gaps}) == 1 else READ_AGAIN,
            skipped=sum(known) if len(known) == len(gaps) else None,
            table=first.table if len({gap.table for gap in gaps}) == 1 else None,
        )
