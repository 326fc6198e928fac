"""A place in, the page of changes after it out, read from the journal in the database. Knows no client.

The algorithm is sql/read.sql's: a batch is the difference of two snapshots. The live feed, the catch-up after a lost
connection and a client's resume all read through here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from changefeed.change import JournalRow, from_journal
from changefeed.cursor import EPOCH_BYTES, Place, Snapshot, decode, encode, encode_batch
from changefeed.database import Database, Row
from changefeed.json_text import NotJSON
from changefeed.memory import Page
from changefeed.nested_order import NestedOrder
from changefeed.payload import Payload, key_members
from changefeed.queries import load
from changefeed.seal import MARK, Seal

QUERIES = load("server.sql")
VERSION = 5  # of sql/install.sql
# A page's bounds. Well below a client's outbox, so that a client that reads keeps up with a big batch.
PAGE_ROWS = 2_000
PAGE_BYTES = 256 << 10
_OF_THE_CHANGE = slice(len(JournalRow._fields))  # of the columns of a row that is read
READ_DEADLINE_SECONDS = 60.0  # the first page of a big batch finds and sorts all of it

BEGINNING = Place.after(Snapshot(1, 1))  # which has seen nothing


class WrongJournal(Exception):
    """The journal in the database is not one this server can read; the message says what to do."""


class ForeignCursor(ValueError):
    """The cursor is of another epoch: of another database, or from before a restore or a new installation."""


@dataclass(frozen=True)
class Losses:
    """What the journal no longer has: what retention took, up to a transaction and an id, and what it never got."""

    xid: int = 0
    id: int = 0
    statements: int = 0

    def concern(self, place: Place) -> bool:
        """Whether retention took a change that somebody at `place` has not seen."""
        if self.xid < place.previous.xmin:
            return False
        return not (self.xid < place.batch.xmin and self.id <= place.id)


class Journal:
    """The journal of one database, once identify() has found it. Of rows it gives out what `payload` says.

    on_lost(count) is called when a read finds that so many more statements could not be journaled. That is before
    anybody is given a cursor which says that its holder knows.
    """

    def __init__(self, database: Database, payload: Payload = Payload.FULL) -> None:
        self._database = database
        self._payload = payload
        self._nested_order = NestedOrder(database, with_rows=payload is not Payload.OFF)
        self.epoch: bytes | None = None
        self.losses = Losses()
        self.on_lost: Callable[[int], None] | None = None
        self._seal: Seal | None = None

    async def identify(self) -> bool:
        """Whether there is a journal; if so, sets its epoch. Raises WrongJournal for one newer than this server."""
        before = self.epoch
        self._nested_order.forget()
        [(has_journal,)] = await self._database.fetch(QUERIES["has journal"])
        if not has_journal:
            self.epoch = None
            return False
        await self._database.fetch(QUERIES["begin anew if restored"])
        [(epoch, version, seal_key)] = await self._database.fetch(QUERIES["identify journal"])
        if version > VERSION:
            raise WrongJournal(
                f"the schema changefeed is of version {version}, this server knows {VERSION}; use the newer server, or "
                "take the schema away with sql/uninstall.sql"
            )
        self.epoch = bytes.fromhex(epoch)[:EPOCH_BYTES]
        self._seal = Seal(bytes.fromhex(seal_key))
        if self.epoch != before:
            self.losses = Losses()
        return True

    async def read(self, place: Place, upto: Snapshot | None = None) -> Page:
        """The page after `place`; what begins there is the batch up to `upto`, or up to now. Updates `losses`.

        A page without changes ends later than it starts: nothing changed in between.
        """
        if place.previous != place.batch:
            page = await self._fetch(place, place.previous, place.batch, place.id)
            if page.changes:
                return page
            place = Place.after(place.batch)
        return await self._fetch(place, place.batch, upto, None)

    async def newest(self, entries: int) -> Place:
        """The place before some `entries` newest entries."""
        [(xid,)] = await self._database.fetch(QUERIES["start of the newest"], {"entries": entries})
        return Place.after(Snapshot(int(xid), int(xid)))

    def encode(self, place: Place) -> str:
        """The cursor for somebody who was told of all that could not be journaled."""
        assert self.epoch is not None
        return encode(self.epoch, replace(place, losses=self.losses.statements))

    def encode_batch(self, previous: Snapshot, batch: Snapshot) -> str:
        """What follows the point in the same."""
        assert self.epoch is not None
        return encode_batch(self.epoch, previous, batch, self.losses.statements)

    def seal(self, cursor: str) -> str:
        """The cursor for who may not know how many changes there are beside his own."""
        assert self._seal is not None
        return self._seal.seal(cursor)

    def decode(self, text: str, *, must_be_sealed: bool = False) -> Place:
        """The place a cursor names. Raises NotACursor or ForeignCursor."""
        opened: str | None = text
        if text.startswith(MARK):
            opened = self._seal.open(text) if self._seal else None
        elif must_be_sealed:
            decode(text)
            raise ForeignCursor("the cursor was given to somebody with other rights")
        if opened is not None:
            epoch, place = decode(opened)
            if epoch == self.epoch:
                return place
        raise ForeignCursor("the cursor is of another journal: of another database, or from before it was restored")

    async def _fetch(self, start: Place, previous: Snapshot, batch: Snapshot | None, after: int | None) -> Page:
        rows = await self._database.fetch(
            QUERIES["read without rows"] if self._payload is Payload.OFF else QUERIES["read"],
            {
                "previous": str(previous),
                "batch": str(batch) if batch else None,
                "after": after,
                "row_limit": PAGE_ROWS,
                "byte_limit": PAGE_BYTES,
            },
            READ_DEADLINE_SECONDS,
        )
        *entries, (*_, nested, cascaded, snapshot, has_more, lost_xid, lost_id, lost_statements) = rows
        known_statements = self.losses.statements
        # One answer may overtake another, on another connection: what was told is not taken back.
        self.losses = Losses(int(lost_xid), lost_id, max(known_statements, lost_statements))
        if lost_statements > known_statements and self.on_lost:
            self.on_lost(lost_statements - known_statements)
        read = Snapshot.parse(snapshot)
        found = await self._nested_order.apply(
            [entry[_OF_THE_CHANGE] for entry in entries],
            nested=nested or (),
            cascaded=cascaded or (),
            is_whole_batch=after is None and not has_more,
            byte_limit=PAGE_BYTES,
        )
        has_more = has_more or len(found) < len(entries)
        if self._payload is Payload.KEYS:
            found = await self._keys_of(found)
        return self._page(start, previous, read, found, has_more)

    async def _keys_of(self, found: Sequence[Row]) -> list[Row]:
        """The rows with nothing but their keys in them."""
        rows = [JournalRow._make(row) for row in found]
        tables = {(row.schema_name, row.table_name) for row in rows}
        if not tables:
            return []
        schemas, names = map(list, zip(*tables, strict=True))
        keys_known = await self._database.fetch(QUERIES["primary keys"], {"schemas": schemas, "tables": names})
        keys = {(schema, table): key for schema, table, key in keys_known}

        def reduced(row: JournalRow) -> JournalRow:
            key = keys.get((row.schema_name, row.table_name), ())
            try:
                return row._replace(data=key_members(row.data, key), old=key_members(row.old, key))
            except NotJSON:
                return row._replace(data=None, old=None, row_count=1)  # as from_journal()

        return [reduced(row) for row in rows]

    def _page(self, start: Place, previous: Snapshot, batch: Snapshot, rows: Sequence[Row], has_more: bool) -> Page:
        suffix = self.encode_batch(previous, batch)
        changes = [from_journal(row, suffix) for row in rows]
        end = Place(previous, batch, changes[-1].id) if has_more else Place.after(batch)
        return Page(start, end, changes, previous, batch)
