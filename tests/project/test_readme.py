"""The documents have every setting, route, SQL function and dependency, and every link leads somewhere."""

import re
import tokenize
from pathlib import Path

import pytest

from changefeed import __version__
from changefeed.postgres.named_queries import SQL_DIR
from handlers.metrics.exposition import METRICS
from handlers.routes import ROUTES
from settings.table import GROUPS, SETTINGS, Setting
from tests import ROOT

DOCS = ROOT / "docs"
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "examples" / "README.md",
    *sorted(ROOT.glob("clients/*/README.md")),
    *sorted(DOCS.glob("*.md")),
]
OF_OTHER_PROGRAMS = """
pip --no-deps --require-hashes --no-build-isolation --use-pep517
bench --seconds --clients
make faults --rounds
make benchmark-journal --only
docker --file --tag --publish --env --read-only --tmpfs --cap-drop --build --wait --health-cmd
systemd --now --offline
pg_dump --exclude-schema --exclude-table-data
"""
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
CHANGELOG_GROUPS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
LAST_LINE = "Before this there was a program in Go: [From the original](docs/migrating.md#from-the-original).\n"
MERGED_BADLY = (
    "CHANGELOG.md has old lines again, which a merge by union brought back: "
    "`git checkout main -- CHANGELOG.md`, then add your line to its group below `## Unreleased`"
)


def link_targets(document: Path) -> list[tuple[Path, str]]:
    """The files and headings of them that the document links to."""
    links = re.findall(r"(?:\]\(|src(?:set)?=\")(?!https?:)([^)\"\s]+)[)\"]", document.read_text("utf-8"))
    parts = [link.partition("#") for link in links]
    return [((document.parent / name).resolve() if name else document, anchor) for name, _, anchor in parts]


def flags(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))


def anchors(document: Path) -> list[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.flag)
def test_every_setting_is_in_the_table_of_settings(setting: Setting):
    assert f"| `{setting.flag}` |" in (DOCS / "settings.md").read_text("utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_a_heading_of_it(document: Path):
    for target, anchor in link_targets(document):
        assert target.exists(), target
        assert not anchor or anchor in anchors(target), f"{target}#{anchor}"


def test_every_document_is_reached_by_links_from_the_readme():
    reached: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        document = ahead.pop()
        if document not in reached:
            reached.add(document)
            ahead += [target for target, _ in link_targets(document) if target.suffix == ".md"]
    assert set(DOCUMENTS) <= reached


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"], ids=lambda path: path.name
)
def test_every_flag_in_a_document_is_a_setting(document: Path):
    known = {setting.flag for setting in SETTINGS} | {"--help"}
    assert flags(document.read_text("utf-8")) <= known | flags(OF_OTHER_PROGRAMS)


@pytest.mark.parametrize("path", [route.regex.pattern.rstrip("$") for route in ROUTES])
def test_every_route_is_in_the_table_of_routes(path: str):
    # The dashboard's own files and the page's argument are no route that anybody asks for.
    if "assets" not in path:
        shown = (
            path.replace("\\.", ".")
            .replace("()", "")
            .replace("listen/(.+)", "listen/CHANNEL")
            .replace("(.+)", "SCHEMA.TABLE")
        )
        assert re.search(rf"^\| `{re.escape(shown)}[`?]", (DOCS / "http-api.md").read_text("utf-8"), re.MULTILINE)


def test_every_public_function_is_in_the_table_of_functions():
    scripts = "".join(path.read_text("utf-8") for path in SQL_DIR.glob("*.sql"))
    for_users = set(re.findall(r"^COMMENT ON FUNCTION changefeed\.(\w+)", scripts, re.MULTILINE))
    assert for_users == set(
        re.findall(r"^\| `changefeed\.(\w+)\(", (DOCS / "database.md").read_text("utf-8"), re.MULTILINE)
    )


@pytest.mark.parametrize("name", re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
def test_every_dependency_has_its_line(name: str):
    assert re.search(rf"^\|.*\b{re.escape(name)}\b.*\|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)


def test_every_file_that_the_architecture_names_is_there():
    names = re.findall(r"`([\w./-]+\.(?:py|sql))`", (DOCS / "architecture.md").read_text("utf-8"))
    assert names
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in (".venv", "frontend", "tests")]
    ours = {path.name for folder in folders for path in folder.rglob("*.*")}
    assert set(names) <= ours | {"server.py"}


def test_the_tables_of_settings_follow_the_groups_of_the_help():
    text = (DOCS / "settings.md").read_text("utf-8")
    for group, settings in GROUPS.items():
        section = text.partition(f"\n## {group.capitalize()}\n")[2].partition("\n## ")[0]
        assert re.findall(r"^\| `(--[\w-]+)` \|", section, re.MULTILINE) == [setting.flag for setting in settings]


def test_the_readme_is_of_one_page():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


# Words of a private dialect, and plain English for them: CONTRIBUTING.md, "Style".
PRIVATE_WORDS = [
    "anew",
    "comes of",
    "is told",
    "are told",
    "so many",
    "what is left",
    "who comes",
    "hears",
    "his",
    "he",
]
# And those that stay out of the code's comments, docstrings and messages.
PRIVATE_WORDS_IN_CODE = [*PRIVATE_WORDS, "him", "be had", "whichever", "as they ought to be"]
# And these out of the product's: they do not say whether it is a client, a role or a session.
PRIVATE_WORDS_IN_PROGRAMS = ["somebody", "whoever", "anybody", "everybody"]
# These stay out of the names of tests, which say what is checked.
PRIVATE_WORDS_IN_NAMES = [
    *PRIVATE_WORDS,
    "told",
    "who",
    "whoever",
    "nobody",
    "somebody",
    "anybody",
    "stands",
    "hears",
    "heard",
]
THIS = Path(__file__)
PROGRAMS = [
    ROOT / "server.py",
    *(
        path
        for room in ("app", "changefeed", "clients", "commands", "handlers", "process", "settings")
        for path in sorted(ROOT.glob(f"{room}/**/*.py"))
    ),
]
SCRIPTS = [
    *sorted(SQL_DIR.glob("*.sql")),
    *(path for path in sorted(ROOT.glob("frontend/src/**/*.*")) if path.suffix in (".svelte", ".ts")),
    *sorted(ROOT.glob("frontend/client/*.ts")),
]
TESTS = [
    path for pattern in ("tests/**/*.py", "benchmarks/*.py") for path in sorted(ROOT.glob(pattern)) if path != THIS
]


@pytest.mark.parametrize("word", PRIVATE_WORDS)
def test_the_help_is_in_plain_english(word: str):
    helps = {setting.flag: setting.help for setting in SETTINGS} | {metric.name: metric.help for metric in METRICS}
    for name, text in helps.items():
        assert not re.search(rf"(?<![\w-]){word}(?![\w-])", text, re.IGNORECASE), f"{name}: {word}"


@pytest.mark.parametrize("word", PRIVATE_WORDS)
def test_the_documents_are_in_plain_english(word: str):
    for document in DOCUMENTS:
        if document.name not in ("CHANGELOG.md", "faults.md"):  # the latter quotes the program that makes it
            prose = document.read_text("utf-8").replace("\n", " ")
            assert not re.search(rf"(?<![\w-]){word}(?![\w-])", prose, re.IGNORECASE), f"{document.name}: {word}"


def prose_of(program: Path) -> str:
    """Its comments and its strings, docstrings included; all of what is not Python, without the marks of its comments."""
    if program.suffix != ".py":
        return re.sub(r"^\s*(?:--|//|\*)", "", program.read_text("utf-8"), flags=re.MULTILINE)
    with program.open("rb") as file:
        tokens = [
            token for token in tokenize.tokenize(file.readline) if token.type in (tokenize.COMMENT, tokenize.STRING)
        ]
    return "\n".join(token.string for token in tokens if " " in token.string)


@pytest.mark.parametrize("program", [*PROGRAMS, *TESTS, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_program_is_in_plain_english(program: Path):
    prose = " ".join(prose_of(program).split())
    words = PRIVATE_WORDS_IN_CODE if program in TESTS else [*PRIVATE_WORDS_IN_CODE, *PRIVATE_WORDS_IN_PROGRAMS]
    found = [word for word in words if re.search(rf"(?<![\w-]){word}(?![\w-])", prose, re.IGNORECASE)]
    assert found == []


def test_tests_have_names_in_plain_english():
    for path in TESTS:
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE):
            prose = f" {name.replace('_', ' ')} "
            assert [word for word in PRIVATE_WORDS_IN_NAMES if f" {word} " in prose] == [], f"{path}: {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_each_command_names_its_python_and_its_database(document: Path):
    if document.name != "CHANGELOG.md":
        text = document.read_text("utf-8")
        assert not re.search(r"(?<![/\w])python (server|examples/\w+)\.py", text)  # the system's lacks the packages
        assert not re.search(r"psql -f sql/uninstall\.sql(?! \"\$DATABASE_URL\")", text)


def versions() -> dict[str, str]:
    """Each version's text by its heading, the newest first."""
    parts = re.split(r"^## (.+)$", CHANGELOG, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def items(text: str) -> list[str]:
    """On one line each."""
    return [" ".join(item.split()) for item in re.findall(r"^- .*(?:\n  .*)*", text, re.MULTILINE)]


def test_nothing_comes_after_the_last_line_of_the_changelog():
    assert CHANGELOG.endswith(LAST_LINE), MERGED_BADLY


def test_no_item_of_the_changelog_comes_twice():
    found = items(CHANGELOG)
    assert len(found) == len(set(found)), MERGED_BADLY


def test_the_newest_version_is_this_one():
    unreleased, *released = versions()
    assert unreleased == "Unreleased"
    assert released[0].startswith(f"{__version__} - ")
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", heading) for heading in released)


def test_every_item_of_a_version_is_in_a_group_of_the_changelog():
    for heading, text in versions().items():
        before, *parts = re.split(r"^### (.+)$", text, flags=re.MULTILINE)
        assert not items(before), f"{heading}: {MERGED_BADLY}"
        assert parts[::2] == sorted(parts[::2], key=CHANGELOG_GROUPS.index)
        assert all(items(group) for group in parts[1::2])
