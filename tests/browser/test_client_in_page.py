"""/client.js in a real browser, as a page of the server's own origin has it: each change comes once."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests import postgres
from tests.access_case import RIGHTS, SECRET, issued
from tests.chromium import Door, Ground, launch
from tests.feed_case import ORDERS
from tests.server_process import ServerProcess

# The page that imports is the dashboard, whose policy lets its own server's scripts in and nothing else.
FOLLOW = """async options => {
  const { connect } = await import('/client.js');
  window.heard = [];
  await new Promise(resolve => {
    window.feed = connect({
      ...options,
      onChange: change => heard.push(change.data.id),
      onGap: gap => heard.push(`gap: ${gap.why}`),
      onState: ({ state }) => state === 'open' && resolve(),
    });
  });
}"""


# For this module only: as long as Playwright runs, its event loop is the thread's running one.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def orders(chromium: Browser, tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(chromium, tmp_path)
    ground.write(ORDERS)
    watch = urllib.request.Request(f"{ground.url}api/tables/public.orders/watch", method="PUT")
    urllib.request.urlopen(watch).close()
    yield ground
    ground.close()


def follow(ground: Ground, url: str = "", **options: Any) -> Page:
    page = ground.open(url).page
    page.evaluate(FOLLOW, options)
    return page


def heard(page: Page, last: int) -> Any:
    """All that was heard once `last` was."""
    page.wait_for_function("last => heard.includes(last)", arg=last)
    return page.evaluate("heard")


def test_each_change_comes_once_though_the_connection_is_cut(orders: Ground):
    orders.allow(r"^WebSocket connection to 'ws://127\.0\.0\.1:\d+/ws")
    door = Door(orders.port)
    page = follow(orders, door.url)
    orders.write("INSERT INTO orders SELECT generate_series(1, 3)")
    assert heard(page, 3) == [1, 2, 3]
    door.shut()
    orders.write("INSERT INTO orders SELECT generate_series(4, 6)")
    door.open()
    assert heard(page, 6) == [1, 2, 3, 4, 5, 6]


def test_it_resumes_after_a_restart_of_the_server(orders: Ground):
    orders.allow(r"^WebSocket connection to 'ws://127\.0\.0\.1:\d+/ws")
    page = follow(orders)
    orders.write("INSERT INTO orders SELECT generate_series(1, 3)")
    heard(page, 3)
    orders.kill()
    orders.write("INSERT INTO orders SELECT generate_series(4, 6)")
    orders.start()
    assert heard(page, 6) == [1, 2, 3, 4, 5, 6]


def test_it_begins_after_a_cursor_that_was_kept(orders: Ground):
    page = follow(orders)
    orders.write("INSERT INTO orders SELECT generate_series(1, 3)")
    heard(page, 3)
    cursor = page.evaluate("feed.cursor")
    page.evaluate("feed.close()")
    orders.write("INSERT INTO orders SELECT generate_series(4, 6)")
    assert heard(follow(orders, since=cursor), 6) == [4, 5, 6]
    assert page.evaluate("heard") == [1, 2, 3]  # closed


def test_a_table_that_does_not_exist_ends_the_feed_with_the_reason(orders: Ground):
    page = orders.open().page
    events = page.evaluate(
        """async () => {
          const { connect } = await import('/client.js');
          const events = [];
          return new Promise(resolve => connect({
            table: 'ordres',
            onState: ({ state, reason = '' }) => events.push([state, reason]),
            onError: ({ name, code, isFinal }) => resolve([...events, [name, code, isFinal]]),
          }));
        }"""
    )
    reason = "there is no table 'ordres'; GET /api/tables lists the tables"
    assert events == [["connecting", ""], ["failed", reason], ["FeedError", "unknown_table", True]]


def test_its_types_are_given_out_as_a_text(orders: Ground):
    page = orders.open().page
    got = page.evaluate(
        "async () => JSON.stringify(await Promise.all(['client.js', 'client.d.ts'].map(async name => {"
        "  const answer = await fetch(name); return [answer.headers.get('Content-Type'), await answer.text()]; })))"
    )
    (script, code), (text, types) = json.loads(got)
    assert "javascript" in script
    assert "export { FeedError, connect, rows };" in code
    assert text.startswith("text/plain")
    assert "export declare function connect<Row" in types


# Each token of a list in its turn, the last one from then on; `codes`: with which the connections before were closed.
FOLLOW_WITH_TOKENS = """async tokens => {
  const { connect } = await import('/client.js');
  Object.assign(window, { heard: [], codes: [] });
  await new Promise(resolve => {
    window.feed = connect({
      token: async () => tokens.length > 1 ? tokens.shift() : tokens[0],
      onChange: change => heard.push(change.data.id),
      onState: ({ state, code }) => state === 'waiting' ? codes.push(code) : state === 'open' && resolve(),
    });
  });
}"""


def test_it_asks_again_after_a_refused_or_expired_token(chromium: Browser, tmp_path: Path):
    conninfo = postgres.new_database()
    postgres.execute(conninfo, ORDERS)
    key = tmp_path / "key"
    key.write_text(SECRET)
    flags = ("--port", "0", "--database-url", conninfo, "--watch", "public.orders")
    flags += ("--jwt-algorithm", "HS256", "--jwt-key-file", str(key))
    with ServerProcess(tmp_path, *flags) as server:
        page = chromium.new_context().new_page()
        page.goto(f"http://127.0.0.1:{server.port()}/")
        short, long = issued(RIGHTS["full"], 5), issued(RIGHTS["full"])
        page.evaluate(FOLLOW_WITH_TOKENS, ["refused", short, long])
        assert page.evaluate("codes") == [4401]
        postgres.execute(conninfo, "INSERT INTO orders VALUES (1)")
        heard(page, 1)
        page.wait_for_function("code => codes.includes(code)", arg=4419)
        postgres.execute(conninfo, "INSERT INTO orders VALUES (2)")
        assert heard(page, 2) == [1, 2]
        page.context.close()
