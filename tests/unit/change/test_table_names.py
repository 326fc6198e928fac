"""Names of tables have one canonical form; every form is understood, and ambiguous ones are reported."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from changefeed.change.table_names import (
    BadName,
    Pattern,
    TableName,
    as_written,
    canonical,
    could_mean,
    exact,
    parse_pattern,
    qualified,
    split_list,
)

PARTS = st.text(st.sampled_from('ab."* ,%\\é'), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("schema", "table", "written"),
    [
        ("public", "orders", "public.orders"),
        ("Odd Name", "t, u", "Odd Name.t, u"),
        ("sales", "eu.orders", 'sales."eu.orders"'),
        ("sales.eu", "orders", '"sales.eu".orders'),
        ("public", 'Odd "Name', 'public."Odd ""Name"'),
        ("public", "*", 'public."*"'),
    ],
)
def test_only_a_part_that_could_be_misread_is_quoted(schema: str, table: str, written: str):
    assert qualified(schema, table) == written


@given(PARTS, PARTS)
def test_every_tables_name_is_unique_and_read_back(schema: str, table: str):
    name = qualified(schema, table)
    assert exact(name) == TableName(schema, table)
    assert parse_pattern(name).certain == Pattern(schema, table)
    assert canonical(name) == name
    assert TableName(schema, table) in could_mean(name)


@given(PARTS, PARTS)
def test_every_part_may_be_quoted(schema: str, table: str):
    text = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, table))
    assert canonical(text) == qualified(schema, table)


@given(PARTS, PARTS)
@example('\\."', '\\"')  # which reads as a quoted name, too
@example("public", '"orders"')
def test_a_name_without_quotes_could_mean_the_table_it_is_of(schema: str, table: str):
    assert TableName(schema, table) in could_mean(f"{schema}.{table}")
    assert TableName(None, table) in could_mean(table)


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        ("*", (None, None)),
        ("sales.*", ("sales", None)),
        ('"Odd Schema".*', ("Odd Schema", None)),
        ("a.b.*", ("a.b", None)),
        ("orders", (None, "orders")),
        ('"pay.roll"', (None, "pay.roll")),
        ('a."*"', ("a", "*")),
        ("a.b.c", None),
    ],
)
def test_what_a_pattern_means(text: str, certain: tuple[str | None, str | None] | None):
    assert parse_pattern(text).certain == certain


def test_an_ambiguous_pattern_lists_its_tables():
    assert set(parse_pattern("a.b.c").possible) == {("a", "b.c"), ("a.b", "c"), (None, "a.b.c")}
    assert parse_pattern("a.b.c").readings == 'a."b.c" or "a.b".c'


@pytest.mark.parametrize(
    "text", ["", ".", "a.", ".a", "a..b", '"a', '"a"b', '"".a', "*.a", "a*", ".*", '"a"."b"."c"', "x" * 300]
)
def test_what_names_no_table_is_refused(text: str):
    with pytest.raises(BadName):
        parse_pattern(text)


def test_a_triggers_table_name_is_of_its_schema():
    assert as_written("public.orders") == [TableName("public", "orders")]
    assert TableName(None, "pay.roll") in could_mean("pay.roll")
    assert as_written("orders") == (TableName(None, "orders"),)
    assert set(as_written("a.b.c")) == {("a", "b.c"), ("a.b", "c"), (None, "a.b.c")}


def test_commas_within_quotes_divide_nothing():
    assert split_list('a.b, "c,d".e ,f') == ["a.b", '"c,d".e', "f"]


def test_the_worst_texts_take_time_in_proportion_to_their_length():
    def seconds(size: int) -> float:
        began = time.process_time()
        for text in ("." * size, "a." * size, '"' * size, '"a"' * size, '""' * size):
            could_mean(text)
            with pytest.raises(BadName):
                parse_pattern(text)
        return time.process_time() - began

    seconds(1_000)
    assert seconds(400_000) < 200 * max(seconds(100_000), 0.001)
