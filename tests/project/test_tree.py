"""The tests mirror the tree: a unit test bears the name of its module, so that a behaviour has one place to look for."""

import ast
from pathlib import Path

import pytest

from tests import ROOT

TESTS = ROOT / "tests"
ROOMS = {
    path.name: path
    for package in ("app", "changefeed", "commands", "handlers", "process", "settings")
    for path in (ROOT / package, *(ROOT / package).iterdir())
    if (path / "__init__.py").exists()
}
UNIT_TESTS = sorted((TESTS / "unit").glob("*/test_*.py"))
MODULES = {
    str(path.relative_to(ROOT)): path
    for room in ROOMS.values()
    for path in room.glob("*.py")
    if path.stem != "__init__"
}
# Where the behaviour of a module without a test of its name is tested.
TESTED_BY = {
    "app/announcement.py": "process/test_server.py",
    "app/run.py": "process/test_stopping.py",
    "app/running.py": "process/test_server.py",
    "app/source.py": "process/test_server.py",
    "app/starting.py": "process/test_refused_starts.py",
    "app/workers.py": "process/test_processes.py",
    "changefeed/hub.py": "server/test_plain_channel.py",
    "changefeed/change/changed_row.py": "unit/selection/test_filters.py",
    "changefeed/change/exposure.py": "server/test_payload.py",
    "changefeed/change/gap.py": "server/test_gaps.py",
    "changefeed/change/times.py": "server/test_journal_feed.py",
    "changefeed/counts/buckets.py": "unit/counts/test_tally.py",
    "changefeed/counts/delays.py": "unit/counts/test_tally.py",
    "changefeed/journal/entries.py": "server/test_illegible_names.py",
    "changefeed/journal/follower.py": "server/test_journal_feed.py",
    "changefeed/journal/installation.py": "server/test_watching.py",
    "changefeed/journal/signed_cursor.py": "server/test_cursor_in_sql.py",
    "changefeed/ordering/digests.py": "unit/ordering/test_nested_order.py",
    "changefeed/ordering/row_states.py": "unit/ordering/test_state_walk.py",
    "changefeed/ordering/statement_order.py": "unit/ordering/test_transaction_order.py",
    "changefeed/postgres/apart.py": "server/test_illegible_names.py",
    "changefeed/postgres/clock_offset.py": "server/test_dashboard.py",
    "changefeed/postgres/legible.py": "server/test_illegible_names.py",
    "changefeed/postgres/raw_channels.py": "server/test_raw.py",
    "changefeed/postgres/trust.py": "sql/test_foreign_schema.py",
    "changefeed/rows/explain.py": "server/test_rows_rights.py",
    "changefeed/rows/reading.py": "server/test_rows_then_changes.py",
    "changefeed/rows/readings.py": "server/test_rows_then_changes.py",
    "changefeed/rows/refusal.py": "unit/rows/test_query.py",
    "changefeed/selection/catalog.py": "server/test_lookout.py",
    "changefeed/selection/filter_text.py": "unit/selection/test_filters.py",
    "changefeed/selection/filter_times.py": "unit/selection/test_filter_kinds.py",
    "changefeed/selection/like.py": "unit/selection/test_filters_growth.py",
    "changefeed/selection/visibility.py": "unit/selection/test_rights.py",
    "commands/examined.py": "process/test_doctor.py",
    "commands/journal_checks.py": "process/test_doctor.py",
    "commands/server_checks.py": "process/test_doctor.py",
    "handlers/access/admission.py": "server/test_limits.py",
    "handlers/access/authentication.py": "server/test_access.py",
    "handlers/access/expiry.py": "unit/access/test_admitted.py",
    "handlers/access/frame_limit.py": "server/test_floods.py",
    "handlers/access/jwks.py": "unit/access/test_tokens.py",
    "handlers/api/changes.py": "server/test_journal_feed.py",
    "handlers/api/health.py": "server/test_listener.py",
    "handlers/api/lookup.py": "server/test_dashboard.py",
    "handlers/api/schemas.py": "server/test_openapi.py",
    "handlers/api/status.py": "server/test_routes.py",
    "handlers/dashboard/count_policies.py": "server/test_dashboard.py",
    "handlers/dashboard/session.py": "server/test_access.py",
    "handlers/dashboard/socket.py": "server/test_dashboard.py",
    "handlers/dashboard/static.py": "server/test_routes.py",
    "handlers/dashboard/view.py": "server/test_dashboard.py",
    "handlers/dashboard/visible_counts.py": "server/test_dashboard.py",
    "handlers/delivery/change_counts.py": "server/test_metrics.py",
    "handlers/delivery/client_counts.py": "server/test_metrics.py",
    "handlers/delivery/dashboards.py": "server/test_dashboard.py",
    "handlers/delivery/delivery_counts.py": "server/test_metrics.py",
    "handlers/delivery/dialects.py": "unit/delivery/test_audiences.py",
    "handlers/delivery/raw_clients.py": "server/test_raw.py",
    "handlers/delivery/row_sample.py": "server/test_dashboard.py",
    "handlers/feed/client.py": "server/test_live_state.py",
    "handlers/feed/query.py": "server/test_subscribe.py",
    "handlers/feed/start.py": "server/test_live_state.py",
    "handlers/http/base.py": "server/test_routes.py",
    "handlers/http/certificate.py": "process/test_tls.py",
    "handlers/http/close_codes.py": "server/test_limits.py",
    "handlers/http/context.py": "server/test_live_state.py",
    "handlers/http/query_names.py": "server/test_subscribe.py",
    "handlers/http/server.py": "server/test_floods.py",
    "handlers/http/socket.py": "server/test_websocket.py",
    "handlers/metrics/exposition.py": "server/test_metrics.py",
    "handlers/metrics/gauges.py": "server/test_metrics.py",
    "process/open_files.py": "process/test_stopping.py",
    "process/shared_numbers.py": "server/test_metrics.py",
    "process/supervisor.py": "process/test_processes.py",
    "settings/sources.py": "unit/settings/test_settings.py",
    "settings/table.py": "unit/settings/test_settings.py",
    "settings/values.py": "unit/settings/test_settings.py",
}


def label(path: Path) -> str:
    return str(path.relative_to(TESTS))


@pytest.mark.parametrize("test", UNIT_TESTS, ids=label)
def test_a_unit_test_bears_the_name_of_its_module_or_room(test: Path):
    """After it may come what of the module it tests: test_filters_growth.py."""
    room = ROOMS[test.parent.name]
    names = {room.name, *(path.stem for path in room.glob("*.py"))}
    subject = test.stem.removeprefix("test_")
    assert any(subject == name or subject.startswith(f"{name}_") for name in names), sorted(names)


def may_test(test: Path, module: Path) -> bool:
    """Whether the test is of a kind that may be this module's; other rooms, and other languages, have the same names."""
    kind, package = test.relative_to(TESTS).parts[0], module.relative_to(ROOT).parts[0]
    if kind == "unit":
        return test.parent.name == module.parent.name
    return kind in ("sql", "server") or (kind == "process" and package in ("app", "commands", "process", "settings"))


def has_test_of_its_name(module: Path) -> bool:
    names = [path.stem.removeprefix("test_") for path in TESTS.rglob("test_*.py") if may_test(path, module)]
    return any(name == module.stem or name.startswith(f"{module.stem}_") for name in names)


def test_every_module_has_a_test_of_its_name_or_one_that_is_named_here():
    assert {name for name, module in MODULES.items() if not has_test_of_its_name(module)} == TESTED_BY.keys()
    assert [test for test in TESTED_BY.values() if not (TESTS / test).exists()] == []


@pytest.mark.parametrize("folder", sorted(TESTS.rglob("__init__.py")), ids=label)
def test_a_folder_begins_by_saying_in_a_sentence_what_is_in_it(folder: Path):
    first_line = (ast.get_docstring(ast.parse(folder.read_text("utf-8"))) or "").partition("\n")[0]
    assert first_line[:1].isupper()
    assert first_line.endswith((".", ":"))


def test_every_test_is_in_a_folder_of_its_kind():
    kinds = {path.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py")}
    assert kinds == {"unit", "sql", "server", "browser", "process", "project"}
