"""tests.leftovers: a run of the tests that is killed leaves no PostgreSQL, no server and no folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

# Starts a PostgreSQL and a server, says which, and waits to be killed.
RUN = """
import sys
from tests import leftovers, postgres
from tests.server_process import ServerProcess

cluster = postgres.start()
server = ServerProcess(leftovers.new_folder(), "--database-url", cluster.conninfo, "--port", "0")
server.port()
postmaster = next(cluster.data_dir.glob("*/postmaster.pid")).read_text("utf-8").split()[0]
print(postmaster, server.pid, cluster.data_dir, flush=True)
sys.stdin.read()
"""


def test_a_run_that_is_killed_leaves_nothing_running() -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", RUN],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout
    postmaster, server, folder = run.stdout.readline().split()
    run.kill()
    run.communicate()  # the guard has its stderr, so this waits until the guard is done
    for pid in (postmaster, server):
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    assert not Path(folder).exists()
