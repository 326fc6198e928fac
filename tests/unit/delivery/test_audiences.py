"""Whom a change is for: the index gives each audience exactly what picking by itself would."""

import json
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from changefeed.change.change import Change
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.subscription import ALL_CHANGES, Selection, Subscription
from handlers.delivery.audiences import Audiences
from handlers.delivery.dialects import PLAIN, PROTOCOL

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
)
subscriptions = st.builds(
    lambda **fields: Subscription.parse(fields),
    table=st.lists(st.sampled_from(["a", "public.b", "public.*", "c"]), max_size=2),
    action=st.lists(st.sampled_from(["INSERT", "UPDATE", "TRUNCATE"]), max_size=2),
    filter=st.lists(st.sampled_from(FILTERS), max_size=2),
    columns=st.lists(st.just("n"), max_size=1),
)
values = st.sampled_from([None, 1, 1.0, 2, "x", "2026-01-01T00:00:00+00:00", {"deep": []}])
rows = st.fixed_dictionaries({"n": values, "t": values})


@st.composite
def changes(draw: st.DrawFn) -> Change:
    table = draw(st.sampled_from(["public.a", "public.a", "public.b", "c", ""]))
    action = draw(st.sampled_from(["INSERT", "UPDATE", "UPDATE", "DELETE", "TRUNCATE"]))
    data = None if action == "TRUNCATE" else draw(rows)
    old = {"old": draw(st.dictionaries(st.sampled_from("nt"), values))} if action == "UPDATE" else {}
    text = json.dumps({"table": table, "action": action, "data": data, **old, "cursor": "1.x"})
    return Change(text, table, action if table else "", 1, 1)


@settings(max_examples=500)
@given(st.lists(st.one_of(st.just(ALL_CHANGES), subscriptions), max_size=6), st.lists(changes(), max_size=6), st.data())
def test_each_audience_gets_what_its_subscription_picks_and_gets_it_once(
    asked: list[Subscription], published: list[Change], data: st.DataObject
):
    audiences: Audiences[int] = Audiences()
    joined = {}
    for client, subscription in enumerate(asked):
        dialect = data.draw(st.sampled_from([PLAIN, PROTOCOL]))
        joined[client] = audiences.join(client, dialect, Selection(subscription, TABLES.get))
        if data.draw(st.booleans()):
            list(audiences.route(published))  # so that some come to an index that is there already
    for client in data.draw(st.sets(st.sampled_from(sorted(joined)))) if joined else ():
        audiences.leave(client, joined.pop(client))
    routed = [
        (audience, [change.text for change in picked]) for audience, picked in audiences.route(published) if picked
    ]
    assert len({audience for audience, _ in routed}) == len(routed)
    expected = {
        audience: [change.text for change in Selection(audience.selection.subscription, TABLES.get).pick(published)]
        for audience in set(joined.values())
    }
    assert dict(routed) == {audience: texts for audience, texts in expected.items() if texts}
