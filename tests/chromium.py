"""The ground for tests in a real browser: Chromium, a server to look at, and what either of them complains of.

The server is a process of its own, started as users start it: it and Playwright's driver share no event loop, and it
can be killed.
"""

import contextlib
import functools
import json
import os
import re
import shutil
import socket
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Locator, Playwright, Route, expect
from psycopg2.extensions import make_dsn

from changefeed.postgres.named_queries import SQL_DIR, read_script
from tests import ROOT, postgres
from tests.server_process import ServerProcess

Counts = tuple[float, ...]  # INSERT, UPDATE, DELETE
# The wide one so high that all its panels are in sight: what is not is not drawn.
WIDE, NARROW = {"width": 1280, "height": 1600}, {"width": 390, "height": 844}

expect.set_options(timeout=20_000)  # ms; for a busy machine


def launch(playwright: Playwright, *, keeps_pages: bool = False) -> Browser:
    """Chromium, where CHROMIUM or the search path says; Playwright itself switches the sandbox and all chatter off.

    With `keeps_pages` the Back button brings a page back as it was, as it does for users, and as Playwright does not.
    """
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        raise AssertionError("Chromium is needed: install it, or name it in the environment variable CHROMIUM")
    ignored = ["--disable-back-forward-cache"] if keeps_pages else None
    return playwright.chromium.launch(executable_path=chromium, args=["--disable-gpu"], ignore_default_args=ignored)


class Door:
    """A TCP door to a server: shut, it throws out who is in and whoever comes, and the server does not know why."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._is_shut = False
        self._inside: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._let_in, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}/"

    def shut(self) -> None:
        with self._lock:
            self._is_shut = True
            for end in self._inside:
                _throw_out(end)
            self._inside.clear()

    def open(self) -> None:
        self._is_shut = False

    def _let_in(self) -> None:
        while True:
            near, _ = self._listening.accept()
            with self._lock:
                if self._is_shut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target_port))
                self._inside |= {near, far}
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # thrown out
        while taken := source.recv(65536):
            target.sendall(taken)
    _throw_out(target)


def _throw_out(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # gone already
        end.shutdown(socket.SHUT_RDWR)


class Dashboard:
    """A page that shows the dashboard, and that has loaded what of the API it `loads` at its start.

    `complaints` is all that a user with open developer tools would frown at.
    """

    def __init__(self, context: BrowserContext, url: str, loads: Sequence[str]) -> None:
        self.url = url.partition("?")[0]
        self.complaints: list[str] = []
        self.page = context.new_page()
        self.page.on("console", lambda said: self._complain(said.type in ("error", "warning"), said.text))
        self.page.on("pageerror", lambda error: self._complain(True, f"uncaught: {error}"))
        self.page.on("dialog", lambda dialog: (self._complain(True, f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self._complain(not self._is_own(request.url), f"asked {request.url}"))
        self.page.on("websocket", lambda opened: self._complain(not self._is_own(opened.url), f"asked {opened.url}"))
        with contextlib.ExitStack() as loading:
            for path in loads:
                is_loaded = functools.partial(lambda path, request: path in request.url, path)
                loading.enter_context(self.page.expect_request_finished(is_loaded))
            self.page.goto(url)

    def _complain(self, is_complaint: bool, what: str) -> None:
        if is_complaint:
            self.complaints.append(what)

    def _is_own(self, url: str) -> bool:
        return url.startswith((self.url, self.url.replace("http:", "ws:")))

    def light(self, name: str) -> Locator:
        return self.page.locator(".light", has_text=name).locator("dd")

    def card(self, name: str) -> Locator:
        return self.page.get_by_label("Changes in numbers").locator(".card", has_text=name)

    def table(self, name: str) -> Locator:
        """The cells of a table's line after its name."""
        heading = self.page.get_by_role("rowheader", name=name, exact=True)
        return self.page.get_by_role("row").filter(has=heading).get_by_role("cell")

    @property
    def notices(self) -> Locator:
        return self.page.get_by_role("main").get_by_role("status").get_by_role("listitem")

    @property
    def tail(self) -> Locator:
        """The lines of the newest rows, the newest first."""
        return self.page.locator("section", has=self.page.get_by_role("heading", name="Newest rows")).locator("ol > li")

    def row(self, identity: str) -> Locator:
        """The line of the newest rows that has this id."""
        return self.tail.filter(has=self.page.locator(".id", has_text=re.compile(f"^{identity}$"))).first

    @property
    def panel(self) -> Locator:
        return self.page.get_by_role("complementary", name="The row")

    @property
    def pill(self) -> Locator:
        return self.page.locator(".pill")

    @property
    def chips(self) -> Locator:
        return self.page.get_by_role("list", name="Conditions").get_by_role("listitem")

    def filter(self, typed: str) -> None:
        self.page.get_by_role("search").get_by_role("combobox").fill(typed)
        self.page.keyboard.press("Enter")

    def hold_back(self, script: str) -> list[Route]:
        """The requests for this script, from now on: each waits until it is released."""
        held: list[Route] = []

        def hold(route: Route) -> None:
            held.append(route)

        self.page.route(f"**/{script}-*.js", hold)
        return held

    def violations(self) -> list[str]:
        """What axe-core finds, in light and in dark."""
        found: list[str] = []
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate((ROOT / "frontend/node_modules/axe-core/axe.min.js").read_text())
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            found += self.page.evaluate(VIOLATIONS)
        return found

    def wait_until_live(self) -> None:
        """Until both lights are green."""
        expect(self.light("browser → server")).to_have_text("● Live")
        expect(self.light("server → PostgreSQL")).to_have_text("● Listening")
        expect(self.page).to_have_title(re.compile(r"^(\(\d+!\) )?psqlisten2websocket$"))  # alerts are counted in it

    def wait_until_drawn(self, time: str) -> None:
        """Until the second that began at this time of day is over and drawn."""
        self.page.wait_for_function(IS_DRAWN, arg=time)

    def chart(self) -> dict[str, Counts]:
        """What the legend says of each second in which something changed: time of day -> INSERT, UPDATE, DELETE."""
        read: list[list[str]] = self.page.locator(".rate-chart .u-over").evaluate(LEGENDS)
        lines = {time.strip(): [line.split()[1].replace(",", "") for line in lines[:3]] for time, *lines in read}
        counts = {time: tuple(map(float, texts)) for time, texts in lines.items() if "–" not in texts}
        return {time: known for time, known in counts.items() if any(known)}

    def line_top(self, action: str) -> float:
        """How high the line of `action` reaches in the drawn chart, from 0 at the bottom to 1."""
        return self.page.evaluate(LINE_TOP, action.lower())

    def wait_until_line_reaches(self, action: str, least: float) -> None:
        self.page.wait_for_function(f"([action, least]) => ({LINE_TOP})(action) > least", arg=[action.lower(), least])


VIOLATIONS = """async () => (await axe.run()).violations.flatMap(
  ({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target}: ${failureSummary}`))"""

# Whether the legend, which names the last second drawn, names `time` or one after it (by half a day at most).
IS_DRAWN = """time => {
  const seconds = text => text.trim().split(':').reduce((sum, part) => 60 * sum + Number(part), 0);
  const drawn = document.querySelector('.rate-chart li').innerText;
  return drawn !== '' && (seconds(drawn) - seconds(time) + 86400) % 86400 < 43200;
}"""

# The legend's texts, as a pointer makes them that goes over the chart, from left to right in half seconds.
LEGENDS = """async over => {
  const { left, top, width } = over.getBoundingClientRect();
  const texts = [];
  for (let place = 0; place < 120; place++) {
    const at = { clientX: left + (width - 1) * place / 119, clientY: top + 1 };
    over.dispatchEvent(new MouseEvent('mousemove', { bubbles: true, ...at }));
    await Promise.resolve();  // Svelte writes in a microtask
    texts.push([...document.querySelectorAll('.rate-chart li')].map(line => line.innerText));
  }
  over.dispatchEvent(new MouseEvent('mouseleave'));
  return texts;
}"""

# Read from a copy: Chromium complains of repeated reading from the canvas that the page draws on.
LINE_TOP = """action => {
  const canvas = document.querySelector('.chart canvas');
  const colour = getComputedStyle(document.querySelector(`.rate-chart svg.${action}`)).color.match(/\\d+/g).map(Number);
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < data.length; at += 4) {
    const isOpaque = data[at + 3] > 200;
    if (isOpaque && colour.every((part, place) => Math.abs(part - data[at + place]) < 24)) {
      return 1 - Math.floor(at / 4 / canvas.width) / canvas.height;
    }
  }
  return 0;
}"""


class Ground:
    """A server that listens to an empty database of its own, and the dashboards that look at it."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self._browser = browser
        self._folder = folder
        self._allowed: list[str] = []
        self._dashboards: list[Dashboard] = []
        self.conninfo = postgres.new_database()
        self.role = ""  # the server's; a superuser's if empty
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Starts the server, on the port that it had before."""
        conninfo = str(make_dsn(self.conninfo, user=self.role)) if self.role else self.conninfo
        self._server = ServerProcess(self._folder, "--port", str(self.port), "--database-url", conninfo)
        self.port = self._server.port()

    def kill(self) -> None:
        """Ends the server without a word to anybody."""
        self._server.kill()

    def open(self, url: str = "", *, until_live: bool = True, has_clock: bool = False, **options: Any) -> Dashboard:
        """A dashboard in a browser's profile of its own, with a clock that can be put forward if it `has_clock`.

        `options` are Playwright's for a context.
        """
        context = self._browser.new_context(**{"viewport": WIDE, "timezone_id": "UTC", **options})
        if has_clock:
            context.clock.install()
        loads = ["api/activity", "api/tables"] if until_live else ["api/activity"]
        dashboard = Dashboard(context, url or self.url, loads)
        self._dashboards.append(dashboard)
        if until_live:
            dashboard.wait_until_live()
        return dashboard

    def write(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        return postgres.execute(self.conninfo, statement, parameters)

    def notify(self, payload: str) -> None:
        self.write("SELECT pg_notify('events', %s)", [payload])

    def watch(self, table: str) -> None:
        self.write((SQL_DIR / "trigger_func.sql").read_text())
        self.write((SQL_DIR / "trigger.sql").read_text().replace("portal_eventrequests", table))

    def journal(self, definition: str, *tables: str) -> None:
        """Makes tables, and watches them by the journal."""
        self.write(read_script("install.sql"))
        self.write(definition)
        for table in tables:
            self.write("SELECT changefeed.watch(%s::text::regclass)", [table])

    def expect_chart(self, dashboard: Dashboard, earlier: Mapping[str, Counts] = {}) -> None:
        """That its chart shows what the server counted, and what it was told `earlier` by another one."""
        expected = {**earlier, **self.counted()}
        dashboard.wait_until_drawn(list(expected)[-1])
        assert dashboard.chart() == expected

    def counted(self) -> dict[str, Counts]:
        """What the server says it counted, in the shape of Dashboard.chart()."""
        with urllib.request.urlopen(f"{self.url}api/activity") as answer:
            buckets = json.load(answer)["buckets"]
        return {
            f"{bucket['at'] // 3600 % 24:02}:{bucket['at'] // 60 % 60:02}:{bucket['at'] % 60:02}": tuple(
                float(sum(counts)) for counts in list(zip(*bucket["counts"].values(), strict=True))[:3]
            )
            for bucket in buckets
        }

    def allow(self, *patterns: str) -> None:
        """Complaints that may come in this test, of the server's log and the browsers' consoles."""
        self._allowed += patterns

    def close(self) -> None:
        """Ends all of it. Raises AssertionError for every complaint that was not allowed."""
        for dashboard in self._dashboards:
            dashboard.page.context.close()
        exit_code, log = self._server.end()
        said = [line for line in log.splitlines() if not re.match(r"\S+ \S+ INFO ", line)]
        said += [complaint for dashboard in self._dashboards for complaint in dashboard.complaints]
        unexpected = [what for what in said if not any(re.search(pattern, what) for pattern in self._allowed)]
        assert not unexpected, unexpected
        assert exit_code == 0
