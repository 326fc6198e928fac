"""What is under deploy/ is about metrics, settings and files that there are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from changefeed.settings import SETTINGS
from handlers.metrics import LATENCY, METRICS

DEPLOY = Path(__file__).parent.parent / "deploy"
DASHBOARD = DEPLOY / "grafana-dashboard.json"
ALERTS = DEPLOY / "prometheus-alerts.yaml"
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


def test_every_metric_is_on_the_dashboard_or_in_an_alert_but_what_needs_no_eye():
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
    unit = (DEPLOY / "psqlisten2websocket.service").read_text("utf-8")
    given = re.findall(r"^Environment=(.+)$", unit, re.MULTILINE)
    names = {assignment.partition("=")[0] for line in given for assignment in line.split()}
    assert names - {"PYTHONFAULTHANDLER", "PYTHONDONTWRITEBYTECODE"} == {"TOKEN_FILE"}
    assert {"TOKEN_FILE"} <= {setting.variable for setting in SETTINGS}
