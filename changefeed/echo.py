"""Prints changes, one per line: as JSON into a pipe, shortened and coloured on a terminal.

A thread writes them, so that a stalled pipe or terminal (no reader, Ctrl-S) delays nothing else.
"""

import logging
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import TextIO

from changefeed.change.change import Change, without_losses
from changefeed.printable import COMMAND

logger = logging.getLogger(__name__)

WAITING_LIMIT_BYTES = 8 << 20
CLOSE_DEADLINE_SECONDS = 1.0

_COLOURS = {"INSERT": "\x1b[32m", "UPDATE": "\x1b[34m", "DELETE": "\x1b[33m", "TRUNCATE": "\x1b[35m"}
_PLAIN = "\x1b[0m"


class Echo:
    """A broadcast for the hub that prints; it never blocks.

    While more than WAITING_LIMIT_BYTES wait for the reader, changes are skipped, and the log says how many.
    """

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._line = terminal_line if stream.isatty() else json_line
        self._waiting: SimpleQueue[Sequence[Change] | None] = SimpleQueue()
        self._taken_bytes = 0  # changed by the caller's thread only
        self._written_bytes = 0  # changed by the writing thread only
        self._left_out = 0
        self._thread = threading.Thread(target=self._write_all, name="echo", daemon=True)
        self._thread.start()

    def __call__(self, changes: Sequence[Change], cursor: str | None = None) -> None:
        changes = without_losses(changes)
        if not self._thread.is_alive():
            return
        waiting_bytes = self._taken_bytes - self._written_bytes
        if waiting_bytes > (0 if self._left_out else WAITING_LIMIT_BYTES):
            if not self._left_out:
                logger.warning("the output of --echo is read too slowly; skipping changes")
            self._left_out += len(changes)
            return
        self._tell_left_out()
        self._taken_bytes += _size(changes)
        self._waiting.put(changes)

    def close(self) -> None:
        """Writes what is waiting, unless the reader takes too long."""
        self._waiting.put(None)
        self._thread.join(CLOSE_DEADLINE_SECONDS)
        self._tell_left_out()

    def _tell_left_out(self) -> None:
        if self._left_out:
            logger.warning("--echo skipped %d changes", self._left_out)
            self._left_out = 0

    def _write_all(self) -> None:
        try:
            while (changes := self._waiting.get()) is not None:
                left = memoryview("".join(map(self._line, changes)).encode())
                while left:
                    # Not through the stream's buffer, which Python flushes at exit, however long that takes.
                    left = left[os.write(self._stream.fileno(), left) :]
                self._written_bytes += _size(changes)
        except BrokenPipeError:  # as with `--echo | head`
            logger.info("the reader of --echo is gone; it prints nothing more")
        except OSError as error:
            logger.warning("--echo cannot print any more: %s", error.strerror)


def json_line(change: Change) -> str:
    """The change's JSON on one line: JSON has line breaks only between values, where a space means the same."""
    return change.text.replace("\n", " ").replace("\r", " ") + "\n"


def terminal_line(change: Change) -> str:
    """The change in one line, no wider than the terminal and without control characters."""
    head = f"{change.action:8} {change.table} " if not change.is_foreign else ""
    width = max(20, shutil.get_terminal_size().columns - len(head) - 1)
    body = _dotted(change.text)
    body = body if len(body) <= width else body[: width - 1] + "…"
    return f"{_COLOURS.get(change.action, '')}{_dotted(head)}{_PLAIN}{body}\n"


def _dotted(text: str) -> str:
    """Replaces control characters: text from the database must not control the terminal."""
    return COMMAND.sub("·", text)


def _size(changes: Sequence[Change]) -> int:
    return sum(len(change.text) for change in changes)
