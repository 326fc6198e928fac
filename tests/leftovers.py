"""Folders and processes of the tests, which end with them, even if they are killed.

A guard, a process of its own, is informed of each. It reads a pipe, which the kernel closes when the tests end, however they
end. Then it ends every server and PostgreSQL that is left, and removes the folders.
"""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent
_STOP_SECONDS = 20


def new_folder(prefix: str = "feed-") -> Path:
    """An empty folder; every PostgreSQL in it is stopped, and it is removed, when the tests are killed.

    Below /tmp itself: pytest's own folders may not be entered by the account a root's PostgreSQL runs under.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    folder.chmod(0o755)
    _tell(f"folder {folder}")
    return folder


@contextlib.contextmanager
def folder(prefix: str = "feed-") -> Iterator[Path]:
    """A new_folder() for the time of the block."""
    made = new_folder(prefix)
    try:
        yield made
    finally:
        shutil.rmtree(made)


def started(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Ends `process`, which leads a session of its own, when the tests are killed."""
    _tell(f"process {process.pid}")


def ended(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Forgets `process`: its number may soon be another's."""
    _tell(f"forget {process.pid}")


def _tell(line: str) -> None:
    pipe = _guard()
    pipe.write(line + "\n")
    pipe.flush()


@functools.cache
def _guard() -> IO[str]:
    # In a session of its own: Ctrl-C and the end of a terminal are not for it.
    guard = subprocess.Popen(
        [sys.executable, "-m", "tests.leftovers"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert guard.stdin
    return guard.stdin


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _end(pid: int, number: signal.Signals) -> None:
    """Sends `number`, and waits until the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    deadline = time.monotonic() + _STOP_SECONDS
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)


def main() -> None:
    folders, processes = set(), set()
    for line in sys.stdin:
        kind, _, value = line.strip().partition(" ")
        if kind == "folder":
            folders.add(Path(value))
        elif kind == "process":
            processes.add(int(value))
        else:
            processes.discard(int(value))
    for group in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    for folder in folders:
        for postmaster in folder.glob("**/postmaster.pid"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                _end(int(postmaster.read_text("utf-8").split()[0]), signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
