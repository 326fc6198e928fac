"""What holds for every test: the event loop of production, one cluster for the run, and silence in the logs."""

import asyncio
import logging
import os
from collections.abc import Iterator

import pytest
import uvloop

from tests import postgres
from tests.journal_database import JournalDatabase

os.environ.setdefault("ASYNC_TEST_TIMEOUT", "30")  # seconds; Tornado's own 5 are few on a busy machine
for name in [name for name in os.environ if name.startswith("PG") or name in ("DATABASE_URL", "PORT")]:
    del os.environ[name]  # the tests' settings are theirs, not those of whoever runs them
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


def pytest_sessionfinish() -> None:
    postgres.stop()
