"""What a subscription picks, how it looks then, and what cannot be asked for."""

import json
from collections.abc import Mapping

import pytest

from changefeed.change.change import Change
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.subscription import ALL_CHANGES, BadSubscription, Selection, Subscription, check_subscribable

ORDERS = {"id": Kind.NUMBER, "status": Kind.TEXT, "total": Kind.NUMBER}
TABLES: Mapping[str, Mapping[str, Kind]] = {
    "public.orders": ORDERS,
    "sales.orders": {"id": Kind.UUID, "status": Kind.TEXT},
    "sales.items": {"id": Kind.NUMBER},
}


def change(action: str, data: str, old: str = "", table: str = "public.orders") -> Change:
    schema, _, name = table.partition(".")
    before = f'"old": {old}, ' if old else ""
    text = (
        f'{{"table": "{name}", "action": "{action}", "data": {data}, "schema": "{schema}", {before}'
        f'"at": "2026-11-22T07:13:08+00:00", "xid": "9213", "cursor": "4d2.AY3f"}}'
    )
    return Change(text, table, action, 9213, 1234)


def picked(one: Change, **fields: str | list[str]) -> Change | None:
    asked = Subscription.parse({name: [terms] if isinstance(terms, str) else terms for name, terms in fields.items()})
    found = Selection(asked, TABLES.get).pick([one])
    return found[0] if found else None


INSERT = change("INSERT", '{"id":7,"status":"open","total":9007199254740993.10}')


def test_everything_is_passed_on_as_it_is():
    changes = [INSERT, Change('{"any": "JSON"}', "", "")]
    assert Selection(ALL_CHANGES, TABLES.get).pick(changes) is changes


def test_foreign_json_reaches_unfiltered_clients_only():
    assert picked(Change('{"any": "JSON"}', "", ""), action="INSERT") is None


@pytest.mark.parametrize(
    ("term", "fits"),
    [
        ("orders", True),
        ("public.orders", True),
        ("public.*", True),
        ("sales.*", False),
        ("order", False),
        ("rders", False),
    ],
)
def test_a_table_is_named_with_or_without_its_schema_or_by_it(term: str, fits: bool):
    assert (picked(INSERT, table=term) is INSERT) is fits


def test_any_table_or_action_and_all_filters_must_match():
    assert picked(INSERT, table=["items", "orders"], action=["delete", "insert"]) is INSERT
    assert picked(INSERT, filter=["status=eq.open", "total=gt.9007199254740993"]) is INSERT
    assert picked(INSERT, filter=["status=eq.open", "total=lt.9007199254740993"]) is None


@pytest.mark.parametrize(
    ("data", "old", "passage"),
    [
        ('{"id":7,"status":"open"}', '{"status": "new"}', "enter"),
        ('{"id":7,"status":"paid"}', '{"status": "open"}', "leave"),
        ('{"id":7,"status":"open"}', '{"id": 6}', None),
    ],
)
def test_an_update_shows_that_its_row_enters_or_leaves(data: str, old: str, passage: str | None):
    found = picked(change("UPDATE", data, old), filter="status=eq.open")
    assert found is not None
    assert json.loads(found.text).get("filter") == passage
    assert found.cursor == "4d2.AY3f"


@pytest.mark.parametrize(
    ("data", "old", "passage"),
    [
        ('{"id":7,"status":"open","total":1}', '{"status": "new"}', "enter"),
        ('{"id":7,"status":"new","total":200}', '{"total": 1}', "enter"),
        ('{"id":7,"status":"open","total":200}', '{"status": "new"}', None),
        ('{"id":7,"status":"new","total":200}', '{"status": "open", "total": 1}', None),
        ('{"id":7,"status":"new","total":1}', '{"status": "open"}', "leave"),
        ('{"id":7,"status":"new","total":null}', '{"total": 200}', "leave"),
    ],
)
@pytest.mark.parametrize(
    "group",
    ["or=(status.eq.open,total.gt.100)", "not.and=(status.neq.open,not.or(total.gt.100,total.is.null,id.lt.0))"],
)
def test_an_update_enters_and_leaves_a_group_as_a_whole(group: str, data: str, old: str, passage: str | None):
    if "is.null" in group and "null" in data:
        data, passage = data.replace("null", "1"), "leave"
    found = picked(change("UPDATE", data, old), filter=group)
    assert found is not None
    assert json.loads(found.text).get("filter") == passage


def test_an_update_outside_the_filter_before_and_after_is_not_sent():
    assert picked(change("UPDATE", '{"id":7,"status":"paid"}', '{"status": "new"}'), filter="status=eq.open") is None


def test_an_update_without_old_row_is_judged_by_the_new_one():
    known = '{"table": "orders", "action": "UPDATE", "data": {"id":7,"status":"open"}}'
    assert picked(Change(known, "orders", "UPDATE"), filter="status=eq.open").text == known  # type: ignore[union-attr]


@pytest.mark.parametrize("action", ["TRUNCATE", "INSERT"])
def test_what_names_no_row_comes_whatever_the_filter(action: str):
    assert picked(change(action, "null"), filter="status=eq.open") is not None


def test_columns_are_cut_out_byte_for_byte():
    one = change("UPDATE", '{"id":7,"total":1.10,"status":"a\\"}b"}', '{"total": 1.00, "status": "x"}')
    found = picked(one, columns=["total", "id,nothing"])
    assert found is not None
    assert '"data": {"id":7,"total":1.10}' in found.text
    assert '"old": {"total":1.00}' in found.text
    assert list(json.loads(found.text))[:3] == ["table", "action", "data"]
    assert found.cursor == one.cursor


def test_a_column_name_with_a_comma_is_quoted():
    assert Subscription.parse({"columns": ['a,"b,""c"']}).columns == ("a", 'b,"c')


def test_the_same_asked_for_in_another_order_is_the_same():
    first = Subscription.parse({"table": ["a", "b"], "filter": ["x=eq.1", "y=eq.2"], "columns": ["c,d"]})
    second = Subscription.parse({"table": ["b", "a", "a"], "filter": ["y=eq.2", "x=eq.1"], "columns": ["d", "c"]})
    assert first == second
    assert hash(first) == hash(second)


@pytest.mark.parametrize(
    ("filters", "same"),
    [
        (["and=(x.eq.1,y.eq.2)"], ["y=eq.2", "x=eq.1"]),
        (["x=eq.1", "and=(y.eq.2,or(a.eq.3,b.eq.4))"], ["or=(b.eq.4,or(a.eq.3,b.eq.4))", "and=(x.eq.1,y.eq.2)"]),
        (["not.or=(x.eq.1,y.like.*a*)"], ["x=not.eq.1", "y=not.like.*a*"]),
    ],
)
def test_the_same_filters_grouped_in_another_way_are_the_same(filters: list[str], same: list[str]):
    first, second = Subscription.parse({"filter": filters}), Subscription.parse({"filter": same})
    assert first == second
    assert hash(first) == hash(second)


def test_a_subscription_is_concerned_by_each_column_of_a_group():
    asked = Subscription.parse({"table": ["orders"], "filter": ["or=(id.eq.1,not.and(status.eq.a,total.gt.2))"]})
    assert [asked.concerns("public.orders", frozenset({one})) for one in ("id", "status", "total", "note")] == [
        True,
        True,
        True,
        False,
    ]
    assert not asked.concerns("public.items", frozenset({"id"}))


def test_or_is_not_and():
    parts = "(x.eq.1,y.eq.2)"
    assert Subscription.parse({"filter": ["or=" + parts]}) != Subscription.parse({"filter": ["and=" + parts]})


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"table": ["*"]}, "bad_table"),
        ({"table": [""]}, "bad_table"),
        ({"table": ["s*.x"]}, "bad_table"),
        ({"action": ["UPSERT"]}, "bad_action"),
        ({"filter": ["status"]}, "bad_filter"),
        ({"columns": ["a,,b"]}, "bad_columns"),
        ({"table": ["t"] * 101}, "bad_table"),
    ],
)
def test_what_cannot_be_understood_is_refused(fields: dict[str, list[str]], code: str):
    with pytest.raises(BadSubscription) as refused:
        Subscription.parse(fields)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"table": ["ordres"]}, "unknown_table", "no table 'ordres'"),
        ({"table": ["public.items"]}, "unknown_table", "no table"),
        ({"table": ["public.orders"], "filter": ["state=eq.open"]}, "unknown_column", "it has id, status, total"),
        ({"table": ["public.orders"], "columns": ["state"]}, "unknown_column", "it has id, status, total"),
        ({"filter": ["state=eq.open"]}, "unknown_column", "none of the tables"),
        ({"table": ["public.orders"], "filter": ["id=eq.seven"]}, "bad_filter", "needs a number"),
        ({"table": ["public.orders"], "filter": ["or=(id.eq.1,state.eq.a)"]}, "unknown_column", "it has id, status"),
        (
            {"table": ["public.orders"], "filter": ["not.or=(id.eq.1,and(id.eq.2,id.lt.x))"]},
            "bad_filter",
            "'id=not.lt.x'",
        ),
        (
            {"table": ["sales.*"], "filter": ["or=(status.eq.a,id.lt.7)"]},
            "unknown_column",
            "has all columns.*: id, status",
        ),
        (
            {"table": ["sales.*"], "filter": ["status=eq.a", "id=lt.7"]},
            "unknown_column",
            "has all columns.*: id, status",
        ),
    ],
)
def test_what_can_never_be_is_refused(fields: dict[str, list[str]], code: str, said: str):
    with pytest.raises(BadSubscription, match=said) as refused:
        check_subscribable(Subscription.parse(fields), TABLES)
    assert refused.value.code == code


def test_what_fits_one_of_several_tables_may_be_asked_for():
    asked = Subscription.parse({"filter": ["total=gt.1"], "columns": ["id"]})
    check_subscribable(asked, TABLES)
    selection = Selection(asked, TABLES.get)
    assert selection.pick([INSERT])
    assert not selection.pick([change("INSERT", '{"id":7}', table="sales.items")])
