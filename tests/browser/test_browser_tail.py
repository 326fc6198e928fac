"""The rows in a real browser: what of them is shown, how the list is held, and one of them whole."""

import itertools
import json
import re
from urllib.parse import parse_qs, urlparse

import pytest
from playwright.sync_api import expect

from handlers.delivery.row_sample import ROW_LIMIT_CHARACTERS
from tests.chromium import Dashboard, Ground


def cells(page: Dashboard) -> dict[str, list[str]]:
    """Of the panel's table: column -> the texts after it."""
    lines = [line.locator("th, td").all_inner_texts() for line in page.panel.locator("tbody tr").all()]
    return {name: [text.replace("⌕", "").strip() for text in texts] for name, *texts in lines}


def test_a_row_opens_with_its_differences(shop: Ground):
    shop.write(
        "INSERT INTO orders VALUES (101, 'null', 123456789012345678901234567890.10, '{a,NULL}', NULL, '\\xdead')"
    )
    page = shop.open()
    shop.write("""UPDATE orders SET status = '', doc = '{"n": 9007199254740993}', raw = NULL WHERE id = 101""")
    page.row("101").filter(has_text="~ U").click()
    expect(page.panel.get_by_role("heading")).to_have_text("public.orders")
    changed = {
        "status": ['"null"', '""'],
        "doc": ["null", '{"n": 9007199254740993}'],
        "raw": ["\\xdead (2 bytes)", "null"],
    }
    assert cells(page) == changed
    page.panel.get_by_role("button", name="3 unchanged").click()
    same = {"id": ["101"] * 2, "total": ["123456789012345678901234567890.10"] * 2, "tags": ['["a", null]'] * 2}
    assert cells(page) == changed | same
    page.panel.get_by_role("tab", name="Old").click()
    assert cells(page)["status"] == ['"null"']
    page.panel.get_by_role("tab", name="New").click()
    assert cells(page)["status"] == ['""']
    page.panel.get_by_role("tab", name="JSON").click()
    assert json.loads(page.panel.locator("pre").inner_text())["old"]["raw"] == "\\xdead"
    assert page.violations() == []
    page.panel.get_by_role("button", name="Close the row").click()
    expect(page.panel).to_have_count(0)
    expect(page.pill).to_have_count(0)


def test_a_row_can_be_copied_and_its_value_filtered_by(shop: Ground):
    page = shop.open(permissions=["clipboard-read", "clipboard-write"])
    shop.write("INSERT INTO orders VALUES (111, 'copied', 1.10), (112, 'other', 2)")
    page.row("111").click()
    page.page.keyboard.press("c")
    expect(page.panel.get_by_text("Row copied").last).to_be_visible()
    assert '"total":1.10' in page.page.evaluate("navigator.clipboard.readText()")
    page.panel.get_by_role("button", name="Filter by status=copied").click()
    expect(page.chips).to_have_text([re.compile("status=copied")])
    expect(page.tail.locator(".id")).to_have_text(["111"])


@pytest.mark.parametrize(
    ("key", "order", "is_done"),
    [
        ("c", 116, lambda page: expect(page.panel.get_by_text("Row copied").last).to_be_visible()),
        ("Enter", 117, lambda page: expect(page.panel).to_be_focused()),
    ],
)
def test_a_key_meant_for_the_panel_waits_until_that_is_loaded(shop: Ground, key: str, order: int, is_done):
    page = shop.open(permissions=["clipboard-read", "clipboard-write"])
    held = page.hold_back("RowPanel")
    shop.write("INSERT INTO orders VALUES (%s)", [order])
    with page.page.expect_request("**/RowPanel-*.js"):
        page.row(str(order)).click()
    page.page.evaluate("document.activeElement.blur()")  # Enter on the row's own button would close it
    page.page.keyboard.press(key)
    expect(page.panel).to_have_count(0)
    held.pop().continue_()
    is_done(page)


def test_a_link_opens_its_row_or_shows_that_it_is_gone(shop: Ground):
    page = shop.open()
    shop.write("INSERT INTO orders VALUES (121, 'linked')")
    page.row("121").click()
    expect(page.page).to_have_url(re.compile("row="))
    link = page.page.url
    again = shop.open(link)
    expect(again.panel.get_by_role("rowheader", name="status")).to_be_visible()
    assert cells(again)["status"] == ["–", '"linked"']
    [cursor] = parse_qs(urlparse(link).query)["row"]
    number, _, batch = cursor.partition(".")
    shop.allow("404 \\(Not Found\\)")
    gone = shop.open(link.replace(cursor, f"{int(number, 16) + 4096:x}.{batch}"))
    expect(gone.panel.get_by_role("alert")).to_have_text("The journal no longer keeps this change.")


def test_a_row_that_was_cut_is_loaded_in_full(shop: Ground):
    page = shop.open()
    shop.write("INSERT INTO orders VALUES (131, repeat('x', %s) || 'end')", [ROW_LIMIT_CHARACTERS])
    page.tail.get_by_text("open it to load it").first.click()
    expect(page.panel.get_by_text(re.compile(r"This row has 16,\d\d\d characters"))).to_be_visible()
    page.panel.get_by_role("button", name="Load full").click()
    page.panel.get_by_role("tab", name="JSON").click()
    expect(page.panel.locator("pre")).to_contain_text("xend")


def test_a_row_that_is_nested_deeply_is_loaded_in_full(shop: Ground):
    shop.write("INSERT INTO orders VALUES (134)")
    page = shop.open()
    expect(page.row("134")).to_be_visible()
    cut = page.tail.get_by_text("open it to load it")
    cut_before = cut.count()
    shop.write("INSERT INTO orders (id, doc) VALUES (135, (repeat('[', 9000) || '7' || repeat(']', 9000))::jsonb)")
    expect(cut).to_have_count(cut_before + 1)
    cut.first.click()
    page.panel.get_by_role("button", name="Load full").click()
    expect(page.panel.get_by_role("rowheader", name="doc")).to_be_visible()
    page.panel.get_by_role("tab", name="JSON").click()
    expect(page.panel.locator("pre")).to_contain_text(re.compile(r'"doc": \[\s+\[\s+\['))


def test_space_pauses_the_list_and_counts_new_rows(shop: Ground):
    page = shop.open()
    shop.write("INSERT INTO orders VALUES (141)")
    expect(page.row("141")).to_be_visible()
    page.page.keyboard.press(" ")
    expect(page.pill).to_contain_text("Paused · 0 new")
    shop.write("INSERT INTO orders VALUES (142), (143)")
    expect(page.pill).to_contain_text("Paused · 2 new")
    expect(page.tail.first.locator(".id")).to_have_text("141")
    page.page.keyboard.press("l")
    expect(page.pill).to_have_count(0)
    expect(page.tail.first.locator(".id")).to_have_text("143")


def test_a_row_selected_and_a_list_scrolled_away_hold_it_too(shop: Ground):
    shop.write("INSERT INTO orders SELECT generate_series(1500, 1599)")
    page = shop.open()
    expect(page.row("1599")).to_be_visible()
    page.page.get_by_role("region", name="Newest rows").evaluate("list => list.scrollTo(0, 300)")
    expect(page.pill).to_contain_text("Paused (scrolled) · 0 new")
    before = page.tail.first.locator(".id").inner_text()
    shop.write("INSERT INTO orders VALUES (1600)")
    expect(page.pill).to_contain_text("1 new")
    assert page.tail.first.locator(".id").inner_text() == before
    page.tail.nth(3).click()
    expect(page.pill).to_contain_text("Paused (row selected)")
    page.page.keyboard.press("Escape")
    expect(page.pill).to_contain_text("Paused (scrolled) · 1 new")
    page.page.get_by_role("region", name="Newest rows").evaluate("list => list.scrollTo(0, 0)")
    expect(page.pill).to_have_count(0)
    expect(page.tail.first.locator(".id")).to_have_text("1600")


def test_rows_are_walked_by_key(shop: Ground):
    page = shop.open()
    shop.write("INSERT INTO orders VALUES (161, 'a'), (162, 'b'), (163, 'c')")
    expect(page.row("163")).to_be_visible()
    for key, expected in (("Enter", "c"), ("j", "b"), ("j", "a"), ("k", "b")):
        page.page.keyboard.press(key)
        expect(page.panel.locator("tr", has_text="status").locator("td").last).to_contain_text(f'"{expected}"')
    page.page.keyboard.press("Escape")
    expect(page.panel).to_have_count(0)


def test_an_update_without_old_values_explains_how_to_get_them(ground: Ground):
    page = ground.open()
    ground.notify('{"table": "t", "schema": "s", "action": "UPDATE", "data": {"id": 1}}')
    page.row("1").click()
    expect(page.panel.locator(".note code")).to_have_text("SELECT changefeed.watch('s.t');")


def test_a_hidden_page_takes_no_rows_and_still_counts(shop: Ground):
    page = shop.open()
    hide = "Object.defineProperty(document, 'visibilityState', { value: '%s', configurable: true });"
    changed = "document.dispatchEvent(new Event('visibilitychange'))"
    page.page.evaluate(hide % "hidden" + changed)
    before = int(page.table("items").nth(4).inner_text()) if page.table("items").count() else 0
    shop.write("INSERT INTO items VALUES (171)")
    expect(page.table("items").nth(4)).to_have_text(str(before + 1))
    expect(page.page.get_by_text("1 more were counted and not sent")).to_be_visible()
    page.page.evaluate(hide % "visible" + changed)
    shop.write("INSERT INTO items VALUES (172)")
    expect(page.row("172")).to_be_visible()


def test_the_server_filters_once_rows_are_sampled(shop: Ground):
    page = shop.open()
    shop.write("INSERT INTO orders SELECT generate_series(18000, 19999)")
    expect(page.page.get_by_text(re.compile("Sampling rows"))).to_be_visible()
    page.filter("table:items")
    # One among two thousand that come after it: no sample of all would have it.
    needle = "INSERT INTO items VALUES (%s); UPDATE orders SET status = %s WHERE id >= 18000"
    for number in itertools.count(1801):
        shop.write(needle, [number, number])
        if page.tail.count():
            break
    expect(page.tail.locator(".table").first).to_have_text("items")


def test_the_row_rate_is_chosen_and_in_the_address(shop: Ground):
    shop.write("INSERT INTO items VALUES (20000)")
    page = shop.open(f"{shop.url}?rows=50")
    choice = page.page.get_by_role("combobox", name="Rows a second, at most")
    expect(choice).to_have_value("50")
    shop.write("INSERT INTO items SELECT generate_series(20001, 20600)")
    expect(page.page.get_by_text(re.compile("Sampling rows"))).to_be_visible()
    expect(choice.get_by_role("option").last).to_have_text("all, up to 5,000/s")
    assert page.violations() == []
    choice.select_option("all")
    expect(page.page).to_have_url(re.compile("rows=all"))
    again = shop.open(page.page.url)
    shop.write("UPDATE items SET id = id WHERE id > 20000")
    # None is missing: not between these two, which were not sent to the page that asked for 50.
    again.filter("op:update")
    expect(again.page.get_by_text(re.compile("600 of [0-9]+ match"))).to_be_visible()
