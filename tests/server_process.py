"""`python server.py` as a process of its own, as a user starts it."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests import leftovers

SERVER = Path(__file__).parent.parent / "server.py"


class ServerProcess:
    """Started in `folder`, with its .env and with no variables but those given; killed at the end of the block."""

    def __init__(self, folder: Path, *flags: str, server: Path = SERVER, **environ: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(server), *flags],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **environ},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        leftovers.started(self._process)
        assert self._process.stdout
        self.stdout = self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    def until_said(self, pattern: str) -> re.Match[str]:
        """Waits for a line on stderr in which `pattern` is found."""
        assert self._process.stderr
        said = []
        for line in self._process.stderr:
            said.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"ended with {self._process.wait()} without saying {pattern!r}:\n" + "".join(said))

    def port(self) -> int:
        """Waits until it serves."""
        return int(self.until_said(r"shows the changes at http://127\.0\.0\.1:(\d+)/")[1])

    def kill(self) -> str:
        """What was still said, also by the processes that it had started, until they were gone too."""
        self._process.kill()
        return self.ended()[2]

    def stop(self) -> tuple[int, str]:
        """As end(), but the signal goes to the process that was started only, as a service manager may do it."""
        self.begin_to_stop()
        code, _, said = self.ended()
        return code, said

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def begin_to_stop(self) -> None:
        self._process.terminate()

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Its exit code after the signal, and what it still said. As Ctrl-C does, it goes to all its processes."""
        os.killpg(self._process.pid, number)
        code, _, said = self.ended()
        return code, said

    def end_alone(self, number: signal.Signals) -> tuple[int, str]:
        """As stop(), by another signal."""
        self.send(number)
        code, _, said = self.ended()
        return code, said

    def ended(self) -> tuple[int, str, str]:
        """Its exit code, stdout and stderr, once it has ended by itself."""
        out, said = self._process.communicate()
        leftovers.ended(self._process)
        return self._process.returncode, out, said


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
