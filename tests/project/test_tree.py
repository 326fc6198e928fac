"""The tests mirror the tree: a unit test bears the name of its module, so that a behaviour has one place to look for."""

import ast
from pathlib import Path

import pytest

from tests import ROOT

TESTS = ROOT / "tests"
ROOMS = {
    path.name: path
    for package in ("app", "changefeed", "commands", "handlers", "process", "settings")
    for path in (ROOT / package, *(ROOT / package).iterdir())
    if (path / "__init__.py").exists()
}
UNIT_TESTS = sorted((TESTS / "unit").glob("*/test_*.py"))


def label(path: Path) -> str:
    return str(path.relative_to(TESTS))


@pytest.mark.parametrize("test", UNIT_TESTS, ids=label)
def test_a_unit_test_bears_the_name_of_its_module_or_room(test: Path):
    """After it may come what of the module it tests: test_filters_growth.py."""
    room = ROOMS[test.parent.name]
    names = {room.name, *(path.stem for path in room.glob("*.py"))}
    subject = test.stem.removeprefix("test_")
    assert any(subject == name or subject.startswith(f"{name}_") for name in names), sorted(names)


@pytest.mark.parametrize("folder", sorted(TESTS.rglob("__init__.py")), ids=label)
def test_a_folder_begins_by_saying_in_a_sentence_what_is_in_it(folder: Path):
    first_line = (ast.get_docstring(ast.parse(folder.read_text("utf-8"))) or "").partition("\n")[0]
    assert first_line[:1].isupper()
    assert first_line.endswith((".", ":"))


def test_every_test_is_in_a_folder_of_its_kind():
    kinds = {path.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py")}
    assert kinds == {"unit", "sql", "server", "browser", "process", "project"}
