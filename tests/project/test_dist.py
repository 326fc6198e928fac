"""frontend/dist is what users run without Node: built from these very sources, small, asking for nothing elsewhere."""

import gzip
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

from tests import ROOT

FRONTEND = ROOT / "frontend"
DIST = FRONTEND / "dist"
STYLE_BUDGET_BYTES = 8 * 1024  # as gzip sends it, as are the others
START_BUDGET_BYTES = 65 * 1024  # what the page loads before it draws: two thirds of it are uPlot and Svelte
LATER_BUDGET_BYTES = 24 * 1024  # what it loads after that: the rows and tables at once, the others when asked for


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_is_what_the_sources_build(tmp_path: Path):
    # `make` puts its Node beside the Python that runs this; by hand, it is the one on the search path.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    vite = FRONTEND / "node_modules" / "vite" / "bin" / "vite.js"
    build = subprocess.run(
        ["node", str(vite), "build", "--outDir", str(tmp_path), "--emptyOutDir"],
        cwd=FRONTEND,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    built, committed = contents(tmp_path), contents(DIST)
    differing = {name for name in built | committed if built.get(name) != committed.get(name)}
    assert not differing, "frontend/dist is not built from frontend/src: make build"


def test_scripts_and_styles_keep_within_their_budgets():
    sizes = {name: len(gzip.compress(data)) for name, data in contents(DIST).items()}
    first = {link.removeprefix("./") for link in Page((DIST / "index.html").read_text()).links}
    scripts = {name for name in sizes if name.startswith("assets/") and name.endswith(".js")}
    assert 0 < sum(sizes[name] for name in scripts & first) <= START_BUDGET_BYTES, sizes
    assert 0 < sum(sizes[name] for name in scripts - first) <= LATER_BUDGET_BYTES, sizes
    assert 0 < sum(size for name, size in sizes.items() if name.endswith(".css")) <= STYLE_BUDGET_BYTES, sizes


def test_the_client_is_as_small_as_the_documents_say():
    size = len(gzip.compress((DIST / "client.js").read_bytes())) / 1024
    for document in ("README.md", "docs/guide.md"):
        assert f" of {size:.1f} KB (gzip)" in (ROOT / document).read_text("utf-8"), f"{document}: {size:.1f} KB"


class Page(HTMLParser):
    """The links of a page, and what of it the Content-Security-Policy would refuse."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.links += [given[name] or "" for name in ("src", "href") if name in given]
        self.inline += [f"<{tag} {name}>" for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(f"<{tag}>")


def test_the_page_has_only_its_own_files():
    page = Page((DIST / "index.html").read_text())
    assert page.inline == []
    assert set(page.links) <= {f"./{name}" for name in contents(DIST)}


def test_every_file_is_named_by_another():
    files = contents(DIST)
    for name in files.keys() - {"index.html", "client.js", "client.d.ts"}:
        short = name.rpartition("/")[2].encode()
        assert any(short in text for other, text in files.items() if other != name), name


def test_styles_load_nothing():
    for path in DIST.rglob("*.css"):
        assert re.findall(r"url\(|@import", path.read_text()) == []
