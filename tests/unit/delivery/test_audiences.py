"""Whom a change is for: the index gives each audience exactly what picking by itself would."""

import json
from collections.abc import Mapping
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from changefeed.change.change import Change
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.rights import EVERY_TABLE, Grant
from changefeed.selection.subscription import ALL_CHANGES, Selection, Subscription, TableSelection
from handlers.delivery import audiences as audiences_module
from handlers.delivery.audiences import Audience, Audiences
from handlers.delivery.dialects import PLAIN, V1

TABLES: Mapping[str, Mapping[str, Kind]] = {
    "public.a": {"n": Kind.NUMBER, "t": Kind.TEXT},
    "public.b": {"n": Kind.TEXT, "t": Kind.TIMESTAMPTZ},
}
FILTERS = (
    "n=eq.1",
    "n=eq.1.0",
    "n=in.(1,2)",
    "n=gt.1",
    "n=not.eq.1",
    "t=eq.x",
    "t=eq.2026-01-01",
    "n=is.null",
    "t=like.x*",
    "or=(n.eq.1,t.eq.x)",
    "or=(n.in.(1,2),and(t.eq.x,n.gt.1))",
    "or=(n.eq.2,t.is.null)",
    "not.or=(n.not.eq.1,t.eq.x)",
)
rights = st.sampled_from([EVERY_TABLE, EVERY_TABLE, (Grant("public.*"),), (Grant("a"), Grant("made.*"))])
subscriptions = st.builds(
    lambda within, **fields: Subscription.parse(fields, within),
    rights,
    table=st.lists(st.sampled_from(["a", "public.b", "public.*", "c", "made.*", "made.up"]), max_size=2),
    action=st.lists(st.sampled_from(["INSERT", "UPDATE", "TRUNCATE"]), max_size=2),
    filter=st.lists(st.sampled_from(FILTERS), max_size=2),
    columns=st.lists(st.just("n"), max_size=1),
)
values = st.sampled_from([None, 1, 1.0, 2, "x", "2026-01-01T00:00:00+00:00", {"deep": []}])
rows = st.fixed_dictionaries({"n": values, "t": values})


@st.composite
def changes(draw: st.DrawFn) -> Change:
    told = ["public.a", "public.b", "c", "", "a", "made.up", "made.up.too", "public.none", '"a"', "none", "n" * 200]
    table = draw(st.sampled_from(["public.a", *told]))
    is_from_journal = table in TABLES and draw(st.booleans())
    action = draw(st.sampled_from(["INSERT", "UPDATE", "UPDATE", "DELETE", "TRUNCATE"]))
    data = None if action == "TRUNCATE" else draw(rows)
    old = {"old": draw(st.dictionaries(st.sampled_from("nt"), values))} if action == "UPDATE" else {}
    text = json.dumps({"table": table, "action": action, "data": data, **old, "cursor": "1.x"})
    return Change(text, table, action if table else "", 1, 1 if is_from_journal else 0)


def route(audiences: Audiences[int], changes: list[Change]) -> dict[Audience[int], list[str]]:
    """The texts that each audience gets, of those that get any."""
    routed: dict[Audience[int], list[str]] = {}
    for share in audiences.route(changes, None):
        if share and share.changes:
            routed.setdefault(share.audience, []).extend(change.text for change in share.changes)
    return routed


@settings(max_examples=500)
@given(st.lists(st.one_of(st.just(ALL_CHANGES), subscriptions), max_size=6), st.lists(changes(), max_size=6), st.data())
def test_each_audience_gets_its_changes_once(asked: list[Subscription], published: list[Change], data: st.DataObject):
    limit, copies = data.draw(st.sampled_from([1, 1000])), data.draw(st.sampled_from([1, 200, 1 << 20]))
    with (
        mock.patch.multiple(audiences_module, TABLES_LIMIT=limit, UNKNOWN_LIMIT=limit, LEFT_LIMIT=limit),
        mock.patch.object(audiences_module, "COPIES_LIMIT_CHARACTERS", copies),
    ):
        assert_each_gets_what_it_asked_for(asked, published, data)


def assert_each_gets_what_it_asked_for(asked: list[Subscription], published: list[Change], data: st.DataObject) -> None:
    audiences: Audiences[int] = Audiences(
        data.draw(st.sampled_from([lambda table: True, lambda table: table in TABLES]))
    )
    joined = {}
    for client, subscription in enumerate(asked):
        dialect = data.draw(st.sampled_from([PLAIN, V1]))
        joined[client] = audiences.join(client, dialect, Selection(subscription, TABLES.get))
        if data.draw(st.booleans()):
            route(audiences, published)  # so that some come to an index that is there already
    for client in data.draw(st.sets(st.sampled_from(sorted(joined)))) if joined else ():
        audiences.leave(client, joined.pop(client))
    routed = route(audiences, published)
    expected = {
        audience: [change.text for change in Selection(audience.selection.subscription, TABLES.get).pick(published)]
        for audience in set(joined.values())
    }
    assert routed == {audience: texts for audience, texts in expected.items() if texts}


class Lookups:
    """Counts how often a table's columns were asked for."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, table: str) -> Mapping[str, Kind] | None:
        self.count += 1
        return TABLES.get(table)


def of_tables(names: list[str], *, is_from_journal: bool = False) -> list[Change]:
    return [Change(f'{{"table": "{name}"}}', name, "INSERT", 1, 1 if is_from_journal else 0) for name in names]


def join(audiences: Audiences[int], clients: range, columns: Lookups) -> None:
    for client in clients:
        subscription = Subscription.parse({"table": ["public.*", "made.*"], "filter": [f"n=eq.{client}"]})
        audiences.join(client, V1, Selection(subscription, columns))


def test_only_groups_that_may_match_are_asked():
    audiences: Audiences[int] = Audiences()
    for client in range(1_000):
        group = f"or=(n.eq.{client},and(t.eq.{client},n.gt.0))"
        audiences.join(client, V1, Selection(Subscription.parse({"filter": [group]}), TABLES.get))
    text = '{"table": "public.a", "action": "UPDATE", "data": {"n": 7, "t": "8"}, "old": {"n": 9, "t": "3"}, "cursor": "1.x"}'
    published = [Change(text, "public.a", "UPDATE", 1, 1)]
    with mock.patch.object(TableSelection, "pick", autospec=True, side_effect=TableSelection.pick) as picks:
        routed = route(audiences, published)
    assert sorted(client for audience in routed for client in audience.clients) == [3, 7, 8, 9]
    assert picks.call_count == 4


def test_unknown_names_are_looked_up_as_one():
    columns = Lookups()
    audiences: Audiences[int] = Audiences(lambda table: table in TABLES)
    join(audiences, range(20), columns)
    for number in range(300):
        route(audiences, of_tables([f"{number}", f"made.{number}", f"a.b.{number}", f"{number}" + "x" * 7_800]))
    assert columns.count <= 3 * 20
    before = columns.count
    join(audiences, range(20, 30), columns)
    assert columns.count == before  # a newcomer is looked up at the next change
    route(audiences, of_tables(["made.1"]))
    assert columns.count == before + 10


def test_tables_are_kept_up_to_the_limit(monkeypatch):
    monkeypatch.setattr(audiences_module, "TABLES_LIMIT", 10)
    columns = Lookups()
    audiences: Audiences[int] = Audiences()
    join(audiences, range(1), columns)
    for number in range(100):
        route(audiences, of_tables(["public.a", f"public.made{number}"], is_from_journal=True))
    assert columns.count == 101
    assert len(audiences._tables) == 10


def test_indexes_forget_audiences_that_left(monkeypatch):
    monkeypatch.setattr(audiences_module, "LEFT_LIMIT", 10)
    columns = Lookups()
    audiences: Audiences[int] = Audiences()
    for round_ in range(10):
        joined = [
            audiences.join(client, V1, Selection(Subscription.parse({"filter": [f"n=eq.{client}"]}), columns))
            for client in range(5)
        ]
        route(audiences, of_tables([f"public.made{round_}"], is_from_journal=True))
        for client, audience in enumerate(joined):
            audiences.leave(client, audience)
    assert len(audiences._tables) <= 4
