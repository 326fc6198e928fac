"""Imports point one way: server.py -> app -> handlers -> changefeed -> nothing of ours; and server.py -> benchmarks -> changefeed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"server", "app", "handlers", "changefeed", "benchmarks", "tests"}
MAY_IMPORT = {
    "server": {"app", "handlers", "changefeed", "benchmarks"},
    "app": {"app", "handlers", "changefeed"},
    "handlers": {"handlers", "changefeed"},
    "changefeed": {"changefeed"},
    "benchmarks": {"benchmarks", "changefeed", "tests"},  # dashboard.py; what is for users see below
}
# What speaks HTTP; the change feed knows nothing of it.
HTTP_MODULES = ("tornado.web", "tornado.websocket", "tornado.httpserver", "tornado.httputil", "tornado.httpclient")
MODULES = sorted(
    [
        ROOT / "server.py",
        *ROOT.glob("app/**/*.py"),
        *ROOT.glob("changefeed/**/*.py"),
        *ROOT.glob("handlers/**/*.py"),
        *ROOT.glob("benchmarks/*.py"),
    ]
)


def name_of(module: Path) -> str:
    return ".".join(module.relative_to(ROOT).with_suffix("").parts)


def imports_of(module: Path) -> set[str]:
    """Every module that `module` names in an import, wherever in it that stands; `from a import b` is a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(source), names=names, level=0):
                found |= {source} | {f"{source}.{alias.name}" for alias in names}
            case ast.ImportFrom():
                found.add("a relative import")
    return found


def test_every_layer_is_looked_at():
    assert {name_of(module).partition(".")[0] for module in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_imports_of_ours_only_what_its_layer_may(module: Path):
    allowed = MAY_IMPORT[name_of(module).partition(".")[0]]
    ours = {name for name in imports_of(module) if name.partition(".")[0] in OURS or name == "a relative import"}
    assert {name for name in ours if name.partition(".")[0] not in allowed} == set()


@pytest.mark.parametrize("module", [module for module in MODULES if "changefeed" in module.parts], ids=name_of)
def test_the_change_feed_knows_nothing_of_http(module: Path):
    assert not [name for name in imports_of(module) if name.startswith(HTTP_MODULES)]


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_begins_by_saying_what_it_is(module: Path):
    first_line = (ast.get_docstring(ast.parse(module.read_text("utf-8"))) or "").partition("\n")[0]
    assert first_line.endswith((".", "`"))


def test_the_command_bench_needs_no_more_than_the_server():
    program = "import sys, benchmarks.own; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"playwright", "pytest", "websockets", "hypothesis", "tests"} & set(loaded.stdout.split()) == set()


def test_the_server_loads_no_benchmark():
    program = "import sys, server; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not [name for name in loaded.stdout.split() if name.startswith("benchmarks")]
