"""What holds for every test: the event loop of production, one cluster for the run, and silence in the logs."""

import asyncio
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import uvloop
from playwright.sync_api import Browser, sync_playwright

from tests import postgres
from tests.chromium import Ground, launch
from tests.feed_case import ORDERS
from tests.journal_database import JournalDatabase

os.environ.setdefault("ASYNC_TEST_TIMEOUT", "30")  # seconds; Tornado's own 5 are few on a busy machine
for name in [name for name in os.environ if name.startswith("PG") or name in ("DATABASE_URL", "PORT")]:
    del os.environ[name]  # the tests' settings are theirs, not those of whoever runs them
# A machine may be as busy as it likes. Every other profile of the tests begins with this one.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A warning that no test expects (tornado.testing.ExpectLog) is a failure."""
    yield
    records = [record for when in ("setup", "call") for record in caplog.get_records(when)]
    unexpected = [f"{record.name}: {record.getMessage()}" for record in records if record.levelno >= logging.WARNING]
    assert not unexpected, "unexpected log lines"


@pytest.fixture
def db() -> Iterator[JournalDatabase]:
    """A database of its own with the journal in it."""
    made = JournalDatabase()
    yield made
    made.close()


# For one module at a time: as long as Playwright runs, its event loop is the thread's running one.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def ground(chromium: Browser, tmp_path: Path) -> Iterator[Ground]:
    """After each test: no line in the browser's console, no request to elsewhere, no warning of the server."""
    ground = Ground(chromium, tmp_path)
    yield ground
    ground.close()


@pytest.fixture
def orders(ground: Ground) -> Ground:
    """With a table orders that is watched."""
    ground.write(ORDERS)
    ground.watch("orders")
    return ground


@pytest.fixture(scope="module")
def shop(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A server and a journal for a whole module, with two tables; its tests only add rows, and tell them by their ids."""
    shop = Ground(chromium, tmp_path_factory.mktemp("shop"))
    shop.journal(
        "CREATE TABLE orders (id bigint PRIMARY KEY, status text, total numeric, tags text[], doc jsonb, raw bytea);"
        "CREATE TABLE items (id bigint PRIMARY KEY, name text)",
        "orders",
        "items",
    )
    yield shop
    shop.close()


def pytest_sessionfinish() -> None:
    postgres.stop()
