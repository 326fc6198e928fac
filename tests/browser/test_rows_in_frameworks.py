"""examples/frameworks in Chromium, with the real React, Svelte and Vue: each shows what the table has, and what others write."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests import ROOT, postgres
from tests.chromium import launch
from tests.feed_case import ORDERS
from tests.following import node
from tests.server_process import ServerProcess, free_port

EXAMPLES = ROOT / "examples" / "frameworks"
FRONTEND = ROOT / "frontend"
FRAMEWORKS = ("react", "svelte", "vue")

INDEX = """<!doctype html><title>Orders</title>
<div id="react"></div><div id="svelte"></div><div id="vue"></div>
<script type="module" src="/main.js"></script>"""
MAIN = """
import { createElement } from 'react';
import { createRoot } from 'react-dom/client';
import { mount } from 'svelte';
import { createApp } from 'vue';
import { Orders as ReactOrders } from './React.jsx';
import SvelteOrders from './Svelte.svelte';
import { Orders as VueOrders } from './Vue.js';

const place = (id) => document.getElementById(id);
createRoot(place('react')).render(createElement(ReactOrders));
mount(SvelteOrders, { target: place('svelte') });
createApp(VueOrders).mount(place('vue'));
"""
CONFIG = """
import { svelte } from '@sveltejs/vite-plugin-svelte';
export default { plugins: [svelte()], logLevel: 'error' };
"""


def built(folder: Path, feed_port: int) -> Path:
    """A project of somebody's own with the examples in it, built by Vite: the folder of its page."""
    modules = folder / "node_modules"
    modules.mkdir(parents=True)
    for module in (FRONTEND / "node_modules").iterdir():
        if module.name not in (".bin", ".package-lock.json", ".vite"):
            (modules / module.name).symlink_to(module)
    client = modules / "psqlisten2websocket-client"
    shutil.copytree(ROOT / "clients" / "javascript", client)
    shutil.copy(FRONTEND / "dist" / "client.js", client)
    for path in EXAMPLES.iterdir():
        text = path.read_text("utf-8").replace("http://localhost:8080", f"http://127.0.0.1:{feed_port}")
        (folder / path.name).write_text(text)
    for name, text in (("index.html", INDEX), ("main.js", MAIN), ("vite.config.mjs", CONFIG)):
        (folder / name).write_text(text)
    path = os.pathsep.join([str(Path(node()).parent), os.environ["PATH"]])
    vite = FRONTEND / "node_modules" / "vite" / "bin" / "vite.js"
    build = subprocess.run(
        [node(), str(vite), "build"],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    return folder / "dist"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The page's origin, and the port of the feed that it follows."""
    feed_port = free_port()
    folder = built(tmp_path / "project", feed_port)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", feed_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser.new_page()
        browser.close()


def test_they_show_the_table_through_a_restart(site: tuple[str, int], page: Page, tmp_path: Path):
    origin, feed_port = site
    conninfo = postgres.new_database()
    postgres.execute(conninfo, ORDERS)
    postgres.execute(conninfo, "INSERT INTO orders VALUES (1, 'open'), (2, 'done')")
    flags = ("--port", str(feed_port), "--database-url", conninfo, "--watch", "public.orders")
    flags += ("--allow-origin", origin)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))

    def shows(*texts: str) -> None:
        for framework in FRAMEWORKS:
            expect(page.locator(f"#{framework} li")).to_have_text(list(texts))

    with ServerProcess(tmp_path, *flags) as server:
        server.port()
        page.goto(origin)
        shows("1: open")
        postgres.execute(conninfo, "UPDATE orders SET status = 'open' WHERE id = 2")
        shows("1: open", "2: open")
        postgres.execute(conninfo, "UPDATE orders SET status = 'paid' WHERE id = 1")
        shows("1: paid", "2: open")
        postgres.execute(conninfo, "UPDATE orders SET status = 'done' WHERE id = 2")
        shows("1: paid")
    postgres.execute(conninfo, "INSERT INTO orders VALUES (3, 'new')")
    with ServerProcess(tmp_path, *flags) as server:
        server.port()
        shows("1: paid", "3: new")
        postgres.execute(conninfo, "TRUNCATE orders")
        for framework in FRAMEWORKS:
            expect(page.locator(f"#{framework} ul")).to_have_count(1)
        shows()
    assert problems == []
