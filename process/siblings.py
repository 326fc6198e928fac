"""Carries messages between the processes that share the port. Knows no page, HTTP or database.

A sender writes each message once, into a ring of its own in memory that all processes map, and rings the bell of the
processes with higher numbers: a pipe each, into which it writes where the message is. So no sender waits for a
receiver, and none keeps a queue for it. A message may be lost: if the bell's pipe is full, or the ring has been
overwritten before the receiver came to it, which the checksum reveals. The parent makes pipes and memory, so that they
outlive each process.
"""

import asyncio
import contextlib
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

RING_BYTES: Final = 16 << 20  # some twenty full pages of the journal; only what is used takes memory
_BELL = struct.Struct("=HQII")  # the sender, and its message's position, length and checksum
_BELLS_AT_ONCE = 256

Bell = tuple[int, int]  # the descriptors of a pipe: where to read, and where to write


@contextlib.contextmanager
def bells(processes: int) -> Iterator[list[Bell]]:
    """A bell for each process, which child processes can inherit."""
    made = [os.pipe() for _ in range(processes)]
    for ends in made:
        for end in ends:
            os.set_blocking(end, False)
    try:
        yield made
    finally:
        for ends in made:
            for end in ends:
                os.close(end)


class Siblings:
    """`number` is this process's, from 1; the default is a process without siblings.

    `descriptor` is that of shared_memory(processes, RING_BYTES); `bells` are those of bells(processes).
    """

    def __init__(self, number: int = 1, bells: Sequence[Bell] = (), descriptor: int | None = None) -> None:
        self._number = number
        self._bells = bells
        self._memory = mmap.mmap(-1 if descriptor is None else descriptor, max(1, len(bells)) * RING_BYTES)
        self._written = 0  # bytes of this process's ring

    @property
    def has_receivers(self) -> bool:
        """Whether send() reaches any process."""
        return self._number < len(self._bells)

    def send(self, message: bytes) -> bool:
        """Sends it to all processes with higher numbers; False if it is too large. Never waits."""
        length = len(message)
        if length > RING_BYTES:
            return False
        if self._written + length > RING_BYTES:
            self._written = 0
        position = (self._number - 1) * RING_BYTES + self._written
        self._memory[position : position + length] = message
        self._written += length
        _ring(self._bells[self._number :], _BELL.pack(self._number, position, length, zlib.crc32(message)))
        return True

    @contextlib.contextmanager
    def receiving(self, on_message: Callable[[int, bytes], None]) -> Iterator[None]:
        """Calls on_message(sender, message), from the event loop, while the block runs."""
        if not self._bells:
            yield
            return
        mine, _ = self._bells[self._number - 1]
        loop = asyncio.get_running_loop()
        loop.add_reader(mine, self._answer, mine, on_message)
        try:
            yield
        finally:
            loop.remove_reader(mine)

    def _answer(self, mine: int, on_message: Callable[[int, bytes], None]) -> None:
        try:
            rung = os.read(mine, _BELLS_AT_ONCE * _BELL.size)
        except BlockingIOError:
            return
        for sender, position, length, checksum in _BELL.iter_unpack(rung):
            message = self._memory[position : position + length]
            if zlib.crc32(message) == checksum:
                on_message(sender, message)


def tell_ended(number: int, bells: Sequence[Bell]) -> None:
    """Sends an empty message in the name of process `number`, which has ended."""
    _ring(bells[number:], _BELL.pack(number, 0, 0, 0))


def _ring(bells: Sequence[Bell], rung: bytes) -> None:
    for _, end in bells:
        with contextlib.suppress(BlockingIOError):
            os.write(end, rung)  # so short that a pipe takes all of it or nothing (PIPE_BUF)
