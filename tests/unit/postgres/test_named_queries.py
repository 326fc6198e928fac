"""The files of named SQL have every name that the code asks for."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from changefeed.postgres import named_queries
from tests import ROOT

MODULES = sorted(
    path
    for package in ("app", "commands", "handlers", "process", "changefeed")
    for path in ROOT.glob(f"{package}/**/*.py")
)


@pytest.fixture
def sql_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(named_queries, "SQL_DIR", tmp_path)
    return tmp_path / "some.sql"


def test_a_statement_ends_at_the_next_name(sql_file: Path):
    sql_file.write_text(
        "-- About all.\n\n-- first --\n-- Purpose.\nSELECT 'ä';\n\n-- the 2nd --\nSELECT 2 -- two --\n;\n"
    )
    assert named_queries.load_queries("some.sql") == {
        "first": "-- Purpose.\nSELECT 'ä';",
        "the 2nd": "SELECT 2 -- two --\n;",
    }


def test_a_duplicate_name_is_refused(sql_file: Path):
    sql_file.write_text("-- one --\nSELECT 1;\n-- one --\nSELECT 2;\n")
    with pytest.raises(ValueError, match="duplicate"):
        named_queries.load_queries("some.sql")


def names_asked_for(module: Path) -> Iterator[tuple[str, str]]:
    """(file, name) for each NAME["statement"] of a module that says NAME = load_queries("file.sql")."""
    tree = ast.parse(module.read_text("utf-8"))
    files = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(
                targets=[ast.Name(id=variable)],
                value=ast.Call(func=ast.Name(id="load_queries"), args=[ast.Constant(value=str(file))]),
            ):
                files[variable] = file
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=ast.Name(id=variable), slice=ast.Constant(value=str(name))) if variable in files:
                yield files[variable], name


def test_every_statement_is_used_by_the_code():
    asked = {pair for module in MODULES for pair in names_asked_for(module)}
    files = {file for file, _ in asked}
    assert "server.sql" in files
    assert asked == {(file, name) for file in files for name in named_queries.load_queries(file)}
