"""The programs of examples/, each as its user runs it: against a real server, its pages in Chromium."""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from psycopg2.extensions import parse_dsn

from tests import ROOT, postgres
from tests.chromium import launch
from tests.feed_case import ORDERS
from tests.following import TIMEOUT_SECONDS, TOKEN, Follower, Orders, node
from tests.server_process import ServerProcess, free_port

EXAMPLES = ROOT / "examples"


@pytest.fixture
def orders(tmp_path: Path) -> Iterator[Orders]:
    orders = Orders(tmp_path)
    yield orders
    orders.close()


def commands(host: str) -> dict[str, tuple[str, ...]]:
    return {
        "node": (node(), str(EXAMPLES / "follow.mjs"), f"ws://{host}/ws", "orders"),
        "curl": ("bash", str(EXAMPLES / "follow.sh"), f"http://{host}", "table=orders"),
    }


@pytest.mark.parametrize("program", ["node", "curl"])
def test_a_follower_gets_each_change_once_despite_kills(orders: Orders, program: str):
    if program == "curl" and not shutil.which("curl"):
        pytest.skip("curl is not here")
    follower = Follower(*commands(orders.host)[program], TOKEN=TOKEN)
    try:
        follower.until_placed(orders.write)
        orders.write("INSERT INTO orders SELECT generate_series(1, 3)")
        heard = [json.loads(follower.line())["data"]["id"] for _ in range(3)]
        orders.write("INSERT INTO orders SELECT generate_series(4, 6)")
        orders.restart()
        orders.write("INSERT INTO orders SELECT generate_series(7, 9)")
        heard += [json.loads(follower.line())["data"]["id"] for _ in range(6)]
        assert heard == list(range(1, 10))
    finally:
        follower.stop()


def test_following_in_python_prints_each_change(tmp_path: Path):
    conninfo = postgres.new_database()
    postgres.execute(conninfo, ORDERS)
    with ServerProcess(tmp_path, "--database-url", conninfo, "--watch", "public.orders", "--port", "0") as server:
        port = server.port()
        follower = Follower(sys.executable, "-u", str(EXAMPLES / "follow.py"), f"ws://127.0.0.1:{port}/ws")
        try:
            follower.until_placed(partial(postgres.execute, conninfo))
            postgres.execute(conninfo, "INSERT INTO orders VALUES (1, 'new', 1.10)")
            assert "Decimal('1.10')" in follower.line()
        finally:
            follower.stop()


def refusal(*command: str, **environ: str) -> str:
    """The only line that a program prints before it gives up."""
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    line, *states = reversed(done.stderr.splitlines())
    assert set(states) <= {"connecting"}, done.stderr
    return line


def test_a_follower_of_an_unknown_table_ends_with_one_line(orders: Orders):
    javascript, curl = commands(orders.host).values()
    python = (sys.executable, str(EXAMPLES / "follow.py"))
    assert "ordres" in refusal(*javascript[:-1], "ordres", TOKEN=TOKEN)
    assert "token" in refusal(*javascript, TOKEN="wrong")
    assert "ordres" in refusal(*python, f"ws://{orders.host}/ws?table=ordres", TOKEN=TOKEN)
    assert "ordres" in refusal(*python, f"http://{orders.host}", "ordres", TOKEN=TOKEN)
    assert "token" in refusal(*python, f"ws://{orders.host}/ws", TOKEN="wrong")
    assert "not" in refusal(*python, f"ws://{orders.host}/nowhere")
    assert "localhost:8080" in refusal(*python, "localhost:8080")
    if shutil.which("curl"):
        assert "ordres" in refusal(*curl[:-1], "table=ordres", TOKEN=TOKEN)
        assert "sign in" in refusal(*curl)
        assert "not" in refusal(*curl[:-2], f"http://{orders.host}/nowhere", TOKEN=TOKEN)


def test_a_missing_requirement_is_reported_in_one_line(tmp_path: Path):
    assert "Node 22" in refusal(node(), "--no-experimental-websocket", str(EXAMPLES / "follow.mjs"))
    bare = (sys.executable, "-S")  # without installed packages
    assert "pip install websockets" in refusal(*bare, str(EXAMPLES / "follow.py"))
    assert ".venv/bin/python" in refusal(*bare, str(EXAMPLES / "site.py"))
    site = (sys.executable, str(EXAMPLES / "site.py"), "--database-url")
    assert "--database-url" in refusal(*site, f"host={tmp_path}")
    conninfo = postgres.new_database()
    postgres.execute(conninfo, "CREATE ROLE visitor LOGIN")
    assert "permission denied" in refusal(*site, f"{conninfo} user=visitor")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


class Site:
    """examples/site.py, the feed beside it, and two people who look at its pages."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.conninfo = postgres.new_database()
        self.complaints: list[str] = []
        self._browser = browser
        site_port, feed_port = free_port(), free_port()
        self.url = f"http://localhost:{site_port}"
        command = [sys.executable, str(EXAMPLES / "site.py"), "--feed", f"http://localhost:{feed_port}"]
        self._process = subprocess.Popen(
            [*command, "--database-url", self.conninfo, "--port", str(site_port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        assert self._process.stdout
        assert f"{self.url}/" in self._process.stdout.readline()
        flags = ("--database-url", self.conninfo, "--watch", "examples.*", "--allow-origin", self.url)
        self._server = ServerProcess(folder, *flags, "--port", str(feed_port))
        self._server.port()

    def open(self, path: str) -> Page:
        page = self._browser.new_context().new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.goto(self.url + path)
        return page

    def write(self, statement: str) -> None:
        postgres.execute(self.conninfo, statement)

    def close(self) -> None:
        for context in self._browser.contexts:
            context.close()
        self._process.kill()
        self._process.communicate()
        self._server.kill()


@pytest.fixture
def site(chromium: Browser, tmp_path: Path) -> Iterator[Site]:
    site = Site(chromium, tmp_path)
    yield site
    site.close()
    assert site.complaints == []


def test_a_live_list_shows_what_others_write(site: Site):
    site.write("INSERT INTO examples.tasks (title) VALUES ('from before')")
    mine, theirs = site.open("/live-list"), site.open("/live-list")
    for page in (mine, theirs):
        expect(page.get_by_role("listitem")).to_have_text(["from beforeRemove"])
        expect(page.get_by_role("status")).to_have_text("")
    mine.get_by_label("Task").fill("<b>write</b>")
    mine.get_by_role("button", name="Add").click()
    expect(theirs.get_by_role("listitem")).to_have_text(["from beforeRemove", "<b>write</b>Remove"])
    theirs.get_by_role("checkbox").first.check()
    expect(mine.get_by_role("checkbox").first).to_be_checked()
    site.write("UPDATE examples.tasks SET title = 'by SQL' WHERE id = 2")
    expect(mine.get_by_role("listitem").nth(1)).to_have_text("by SQLRemove")
    mine.get_by_role("button", name="Remove").first.click()
    expect(theirs.get_by_role("listitem")).to_have_text(["by SQLRemove"])
    site.write("TRUNCATE examples.tasks")
    expect(mine.get_by_role("listitem")).to_have_count(0)


def test_a_chat_delivers_each_message_once(site: Site):
    site.write(
        "INSERT INTO examples.messages (author, body) SELECT 'Ann', 'message ' || n FROM generate_series(1, 60) n"
    )
    ann, bob = site.open("/chat"), site.open("/chat")
    for page in (ann, bob):
        expect(page.get_by_role("listitem")).to_have_count(50)  # the newest
        expect(page.get_by_role("listitem").last).to_have_text("Annmessage 60")
    ann.get_by_label("Your name").fill("Ann")
    ann.get_by_label("Message").fill("Hello <script>alert(1)</script>")
    ann.get_by_role("button", name="Send").click()
    expect(bob.get_by_role("listitem").last).to_have_text("AnnHello <script>alert(1)</script>")
    bob.get_by_label("Your name").fill("Bob")
    bob.get_by_label("Message").fill("Hello Ann")
    bob.get_by_label("Message").press("Enter")
    expect(ann.get_by_role("listitem").last).to_have_text("BobHello Ann")
    expect(ann.get_by_role("listitem")).to_have_count(52)


def test_a_progress_bar_follows_its_job_to_the_end_in_every_page(site: Site):
    mine, theirs = site.open("/progress"), site.open("/progress")
    expect(theirs.get_by_role("button")).to_be_enabled()
    mine.get_by_role("button", name="Start a job").click()
    for page in (mine, theirs):
        expect(page.get_by_role("progressbar", name="Job 1")).to_have_js_property("value", 100)


def test_the_sites_tables_run_no_code_of_other_roles():
    conninfo = postgres.new_database()
    mallory = f"mallory_{parse_dsn(conninfo)['dbname']}"
    evil = f"BEGIN IF current_user <> '{mallory}' THEN CREATE ROLE {mallory}_was_here; END IF; RETURN true; END"
    postgres.execute(conninfo, f"CREATE ROLE {mallory}; GRANT ALL ON SCHEMA public TO {mallory}; SET ROLE {mallory}; "
        f"CREATE FUNCTION public.evil(oid, regrole) RETURNS boolean LANGUAGE plpgsql AS $${evil}$$; "
        "CREATE OPERATOR public.<> (FUNCTION = public.evil, LEFTARG = oid, RIGHTARG = regrole)")  # fmt: skip
    tables = (EXAMPLES / "tables.sql").read_text("utf-8")
    for _ in range(2):
        postgres.execute(conninfo, tables)
    postgres.execute(conninfo, f"ALTER SCHEMA examples OWNER TO {mallory}")
    with pytest.raises(psycopg2.errors.RaiseException, match="belongs to another role"):
        postgres.execute(conninfo, tables)
    assert postgres.execute(conninfo, f"SELECT FROM pg_roles WHERE rolname = '{mallory}_was_here'") == []


def test_the_site_refuses_foreign_pages_and_bad_values(site: Site):
    def status(body: bytes, content_type: str) -> Any:
        request = urllib.request.Request(f"{site.url}/tasks", body, {"Content-Type": content_type})
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code

    assert status(b'{"title": "a form of another origin"}', "text/plain") == 415
    assert status(b'{"title": ""}', "application/json") == 400
    assert status(b'{"name": "no title"}', "application/json") == 400
    assert status(b"[", "application/json") == 400
    assert status(b'{"title": "a task"}', "application/json") == 200
