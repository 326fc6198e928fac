"""Where the members of an object begin and end: by msgspec, and by hand where that gives up."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed.change.json_text import (
    Members,
    NotJSON,
    _read_tokens,
    changed_columns,
    check_json,
    members,
    quoted,
    string_of,
    text_of,
    write,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ROWS = st.dictionaries(st.text(), VALUES, max_size=6)

either_way = pytest.mark.parametrize("read", [members, _read_tokens])
Read = Callable[[str], Members | None]


def texts(found: Members | None) -> dict[str, str]:
    assert found is not None
    return {key: text_of(value) for key, value in found.items()}


@either_way
def test_space_about_a_json_columns_text_is_not_part_of_the_value(read: Read):
    assert texts(read(' {"a":  {"b": 1}\n ,"c":\t1 } ')) == {"a": '{"b": 1}', "c": "1"}


@either_way
@given(ROWS, st.sampled_from([(",", ":"), (", ", " : "), ("\n,\t", ":\r")]), st.booleans())
def test_members_are_those_that_json_finds(
    read: Read, row: dict[str, object], separators: tuple[str, str], is_ascii: bool
):
    text = json.dumps(row, separators=separators, ensure_ascii=is_ascii)
    found = texts(read(text))
    assert {key: json.loads(value) for key, value in found.items()} == row
    assert all(value in text for value in found.values())


@either_way
@pytest.mark.parametrize("text", ["1", ' "x" ', "[]", '[{"a":1}]', "null", "-0.5E+7"])
def test_json_that_is_no_object_has_no_members(read: Read, text: str):
    assert read(text) is None


def test_half_of_a_surrogate_pair_is_json_and_kept():
    found = members('{"\\ud800":"\\udfffx","a":{"b":"\\ud800"}}')
    assert found
    assert texts(found) == {"\ud800": '"\\udfffx"', "a": '{"b":"\\ud800"}'}
    assert string_of(found["\ud800"]) == "\udfffx"
    assert write(found).encode() == b'{"\\ud800":"\\udfffx","a":{"b":"\\ud800"}}'


@pytest.mark.parametrize("depth", [1, 900, *range(970, 1_000, 5), 5_000, 10_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_no_nesting_is_too_deep(opening: str, closing: str, depth: int):
    value = opening * depth + "1" + closing * depth
    check_json(value)
    assert texts(members(f'{{"id":7,"doc":{value},"z":"end"}}')) == {"id": "7", "doc": value, "z": '"end"'}
    for broken in (value[:-1], value + closing, value.replace("1", "x"), value.replace("1", "1 1")):
        with pytest.raises(NotJSON):
            check_json(broken)
        with pytest.raises(NotJSON):
            members(f'{{"id":7,"doc":{broken}}}')


MALFORMED = """|{|[|{"a"|{"a":|{"a":1|{"a":1,|{"a":1,}|{"a" 1}|{,}|{1:2}|{a:1}|[1,]|[1 2]|[1:2]|[,]|[1}|{"a":1]|[]]|{}}|:|,
|tru|nul|NaN|Infinity|-|+1|.5|1.|01|1e|--1|0x1|1x|1 2|"a|"a\\|"\\x"|"\\u12"|"a\x01"|'a'|\ufeff1|\x0b1|\xa01|"\n\""""


@either_way
@pytest.mark.parametrize("text", MALFORMED.replace("\n|", "|").split("|"))
def test_what_is_malformed_is_refused(read: Read, text: str):
    for broken in (text, f'{{"a":1,"b":{text}}}') if text not in ("", "]") else (text,):
        with pytest.raises(NotJSON):
            read(broken)


@either_way
@given(st.text() | st.text('[]{}",:\\ \n0123eE.-utrufalsn', max_size=15))
def test_any_text_is_what_json_takes_it_for(read: Read, text: str):
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        expected = json.loads(text, parse_constant=refuse)
    except ValueError:
        with pytest.raises(NotJSON):
            read(text)
        return
    found = read(text)
    assert (found is not None) is isinstance(expected, dict)
    assert {key: json.loads(value) for key, value in texts(found or {}).items()} == (expected if found else {})


@given(st.text(st.characters()))
def test_a_quoted_text_is_unchanged_and_can_be_sent(text: str):
    sent = quoted(text).encode()
    assert json.loads(sent) == text
    read = members(f'{{"a":{sent.decode()}}}')
    assert read
    assert string_of(read["a"]) == text


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
def test_old_values_are_of_the_keys_that_differ(old: dict[str, object], new: dict[str, object]):
    texts = [json.dumps(row, separators=(",", ":")) for row in (old, new)]
    expected = {key: value for key, value in old.items() if key not in new or json.dumps(new[key]) != json.dumps(value)}
    assert json.loads(changed_columns(*texts)) == expected
