"""The old values of the columns that changed, cut out of PostgreSQL's JSON to the byte."""

import json

import pytest
from hypothesis import given

from changefeed.change.json_text import NotJSON
from changefeed.change.old_values import changed_columns
from tests.unit.change.test_json_text import ROWS


def test_only_what_differs_is_there_and_to_the_byte():
    old = '{"id":1,"total":1.10,"n":9007199254740993,"s":"a\\"b\\\\","z":null,"t":true}'
    new = '{"id":1,"total":1.1,"n":9007199254740992,"s":"a\\"b","z":false,"t":true}'
    assert changed_columns(old, new) == '{"total": 1.10, "n": 9007199254740993, "s": "a\\"b\\\\", "z": null}'


def test_equal_rows_have_no_old_values():
    assert changed_columns('{"a":[1, {"b":2}]}', '{"a":[1, {"b":2}]}') == "{}"


def test_equal_rows_are_json_too():
    with pytest.raises(NotJSON):
        changed_columns('{"a":NaN}', '{"a":NaN}')


DEEP = "[" * 5_000 + "]" * 5_000


@pytest.mark.parametrize(
    "value",
    ['{"a" : [1, 2]}', "[]", "{}", '[{"x":"]}"}]', '"{[,]}"', "-1.5e+300", '"NaN"', '"\\ud800"', DEEP],
    ids=lambda value: value[:20],
)
def test_nested_and_odd_values_are_cut_whole(value: str):
    assert changed_columns(f'{{"a":1,"j":{value},"z":3}}', '{"a":1,"j":0,"z":4}') == f'{{"j": {value}, "z": 3}}'
    assert changed_columns(f'{{"a":1,"j":{value},"z":3}}', f'{{"a":1,"j":{value},"z":4}}') == '{"z": 3}'


def test_a_column_that_is_gone_counts_as_changed():
    assert changed_columns('{"a":1,"b":2}', '{"a":1}') == '{"b": 2}'


@given(ROWS, ROWS)
def test_the_old_values_are_those_of_the_keys_whose_text_differs(old: dict[str, object], new: dict[str, object]):
    texts = [json.dumps(row, separators=(",", ":")) for row in (old, new)]
    expected = {key: value for key, value in old.items() if key not in new or json.dumps(new[key]) != json.dumps(value)}
    assert json.loads(changed_columns(*texts)) == expected
