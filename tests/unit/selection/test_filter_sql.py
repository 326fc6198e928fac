"""As SQL, a filter is true of the rows that the feed's test lets through: PostgreSQL runs the one, the server the other."""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2.extensions import make_dsn

from changefeed.change.change import Change
from changefeed.change.changed_row import Cell, ChangedRow
from changefeed.postgres.named_queries import load_queries
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.filter_sql import sql_condition
from changefeed.selection.filter_text import parse_filter
from changefeed.selection.filters import BadFilter, Condition, Filter, filters_in, joined, row_test, within_reach
from changefeed.selection.like import ends_in_escape
from tests import postgres
from tests.journal_database import Session
from tests.unit.selection.filter_cases import (
    CASES,
    DOMAIN_OF_ENUM,
    NOTHING,
    NULL_ONLY,
    ORDERED,
    PREPARE,
    RANDOM,
    Case,
    a_filter,
    as_row_has_it,
    kinds_of,
)

COLUMNS = load_queries("server.sql")["columns"]
# Nothing of this may reach a condition: neither objects that are named like PostgreSQL's, nor settings that change what a
# text means.
HOSTILE = """
    CREATE SCHEMA hostile;
    CREATE DOMAIN hostile.text AS pg_catalog.text CHECK (false);
    CREATE DOMAIN hostile.int8 AS pg_catalog.int8 CHECK (false);
    CREATE DOMAIN hostile."numeric" AS pg_catalog.numeric CHECK (false);
    CREATE DOMAIN hostile.date AS pg_catalog.date CHECK (false);
    CREATE DOMAIN hostile.timestamptz AS pg_catalog.timestamptz CHECK (false);
    CREATE FUNCTION hostile.length(pg_catalog.text) RETURNS int LANGUAGE sql AS 'SELECT 1/0';
    CREATE FUNCTION hostile.concat(pg_catalog.anyelement) RETURNS pg_catalog.text LANGUAGE sql AS 'SELECT (1/0)::pg_catalog.text';
    CREATE FUNCTION hostile.never(pg_catalog.anyelement, pg_catalog.anyelement) RETURNS bool LANGUAGE sql AS 'SELECT 1/0 = 0';
    CREATE OPERATOR hostile.= (FUNCTION = hostile.never, LEFTARG = anyelement, RIGHTARG = anyelement);
    CREATE OPERATOR hostile.< (FUNCTION = hostile.never, LEFTARG = anyelement, RIGHTARG = anyelement);
"""
SETTINGS = """
    SET search_path = hostile, pg_catalog, public;
    SET TimeZone = 'Asia/Kolkata';
    SET DateStyle = 'SQL, DMY';
    SET IntervalStyle = 'sql_standard';
    SET standard_conforming_strings = off;
"""


@pytest.fixture(scope="module")
def database() -> Iterator[Session]:
    session = Session(postgres.new_database())
    session.run(PREPARE)
    session.run(HOSTILE)
    yield session
    session.connection.close()


@pytest.fixture(scope="module")
def kinds(database: Session) -> dict[str, Kind]:
    return kinds_of(database, [*(case.type_name for case in CASES), *NULL_ONLY, *NOTHING, DOMAIN_OF_ENUM])


@pytest.fixture(scope="module")
def reader(database: Session) -> Iterator[Session]:
    """Another session of the database, in which names and texts mean something else."""
    session = Session(database.connection.dsn)
    session.run(SETTINGS)
    yield session
    session.connection.close()


def differences(
    database: Session,
    reader: Session,
    type_name: str,
    kind: Kind,
    texts: Sequence[str],
    filters: Sequence[str | Condition],
    encoding: str = "UTF8",
) -> list[str]:
    """Where PostgreSQL says other than the feed, of the values and of null."""
    database.run(f"DROP TABLE IF EXISTS r; CREATE TABLE r (n int, c {type_name})")
    values: list[str | None] = [*texts, None]
    database.run(f"INSERT INTO r SELECT n, t::{type_name} FROM unnest(%s::text[]) WITH ORDINALITY AS u (t, n)", values)
    rows = [as_row_has_it(text) for (text,) in database.run("SELECT to_json(c)::text FROM r ORDER BY n")]
    found = []
    taken = [one for each in filters if is_taken(one := parse_filter(each) if isinstance(each, str) else each, kind)]
    for begin in range(0, len(taken), 200):
        conditions = taken[begin : begin + 200]
        tests = [row_test(condition, {"c": kind}.get) for condition in conditions]
        written = [sql_condition([condition], {"c": kind}, "r", encoding=encoding) for condition in conditions]
        columns = ", ".join(f"({sql}) IS TRUE" for sql, _ in written)
        parameters = [text for _, texts in written for text in texts]
        answers = reader.run(f"SELECT {columns} FROM public.r AS r ORDER BY n", *parameters)
        for value, answer in zip(rows, answers, strict=True):
            for asked, test, holds in zip(conditions, tests, answer, strict=True):
                if test(lambda _, value=value: Cell(value)) is not holds:  # type: ignore[misc]
                    found.append(f"{str(asked)[:80]}: PostgreSQL says {holds} of {str(value)[:80]!r}")
    return found


def is_taken(asked: Condition, kind: Kind) -> bool:
    """Whether the feed takes the filter; what it refuses must be refused as SQL too, in the same words."""
    in_feed = refusal(lambda: row_test(asked, {"c": kind}.get))
    assert refusal(lambda: sql_condition([asked], {"c": kind}, "r")) == in_feed
    return in_feed is None


def refusal(work: Callable[[], object]) -> str | None:
    try:
        work()
    except BadFilter as error:
        return str(error)
    return None


def questions(operators: Sequence[str], operands: Sequence[str]) -> list[str]:
    asked = [(operator, (operand,)) for operator in operators for operand in operands]
    asked += [("in", operands[n : n + 3]) for n in range(len(operands))]
    texts = [
        a_filter(operator, texts, negation) for (operator, texts), negation in itertools.product(asked, ("", "not."))
    ]
    return [*texts, "c=is.null", "c=not.is.null"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_filter_is_the_same_condition(database: Session, reader: Session, case: Case):
    filters = questions(case.operators, (*case.values, *case.operands))
    assert differences(database, reader, case.type_name, case.kind, case.values, filters) == []


@pytest.mark.parametrize("type_name", RANDOM)
@settings(max_examples=10)
@given(data=st.data())
def test_random_filters_are_the_same_conditions(
    database: Session, reader: Session, kinds: dict[str, Kind], type_name: str, data: st.DataObject
):
    texts = data.draw(st.lists(RANDOM[type_name], min_size=1, max_size=8))
    operands = texts + data.draw(st.lists(RANDOM[type_name], max_size=4))
    asked = questions(ORDERED, operands)
    assert differences(database, reader, type_name, kinds[type_name], texts, asked) == []


@pytest.mark.parametrize("type_name", [*NULL_ONLY, *NOTHING])
def test_incomparable_types_allow_only_null_filters(
    database: Session, reader: Session, kinds: dict[str, Kind], type_name: str
):
    values = [NULL_ONLY[type_name]] if type_name in NULL_ONLY else []
    asked = ["c=is.null", "c=not.is.null", "c=eq.a", "c=lt.a", "c=in.(a)", "c=like.a*", "c=is.true", "c=not.neq.a"]
    assert differences(database, reader, type_name, kinds[type_name], values, asked) == []


@pytest.mark.parametrize(
    ("type_name", "kind", "values", "filters"),
    [
        ("moods", Kind.ENUM, ["sad", "ok"], ["c=eq.ok", "c=neq.ok", "c=in.(ok,nothing)", "c=eq.nothing", "c=not.eq.x"]),
        ("text", Kind.TEXT, ["a", "ä", "😀", "\uffff", "Z"], ["c=lt.ä", "c=gt.\uffff", "c=gte.a", "c=in.(ä,a)"]),
        ("text", Kind.TEXT, ["a", "\uffff"], ["c=eq.a\0", "c=neq.\0", "c=lt.\ud800", "c=in.(a,\udfff)", "c=like.*\0*"]),
        ("text", Kind.TEXT, ["a'b", "%s", "{", '"', "\\"], ["c=eq.a'b", "c=eq.%s", "c=in.(%s,{)", "c=eq.\\", 'c=eq."']),
        ("padded", Kind.PADDED, ["a", "ab"], ["c=eq.a  ", "c=gt.a", "c=like.a", "c=like.a__", "c=not.like.a*b*"]),
        ("varchar(9)", Kind.TEXT, ["a", "a "], ["c=eq.a", "c=lt.a ", "c=in.(a)", "c=like.a_"]),
        ("name", Kind.TEXT, ["a"], [f"c=eq.{'a' * 64}", "c=in.(a,b)", "c=gt.B", "c=not.like.a*"]),
        (
            "int2",
            Kind.NUMBER,
            ["1", "32767"],
            ["c=eq.1e30", "c=lt.Infinity", "c=in.(1,NaN)", "c=in.(1,1.5)", "c=gt.-1e99"],
        ),
        ("int8", Kind.NUMBER, [str(2**63 - 1)], [f"c=lt.{2**63}", f"c=eq.{2**63 - 1}.0", f"c=gt.-{2**63}"]),
        ("numeric", Kind.NUMBER, ["1." + "0" * 49 + "1"], ["c=gt.1", "c=eq.1." + "0" * 49 + "1", "c=lte.1.0"]),
        ("timestamp(0)", Kind.TIMESTAMP, ["294276-12-31 23:59:59.5"], ["c=eq.294277-01-01 00:00:00", "c=gt.infinity"]),
        ("timestamptz(0)", Kind.TIMESTAMPTZ, ["294276-12-31 23:59:59.5Z"], ["c=lt.294277-01-01 00:00:00"]),
        (
            "interval",
            Kind.INTERVAL,
            ["1 day", "-00:00:01"],
            [f"c={op}.{sign}infinity" for op in ORDERED for sign in ("", "-")] + ["c=in.(infinity,24:00:00,-infinity)"],
        ),
        ("interval", Kind.INTERVAL, ["1 day"], ["c=lt.178956970 years 7 mons 2147483647 days 99999999:00:00"]),
        ("interval", Kind.INTERVAL, ["1 day"], ["c=gt.-178956970 years -7 mons -2147483647 days -99999999:00:00"]),
        ("citext", Kind.NULL_ONLY, ["a"], ["c=is.null", "c=not.is.null", "c=eq.a"]),
        ("jsonb", Kind.NOTHING, ["null", "{}"], ["c=is.null", "c=eq.a"]),
        ("int[]", Kind.NULL_ONLY, ["{}", "{NULL}"], ["c=is.null", "c=not.is.null", "c=in.(1)"]),
        (
            "boolean",
            Kind.BOOLEAN,
            ["t", "f"],
            [f"c={n}is.{w}" for n in ("", "not.") for w in ("true", "False", "null")],
        ),
    ],
)
def test_a_value_at_the_edge_is_the_same(
    database: Session, reader: Session, type_name: str, kind: Kind, values: list[str], filters: list[str]
):
    opposite = [text.replace("=", "=not.", 1) for text in filters if "=not." not in text]
    assert differences(database, reader, type_name, kind, values, filters + opposite) == []


def in_encoding(encoding: str) -> str:
    """The conninfo of a database in this encoding, in UTF-8 as the server connects."""
    name = f"sql_in_{encoding.lower()}"
    provider = "LOCALE_PROVIDER libc " if postgres.major_version() >= 15 else ""
    postgres.execute(
        postgres.cluster().conninfo,
        f"CREATE DATABASE {name} ENCODING '{encoding}' {provider}LOCALE 'C' TEMPLATE template0",
    )
    return str(make_dsn(postgres.cluster().conninfo, dbname=name, client_encoding="UTF8"))


@pytest.mark.parametrize(
    ("encoding", "values"),
    [("LATIN1", "aäÿ~"), ("WIN1252", "a€žäŸ~"), ("EUC_JP", "a亜ア～腕"), ("SQL_ASCII", "aä😀~")],
)
def test_texts_compare_by_code_points_in_every_encoding(encoding: str, values: str):
    conninfo = in_encoding(encoding)
    database, reader = Session(conninfo), Session(conninfo)
    asked = questions(ORDERED, [*values, "😀", "Ω", "\ud800"])
    asked += [f"c={n}like.{p}" for n in ("", "not.") for p in ("ä*", "*€*", "*Ω*", "亜", "a_b", "*")]
    for session_type, kind in (("text", Kind.TEXT), ("char(4)", Kind.PADDED)):
        assert differences(database, reader, session_type, kind, list(values), asked, encoding) == []
    for session in (database, reader):
        session.connection.close()


@pytest.mark.parametrize("pattern", ["a*b", "*b*", "a*b*c*", "a*_b*", "*a_b*b"])
@pytest.mark.parametrize(("type_name", "kind"), [("text", Kind.TEXT), ("char(90)", Kind.PADDED)])
def test_a_text_too_long_to_search_matches_in_both(
    database: Session, reader: Session, type_name: str, kind: Kind, pattern: str
):
    values = ["ab" * 3, "ba" * 3, "x" * 40, "a" + "x" * 40 + "b", "a" + "x" * 20 + "b" + "y" * 20 + "c"]
    limited = [*within_reach([parse_filter(f"c={n}like.{pattern}") for n in ("", "not.")], 40)]
    assert differences(database, reader, type_name, kind, values, limited) == []


@given(
    st.lists(st.text("ab%_*\\ é", max_size=8).filter(lambda text: not ends_in_escape(text)), min_size=1, max_size=5),
    st.lists(st.text("ab%_*\\ é\n", max_size=10), max_size=10),
    st.sampled_from([2, 5, None]),
)
def test_random_patterns_are_the_same_conditions(
    reader: Session, patterns: list[str], texts: list[str], reach: int | None
):
    parsed = [parse_filter(f"c={n}like.{one}") for one in patterns for n in ("", "not.")]
    asked = [replace(term, reach=reach) for term in filters_in(parsed)]
    for type_name, kind in (("text", Kind.TEXT), ("bpchar(12)", Kind.PADDED)):
        written = [sql_condition([condition], {"c": kind}, "r") for condition in asked]
        columns = ", ".join(f"({sql}) IS TRUE" for sql, _ in written)
        answers = reader.run(
            f"SELECT to_json(c)::pg_catalog.text, {columns} "
            f"FROM (SELECT t::pg_catalog.{type_name} AS c FROM unnest(%s::pg_catalog.text[]) AS t) AS r",
            *(text for _, parameters in written for text in parameters),
            texts,
        )
        for value, *holds in answers:
            cell = Cell(as_row_has_it(value))
            assert [row_test(condition, {"c": kind}.get)(lambda _, cell=cell: cell) for condition in asked] == holds  # type: ignore[misc]


def test_infinite_intervals_are_the_same(database: Session, reader: Session):
    if postgres.major_version() < 17:
        pytest.skip("PostgreSQL has them since version 17")
    values = ["infinity", "-infinity", "1 day", "-1 day"]
    assert differences(database, reader, "interval", Kind.INTERVAL, values, questions(ORDERED, values)) == []


def test_no_cast_of_a_columns_owner_is_called(database: Session, reader: Session):
    database.run("""
        CREATE TYPE shade AS ENUM ('', 'light');
        CREATE FUNCTION spy(shade) RETURNS text LANGUAGE sql AS 'SELECT (1/0)::text';
        CREATE CAST (shade AS text) WITH FUNCTION spy(shade) AS IMPLICIT;
    """)
    asked = ["c=eq.light", "c=neq.light", "c=in.(light,)", "c=eq.", "c=not.in.(light)"]
    assert differences(database, reader, "shade", Kind.ENUM, ["", "light"], asked) == []


FLAGS = st.sampled_from(["a=is.true", "b=eq.true", "c=neq.false", "a=not.eq.true", "b=is.null", "c=not.is.null"])


def grouped(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    parts = st.lists(
        children.map(lambda text: text.replace("=", "." if "(" not in text else "", 1)), min_size=1, max_size=3
    )
    words = st.sampled_from(["or", "and", "not.or", "not.and"])
    return st.builds(lambda word, texts: f"{word}=({','.join(texts)})", words, parts)


@settings(max_examples=40)
@given(asked=st.lists(st.recursive(FLAGS, grouped, max_leaves=8), min_size=1, max_size=20))
def test_groups_have_sqls_logic_of_three_values(reader: Session, asked: list[str]):
    """Also as written by hand: NOT of what is not known is not known."""
    kinds = dict.fromkeys("abc", Kind.BOOLEAN)
    values = list(itertools.product(["true", "false", None], repeat=3))
    conditions = [parse_filter(text) for text in asked]
    written = [sql_condition([condition], kinds, "r") for condition in conditions]
    by_hand = [f"({as_sql(text)}) IS TRUE" for text in asked]
    columns = ", ".join([*(f"({sql}) IS TRUE" for sql, _ in written), *by_hand])
    rows = "(SELECT * FROM unnest(%s::bool[], %s::bool[], %s::bool[]) AS u (a, b, c)) AS r"
    parameters = [text for _, texts in written for text in texts]
    answers = reader.run(f"SELECT {columns} FROM {rows}", *parameters, *map(list, zip(*values, strict=True)))
    for row, answer in zip(values, answers, strict=True):
        cells = {
            column: Cell(None if text is None else text == "true") for column, text in zip("abc", row, strict=True)
        }
        feed = [row_test(condition, kinds.get)(cells.__getitem__) for condition in conditions]
        assert [*feed, *feed] == list(answer)


def as_sql(text: str) -> str:
    """The filter as somebody would write it in SQL, with NOT before its groups."""
    if group := re.fullmatch(r"(not\.)?(or|and)=?(\(.*\))", text):
        parts, depth, part = [], 0, ""
        for character in group[3][1:-1] + ",":
            depth += {"(": 1, ")": -1}.get(character, 0)
            if character == "," and depth == 0:
                parts.append(as_sql(part))
                part = ""
            else:
                part += character
        return f"{'NOT ' if group[1] else ''}({f' {group[2]} '.join(parts)})"
    column, _, rest = text.replace("=", ".").partition(".")
    negation, comparison = ("NOT ", rest[4:]) if rest.startswith("not.") else ("", rest)
    operator, _, operand = comparison.partition(".")
    return f"({negation}r.{column} {({'eq': '=', 'neq': '<>', 'is': 'IS'})[operator]} {operand})"


COLUMNS_OF_ALL_KINDS = {
    "i": ("pg_catalog.int4", Kind.NUMBER, ["-1", "0", "7", "2147483647"], ["eq", "gt", "lte", "in"]),
    "n": (
        "pg_catalog.numeric",
        Kind.NUMBER,
        ["NaN", "0.10", "-Infinity", "1e30", "1." + "3" * 50],
        ["neq", "lt", "gte", "in"],
    ),
    "t": ("pg_catalog.text", Kind.TEXT, ["", "a", "a,b", "(x)", "ä%"], ["eq", "gt", "in", "like"]),
    "at": (
        "pg_catalog.timestamptz",
        Kind.TIMESTAMPTZ,
        ["2026-11-22 10:00:00+02", "infinity", "0044-03-15 00:00:00+00 BC"],
        ["gt", "in"],
    ),
    "e": ("public.mood", Kind.ENUM, ["sad", "ok"], ["eq", "neq", "in"]),
    "x": ("pg_catalog.int4[]", Kind.NULL_ONLY, ["{}", "{1}"], []),
}
ROWS = st.lists(
    st.tuples(*(st.none() | st.sampled_from(values) for _, _, values, _ in COLUMNS_OF_ALL_KINDS.values())), max_size=5
)


@st.composite
def parts(draw: st.DrawFn) -> Filter:
    column = draw(st.sampled_from(sorted(COLUMNS_OF_ALL_KINDS)))
    _, _, values, operators = COLUMNS_OF_ALL_KINDS[column]
    operator = draw(st.sampled_from([*operators, "is"]))
    operand = "null" if operator == "is" else draw(st.sampled_from(values))
    listed = 'in.("' + operand + '")' if operator == "in" else f"{operator}.{operand}"
    asked = parse_filter(f"{column}={draw(st.sampled_from(['', 'not.']))}{listed}")
    assert isinstance(asked, Filter)
    return asked


def any_group(children: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    return st.builds(joined, st.sampled_from(["or", "and"]), st.lists(children, min_size=1, max_size=3))


@settings(max_examples=60)
@given(rows=ROWS, asked=st.lists(st.recursive(parts(), any_group, max_leaves=8), min_size=1, max_size=10))
def test_random_groups_are_the_same_conditions(
    reader: Session, rows: list[tuple[str | None, ...]], asked: list[Condition]
):
    kinds = {column: kind for column, (_, kind, *_) in COLUMNS_OF_ALL_KINDS.items()}
    written = [sql_condition([condition], kinds, "r") for condition in asked]
    columns = ", ".join(f"({sql}) IS TRUE" for sql, _ in written)
    names = ", ".join(COLUMNS_OF_ALL_KINDS)
    casts = ", ".join(
        f"u.{column}::{type_name} AS {column}" for column, (type_name, *_) in COLUMNS_OF_ALL_KINDS.items()
    )
    arrays = ", ".join(["%s::pg_catalog.text[]"] * len(kinds))
    source = f"(SELECT {casts}, number FROM unnest({arrays}) WITH ORDINALITY AS u ({names}, number)) AS r"
    parameters = [text for _, texts in written for text in texts]
    of_columns = [[row[at] for row in rows] for at in range(len(kinds))]
    answers = reader.run(
        f"SELECT to_json(r)::pg_catalog.text, {columns} FROM {source} ORDER BY number", *parameters, *of_columns
    )
    for text, *holds in answers:
        row = ChangedRow(Change(f'{{"data": {text}}}', "", ""))
        assert [row_test(condition, kinds.get)(row.cell) for condition in asked] == holds


def test_a_group_names_several_columns_of_one_row(reader: Session):
    asked = parse_filter(
        'or=("a ""%s.b".eq."x,(y)",and(n.gte.2,n.lt.4),not.or(n.lt.100,"a ""%s.b".is.null))'.replace('""', '\\"')
    )
    kinds = {'a "%s.b': Kind.TEXT, "n": Kind.NUMBER}
    text, parameters = sql_condition([asked], kinds, 'r"%s')
    rows = [("x,(y)", 1), ("z", 1), ("z", 3), ("z", 100), (None, 100), (None, 2)]
    source = """(SELECT t AS "a ""%%s.b", n FROM unnest(%s::pg_catalog.text[], %s::int[]) AS u (t, n)) AS "r""%%s" """
    answers = reader.run(
        f"SELECT ({text}) IS TRUE FROM {source}", *parameters, [t for t, _ in rows], [n for _, n in rows]
    )
    assert [holds for (holds,) in answers] == [True, False, True, True, False, True]


def test_another_expression_replaces_a_column():
    text, parameters = sql_condition(
        [parse_filter("phone=eq.5f")], {"phone": Kind.TEXT}, "r", expressions={"phone": "h(1)"}
    )
    assert (text, parameters) == ("(h(1) OPERATOR(pg_catalog.=) %s::pg_catalog.text)", ("5f",))


def test_no_filter_matches_all_and_unknown_columns_fail():
    assert sql_condition([], {}, "r") == ("TRUE", ())
    with pytest.raises(BadFilter, match="no such column"):
        sql_condition([parse_filter("or=(a.eq.1,b.eq.2)")], {"a": Kind.NUMBER}, "r")


@pytest.mark.parametrize(
    ("type_name", "text"),
    [
        ("int4", "c=eq.7"),
        ("int4", "c=in.(7,9)"),
        ("int8", "c=gte.7"),
        ("numeric", "c=eq.7"),
        ("numeric", "c=lt.7.5"),
        ("text", "c=eq.seven"),
        ("char(5)", "c=in.(seven,9)"),
        ("uuid", "c=eq.a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("timestamptz", "c=gt.2026-11-22"),
        ("date", "c=eq.2026-11-22"),
        ("inet", "c=eq.10.0.0.1"),
    ],
)
def test_an_index_is_used(database: Session, type_name: str, text: str):
    database.run(
        f"DROP TABLE IF EXISTS r; CREATE TABLE r (c {type_name}); CREATE INDEX ON r (c); SET enable_seqscan = off"
    )
    [[kind]] = [kinds for _, table, _, kinds, *_ in database.run(COLUMNS) if table == "r"]
    sql, parameters = sql_condition([parse_filter(text)], {"c": Kind(kind)}, "r")
    plan = "\n".join(line for (line,) in database.run(f"EXPLAIN SELECT FROM r WHERE {sql}", *parameters))
    assert "Index Cond" in plan, plan
