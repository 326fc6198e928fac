"""A page of another origin in Chromium: all that docs/access.md promises to those that --allow-origin names, and no others."""

import functools
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests import ROOT, postgres
from tests.feed_case import ORDERS
from tests.server_process import ServerProcess

TOKEN = "a-token-of-sixteen-or-more"


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>a page of somebody's own</title>")

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def origins() -> Iterator[list[str]]:
    """Two that serve a page each; the first is the one that the server names."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _Page) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [f"http://127.0.0.1:{server.server_address[1]}" for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


class Shop:
    """A server of which pages elsewhere ask something."""

    def __init__(self, chromium: Browser, origins: list[str], folder: Path, *flags: str) -> None:
        self.named, self.other = origins
        self.conninfo = postgres.new_database()
        postgres.execute(self.conninfo, ORDERS + "; CREATE TABLE items (id bigint)")
        settings = ("--port", "0", "--database-url", self.conninfo, "--watch", "public.orders", "--channels", "people")
        self.server = ServerProcess(folder, *settings, "--allow-origin", self.named, *flags)
        self.context = chromium.new_context()
        self.url = f"http://127.0.0.1:{self.server.port()}"

    def page(self, origin: str) -> Page:
        page = self.context.new_page()
        page.goto(origin)
        page.evaluate("([url, token]) => Object.assign(window, { url, token, heard: [] })", [self.url, TOKEN])
        return page

    def write_until_heard(self, page: Page) -> None:
        number = 0
        while not page.evaluate("heard.length"):
            number += 1
            postgres.execute(self.conninfo, f"INSERT INTO orders VALUES ({number}); NOTIFY people, 'hello'")

    def close(self) -> None:
        self.context.close()
        self.server.kill()


@pytest.fixture
def with_token(chromium: Browser, origins: list[str], tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(chromium, origins, tmp_path, "--token", TOKEN)
    yield shop
    shop.close()


@pytest.fixture
def without_token(chromium: Browser, origins: list[str], tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(chromium, origins, tmp_path)
    yield shop
    shop.close()


FETCH = """async ([path, options]) => {
  const headers = { Authorization: `Bearer ${token}`, ...options.headers };
  try {
    const answer = await fetch(url + path, { ...options, headers });
    return [answer.status, await answer.text()];
  } catch (error) {
    return [0, String(error)];
  }
}"""
# The first event of the stream, as those read it who send a token.
READ_STREAM = """async () => {
  const headers = { Authorization: `Bearer ${token}`, 'Last-Event-ID': '', Accept: 'text/event-stream' };
  const answer = await fetch(url + '/events', { headers });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const read = async () => {
    for (let text = ''; !text.includes('data: '); text += (await reader.read()).value);
    heard.push('event');
  };
  void read();
}"""
# Leads to nothing before it is open, and then to `heard`.
WAYS_IN = {
    "client.js": """async options => {
      const { connect } = await import(url + '/client.js');
      connect(url + '/ws', { ...options, onChange: change => heard.push(change.data.id) });
    }""",
    "WebSocket": """() => {
      const socket = new WebSocket(url.replace('http', 'ws') + '/ws');
      socket.onmessage = ({ data }) => heard.push(JSON.parse(data).data.id);
    }""",
    "EventSource": """() => {
      new EventSource(url + '/events').onmessage = ({ data }) => heard.push(JSON.parse(data).data.id);
    }""",
}
IS_REFUSED = {
    "client.js": "() => import(url + '/client.js').then(() => false, () => true)",
    "WebSocket": """() => new Promise(resolve => {
      const socket = new WebSocket(url.replace('http', 'ws') + '/ws');
      socket.onopen = () => resolve(false);
      socket.onclose = ({ code }) => resolve(code === 1006);
    })""",
    "EventSource": """() => new Promise(resolve => {
      const source = new EventSource(url + '/events');
      source.onopen = () => resolve(false);
      source.onerror = () => resolve(source.readyState === EventSource.CLOSED);
    })""",
}


def ask(page: Page, path: str, **options: Any) -> tuple[int, str]:
    status, text = page.evaluate(FETCH, [path, options])
    return status, text


def test_a_named_origin_may_use_all_with_a_token_in_the_header(with_token: Shop):
    page = with_token.page(with_token.named)
    for path in ("/api/changes", "/api/tables", "/api/activity", "/api/status", "/api/session"):
        assert ask(page, path)[0] == 200, path
    watch = functools.partial(ask, page, "/api/tables/public.items/watch")
    status, text = watch(method="PUT", body='{"omit": []}', headers={"Content-Type": "application/json"})
    assert (status, '"is_watched": true' in text) == (200, True)
    assert watch(method="DELETE")[0] == 200
    status, text = ask(page, "/api/changes", headers={"Authorization": "Bearer wrong"})
    assert (status, "bad_token" in text) == (401, True)
    page.evaluate(READ_STREAM)
    with_token.write_until_heard(page)


def test_a_named_origin_may_follow_with_a_token_by_the_client(with_token: Shop):
    page = with_token.page(with_token.named)
    page.evaluate(WAYS_IN["client.js"], {"token": TOKEN})
    with_token.write_until_heard(page)


def test_a_named_origin_may_authenticate_by_first_message(with_token: Shop):
    page = with_token.page(with_token.named)
    page.evaluate("""() => {
      const socket = new WebSocket(url.replace('http', 'ws') + '/listen/people', 'changefeed.v1');
      socket.onopen = () => socket.send(JSON.stringify({ type: 'authenticate', token }));
      socket.onmessage = ({ data }) => data === 'hello' && heard.push(data);
    }""")
    with_token.write_until_heard(page)


@pytest.mark.parametrize("way", WAYS_IN)
def test_a_named_origin_may_follow_an_open_server(way: str, without_token: Shop):
    page = without_token.page(without_token.named)
    page.evaluate(WAYS_IN[way], {})
    without_token.write_until_heard(page)


def test_a_named_origin_may_watch_on_an_open_server(without_token: Shop):
    page = without_token.page(without_token.named)
    for method in ("PUT", "DELETE"):
        status = page.evaluate(
            "async method => (await fetch(url + '/api/tables/public.items/watch', { method })).status", method
        )
        assert status == 200


def test_another_origin_may_do_nothing(without_token: Shop):
    page = without_token.page(without_token.other)
    for way, refused in IS_REFUSED.items():
        assert page.evaluate(refused), way
    assert ask(page, "/api/changes")[0] == 0
    assert ask(page, "/api/tables/public.items/watch", method="PUT")[0] == 0
    assert page.evaluate("() => fetch(url + '/api/tables').then(() => false, () => true)")
    [(watched,)] = postgres.execute(
        without_token.conninfo, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'items'::regclass"
    )
    assert watched == 0


# The client is in the page's own bundle. Returns the code of the error, or why it waits.
WHAT_IT_LEARNS = """async ([client, path]) => {
  const { connect } = await import(URL.createObjectURL(new Blob([client], { type: 'text/javascript' })));
  return new Promise(resolve => connect(url + path, {
    onState: ({ state, reason }) => state === 'waiting' && reason && resolve(reason),
    onError: ({ code }) => resolve(code),
  }));
}"""


def what_it_learns(page: Page, path: str) -> Any:
    return page.evaluate(WHAT_IT_LEARNS, [(ROOT / "frontend" / "dist" / "client.js").read_text(), path])


def test_a_page_learns_why_its_socket_does_not_open(with_token: Shop):
    page = with_token.page(with_token.named)
    assert what_it_learns(page, "/ws") == "sign_in"
    assert what_it_learns(page, "/sw") == "not_found"
    assert what_it_learns(page, "/client.js") == "not_a_feed"
    assert what_it_learns(page, f"/ws?token={TOKEN}") == "token_in_url"


def test_a_page_of_another_origin_gets_a_hint(without_token: Shop):
    origin = without_token.other
    reason = what_it_learns(without_token.page(origin), "/ws")
    assert reason.endswith(f"; if it runs, it may not let pages of {origin} in: --allow-origin {origin}")
