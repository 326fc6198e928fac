"""A place in the feed, as a value and as the text that clients hold. Logic only: knows no database and no client.

A place is exclusive: its holder has seen everything visible in the snapshot `previous`, and everything up to `id` of
what became visible by the snapshot `batch`. So it says exactly which changes come next, on any server of the database.

The text is `<id>.<the rest>`, hexadecimal and base64url: safe in a URL as it is. The rest is the same for all changes
of a batch and is packed once: a version, six bytes of the epoch, the two snapshots as variable-length differences, the
losses that its holder knows, the batch's witness and digest, and a checksum that reveals a text that was cut
or mangled. Cursors of older servers lack witness and digest; such a server ignores those of ours.
"""

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

EPOCH_BYTES = 6
_VERSION = 1
_CHECKSUM_BYTES = 3
_BEYOND_ID = 1 << 63
_BEYOND_XID = 1 << 64
_SHORT_CHARACTERS = 512
_TEXT = re.compile(r"([0-9a-f]{1,16})\.([A-Za-z0-9_-]{8,})", re.ASCII)
MANGLED = "this cursor is cut or mangled"


class NotACursor(ValueError):
    """The text is not a cursor of this feed; it was cut, mangled, or comes from elsewhere."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """PostgreSQL's pg_snapshot: a transaction is visible if it is below xmin, or below xmax and not in xip."""

    # `witness` is witness_of() the newest journal entry that the snapshot sees, 0 if unknown. It distinguishes a
    # snapshot of this past from one that a crash, a failover or a restore undid (see sql/read.sql).
    xmin: int
    xmax: int
    xip: frozenset[int] = frozenset()
    witness: int = field(default=0, compare=False)

    @classmethod
    def parse(cls, text: str, witness: int = 0) -> "Snapshot":
        """Parses PostgreSQL's text, xmin:xmax:xip,…"""
        xmin, xmax, xip = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, xip.split(","))) if xip else frozenset(), witness)

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.xip)))}"

    def sees(self, xid: int) -> bool:
        return xid < self.xmax and xid not in self.xip

    def is_within(self, other: "Snapshot") -> bool:
        """Whether the other snapshot sees everything that this one sees."""
        return self.xmax <= other.xmax and all(xid in self.xip for xid in other.xip if xid < self.xmax)


EMPTY_SNAPSHOT = Snapshot(1, 1)


@dataclass(frozen=True, slots=True)
class Place:
    """A position in the feed. Its holder has seen exactly the changes for which has_passed() is true.

    Two fields are not part of the position. `losses` is how many lost statements, of which the journal has no trace,
    the holder knows. `digest` is that of the batch's transactions, 0 if unknown: a crash or failover undoes
    what was committed last, which need not be the newest transaction.
    """

    previous: Snapshot
    batch: Snapshot
    id: int
    losses: int = field(default=0, compare=False)
    digest: int = field(default=0, compare=False)

    @classmethod
    def after(cls, snapshot: Snapshot) -> "Place":
        """The place after everything that `snapshot` sees."""
        return cls(snapshot, snapshot, 0)

    @property
    def is_batch_end(self) -> bool:
        """Whether nothing of its batch is left."""
        return self.previous == self.batch

    def has_passed(self, xid: int, change_id: int) -> bool:
        return self.previous.sees(xid) or (change_id <= self.id and self.batch.sees(xid))

    def is_within(self, other: "Place") -> bool:
        """Whether the holder of `other` has seen everything that the holder of this place has.

        Within one batch the id decides. For different batches it is true only if that is certain.
        """
        if (self.previous, self.batch) == (other.previous, other.batch):
            return self.id <= other.id
        return self.batch.is_within(other.previous)


def encode(epoch: bytes, place: Place) -> str:
    return f"{place.id:x}.{encode_batch(epoch, place.previous, place.batch, place.losses, place.digest)}"


def witness_of(xid: int, made_at: int) -> int:
    """28 bits of a transaction's id and of the time of its last entry, in microseconds since 1970; never 0."""
    return zlib.crc32(f"{xid}:{made_at}".encode()) & 0xFFFFFFF or 1


def digest_of(entries: Iterable[Sequence[Any]]) -> int:
    """28 bits of the transactions of these entries: of the id and time of each one's last entry; never 0.

    Entries begin with id, transaction and time. Those of one transaction must be in the order of id.
    """
    last = {entry[1]: entry for entry in entries}
    return zlib.crc32(repr(sorted(tuple(entry[:3]) for entry in last.values())).encode()) & 0xFFFFFFF or 1


def encode_batch(epoch: bytes, previous: Snapshot, batch: Snapshot, losses: int = 0, digest: int = 0) -> str:
    """The part after the point, which is the same in all cursors of a batch."""
    packed = bytearray((_VERSION,)) + epoch
    for snapshot in (previous, batch):
        running = sorted(snapshot.xip)
        _pack(packed, snapshot.xmin, snapshot.xmax - snapshot.xmin, len(running))
        before = snapshot.xmin
        for xid in running:
            _pack(packed, xid - before)
            before = xid
    if losses or batch.witness:
        _pack(packed, losses, batch.witness, *([digest] if digest else []))
    return base64.urlsafe_b64encode(packed + _checksum(packed)).rstrip(b"=").decode()


def decode(text: str) -> tuple[bytes, Place]:
    """Returns the epoch and the place. Raises NotACursor."""
    return (_decode_short if len(text) <= _SHORT_CHARACTERS else _decode)(text)


def _decode(text: str) -> tuple[bytes, Place]:
    match = _TEXT.fullmatch(text)
    if not match:
        raise NotACursor(
            "a cursor looks like 1f3.AbCd…; take it from a change, from hello, or from /api/changes as it is"
        )
    try:
        packed = base64.b64decode(match[2] + "=" * (-len(match[2]) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise NotACursor(MANGLED) from None
    packed, checksum = packed[:-_CHECKSUM_BYTES], packed[-_CHECKSUM_BYTES:]
    if not packed or checksum != _checksum(packed):
        raise NotACursor(MANGLED)
    if packed[0] != _VERSION:
        raise NotACursor("this cursor belongs to another version of the server")
    numbers = _unpack(packed[1 + EPOCH_BYTES :])
    try:
        previous, batch = _unpack_snapshot(numbers), _unpack_snapshot(numbers)
        losses, witness, digest = next(numbers, 0), next(numbers, 0), next(numbers, 0)
    except StopIteration:
        raise NotACursor(MANGLED) from None
    place = Place(previous, replace(batch, witness=witness), int(match[1], 16), losses, digest)
    if place.id >= _BEYOND_ID:
        raise NotACursor(MANGLED)
    return packed[1 : 1 + EPOCH_BYTES], place


# A crowd reconnects with the same few. Long ones are not cached, since clients can make up any number of them.
_decode_short = lru_cache(maxsize=1024)(_decode)


def _checksum(packed: bytes | bytearray) -> bytes:
    return zlib.crc32(packed).to_bytes(4, "big")[:_CHECKSUM_BYTES]


def _pack(packed: bytearray, *numbers: int) -> None:
    """Appends numbers from 0 on, seven bits a byte, the lowest first (LEB128)."""
    for number in numbers:
        rest = number
        while rest >= 0x80:
            packed.append(rest & 0x7F | 0x80)
            rest >>= 7
        packed.append(rest)


def _unpack(packed: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in packed:
        number |= (byte & 0x7F) << shift
        shift += 7
        if number >= _BEYOND_XID or shift > 70:
            raise NotACursor(MANGLED)
        if byte < 0x80:
            yield number
            number = shift = 0


def _unpack_snapshot(numbers: Iterator[int]) -> Snapshot:
    xmin = next(numbers)
    xmax = xmin + next(numbers)
    running = []
    before = xmin
    for _ in range(next(numbers)):
        before += next(numbers)
        running.append(before)
    if not 0 < xmin <= xmax < _BEYOND_XID or (running and running[-1] >= xmax):
        raise NotACursor(MANGLED)  # PostgreSQL would refuse it too
    return Snapshot(xmin, xmax, frozenset(running))
