"""Parts of an answer in, kept until all clients have taken them: in memory, then in a temporary file. Knows no rows.

So no slow client delays the reading, and memory stays bounded. One thread does all that waits for a disk.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, ParamSpec, TypeVar

from changefeed.owners import Holding, Quotas

MEMORY_BYTES = 1 << 20  # of each spool

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# It also closes the files, after all that was to be written to them: a number may be another file's then.
_disk = ThreadPoolExecutor(1, "rows")


class SpoolFull(Exception):
    """All spools together, or one owner's, have as many bytes as they may have; or the disk is full."""


class Spool:
    """Parts of bytes, in their order. `space` is what all spools have; the bytes count for each owner of `holding`."""

    def __init__(self, space: Quotas) -> None:
        self.holding = Holding(space)
        self._in_memory: list[bytes] = []
        self._in_file: list[tuple[int, int]] = []  # where each part begins, and its bytes
        self._file: IO[bytes] | None = None

    @property
    def size_bytes(self) -> int:
        return self.holding.amount

    def __len__(self) -> int:
        return len(self._in_memory) + len(self._in_file)

    async def append(self, part: bytes) -> None:
        """Raises SpoolFull."""
        if not self.holding.may_grow(len(part)):
            raise SpoolFull
        begin = self.size_bytes
        self.holding.grow(len(part))
        if self.size_bytes <= MEMORY_BYTES:
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
        self.holding.clear()
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
