"""What SIGHUP does: read files again, or stop when the terminal is closed."""

import os
from collections.abc import Callable


class HangUp:
    """What SIGHUP does: the files of the settings are read again, by `reloads`.

    It also comes when the terminal is closed that the server was started from: then the server ends.
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
