"""Remembers which sessions were signed out of, for all processes that share the port.

A session is only its cookie, so there is no list of valid ones. Those that were ended early are kept here, by id: each
process writes into a ring of its own, in memory that all of them map. When a full ring overwrites an entry, all
sessions that are as old or older end too, so that an ended session never becomes valid again.
"""

import mmap
import struct
from dataclasses import dataclass
from typing import Final

SESSIONS_KEPT: Final = 4096  # by each process
ID_BYTES: Final = 8
_ENTRY = struct.Struct(f"{ID_BYTES}sd")  # the id, and when it began
_HEAD = struct.Struct("Qd")  # how many sessions were ever ended, and when the newest forgotten one began
ENDED_SESSIONS_BYTES: Final = _HEAD.size + SESSIONS_KEPT * _ENTRY.size


@dataclass(frozen=True)
class Session:
    """A sign-in and its time (epoch seconds): with the token itself, or the digest of a token of the settings."""

    id: str  # in hexadecimal digits
    at: float
    token: str | None = None
    digest: str | None = None


class EndedSessions:
    """`number` is this process's, from 1; `descriptor` is that of shared_memory(), if there are other processes."""

    def __init__(self, number: int = 1, processes: int = 1, descriptor: int | None = None) -> None:
        self._memory = mmap.mmap(-1 if descriptor is None else descriptor, processes * ENDED_SESSIONS_BYTES)
        self._begins = [part * ENDED_SESSIONS_BYTES for part in range(processes)]
        self._mine = self._begins[number - 1]
        self._seen = [0] * processes
        self._ended: set[str] = set()
        self._forgotten_until = 0.0

    def end(self, session: Session) -> None:
        count, forgotten_until = _HEAD.unpack_from(self._memory, self._mine)
        offset = self._offset(self._mine, count)
        if count >= SESSIONS_KEPT:
            _, at = _ENTRY.unpack_from(self._memory, offset)
            forgotten_until = max(forgotten_until, at)
        _ENTRY.pack_into(self._memory, offset, bytes.fromhex(session.id), session.at)
        _HEAD.pack_into(
            self._memory, self._mine, count + 1, forgotten_until
        )  # last, as from now on others read the entry

    def has(self, session: Session) -> bool:
        self.news()
        return session.id in self._ended or session.at <= self._forgotten_until

    def news(self) -> bool:
        """Whether any process ended a session since the last call."""
        is_new = False
        for part, begin in enumerate(self._begins):
            count, forgotten_until = _HEAD.unpack_from(self._memory, begin)
            if count == self._seen[part]:
                continue
            is_new = True
            for number in range(max(self._seen[part], count - SESSIONS_KEPT), count):
                found, _ = _ENTRY.unpack_from(self._memory, self._offset(begin, number))
                self._ended.add(found.hex())
            self._seen[part] = count
            self._forgotten_until = max(self._forgotten_until, forgotten_until)
        if len(self._ended) > 2 * SESSIONS_KEPT * len(self._begins):
            self._reread()
        return is_new

    def _reread(self) -> None:
        """Forgets the sessions that the rings no longer hold."""
        self._ended.clear()
        for begin, count in zip(self._begins, self._seen, strict=True):
            for number in range(max(0, count - SESSIONS_KEPT), count):
                found, _ = _ENTRY.unpack_from(self._memory, self._offset(begin, number))
                self._ended.add(found.hex())

    @staticmethod
    def _offset(begin: int, number: int) -> int:
        return begin + _HEAD.size + number % SESSIONS_KEPT * _ENTRY.size
