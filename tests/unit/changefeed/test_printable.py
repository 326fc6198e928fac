"""Text of others cannot control a terminal or a log, and stays distinguishable."""

import json
import unicodedata

import pytest

from changefeed.printable import json_printable, printable, sql_printable
from tests.journal_database import JournalDatabase

CONTROLS = [*map(chr, range(32)), *map(chr, range(127, 160)), "\u2028", "\u2029"]
BIDI = [
    "\u061c",
    "\u200e",
    "\u200f",
    "\u202a",
    "\u202b",
    "\u202c",
    "\u202d",
    "\u202e",
    "\u2066",
    "\u2067",
    "\u2068",
    "\u2069",
]
UNSEEN = ["\u200b", "\u2060", "\ufeff", "\U000e0001", "\ud800"]
NAMES = [
    "x\x1b[2J\x1b]0;pwned\x07\n2026-11-28 WARNING server: forged",
    "a'); DROP TABLE orders; --",
    'a"b',
    "a\\b\x9b1m\u202e",
]


@pytest.mark.parametrize("character", [*CONTROLS, *BIDI, *UNSEEN], ids=lambda one: f"{ord(one):x}")
def test_what_commands_is_shown_by_its_number(character: str):
    shown = printable(f"a{character}b")
    assert shown.isascii()
    assert shown.isprintable()
    assert f"{ord(character):x}" in shown
    assert json_printable(json.dumps(f"a{character}b", ensure_ascii=False)).isascii()


def test_nothing_that_python_takes_for_a_control_is_left():
    every = "".join(map(chr, range(0x110000)))
    left = [one for one in printable(every) if unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp")]
    turning = [
        one
        for one in printable(every)
        if unicodedata.bidirectional(one) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    ]
    assert (left, turning) == ([], [])


@pytest.mark.parametrize("text", ["orders", "Größe", "注文", "שלום", "👩‍🚀", "C:\\temp", ""])
def test_text_is_left_as_it_is(text: str):
    assert printable(text) == sql_printable(text) == text
    assert json.loads(json_printable(json.dumps(text, ensure_ascii=False))) == text


@pytest.mark.parametrize("text", [*CONTROLS, *BIDI, *UNSEEN, *NAMES], ids=ascii)
def test_json_keeps_its_value(text: str):
    assert json.loads(json_printable(json.dumps(text, ensure_ascii=False))) == text


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_sql_means_the_same(name: str, db: JournalDatabase):
    quoted = db.value("SELECT quote_ident(%s)", name)
    for statement in (
        f"SELECT 1 AS {quoted}",
        f"SELECT {db.value('SELECT quote_literal(%s)', name)}",
    ):
        shown = sql_printable(statement)
        assert shown == printable(shown)
        with db.connection.cursor() as db_cursor:
            db_cursor.execute(shown.encode())
            [(value,)], [column] = db_cursor.fetchall(), db_cursor.description
        assert name in (value, column.name)
