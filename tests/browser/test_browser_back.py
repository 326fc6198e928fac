"""The README's own page behind the Back button, as Chromium keeps it (bfcache): it misses nothing."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from playwright.sync_api import Page, sync_playwright

from tests import ROOT, postgres
from tests.chromium import launch
from tests.feed_case import ORDERS
from tests.server_process import ServerProcess

README = (ROOT / "README.md").read_text("utf-8")
# What the page logs is what it heard; its title says its state.
NOTE = """<script>
  Object.assign(window, { heard: [], shown: [] });
  console.log = (action, data) => heard.push(data.id);
  addEventListener('pageshow', ({ persisted }) => shown.push(persisted));
</script>"""


class Site(BaseHTTPRequestHandler):
    """A page of somebody's own at /, and another one beside it."""

    page: ClassVar[str] = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.page.encode() if self.path == "/" else b"<title>another page</title>")

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = launch(playwright, keeps_pages=True)
        yield browser.new_page()
        browser.close()


def heard(page: Page, last: int) -> Any:
    page.wait_for_function("last => heard.includes(last)", arg=last)
    return page.evaluate("heard")


def test_the_readmes_page_resumes_after_the_back_button(site: str, page: Page, tmp_path: Path):
    conninfo = postgres.new_database()
    postgres.execute(conninfo, ORDERS)
    settings = ("--port", "0", "--database-url", conninfo, "--watch", "public.orders", "--allow-origin", site[:-1])
    with ServerProcess(tmp_path, *settings) as server:
        url = f"http://127.0.0.1:{server.port()}"
        [block] = re.findall(r"^```html\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
        Site.page = NOTE + block.replace("/client.js", f"{url}/client.js").replace(
            "connect({", f"connect('{url}/ws', {{"
        )
        page.goto(site)
        page.wait_for_function("document.title === 'open'")
        postgres.execute(conninfo, "INSERT INTO orders VALUES (1)")
        assert heard(page, 1) == [1]
        page.goto(f"{site}another")
        postgres.execute(conninfo, "INSERT INTO orders VALUES (2)")
        page.go_back(wait_until="commit")  # nothing is loaded
        postgres.execute(conninfo, "INSERT INTO orders VALUES (3)")
        assert heard(page, 3) == [1, 2, 3]
        assert page.evaluate("shown") == [False, True]
        assert page.title() == "open"
