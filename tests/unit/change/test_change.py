"""What a payload is taken for: a change of a table, foreign JSON, or no JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed.change.change import ACTIONS, Change, from_journal, parse_payload
from changefeed.change.json_text import NotJSON


@pytest.mark.parametrize("action", ACTIONS)
def test_a_payload_of_the_originals_trigger_names_table_and_action(action: str):
    payload = f'{{"table" : "orders", "action" : "{action}", "data" : {{"id":1}}}}'
    assert parse_payload(payload) == Change(payload, "orders", action)


def test_the_schema_completes_the_tables_name():
    assert parse_payload('{"table": "Ärger", "schema": "sales", "action": "INSERT"}').table == "sales.Ärger"
    for no_schema in ('""', "null", "7"):
        assert parse_payload(f'{{"table": "orders", "schema": {no_schema}, "action": "INSERT"}}').table == "orders"


@pytest.mark.parametrize(
    "payload",
    [
        "{}",
        "[]",
        "1",
        "null",
        '"text"',
        '{"table": "orders"}',
        '{"action": "INSERT"}',
        '{"table": "", "action": "INSERT"}',
        '{"table": 1, "action": "INSERT"}',
        '{"table": ["orders"], "action": "INSERT"}',
        '{"table": "orders", "action": "insert"}',
        '{"table": "orders", "action": ["INSERT"]}',
        '{"table": "orders", "action": {"INSERT": 1}}',
        # Half a character: nothing that names it could be sent on.
        r'{"table": "\ud800", "action": "INSERT"}',
        r'{"table": "orders", "schema": "\udfff", "action": "INSERT"}',
    ],
)
def test_foreign_json_is_kept(payload: str):
    change = parse_payload(payload)
    assert change.is_foreign
    assert (change.text, change.table, change.action) == (payload, "", "")


def test_a_character_beyond_16_bits_is_kept_whole():
    assert parse_payload(r'{"table": "\ud83d\ude00", "action": "INSERT"}').table == "😀"


@pytest.mark.parametrize("payload", ["", " ", "not json", "{", '{"a": 1} x', "{'a': 1}", "NaN", '{"a": -Infinity}'])
def test_what_no_browser_would_read_as_json_is_not_json(payload: str):
    with pytest.raises(NotJSON):
        parse_payload(payload)


@pytest.mark.parametrize("depth", [900, *range(960, 1_000, 3), 3_900])
def test_a_payload_may_be_nested_as_deep_as_postgresql_takes_it(depth: int):
    payload = '{"table": "orders", "action": "INSERT", "data": {"doc": ' + "[" * depth + "]" * depth + "}}"
    assert parse_payload(payload) == Change(payload, "orders", "INSERT")


def test_a_payload_that_is_nested_and_not_closed_is_not_json():
    with pytest.raises(NotJSON, match="it ends too early"):
        parse_payload("[" * 100_000)


def recorded(data: str, old: str | None = None) -> Change:
    return from_journal((1, "7", "2026-11-22T07:13:08+00:00", "U" if old else "I", "s", "t", data, old, None), "x")


@pytest.mark.parametrize("value", ['{"type":"Point","coordinates":[NaN,NaN]}', "", "x", "1,", '"', "[1}"])
def test_a_row_that_is_not_json_is_sent_without_its_data(value: str):
    bad, good = f'{{"id":1,"place":{value}}}', '{"id":1,"place":null}'
    for change in (recorded(bad), recorded(bad, bad), recorded(bad, good), recorded(good, bad)):
        told = json.loads(change.text)
        assert (told["data"], told["count"], change.count, "old" in told) == (None, 1, 1, False)
    assert json.loads(recorded(good).text)["data"] == {"id": 1, "place": None}


def test_a_number_may_have_as_many_digits_as_postgresql_gives_it():
    payload = '{"table": "orders", "action": "INSERT", "data": {"total": ' + "9" * 7_000 + "}}"
    assert parse_payload(payload) == Change(payload, "orders", "INSERT")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["table", "action", "schema", "data"]), inner),
    )
)
def test_any_json_passes_byte_for_byte(value: object):
    for payload in (json.dumps(value), json.dumps(value, indent=1)):
        change = parse_payload(payload)
        assert change.text is payload
        change.table.encode()


@given(st.text())
def test_no_text_at_all_raises_anything_but_not_json(payload: str):
    try:
        parse_payload(payload)
    except NotJSON as error:
        assert "\n" not in str(error)  # noqa: PT017  # most texts are not JSON, some are
