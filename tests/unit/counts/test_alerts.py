"""Alerts: their words, when they are raised and end, and that time without data raises none."""

import pytest

from changefeed.change.change import Change
from changefeed.counts.alerts import CALM_SECONDS, Above, Alert, Alerts, Quiet, Transition, parse_alert
from changefeed.counts.tally import OTHER_TABLES, TABLE_LIMIT, Tally

ORDERS = "public.orders"
MORE = Above("INSERT", None, 2.0)
QUIET = Quiet("INSERT", ORDERS, 60)


def tally_with(*inserts: tuple[float, int], table: str = ORDERS) -> Tally:
    tally = Tally(0.0)
    for at, count in inserts:
        tally.count([Change("{}", table, "INSERT", xid=1, id=1, at=at, count=count)], at)
    return tally


def turns(tally: Tally, alert: Alert, *nows: float, known_from: float = 0.0) -> list[tuple[float, bool]]:
    alerts = Alerts([alert], tally)
    return [(turn.now, turn.is_raised) for now in nows for turn in alerts.check(known_from, now)]


# -- words


@pytest.mark.parametrize(
    ("text", "alert", "shown"),
    [
        ("no INSERT in public.orders for 5 min", Quiet("INSERT", ORDERS, 300), None),
        ("no DELETE for 90 s", Quiet("DELETE", None, 90), None),
        ("no UPDATE in orders for 0.5min", Quiet("UPDATE", "orders", 30), "no UPDATE in orders for 30 s"),
        ("no INSERT for 120 min", Quiet("INSERT", None, 7200), "no INSERT for 2 h"),
        ("no INSERT for 24 h", Quiet("INSERT", None, 86400), None),
        ("more than 100 INSERT/s", Above("INSERT", None, 100.0), None),
        (
            " more than 0.5 TRUNCATE/s in sales.* ",
            Above("TRUNCATE", "sales.*", 0.5),
            "more than 0.5 TRUNCATE/s in sales.*",
        ),
        ("more than 999999999 INSERT/s", Above("INSERT", None, 999_999_999.0), None),
    ],
)
def test_an_alert_has_the_words_of_the_dashboard(text: str, alert: Alert, shown: str | None):
    assert parse_alert(text) == alert
    assert str(alert) == (shown or text)
    assert parse_alert(str(alert)) == alert


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no INSERT",
        "no insert for 5 min",
        "no INSERT for 0 s",
        "no INSERT for 0.2 s",
        "no INSERT for 25 h",
        "no INSERT in for 5 min",
        "no INSERT for 5 days",
        "more than INSERT/s",
        "more than -1 INSERT/s",
        "more than nan INSERT/s",
        "more than ٣ INSERT/s",
        "more than 1 INSERT/min",
        "more than 1 INSERT/s\nno INSERT for 5 min",
    ],
)
def test_other_words_are_none(text: str):
    with pytest.raises(ValueError):  # noqa: PT011  # a setting's parser says no more
        parse_alert(text)


# -- above a rate


def test_a_rate_alert_uses_the_mean_of_some_seconds():
    assert turns(tally_with((999.0, 11)), MORE, 1000.0) == [(1000.0, True)]
    assert turns(tally_with((999.0, 10)), MORE, 1000.0) == []
    assert turns(tally_with((1000.2, 11)), MORE, 1000.9, 1001.0) == [(1001.0, True)]


def test_a_fluctuating_rate_is_one_alert():
    tally = tally_with((1000.0, 11), (1020.0, 11))
    times = [1001.0 + second for second in range(100)]
    assert turns(tally, MORE, *times) == [(1001.0, True), (1025.0 + CALM_SECONDS, False)]


def test_only_its_table_counts():
    for table, is_raised in ((ORDERS, True), ("sales.orders", True), ("public.items", False)):
        tally = tally_with((999.0, 100), table=table)
        assert bool(turns(tally, Above("INSERT", "orders", 2.0), 1000.0)) is is_raised
        assert turns(tally, Above("UPDATE", None, 0.0), 1000.0) == []


def test_a_table_that_comes_later_counts_too():
    tally = tally_with((990.0, 1), table="public.items")
    alerts = Alerts([Above("INSERT", "public.*", 2.0)], tally)
    assert alerts.check(0.0, 1000.0) == []
    tally.count([Change("{}", ORDERS, "INSERT", count=11)], 1000.0)
    [raised] = alerts.check(0.0, 1001.0)
    assert raised.value == 11 / 5


# -- none for so long


def test_a_quiet_alert_ends_with_the_next_change():
    tally = tally_with((939.5, 1))
    alerts = Alerts([QUIET], tally)
    assert alerts.check(0.0, 999.9) == []
    assert alerts.check(0.0, 1000.0) == [Transition(QUIET, True, 1000.0, 1000.0, 60.0)]
    assert alerts.check(0.0, 1001.0) == []
    tally.count([Change("{}", ORDERS, "UPDATE"), Change("{}", "public.items", "INSERT")], 1001.5)
    assert alerts.check(0.0, 1002.0) == []
    tally.count([Change("{}", ORDERS, "INSERT")], 1002.5)
    assert alerts.check(0.0, 1003.0) == [Transition(QUIET, False, 1000.0, 1003.0, 0.0)]


def test_a_table_without_changes_raises_a_quiet_alert():
    assert Alerts([QUIET], Tally(0.0)).check(0.0, 1000.0) == [Transition(QUIET, True, 1000.0, 1000.0, None)]


def test_time_without_data_raises_and_ends_nothing():
    assert turns(tally_with((900.0, 1)), QUIET, 1000.0, known_from=940.5) == []
    tally = tally_with((999.0, 11))
    alerts = Alerts([MORE], tally)
    [raised] = alerts.check(0.0, 1000.0)
    assert alerts.check(1099.0, 1100.0) == []
    assert alerts.check(1099.0, 1104.0) == [Transition(MORE, False, raised.since, 1104.0, 0.0)]


def test_a_quiet_day_is_found_in_the_minutes():
    day = Quiet("INSERT", None, 86_400)
    assert turns(tally_with((1_000_000.0, 1)), day, 1_086_400.0, 1_086_460.0) == [(1_086_460.0, True)]


def test_a_table_counted_as_other_raises_nothing():
    tally = Tally(0.0)
    tally.count([Change("{}", f"table{number}", "INSERT", at=900.0) for number in range(TABLE_LIMIT + 1)], 900.0)
    assert OTHER_TABLES in tally.totals
    assert turns(tally, QUIET, 1000.0) == []
    assert turns(tally, Quiet("INSERT", "table0", 60), 1000.0) == [(1000.0, True)]
