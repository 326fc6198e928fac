"""What a reader chooses, in a real browser: conditions, tables, the address that has them all, and a file of the rows."""

import csv
import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.chromium import Dashboard, Ground


@pytest.fixture(scope="module", autouse=True)
def rows(shop: Ground) -> None:
    shop.write("INSERT INTO orders VALUES (1, 'new', 1.50), (2, 'paid', 9007199254740993), (3, 'new', NULL)")
    shop.write("INSERT INTO items VALUES (4, 'new'), (5, 'old \"x\", y')")
    shop.write("UPDATE orders SET status = 'paid' WHERE id = 3; DELETE FROM orders WHERE id = 1")


def ids(page: Dashboard, *expected: str) -> None:
    expect(page.tail.locator(".id")).to_have_text(list(expected))


def test_condition_chips_filter_at_once_and_are_in_the_address(shop: Ground):
    page = shop.open()
    ids(page, "1", "3", "5", "4", "3", "2", "1")
    for typed, expected in (
        ("table:orders", ["1", "3", "3", "2", "1"]),
        ("status=new", ["1", "3", "3", "1"]),
        ("op:insert", ["3", "1"]),
        ("1.50", ["1"]),
    ):
        page.filter(typed)
        ids(page, *expected)
    expect(page.chips).to_have_count(4)
    again = shop.open(page.page.url)
    ids(again, "1")
    expect(again.chips).to_have_count(4)
    again.page.get_by_role("button", name="Remove 1.50").click()
    ids(again, "3", "1")
    again.page.get_by_role("button", name="Clear filter").click()
    ids(again, "1", "3", "5", "4", "3", "2", "1")
    assert again.page.url == shop.url


def test_several_conditions_can_be_typed_at_once(shop: Ground):
    page = shop.open()
    page.filter('table:orders  op:insert status=new 1.50 "public"')
    expect(page.chips).to_have_count(5)
    ids(page, "1")
    page = shop.open(f"{shop.url}?t=orders+op%3Ainsert+status%3Dnew")
    expect(page.chips).to_have_count(3)
    ids(page, "3", "1")


def test_a_filter_that_hides_all_can_be_cleared(shop: Ground):
    page = shop.open()
    page.page.keyboard.press("/")
    page.page.keyboard.type("table:nothing")
    page.page.keyboard.press("Enter")
    expect(page.page.get_by_text("0 of 7 rows here match the filter.")).to_be_visible()
    expect(page.page.get_by_text("table:nothing: no table has this name")).to_be_visible()
    assert page.violations() == []
    page.page.keyboard.press("Backspace")
    expect(page.page.get_by_text("no table has this name")).to_have_count(0)
    ids(page, "1", "3", "5", "4", "3", "2", "1")


def test_an_action_is_chosen_by_its_key_and_its_line_stays_alone(shop: Ground):
    page = shop.open()
    page.page.keyboard.press("3")
    ids(page, "1")
    expect(page.chips).to_contain_text(["op:delete"])
    page.page.keyboard.press("2")
    ids(page, "1", "3")
    page.page.keyboard.press("x")
    ids(page, "1", "3", "5", "4", "3", "2", "1")


def test_keys_can_be_switched_off(shop: Ground):
    page = shop.open()
    page.page.keyboard.press("?")
    page.page.get_by_role("checkbox").uncheck()
    page.page.keyboard.press("Escape")
    expect(page.page.get_by_role("dialog")).to_have_count(0)
    page.page.keyboard.press("3")
    expect(page.chips).to_have_count(0)
    expect(page.page).to_have_url(re.compile("keys=off"))


def test_a_table_is_chosen_by_a_click_and_left_out_with_shift(shop: Ground):
    page = shop.open()
    name = page.page.get_by_role("button", name="items", exact=True)
    name.click()
    ids(page, "5", "4")
    expect(page.card("Changes")).to_contain_text("2 in all")  # the numbers and the chart, too
    expect(page.page.locator(".rate-chart")).to_contain_text("of public.items")
    name.click(modifiers=["Shift"])
    ids(page, "1", "3", "3", "2", "1")
    expect(page.card("Changes")).to_contain_text("5 in all")
    name.click(modifiers=["Shift"])
    expect(page.card("Changes")).to_contain_text("7 in all")


def test_tables_are_sorted_and_pinned(shop: Ground):
    page = shop.open()
    names = page.page.get_by_role("rowheader")
    page.page.get_by_role("button", name="table", exact=True).click()
    expect(names).to_have_text([re.compile("items"), re.compile("orders")])
    page.page.get_by_role("button", name="total", exact=True).click()
    expect(names).to_have_text([re.compile("orders"), re.compile("items")])
    page.page.get_by_role("button", name="Pin public.items").click()
    expect(names).to_have_text([re.compile("items"), re.compile("orders")])
    again = shop.open(page.page.url)
    expect(again.page.get_by_role("rowheader")).to_have_text([re.compile("★.*items"), re.compile("orders")])


def test_the_rows_shown_can_be_saved(shop: Ground):
    page = shop.open(f"{shop.url}?t=items&c=name%21%3Dnew")
    ids(page, "5")
    saved = {}
    for name in ("NDJSON", "CSV"):
        with page.page.expect_download() as download:
            page.page.get_by_role("button", name=name).click()
        assert download.value.suggested_filename.endswith(name.lower())
        saved[name] = Path(download.value.path()).read_text("utf-8")
    [line] = saved["NDJSON"].splitlines()
    assert json.loads(line)["data"] == {"id": 5, "name": 'old "x", y'}
    [row] = csv.DictReader(saved["CSV"].splitlines())
    assert (row["id"], row["name"], row["changefeed_action"]) == ("5", 'old "x", y', "INSERT")
