"""The journal's past in, counts in the tally out: so that the charts are full at page load and after a restart."""

from changefeed.change import BY_LETTER
from changefeed.cursor import Snapshot
from changefeed.database import Database
from changefeed.queries import load
from changefeed.tally import Buckets, Tally

QUERIES = load("server.sql")
DEADLINE_SECONDS = 120.0  # a journal of a gigabyte is read once, before anything is published


async def load_history(database: Database, tally: Tally, snapshot: Snapshot) -> None:
    """Counts what `snapshot` sees; what comes later is counted as it is published."""
    await _load(database, tally, snapshot, tally.minutes)
    await _load(database, tally, snapshot, tally.seconds)


async def _load(database: Database, tally: Tally, snapshot: Snapshot, buckets: Buckets) -> None:
    rows = await database.fetch(
        QUERIES["activity"],
        {
            "step_seconds": buckets.step_seconds,
            "window_seconds": buckets.window_seconds,
            "snapshot": str(snapshot),
        },
        DEADLINE_SECONDS,
    )
    for at, table, letter, count, first_at in rows:
        tally.load(at, table, BY_LETTER[letter], count, first_at, into_minutes=buckets is tally.minutes)
