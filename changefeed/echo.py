"""Changes in, one line each on the console out: JSON lines into a pipe, shortened and coloured on a terminal."""

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from changefeed.change import Change

logger = logging.getLogger(__name__)

_COLOURS = {"INSERT": "\x1b[32m", "UPDATE": "\x1b[34m", "DELETE": "\x1b[33m", "TRUNCATE": "\x1b[35m"}
_PLAIN = "\x1b[0m"
# Text from the database must not command the terminal: C0, DEL and C1 are shown as a dot.
_UNPRINTABLE = dict.fromkeys((*range(32), *range(127, 160)), "·")


class Echo:
    """Callable as one of the hub's broadcasts."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()

    def __call__(self, changes: Sequence[Change], cursor: str | None = None) -> None:
        try:
            self._stream.write("".join(map(self._line, changes)))
            self._stream.flush()
        except BrokenPipeError:
            # As with `--echo | head`. What Python still holds for the pipe must go somewhere (manual, signal, SIGPIPE).
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            logger.info("nobody reads what --echo prints any more; it prints no more")

    def _line(self, change: Change) -> str:
        if not self._is_terminal:
            # Line breaks stand in JSON between values only, where a space says the same.
            return change.text.replace("\n", " ").replace("\r", " ") + "\n"
        head = f"{change.action:8} {change.table} " if not change.is_foreign else ""
        width = max(20, shutil.get_terminal_size().columns - len(head) - 1)
        body = change.text.translate(_UNPRINTABLE)
        body = body if len(body) <= width else body[: width - 1] + "…"
        return f"{_COLOURS.get(change.action, '')}{head.translate(_UNPRINTABLE)}{_PLAIN}{body}\n"
