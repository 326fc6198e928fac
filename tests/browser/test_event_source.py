"""A browser's own EventSource, which never comes back after a refusal: here it does, whatever is in its way for a time."""

import contextlib
import itertools
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from playwright.sync_api import Browser, Page

from tests import postgres
from tests.feed_case import ORDERS
from tests.server_process import ServerProcess, free_port

FOLLOW = """path => {
  window.heard = [];
  window.refusals = [];
  window.source = new EventSource(path);
  source.onmessage = ({ data }) => heard.push(JSON.parse(data).data.id);
  source.addEventListener('error', ({ data }) => data && refusals.push(JSON.parse(data).error.code));
}"""


class Shop:
    """A database with a table that is watched, a server that may be started and killed, and a page of its origin."""

    def __init__(self, chromium: Browser, folder: Path) -> None:
        self._folder = folder
        self._context = chromium.new_context()
        self.page = self._context.new_page()
        self.conninfo = postgres.new_database()
        self.port = free_port()
        self.write(ORDERS)

    def start(self, *flags: str) -> ServerProcess:
        settings = ("--port", str(self.port), "--database-url", self.conninfo, "--watch", "public.orders")
        return ServerProcess(self._folder, *settings, *flags)

    def write(self, statement: str) -> None:
        postgres.execute(self.conninfo, statement)

    def follow(self, path: str = "/events") -> Page:
        self.page.goto(f"http://127.0.0.1:{self.port}/healthz")  # a page that asks for nothing by itself
        self.page.evaluate(FOLLOW, path)
        return self.page

    def heard(self, last: int) -> list[int]:
        """All that was heard once `last` was."""
        self.page.wait_for_function("last => heard.includes(last)", arg=last)
        found: list[int] = self.page.evaluate("heard")
        return found

    def until_refused(self, code: str) -> None:
        self.page.wait_for_function("code => refusals.includes(code)", arg=code)

    def write_until_heard(self) -> None:
        """That it is open says little: so is, for a moment, a stream that is refused."""
        for number in itertools.count(1):
            self.write(f"INSERT INTO orders VALUES ({number})")
            if self.page.evaluate("heard.length"):
                return

    def close(self) -> None:
        self._context.close()


@pytest.fixture
def shop(chromium: Browser, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(chromium, tmp_path)
    yield shop
    shop.close()


@contextlib.contextmanager
def cannot_be_reached(conninfo: str) -> Iterator[None]:
    """The database takes no connection, and those that there were are ended."""
    name = psycopg2.extensions.parse_dsn(conninfo)["dbname"]
    elsewhere = postgres.cluster().conninfo
    postgres.execute(elsewhere, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        postgres.execute(elsewhere, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        yield
    finally:
        postgres.execute(elsewhere, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def test_it_comes_in_once_there_is_a_place(shop: Shop):
    with shop.start("--client-limit", "1") as server:
        server.port()
        with urllib.request.urlopen(f"http://127.0.0.1:{shop.port}/events"):
            shop.follow()
            shop.until_refused("too_many_clients")
        shop.write_until_heard()


def test_it_waits_for_its_turn_in_a_crowd(shop: Shop):
    with shop.start("--clients-per-second", "1") as server:
        server.port()
        for _ in range(14):
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(f"http://127.0.0.1:{shop.port}/events").close()
        shop.follow()
        shop.until_refused("too_many_at_once")
        shop.write_until_heard()


def test_it_resumes_although_the_journal_answers_late(shop: Shop):
    with shop.start() as server:
        server.port()
        shop.follow()
        shop.write("INSERT INTO orders VALUES (1)")
        shop.heard(1)
    shop.write("INSERT INTO orders VALUES (2)")
    locking = psycopg2.connect(shop.conninfo)
    with contextlib.closing(locking), locking.cursor() as db_cursor:
        db_cursor.execute("LOCK TABLE changefeed.meta")
        with shop.start():
            shop.until_refused("not_ready")
            locking.rollback()
            assert shop.heard(2) == [1, 2]


def test_it_comes_in_when_postgresql_is_back(shop: Shop):
    with shop.start() as server:
        server.port()
        shop.write("CREATE TABLE late (id bigint PRIMARY KEY)")
        with cannot_be_reached(shop.conninfo):
            shop.follow("/events?table=late&table=orders")
            shop.until_refused("database_unavailable")
        shop.write_until_heard()


def test_one_that_can_never_work_ends(shop: Shop):
    with shop.start("--token", "a-token-of-sixteen-or-more") as server:
        server.port()
        shop.follow()
        shop.page.wait_for_function("() => source.readyState === EventSource.CLOSED")
        assert shop.page.evaluate("refusals") == []
