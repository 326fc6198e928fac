"""The real program in, pictures of its dashboard out: two for the README into docs/, with --all DIR of every state.

make screenshots                            some 2 minutes, until the chart has a history
make screenshots ARGS="--all /tmp/states"
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, ViewportSize, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))  # it is run by its path

from changefeed.postgres.embedded import EmbeddedPostgres
from tests import leftovers, postgres
from tests.chromium import NARROW, ROOT, WIDE, Dashboard, Ground, launch
from tests.feed_case import ORDERS
from tests.server_process import ServerProcess

README_SIZE: ViewportSize = {"width": 1280, "height": 940}
SMALL: ViewportSize = {"width": 1280, "height": 800}
WINDOWS = ("1m", "5m", "15m", "1h", "24h")
TOKEN = "a-token-of-the-screenshots"
LIVELY, BUSY = 12, 2_000  # changes per second
SECONDS_DRAWN = 90
CHANGES_WHEN_BUSY = 5_000
LISTENER = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"

# Whether the chart, which says "since 12:00:00" once it has more than a minute, continues for this many seconds after that.
IS_DRAWN = """least => {
  const [since, until] = document.querySelector('.rate-chart .panel-head').innerText.match(/\\d+:\\d+:\\d+/g).slice(-2)
    .map(text => text.split(':').reduce((sum, part) => 60 * sum + Number(part), 0));
  return until - since >= least;
}"""
DRAWN = "() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))"
HAS_COUNTED = (
    """least => Number(document.querySelector('.all .muted').innerText.split(' ')[0].replaceAll(',', '')) >= least"""
)


@contextmanager
def demo(browser: Browser, folder: Path, changes_per_second: int) -> Iterator[tuple[ServerProcess, Dashboard]]:
    flags = ("--port", "0", "--data-dir", str(folder), "--demo-rate", str(changes_per_second))
    with ServerProcess(folder.parent, *flags) as server:
        context = browser.new_context(viewport=WIDE, timezone_id="Asia/Kolkata")  # 5:30 h from UTC
        try:
            yield server, Dashboard(context, f"http://127.0.0.1:{server.port()}/", ["api/activity", "api/tables"])
        finally:
            context.close()
            server.kill()
            EmbeddedPostgres(folder).stop("immediate")


def take(dashboard: Dashboard, path: Path, scheme: str = "light", size: ViewportSize = WIDE) -> None:
    dashboard.page.set_viewport_size(size)
    dashboard.page.emulate_media(color_scheme=scheme)
    if size == NARROW:  # whole: what is out of sight is not drawn
        height = dashboard.page.evaluate("document.documentElement.scrollHeight")
        dashboard.page.set_viewport_size({**size, "height": height})
    dashboard.page.evaluate(DRAWN)
    dashboard.page.screenshot(path=path)
    print(f"{path}: {path.stat().st_size // 1000} kB", flush=True)


def take_both(dashboard: Dashboard, folder: Path, state: str) -> None:
    take(dashboard, folder / f"{state}.png")
    take(dashboard, folder / f"{state}-narrow.png", "dark", NARROW)
    dashboard.page.set_viewport_size(WIDE)


def for_the_readme(dashboard: Dashboard) -> None:
    dashboard.page.wait_for_function(IS_DRAWN, arg=SECONDS_DRAWN, polling=1_000, timeout=2_000 * SECONDS_DRAWN)
    dashboard.page.get_by_role("button", name="Got it").click()
    for scheme in ("light", "dark"):
        take(dashboard, ROOT / "docs" / f"dashboard-{scheme}.png", scheme, README_SIZE)


def lively_and_lost(server: ServerProcess, dashboard: Dashboard, postgresql: EmbeddedPostgres, folder: Path) -> None:
    take_both(dashboard, folder, "lively")
    dashboard.page.set_viewport_size(WIDE)
    dashboard.page.locator(".rate-chart .u-over").hover()
    take(dashboard, folder / "pointed-at.png")
    by_other_eyes(dashboard, folder)
    windows(dashboard, folder)
    chosen(dashboard, folder)
    # What the journal has is never missing; what a trigger of another kind tells may be.
    postgres.execute(postgresql.conninfo, "SELECT pg_notify('events', '{}')")
    expect(dashboard.card("other payloads").locator("dd").last).to_have_text("1")
    postgres.execute(postgresql.conninfo, LISTENER)
    expect(dashboard.notices).to_have_count(1)
    take_both(dashboard, folder, "gap")
    postgresql.stop()
    expect(dashboard.light("server → PostgreSQL")).to_have_text("○ Lost")
    take_both(dashboard, folder, "postgresql-lost")
    server.kill()
    expect(dashboard.page.get_by_role("button", name="retry now")).to_be_visible()
    take_both(dashboard, folder, "server-lost")


def by_other_eyes(dashboard: Dashboard, folder: Path) -> None:
    """By those who see fewer colours, or have asked their system for colours of its own, or for no motion."""
    page = dashboard.page
    cdp = page.context.new_cdp_session(page)
    for deficiency in ("deuteranopia", "protanopia", "tritanopia", "achromatopsia", "none"):
        cdp.send("Emulation.setEmulatedVisionDeficiency", {"type": deficiency})
        if deficiency != "none":
            take(dashboard, folder / f"{deficiency}.png")
            take(dashboard, folder / f"{deficiency}-dark.png", "dark")
    page.emulate_media(forced_colors="active")
    take(dashboard, folder / "forced-colors.png")
    page.emulate_media(forced_colors="null", reduced_motion="reduce")
    page.reload()  # else Chromium leaves some of the forced colours where they were
    dashboard.wait_until_live()
    expect(dashboard.tail.first).to_be_visible()
    take(dashboard, folder / "reduced-motion.png")
    page.emulate_media(reduced_motion="null")


def windows(dashboard: Dashboard, folder: Path) -> None:
    for zone, scheme in (("local", "light"), ("utc", "dark")):
        for name in WINDOWS:
            dashboard.page.get_by_role("group", name="Window").get_by_role("button", name=name, exact=True).click()
            take(dashboard, folder / f"window-{name}-{zone}.png", scheme, SMALL)
        take(dashboard, folder / f"window-24h-{zone}-narrow.png", scheme, NARROW)
        dashboard.page.set_viewport_size(WIDE)
        dashboard.page.keyboard.press("z")
    dashboard.page.get_by_role("group", name="Window").get_by_role("button", name="5m", exact=True).click()


def chosen(dashboard: Dashboard, folder: Path) -> None:
    """What a reader reaches by keys: a row, a filter, the dialogs, the kiosk, a replay."""
    page = dashboard.page
    page.locator("li", has_text="→").first.click()
    expect(dashboard.panel.get_by_role("table")).to_be_visible()
    take_both(dashboard, folder, "row")
    page.keyboard.press("Escape")
    dashboard.filter("table:nothing")
    take_both(dashboard, folder, "filter-hides-all")
    page.keyboard.press("Escape")  # out of the field
    page.keyboard.press("x")
    for key, name in (("?", "help"), ("Control+k", "palette"), ("w", "watch"), ("a", "alerts"), ("r", "replay-choice")):
        page.keyboard.press(key)
        expect(page.get_by_role("dialog")).to_be_visible()
        take_both(dashboard, folder, name)
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
    dashboard.page.goto(f"{dashboard.url}?alert=i>0.1&alert=public.nowhere:i=0/1")
    expect(page.get_by_role("alert").first).to_be_visible()
    take_both(dashboard, folder, "alert-raised")
    dashboard.page.goto(dashboard.url)
    dashboard.wait_until_live()
    page.keyboard.press("K")
    take_both(dashboard, folder, "kiosk")
    page.keyboard.press("K")
    page.keyboard.press("r")
    page.get_by_role("button", name="the last minute").click()
    page.get_by_role("button", name="×16").click()
    expect(dashboard.tail.first).to_be_visible()
    take_both(dashboard, folder, "replay")
    page.get_by_role("button", name="Back to live").click()


def busy(browser: Browser, folder: Path) -> None:
    with leftovers.folder() as temporary, demo(browser, temporary, BUSY) as (_, dashboard):
        dashboard.page.wait_for_function(HAS_COUNTED, arg=CHANGES_WHEN_BUSY, polling=1_000, timeout=120_000)
        take_both(dashboard, folder, "busy")


def signed_in_with_little(browser: Browser, folder: Path) -> None:
    """The sign-in, and the dashboard of one whose token may see little and change nothing."""
    conninfo = postgres.new_database()
    postgres.execute(conninfo, ORDERS)
    with leftovers.folder() as temporary:
        tokens = temporary / "tokens"
        tokens.write_text(f'{TOKEN} {{"tables": {{"public.orders": {{"filter": ["total=lt.50"]}}}}}}\n')
        flags = ("--port", "0", "--database-url", conninfo, "--watch", "public.orders", "--token-file", str(tokens))
        with ServerProcess(temporary, *flags) as server:
            context = browser.new_context(viewport=WIDE, timezone_id="UTC")
            dashboard = Dashboard(context, f"http://127.0.0.1:{server.port()}/", [])
            page = dashboard.page
            expect(page.get_by_role("dialog")).to_be_visible()
            take_both(dashboard, folder, "sign-in")
            page.get_by_label("Token").fill(TOKEN)
            page.get_by_role("button", name="Sign in").click()
            dashboard.wait_until_live()
            take_both(dashboard, folder, "empty-with-a-token")
            postgres.execute(conninfo, "INSERT INTO orders SELECT i, 'new', i FROM generate_series(1, 99) AS i")
            expect(dashboard.tail.first).to_be_visible()
            take_both(dashboard, folder, "read-only")
            context.close()


def nothing_yet(browser: Browser, folder: Path) -> None:
    with leftovers.folder() as temporary:
        ground = Ground(browser, temporary)
        dashboard = ground.open()
        take_both(dashboard, folder, "no-table")
        ground.write(ORDERS)
        dashboard.page.reload()
        expect(dashboard.page.locator("pre")).to_contain_text("changefeed.watch")
        take_both(dashboard, folder, "unwatched")
        ground.watch("orders")
        dashboard.page.reload()
        expect(dashboard.page.locator("pre")).to_contain_text("INSERT")
        take_both(dashboard, folder, "empty")
        ground.close()
    postgres.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="Takes the screenshots of the documentation into docs/.")
    parser.add_argument("--all", type=Path, metavar="DIR", help="take every state, too, into this folder")
    every: Path | None = parser.parse_args().all
    with sync_playwright() as playwright, leftovers.folder() as temporary:
        browser = launch(playwright)
        with demo(browser, temporary, LIVELY) as (server, dashboard):
            for_the_readme(dashboard)
            if every:
                lively_and_lost(server, dashboard, EmbeddedPostgres(temporary), every)
        if every:
            busy(browser, every)
            signed_in_with_little(browser, every)
            nothing_yet(browser, every)
        browser.close()


if __name__ == "__main__":
    main()
