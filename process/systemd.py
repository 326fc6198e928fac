"""How the server is in, datagrams to the service manager out, systemd's sd_notify(3). Knows no server and no database.

WATCHDOG=1 is sent from the event loop, and so only while that turns: what a restart cures is a loop that stands still.
A PostgreSQL that is away is no such case, since the listener comes back by itself and a restart would only lose
clients; and what runs beside ends the server when it ends. The protocol is a datagram; no library of it is well kept.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping

LONGEST_INTERVAL_SECONDS = 10.0  # how old the line in `systemctl status` may be


class ServiceManager:
    """Whom NOTIFY_SOCKET names; where it names nobody, nothing is sent.

    The variables are taken out of `environ`, so that no process which is started with it speaks for this one.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us, its_pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(os.getpid()))
        self._address = "\0" + address[1:] if address.startswith("@") else address  # @: Linux's abstract names
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket:
            self._socket.setblocking(False)
        self._has_watchdog = watchdog_us.isdecimal() and its_pid == str(os.getpid())
        # Half of the time that the watchdog waits, as sd_watchdog_enabled(3) has it.
        self._interval_seconds = min(
            LONGEST_INTERVAL_SECONDS, int(watchdog_us) / 2e6 if self._has_watchdog else LONGEST_INTERVAL_SECONDS
        )
        self._state = ""
        self._describe: Callable[[], str] = lambda: "starting"

    async def keep_telling(self, describe: Callable[[], str]) -> None:
        """Until cancelled; describe() is how it is, in one line."""
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
        """All that is so, each time: one that finds the queue full is dropped, and nothing waits for it."""
        if self._socket:
            lines = (self._state, "WATCHDOG=1" if self._has_watchdog else "", f"STATUS={self._describe()}")
            with contextlib.suppress(OSError):
                self._socket.sendto("\n".join(filter(None, lines)).encode(), self._address)
