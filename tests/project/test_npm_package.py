"""clients/javascript as npm packs it: imported in Node, with and without a WebSocket, and type-checked without a browser."""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from changefeed import __version__
from tests import ROOT
from tests.following import TIMEOUT_SECONDS, TOKEN, Follower, Orders, node
from tests.server_process import free_port

NAME = "psqlisten2websocket-client"
FRONTEND = ROOT / "frontend"
NO_WEBSOCKET = "--no-experimental-websocket"  # as Node 20 is

# Prints a line for whatever happens.
PROGRAM = """
import { connect } from 'psqlisten2websocket-client';

const { url, ws, ...options } = JSON.parse(process.argv[2]);
const print = (line) => console.log(JSON.stringify(line));
const feed = connect(url, {
  ...options,
  ...(ws && { WebSocket: (await import('ws')).default }),
  onChange: ({ data }) => print({ id: data.id, status: data.status }),
  onGap: (gap) => print({ gap: gap.why }),
  onState: ({ state }) => print({ state }),
  onError: ({ code, isFinal }) => print({ code, isFinal }),
});
process.on('SIGTERM', () => feed.close());
"""

TYPED_PROGRAM = """
import { connect, FeedError, type Change, type Feed, rows, type Rows, type State } from 'psqlisten2websocket-client';

interface Order {
  readonly id: number;
  readonly status: string;
}

const apply = (change: Change<Order>): void => {
  const id: number | undefined = change.data?.id;
  const before: string | undefined = change.old?.status;
  const moved: 'enter' | 'leave' | undefined = change.filter;
  const rows: number | undefined = change.count;
  // @ts-expect-error: an order has no such column
  change.data?.colour;
  void [id, before, moved, rows];
};
const show = (state: State): string => (state.state === 'waiting' ? `again at ${state.retryAt}` : state.state);
const feed: Feed = connect<Order>('ws://localhost:8080/ws', {
  table: ['orders'],
  token: async () => 'of now',
  onChange: apply,
  onState: show,
  onError: (error: FeedError) => {
    if (error.code === 'unknown_table' && error.isFinal) feed.close();
  },
});
connect({ onChange: ({ data }) => data?.['anything'] });
// @ts-expect-error: there is no such option
connect({ tabel: 'orders' });

const live = rows<Order>('ws://localhost:8080/ws', { table: 'orders', compare: (one, other) => one.id - other.id });
const first: Order | undefined = live.get().byKey.get(7);
const leave: () => void = live.subscribe(({ list, isLive }) => void [list.length, isLive]);
// What Svelte and React take.
const readable: { subscribe(run: (value: Rows<Order>) => void, invalidate?: () => void): () => void } = live;
const useSyncExternalStore = <T>(subscribe: (onChange: () => void) => () => void, get: () => T): T => get();
const status: string | undefined = useSyncExternalStore(live.subscribe, live.get).list[0]?.status;
// @ts-expect-error: rows need the changes of every action
rows({ table: 'orders', action: 'INSERT' });
void [first, leave, readable, status];
"""

TYPED_PAGE = """
import { connect } from 'psqlisten2websocket-client';

connect(new URL('/ws', location.href), { WebSocket, onState: (state) => (document.title = state.state) });
connect({ table: 'orders' });
"""


def run(*command: str | Path, folder: Path) -> str:
    path = os.pathsep.join([str(Path(node()).parent), os.environ["PATH"]])
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the packed package, unpacked. It is packed in a copy of its place in the tree, which stays as it is."""
    tree = tmp_path_factory.mktemp("tree")
    source = tree / "clients" / "javascript"
    shutil.copytree(ROOT / "clients" / "javascript", source)
    shutil.copytree(FRONTEND / "dist", tree / "frontend" / "dist")
    shutil.copy(ROOT / "LICENSE", tree)
    npm = Path(node()).parent / "npm"
    packed = run(npm, "pack", "--silent", "--offline", folder=source).split()[-1]
    with tarfile.open(source / packed) as archive:
        archive.extractall(tree, filter="data")
    return tree / "package"


@pytest.fixture
def project(package: Path, tmp_path: Path) -> Path:
    """A program of somebody's own, with the package and `ws` installed."""
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (modules / NAME).symlink_to(package)
    (modules / "ws").symlink_to(FRONTEND / "node_modules" / "ws")
    (tmp_path / "program.mjs").write_text(PROGRAM)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    return tmp_path


@pytest.fixture
def orders(tmp_path: Path) -> Iterator[Orders]:
    orders = Orders(tmp_path)
    yield orders
    orders.close()


def test_it_has_the_client_its_types_a_readme_and_the_license(package: Path):
    assert {path.name for path in package.iterdir()} == {
        "package.json", "README.md", "LICENSE", "client.js", "client.d.ts"
    }  # fmt: skip
    for name in ("client.js", "client.d.ts"):
        assert (package / name).read_bytes() == (FRONTEND / "dist" / name).read_bytes()
    described = json.loads((package / "package.json").read_text())
    assert (described["name"], described["version"], described["license"]) == (NAME, __version__, "MIT")


@pytest.mark.parametrize(("program", "lib"), [(TYPED_PROGRAM, "es2022"), (TYPED_PAGE, "es2022,dom")])
@pytest.mark.parametrize("resolution", ["nodenext", "bundler"])
def test_its_types_fit_a_strict_program_with_and_without_a_browser(
    project: Path, program: str, lib: str, resolution: str
):
    (project / "program.ts").write_text(program)
    options = {
        "target": "es2022", "lib": lib.split(","), "types": [], "noEmit": True, "strict": True,
        "exactOptionalPropertyTypes": True, "noUncheckedIndexedAccess": True,
        "module": "nodenext" if resolution == "nodenext" else "esnext", "moduleResolution": resolution,
    }  # fmt: skip
    (project / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": ["program.ts"]}))
    run(node(), FRONTEND / "node_modules" / "typescript" / "bin" / "tsc", folder=project)


def follower(project: Path, *flags: str, binary: str = "", **options: Any) -> Follower:
    return Follower(binary or node(), *flags, str(project / "program.mjs"), json.dumps(options))


def lines(follower: Follower, count: int) -> list[Any]:
    return [json.loads(follower.line()) for _ in range(count)]


def ids(follower: Follower, count: int) -> list[int]:
    """Of the next changes; every other line must be of a state."""
    found: list[int] = []
    while len(found) < count:
        line = json.loads(follower.line())
        assert line.keys() & {"id", "state"}, line
        if "id" in line:
            found.append(line["id"])
    return found


def programs() -> list[Any]:
    found = [
        pytest.param("", (), False, id="with the runtime's WebSocket"),
        pytest.param("", (NO_WEBSOCKET,), True, id="with that of ws"),
    ]
    other = shutil.which("node")
    if other and Path(other).resolve() != Path(node()).resolve():
        found.append(pytest.param(other, (), True, id="the system's Node, with ws"))
    return found


@pytest.mark.parametrize(("binary", "flags", "ws"), programs())
def test_it_gets_each_change_once_despite_kills(
    project: Path, orders: Orders, binary: str, flags: tuple[str, ...], ws: bool
):
    program = follower(project, *flags, binary=binary, ws=ws, url=f"ws://{orders.host}/ws", table="orders", token=TOKEN)
    try:
        assert lines(program, 2) == [{"state": "connecting"}, {"state": "open"}]
        orders.write("INSERT INTO orders SELECT generate_series(1, 3)")
        heard = ids(program, 3)
        orders.restart()
        orders.write("INSERT INTO orders SELECT generate_series(4, 6)")
        assert heard + ids(program, 3) == [1, 2, 3, 4, 5, 6]
    finally:
        program.stop()


@pytest.mark.parametrize(("binary", "flags", "ws"), programs())
def test_an_unreachable_address_is_retried(project: Path, binary: str, flags: tuple[str, ...], ws: bool):
    program = follower(project, *flags, binary=binary, ws=ws, url=f"ws://127.0.0.1:{free_port()}/ws")
    try:
        assert lines(program, 5) == [{"state": state} for state in ["connecting", "waiting"] * 2 + ["connecting"]]
    finally:
        program.stop()


@pytest.mark.parametrize(("binary", "flags", "ws"), programs())
def test_what_the_server_refuses_ends_the_program(
    project: Path, orders: Orders, binary: str, flags: tuple[str, ...], ws: bool
):
    def ending(**options: Any) -> list[Any]:
        given = json.dumps({"url": f"ws://{orders.host}/ws", "ws": ws, **options})
        printed = run(binary or node(), *flags, project / "program.mjs", given, folder=project)
        return [json.loads(line) for line in printed.splitlines()]

    def refused(code: str) -> list[Any]:
        return [{"state": "connecting"}, {"state": "failed"}, {"code": code, "isFinal": True}]

    assert ending(table="ordres", token=TOKEN) == refused("unknown_table")
    assert ending(table="orders", filter="colour=eq.red", token=TOKEN) == refused("unknown_column")
    assert ending(table="orders", filter="id=eq.red", token=TOKEN) == refused("bad_filter")
    assert ending(token="wrong") == refused("bad_token")
    assert ending() == refused("sign_in")

    def without_a_feed(path: str, **options: Any) -> Any:
        printed = ending(url=f"ws://{orders.host}{path}", token=TOKEN, **options)
        assert {line["state"] for line in printed[:-1]} == {"connecting", "waiting", "failed"}
        return printed[-1]

    assert without_a_feed("/sw") == {"code": "not_found", "isFinal": True}
    assert without_a_feed("/client.js") == {"code": "not_a_feed", "isFinal": True}
    assert without_a_feed(f"/ws?token={TOKEN}") == {"code": "token_in_url", "isFinal": True}


def test_without_a_websocket_the_error_gives_advice(project: Path):
    options = json.dumps({"url": "ws://127.0.0.1:1/ws"})
    done = subprocess.run(
        [node(), NO_WEBSOCKET, str(project / "program.mjs"), options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "TypeError: there is no WebSocket here: give one as an option" in done.stderr
