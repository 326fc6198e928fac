"""Counts of all tables in, those that somebody with certain rights may know out. Knows no request."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from changefeed.change.times import iso
from changefeed.counts.buckets import BucketMessage, Counts
from changefeed.counts.tally import OTHER_TABLES, UNKNOWN_TABLES
from changefeed.selection.catalog import Catalog
from changefeed.selection.rights import EVERY_TABLE, Grants, bound_of_any
from handlers.http.context import ServerContext

LOADED = timedelta(days=1)  # what is counted from the journal at the start


class CountedTables:
    """Those whose counts may be told: with a right to all of their rows, since a count counts all of them."""

    def __init__(self, grants: Grants, catalog: Catalog) -> None:
        self._grants = grants
        self._catalog = catalog
        self._is_everything = grants == EVERY_TABLE

    def totals(self, counts: Mapping[str, Counts]) -> Mapping[str, Counts]:
        if self._is_everything:
            return counts
        return {table: of_table for table, of_table in counts.items() if self._is_counted(table)}

    def buckets(self, buckets: Sequence[BucketMessage]) -> Sequence[BucketMessage]:
        """One in which nothing is left is left out. Without the delays, which are those of all changes."""
        if self._is_everything:
            return buckets
        return [
            {"at": bucket["at"], "counts": counts} for bucket in buckets if (counts := self.totals(bucket["counts"]))
        ]

    def state(self, context: ServerContext, now: float) -> dict[str, object]:
        tally = context.hub.tally
        other = tally.foreign if self._is_everything else 0
        return {
            "now": now,
            "since": iso(self._since(context)),
            "has_history": context.counted.has_history,
            "totals": self.totals(tally.totals),
            "other": other,
        }

    def _since(self, context: ServerContext) -> datetime:
        """From when on all is counted. The oldest change of all tables is not for everybody to know the time of."""
        if self._is_everything or not context.counted.has_history:
            return datetime.fromtimestamp(context.counted.since, UTC)
        return context.slot.started_at - LOADED

    def _is_counted(self, table: str) -> bool:
        bound = bound_of_any(self._grants, self._catalog.meanings(table))
        return bound is not None and not bound.filters and table not in (OTHER_TABLES, UNKNOWN_TABLES)
