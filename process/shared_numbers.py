"""Numbers by name in, the same of all the processes that share the port out. Knows no metric, HTTP or client.

Each process writes into a part of its own of one memory that all of them map, and nobody else's; so a number costs a
store, and what a process had counted outlives its kill -9. A number is a double, exact up to 2^53.
"""

import contextlib
import mmap
import tempfile
from collections.abc import Iterator
from typing import Final

import msgspec

NumberKey = tuple[str, ...]  # the name, and what tells numbers of the same name apart

# A part is the bytes in use, then entries: the key's length, the key as JSON, and the number, each at a multiple of 8.
# Only what is used of a part takes memory; the most that is used are four numbers of each table of the tally.
PART_BYTES: Final = 4 << 20
COUNTED: Final = ("_total", "_bucket", "_sum")  # how names of what only grows end, as Prometheus wants them
_WORD: Final = 8


class NoRoom(Exception):
    """The number cannot be kept; the message names it."""


@contextlib.contextmanager
def shared_memory(processes: int, part_bytes: int = PART_BYTES) -> Iterator[int]:
    """The descriptor of a memory for so many, to be inherited."""
    with tempfile.TemporaryFile() as file:
        file.truncate(processes * part_bytes)
        yield file.fileno()


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
    """`number` is this process's, from 1; `descriptor` is shared_memory()'s where there are others."""

    def __init__(self, number: int = 1, processes: int = 1, descriptor: int | None = None) -> None:
        self._memory = memoryview(mmap.mmap(-1 if descriptor is None else descriptor, processes * PART_BYTES))
        self._floats = self._memory.cast("d")
        self._sizes = self._memory.cast("Q")
        self._number = number
        self._processes = processes
        # A process that is started again goes on with the numbers of the one before it.
        self._mine = {key: SharedNumber(self._floats, index) for key, index in self._entries(number)}

    def meter(self, *key: str) -> SharedNumber:
        """The number of this key, from 0 on. Raises NoRoom."""
        return self._mine.get(key) or self._make(key)

    def everywhere(self) -> list[dict[NumberKey, float]]:
        """The numbers of each process, in the order of their own."""
        return [
            {key: self._floats[index] for key, index in self._entries(number)}
            for number in range(1, self._processes + 1)
        ]

    def clear(self, number: int) -> None:
        """The process of this number has ended: what is so only while it runs is 0. What was counted stays."""
        for (name, *_), index in self._entries(number):
            if not name.endswith(COUNTED):
                self._floats[index] = 0.0

    def _make(self, key: NumberKey) -> SharedNumber:
        text = msgspec.json.encode(key)
        begin = (self._number - 1) * PART_BYTES
        used = self._sizes[begin // _WORD] or _WORD
        behind = used + _WORD + _padded(len(text)) + _WORD
        if behind > PART_BYTES:
            raise NoRoom(f"{key[0]}: no room for one number more")
        position = begin + used
        self._sizes[position // _WORD] = len(text)
        self._memory[position + _WORD : position + _WORD + len(text)] = text
        self._sizes[begin // _WORD] = behind  # last: from now on others read it
        made = self._mine[key] = SharedNumber(self._floats, (begin + behind) // _WORD - 1)
        return made

    def _entries(self, number: int) -> Iterator[tuple[NumberKey, int]]:
        """Each key, and where its number stands."""
        begin = (number - 1) * PART_BYTES
        position, end = begin + _WORD, begin + self._sizes[begin // _WORD]
        while position < end:
            length = self._sizes[position // _WORD]
            text = self._memory[position + _WORD : position + _WORD + length]
            position += _WORD + _padded(length) + _WORD
            yield msgspec.json.decode(text, type=NumberKey), position // _WORD - 1


def _padded(length: int) -> int:
    return -(-length // _WORD) * _WORD
