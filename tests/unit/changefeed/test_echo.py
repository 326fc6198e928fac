"""What --echo prints: JSON lines into a pipe, on a terminal a line that cannot command it."""

import json
import os
from unittest import mock

import pytest
from tornado.testing import ExpectLog

from changefeed import echo as echoing
from changefeed.change.change import parse_payload
from changefeed.echo import WAITING_LIMIT_BYTES, Echo, terminal_line


def shown(payload: str) -> str:
    return terminal_line(parse_payload(payload))


def into(pipe: int) -> Echo:
    return Echo(os.fdopen(pipe, "w"))


def test_into_a_pipe_each_change_is_a_line_of_the_json_as_it_came():
    payloads = ['{"table": "orders",  "action": "INSERT", "data": {"n": 1.10}}', "[1,\r\n 2]", r'{"a": "\n"}']
    reading, writing = os.pipe()
    echo = into(writing)
    echo([parse_payload(payload) for payload in payloads])
    echo.close()
    with os.fdopen(reading) as pipe:
        lines = [pipe.readline() for _ in payloads]
    assert lines[0] == payloads[0] + "\n"
    assert [json.loads(line) for line in lines] == [json.loads(payload) for payload in payloads]


def test_into_a_terminal_goes_what_a_terminal_shows():
    reading, writing = os.openpty()
    echo = into(writing)
    echo([parse_payload('{"hello": 1}')])
    echo.close()
    assert os.read(reading, 1000) == b'\x1b[0m{"hello": 1}\r\n'
    os.close(reading)


def test_on_a_terminal_a_line_begins_with_action_and_table():
    assert shown('{"table": "orders", "action": "INSERT"}').startswith("\x1b[32mINSERT   orders \x1b[0m{")


def test_foreign_json_has_no_head_on_a_terminal():
    assert shown('{"hello": 1}') == '\x1b[0m{"hello": 1}\n'


@pytest.mark.parametrize("code", [0x07, 0x0A, 0x0D, 0x1B, 0x7F, 0x9B, 0x9D, 0x2028, 0x202E, 0x2066])
def test_text_of_the_database_commands_no_terminal(code: int):
    # C0 stands escaped in the JSON and becomes itself in the table's name; DEL and C1 may stand in JSON as they are.
    raw = chr(code) if code >= 0x7F else ""
    line = shown(json.dumps({"table": f"a{chr(code)}b", "action": "UPDATE"})[:-1] + f', "data": "{raw}[2J"}}')
    assert line.count("\x1b") == 2  # our own colour, on and off
    assert "a·b" in line
    assert chr(code) not in line.replace("\x1b[34m", "").replace("\x1b[0m", "").removesuffix("\n")


def test_a_long_row_is_cut_to_one_line_of_the_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "60")
    line = shown('{"table": "orders", "action": "INSERT", "data": "' + "x" * 500 + '"}')
    seen = line.replace("\x1b[32m", "").replace("\x1b[0m", "").removesuffix("\n")
    assert len(seen) == 59
    assert seen.endswith("…")


def test_a_closed_pipe_ends_only_the_echo():
    reading, writing = os.pipe()
    os.close(reading)
    echo = into(writing)
    with ExpectLog("changefeed.echo", "the reader of --echo is gone", level=20):
        echo([parse_payload("[1]")])
        echo.close()
    echo([parse_payload("[2]")])


def test_a_stalled_pipe_delays_nothing_and_skips_are_counted():
    reading, writing = os.pipe()
    echo = into(writing)
    much = json.dumps("x" * WAITING_LIMIT_BYTES)
    echo([parse_payload(much)])
    with ExpectLog("changefeed.echo", "the output of --echo is read too slowly", level=30):
        echo([parse_payload("[1]"), parse_payload("[2]")])
        echo([parse_payload("[3]")])
    with os.fdopen(reading) as pipe, ExpectLog("changefeed.echo", "--echo skipped 3 changes", level=30):
        assert pipe.readline() == much + "\n"
        while echo._taken_bytes != echo._written_bytes:  # until the thread has noticed that it was read
            pass
        echo([parse_payload("[4]")])
        assert pipe.readline() == "[4]\n"
    echo.close()


def test_closing_does_not_wait_for_ever_for_a_reader():
    reading, writing = os.pipe()
    echo = into(writing)
    echo([parse_payload(json.dumps("x" * WAITING_LIMIT_BYTES))])
    with mock.patch.object(echoing, "CLOSE_DEADLINE_SECONDS", 0.01):
        echo.close()
    os.close(reading)  # which ends the thread too
    echo._thread.join()
