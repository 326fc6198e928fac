"""What records each table, at one look and at the next, in; what was missed in between out. Knows no database.

A table is known by its name, since that is what clients ask for: another one that takes its name is a gap, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

READ_ELSEWHERE = "read the table itself until it is watched again, which another gap tells"


@dataclass(frozen=True)
class Member:
    """A watched table itself, or one of its partitions.

    The texts stand for when it became a partition, and for its triggers: which they are, how they are defined, and when
    they were last touched.
    """

    entered: str = ""
    is_attached: bool = False  # was made before it became a partition
    triggers: str = ""
    definition: str = ""
    touched: str = ""

    def was_off(self, before: "Member") -> bool:
        """Whether its triggers were others since, or touched for no other definition, as by being disabled."""
        if self.triggers != before.triggers:
            return True
        return self.definition == before.definition and self.touched != before.touched


@dataclass(frozen=True)
class Recorded:
    """One watched table. Its members are itself and its partitions, by oid."""

    oid: int
    is_complete: bool  # the triggers of all members are there and enabled
    members: Mapping[int, Member]


@dataclass(frozen=True)
class Missed:
    """Why changes of a table are missing, or will be."""

    why: str
    is_over: bool = True  # what comes from now on is recorded


class Recording:
    """What recorded the tables at the last look, and which of them were watched before."""

    def __init__(self) -> None:
        self.tables: Mapping[str, Recorded] | None = None
        self.begun: set[str] = set()  # those that are watched since the look before, and never were
        self._ended: set[str] = set()

    @property
    def incomplete(self) -> int:
        """How many tables there are whose changes are recorded in part."""
        return sum(not one.is_complete for one in (self.tables or {}).values())

    def look(self, tables: Mapping[str, Recorded], *, partitions_come_watched: bool) -> dict[str, Missed]:
        """What was missed since the last look, by table; at the first one that is not known.

        `partitions_come_watched`: a new partition has its triggers from its first moment on, if it has them at all.
        """
        before, self.tables = self.tables, tables
        if before is None:
            return {}
        self.begun = set(tables.keys() - before.keys() - self._ended)
        missed = {}
        for name in before.keys() | tables.keys():
            found = self._missed(name, before.get(name), tables.get(name), partitions_come_watched)
            if found:
                missed[name] = found
        self._ended = (self._ended | (before.keys() - tables.keys())) - tables.keys()
        return missed

    def _missed(
        self, name: str, before: Recorded | None, now: Recorded | None, partitions_come_watched: bool
    ) -> Missed | None:
        if now is None:
            return Missed(f"{name} is not watched any more", is_over=False)
        if before is None:
            return Missed(f"{name} is watched again, and was not for a while") if name in self._ended else None
        if before.oid != now.oid:
            return Missed(f"{name} is another table than before")
        if not now.is_complete:
            news = now.members.keys() - before.members.keys()
            if before.is_complete or news:
                what = "a new partition" if news else "it, or of a partition of it,"
                return Missed(f"not all changes of {name} are recorded: triggers of {what} are missing", is_over=False)
            return None
        if not before.is_complete:
            return Missed(f"all changes of {name} are recorded again, and were not for a while")
        return _moved(name, before, now, partitions_come_watched)


def _moved(name: str, before: Recorded, now: Recorded, partitions_come_watched: bool) -> Missed | None:
    """Of a table that was recorded at both looks."""
    if before.members.keys() - now.members.keys():
        return Missed(f"a partition of {name} was detached or dropped: its rows are not in it any more")
    kept = [(one, now.members[oid]) for oid, one in before.members.items()]
    if any(one.entered != was.entered for was, one in kept):
        return Missed(f"a partition of {name} was detached and attached again, and not recorded meanwhile")
    if any(one.was_off(was) for was, one in kept):
        return Missed(f"{name} was not watched for a moment")
    added = [one for oid, one in now.members.items() if oid not in before.members]
    if any(one.is_attached for one in added):
        return Missed(f"a partition was attached to {name}: its rows are in it now")
    if added and not partitions_come_watched:
        return Missed(f"what was written to a new partition of {name} in its first moment is not recorded")
    return None
