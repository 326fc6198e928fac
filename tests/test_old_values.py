"""The old values of the columns that changed, cut out of PostgreSQL's JSON to the byte."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed.old_values import changed_columns, members


def test_only_what_differs_is_there_and_to_the_byte():
    old = '{"id":1,"total":1.10,"n":9007199254740993,"s":"a\\"b\\\\","z":null,"t":true}'
    new = '{"id":1,"total":1.1,"n":9007199254740992,"s":"a\\"b","z":false,"t":true}'
    assert changed_columns(old, new) == '{"total": 1.10, "n": 9007199254740993, "s": "a\\"b\\\\", "z": null}'


def test_equal_rows_have_no_old_values():
    assert changed_columns('{"a":[1, {"b":2}]}', '{"a":[1, {"b":2}]}') == "{}"


@pytest.mark.parametrize("value", ['{"a" : [1, 2]}', "[]", "{}", '[{"x":"]}"}]', '"{[,]}"', "-1.5e+300", '"NaN"'])
def test_nested_and_odd_values_are_cut_whole(value: str):
    assert changed_columns(f'{{"a":1,"j":{value},"z":3}}', '{"a":1,"j":0,"z":4}') == f'{{"j": {value}, "z": 3}}'


def test_space_about_a_json_columns_text_is_not_part_of_the_value():
    assert members('{"a":  {"b": 1}\n ,"c":\t1 }') == [('"a"', '{"b": 1}'), ('"c"', "1")]


def test_a_column_that_is_gone_counts_as_changed():
    assert changed_columns('{"a":1,"b":2}', '{"a":1}') == '{"b": 2}'


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
rows = st.dictionaries(st.text(), values, max_size=6)


@given(rows, st.booleans())
def test_members_are_those_that_json_finds(row: dict[str, object], is_spaced: bool):
    text = json.dumps(row, separators=(", ", " : ") if is_spaced else (",", ":"), ensure_ascii=False)
    assert {json.loads(key): json.loads(value) for key, value in members(text)} == row


@given(rows, rows)
def test_the_old_values_are_those_of_the_keys_whose_text_differs(old: dict[str, object], new: dict[str, object]):
    texts = [json.dumps(row, separators=(",", ":")) for row in (old, new)]
    expected = {key: value for key, value in old.items() if key not in new or json.dumps(new[key]) != json.dumps(value)}
    assert json.loads(changed_columns(*texts)) == expected
