"""The dialogs in a real browser: commands, tables to watch, alerts and a replay; the kiosk and the themes."""

import re

import pytest
from playwright.sync_api import Locator, expect
from psycopg2.extensions import parse_dsn

from tests import postgres
from tests.chromium import NARROW, WIDE, Dashboard, Ground


@pytest.fixture(scope="module", autouse=True)
def rows(shop: Ground) -> None:
    shop.write("INSERT INTO orders SELECT generate_series(1, 30)")


def dialog(page: Dashboard) -> Locator:
    return page.page.get_by_role("dialog")


def test_every_dialog_fits_its_width_is_accessible_and_closes(shop: Ground):
    page = shop.open()
    for key in ("?", "Control+k", "w", "a", "r"):
        page.page.keyboard.press(key)
        expect(dialog(page)).to_be_visible()
        for viewport in (WIDE, NARROW):
            page.page.set_viewport_size(viewport)
            assert page.page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
        assert page.violations() == []
        page.page.keyboard.press("Escape")
        expect(dialog(page)).to_have_count(0)


def test_a_command_is_found_by_its_letters_and_run(shop: Ground):
    page = shop.open()
    page.page.keyboard.press("Control+k")
    page.page.keyboard.type("wintfour")
    expect(dialog(page).get_by_text("No command matches.")).to_be_visible()
    page.page.get_by_role("combobox", name="Find a command").fill("kiosk")
    page.page.keyboard.press("Enter")
    expect(page.page.get_by_text("leaves the kiosk")).to_be_visible()
    expect(page.page.get_by_role("heading", name="Newest rows")).to_have_count(0)
    expect(page.page).to_have_url(re.compile("kiosk=1"))
    assert page.violations() == []
    page.page.keyboard.press("K")
    expect(page.page.get_by_role("heading", name="Newest rows")).to_be_visible()


def test_typing_before_the_palette_loads_is_kept(shop: Ground):
    page = shop.open()
    held = page.hold_back("Dialogs")
    with page.page.expect_request("**/Dialogs-*.js"):
        page.page.keyboard.press("Control+k")
    page.page.keyboard.type("kio")
    held.pop().continue_()
    field = page.page.get_by_role("combobox", name="Find a command")
    expect(field).to_have_value("kio")
    expect(field).to_be_focused()
    page.page.keyboard.type("sk")
    expect(field).to_have_value("kiosk")


def test_a_theme_is_chosen_and_kept_in_the_address(shop: Ground):
    page = shop.open(color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.page.evaluate(background)
    page.page.keyboard.press("t")
    page.page.keyboard.press("t")
    expect(page.page.get_by_role("button", name="Dark")).to_be_visible()
    dark = page.page.evaluate(background)
    assert dark != light
    again = shop.open(page.page.url, color_scheme="light")
    assert again.page.evaluate(background) == dark


def test_a_table_is_watched_and_left_alone_again(shop: Ground):
    shop.write("CREATE TABLE IF NOT EXISTS extras (id bigint)")
    page = shop.open()
    page.page.get_by_role("button", name="Watch…").click()
    dialog(page).get_by_placeholder("Find a table").fill("extra")
    expect(dialog(page).locator("pre")).to_have_text("SELECT changefeed.watch('public.extras');")
    dialog(page).get_by_role("button", name="Watch public.extras").click()
    expect(dialog(page).get_by_role("button", name="Stop watching public.extras")).to_be_visible()
    shop.write("INSERT INTO extras VALUES (1)")
    expect(page.page.locator("tbody", has_text="extras").first).to_be_attached()
    dialog(page).get_by_role("button", name="Stop watching public.extras").click()
    expect(dialog(page).get_by_role("button", name="Watch public.extras")).to_be_visible()


def test_what_the_servers_role_cannot_do_is_not_offered(ground: Ground):
    ground.journal("CREATE TABLE owned (id int); CREATE TABLE granted (id int); CREATE TABLE closed (id int)", "owned")
    role = f"of_{parse_dsn(ground.conninfo)['dbname']}"
    ground.write(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    ground.write(f"GRANT TRIGGER ON owned, granted TO {role}")
    postgres.paste(f'psql -q -v role={role} -v watch=yes -f sql/grants.sql "$OWNER_URL"', ground.conninfo)
    ground.kill()
    ground.role = role
    ground.start()
    page = ground.open()
    page.page.get_by_role("button", name="Watch…").click()
    shown = dialog(page)
    expect(shown.get_by_role("button", name="Watch public.granted")).to_be_visible()
    expect(shown.get_by_text("to end it, as owner: SELECT changefeed.unwatch('public.owned');")).to_be_visible()
    expect(shown.get_by_text("server lacks rights: docs/least-rights.md")).to_be_visible()
    for name in ("Stop watching public.owned", "Watch public.closed"):
        expect(shown.get_by_role("button", name=name, exact=True)).to_have_count(0)
    assert page.violations() == []
    shown.get_by_role("button", name="Watch public.granted").click()
    expect(shown.get_by_text("SELECT changefeed.unwatch('public.granted');")).to_be_visible()


def test_an_alert_shows_in_the_page_and_the_tabs_title(shop: Ground):
    page = shop.open(f"{shop.url}?alert=i%3E0.5&alert=public.items%3Ad%3D0%2F1")
    expect(page.page.get_by_role("alert").get_by_text("Alert: no DELETE in items for 1 s")).to_be_visible()
    expect(page.page).to_have_title(re.compile(r"^\(\d!\)"))
    shop.write("INSERT INTO orders SELECT generate_series(2001, 2100)")
    expect(page.page.get_by_role("alert").get_by_text(re.compile("INSERT at .*/s, above 0.5/s"))).to_be_visible()
    assert page.violations() == []


def test_an_alert_is_made_in_its_dialog(shop: Ground):
    page = shop.open()
    page.page.keyboard.press("a")
    dialog(page).get_by_role("combobox").first.select_option("above")
    dialog(page).get_by_role("spinbutton").fill("7")
    dialog(page).get_by_role("button", name="Add").click()
    expect(dialog(page).get_by_role("listitem")).to_contain_text(["more than 7 INSERT/s"])
    expect(page.page).to_have_url(re.compile("alert=i%3E7"))
    dialog(page).get_by_role("button", name="Remove").click()
    expect(dialog(page).get_by_text("None yet.")).to_be_visible()


def test_a_span_is_replayed_and_what_is_live_comes_back(shop: Ground):
    shop.write("INSERT INTO items SELECT generate_series(3001, 3003)")
    page = shop.open()
    counted = page.card("Changes").locator("p.muted").inner_text()
    page.page.keyboard.press("r")
    dialog(page).get_by_role("button", name="the last minute").click()
    expect(page.light("browser → server")).to_contain_text("Replay")
    expect(page.page.get_by_role("region", name="Replay")).to_be_visible()
    page.page.get_by_role("button", name="×64").click()
    expect(page.row("3003")).to_be_visible()
    expect(page.page.get_by_role("button", name="↺ Again")).to_be_visible()
    assert page.violations() == []
    page.page.get_by_role("button", name="Back to live").click()
    expect(page.light("browser → server")).to_have_text("● Live")
    expect(page.card("Changes").locator("p.muted")).to_have_text(counted)
