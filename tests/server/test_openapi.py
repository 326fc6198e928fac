"""The description of the HTTP API: true of the routes, and of what the real server answers to whatever is asked.

The second is schemathesis's to try. API_EXAMPLES is how often for each operation, 20 without it.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from changefeed.postgres.named_queries import read_script
from handlers.api.openapi import FEED_PARAMETERS, LEFT_OUT, PATHS, describe
from handlers.feed.query import NAMES
from handlers.routes import ROUTES
from tests import postgres
from tests.feed_case import ORDERS
from tests.server_process import ServerProcess

SCHEMA = schemathesis.openapi.from_dict(describe(""))
TOKEN = "a-token-of-the-settings"
EXAMPLES = int(os.environ.get("API_EXAMPLES", "20"))


def paths_of_routes() -> set[str]:
    """In OpenAPI's way of writing them."""
    found = set()
    for route in ROUTES:
        pattern = route.regex.pattern.removesuffix("$").replace("\\", "")
        if "client.js" in pattern:
            pattern = "/client.js"
        found.add(pattern.replace("listen/(.+)", "listen/{channel}").replace("(.+)", "{table}").replace("()", ""))
    return found


def test_every_route_is_described_or_named_as_left_out():
    assert PATHS.keys() | LEFT_OUT.keys() == paths_of_routes()
    assert not PATHS.keys() & LEFT_OUT.keys()
    assert all(path in describe("")["info"]["description"] for path in LEFT_OUT)


def test_the_description_has_exactly_the_methods():
    for route in ROUTES:
        path = next((path for path in PATHS if re.fullmatch(route.regex.pattern, path)), None)
        if path:
            described = PATHS[path].keys() - {"parameters"}
            assert described == {name.lower() for name in route.handler_class.methods()}, path


def test_the_parameters_of_the_feed_are_those_that_it_takes():
    assert FEED_PARAMETERS.keys() == set(NAMES)


def test_the_server_address_includes_the_base_path():
    assert describe("/feed")["servers"] == [{"url": "/feed"}]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    conninfo = postgres.new_database()
    postgres.execute(conninfo, ORDERS)
    postgres.execute(conninfo, read_script("install.sql"))
    postgres.execute(conninfo, "SELECT changefeed.watch('orders')")
    postgres.execute(conninfo, "INSERT INTO orders SELECT n, 'new', n FROM generate_series(1, 50) AS n")
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(Path(folder), "--port", "0", DATABASE_URL=conninfo, TOKEN=TOKEN) as server,
    ):
        yield f"http://127.0.0.1:{server.port()}"
        code, said = server.end()
        assert (code, "ERROR" in said, "Traceback" in said) == (0, False, False), said


@SCHEMA.exclude(path="/events").parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_what_the_server_answers_is_as_described(case: Any, address: str):
    case.call_and_validate(
        base_url=address,
        headers={"Authorization": f"Bearer {TOKEN}"},
        # What is in the database no schema knows: a filter may name a column that is not there.
        excluded_checks=[schemathesis.checks.CHECKS.get_one("positive_data_acceptance")],
    )
