"""The README says all there is: every setting, every route, every dependency."""

import re
from pathlib import Path

import pytest

from changefeed.queries import SQL_DIR
from changefeed.settings import SETTINGS, Setting
from handlers.routes import ROUTES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.flag)
def test_every_setting_stands_in_the_table_of_settings(setting: Setting):
    assert f"| `{setting.flag}` |" in README


@pytest.mark.parametrize(
    "document",
    [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda path: path.name,
)
def test_every_link_leads_to_a_file_and_a_heading_of_it(document: Path):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text("utf-8")):
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], link


def test_every_flag_in_the_readme_is_a_setting():
    ours = {setting.flag for setting in SETTINGS} | {
        "--no-deps",
        "--require-hashes",
        "--no-build-isolation",
        "--seconds",
        "--clients",
    }
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= ours


@pytest.mark.parametrize("path", [route.regex.pattern.rstrip("$") for route in ROUTES])
def test_every_route_stands_in_the_table_of_routes(path: str):
    # The dashboard's own files and the page's argument are no route that anybody asks for.
    if "assets" not in path:
        shown = (
            path.replace("\\.", ".")
            .replace("()", "")
            .replace("listen/(.+)", "listen/CHANNEL")
            .replace("(.+)", "SCHEMA.TABLE")
        )
        assert re.search(rf"^\| `{re.escape(shown)}[`?]", README, re.MULTILINE)


def test_every_function_that_says_it_is_for_users_stands_in_the_table_of_functions():
    scripts = "".join(path.read_text("utf-8") for path in SQL_DIR.glob("*.sql"))
    for_users = set(re.findall(r"^COMMENT ON FUNCTION changefeed\.(\w+)", scripts, re.MULTILINE))
    assert for_users == set(re.findall(r"^\| `changefeed\.(\w+)\(", README, re.MULTILINE))


@pytest.mark.parametrize("name", re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
def test_every_dependency_has_its_line(name: str):
    assert re.search(rf"^\|.*\b{re.escape(name)}\b.*\|", README, re.MULTILINE)
