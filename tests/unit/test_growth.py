"""Whatever reads a text of others takes sixteen times as long for sixteen times the text, not 256 times.

One more parser is one more line in READERS.
"""

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from changefeed.change.change import Change, from_journal, parse_payload
from changefeed.change.changed_row import ChangedRow
from changefeed.change.exposure import Payload, key_members, reduce
from changefeed.change.json_text import STEPS_LIMIT, NotJSON, _read_tokens, changed_columns, check_json, members
from changefeed.change.table_names import TableName, as_written, could_mean, parse_pattern, qualified
from changefeed.echo import json_line, terminal_line
from changefeed.journal.cursor import NotACursor, Place, Snapshot, decode, encode
from changefeed.journal.sealed_cursor import Seal
from changefeed.selection.catalog import SLICE_COLUMNS, tables_of
from changefeed.selection.conflation import Conflation
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.rights import Rights
from changefeed.selection.subscription import BadSubscription, Selection, Subscription, check_subscribable
from handlers.access.authentication import COOKIE, session_cookie
from handlers.access.errors import ApiError
from handlers.delivery.dialects import PLAIN, SSE, V1
from handlers.delivery.row_sample import sample_texts
from handlers.feed.query import fields_of_message, parse_stream_query
from handlers.feed.websocket import EventSocket
from handlers.http.socket import read_message
from process.logs import JsonLines

# CPU time of this thread, so that others on the machine do not count; the best of some runs, since they still disturb.
ENOUGH_SECONDS = 0.0003
MOST = 8_000  # what is quadratic takes longer for so much
RUNS = 3
TRIES = 3
TIMES_LONGER, AT_MOST_SLOWER = 16, 64.0  # a text that leaves the caches of the processor costs some of that
REFUSALS = (NotJSON, NotACursor, BadSubscription, ApiError, ValueError)

Read = Callable[[Any], object]


def read(text: str) -> dict[str, object]:
    """A client's message on /ws."""
    return read_message(text, EventSocket.message_types)


def best_seconds(read: Read, given: object) -> float:
    best = float("inf")
    for _ in range(RUNS):
        began = time.thread_time()
        with contextlib.suppress(*REFUSALS):
            read(given)
        best = min(best, time.thread_time() - began)
    return best


def slowdown(read: Read, make: Callable[[int], object]) -> float:
    """How many times longer TIMES_LONGER as much takes; 0 for what takes next to no time for MOST."""
    size = 1_000
    while (before := best_seconds(read, make(size))) < ENOUGH_SECONDS:
        size *= 2
        if size > MOST:
            return 0.0
    return best_seconds(read, make(size * TIMES_LONGER)) / before


# -- the worst of JSON, as the value of a column

VALUES: dict[str, Callable[[int], str]] = {
    "flat": lambda n: f'"{"x" * n}"',
    "quotes in an array": lambda n: json.dumps(['"' * n]),
    "backslashes": lambda n: json.dumps("\\" * n),
    "backslashes in an array": lambda n: json.dumps(["\\" * n]),
    "HTML": lambda n: json.dumps({"html": "<a href=\"x\" class='y'>" * n}),
    "strings that look like members": lambda n: json.dumps(['"a":"b","c":[{' * n]),
    "arrays in arrays": lambda n: "[" * n + "]" * n,
    "objects in objects": lambda n: '{"a":' * n + "1" + "}" * n,
    "arrays beside arrays": lambda n: "[" + "[[]]," * n + "[]]",
    "arrays beside arrays, deep": lambda n: "[" * 5_000 + "[" + "[[]]," * n + "[]]" + "]" * 5_000,
    "escapes, deep": lambda n: "[" * 5_000 + json.dumps('\\"' * n) + "]" * 5_000,
    "numbers, deep": lambda n: "[" * 5_000 + "[" + "1," * n + "1]" + "]" * 5_000,
    "members, deep": lambda n: "[" * 5_000 + "[" + '{"a":{"b":[1]},"c":1},' * n + "1]" + "]" * 5_000,
    "a comb": lambda n: "[1," * n + "1" + "]" * n,
    "deep arrays beside deep arrays": lambda n: "[" * 2_000 + "[[[[]]]]," * n + "1" + "]" * 2_000,
    "rows that end deep": lambda n: "[" * 2_000 + ("[" + "1," * 100 + "[[[[1]]]]],") * (n // 50) + "1" + "]" * 2_000,
    "openings and items": lambda n: "[" * 2_000 + "[[1,[1,{" * n,
    "members": lambda n: json.dumps({str(i): i for i in range(n)}),
    "half characters": lambda n: '["' + "\\ud800" * n + '"]',
    "digits": lambda n: "1" * n,
    "spaces": lambda n: "[" + " " * n + "]",
    "not closed": lambda n: '["' + '\\"' * n,
    "brackets not closed": lambda n: "[" * n,
    "quotes alone": lambda n: '"' * n,
}


def row(value: str) -> str:
    return f'{{"id":1,"doc":{value},"body":"a"}}'


def change(value: str) -> Change:
    """An UPDATE; where the value is malformed, the rest of it."""
    updated = row(value).replace('"body":"a"', '"body":"b"')
    return from_journal((1, "7", "2026-11-22T07:13:08+00:00", "U", "public", "t", updated, row(value), None), "x")


def select(limits: object = None, **asked: list[str]) -> Read:
    rights = Rights.parse({"tables": {"public.t": limits or {}}}).tables if limits else Subscription().within
    columns = {"id": Kind.NUMBER, "doc": Kind.NULL_ONLY, "body": Kind.TEXT}
    selection = Selection(Subscription.parse(asked, rights), lambda table: columns)
    return lambda given: selection.pick([given])


def conflate(given: Change) -> None:
    Conflation(lambda table: ("id", "doc")).add([given])


READERS_OF_VALUES: dict[str, tuple[Callable[[str], object], Read]] = {
    "members": (row, members),
    "members by hand": (row, _read_tokens),
    "check": (row, check_json),
    "changed_columns": (row, lambda text: changed_columns(text, text[:-2] + 'b"}')),
    "key_members": (row, lambda text: key_members(text, ("id", "doc"))),
    "parse": (lambda value: f'{{"table": "t", "action": "INSERT", "data": {row(value)}}}', parse_payload),
    "a foreign payload": (str, parse_payload),
    "reduce": (change, lambda given: reduce(given, Payload.KEYS, lambda table: ("id",))),
    "a row's value": (change, lambda given: ChangedRow(given).value("doc")),
    "filter": (change, select(filter=["doc=not.is.null"])),
    "columns": (change, select(columns=["doc"])),
    "rights to columns": (change, select({"columns": ["id", "doc"]})),
    "rights to rows": (change, select({"filter": ["body=eq.a"]})),
    "conflation": (change, conflate),
}


# -- what a client, a visitor or a log gives


def cursor(length: int) -> str:
    """With this many transactions running."""
    return encode(b"123456", Place.after(Snapshot(1, length + 2, frozenset(range(2, length + 2)))))


def log_line(text: str) -> str:
    return JsonLines().format(logging.LogRecord("server", logging.INFO, "", 0, "%s", (text,), None))


def quotes(size: int) -> Change:
    return change(VALUES["quotes in an array"](size))


READERS: dict[str, tuple[Callable[[int], Any], Read]] = {
    "a plain frame": (quotes, lambda given: PLAIN.changes([given], None)),
    "a message": (quotes, lambda given: V1.changes([given], None)),
    "an event": (quotes, lambda given: SSE.changes([given], None)),
    "the dashboard's sample": (quotes, lambda given: sample_texts([given], 1_000)),
    "a line of --echo": (quotes, json_line),
    "a line on a terminal": (quotes, terminal_line),
    "a cursor": (cursor, decode),
    "a cursor that is none": (lambda n: "1." + "A" * n, decode),
    "digits for a cursor": (lambda n: "1" * n, decode),
    "a cursor of small numbers": (lambda n: "1." + "_" * n, decode),
    "a sealed cursor": (lambda n: "s." + "A" * n, lambda text: Seal(b"k" * 32).open(text, b"holder")),
    "a cookie of backslashes": (lambda n: COOKIE + '="' + "\\" * n + '"', session_cookie),
    "a cookie of quotes": (lambda n: COOKIE + "=" + '"' * n, session_cookie),
    "a cookie of octal escapes": (lambda n: COOKIE + '="' + "\\073" * n + '"', session_cookie),
    "a cookie of semicolons": (lambda n: ";" * n + COOKIE, session_cookie),
    "a cookie of spaces": (lambda n: "a" + " " * n + f"={COOKIE}", session_cookie),
    "a client's message": (lambda n: '{"type": "subscribe", "table": ["' + '\\"' * n + '"]}', read),
    "a client's deep message": (lambda n: "[" * n, read),
    "a client's digits": (lambda n: '{"type": ' + "1" * n + "}", read),
    "fields of a message": (lambda n: {"table": ["t"] * n}, fields_of_message),
    "a message's field": (lambda n: {"x" * n: "t"}, fields_of_message),
    "a query's fields": (
        lambda n: {str(i): ["t"] for i in range(n)},
        lambda fields: parse_stream_query(fields, Rights()),
    ),
    "a query's field": (lambda n: {"subscribe" * n: ["t"]}, lambda fields: parse_stream_query(fields, Rights())),
    "columns": (lambda n: {"columns": ["a" * n]}, Subscription.parse),
    "columns and commas": (lambda n: {"columns": ["a," * n + "b"]}, Subscription.parse),
    "quoted columns": (lambda n: {"columns": ['"' * n]}, Subscription.parse),
    "a table": (lambda n: {"table": ["." * n]}, Subscription.parse),
    "a trigger's table": (lambda n: "a." * n + "a", could_mean.__wrapped__),
    "a trigger's table in quotes": (lambda n: '"a".' * n + "a", could_mean.__wrapped__),
    "a trigger's table as it is": (lambda n: '"' + "a." * n, as_written),
    "a pattern": (lambda n: "a." * n + "*", parse_pattern.__wrapped__),
    "a pattern of like": (lambda n: {"filter": ["a=like." + "x_" * n + "*b"]}, Subscription.parse),
    "patterns of like": (
        lambda n: {"filter": [f"a=like.*{i}{'_' * (n // 50)}b" for i in range(50)]},
        Subscription.parse,
    ),
    "a log line": (lambda n: '"\\\x1b' * n, log_line),
}

CASES = [
    *(
        pytest.param(read, lambda size, make=make, value=value: make(value(size)), id=f"{name}: {shape}")
        for name, (make, read) in READERS_OF_VALUES.items()
        for shape, value in VALUES.items()
    ),
    *(pytest.param(read, make, id=name) for name, (make, read) in READERS.items()),
]


@pytest.mark.parametrize(("read", "make"), CASES)
def test_time_grows_as_the_text_does(read: Read, make: Callable[[int], object]):
    found: list[float] = []
    while len(found) < TRIES and min(found, default=AT_MOST_SLOWER) >= AT_MOST_SLOWER:
        found.append(slowdown(read, make))
    assert min(found) < AT_MOST_SLOWER, found


def dotted(dots: int) -> str:
    return "a." * dots + "a"


def steps(work: Callable[[], object]) -> int:
    """How many calls of Python's and C's functions it takes: the same on every machine, however busy."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        with contextlib.suppress(*REFUSALS):
            work()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize(
    "shape", ["a comb", "deep arrays beside deep arrays", "rows that end deep", "openings and items"]
)
def test_deep_nesting_is_read_in_bounded_steps(shape: str):
    def reading(size: int) -> int:
        return steps(lambda: members(row(VALUES[shape](size))))

    assert max(reading(25_000), reading(50_000), reading(100_000)) < 30 * STEPS_LIMIT


@pytest.mark.parametrize("shape", ["arrays beside arrays, deep", "numbers, deep", "escapes, deep"])
def test_what_is_dense_within_the_deep_is_passed_over_at_once(shape: str):
    def reading(size: int) -> int:
        return steps(lambda: members(row(VALUES[shape](size))))

    assert reading(40_000) < reading(10_000) + 100


@pytest.mark.parametrize("read", [could_mean.__wrapped__, parse_pattern.__wrapped__])
def test_what_is_too_long_to_name_a_table_is_no_table_at_once(read: Callable[[str], object]):
    assert steps(lambda: read(dotted(64))) < 20
    assert steps(lambda: read(dotted(128))) < 20


def test_a_name_of_thirty_dots_costs_little():
    name = dotted(30)
    asked = Subscription.parse({"table": ["public.orders", "sales.*"]})
    readings = could_mean(name)
    assert len(readings) == 31
    assert steps(lambda: could_mean.__wrapped__(name)) < 31 * 6
    assert steps(lambda: asked.names(readings)) < 31
    assert Subscription.parse({"table": [f'a."{dotted(29)}"']}).names(readings)


def test_a_name_of_many_dots_has_a_bounded_number_of_readings():
    assert set(could_mean("a" * 63 + "." + "b" * 63)) == {("a" * 63, "b" * 63), (None, "a" * 63 + "." + "b" * 63)}
    assert could_mean("a" * 64 + ".b") == (TableName(None, "a" * 64 + ".b"),)
    assert max(len(could_mean(dotted(dots))) for dots in range(130)) <= 64


def test_a_pattern_that_is_refused_is_not_compiled():
    def parse(pattern: str) -> int:
        return steps(lambda: Subscription.parse({"filter": [f"a=like.{pattern}"]}))

    assert parse("x_" * 10_000 + "*b") < 200
    assert parse("*" + "x_" * 400 + "*b") < 10_000  # of 800 characters, which are looked at


def test_a_check_takes_linear_time():
    def checking(names: int, tables: int) -> int:
        asked = Subscription.parse({"table": [dotted(20) + str(i) for i in range(names)]})
        known = {qualified("s", f"t{i}"): {"id": Kind.NUMBER} for i in range(tables)}
        known |= {qualified("a", f"{dotted(19)}{i}"): {"id": Kind.NUMBER} for i in range(names)}
        check_subscribable(asked, known)
        return steps(lambda: check_subscribable(asked, known))

    assert checking(80, 800) < 8 * checking(20, 200)


async def turns_of_others(tables: int) -> int:
    """How often, while this many tables of 300 columns are read."""
    columns = [f"c{i}" for i in range(300)]
    rows = [("public", f"t{i}", columns, ["number"] * 300, ["c0"], "") for i in range(tables)]
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    others = asyncio.create_task(take_turns())
    found = await tables_of(rows, (), (), Payload.FULL)
    others.cancel()
    assert len(found.columns) == tables
    return turns


def test_others_have_their_turn_while_many_tables_are_read():
    assert asyncio.run(turns_of_others(200)) >= 200 * 300 // (2 * SLICE_COLUMNS)


def test_what_is_quadratic_is_found():
    def compare_each_with_each(text: str) -> int:
        return sum(one == other for one in text for other in text)

    assert slowdown(compare_each_with_each, lambda n: "x" * (n // 10)) > AT_MOST_SLOWER
