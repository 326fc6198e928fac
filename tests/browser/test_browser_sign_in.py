"""In a real browser, a server that asks for a token shows its dashboard after signing in."""

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests import postgres
from tests.server_process import ServerProcess

TOKEN = "0123456789abcdef0123456789abcdef"


def test_the_dashboard_asks_for_the_token_and_lives_once_it_has_it(chromium: Browser, tmp_path: Path):
    flags = ("--port", "0", "--database-url", postgres.new_database())
    with ServerProcess(tmp_path, *flags, TOKEN=TOKEN) as server:
        page = chromium.new_context().new_page()
        page.goto(f"http://127.0.0.1:{server.port()}/")
        dialog = page.get_by_role("dialog", name="Sign in")
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        expect(dialog).to_be_visible()
        dialog.get_by_label("Token").fill("wrong")
        dialog.get_by_role("button").click()
        expect(dialog.get_by_role("alert")).to_contain_text("token")
        dialog.get_by_label("Token").fill(TOKEN)
        dialog.get_by_role("button").click()
        expect(dialog).to_have_count(0)
        expect(page.locator(".light", has_text="browser → server").locator("dd")).to_have_text("● Live")
        assert page.evaluate("document.cookie") == ""
        page.context.close()
