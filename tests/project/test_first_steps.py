"""The first steps of the README work as printed."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests import ROOT, postgres
from tests.feed_case import ORDERS
from tests.server_process import ServerProcess

README = (ROOT / "README.md").read_text("utf-8")


def test_its_three_lines_of_javascript_log_each_change(tmp_path: Path):
    [block] = re.findall(r"^```js\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert len(block.splitlines()) == 3
    node = shutil.which("node", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert node, "Node is needed: make test installs it"
    conninfo = postgres.new_database()
    postgres.execute(conninfo, ORDERS)
    with ServerProcess(tmp_path, "--database-url", conninfo, "--watch", "public.orders", "--port", "0") as server:
        port = server.port()
        # As text that Python reads, and not in Node's colours.
        program = block.replace("localhost:8080", f"127.0.0.1:{port}").replace(
            "JSON.parse(data)", "JSON.stringify(JSON.parse(data))"
        )
        with subprocess.Popen([node, "--eval", program], stdout=subprocess.PIPE, encoding="utf-8") as page:
            assert page.stdout
            assert page.stdout.readline() == "following\n"
            postgres.execute(conninfo, "INSERT INTO orders VALUES (7, 'new', 12.50)")
            postgres.execute(conninfo, "UPDATE orders SET status = 'paid'")
            inserted, updated = (json.loads(page.stdout.readline()) for _ in range(2))
            page.kill()
    [frame] = re.findall(r"^    (\{\"table\": .*?\})$", README, re.DOTALL | re.MULTILINE)
    shown = json.loads(frame)
    assert inserted["data"] == {"id": 7, "status": "new", "total": 12.5}
    assert list(updated) == list(shown)
    assert {name: updated[name] for name in ("table", "action", "data", "schema", "old")} == {
        name: shown[name] for name in ("table", "action", "data", "schema", "old")
    }


def test_its_three_commands_feed_ones_own_database(tmp_path: Path):
    psql = shutil.which("psql")
    if not psql:
        pytest.skip("psql is not here")
    section = README.partition("\n## Your own database\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^    (.+)$", section, re.MULTILINE)
    naming, *installing, serving = [shlex.split(command, comments=True) for command in commands]
    assert (naming[0], serving) == ("export", ["make", "run"])
    conninfo = postgres.new_database()
    postgres.execute(conninfo, ORDERS)

    def filled_in(words: list[str]) -> list[str]:
        return [word.replace("$DATABASE_URL", conninfo) for word in words]

    for command in installing:
        assert command[0] == "psql"
        done = subprocess.run([psql, *filled_in(command[1:])], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    with ServerProcess(tmp_path, "--port", "0", **{naming[1].partition("=")[0]: conninfo}) as server:
        port = server.port()
        postgres.execute(conninfo, "INSERT INTO orders VALUES (1)")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/changes") as answer:
            [change] = json.load(answer)["changes"]
    assert change["data"]["id"] == 1


def test_make_run_passes_the_environment_on_as_it_is(tmp_path: Path):
    """A URL is full of what a shell and make take for their own."""
    make = shutil.which("make")
    if not make:
        pytest.skip("make is not here")
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf %s "$DATABASE_URL"\n')
    python.chmod(0o755)
    (tmp_path / "server-installed").touch()
    url = "postgresql://me:$HOME$(shell)$$#'\"%20;&@host/db?sslmode=require&application_name=mine"
    done = subprocess.run(
        [make, "--silent", "run", f"VENV={tmp_path}"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == url
