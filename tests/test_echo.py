"""What --echo prints: JSON lines into a pipe, on a terminal a line that cannot command it."""

import io
import json
import os

import pytest
from tornado.testing import ExpectLog

from changefeed.change import parse
from changefeed.echo import Echo


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(payload: str) -> str:
    terminal = Terminal()
    Echo(terminal)([parse(payload)])
    return terminal.getvalue()


def test_into_a_pipe_each_change_is_a_line_of_the_json_as_it_came():
    payloads = ['{"table": "orders",  "action": "INSERT", "data": {"n": 1.10}}', "[1,\r\n 2]", r'{"a": "\n"}']
    pipe = io.StringIO()
    Echo(pipe)([parse(payload) for payload in payloads])
    lines = pipe.getvalue().splitlines()
    assert lines[0] == payloads[0]
    assert [json.loads(line) for line in lines] == [json.loads(payload) for payload in payloads]


def test_on_a_terminal_a_line_begins_with_action_and_table():
    assert shown('{"table": "orders", "action": "INSERT"}').startswith("\x1b[32mINSERT   orders \x1b[0m{")


def test_foreign_json_has_no_head_on_a_terminal():
    assert shown('{"hello": 1}') == '\x1b[0m{"hello": 1}\n'


@pytest.mark.parametrize("code", [0x07, 0x0A, 0x0D, 0x1B, 0x7F, 0x9B, 0x9D])
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


def test_a_pipe_that_nobody_reads_any_more_ends_the_echo_and_nothing_else():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        echo = Echo(pipe)
        with ExpectLog("changefeed.echo", "nobody reads", level=20):
            echo([parse("[1]")])
        echo([parse("[2]")])
