"""The log: one line a fact, also in JSON, and never a row's data."""

import json
import logging
import re
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psycopg2
import pytest
from websockets.sync.client import connect

from changefeed.postgres.named_queries import SQL_DIR, read_script
from changefeed.postgres.pool import one_line
from process.logs import (
    MESSAGE_LIMIT_CHARACTERS,
    VISITED_INTERVAL_SECONDS,
    VISITED_LINES,
    JsonLines,
    TextLines,
    VisitedLines,
)
from tests import postgres
from tests.journal_database import JournalDatabase
from tests.process.test_server import get
from tests.server_process import ServerProcess

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


def test_a_json_line_has_message_and_template():
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
            # A statement that cannot be recorded is a gap, and a warning.
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


HOSTILE = "x\x1b[2J\x0a2026-11-28 12:00:00,000 WARNING server: forged\u2028\u202e\x9b1m\r\0"


def text_lines(message: str, *values: object, name: str = "changefeed.x", exc_info: bool = False) -> list[str]:
    raised = sys.exc_info() if exc_info else None
    record = logging.LogRecord(name, logging.WARNING, "", 0, message, values, raised)
    return TextLines().format(record).split("\n")


def test_what_others_wrote_is_one_line_that_commands_nothing():
    [text] = text_lines("watching %s", HOSTILE)
    assert text.isprintable()
    assert r"x\x1b[2J\x0a2026" in text
    record = logging.LogRecord("changefeed.x", logging.INFO, "", 0, "watching %s", (HOSTILE,), None)
    as_json = JsonLines().format(record)
    assert as_json.isprintable()
    assert json.loads(as_json)["message"] == f"watching {HOSTILE}"


def test_no_line_of_a_traceback_looks_like_one_of_the_log():
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        _, *rest = text_lines("a mistake", exc_info=True)
    assert len(rest) > 3
    assert all(line.startswith("  ") and line.isprintable() for line in rest)


def test_a_message_has_an_end():
    [text] = text_lines("%s", "x" * 30_000)
    assert len(text) < MESSAGE_LIMIT_CHARACTERS + 100
    assert "30000 characters" in text
    assert len(str(line("%s", "x" * 30_000)["message"])) < MESSAGE_LIMIT_CHARACTERS + 100


def test_lines_that_clients_cause_are_limited_and_counted(caplog: pytest.LogCaptureFixture):
    visited = VisitedLines()

    def passes(name: str, at: float) -> bool:
        record = logging.LogRecord(name, logging.INFO, "", 0, "x", (), None)
        record.created = at
        return visited.filter(record)

    said = [passes("tornado.general", 1000.0 + at / 100) for at in range(1000)]
    assert said.count(True) == VISITED_LINES
    assert passes("changefeed.listener", 1010.0)
    assert passes("handlers.errors", 1010.0)  # no client can hide what others cause
    with caplog.at_level(logging.WARNING):
        assert passes("changefeed.listener", 1001.0 + VISITED_INTERVAL_SECONDS)
    assert [record.getMessage() for record in caplog.records] == [
        f"{1000 - VISITED_LINES} lines on what clients sent were left out of the log"
    ]
    caplog.clear()
    assert passes("tornado.general", 1002.0 + VISITED_INTERVAL_SECONDS)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_clients_without_a_token_cannot_fill_the_log(log_format: str, tmp_path: Path):
    odd = b"x\xc2\x9b31m\xc2\x85" + b"y" * 30_000
    flags = ("--port", "0", "--token", "0123456789abcdef", "--log-format", log_format)
    with ServerProcess(tmp_path, *flags, DATABASE_URL=postgres.new_database()) as server:
        port = server.port()
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: " + odd + b"\r\n\r\n")
                while client.recv(4096):
                    pass
        _, said = server.stop()
    assert len(said) < 50_000
    assert all(text.isprintable() for text in said.split("\n"))
    assert "Malformed HTTP message" in said


def test_refused_requests_of_an_admin_cannot_fill_the_log(tmp_path: Path):
    made, token = postgres.new_database(), "0123456789abcdef0123456789abcdef"
    postgres.execute(made, "CREATE TABLE orders (id int PRIMARY KEY)")
    tokens = tmp_path / "tokens"
    tokens.write_text(f'{token} {{"tables": {{"public.orders": {{"columns": ["id", "no"]}}}}, "admin": true}}\n')
    flags = ("--port", "0", "--watch", "public.orders", "--token-file", str(tokens))
    with ServerProcess(tmp_path, *flags, DATABASE_URL=made) as server:
        port = server.port()
        for _ in range(3 * VISITED_LINES):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/api/tables/public.orders/watch",
                b'{"omit": ["no"]}',
                {"Authorization": f"Bearer {token}"},
                method="PUT",
            )
            with pytest.raises(urllib.error.HTTPError, match="409"):
                urllib.request.urlopen(request)
        _, said = server.stop()
    assert 0 < said.count("refused: public.orders") <= 2 * VISITED_LINES  # a minute may end meanwhile


def test_the_name_of_a_table_forges_no_line(tmp_path: Path):
    made = postgres.new_database()
    postgres.execute(made, 'CREATE TABLE public."x\x1b[2J\x1b]0;pwned\x07\n2026-11-28 WARNING server: forged" (id int)')
    with ServerProcess(tmp_path, "--port", "0", "--watch", "public.*", DATABASE_URL=made) as server:
        told = server.until_said(r"^.*watching public\.x.*$")[0]
    assert told.endswith("forged")
    assert told.isprintable()


def test_what_the_environment_gave_is_named_and_not_repeated(tmp_path: Path):
    token = "hunter2-hunter2-hunter2"
    with ServerProcess(tmp_path, "--port", "0", DATABASE_URL=postgres.new_database(), TOKEN=token) as server:
        told = server.until_said(r"settings from the environment: .*$")[0]
        assert told.endswith(": DATABASE_URL, TOKEN")
        assert token not in server.stop()[1]
