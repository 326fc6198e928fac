"""What the journal no longer has, and whether a client at a place has not read some of it. Logic only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, takewhile

from changefeed.journal.cursor import EMPTY_SNAPSHOT, Place, Snapshot


@dataclass(frozen=True)
class Deleted:
    """What retention deleted, as sql/retention.sql notes it: `number` counts the notes.

    For each transaction that `snapshot` does not see, newest first, `ids` has the highest deleted id; a transaction
    that is missing there lost nothing. Of the older ones, which it sees, any entry may have been deleted.
    """

    number: int = 0
    snapshot: Snapshot = EMPTY_SNAPSHOT
    ids: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def unnoted(cls, xid: int, present: Snapshot) -> "Deleted":
        """If only the newest transaction with a deleted entry is known. A running transaction has lost no entry:
        it holds a lock on the partition that it wrote to."""
        running = frozenset(other for other in present.xip if other <= xid)
        return cls(snapshot=Snapshot(min(running, default=xid + 1), xid + 1, running))

    def includes(self, xid: int) -> bool:
        """Whether an entry of this transaction was deleted, or may have been."""
        return not xid or self.snapshot.sees(xid) or xid in self.ids


@dataclass(frozen=True)
class Horizon:
    """How far back the journal reaches: what retention deleted from it, and how many statements never came into it.

    `deleted_xid` is the newest transaction of which an entry was deleted, `deleted_at` the time of its last one, in
    microseconds since 1970, and `deleted_id` the highest deleted id. `lost_statements` counts those for which not even
    a loss could be recorded. `present` is the snapshot that read this.
    """

    deleted_xid: int = 0
    deleted_id: int = 0
    lost_statements: int = 0
    deleted_at: int = 0
    present: Snapshot = EMPTY_SNAPSHOT
    deleted: Deleted = Deleted()

    @property
    def deleted_until(self) -> datetime | None:
        """The time of the newest entry that retention deleted."""
        return datetime.fromtimestamp(self.deleted_at / 1e6, UTC) if self.deleted_at else None

    @property
    def extent(self) -> tuple[int, int, int]:
        """Differs after each deletion by retention."""
        return self.deleted_xid, self.deleted_id, self.deleted.number

    def hides_from(self, place: Place) -> bool:
        """Whether retention deleted a change that a client at `place` has not read."""
        unknown = self.deleted.snapshot
        if not unknown.is_within(place.batch) or (self.deleted_id > place.id and not unknown.is_within(place.previous)):
            return True
        ids, previous = self.deleted.ids, place.previous
        newer = takewhile(lambda xid: xid >= previous.xmax, ids)
        return any(not place.has_passed(xid, ids[xid]) for xid in chain(newer, ids.keys() & previous.xip))
