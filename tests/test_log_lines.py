"""The log: one line a fact, also in JSON, and never a row's data."""

import json
import logging
import re
import sys
from pathlib import Path

import psycopg2
import pytest
from websockets.sync.client import connect

from changefeed.database import one_line
from changefeed.log_lines import JsonLines
from changefeed.queries import SQL_DIR, read_script
from tests import postgres
from tests.journal_database import JournalDatabase
from tests.server_process import ServerProcess
from tests.test_server import get

MARKED = "marked-7f3a"
BACKEND = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
)


def line(message: str, *values: object, exc_info: bool = False) -> dict[str, object]:
    record = logging.LogRecord(
        "changefeed.x", logging.WARNING, "", 0, message, values, sys.exc_info() if exc_info else None
    )
    text = JsonLines(process=2).format(record)
    assert "\n" not in text
    fields: dict[str, object] = json.loads(text)
    return fields


def test_a_json_line_has_the_message_and_what_it_was_before_its_values():
    fields = line("lost %s: %d", 'the "connection"\nof ü', 3)
    assert fields["message"] == 'lost the "connection"\nof ü: 3'
    assert (fields["event"], fields["level"], fields["logger"]) == ("lost %s: %d", "warning", "changefeed.x")
    assert fields["process"] == 2
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", str(fields["at"]))


def test_a_traceback_is_in_the_line():
    try:
        raise KeyError("x")
    except KeyError:
        assert str(line("a mistake", exc_info=True)["traceback"]).endswith("KeyError: 'x'")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO orders VALUES (1, %s)",  # DETAIL: Key (note)=(…) already exists
        "INSERT INTO orders VALUES (NULL, %s)",  # DETAIL: Failing row contains (…)
    ],
)
def test_what_postgresql_tells_of_a_row_is_not_passed_on(statement: str, db: JournalDatabase):
    db.run("CREATE TABLE orders (id int NOT NULL, note text UNIQUE)")
    db.run("INSERT INTO orders VALUES (0, %s)", MARKED)
    with pytest.raises(psycopg2.Error, match=MARKED) as refused:
        db.run(statement, MARKED)
    assert MARKED not in one_line(refused.value)
    assert "violates" in one_line(refused.value)


@pytest.fixture
def conninfo() -> str:
    """A table to watch, and one with the original's trigger."""
    made = postgres.new_database()
    for statement in (
        read_script("install.sql"),
        "CREATE TABLE orders (id bigserial PRIMARY KEY, note text)",
        "CREATE TABLE plain (id bigserial PRIMARY KEY, note text)",
        (SQL_DIR / "trigger_func.sql").read_text(),
        (SQL_DIR / "trigger.sql").read_text().replace("portal_eventrequests", "plain"),
    ):
        postgres.execute(made, statement)
    return made


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_row_is_in_the_log_whatever_happens(log_format: str, conninfo: str, tmp_path: Path):
    flags = ("--port", "0", "--watch", "public.orders", "--log-format", log_format)
    with ServerProcess(tmp_path, *flags, DATABASE_URL=conninfo) as server:
        port = server.port()
        with connect(f"ws://127.0.0.1:{port}/ws", proxy=None, max_queue=None) as client:
            postgres.execute(conninfo, "INSERT INTO orders (note) VALUES (%s)", [MARKED])
            postgres.execute(conninfo, "UPDATE orders SET note = note || '!'")
            postgres.execute(conninfo, "INSERT INTO plain (note) VALUES (%s)", [MARKED])
            postgres.execute(conninfo, f"NOTIFY events, 'no JSON: {MARKED}'")
            assert all(MARKED in client.recv() for _ in range(3))
            for path in (f"/api/changes?filter=note=eq.{MARKED}", f"/api/changes?filter=id=eq.{MARKED}"):
                get(port, path)
            postgres.execute(conninfo, BACKEND)
            # A statement that cannot be journaled is a gap, and a warning.
            postgres.execute(conninfo, "ALTER TABLE changefeed.journal ADD CHECK (data::text NOT LIKE '%unwanted%')")
            postgres.execute(conninfo, "INSERT INTO orders (note) VALUES (%s)", [f"unwanted {MARKED}"])
            postgres.execute(conninfo, "INSERT INTO orders (note) VALUES (%s)", [f"last {MARKED}"])
            assert any("last" in text for text in client)
            while get(port, "/readyz")[0] != 200:
                pass  # until it listens again
        code, said = server.stop()
    assert code == 0
    assert MARKED not in said
    for fact in ("lost the LISTEN connection", "is not JSON", "changes are missing", "listening on", "stopping"):
        assert fact in said
    if log_format == "json":
        for text in said.splitlines():
            assert json.loads(text).keys() >= {"at", "level", "logger", "message", "event", "pid"}


def test_a_start_that_fails_is_a_json_line_too(tmp_path: Path):
    flags = ("--log-format", "json", "--port", "0", "--database-wait-seconds", "0")
    with ServerProcess(tmp_path, *flags, DATABASE_URL="host=/nowhere dbname=x") as server:
        code, _, said = server.ended()
    assert code == 2
    assert "cannot use the database" in json.loads(said.splitlines()[-1])["message"]
