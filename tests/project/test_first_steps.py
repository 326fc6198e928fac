"""What the README tells a newcomer to run, as it stands there."""

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
    *installing, serving = [shlex.split(command, comments=True) for command in commands]
    conninfo = postgres.new_database()
    postgres.execute(conninfo, ORDERS)

    def filled_in(words: list[str]) -> list[str]:
        return [word.replace("$DATABASE_URL", conninfo) for word in words]

    for command in installing:
        assert command[0] == "psql"
        done = subprocess.run([psql, *filled_in(command[1:])], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert serving[:2] == ["make", "run"]
    flag, value = serving[2].removeprefix("ARGS=").split()
    with ServerProcess(tmp_path, *filled_in([flag, value]), "--port", "0") as server:
        port = server.port()
        postgres.execute(conninfo, "INSERT INTO orders VALUES (1)")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/changes") as answer:
            [change] = json.load(answer)["changes"]
    assert change["data"]["id"] == 1
