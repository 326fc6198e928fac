"""An open page through a restart of the server, in a real browser: no wrong total, and in the end what a new page shows."""

import re

from playwright.sync_api import Browser, expect

from tests.chromium import WIDE, Dashboard, Ground
from tests.feed_case import ORDERS

BEFORE = 120_000
# Each text of the card from now on.
NOTE = """card => {
  window.seen = [card.innerText];
  new MutationObserver(() => seen.push(card.innerText)).observe(card, { subtree: true, childList: true, characterData: true });
}"""


def totals(page: Dashboard) -> list[str]:
    cards = page.page.get_by_label("Changes in numbers").locator(".card p.muted").all_inner_texts()
    return [*cards, page.table("orders").nth(4).inner_text()]


def test_no_wrong_total_is_shown_during_the_backfill(ground: Ground):
    ground.allow("^WebSocket connection to .* failed: ")
    ground.journal(ORDERS, "orders")
    ground.write("INSERT INTO orders SELECT generate_series(1, %s)", [BEFORE])
    old = ground.open()
    expect(old.card("Changes")).to_contain_text("120,000 in all")
    old.card("Changes").evaluate(NOTE)
    ground.kill()
    expect(old.page).to_have_title("(off) psqlisten2websocket")
    ground.start()
    old.wait_until_live()
    ground.write("INSERT INTO orders VALUES (0)")
    expect(old.card("Changes")).to_contain_text("120,001 in all")
    seen: list[str] = old.page.evaluate("seen")
    assert not [text for text in seen if not re.search("120,00[01] in all|counting earlier changes", text)]
    new = ground.open()
    expect(new.card("Changes")).to_contain_text("120,001 in all")
    assert totals(old) == totals(new)
    expect(old.table("orders").nth(4)).to_have_text("120,001")
    assert old.chart() == new.chart()


def test_the_size_of_the_journal_is_looked_at_each_minute(ground: Ground, chromium: Browser):
    ground.journal(ORDERS, "orders")
    context = chromium.new_context(viewport=WIDE)
    context.add_init_script(
        "const every = setInterval; window.setInterval = (run, ms) => every(run, ms === 60000 ? 100 : ms)"
    )
    page = Dashboard(context, ground.url, ["api/activity", "api/tables"])
    page.wait_until_live()
    journal = page.page.locator(".journal")
    expect(journal).to_contain_text(" of 1 GB")
    before, _, _ = journal.inner_text().partition(" of ")
    ground.write("INSERT INTO orders SELECT generate_series(1, 20000)")
    expect(journal).to_contain_text(" of 1 GB")
    expect(journal).not_to_contain_text(f"{before} of ")
    context.close()
