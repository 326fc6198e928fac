"""Rights: what they name, what is refused, and that nothing else is picked, sent or checked."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed.change.change import Change
from changefeed.change.table_names import TableName, as_written, could_mean
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.rights import (
    ALL_RIGHTS,
    EVERY_TABLE,
    BadRights,
    Grants,
    Rights,
    TableRights,
    fingerprint,
    table_rights_of_any,
    unchecked,
)
from changefeed.selection.subscription import ALL_CHANGES, BadSubscription, Selection, Subscription, check_subscribable
from tests.unit.selection.test_subscription import change

TABLES: Mapping[str, Mapping[str, Kind]] = {
    "public.orders": {"id": Kind.NUMBER, "customer_id": Kind.NUMBER, "status": Kind.TEXT, "gone_at": Kind.TIMESTAMPTZ},
    "public.salaries": {"id": Kind.NUMBER, "amount": Kind.NUMBER},
    "sales.orders": {"id": Kind.NUMBER},
}
MINE: Any = {"public.orders": {"filter": ["customer_id=eq.42"]}}
CURSOR = "4d2.AY3f"


def grants(tables: Mapping[str, Any]) -> Grants:
    return Rights.parse({"tables": tables}).tables


def table_rights(within: Grants, table: str) -> TableRights | None:
    """For a name, without asking a database what it means."""
    return table_rights_of_any(within, as_written(table))


def seen(one: Change, tables: Mapping[str, Any], **fields: str) -> dict[str, Any] | None:
    asked = Subscription.parse({name: [text] for name, text in fields.items()}, grants(tables))
    picked = Selection(asked, TABLES.get, lambda cursor: "sealed").pick([one])
    return json.loads(picked[0].text) if picked else None


def row(**values: Any) -> str:
    return json.dumps({"id": 7, "customer_id": 42, "status": "open", **values}, separators=(",", ":"))


# -- what they say


def test_without_a_word_there_is_no_right():
    assert Rights.parse({}) == Rights() == Rights.parse({"tables": {}, "channels": [], "admin": False})
    assert seen(change("INSERT", row()), {}) is None


def test_every_table_without_limits_is_everything():
    said = {"tables": {"*": {}}, "channels": ["*"], "admin": True}
    assert Rights.parse(said) == ALL_RIGHTS
    assert Subscription.parse({}, ALL_RIGHTS.tables) == ALL_CHANGES


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        "all",
        {"table": {"orders": {}}},
        {"tables": ["orders"]},
        {"tables": {"orders": {"filters": ["id=eq.1"]}}},
        {"tables": {"orders": None}},
        {"tables": {"orders": {"columns": None}}},
        {"tables": {"orders": {"columns": "id"}}},
        {"tables": {"orders": {"filter": "id=eq.1"}}},
        {"tables": {"orders": {"filter": ["id"]}}},
        {"tables": {"orders": {"filter": ["id=in.1"]}}},
        {"tables": {"": {}}},
        {"tables": {".*": {}}},
        {"tables": {"ord*": {}}},
        {"channels": "people"},
        {"channels": [1]},
        {"admin": 1},
        {"admin": "true"},
    ],
)
def test_what_is_not_understood_gives_nothing(said: object):
    with pytest.raises(BadRights):
        Rights.parse(said)


@pytest.mark.parametrize(
    ("pattern", "covered"),
    [
        ("*", {"public.orders", "sales.orders", "orders", "a.b.c", "public.orders2", "sales2.items"}),
        ("orders", {"public.orders", "sales.orders", "orders"}),
        ("public.orders", {"public.orders"}),
        ("sales.*", {"sales.orders"}),
        ("a.*", set()),
        ("a.b.c", set()),
        ("b.c", set()),
    ],
)
def test_a_pattern_covers_just_these(pattern: str, covered: set[str]):
    names = {"public.orders", "sales.orders", "orders", "a.b.c", "public.orders2", "sales2.items"}
    assert {name for name in names if table_rights(grants({pattern: {}}), name)} == covered


LIMITED: Any = {"*": {}, "hr.*": {"columns": ["id"]}}
TELLING = '{"table": "salaries", "action": "UPDATE", "data": {"id": 1, "amount": 99002}}'


def test_a_limit_holds_for_a_name_with_dots_in_it():
    text = (
        '{"table": "pay.roll", "action": "INSERT", "data": {"id":1,"amount":555}, "schema": "hr", "cursor": "4d2.AY3f"}'
    )
    one = Change(text, 'hr."pay.roll"', "INSERT", 9213, 1234)
    assert seen(one, LIMITED)["data"] == {"id": 1}  # type: ignore[index]
    assert table_rights(grants({"*": {}, "hr.pay.roll": {"columns": ["id"]}}), 'hr."pay.roll"') == TableRights(
        frozenset({"id"}), ()
    )


def test_a_limit_holds_for_a_bare_name_that_could_be_of_its_table():
    assert seen(Change(TELLING, "salaries", "UPDATE"), LIMITED)["data"] == {"id": 1}  # type: ignore[index]
    assert seen(Change(TELLING, "salaries", "UPDATE"), {"hr.*": {}}) is None
    dotted = Change(TELLING.replace("salaries", "pay.roll"), "pay.roll", "UPDATE")
    asked = Subscription.parse({}, grants(LIMITED))
    [one] = Selection(asked, TABLES.get, meanings=could_mean).pick([dotted])
    assert json.loads(one.text)["data"] == {"id": 1}


@pytest.mark.parametrize(
    ("meant", "data"),
    [
        ([("hr", "salaries")], {"id": 1}),
        ([("public", "salaries")], {"id": 1, "amount": 99002}),
        ([("public", "salaries"), ("hr", "salaries")], {"id": 1}),
        ([("public", "salaries"), ("secret", "salaries")], None),
    ],
)
def test_a_bare_name_means_the_catalogs_tables(meant: list[tuple[str, str]], data: Any):
    tables = {"public.*": {}, "hr.*": {"columns": ["id"]}}
    asked = Subscription.parse({}, grants(tables))
    selection = Selection(asked, TABLES.get, meanings=lambda name: [TableName(*one) for one in meant])
    picked = selection.pick([Change(TELLING, "salaries", "UPDATE")])
    assert [json.loads(one.text)["data"] for one in picked] == ([] if data is None else [data])


def test_an_ambiguous_pattern_gives_nothing_and_limits_all():
    assert table_rights(grants({"a.b.c": {}}), 'a."b.c"') is None
    limits = grants({"*": {}, "a.b.c": {"columns": ["id"]}})
    for name in ('a."b.c"', '"a.b".c', '"a.b.c"'):
        assert table_rights(limits, name) == TableRights(frozenset({"id"}), ())
    assert table_rights(limits, "a.b") == TableRights(None, ())


def test_an_update_of_hidden_columns_is_not_sent():
    assert seen(change("UPDATE", row(), '{"status": "new"}'), {"orders": {"columns": ["id"]}}) is None
    assert seen(change("UPDATE", row(), '{"status": "new", "id": 6}'), {"orders": {"columns": ["id"]}}) is not None
    # Of one that was left out by `omit`, or of none.
    assert seen(change("UPDATE", row(), "{}"), {"orders": {"columns": ["id"]}}) is None
    assert seen(change("UPDATE", row(), "{}"), {"orders": {}}) is not None


@pytest.mark.parametrize("value", [9, 1000, True])
def test_a_value_of_another_type_than_the_column_had_shuts_its_row(value: Any):
    texts = {"public.orders": {"status": Kind.TEXT}}
    for terms in ("status=lt.50", "status=neq.x"):
        asked = Subscription.parse({}, grants({"orders": {"filter": [terms]}}))
        assert Selection(asked, texts.get).pick([change("INSERT", row(status=value))]) == []
    numbers = {"public.orders": {"id": Kind.NUMBER}}
    asked = Subscription.parse({}, grants({"orders": {"filter": ["id=lt.50"]}}))
    assert Selection(asked, numbers.get).pick([change("INSERT", row(id="9"))]) == []


def test_what_several_patterns_say_of_a_table_must_all_hold():
    tables = {
        "*": {"columns": ["id", "status"]},
        "orders": {"columns": ["id", "customer_id"]},
        "public.*": {"filter": ["status=eq.open"]},
        "public.orders": {"filter": ["customer_id=eq.42"]},
    }
    shown = seen(change("INSERT", row()), tables)
    assert shown is not None
    assert shown["data"] == {"id": 7}
    assert seen(change("INSERT", row(status="paid")), tables) is None
    assert seen(change("INSERT", row(customer_id=43)), tables) is None


# -- what is seen


def test_of_a_table_without_right_nothing_is_seen():
    assert seen(change("TRUNCATE", "null", table="public.salaries"), MINE) is None
    assert seen(change("INSERT", '{"id":1}', table="public.salaries"), MINE) is None
    assert seen(Change('{"any": "JSON"}', "", ""), MINE) is None


def test_a_change_that_is_seen_tells_of_no_others():
    shown = seen(change("UPDATE", row(), '{"status": "new"}'), MINE)
    assert shown == {
        "table": "orders",
        "action": "UPDATE",
        "data": {"id": 7, "customer_id": 42, "status": "open"},
        "schema": "public",
        "old": {"status": "new"},
        "at": "2026-11-22T07:13:08+00:00",
        "cursor": "sealed",
    }


def test_hidden_columns_are_in_neither_row():
    shown = seen(
        change("UPDATE", row(), '{"status": "new", "customer_id": 1}'), {"orders": {"columns": ["id", "status"]}}
    )
    assert shown is not None
    assert (shown["data"], shown["old"]) == ({"id": 7, "status": "open"}, {"status": "new"})
    assert seen(change("INSERT", row()), {"orders": {"columns": []}})["data"] == {}  # type: ignore[index]


def test_a_row_that_comes_into_sight_shows_nothing_of_what_it_was():
    shown = seen(change("UPDATE", row(), '{"customer_id": 43, "status": "theirs"}'), MINE)
    assert shown is not None
    assert (shown["filter"], shown["data"], shown.get("old")) == ("enter", json.loads(row()), None)


def test_a_row_that_leaves_the_rights_is_shown_as_before():
    shown = seen(change("UPDATE", row(customer_id=43, status="theirs"), '{"customer_id": 42, "status": "open"}'), MINE)
    assert shown is not None
    assert (shown["filter"], shown["data"], shown.get("old")) == ("leave", json.loads(row()), None)


@pytest.mark.parametrize("action", ["INSERT", "UPDATE", "DELETE"])
def test_a_row_that_was_never_in_sight_is_not_seen(action: str):
    old = '{"status": "new", "customer_id": 44}' if action == "UPDATE" else ""
    assert seen(change(action, row(customer_id=43), old), MINE) is None


def test_what_is_asked_for_is_asked_of_what_is_seen():
    leaves = change("UPDATE", row(customer_id=43, status="paid"), '{"customer_id": 42, "status": "open"}')
    assert seen(leaves, MINE, filter="status=eq.paid") is None  # else the answer told the new value
    assert seen(leaves, MINE, filter="status=eq.open")["filter"] == "leave"  # type: ignore[index]
    enters = change("UPDATE", row(), '{"customer_id": 43, "status": "theirs"}')
    assert seen(enters, MINE, filter="status=eq.theirs") is None
    within = change("UPDATE", row(), '{"status": "new"}')
    assert seen(within, MINE, filter="status=eq.open")["filter"] == "enter"  # type: ignore[index]


def test_a_column_without_right_cannot_be_filtered_by():
    limits = {"orders": {"columns": ["id"]}}
    assert seen(change("INSERT", row()), limits, filter="status=eq.open") is None
    assert seen(change("INSERT", row()), limits, filter="id=eq.7") is not None


def test_truncates_and_counts_show_no_row_number():
    assert seen(change("TRUNCATE", "null"), MINE)["data"] is None  # type: ignore[index]
    many = change("DELETE", "null")
    many.text = many.text.replace(', "xid"', ', "count": 5000, "xid"')
    assert "count" not in seen(many, MINE)  # type: ignore[operator]
    assert seen(many, {"orders": {}})["count"] == 5000  # type: ignore[index]


@pytest.mark.parametrize(
    "text",
    [
        '{"table": "public.orders", "action": "INSERT", "data": "all of it"}',
        '{"table": "public.orders", "action": "INSERT", "data": [{"customer_id": 43}]}',
        '{"table": "public.orders", "action": "INSERT", "row": {"customer_id": 43}}',
        '{"table": "public.orders", "action": "TRUNCATE", "data": null, "more": 1}',
        '{"table": "public.orders", "action": "INSERT", "data": {"id": 1}}',
    ],
)
def test_a_payload_of_uncertain_visibility_is_not_sent(text: str):
    assert seen(Change(text, "public.orders", "INSERT"), MINE) is None


def test_a_payload_reveals_only_the_contracts_fields():
    text = (
        '{"table": "orders", "action": "UPDATE", "data": {"customer_id": 42}, "old": "x", "more": 43, "cursor": "no",'
        ' "schema": "public"}'
    )
    shown = seen(Change(text, "public.orders", "UPDATE"), MINE)
    assert shown == {"table": "orders", "action": "UPDATE", "data": {"customer_id": 42}, "schema": "public"}


def test_a_payload_of_a_table_without_limits_is_passed_on_as_it_is():
    text = '{"table": "orders","action":"INSERT","data":[1],"more":2}'
    asked = Subscription.parse({}, grants({"orders": {}}))
    [one] = Selection(asked, TABLES.get).pick([Change(text, "orders", "INSERT")])
    assert one.text == text


# -- what is not known for sure is not seen


@pytest.mark.parametrize("term", ["owner=eq.42", "customer_id=eq.me", "customer_id=like.4*"])
def test_a_filter_that_does_not_fit_the_table_shuts_it(term: str):
    assert seen(change("INSERT", row(owner=42)), {"orders": {"filter": [term]}}) is None


def test_a_column_that_is_gone_is_no_null():
    limits = {"orders": {"filter": ["gone_at=is.null"]}}
    assert seen(change("INSERT", row(gone_at=None)), limits) is not None
    assert seen(change("INSERT", row()), limits) is None


def test_an_unknown_table_is_filtered_by_equality_only():
    one = change("INSERT", row(), table="new.table")
    assert seen(one, {"new.*": {"filter": ["customer_id=eq.42"]}}) is not None
    assert seen(one, {"new.*": {"filter": ["customer_id=eq.43"]}}) is None
    assert seen(one, {"new.*": {"filter": ["customer_id=neq.43"]}}) is None
    assert seen(one, {"new.*": {"filter": ["customer_id=not.eq.43"]}}) is None


texts = st.sampled_from(["open", "paid", "theirs"])
rows = st.fixed_dictionaries({"id": st.integers(1, 3), "customer_id": st.integers(41, 43), "status": texts})


@given(rows, rows, st.sampled_from([[], ["status=eq.open"], ["status=neq.open"], ["id=gt.1"]]))
def test_two_updates_that_differ_in_what_is_not_seen_look_the_same(
    mine: dict[str, Any], theirs: dict[str, Any], asked: list[str]
):
    """Of a row that comes from, or goes to, another customer nothing that it is there is seen."""
    mine, theirs = {**mine, "customer_id": 42}, {**theirs, "customer_id": 43}
    plain = {**mine, "customer_id": 43}
    for old, new in ((theirs, mine), (mine, theirs)):
        changed = {key: value for key, value in old.items() if new[key] != value}
        least_old, least_new = (plain, mine) if new is mine else (mine, plain)
        subscription = Subscription.parse({"filter": asked}, grants(MINE))
        picked = [
            [one.text for one in Selection(subscription, TABLES.get, lambda _: "sealed").pick([update])]
            for update in (
                change("UPDATE", json.dumps(new), json.dumps(changed)),
                change("UPDATE", json.dumps(least_new), json.dumps({"customer_id": least_old["customer_id"]})),
            )
        ]
        assert list(map(json.loads, picked[0])) == list(map(json.loads, picked[1]))


GROUP = "or=(customer_id.eq.42,and(status.eq.open,id.not.in.(1,2)))"


def test_a_group_bounds_rows():
    limits = {"orders": {"filter": [GROUP]}}
    assert seen(change("INSERT", row(customer_id=42, status="paid")), limits) is not None
    assert seen(change("INSERT", row(customer_id=43, status="open")), limits) is not None
    assert seen(change("INSERT", row(customer_id=43, status="open", id=1)), limits) is None
    assert seen(change("INSERT", row(customer_id=None, status=None)), limits) is None
    left = seen(change("UPDATE", row(customer_id=43, status="theirs"), '{"customer_id": 42, "status": "open"}'), limits)
    assert left is not None
    assert (left["filter"], left["data"]) == ("leave", json.loads(row(customer_id=42, status="open")))


@pytest.mark.parametrize("part", ["owner.eq.42", "customer_id.eq.me", "customer_id.like.4*", "status.lt.50"])
def test_a_group_of_which_one_part_does_not_fit_shuts_its_table(part: str):
    limits = {"orders": {"filter": [f"or=(id.eq.7,and(status.eq.open,{part}))"]}}
    assert seen(change("INSERT", row(owner=42)), limits) is None


def test_a_column_of_a_group_that_is_gone_shuts_its_row():
    limits = {"orders": {"filter": ["or=(id.eq.7,gone_at.is.null)"]}}
    assert seen(change("INSERT", row(gone_at=None)), limits) is not None
    assert seen(change("INSERT", row()), limits) is None


def test_an_unknown_table_is_filtered_by_equality_groups_only():
    one = change("INSERT", row(), table="new.table")
    for group, is_shown in (
        ("or=(customer_id.eq.42,id.in.(1))", True),
        ("or=(customer_id.eq.43,id.in.(7,8))", True),
        ("or=(customer_id.eq.43,id.in.(1))", False),
        ("not.and=(customer_id.not.eq.42,id.not.eq.1)", True),
        ("or=(customer_id.eq.42,id.gt.1)", False),
        ("not.or=(customer_id.eq.43)", False),
    ):
        assert (seen(one, {"new.*": {"filter": [group]}}) is not None) is is_shown, group


def test_a_column_without_right_cannot_be_filtered_by_in_a_group():
    limits = {"public.orders": {"columns": ["id"]}}
    assert seen(change("INSERT", row()), limits, filter="or=(id.eq.7,status.eq.open)") is None
    with pytest.raises(BadSubscription, match=r"has no column 'status'; it has id$"):
        check_subscribable(Subscription.parse({"filter": ["or=(id.eq.7,status.eq.open)"]}, grants(limits)), TABLES)


def test_rights_with_other_groups_are_other_rights():
    texts = ["or=(a.eq.1,b.eq.2)", "and=(a.eq.1,b.eq.2)", "or=(a.eq.1,b.not.eq.2)", "or=(a.eq.1,and(b.eq.2,c.eq.3))"]
    prints = {fingerprint(grants({"orders": {"filter": [text]}})) for text in texts}
    assert len(prints) == len(texts)
    assert fingerprint(grants({"orders": {"filter": ["and=(b.eq.2,a.eq.1)"]}})) in prints


# -- what cannot be asked for reads the same for what is not there and what has no right


@pytest.mark.parametrize("text", ["email=eq.a", "email=neq.a", "email=not.eq.a", "email=in.(a)", "doc=is.null"])
def test_a_table_that_only_postgresql_can_filter_is_closed(text: str):
    rights = Rights.parse({"tables": {"public.people": {"filter": [text]}}})
    columns = {"id": Kind.NUMBER, "email": Kind.NULL_ONLY, "doc": Kind.NOTHING}
    one = change("INSERT", '{"id":1,"email":"A","doc":{}}', table="public.people")
    assert not Selection(Subscription(within=rights.tables), lambda table: columns).pick([one])


def refusal(name: str, tables: Mapping[str, Mapping[str, Kind]], **fields: str) -> str:
    asked = Subscription.parse({field: [text] for field, text in fields.items()}, grants(MINE))
    with pytest.raises(BadSubscription) as refused:
        check_subscribable(asked, tables)
    return f"{refused.value.code}: {refused.value}".replace(name, "NAME")


@pytest.mark.parametrize("name", ["public.salaries", "salaries"])
def test_a_table_without_right_is_refused_as_one_that_is_not_there(name: str):
    assert refusal(name, TABLES, table=name) == refusal("public.nothing", TABLES, table="public.nothing")


def test_a_hidden_column_is_refused_like_an_unknown_one():
    asked = Subscription.parse({"filter": ["status=eq.open"]}, grants({"public.orders": {"columns": ["id"]}}))
    with pytest.raises(BadSubscription, match=r"has no column 'status'; it has id$"):
        check_subscribable(asked, TABLES)


def test_every_table_is_bounded_by_nothing():
    assert not Subscription.parse({}, EVERY_TABLE).is_restricted
    assert Subscription.parse({}, grants({"*": {"columns": ["id"]}})).is_restricted


def test_filters_that_cannot_be_applied_are_found():
    given = grants({"public.orders": {"filter": ["custmer_id=eq.1", "id=eq.abc", "id=gt.1"]}, "sales.*": {}})
    tables = {"public.orders": {"id": Kind.NUMBER}, "sales.parts": {"id": Kind.NUMBER}}
    assert unchecked(given, tables) == {("public.orders", "custmer_id"), ("public.orders", "id")}
