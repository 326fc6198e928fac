"""Parts of an answer in, kept until all clients have taken them: in memory, then in a temporary file. Knows no rows.

So no slow client delays the reading, and memory stays bounded. One thread does all that waits for a disk.
"""

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, ParamSpec, TypeVar

MEMORY_BYTES = 1 << 20  # of each spool

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# It also closes the files, after all that was to be written to them: a number may be another file's then.
_disk = ThreadPoolExecutor(1, "rows")


class SpoolFull(Exception):
    """All spools together, or one holder's, have as many bytes as they may have; or the disk is full."""


class SpoolSpace:
    """How many bytes all spools have together. One holder has at most half of them, so that others find room too."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: Counter[str | None] = Counter()
        self.bytes = 0

    def take(self, holder: str | None, count: int) -> None:
        """Raises SpoolFull."""
        if self.bytes + count > self._limit_bytes or self._held[holder] + count > self._limit_bytes // 2:
            raise SpoolFull
        self.bytes += count
        self._held[holder] += count

    def give_back(self, holder: str | None, count: int) -> None:
        self.bytes -= count
        self._held[holder] -= count
        if not self._held[holder]:
            del self._held[holder]


class Spool:
    """Parts of bytes, in their order."""

    def __init__(self, space: SpoolSpace, holder: str | None = None) -> None:
        self._space = space
        self._holder = holder
        self._in_memory: list[bytes] = []
        self._in_file: list[tuple[int, int]] = []  # where each part begins, and its bytes
        self._file: IO[bytes] | None = None
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._in_memory) + len(self._in_file)

    async def append(self, part: bytes) -> None:
        """Raises SpoolFull."""
        self._space.take(self._holder, len(part))
        begin, self.bytes = self.bytes, self.bytes + len(part)
        if self.bytes <= MEMORY_BYTES:
            self._in_memory.append(part)
            return
        try:
            if self._file is None:
                self._file = await _on_disk(tempfile.TemporaryFile)
            await _on_disk(_write, self._file, part, begin)
        except OSError as error:
            raise SpoolFull(str(error)) from None
        self._in_file.append((begin, len(part)))

    async def part(self, number: int) -> bytes:
        """The part of this number, from 0 on."""
        if number < len(self._in_memory):
            return self._in_memory[number]
        assert self._file is not None
        begin, size = self._in_file[number - len(self._in_memory)]
        return await _on_disk(_read, self._file, begin, size)

    def close(self) -> None:
        self._space.give_back(self._holder, self.bytes)
        self.bytes = 0
        self._in_memory.clear()
        self._in_file.clear()
        if self._file is not None:
            _disk.submit(self._file.close)
            self._file = None


async def _on_disk(work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    return await asyncio.wrap_future(_disk.submit(work, *args, **kwargs))


def _write(file: IO[bytes], part: bytes, begin: int) -> None:
    rest = memoryview(part)
    while rest:
        written = os.pwrite(file.fileno(), rest, begin)
        begin, rest = begin + written, rest[written:]


def _read(file: IO[bytes], begin: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.pread(file.fileno(), size, begin)
        if not part:
            raise OSError("the temporary file is too short")
        parts.append(part)
        begin, size = begin + len(part), size - len(part)
    return b"".join(parts)
