"""How many clients of each kind are connected: to this process, and to all that share the port. Knows no socket.

Each process writes the numbers of its own clients into its slot of a memory that all of them map, and nobody else's.
"""

import contextlib
import mmap
import struct
import tempfile
from collections.abc import Iterator

KINDS = ("feed", "dashboards", "raw")
_COUNT = struct.Struct("=Q")
_SLOT_BYTES = _COUNT.size * len(KINDS)


@contextlib.contextmanager
def shared_memory(processes: int) -> Iterator[int]:
    """The descriptor of a memory for so many, to be inherited."""
    with tempfile.TemporaryFile() as file:
        file.truncate(processes * _SLOT_BYTES)
        yield file.fileno()


class Census:
    """`number` is this process's, from 1; `descriptor` is shared_memory()'s where there are others."""

    def __init__(self, number: int = 1, processes: int = 1, descriptor: int | None = None) -> None:
        self._number = number
        self._processes = processes
        self._memory = mmap.mmap(-1 if descriptor is None else descriptor, processes * _SLOT_BYTES)

    def add(self, kind: str, count: int) -> None:
        position = self._position(self._number, kind)
        _COUNT.pack_into(self._memory, position, self._read(position) + count)

    def clear(self, number: int) -> None:
        """The process of this number has ended."""
        for kind in KINDS:
            _COUNT.pack_into(self._memory, self._position(number, kind), 0)

    def here(self) -> dict[str, int]:
        return {kind: self._read(self._position(self._number, kind)) for kind in KINDS}

    def everywhere(self) -> dict[str, int]:
        numbers = range(1, self._processes + 1)
        return {kind: sum(self._read(self._position(number, kind)) for number in numbers) for kind in KINDS}

    def _read(self, position: int) -> int:
        count: int = _COUNT.unpack_from(self._memory, position)[0]
        return count

    @staticmethod
    def _position(number: int, kind: str) -> int:
        return (number - 1) * _SLOT_BYTES + KINDS.index(kind) * _COUNT.size
