"""A place in, the page of changes after it out, read from the database. Knows no client.

The algorithm is sql/read.sql's: a batch is the difference of two snapshots. The live feed, the catch-up after a lost
connection and a client's resume all read through here.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from changefeed import __version__
from changefeed.change.change import LOSS, Change, from_journal
from changefeed.change.exposure import Payload
from changefeed.journal.cursor import (
    EMPTY_SNAPSHOT,
    EPOCH_BYTES,
    MANGLED,
    NotACursor,
    Place,
    Snapshot,
    decode,
    digest_of,
    encode,
    encode_batch,
    witness_of,
)
from changefeed.journal.entries import PAGE_ROWS, ROW_LIMIT_BYTES, WITNESSED_SINCE, Entries, JournalReplaced
from changefeed.journal.exchange import PageKind
from changefeed.journal.horizon import Deleted, Horizon
from changefeed.journal.page_cache import Page
from changefeed.journal.sealed_cursor import NO_HOLDER, SEALED_MARK, Seal
from changefeed.journal.signed_cursor import SIGNED_MARK, Signature
from changefeed.owners import Owner
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database, DbRow, Fetch
from changefeed.postgres.trust import distrust
from changefeed.selection.rights import EVERY_TABLE, Grants, fingerprint
from changefeed.slots import FairSlots

logger = logging.getLogger("changefeed.journal")

QUERIES = load_queries("server.sql")
BEYOND_XID = 1 << 63  # pg_snapshot allows more, but the queries compare them as bigint
VERSION = 5  # of sql/install.sql
PROOFS_KEPT = 1_000
PAGE_SECONDS = 0.025  # for processing a page in one turn of the loop
CLIENT_READS = 2  # at the same time: writers need PostgreSQL, and other requests need the pool

BEGINNING = Place.after(EMPTY_SNAPSHOT)  # before everything
HALF_RESTORED = (
    "changefeed.meta has no primary key: a restore has not ended, or has failed; if none is running, run "
    "sql/install.sql as its owner"
)
OTHER_JOURNAL = "the cursor is of another journal: of another database, or from before it was restored"


class WrongJournal(Exception):
    """The journal in the database is not one this server can read; the message says what to do."""


class LostPast(Exception):
    """The place belongs to a past that PostgreSQL has lost: by a crash, a failover, or restored files."""


class ForeignCursor(ValueError):
    """The cursor is not for this client: it is of another journal, or was made for other rights."""


class Journal:
    """The journal of one database, once identify() has found it. Returns rows as far as `payload` allows.

    on_lost(count) is called when a read finds more statements that could not be recorded, not even as a loss. That is
    before any cursor is made whose holder counts as informed. confirm(tables, fetch) is awaited before a page with
    changes of these tables is returned.
    """

    def __init__(
        self,
        database: Database,
        payload: Payload = Payload.FULL,
        for_clients: Database | None = None,
        row_limit_bytes: int = ROW_LIMIT_BYTES,
        confirm: Callable[[Iterable[str], Fetch], Awaitable[None]] | None = None,
    ) -> None:
        self._database = database
        self._for_clients = for_clients or database
        self._payload = payload
        self._row_limit_bytes = row_limit_bytes
        self._confirm = confirm
        self._reading_for_clients = FairSlots(CLIENT_READS, divided=False)
        complained: dict[int, None] = {}
        self._entries = {
            pool: Entries(pool, payload, row_limit_bytes, complained) for pool in (database, self._for_clients)
        }
        self.epoch: bytes | None = None
        self.version = 0
        # Of a journal that is made later: what was committed before is no change of it, but may be restored with it.
        self.before_first = BEGINNING
        self.horizon = Horizon()
        self.lease_ms: int | None = None  # for how long the lease held, as of the last read; None before version 5
        self.on_lost: Callable[[int], None] | None = None
        self.identity: str | None = None  # by which the queries recognize it; None before version 5
        self._former_epoch: bytes | None = None  # the same journal's epoch while its version is below 5
        self._seal: Seal | None = None
        self._signature: Signature | None = None
        self._proofs: OrderedDict[tuple[int, int, int, int], bool] = OrderedDict()

    async def identify(self) -> bool:
        """Finds the journal, if any, and sets its epoch. Raises WrongJournal if it is newer than this server."""
        before = self.epoch
        for entries in self._entries.values():
            entries.forget()
        self.forget_proofs()
        [(has_journal, snapshot, is_whole)] = await self._database.fetch(QUERIES["find journal"])
        if not has_journal:
            self.epoch = self._former_epoch = None
            self.before_first = Place.after(Snapshot.parse(snapshot))
            return False
        if reason := await distrust(self._database):
            raise WrongJournal(reason)
        if not is_whole:
            raise WrongJournal(HALF_RESTORED)
        [(may_start_over,)] = await self._database.fetch(QUERIES["may start over"])
        if may_start_over:
            await self._database.fetch(QUERIES["start over if restored"])
        found = await self._database.fetch(QUERIES["identify journal"])
        if not found:
            raise WrongJournal(
                "changefeed.meta is empty, as after a restore of the schema alone; run sql/install.sql as its owner"
            )
        [(epoch, former_epoch, identity, version, readable_from, seal_key, sign_key)] = found
        if version > VERSION and readable_from > VERSION:
            raise WrongJournal(
                f"the schema changefeed has version {version}, this server has {VERSION}; use the newer server, or "
                "remove the schema with sql/uninstall.sql"
            )
        self.version = version
        self._former_epoch = bytes.fromhex(former_epoch)[:EPOCH_BYTES]
        if version >= WITNESSED_SINCE:
            self.epoch, self.identity = bytes.fromhex(epoch)[:EPOCH_BYTES], identity
        else:  # servers of that version also run, and accept its cursors
            self.epoch, self.identity = self._former_epoch, None
        self._seal, self._signature = Seal(bytes.fromhex(seal_key)), Signature(bytes.fromhex(sign_key))
        if not self.is_named(before):
            self.horizon = Horizon()
        return True

    def is_named(self, epoch: bytes | None) -> bool:
        """Whether the epoch is this journal's; an upgrade changes it."""
        return epoch in (self.epoch, self._former_epoch)

    async def read(self, place: Place, upto: Snapshot | None = None) -> Page:
        """The page after `place`. A batch that starts there ends at `upto`, or now. Updates `horizon`.

        A page without changes ends later than it starts: nothing changed in between. Raises LostPast if the place
        belongs to a lost past, and JournalReplaced if the journal was replaced.
        """
        return await self._page_after(place, upto, self._database)

    async def read_for_client(self, owner: Owner, place: Place, upto: Snapshot | None = None) -> Page:
        """The same for clients: over connections that the follower does not need, CLIENT_READS at once."""
        async with self._reading_for_clients.slot(owner):
            return await self._page_after(place, upto, self._for_clients)

    async def _page_after(self, place: Place, upto: Snapshot | None, database: Database) -> Page:
        if not place.is_batch_end:
            page = await self._fetch(database, place, place.previous, place.batch, place.id)
            if page.changes:
                return page
            place = Place.after(place.batch)
        return await self._fetch(database, place, place.batch, upto, None)

    async def confirm(self, page: Page, database: Database | None = None) -> None:
        """Called for a page before it is published: here, unless another process read it."""
        if self._confirm:
            await self._confirm((change.table for change in page.changes), (database or self._database).fetch)

    async def take_over(self, horizon: Horizon) -> Horizon:
        """Notes what another process found when it read a page, of whose `deleted` only the number is known."""
        deleted = await self._what_was_deleted(horizon.deleted.number, horizon.deleted_xid, horizon.present)
        found = replace(horizon, deleted=deleted)
        is_older = not self.horizon.present.is_within(found.present)
        self._note(replace(self.horizon, lost_statements=found.lost_statements) if is_older else found)
        return found

    @property
    def page_kind(self) -> PageKind | None:
        """Equal where read() gives equal pages; None if it proves no places."""
        if self.epoch is None or self.identity is None:
            return None
        return __version__, self._payload, str(self._row_limit_bytes), self.epoch.hex(), self.identity

    async def newest(self, entries: int) -> Page:
        """The first page of the newest `entries` entries, whose batch ends with them."""
        [(xid, first_id)] = await self._database.fetch(QUERIES["start of the newest"], {"entries": entries})
        previous = Snapshot(int(xid), int(xid))
        if first_id is None or self.version < WITNESSED_SINCE:
            return await self.read(Place.after(previous))
        # Leaves out lower ids of the batch: with a large transaction they may be most of the journal.
        page = await self._fetch(self._database, Place.after(previous), previous, None, first_id - 1)
        return replace(page, start=Place(previous, page.batch, first_id - 1))

    def encode(self, place: Place) -> str:
        """The cursor for a client that was sent the gap of every statement that could not be recorded."""
        assert self.epoch is not None
        return encode(self.epoch, replace(place, losses=self.horizon.lost_statements))

    def encode_batch(self, previous: Snapshot, batch: Snapshot, digest: int = 0) -> str:
        """The part after the point in such cursors."""
        assert self.epoch is not None
        return encode_batch(self.epoch, previous, batch, self.horizon.lost_statements, digest)

    def seal_for(self, grants: Grants) -> Callable[[str], str]:
        """Encrypts cursors for limited rights, as plain ones reveal the number of changes. Equal for equal rights."""
        return _Sealing(self, fingerprint(grants))

    def seal(self, cursor: str, holder: bytes) -> str:
        """Encrypts the cursor for the rights with this fingerprint."""
        assert self._seal is not None
        return self._seal.seal(cursor, holder if self.version >= WITNESSED_SINCE else NO_HOLDER)

    def decode(self, text: str, within: Grants = EVERY_TABLE) -> Place:
        """The place of a cursor, for a client with these rights. Raises NotACursor or ForeignCursor."""
        if text.startswith(SEALED_MARK):
            return self._unseal(text, fingerprint(within))
        if text.startswith(SIGNED_MARK):
            return self._signed(text)
        epoch, place = decode(text)
        if within != EVERY_TABLE:
            raise ForeignCursor("the cursor was made for other rights")
        if epoch == self.epoch or self._is_former(epoch, place):
            return self._checked(place)
        raise ForeignCursor(OTHER_JOURNAL)

    def _unseal(self, text: str, holder: bytes) -> Place:
        for sealed_for in (holder, NO_HOLDER):
            opened = self._seal.open(text, sealed_for) if self._seal else None
            if opened is not None:
                epoch, place = decode(opened)
                if self._is_former(epoch, place) or (epoch == self.epoch and sealed_for == holder):
                    return self._checked(place)
        raise ForeignCursor("the cursor is of another journal, or was made for other rights")

    def _signed(self, text: str) -> Place:
        place = self._signature.place(text) if self._signature else None
        if place is None:
            raise ForeignCursor(OTHER_JOURNAL)
        return self._checked(place)

    def _is_former(self, epoch: bytes, place: Place) -> bool:
        """Whether the place is from before version 5 of the schema."""
        return epoch == self._former_epoch and not place.batch.witness

    @staticmethod
    def _checked(place: Place) -> Place:
        if max(place.previous.xmax, place.batch.xmax) >= BEYOND_XID:
            raise NotACursor(MANGLED)
        return place

    def has_gap_after(self, place: Place) -> bool:
        """Whether retention deleted changes after `place`, or its client may have been sent them in another order."""
        return self.horizon.hides_from(place) or self.may_differ_after(place)

    def may_differ_after(self, place: Place) -> bool:
        """Whether its client may have been sent the changes around it in another order."""
        return any(entries.may_differ_after(place) for entries in self._entries.values())

    async def proves(self, place: Place) -> bool:
        """Whether everything that the place's holder has seen is still there, by its witnesses. A crowd asks once.

        The witnesses are the newest transaction that its snapshot sees, below which no id is used again; the change
        before the place; and all that came with it.
        """
        if not place.batch.witness:
            return True
        key = place.batch.xmax, place.batch.witness, place.id, place.digest
        if key not in self._proofs:
            asked = {"xid": str(place.batch.xmax - 1), "id": place.id}
            [(made_at, deleted_xid, deleted_at, has_entry)] = await self._for_clients.fetch(QUERIES["witness"], asked)
            self._proofs[key] = (
                has_entry
                and _is_witnessed(place.batch, made_at, int(deleted_xid), deleted_at)
                and (int(deleted_xid) >= place.previous.xmin or await self._has_batch(place))
            )
            while len(self._proofs) > PROOFS_KEPT:
                self._proofs.popitem(last=False)
        return self._proofs[key]

    async def _has_batch(self, place: Place) -> bool:
        """Whether the entries of its batch, of which retention removed none, are unchanged."""
        if not place.digest:
            return True
        return place.digest == digest_of(await self._last_entries(self._for_clients, place.previous, place.batch))

    async def _last_entries(self, database: Database, previous: Snapshot, batch: Snapshot) -> list[DbRow]:
        """The last entry of each transaction of the batch, for digest_of()."""
        asked = {"previous": str(previous), "batch": str(batch), "most": PAGE_ROWS}
        return await database.fetch(QUERIES["last entries"], asked)

    def forget_proofs(self) -> None:
        """Forgets proofs: their past may be lost by now."""
        self._proofs.clear()

    async def running(self) -> frozenset[int]:
        """The running transactions that have written, by the lower 32 bits of their ids."""
        return frozenset(xid for (xid,) in await self._database.fetch(QUERIES["running"]))

    async def missing(self, changes: Sequence[Change]) -> list[int]:
        """The ids of those earlier read changes that are missing without having been removed by retention."""
        rows = await self._database.fetch(
            QUERIES["missing"],
            {"ids": [change.id for change in changes], "xids": [str(change.xid) for change in changes]},
        )
        return [change_id for (change_id,) in rows]

    async def _fetch(
        self, database: Database, start: Place, previous: Snapshot, batch: Snapshot | None, after: int | None
    ) -> Page:
        entries = self._entries[database]
        rows, state = await entries.read(self.version, previous, batch, after)
        if state.identity != self.identity:
            raise JournalReplaced
        deleted_xid, deleted_at = int(state.deleted_xid), state.deleted_at
        given = previous if after is None or batch is None else batch
        if given.witness and not _is_witnessed(given, state.proven_at, deleted_xid, deleted_at):
            raise LostPast
        present = Snapshot.parse(state.present or state.snapshot)
        self.lease_ms = state.lease_ms
        deleted = await self._what_was_deleted(state.deletions, deleted_xid, present)
        self._note(Horizon(deleted_xid, state.deleted_id, state.lost_statements, deleted_at or 0, present, deleted))
        read = Snapshot.parse(state.snapshot)
        read = replace(read, witness=self._witness(read, state.batch_at, given))
        found = await entries.arrange(rows, state, is_whole_batch=after is None and not state.has_more)
        has_more = state.has_more or len(found) < len(rows)
        begins_batch = batch is None or after is None
        digest = 0 if begins_batch else start.digest
        if begins_batch and rows and read.witness:
            is_whole = after is None and not state.has_more
            last = rows if is_whole else await self._last_entries(database, previous, read)
            # If there is only one transaction, it is the witness.
            digest = digest_of(last) if {row[1] for row in last} - {str(read.xmax - 1)} else 0
        page = self._page(start, previous, read, found, has_more, digest)
        await self.confirm(page, database)
        return page

    async def _what_was_deleted(self, number: int | None, newest_xid: int, present: Snapshot) -> Deleted:
        """By retention, as of a read that found that number and that newest transaction."""
        known = self.horizon.deleted
        if number is not None and (number != known.number or not known.includes(newest_xid)):
            for found, snapshot, xids, ids in await self._database.fetch(QUERIES["what was deleted"]):
                known = Deleted(found, Snapshot.parse(snapshot), dict(zip(xids, ids, strict=True)))
        if number is not None and known.includes(newest_xid):
            return known
        # A schema of version 4 keeps no more than that; nor does another while it is at it.
        return Deleted.unnoted(newest_xid, present)

    def _note(self, found: Horizon) -> None:
        known = self.horizon.lost_statements
        # One answer may overtake another, on another connection: what was sent is not taken back.
        deleted = max(found.deleted, self.horizon.deleted, key=lambda deleted: deleted.number)
        self.horizon = replace(found, lost_statements=max(known, found.lost_statements), deleted=deleted)
        if found.lost_statements > known and self.on_lost:
            self.on_lost(found.lost_statements - known)

    def _witness(self, read: Snapshot, batch_at: int | None, given: Snapshot) -> int:
        xid = read.xmax - 1
        if batch_at is not None:
            return witness_of(xid, batch_at)
        if self.horizon.deleted_xid == xid and self.horizon.deleted_at:
            return witness_of(xid, self.horizon.deleted_at)
        return given.witness if given.xmax == read.xmax else 0

    def _page(
        self, start: Place, previous: Snapshot, batch: Snapshot, rows: Sequence[DbRow], has_more: bool, digest: int
    ) -> Page:
        suffix = self.encode_batch(previous, batch, digest)
        deadline, changes = time.monotonic() + PAGE_SECONDS, list[Change]()
        for row in rows:
            changes.append(_change_or_loss(row, suffix))
            if time.monotonic() > deadline:
                has_more = has_more or len(changes) < len(rows)
                break
        end = Place(previous, batch, changes[-1].id, digest=digest) if has_more else Place.after(batch)
        return Page(start, end, changes, previous, batch, digest)


@dataclass(frozen=True)
class _Sealing:
    journal: Journal
    holder: bytes

    def __call__(self, cursor: str) -> str:
        return self.journal.seal(cursor, self.holder)


def _change_or_loss(row: DbRow, suffix: str) -> Change:
    try:
        return from_journal(row, suffix)
    except Exception:  # any error costs only this entry
        change_id, xid, at, _, schema, table, *_ = row
        logger.exception("could not parse the entry %d of the journal, a change of %s.%s", change_id, schema, table)
        return from_journal((change_id, xid, at, LOSS[0], schema, table, None, None, None), suffix)


def _is_witnessed(snapshot: Snapshot, made_at: int | None, deleted_xid: int, deleted_at: int | None) -> bool:
    xid = snapshot.xmax - 1
    if made_at is None:
        if deleted_xid != xid or not deleted_at:
            return deleted_xid >= xid  # retention deleted it: whether also what was not seen, Horizon.hides_from() says
        made_at = deleted_at
    return witness_of(xid, made_at) == snapshot.witness
