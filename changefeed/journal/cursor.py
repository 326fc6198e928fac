"""A place in the feed, as a value and as the text that clients hold. Logic only: knows no database and no client.

A place is exclusive: everything visible in the snapshot `previous`, and of what became visible by the snapshot `batch`
everything up to `id`, was seen. So it names exactly which changes are still to come, for any server of the database.

The text is `<id>.<the rest>`, hexadecimal and base64url: safe in a URL as it is. The rest is the same for all changes
of a batch and is packed once: a version, six bytes of the epoch, the two snapshots as variable-length differences, what
its holder was told of losses, the batch's witness and digest, and a checksum, by which a text that was cut or mangled
is told from a cursor. A cursor of a server that knew neither has none; that server reads over those of ours.
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


class NotACursor(ValueError):
    """The text is not a cursor of this feed; it was cut, mangled, or comes from elsewhere."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """PostgreSQL's pg_snapshot: what is visible is below xmin, or below xmax and not in xip."""

    # `witness` is witness_of() the journal's newest entry that this one sees, 0 where that is not known: by it a
    # snapshot of this past is told from one that a crash, a failover or a restore took back (see sql/read.sql).
    xmin: int
    xmax: int
    xip: frozenset[int] = frozenset()
    witness: int = field(default=0, compare=False)

    @classmethod
    def parse(cls, text: str, witness: int = 0) -> "Snapshot":
        """From PostgreSQL's own text, xmin:xmax:xip,…"""
        xmin, xmax, xip = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, xip.split(","))) if xip else frozenset(), witness)

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.xip)))}"

    def sees(self, xid: int) -> bool:
        return xid < self.xmax and xid not in self.xip

    def is_within(self, other: "Snapshot") -> bool:
        """Whether everything this one sees, the other sees too."""
        return self.xmax <= other.xmax and all(xid in self.xip for xid in other.xip if xid < self.xmax)


NOTHING = Snapshot(1, 1)


@dataclass(frozen=True, slots=True)
class Place:
    """Exclusive: what has_passed() says yes to was seen.

    `losses` is not part of the position: how many lost statements, of which the journal has nothing, its holder has
    been told of. Nor is `digest`, that of the batch's transactions, 0 where it is not known: what a crash or a failover
    takes back is what was committed last, and that need not be the newest transaction.
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

    def has_passed(self, xid: int, change_id: int) -> bool:
        return self.previous.sees(xid) or (change_id <= self.id and self.batch.sees(xid))

    def is_within(self, other: "Place") -> bool:
        """Whether somebody at `other` has seen everything that one who is here has.

        Within one batch that is a matter of the id; of different batches it is only said where it is sure.
        """
        if (self.previous, self.batch) == (other.previous, other.batch):
            return self.id <= other.id
        return self.batch.is_within(other.previous)


def encode(epoch: bytes, place: Place) -> str:
    return f"{place.id:x}.{encode_batch(epoch, place.previous, place.batch, place.losses, place.digest)}"


def witness_of(xid: int, made_at: int) -> int:
    """28 bits of a transaction's id and of when its last entry was made, in microseconds since 1970; never 0."""
    return zlib.crc32(f"{xid}:{made_at}".encode()) & 0xFFFFFFF or 1


def digest_of(entries: Iterable[Sequence[Any]]) -> int:
    """28 bits of the transactions of these entries: of the id and the time of the last of each; never 0.

    They begin with id, transaction and time; those of one transaction are in the order of id.
    """
    last = {entry[1]: entry for entry in entries}
    return zlib.crc32(repr(sorted(tuple(entry[:3]) for entry in last.values())).encode()) & 0xFFFFFFF or 1


def encode_batch(epoch: bytes, previous: Snapshot, batch: Snapshot, losses: int = 0, digest: int = 0) -> str:
    """What follows the point in every cursor of this batch."""
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
    """The epoch and the place. Raises NotACursor."""
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
        raise NotACursor("this cursor is cut or mangled") from None
    packed, checksum = packed[:-_CHECKSUM_BYTES], packed[-_CHECKSUM_BYTES:]
    if not packed or checksum != _checksum(packed):
        raise NotACursor("this cursor is cut or mangled")
    if packed[0] != _VERSION:
        raise NotACursor("this cursor is of another version of the server")
    numbers = _unpack(packed[1 + EPOCH_BYTES :])
    try:
        previous, batch = _unpack_snapshot(numbers), _unpack_snapshot(numbers)
        losses, witness, digest = next(numbers, 0), next(numbers, 0), next(numbers, 0)
    except StopIteration:
        raise NotACursor("this cursor is cut or mangled") from None
    place = Place(previous, replace(batch, witness=witness), int(match[1], 16), losses, digest)
    if place.id >= _BEYOND_ID:
        raise NotACursor("this cursor is cut or mangled")
    return packed[1 : 1 + EPOCH_BYTES], place


# A crowd comes back with the same few. Anybody can make long ones, each of which would be kept with all its numbers.
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
            raise NotACursor("this cursor is cut or mangled")
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
        raise NotACursor("this cursor is cut or mangled")  # PostgreSQL would not take it either
    return Snapshot(xmin, xmax, frozenset(running))
