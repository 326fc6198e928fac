"""Reports the server's state to systemd, by sd_notify(3). Knows no server and no database.

WATCHDOG=1 is sent from the event loop, and so only while the loop runs: a hung loop is what a restart repairs. An
unreachable PostgreSQL is not, since the listener reconnects by itself and a restart would only lose clients. The
protocol is one datagram; no library for it is well maintained.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping

LONGEST_INTERVAL_SECONDS = 10.0  # how old the status line in `systemctl status` may be


class ServiceManager:
    """The service manager that NOTIFY_SOCKET names. Without that variable nothing is sent.

    Removes the variables from `environ`, so that no child process speaks for this one.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us, its_pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(os.getpid()))
        self._address = "\0" + address[1:] if address.startswith("@") else address  # @: Linux's abstract names
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket:
            self._socket.setblocking(False)
        self._has_watchdog = watchdog_us.isdecimal() and its_pid == str(os.getpid())
        # Half of the watchdog's timeout, as sd_watchdog_enabled(3) recommends.
        self._interval_seconds = min(
            LONGEST_INTERVAL_SECONDS, int(watchdog_us) / 2e6 if self._has_watchdog else LONGEST_INTERVAL_SECONDS
        )
        self._state = ""
        self._describe: Callable[[], str] = lambda: "starting"

    async def keep_telling(self, describe: Callable[[], str]) -> None:
        """Sends the status line of describe() regularly. Runs until cancelled."""
        self._describe = describe
        while True:
            self._tell()
            await asyncio.sleep(self._interval_seconds)

    def ready(self) -> None:
        self._state = "READY=1"
        self._tell()

    def stopping(self) -> None:
        self._state = "STOPPING=1"
        self._tell()

    def _tell(self) -> None:
        """Sends the whole state each time. A datagram that finds the queue full is dropped; nothing waits for it."""
        if self._socket:
            lines = (self._state, "WATCHDOG=1" if self._has_watchdog else "", f"STATUS={self._describe()}")
            with contextlib.suppress(OSError):
                self._socket.sendto("\n".join(filter(None, lines)).encode(), self._address)
