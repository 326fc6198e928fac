"""Counts by steps of time, of the newest steps only. Knows no change and no clock."""

from collections.abc import Collection, Mapping
from typing import Any, NotRequired, TypedDict

from changefeed.change.change import ACTIONS

Counts = list[int]  # in the order of ACTIONS
NONE = (0,) * len(ACTIONS)


class BucketMessage(TypedDict):
    """The bucket that begins at the epoch second `at`: counts by table, and a histogram of delays."""

    at: int
    counts: Mapping[str, Counts]
    delays: NotRequired[Mapping[int, int]]


class Buckets:
    """The counts of the last `kept` steps of `step_seconds`, by the step's first epoch second, table and action."""

    def __init__(self, step_seconds: int, kept: int) -> None:
        self.step_seconds = step_seconds
        self.window_seconds = step_seconds * kept
        self.kept = kept
        self._counts: dict[int, dict[str, Counts]] = {}
        self._delays: dict[int, dict[int, int]] = {}
        self._newest = 0
        self._touched: dict[int, set[str]] = {}

    def add(self, at: float, table: str, index: int, count: int) -> None:
        """Counts `count` changes made at `at`; ignores those before the kept steps."""
        begins = self._begin(at)
        if begins is None:
            return
        bucket = self._counts.setdefault(begins, {})
        counts = bucket.get(table)
        if counts is None:
            counts = bucket[table] = [0] * len(ACTIONS)
        counts[index] += count
        self._touched.setdefault(begins, set()).add(table)

    def add_delay(self, at: float, index: int, count: int) -> None:
        """Counts `count` changes that arrived at `at`, with the delay of `index` (see delays.py)."""
        begins = self._begin(at)
        if begins is not None:
            delays = self._delays.setdefault(begins, {})
            delays[index] = delays.get(index, 0) + count
            self._touched.setdefault(begins, set())

    def since(self, at: float) -> list[BucketMessage]:
        """The buckets that end after `at`, oldest first, without empty ones."""
        begun = sorted(self._counts.keys() | self._delays.keys())
        return [
            self._message(begins, self._counts.get(begins, {})) for begins in begun if begins + self.step_seconds > at
        ]

    def count(self, begins: int, tables: Collection[str], index: int) -> int:
        """How many changes these tables have in the step that begins then."""
        bucket = self._counts.get(begins, {})
        return sum(bucket[table][index] for table in tables if table in bucket)

    def newest_end(self, tables: Collection[str], index: int) -> int | None:
        """The end of the newest step with a change of any of these tables; None if there is none."""
        newest_first = sorted(self._counts, reverse=True)
        return next((begins + self.step_seconds for begins in newest_first if self.count(begins, tables, index)), None)

    def take_touched(self) -> list[BucketMessage]:
        """The buckets that changed since the last call, each with the tables that changed."""
        touched, self._touched = self._touched, {}
        return [
            self._message(begins, {table: self._counts[begins][table] for table in touched[begins]})
            for begins in sorted(touched)
        ]

    def add_before(self, loaded: "Buckets") -> None:
        """Adds the counts of `loaded`, which must not be used afterwards. They do not count as touched."""
        for begins, bucket in self._counts.items():
            into = loaded._counts.setdefault(begins, {})
            for table, counts in bucket.items():
                into[table] = [one + other for one, other in zip(into.get(table, NONE), counts, strict=True)]
        self._counts = loaded._counts
        self._newest = max(self._newest, loaded._newest)
        self._forget_old()

    def dump(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {"counts": _with_text_keys(self._counts), "delays": _with_text_keys(self._delays)}

    def restore(self, dumped: Mapping[str, Any]) -> None:
        """Takes the state of a dump()."""
        self._counts = {int(begins): bucket for begins, bucket in dumped["counts"].items()}
        self._delays = {
            int(begins): {int(index): count for index, count in delays.items()}
            for begins, delays in dumped["delays"].items()
        }
        self._newest = max(self._counts.keys() | self._delays.keys(), default=0)
        self._touched = {}

    def _message(self, begins: int, counts: dict[str, Counts]) -> BucketMessage:
        delays = self._delays.get(begins)
        message: BucketMessage = {"at": begins, "counts": counts}
        if delays:
            message["delays"] = delays
        return message

    def _begin(self, at: float) -> int | None:
        """The beginning of the step that contains `at`; None if it is no longer kept."""
        begins = int(at) // self.step_seconds * self.step_seconds
        if begins > self._newest:
            self._newest = begins
            self._forget_old()
        return begins if begins > self._newest - self.window_seconds else None

    def _forget_old(self) -> None:
        oldest = self._newest - self.window_seconds
        if len(self._counts) > self.kept:
            self._counts = {begins: bucket for begins, bucket in self._counts.items() if begins > oldest}
        if len(self._delays) > self.kept:
            self._delays = {begins: delays for begins, delays in self._delays.items() if begins > oldest}
        # Even if nothing takes them; and forgotten buckets cannot be sent.
        if self._touched and min(self._touched) <= oldest:
            self._touched = {begins: tables for begins, tables in self._touched.items() if begins > oldest}


def _with_text_keys(by_time: Mapping[int, Any]) -> dict[str, Any]:
    return {str(begins): value for begins, value in by_time.items()}
