"""The dashboard in a real browser, on a real server and a real PostgreSQL: what a person sees of what is written."""

import json
import re

import pytest
from playwright.sync_api import expect

from changefeed.postgres.named_queries import read_script
from tests import postgres
from tests.chromium import NARROW, WIDE, Dashboard, Door, Ground

LISTENER = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
)
LOST_DATABASE = "WARNING changefeed.(listener: (lost the LISTEN|still lost|the canary could not be sent)|watching: could not maintain)"
REFUSED_SOCKET = r"^WebSocket connection to 'ws://127\.0\.0\.1:\d+/ws/activity' failed"
# Not zero and not unknown.
SOME_RATE = re.compile("[1-9]")


# -- a write moves


def test_the_counters(orders: Ground):
    page = orders.open()
    orders.write("INSERT INTO orders SELECT generate_series(1, 1234)")
    orders.write("UPDATE orders SET status = 'paid' WHERE id <= 2")
    orders.write("DELETE FROM orders WHERE id = 3")
    expect(page.card("Changes")).to_contain_text("1,237 in all")
    expect(page.page.locator(".card .rate")).to_have_text([SOME_RATE] * 4)
    for action, count in (("INSERT", "1,234"), ("UPDATE", "2"), ("DELETE", "1")):
        expect(page.card(action).locator("p.muted")).to_have_text(f"{count} in all")


def test_the_line_of_its_table(orders: Ground):
    page = orders.open()
    orders.write("INSERT INTO orders SELECT generate_series(1, 10)")
    # The sparkline; INSERT, UPDATE and DELETE per second; the total; last seen.
    expect(page.table("orders")).to_have_text(["", SOME_RATE, "0", "0", "10", re.compile("now|s ago")])
    expect(page.table("orders").locator("path")).to_have_attribute("d", re.compile(r"[ML]\d+ 2\.0"))  # its top


def test_the_lines_of_the_chart(orders: Ground):
    page = orders.open()
    assert page.line_top("INSERT") < 0.2
    orders.write(
        "INSERT INTO orders SELECT generate_series(1, 17);"
        "UPDATE orders SET status = 'paid' WHERE id <= 5; DELETE FROM orders WHERE id <= 3"
    )
    expect(page.card("DELETE")).to_contain_text("3 in all")
    orders.expect_chart(page)
    assert list(orders.counted().values()) == [(17, 5, 3)]
    page.wait_until_line_reaches("INSERT", 0.7)


def test_the_newest_rows_with_every_digit_and_html_as_text(orders: Ground):
    page = orders.open()
    html = "<img src=x onerror=alert(1)>"
    total = "123456789012345678901234567890.10"
    orders.write("INSERT INTO orders VALUES (9007199254740993, %s, %s)", [html, total])
    expect(page.tail.locator("abbr")).to_have_text("+ I")
    expect(page.tail.locator(".table")).to_have_text("orders")
    expect(page.tail.locator(".id")).to_have_text("9007199254740993")
    expect(page.tail.locator(".parts")).to_have_text(f'status: "{html}"   total: {total}')
    expect(page.page.locator("img")).to_have_count(0)


def test_a_burst_is_counted_whole_and_shown_as_a_sample(orders: Ground):
    page = orders.open()
    orders.write("INSERT INTO orders SELECT generate_series(1, 3000)")
    expect(page.card("Changes")).to_contain_text("3,000 in all")
    expect(page.tail.first.locator(".id")).to_have_text("3000")
    expect(
        page.page.get_by_text(re.compile(r"\d+ rows, sampled: 2,\d\d\d more were counted and not sent"))
    ).to_be_visible()


def test_a_page_that_comes_late_shows_what_was_before(orders: Ground):
    orders.write("INSERT INTO orders SELECT generate_series(1, 70)")
    orders.open().card("Changes").get_by_text("70 in all").wait_for()
    late = orders.open()
    expect(late.card("Changes")).to_contain_text("70 in all")
    expect(late.table("orders").nth(4)).to_have_text("70")
    expect(late.tail.first.locator(".id")).to_have_text("70")
    expect(late.tail.locator(".id")).to_have_text([str(number) for number in range(70, 70 - late.tail.count(), -1)])
    orders.expect_chart(late)


# -- payloads of other triggers


def test_changed_columns_and_truncates_are_shown(ground: Ground):
    page = ground.open()
    ground.notify(
        '{"schema": "shop", "table": "orders", "action": "UPDATE", "data": {"id": 7, "status": "paid", "total": 1.10},'
        ' "old": {"status": "open"}}'
    )
    ground.notify('{"schema": "shop", "table": "orders", "action": "TRUNCATE"}')
    expect(page.tail.locator("abbr")).to_have_text(["∅ T", "~ U"])
    expect(page.tail.locator(".table")).to_have_text(["shop.orders"] * 2)
    expect(page.tail.locator(".parts")).to_have_text(["all rows removed", 'status: "open" → "paid"'])
    expect(page.card("TRUNCATE").locator("dd").nth(1)).to_have_text("1")


def test_foreign_json_is_shown_unchanged(ground: Ground):
    ground.allow("WARNING changefeed.hub: dropped a payload on channel events that is not JSON")
    page = ground.open()
    for payload in ("not <json>", '{"hello":  "<b>world</b>"}', '[1.0, "two"]', "17"):
        ground.notify(payload)
    expect(page.tail.locator(".parts")).to_have_text(["17", '[1.0, "two"]', '{"hello":  "<b>world</b>"}'])
    expect(page.card("other payloads").locator("dd").last).to_have_text("3")
    expect(page.card("Changes")).to_contain_text("3 in all")
    expect(page.page.get_by_text("No table has changed yet.")).to_be_visible()


def test_names_that_mean_something_to_javascript_are_names(ground: Ground):
    page = ground.open()
    names = ("__proto__", "constructor", "toString", "<i>", "\u202eerder")
    for name in names:
        ground.notify(f'{{"table": "{name}", "action": "INSERT", "data": {{"constructor": 1, "toString": 2}}}}')
    for name in names:
        expect(page.table(name).nth(4)).to_have_text("1")
    expect(page.tail.locator(".table")).to_have_text(list(reversed(names)))
    expect(page.tail.first.locator(".id")).to_have_text("1")
    expect(page.tail.first.locator(".parts")).to_have_text("toString: 2")


# -- a connection is lost


def test_a_killed_server_is_shown_and_its_successor_found(orders: Ground):
    orders.allow(REFUSED_SOCKET)
    page = orders.open()
    orders.write("INSERT INTO orders SELECT generate_series(1, 2)")
    expect(page.card("Changes")).to_contain_text("2 in all")
    counted = orders.counted()
    orders.kill()
    expect(page.light("browser → server")).to_have_text(re.compile("○ Disconnected|◐ Reconnecting"))
    expect(page.light("server → PostgreSQL")).to_have_text("◌ Unknown")
    expect(page.page).to_have_title("(off) psqlisten2websocket")
    orders.start()
    page.wait_until_live()
    orders.write("INSERT INTO orders SELECT generate_series(3, 5)")
    expect(page.card("Changes")).to_contain_text("3 in all")  # what the new server counted
    expect(page.tail.locator(".id")).to_have_text(["5", "4", "3", "2", "1"])
    orders.expect_chart(page, earlier=counted)


def test_what_is_written_while_the_page_is_cut_off_is_counted_once(orders: Ground):
    orders.allow(REFUSED_SOCKET)
    door = Door(orders.port)
    page = orders.open(door.url)
    orders.write("INSERT INTO orders SELECT generate_series(1, 2)")
    expect(page.card("Changes")).to_contain_text("2 in all")
    door.shut()
    expect(page.page).to_have_title("(off) psqlisten2websocket")
    orders.write("INSERT INTO orders SELECT generate_series(3, 7)")
    door.open()
    page.wait_until_live()
    expect(page.card("Changes")).to_contain_text("7 in all")
    expect(page.tail.locator(".id")).to_have_text(["7", "6", "5", "4", "3", "2", "1"])
    orders.write("INSERT INTO orders VALUES (8)")
    expect(page.card("Changes")).to_contain_text("8 in all")
    expect(page.table("orders").nth(4)).to_have_text("8")
    expect(page.tail.locator(".id")).to_have_text(["8", "7", "6", "5", "4", "3", "2", "1"])
    orders.expect_chart(page)
    expect(page.notices).to_have_count(0)  # nothing was lost


def test_a_stopped_postgresql_is_shown_and_then_a_gap(orders: Ground):
    orders.allow(LOST_DATABASE)
    page = orders.open()
    orders.write("INSERT INTO orders SELECT generate_series(1, 2)")
    expect(page.card("Changes")).to_contain_text("2 in all")
    postgres.cluster().stop()
    try:
        expect(page.light("server → PostgreSQL")).to_have_text("○ Lost")
        expect(page.light("browser → server")).to_have_text("● Live")
        expect(page.page).to_have_title("(database off) psqlisten2websocket")
        expect(page.page.get_by_role("banner")).to_contain_text("connection to server on socket")
        expect(page.card("Delay").get_by_role("definition")).to_have_text(["–", "–", "–"])
        expect(page.card("rows shown").get_by_role("definition").first).to_have_text("–")
        late = orders.open(until_live=False)
        expect(late.light("server → PostgreSQL")).to_have_text("○ Lost")
        expect(late.card("Changes")).to_contain_text("2 in all")
        assert page.violations() == []
    finally:
        postgres.cluster().start()
    page.wait_until_live()
    orders.write("INSERT INTO orders VALUES (3)")
    for each in (page, late):
        each.wait_until_live()
        expect(each.notices).to_contain_text(["Changes may be missing"])
        expect(each.card("Changes")).to_contain_text("3 in all")
        expect(each.tail.locator(".id")).to_have_text(["3", "2", "1"])


def test_a_gap_shows_what_to_do_and_can_be_dismissed(orders: Ground):
    orders.allow(LOST_DATABASE)
    page = orders.open()
    orders.write(LISTENER)
    expect(page.notices).to_have_count(1)
    # Whether its ends are in one second or two is chance.
    period = r"(at \d\d:\d\d:\d\d|\d\d:\d\d:\d\d to \d\d:\d\d:\d\d)"
    expect(page.notices).to_contain_text(re.compile(f"Changes may be missing, {period}"))
    expect(page.notices).to_contain_text("server closed the connection unexpectedly")
    expect(page.notices).to_contain_text("Read the tables you follow once more; the feed goes on from here.")
    page.page.get_by_role("button", name="Dismiss").click()
    expect(page.notices).to_have_count(0)


# -- nothing to see yet


def test_an_unwatched_database_shows_sql_that_watches_it(ground: Ground):
    ground.write('CREATE TABLE "Odd ""Orders" (id bigint GENERATED ALWAYS AS IDENTITY)')
    page = ground.open(permissions=["clipboard-read", "clipboard-write"], has_clock=True)
    expect(page.page.get_by_role("heading", name="Connected, but no table is watched.")).to_be_visible()
    watching = page.page.locator("pre").inner_text()
    page.page.get_by_role("button", name="Copy").click()
    assert page.page.evaluate("navigator.clipboard.readText()") == watching
    ground.write(read_script("install.sql"))
    ground.write(watching)
    page.page.clock.fast_forward(5_000)  # it asks again every 5 s
    expect(page.page.get_by_role("heading", name="Listening on 1 table.")).to_be_visible()
    expect(page.page.get_by_text('Watched: public."Odd ""Orders"')).to_be_visible()
    ground.write(page.page.locator("pre").inner_text())
    expect(page.tail.locator(".table")).to_have_text('"Odd ""Orders"')
    expect(page.page.locator("pre")).to_have_count(0)


# -- what holds for every state


def rows_and_a_gap(ground: Ground) -> Dashboard:
    ground.allow(LOST_DATABASE)
    page = ground.open()
    for number in range(1, 12):
        name = "long_" * number
        data = {name: name * 3}
        ground.notify(json.dumps({"schema": "x" * 40, "table": name, "action": "DELETE", "data": data}))
        expect(page.tail).to_have_count(number)  # all at once may be more than one message shows
    ground.notify(f'["{"a word " * 200}", "{"x" * 2000}"]')
    expect(page.tail).to_have_count(12)
    ground.write(LISTENER)
    expect(page.notices).to_have_count(1)
    return page


def a_watched_table(ground: Ground) -> Dashboard:
    ground.write(f"CREATE TABLE {'long_' * 11}name (id bigint)")
    ground.watch(f"{'long_' * 11}name")
    page = ground.open()
    expect(page.page.get_by_role("heading", name="Listening on 1 table.")).to_be_visible()
    return page


def no_watched_table(ground: Ground) -> Dashboard:
    ground.write(f"CREATE TABLE {'long_' * 11}name (id bigint)")
    page = ground.open()
    expect(page.page.get_by_role("heading", name="no table is watched")).to_be_visible()
    return page


def no_server(ground: Ground) -> Dashboard:
    ground.allow(REFUSED_SOCKET)
    door = Door(ground.port)
    page = ground.open(door.url)
    door.shut()
    expect(page.page).to_have_title("(off) psqlisten2websocket")
    return page


@pytest.mark.parametrize("reach", [rows_and_a_gap, a_watched_table, no_watched_table, no_server])
def test_every_state_is_accessible_in_both_themes(ground: Ground, reach):
    page = reach(ground)
    for viewport in (WIDE, NARROW):
        page.page.set_viewport_size(viewport)
        assert page.page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
        assert page.violations() == []


def test_a_narrow_page_shows_one_panel_at_a_time(orders: Ground):
    page = orders.open(viewport=NARROW)
    orders.write("INSERT INTO orders SELECT generate_series(1, 300)")
    panels = {
        "charts": page.page.get_by_role("heading", name="Changes per second"),
        "rows": page.page.get_by_role("heading", name="Newest rows"),
        "tables": page.page.get_by_role("heading", name="Tables"),
    }
    for chosen in ("charts", "tables", "rows", "charts"):
        page.page.get_by_role("button", name=chosen, exact=True).click()
        for name, heading in panels.items():
            expect(heading).to_be_visible(visible=name == chosen)
        assert page.page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
        assert page.violations() == []
    # A chart that was hidden has its width again.
    chart = page.page.locator(".u-over").first.bounding_box()
    assert chart
    assert chart["width"] > NARROW["width"] / 2
    page.page.keyboard.press("j")
    expect(panels["rows"]).to_be_visible()
    page.page.set_viewport_size(WIDE)
    for heading in panels.values():
        expect(heading).to_be_visible()


def test_a_change_between_light_and_dark_reaches_the_chart(orders: Ground):
    page = orders.open(color_scheme="light")
    orders.write("INSERT INTO orders SELECT generate_series(1, 9)")
    page.wait_until_line_reaches("INSERT", 0.7)
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.page.evaluate(background)
    page.page.emulate_media(color_scheme="dark")
    assert page.page.evaluate(background) != light
    page.wait_until_line_reaches("INSERT", 0.7)  # looked for in the new colour


def test_the_policy_forbids_foreign_scripts(ground: Ground):
    ground.allow("violates the following Content Security Policy directive")
    page = ground.open()
    page.page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<p style=\"position: fixed\" onclick=\"hacked = 1\">x</p>');"
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'hacked = 1' }))"
    )
    page.page.get_by_text("x", exact=True).click()
    assert page.page.evaluate("typeof hacked") == "undefined"
    assert page.page.get_by_text("x", exact=True).evaluate("p => getComputedStyle(p).position") == "static"
    assert len(page.complaints) == 3
