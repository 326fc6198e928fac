"""In a real browser, the page offers only what the token allows, and explains why."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from changefeed.postgres.named_queries import read_script
from tests import postgres
from tests.chromium import WIDE, Dashboard
from tests.server_process import ServerProcess

TOKEN = "0123456789abcdef0123456789abcdef"
RIGHTS = {"tables": {"public.orders": {"filter": ["customer_id=eq.42"]}, "public.items": {}}}


def test_what_a_token_may_not_do_is_not_offered(chromium: Browser, tmp_path: Path):
    conninfo = postgres.new_database()
    postgres.execute(conninfo, read_script("install.sql"))
    postgres.execute(conninfo, "CREATE TABLE orders (id int PRIMARY KEY, customer_id int); CREATE TABLE items (id int)")
    for table in ("orders", "items"):
        postgres.execute(conninfo, "SELECT changefeed.watch(%s::text::regclass)", [table])
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN} {json.dumps(RIGHTS)}\n")
    flags = ("--port", "0", "--database-url", conninfo, "--token-file", str(tokens))
    with ServerProcess(tmp_path, *flags) as server:
        dashboard = Dashboard(chromium.new_context(viewport=WIDE), f"http://127.0.0.1:{server.port()}/", [])
        page = dashboard.page
        dialog = page.get_by_role("dialog", name="Sign in")
        dialog.get_by_label("Token").fill(TOKEN)
        # Nothing is known of a count before somebody has signed in.
        for card in ("Changes", "INSERT", "UPDATE", "DELETE"):
            expect(dashboard.card(card)).to_contain_text("– in all")
        expect(page.get_by_text("Not known yet.")).to_be_visible()
        expect(page.locator("dl.rest dd")).to_have_text(["–", "–", "–"])
        assert dashboard.violations() == []
        dashboard.complaints.clear()  # of what was refused without a token
        dialog.get_by_role("button").click()
        dashboard.wait_until_live()
        postgres.execute(conninfo, "INSERT INTO orders VALUES (0, 43)")  # which the token does not give
        empty = page.get_by_role("heading", name="Listening on 2 tables. Nothing has come yet that your token may see.")
        expect(empty).to_be_visible()
        expect(page.get_by_text("No counted table has changed yet.")).to_be_visible()
        expect(page.get_by_text("INSERT INTO")).to_have_count(0)
        postgres.execute(conninfo, "INSERT INTO orders VALUES (1, 42), (2, 43); INSERT INTO items VALUES (3)")
        expect(dashboard.tail.locator(".id")).to_have_text(["3", "1"])
        expect(page.get_by_text("read only")).to_be_visible()
        expect(page.get_by_role("button", name="Watch…")).to_have_count(0)
        expect(
            page.get_by_text("Not counted, because your token sees only some of their rows: public.orders")
        ).to_be_visible()
        expect(page.get_by_role("heading", name="Delay not for your token")).to_be_visible()
        expect(dashboard.card("Changes")).to_contain_text("of the counted tables")
        expect(dashboard.notices).to_have_count(0)
        assert dashboard.violations() == []
        page.keyboard.press("w")
        expect(page.get_by_role("dialog").get_by_text("Your token may not watch tables")).to_be_visible()
        assert dashboard.complaints == []
        page.keyboard.press("Escape")
        page.keyboard.press("Control+k")
        page.keyboard.type("sign out")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog", name="Sign in")).to_be_visible()
        page.context.close()


@pytest.mark.parametrize(("payload", "badge", "said"), [("keys", "keys only", '"a"'), ("off", "rows withheld", "")])
def test_the_page_shows_that_rows_are_withheld(chromium: Browser, tmp_path: Path, payload: str, badge: str, said: str):
    conninfo = postgres.new_database()
    postgres.execute(conninfo, "CREATE TABLE orders (code text PRIMARY KEY, note text)")
    flags = ("--port", "0", "--database-url", conninfo, "--watch", "public.orders", "--payload", payload)
    with ServerProcess(tmp_path, *flags) as server:
        dashboard = Dashboard(chromium.new_context(viewport=WIDE), f"http://127.0.0.1:{server.port()}/", [])
        dashboard.wait_until_live()
        postgres.execute(conninfo, "INSERT INTO orders VALUES ('a', 'unseen')")
        expect(dashboard.tail.locator(".id")).to_have_text(said)
        expect(dashboard.page.get_by_role("banner").get_by_text(badge)).to_be_visible()
        expect(dashboard.page.get_by_text(f"are sent (--payload {payload})")).to_be_visible()
        expect(dashboard.card("INSERT")).to_contain_text("1 in all")
        dashboard.tail.first.click()
        expect(dashboard.panel).to_contain_text(f"The server withholds its values (--payload {payload}).")
        assert dashboard.violations() == []
        dashboard.page.context.close()
