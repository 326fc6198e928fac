"""Remembers which sessions were signed out of, for all processes that share the port.

A session is only its cookie, so there is no list of valid ones. Those that were ended early are kept here, by id: each
process writes into rings of its own, in memory that all of them map. When a full ring overwrites an entry, all
sessions of the ring that are as old or older end too, so that an ended session never becomes valid again. The token
decides on the ring, so that one that is signed out of very often ends its own sessions, and hardly another's.
"""

import mmap
import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

RINGS: Final = 256  # of each process; a byte of a digest names one
SESSIONS_KEPT: Final = 64  # in each
ID_BYTES: Final = 8
_ENTRY = struct.Struct(f"{ID_BYTES}sd")  # the id, and when it began
_HEAD = struct.Struct("Qd")  # of a ring: how many sessions were ever ended, and when the newest forgotten one began
_COUNT = struct.Struct("Q")  # of a process: how many sessions were ever ended
_RING_BYTES = _HEAD.size + SESSIONS_KEPT * _ENTRY.size
ENDED_SESSIONS_BYTES: Final = _COUNT.size + RINGS * _RING_BYTES  # of a process


@dataclass(frozen=True)
class Session:
    """A sign-in and its time (epoch seconds): with the token itself, or the digest of a token of the settings."""

    id: str  # in hexadecimal digits
    at: float
    token: str | None = None
    digest: str | None = None

    @property
    def ring(self) -> int:
        return sha256((self.token or self.digest or "").encode()).digest()[0]


class EndedSessions:
    """`number` is this process's, from 1; `descriptor` is that of shared_memory(), if there are other processes."""

    def __init__(self, number: int = 1, processes: int = 1, descriptor: int | None = None) -> None:
        self._memory = mmap.mmap(-1 if descriptor is None else descriptor, processes * ENDED_SESSIONS_BYTES)
        self._begins = [part * ENDED_SESSIONS_BYTES for part in range(processes)]
        self._mine = self._begins[number - 1]
        self._counts = [0] * processes  # as of the last look, as is the following
        self._seen = [[0] * RINGS for _ in range(processes)]
        self._ended: set[str] = set()
        self._forgotten_until = [0.0] * RINGS

    def end(self, session: Session) -> None:
        begin = _ring_begin(self._mine, session.ring)
        count, forgotten_until = _HEAD.unpack_from(self._memory, begin)
        offset = _offset(begin, count)
        if count >= SESSIONS_KEPT:
            _, at = _ENTRY.unpack_from(self._memory, offset)
            forgotten_until = max(forgotten_until, at)
        _ENTRY.pack_into(self._memory, offset, bytes.fromhex(session.id), session.at)
        # In this order, as others read an entry once its ring counts it, and a ring once its process counts more.
        _HEAD.pack_into(self._memory, begin, count + 1, forgotten_until)
        (ended,) = _COUNT.unpack_from(self._memory, self._mine)
        _COUNT.pack_into(self._memory, self._mine, ended + 1)

    def has(self, session: Session) -> bool:
        self.news()
        return session.id in self._ended or session.at <= self._forgotten_until[session.ring]

    def news(self) -> bool:
        """Whether any process ended a session since the last call."""
        is_new = False
        for part, begin in enumerate(self._begins):
            (count,) = _COUNT.unpack_from(self._memory, begin)
            if count != self._counts[part]:
                self._counts[part] = count
                self._read(part)
                is_new = True
        if len(self._ended) > 2 * SESSIONS_KEPT * RINGS * len(self._begins):
            self._reread()
        return is_new

    def _read(self, part: int) -> None:
        """Reads what is new in the rings of a process."""
        seen = self._seen[part]
        for ring in range(RINGS):
            begin = _ring_begin(self._begins[part], ring)
            count, forgotten_until = _HEAD.unpack_from(self._memory, begin)
            for number in range(max(seen[ring], count - SESSIONS_KEPT), count):
                found, _ = _ENTRY.unpack_from(self._memory, _offset(begin, number))
                self._ended.add(found.hex())
            seen[ring] = count
            self._forgotten_until[ring] = max(self._forgotten_until[ring], forgotten_until)

    def _reread(self) -> None:
        """Forgets the sessions that the rings no longer hold."""
        self._ended.clear()
        for part, seen in enumerate(self._seen):
            seen[:] = [0] * RINGS
            self._read(part)


def _ring_begin(process_begin: int, ring: int) -> int:
    return process_begin + _COUNT.size + ring * _RING_BYTES


def _offset(ring_begin: int, number: int) -> int:
    return ring_begin + _HEAD.size + number % SESSIONS_KEPT * _ENTRY.size
