"""Reduces the counts of all tables to those that certain rights allow to know. Knows no request."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from changefeed.change.times import iso
from changefeed.counts.buckets import BucketMessage, Counts
from changefeed.counts.tally import OTHER_TABLES, UNKNOWN_TABLES
from changefeed.selection.catalog import Catalog
from changefeed.selection.rights import EVERY_TABLE, Grants, table_rights_of_any
from handlers.http.context import ServerContext

LOADED = timedelta(days=1)  # how far back the journal is counted at the start


class CountedTables:
    """The tables whose counts may be shown: those with a right to all rows, since a count includes all of them."""

    def __init__(self, grants: Grants, catalog: Catalog) -> None:
        self._grants = grants
        self._catalog = catalog
        self._is_everything = grants == EVERY_TABLE

    def totals(self, counts: Mapping[str, Counts]) -> Mapping[str, Counts]:
        if self._is_everything:
            return counts
        return {table: of_table for table, of_table in counts.items() if self._is_counted(table)}

    def buckets(self, buckets: Sequence[BucketMessage]) -> Sequence[BucketMessage]:
        """The visible part of the buckets, without empty ones, and without delays, which are those of all changes."""
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
        """The time from which all changes are counted; but never that of another table's oldest change."""
        if self._is_everything or not context.counted.has_history:
            return datetime.fromtimestamp(context.counted.since, UTC)
        return context.slot.started_at - LOADED

    def _is_counted(self, table: str) -> bool:
        granted = table_rights_of_any(self._grants, self._catalog.meanings(table))
        return granted is not None and not granted.filters and table not in (OTHER_TABLES, UNKNOWN_TABLES)
