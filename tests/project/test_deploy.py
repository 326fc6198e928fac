"""What is under deploy/ is about metrics, settings and files that there are."""

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers.metrics.exposition import LATENCY, METRICS
from settings.sources import LIBPQ_VARIABLES, load_settings
from settings.table import SETTINGS, SettingsError
from tests import ROOT, postgres
from tests.server_process import ServerProcess

DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana-dashboard.json"
ALERTS = DEPLOY / "prometheus-alerts.yaml"
UNIT = DEPLOY / "psqlisten2websocket.service"
# With the lines that end in a backslash joined, as the builder does it.
DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8").replace("\\\n", "")
ENVIRONMENT = dict(re.findall(r"(\w+)=(\S*)", re.findall(r"^ENV (.+)$", DOCKERFILE, re.MULTILINE)[0]))
HEALTH_PROGRAM = json.loads(re.findall(r"^HEALTHCHECK .* CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)[0])[2]
LABELS = {metric.name: {*metric.labels, "instance"} for metric in METRICS} | {f"{LATENCY}_bucket": {"le", "instance"}}


def dashboard_queries() -> Iterator[str]:
    board = json.loads(DASHBOARD.read_text("utf-8"))
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["definition"] for variable in board["templating"]["list"] if variable["type"] == "query")


def alert_queries() -> list[str]:
    """The rest of an `expr:` line, or the deeper lines below one that ends in >-."""
    found = re.findall(r"^ +expr: (?:>-\n((?: {10}.+\n)+)|(.+)\n)", ALERTS.read_text("utf-8"), re.MULTILINE)
    return [folded or line for folded, line in found]


QUERIES = [*dashboard_queries(), *alert_queries()]


def test_every_panel_and_every_alert_has_its_queries_here():
    assert len(alert_queries()) == ALERTS.read_text("utf-8").count("- alert: ") > 0
    assert len(QUERIES) > len(alert_queries())


@pytest.mark.parametrize("query", QUERIES)
def test_every_metric_that_is_asked_for_exists_with_its_labels(query: str):
    metrics = re.findall(r"\bchangefeed_\w+", query)
    assert metrics
    assert set(metrics) <= LABELS.keys()
    for by in re.findall(r"(?:by|on) \(([^)]*)\)", query):
        for label in by.split(", "):
            assert all(label in LABELS[metric] for metric in metrics), label


@pytest.mark.parametrize("query", QUERIES)
def test_what_only_grows_is_asked_for_its_growth(query: str):
    for metric in re.findall(r"\bchangefeed_\w+(?:_total|_bucket)\b", query):
        assert re.search(rf"(?:rate|increase)\({metric}(?:{{[^}}]*}})?\[[^\]]+\]\)", query)


def test_every_metric_is_in_grafana_or_an_alert():
    shown = {metric.removesuffix("_bucket") for query in QUERIES for metric in re.findall(r"\bchangefeed_\w+", query)}
    assert {metric.name for metric in METRICS} - shown == {"changefeed_processes", "changefeed_start_time_seconds"}


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_every_variable_that_the_service_is_given_is_a_setting():
    given = re.findall(r"^Environment=(.+)$", UNIT.read_text("utf-8"), re.MULTILINE)
    names = {assignment.partition("=")[0] for line in given for assignment in line.split()}
    assert names - {"PYTHONFAULTHANDLER", "PYTHONDONTWRITEBYTECODE"} == {"TOKEN_FILE"}
    assert {"TOKEN_FILE"} <= {setting.variable for setting in SETTINGS}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_accepts_every_line_of_the_service(tmp_path: Path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text("utf-8").replace("/opt/psqlisten2websocket/.venv/bin/python", sys.executable))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, [line for line in verified.stderr.splitlines() if UNIT.name in line]) == (0, [])


def copied_files(dockerfile: str) -> list[str]:
    """What the last stage copies from the project's folder; a folder ends in a slash."""
    last_stage = dockerfile.rpartition("\nFROM ")[2]
    copied = re.findall(r"^COPY (?!--from)(\S+) (\S+)$", last_stage, re.MULTILINE)
    for source, target in copied:
        assert target == (source if source.endswith("/") else "./")
    return [source for source, _ in copied]


def test_the_container_has_all_that_the_server_needs(tmp_path: Path):
    app = tmp_path / "app"
    ignored = {line.lstrip("!") for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()}
    for source in copied_files(DOCKERFILE):
        assert source in ignored  # that is, not ignored
        copy = shutil.copytree if source.endswith("/") else shutil.copy
        (app / source).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / source, app / source)
    shutil.rmtree(app / "benchmarks" / "peers", ignore_errors=True)
    given = {name: value for name, value in ENVIRONMENT.items() if name not in ("ADDRESS", "PORT")}
    database = postgres.new_database()
    flags = ("--port", "0", "--watch", "public.*")
    with ServerProcess(tmp_path, *flags, server=app / "server.py", DATABASE_URL=database, **given) as server:
        port = server.port()
        for path in ("/", "/client.js"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                assert answer.status == 200
        check = {**ENVIRONMENT, "PORT": str(port)}
        assert subprocess.run([sys.executable, "-c", HEALTH_PROGRAM], env=check, check=False).returncode == 0
    assert (
        subprocess.run(
            [sys.executable, "-c", HEALTH_PROGRAM], env=check, check=False, stderr=subprocess.DEVNULL
        ).returncode
        != 0
    )


def test_build_requirements_are_pinned_and_hashed():
    """Else pip fetches the newest of it, without a hash, and runs it."""
    wanted = re.findall(
        r"^([a-z][\w.-]*)==\S+ \\\n    --hash=sha256:", (ROOT / "requirements-build.txt").read_text(), re.MULTILINE
    )
    assert wanted == ["setuptools"]
    for name in (
        "Makefile",
        "CONTRIBUTING.md",
        "docs/deployment.md",
        "deploy/Dockerfile",
        "requirements.txt",
        "tests/requirements.txt",
    ):
        text = (ROOT / name).read_text("utf-8").replace("\\\n", "")
        assert text.index("requirements-build.txt") >= 0, name
        for line in re.findall(r"^.*pip install .*--require-hashes .*requirements\.txt.*$", text, re.MULTILINE):
            assert "--no-build-isolation" in line or "peers" in line.lower(), line


def test_the_container_is_not_root_and_asks_for_tokens():
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE) == ["10001"]
    with pytest.raises(SettingsError, match="--token"):
        load_settings((), ENVIRONMENT, Path("/nonexistent"))
    assert (
        load_settings((), {**ENVIRONMENT, "TOKEN": "0123456789abcdef0123456789abcdef"}, Path("/nonexistent")).port
        == 8080
    )


def test_every_variable_that_a_container_is_given_is_a_setting():
    known = {setting.variable for setting in SETTINGS} | {*LIBPQ_VARIABLES, "PYTHONDONTWRITEBYTECODE"}
    assert set(ENVIRONMENT) <= known
    server = (DEPLOY / "compose.yaml").read_text("utf-8").partition("\n  server:\n")[2]
    names = re.findall(r"^      ([A-Z_]+): ", server.partition("    ports:")[0], re.MULTILINE)
    assert names
    assert set(names) <= known
