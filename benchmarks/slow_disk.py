"""A PostgreSQL whose disk takes a millisecond to flush, as a network volume does, on whatever disk it really is.

By a library that gcc makes in a temporary folder, and that PostgreSQL loads first (LD_PRELOAD): its fdatasync, by which
commits are flushed, only waits.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from changefeed.postgres.embedded import EmbeddedPostgres

FLUSH_MS = 1.0
_LIBRARY = r"""
#include <time.h>

int fdatasync(int descriptor)
{
    struct timespec pause = {0, %d};
    (void) descriptor;
    nanosleep(&pause, 0);
    return 0;
}
"""
_OPTIONS = {"max_wal_size": "4GB", "wal_sync_method": "fdatasync", "max_connections": "150"}


class OnSlowDisk(EmbeddedPostgres):
    """Each of its programs loads `library` first."""

    library = Path()

    def _run(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        return super()._run(["/usr/bin/env", f"LD_PRELOAD={self.library}", *command])


def compiler() -> str | None:
    return shutil.which("gcc")


@contextmanager
def slow_cluster(flush_ms: float = FLUSH_MS) -> Iterator[OnSlowDisk]:
    """Takes a compiler()."""
    folder = Path(tempfile.mkdtemp(prefix="feed-", dir="/tmp"))
    folder.chmod(0o755)  # under root PostgreSQL runs as somebody else
    source, library = folder / "slow.c", folder / "slow.so"
    source.write_text(_LIBRARY % int(flush_ms * 1e6))
    subprocess.run([str(compiler()), "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    server = OnSlowDisk(folder / "data", _OPTIONS)
    server.library = library
    try:
        server.start()
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(folder)
