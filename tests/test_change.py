"""What a payload is taken for: a change of a table, foreign JSON, or no JSON."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changefeed.change import ACTIONS, Change, NotJSON, parse


@pytest.mark.parametrize("action", ACTIONS)
def test_a_payload_of_the_originals_trigger_names_table_and_action(action: str):
    payload = f'{{"table" : "orders", "action" : "{action}", "data" : {{"id":1}}}}'
    assert parse(payload) == Change(payload, "orders", action)


def test_a_schema_makes_the_tables_name_whole():
    assert parse('{"table": "Ärger", "schema": "sales", "action": "INSERT"}').table == "sales.Ärger"
    for no_schema in ('""', "null", "7"):
        assert parse(f'{{"table": "orders", "schema": {no_schema}, "action": "INSERT"}}').table == "orders"


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
def test_json_that_names_no_table_or_action_of_ours_is_foreign_and_kept(payload: str):
    change = parse(payload)
    assert change.is_foreign
    assert (change.text, change.table, change.action) == (payload, "", "")


def test_a_character_beyond_16_bits_in_a_tables_name_is_no_half_character():
    assert parse(r'{"table": "\ud83d\ude00", "action": "INSERT"}').table == "😀"


@pytest.mark.parametrize("payload", ["", " ", "not json", "{", '{"a": 1} x', "{'a': 1}", "NaN", '{"a": -Infinity}'])
def test_what_no_browser_would_read_as_json_is_not_json(payload: str):
    with pytest.raises(NotJSON):
        parse(payload)


def test_nesting_too_deep_to_read_is_not_json():
    with pytest.raises(NotJSON, match="nested too deeply"):
        parse("[" * 100_000)


def test_a_number_may_have_as_many_digits_as_postgresql_gives_it():
    payload = '{"table": "orders", "action": "INSERT", "data": {"total": ' + "9" * 7_000 + "}}"
    assert parse(payload) == Change(payload, "orders", "INSERT")


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["table", "action", "schema", "data"]), inner),
    )
)
def test_any_json_passes_byte_for_byte_under_a_name_that_utf8_can_say(value: object):
    for payload in (json.dumps(value), json.dumps(value, indent=1)):
        change = parse(payload)
        assert change.text is payload
        change.table.encode()


@settings(deadline=None)
@given(st.text())
def test_no_text_at_all_raises_anything_but_not_json(payload: str):
    try:
        parse(payload)
    except NotJSON as error:
        assert "\n" not in str(error)  # noqa: PT017  # most texts are not JSON, some are
