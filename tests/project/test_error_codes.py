"""The error codes that the server can send are those of the documentation."""

import ast
import http
import re
from collections.abc import Iterator

from changefeed.rows.refusal import Reason
from handlers.feed.query import NAMES
from handlers.http.base import _ADVICE
from tests import ROOT

PROGRAMS = [path for folder in ("changefeed", "handlers") for path in sorted((ROOT / folder).rglob("*.py"))]
# What takes a code, and where among its arguments; a subclass passes its own to its base.
TAKES_CODE = {"ApiError": 1, "BadToken": 0, "BadSubscription": 0, "_api_error": 2, "whole_number": 0}
# What is passed on as a code. The code itself is found where it comes from.
PASSED_ON = {
    "code",
    "error.code",
    "trouble.code",
    "self._unchecked.code",
    "str(refused.reason)",  # of Reason
    "phrase.lower().replace(' ', '_')",  # of the HTTP statuses that have advice
}
# A row of the tables of codes: one or several, and the status.
DOCUMENTED = re.compile(r"^\| ((?:`[a-z_]+`(?:, )?)+) \| \d+")


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def given_as_codes(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Each expression that is given as a code, with what takes it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in {ast.unparse(base) for base in node.bases} & TAKES_CODE.keys():
                for call in ast.walk(node):
                    if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                        yield base, call.args[TAKES_CODE[base]]
        elif isinstance(node, ast.Call):
            if len(node.args) > (place := TAKES_CODE.get(called(node), len(node.args))):
                yield called(node), node.args[place]
            yield from (("code", one.value) for one in node.keywords if one.arg == "code")
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.IfExp) and ast.unparse(node.targets) == "code":
            yield from (("code", one) for one in (node.value.body, node.value.orelse))
        elif isinstance(node, ast.Constant) and isinstance(node.value, bytes):
            yield from (("code", ast.Constant(one.decode())) for one in re.findall(rb'"code": "(\w+)"', node.value))


def sent() -> set[str]:
    statuses = {http.HTTPStatus(status).phrase.lower().replace(" ", "_") for status in (400, *_ADVICE)}
    found = {str(reason) for reason in Reason} | statuses
    for path in PROGRAMS:
        for taker, given in given_as_codes(ast.parse(path.read_text("utf-8"))):
            written = ast.unparse(given)
            if isinstance(given, ast.Constant):
                found.add(f"bad_{given.value!s}" if taker == "whole_number" else str(given.value))
            elif written == "f'bad_{name}'":
                found.update(f"bad_{name}" for name in NAMES if path.name == "query.py")
            else:
                assert written in PASSED_ON, f"{path}: which codes are {written}?"
    return found


def documented() -> list[str]:
    found: list[str] = []
    for line in (ROOT / "docs" / "http-api.md").read_text("utf-8").splitlines():
        if row := DOCUMENTED.match(line):
            found += re.findall(r"`([a-z_]+)`", row[1])
    return found


def test_the_codes_that_are_sent_are_those_that_are_documented():
    assert sorted(documented()) == sorted(sent())
