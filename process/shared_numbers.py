"""Numbers by name that all processes that share the port can read. Knows no metric, HTTP or client.

All processes map one memory, and each writes only into its own part. So writing a number costs one store, and a
process's counts outlive its kill -9. A number is a double, exact up to 2^53.
"""

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Final

import msgspec

NumberKey = tuple[str, ...]  # the name, and the labels of numbers with the same name

# A part starts with the bytes in use. Entries follow: the key's length, the key as JSON, and the number, each at a
# multiple of 8. Only the used bytes of a part take memory. Most numbers are those of the tally, four per table.
PART_BYTES: Final = 4 << 20
COUNTED: Final = ("_total", "_bucket", "_sum")  # endings of the names of counters, as Prometheus wants them
_WORD: Final = 8


class NoRoom(Exception):
    """There is no room for the number, which the message names."""


@contextlib.contextmanager
def shared_memory(processes: int, part_bytes: int = PART_BYTES) -> Iterator[int]:
    """The descriptor of a memory for `processes`, which child processes can inherit."""
    with _memory_file() as file:
        file.truncate(processes * part_bytes)
        yield file.fileno()


def _memory_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):  # not on macOS
        # A file on a disk would be written to it again and again.
        return os.fdopen(os.memfd_create("changefeed"), "w+b")
    return tempfile.TemporaryFile()


class SharedNumber:
    """One number of this process."""

    __slots__ = ("_index", "_words")

    def __init__(self, words: "memoryview[float]", index: int) -> None:
        self._words = words
        self._index = index

    def add(self, amount: float) -> None:
        self._words[self._index] += amount

    def set(self, value: float) -> None:
        self._words[self._index] = value

    @property
    def value(self) -> float:
        return self._words[self._index]


class SharedNumbers:
    """`number` is this process's, from 1; `descriptor` is that of shared_memory(), if there are other processes."""

    def __init__(self, number: int = 1, processes: int = 1, descriptor: int | None = None) -> None:
        self._memory = memoryview(mmap.mmap(-1 if descriptor is None else descriptor, processes * PART_BYTES))
        self._floats = self._memory.cast("d")
        self._sizes = self._memory.cast("Q")
        self._number = number
        self._processes = processes
        # A restarted process continues with the numbers of the one before it.
        self._mine = {key: SharedNumber(self._floats, index) for key, index in self._entries(number)}

    def number(self, *key: str) -> SharedNumber:
        """The number of this key; a new one is 0. Raises NoRoom."""
        return self._mine.get(key) or self._make(key)

    def everywhere(self) -> list[dict[NumberKey, float]]:
        """The numbers of each process, in the order of the processes."""
        return [
            {key: self._floats[index] for key, index in self._entries(number)}
            for number in range(1, self._processes + 1)
        ]

    def clear(self, number: int) -> None:
        """Called after process `number` has ended: sets its gauges to 0 and keeps its counters."""
        for (name, *_), index in self._entries(number):
            if not name.endswith(COUNTED):
                self._floats[index] = 0.0

    def _make(self, key: NumberKey) -> SharedNumber:
        text = msgspec.json.encode(key)
        begin = (self._number - 1) * PART_BYTES
        used = self._sizes[begin // _WORD] or _WORD
        behind = used + _WORD + _padded(len(text)) + _WORD
        if behind > PART_BYTES:
            raise NoRoom(f"{key[0]}: no room for another number")
        position = begin + used
        self._sizes[position // _WORD] = len(text)
        self._memory[position + _WORD : position + _WORD + len(text)] = text
        self._sizes[begin // _WORD] = behind  # last, as from now on others read the entry
        made = self._mine[key] = SharedNumber(self._floats, (begin + behind) // _WORD - 1)
        return made

    def _entries(self, number: int) -> Iterator[tuple[NumberKey, int]]:
        """Yields each key and the position of its number."""
        begin = (number - 1) * PART_BYTES
        position, end = begin + _WORD, begin + self._sizes[begin // _WORD]
        while position < end:
            length = self._sizes[position // _WORD]
            text = self._memory[position + _WORD : position + _WORD + length]
            position += _WORD + _padded(length) + _WORD
            yield msgspec.json.decode(text, type=NumberKey), position // _WORD - 1


def _padded(length: int) -> int:
    return -(-length // _WORD) * _WORD
