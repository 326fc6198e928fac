"""Imports point one way: a room may import only rooms below it; and every module begins by saying what it is."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests import ROOT

# From the top to the bottom: a line imports nothing of a line above it. docs/architecture.md shows them.
ROOMS = (
    "server",
    "app",
    "commands",
    "handlers.routes",
    "handlers.api",
    "handlers.metrics",
    "handlers.dashboard",
    "handlers.feed",
    "handlers.http",
    "handlers.access",
    "handlers.delivery",
    "settings",
    "process",
    "changefeed.hub",
    "changefeed.echo",
    "changefeed.counts",
    "changefeed.rows",
    "changefeed.journal",
    "changefeed.ordering",
    "changefeed.selection",
    "changefeed.postgres",
    "changefeed.change",
    "changefeed.backoff",
    "changefeed.slots",
    "changefeed.turns",
    "changefeed.owners",
    "changefeed.printable",
)
# Packages without imports of their own: their __init__ says what is in them, and the version.
PACKAGES = ("handlers", "changefeed")
MODULES_OF_A_ROOM_LIMIT = 15
MODULES = sorted(
    [
        ROOT / "server.py",
        *(
            path
            for package in ("app", "commands", "handlers", "settings", "process", "changefeed")
            for path in ROOT.glob(f"{package}/**/*.py")
        ),
    ]
)
BENCHMARKS = sorted(ROOT.glob("benchmarks/*.py"))
# What speaks HTTP; the change feed knows nothing of it.
HTTP_MODULES = ("tornado.web", "tornado.websocket", "tornado.httpserver", "tornado.httputil", "tornado.httpclient")


def name_of(module: Path) -> str:
    parts = module.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str | None:
    """The room of a module, or of a name in it; None where it is none of ours."""
    parts = name.split(".")
    return next((room for room in (".".join(parts[:2]), parts[0]) if room in ROOMS), None)


def imports_of(module: Path) -> set[str]:
    """Every name that `module` imports, wherever in it that stands; `from a import b` is a.b."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(source), names=names, level=0):
                found |= {f"{source}.{alias.name}" for alias in names}
            case ast.ImportFrom():
                found.add("a relative import")
    return found


def test_every_module_has_a_room():
    homeless = {name_of(module) for module in MODULES if room_of(name_of(module)) is None}
    assert homeless == set(PACKAGES)
    assert {room_of(name_of(module)) for module in MODULES} == {*ROOMS, None}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_small_enough_to_know(room: str):
    modules = [module for module in MODULES if room_of(name_of(module)) == room and module.stem != "__init__"]
    assert 1 <= len(modules) <= MODULES_OF_A_ROOM_LIMIT


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_imports_of_ours_only_its_room_and_those_below(module: Path):
    own = room_of(name_of(module))
    imported = imports_of(module)
    assert "a relative import" not in imported
    rooms = {name: room for name in imported if (room := room_of(name))}
    above = {name for name, room in rooms.items() if own is None or ROOMS.index(room) < ROOMS.index(own)}
    assert above == set()
    assert not [name for name in imported if name.split(".")[0] in ("tests", "examples")]


@pytest.mark.parametrize("module", BENCHMARKS, ids=name_of)
def test_a_benchmark_knows_no_handler(module: Path):
    """It measures from outside, as any client does."""
    assert not [name for name in imports_of(module) if name.split(".")[0] in ("server", "app", "handlers")]


def test_only_the_command_bench_knows_the_benchmarks():
    knowing = [module for module in MODULES if any(name.startswith("benchmarks") for name in imports_of(module))]
    assert [name_of(module) for module in knowing] == ["commands.bench"]


def test_the_command_bench_needs_no_more_than_the_server():
    program = "import sys, commands.bench; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"playwright", "pytest", "websockets", "hypothesis", "tests"} & set(loaded.stdout.split()) == set()


@pytest.mark.parametrize("module", [module for module in MODULES if "changefeed" in module.parts], ids=name_of)
def test_the_change_feed_knows_nothing_of_http(module: Path):
    assert not [name for name in imports_of(module) if name.startswith(HTTP_MODULES)]


@pytest.mark.parametrize("module", [*MODULES, *BENCHMARKS], ids=name_of)
def test_a_module_begins_by_saying_what_it_is(module: Path):
    first_line = (ast.get_docstring(ast.parse(module.read_text("utf-8"))) or "").partition("\n")[0]
    assert first_line.endswith((".", "`"))


def test_the_server_loads_no_more_than_it_needs():
    program = "import sys, server; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    tools = {"playwright", "pytest", "websockets", "hypothesis", "tests", "benchmarks"}
    assert tools & set(loaded.stdout.split()) == set()


def names_of(node: ast.stmt) -> list[str]:
    """The public class or type alias that the statement defines."""
    match node:
        case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar" | "ParamSpec"))):  # a letter of its module's own
            found = []
        case ast.ClassDef(name=name):
            found = [name]
        case ast.Assign(targets=targets):
            found = [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            found = [name]
        case _:
            found = []
    return [name for name in found if name[0].isupper() and not name.isupper()]


def test_no_two_modules_have_a_class_or_type_of_the_same_name():
    modules: dict[str, set[str]] = defaultdict(set)
    for module in MODULES:
        for node in ast.parse(module.read_text("utf-8")).body:
            for name in names_of(node):
                modules[name].add(name_of(module))
    assert {name: where for name, where in modules.items() if len(where) > 1} == {}
