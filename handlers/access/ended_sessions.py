"""Sessions that were signed out of in, whether one is among them out: the same in all processes that share the port.

A session is its cookie, so there is no list of those that there are. Those that were ended before their time are kept
here, by their id: each process writes into a ring of its own, of one memory that all of them map. When a ring is full,
what falls out of it takes every session with it that is not younger: an ended one never comes back.
"""

import mmap
import struct
from dataclasses import dataclass
from typing import Final

KEPT: Final = 4096  # by each process
ID_BYTES: Final = 8
_ENTRY = struct.Struct(f"{ID_BYTES}sd")  # the id, and when it began
_HEAD = struct.Struct("Qd")  # how many were ever ended, and until when those began of which nothing is known any more
PART_BYTES: Final = _HEAD.size + KEPT * _ENTRY.size


@dataclass(frozen=True)
class Session:
    """Who signed in, and when (epoch seconds): the token itself, or the digest of one of the settings."""

    id: str  # in hexadecimal digits
    at: float
    token: str | None = None
    digest: str | None = None


class EndedSessions:
    """`number` is this process's, from 1; `descriptor` is shared_memory()'s where there are others."""

    def __init__(self, number: int = 1, processes: int = 1, descriptor: int | None = None) -> None:
        self._memory = mmap.mmap(-1 if descriptor is None else descriptor, processes * PART_BYTES)
        self._begins = [part * PART_BYTES for part in range(processes)]
        self._mine = self._begins[number - 1]
        self._seen = [0] * processes
        self._ended: set[str] = set()
        self._forgotten_until = 0.0

    def end(self, session: Session) -> None:
        count, forgotten_until = _HEAD.unpack_from(self._memory, self._mine)
        place = self._place(self._mine, count)
        if count >= KEPT:
            _, at = _ENTRY.unpack_from(self._memory, place)
            forgotten_until = max(forgotten_until, at)
        _ENTRY.pack_into(self._memory, place, bytes.fromhex(session.id), session.at)
        _HEAD.pack_into(self._memory, self._mine, count + 1, forgotten_until)  # last: from now on others read it

    def has(self, session: Session) -> bool:
        self.news()
        return session.id in self._ended or session.at <= self._forgotten_until

    def news(self) -> bool:
        """Whether any was ended, by whatever process, since this was last asked."""
        is_new = False
        for part, begin in enumerate(self._begins):
            count, forgotten_until = _HEAD.unpack_from(self._memory, begin)
            if count == self._seen[part]:
                continue
            is_new = True
            for number in range(max(self._seen[part], count - KEPT), count):
                found, _ = _ENTRY.unpack_from(self._memory, self._place(begin, number))
                self._ended.add(found.hex())
            self._seen[part] = count
            self._forgotten_until = max(self._forgotten_until, forgotten_until)
        if len(self._ended) > 2 * KEPT * len(self._begins):
            self._read_anew()
        return is_new

    def _read_anew(self) -> None:
        """Lets go of what has fallen out of the rings."""
        self._ended.clear()
        for begin, count in zip(self._begins, self._seen, strict=True):
            for number in range(max(0, count - KEPT), count):
                found, _ = _ENTRY.unpack_from(self._memory, self._place(begin, number))
                self._ended.add(found.hex())

    @staticmethod
    def _place(begin: int, number: int) -> int:
        return begin + _HEAD.size + number % KEPT * _ENTRY.size
