"""An order's text in, what it means out; what is not one is refused."""

import pytest

from changefeed.rows.query import SortKey, parse_order
from changefeed.rows.refusal import RowsRefused


@pytest.mark.parametrize(
    ("texts", "keys"),
    [
        ([], []),
        (["id"], [("id", "")]),
        (["created_on.desc,id"], [("created_on", " DESC"), ("id", "")]),
        (["a.asc.nullsfirst", "b.nullslast"], [("a", " NULLS FIRST"), ("b", " NULLS LAST")]),
        (['"odd.name, ""q""".desc'], [('odd.name, "q"', " DESC")]),
        (["a b.desc"], [("a b", " DESC")]),
    ],
)
def test_an_order(texts: list[str], keys: list[tuple[str, str]]):
    assert parse_order(texts) == tuple(SortKey(*key) for key in keys)


@pytest.mark.parametrize(
    "text", ["", "a,", "a.up", "a.desc.asc", "a.nullsfirst.desc", '"a', ".desc", "a;b.x", ",".join("a" * 11)]
)
def test_what_is_not_an_order_is_refused(text: str):
    with pytest.raises(RowsRefused):
        parse_order([text])
