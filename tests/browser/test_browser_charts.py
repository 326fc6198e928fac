"""The charts in a real browser: windows, zoom, the crosshair, and the same as a table."""

import re

import pytest
from playwright.sync_api import Locator, expect

from tests.chromium import Dashboard, Ground


@pytest.fixture(scope="module", autouse=True)
def rows(shop: Ground) -> None:
    shop.write("INSERT INTO orders SELECT generate_series(1, 30)")


def window(page: Dashboard, name: str) -> Locator:
    return page.page.get_by_role("group", name="Window of the charts").get_by_role("button", name=name, exact=True)


def drag_over_chart(page: Dashboard) -> None:
    box = page.page.locator(".rate-chart .u-over").bounding_box()
    assert box
    y = box["y"] + 40
    page.page.mouse.move(box["x"] + box["width"] * 0.25, y)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + box["width"] * 0.5, y, steps=4)
    page.page.mouse.up()


def test_buttons_and_keys_choose_the_window_and_load_history(shop: Ground):
    page = shop.open()
    expect(window(page, "5m")).to_have_attribute("aria-pressed", "true")
    with page.page.expect_response(re.compile("step=60")) as answer:
        window(page, "24h").click()
    assert answer.value.json()["step_seconds"] == 60
    expect(page.page.locator(".rate-chart .period")).to_contain_text("mean of 60 s")
    page.page.keyboard.press("[")
    expect(window(page, "1h")).to_have_attribute("aria-pressed", "true")
    expect(page.page.locator(".rate-chart .period")).to_contain_text("mean of 10 s")
    expect(page.page).to_have_url(re.compile(r"\?w=1h$"))


def test_dragging_zooms_charts_tables_and_rows(shop: Ground):
    page = shop.open()
    expect(page.tail.first).to_be_visible()
    drag_over_chart(page)
    expect(page.page).to_have_url(re.compile(r"from=\d+&to=\d+"))
    expect(page.page.get_by_role("button", name="in span")).to_be_visible()
    expect(page.chips).to_have_text([re.compile(r"\d\d:\d\d:\d\d – \d\d:\d\d:\d\d")])
    # The page is young: before it nothing had changed.
    expect(page.page.get_by_text("0 of 30 rows here match the filter.")).to_be_visible()
    first = page.page.locator(".rate-chart .period").inner_text()
    page.page.keyboard.press("ArrowRight")
    expect(page.page.locator(".rate-chart .period")).not_to_have_text(first)
    page.page.locator(".rate-chart .u-over").dblclick()
    expect(page.chips).to_have_count(0)
    expect(page.tail.first).to_be_visible()


def test_the_wheel_zooms_with_ctrl_only_around_what_is_pointed_at(shop: Ground):
    page = shop.open(viewport={"width": 1280, "height": 600})
    expect(page.tail.first).to_be_visible()
    page.page.locator(".rate-chart .u-over").hover()
    page.page.keyboard.down("Control")
    page.page.mouse.wheel(0, -100)
    expect(page.page).to_have_url(re.compile(r"from=\d+&to=\d+"))
    first = span_of(page)
    page.page.mouse.wheel(0, -100)
    page.page.wait_for_function("before => !location.search.includes(before)", arg=f"from={first[0]}")
    second = span_of(page)
    assert first[0] <= second[0] < second[1] <= first[1]
    page.page.keyboard.up("Control")
    page.page.mouse.wheel(0, 100)
    page.page.wait_for_function("() => scrollY > 0")
    assert span_of(page) == second


def span_of(page: Dashboard) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"(?:from|to)=(\d+)", page.page.url)))


def test_both_charts_share_the_crosshair(shop: Ground):
    page = shop.open()
    page.page.locator(".delay-chart .u-over").hover(position={"x": 60, "y": 20})
    # Both at one moment: the charts move on each second.
    page.page.wait_for_function(
        r"""() => {
            const texts = [...document.querySelectorAll(".time.muted")].map((time) => time.checkVisibility() && time.innerText)
            const times = texts.filter((text) => /^\d\d:\d\d:\d\d$/.test(text))
            return times.length === 2 && times[0] === times[1]
        }"""
    )


def test_the_delay_of_writes_is_measured(shop: Ground):
    page = shop.open()
    shop.write("INSERT INTO items SELECT generate_series(1, 5)")
    expect(page.card("Delay").locator("dd")).to_have_text([re.compile(r"\d (ms|s)$")] * 3)


def test_the_charts_are_a_table_too(shop: Ground):
    page = shop.open()
    page.page.get_by_role("button", name="as table").click()
    lines = page.page.get_by_role("region", name="The charts as a table").get_by_role("row")
    expect(lines.nth(1).get_by_role("rowheader")).to_have_text(re.compile(r"\d\d:\d\d:\d\d"))
    expect(lines.first).to_contain_text("INSERT/s")
    assert page.violations() == []


def test_times_are_shown_in_utc_or_local(shop: Ground):
    page = shop.open(timezone_id="Asia/Kolkata")
    local = page.page.locator(".tail, ol").first.locator(".time").first.inner_text()
    page.page.keyboard.press("z")
    expect(page.page.get_by_role("button", name="UTC")).to_be_visible()
    utc = page.page.locator("ol").first.locator(".time").first.inner_text()
    # Five and a half hours apart.
    minutes = [int(text[:2]) * 60 + int(text[3:5]) for text in (local, utc)]
    assert (minutes[0] - minutes[1]) % 1440 == 330
