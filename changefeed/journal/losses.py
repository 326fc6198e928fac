"""What the journal no longer has, and whether the holder of a place has missed any of it. Logic only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, takewhile

from changefeed.journal.cursor import NOTHING, Place, Snapshot


@dataclass(frozen=True)
class Taken:
    """What retention took, as sql/retention.sql keeps it: `number` says how often that was written.

    Of each transaction that `snapshot` does not see, `ids` has the highest id that was taken, of the newest first; what
    is not there lost nothing. Of those that it sees, which are older, anything may have been taken.
    """

    number: int = 0
    snapshot: Snapshot = NOTHING
    ids: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def unnoted(cls, xid: int, present: Snapshot) -> "Taken":
        """Where nothing is kept but the newest transaction of which something was taken. Of one that still runs nothing
        was: that holds a lock on what it wrote to."""
        running = frozenset(other for other in present.xip if other <= xid)
        return cls(snapshot=Snapshot(min(running, default=xid + 1), xid + 1, running))

    def includes(self, xid: int) -> bool:
        """Whether what is kept says of this transaction that something of it was taken, or may have been."""
        return not xid or self.snapshot.sees(xid) or xid in self.ids


@dataclass(frozen=True)
class Losses:
    """What the journal no longer has: what retention took, up to a transaction (whose last entry was made at `at`, in
    microseconds since 1970) and an id; and how often not even a loss could be journaled.

    `present` is the snapshot by which that was read.
    """

    xid: int = 0
    id: int = 0
    statements: int = 0
    at: int = 0
    present: Snapshot = NOTHING
    taken: Taken = Taken()

    @property
    def taken_until(self) -> datetime | None:
        """When the newest of the entries was made that retention took."""
        return datetime.fromtimestamp(self.at / 1e6, UTC) if self.at else None

    @property
    def extent(self) -> tuple[int, int, int]:
        """Changes whenever retention takes something."""
        return self.xid, self.id, self.taken.number

    def concern(self, place: Place) -> bool:
        """Whether retention took a change that somebody at `place` has not seen."""
        unknown = self.taken.snapshot
        if not unknown.is_within(place.batch) or (self.id > place.id and not unknown.is_within(place.previous)):
            return True
        ids, previous = self.taken.ids, place.previous
        newer = takewhile(lambda xid: xid >= previous.xmax, ids)
        return any(not place.has_passed(xid, ids[xid]) for xid in chain(newer, ids.keys() & previous.xip))
