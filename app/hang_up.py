"""Handles SIGHUP: reloads files, or stops the server when its terminal was closed."""

import os
from collections.abc import Callable


class HangUp:
    """Calls each of `reloads`, which read the settings' files again.

    The kernel also sends SIGHUP when the terminal is closed that the server was started from. Then the server stops.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self.reloads: list[Callable[[], None]] = []
        self._stop = stop
        self._had_terminal = _has_terminal()

    def __call__(self) -> None:
        if self._had_terminal and not _has_terminal():
            self._stop()
            return
        for reload in self.reloads:
            reload()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
