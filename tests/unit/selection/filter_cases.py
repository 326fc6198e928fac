"""Columns of every type, with values and operands for filters and PostgreSQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from changefeed.change.change import Change
from changefeed.change.changed_row import ChangedRow
from changefeed.postgres.named_queries import load_queries
from changefeed.selection.filter_kinds import Kind
from tests.journal_database import Session

SQL = {"eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "like": "LIKE"}
EQUAL, ORDERED = ("eq", "neq"), ("eq", "neq", "lt", "lte", "gt", "gte")

PREPARE = """
    SET TimeZone = 'UTC';
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TYPE pair AS (a int, b text);
    CREATE DOMAIN quantity AS int;
    CREATE DOMAIN many AS quantity;
    CREATE DOMAIN moods AS mood;
    CREATE DOMAIN padded AS character(4);
    CREATE DOMAIN document AS jsonb;
    CREATE DOMAIN pairs AS pair;
    -- What ICU's collations can be; not every build of PostgreSQL has ICU.
    CREATE COLLATION ignoring_case (provider = libc, locale = 'C');
    UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'ignoring_case';
    CREATE DOMAIN name_of_any_case AS text COLLATE ignoring_case;
    -- As the extension citext makes its type.
    CREATE TYPE citext;
    CREATE FUNCTION citextin(cstring) RETURNS citext LANGUAGE internal IMMUTABLE STRICT AS 'textin';
    CREATE FUNCTION citextout(citext) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
    CREATE TYPE citext (INPUT = citextin, OUTPUT = citextout, LIKE = text, CATEGORY = 'S', COLLATABLE = true);
    -- What the condition is for each of the values; null where PostgreSQL refuses it.
    CREATE FUNCTION ask(type_name text, condition text, texts text[]) RETURNS boolean[] LANGUAGE plpgsql AS $$
    DECLARE
        answers boolean[];
    BEGIN
        EXECUTE format(
            'SELECT array_agg(%s ORDER BY n) '
            'FROM (SELECT t::%s AS v, n FROM unnest($1) WITH ORDINALITY AS u (t, n)) AS x', condition, type_name
        ) INTO answers USING texts;
        RETURN answers;
    EXCEPTION WHEN data_exception THEN
        RETURN NULL;
    END $$;
"""


@dataclass(frozen=True)
class Case:
    """Values of a type; operands that are taken, and texts that are refused where they stand instead of one."""

    type_name: str
    kind: Kind
    values: tuple[str, ...]
    operators: tuple[str, ...] = ORDERED
    operands: tuple[str, ...] = ()  # besides the values
    refused: tuple[str, ...] = ()
    operand_type: str = ""  # where PostgreSQL, asked with a bare text, would not compare with what a filter does

    def __str__(self) -> str:
        return self.type_name


ADDRESSES = (
    "10.0.0.1",
    "10.0.0.0/8",
    "10.2.0.0/8",
    "10.1.0.0/16",
    "10.0.0.1/24",
    "192.168.0.1",
    "::1",
    "fe80::/10",
    "::ffff:10.0.0.1",
)
DATES = (
    "2026-11-22",
    "0001-01-01",
    "0044-03-15 BC",
    "0001-12-31 BC",
    "4714-11-24 BC",
    "12026-01-01",
    "20000-01-01",
    "5874897-12-31",
    "infinity",
    "-infinity",
    "2024-02-29",
    "1900-02-28",
)
STAMPS = (
    "2026-11-22 10:00:00",
    "2026-11-22 10:00:00.5",
    "2026-11-22 10:00:00.000001",
    "2026-11-23 00:00:00",
    "0044-03-15 10:00:00 BC",
    "12026-01-01 00:00:00",
    "20000-01-01 00:00:00",
    "294276-12-31 23:59:59.999999",
    "4714-11-24 00:00:00 BC",
    "infinity",
    "-infinity",
)
NONSENSE = ("nonsense", "", " ", "0", "1", "x" * 9_000, "9" * 9_000, "null", "ä", "١", "1_0", "0x1f")
NO_TIMES = (
    *NONSENSE,
    "now",
    "yesterday",
    "2026-02-29",
    "2026-13-01",
    "0000-01-01",
    "26-01-01",
    "2026-11-22 25:00",
    "2026-11-22 10:60",
    "2026-11-22 10:00+16",
    "2026-11-22 24:00:01",
    "2026-11-22T10:00:00 02:00",
    "Nov 22 2026",
    "2026-11-22 10:00 Europe/Berlin",
)
NO_DAY_TIMES = (*NONSENSE, "24:00:01", "25:00", "10:60", "10:00:61", "10:00+16", "now", "10:00 PM", "2026-11-22")

CASES = (
    Case(
        "smallint",
        Kind.NUMBER,
        ("-32768", "0", "32767"),
        operands=("1.5", "1e9", "+7"),
        refused=NONSENSE[:3],
        operand_type="numeric",
    ),
    Case(
        "bigint",
        Kind.NUMBER,
        ("9007199254740993", "9007199254740992", "-1", "0"),
        operands=("9007199254740992.5", "1e30"),
        operand_type="numeric",
    ),
    Case("many", Kind.NUMBER, ("-1", "0", "7"), operands=("7.0",), operand_type="numeric"),
    Case(
        "numeric",
        Kind.NUMBER,
        (
            "1.0",
            "1",
            "0.10",
            "1e30",
            "NaN",
            "-5.5",
            "Infinity",
            "-Infinity",
            "1e131071",
            "1e-16383",
            "0." + "3" * 16_000,
        ),
        operands=(".1", "10.", "-0", "+1E-1", "inf", "nan", " 1 "),
        refused=(
            "nonsense",
            "",
            "1e131072",
            "1e-16384",
            "1e999999999",
            "-1e-99999999999",
            "1 0",
            "1,0",
            "١",
            "sNaN",
            "NaN123",
            "0x1f",
        ),
    ),
    Case("numeric(10,2)", Kind.NUMBER, ("1.00", "1.01", "-1"), operands=("1.005", "1")),
    Case(
        "float8",
        Kind.FLOAT8,
        ("1.5", "Infinity", "-Infinity", "NaN", "0.1", "1e-300", "-0", "0", "5e-324", "1.7976931348623157e308"),
        operands=("0.10000000000000000001", "0.1000000000000000055511151231257827", "inf", "nan"),
        refused=("nonsense", "", "1e400", "-1e400", "1e-400"),
    ),
    Case(
        "float4",
        Kind.FLOAT4,
        ("0.1", "16777217", "3.4028235e38", "1e-45", "NaN", "Infinity", "-0", "0", "1"),
        operands=(
            "0.100000001490116119384765625",
            "16777216",
            "1.00000005960464477539062499999999999",
            "1.00000005960464477539062500000000001",
            "1.000000059604644775390625",
            "inf",
        ),
        refused=("nonsense", "", "3.5e38", "1e39", "1e-46", "1e400"),
    ),
    Case(
        "boolean",
        Kind.BOOLEAN,
        ("true", "false"),
        operands=("t", "TR", "yes", "on", "1", "f", "n", "of", "OFF", "0", " no "),
        refused=("maybe", "", "o", "2", "truely", "null"),
    ),
    Case(
        "date",
        Kind.DATE,
        DATES,
        operands=("2026-11-22T23:00:00+02:00", "2026-11-22 24:00:00", " Infinity "),
        refused=(*NO_TIMES, "5874898-01-01", "4714-11-23 BC"),
    ),
    Case(
        "time",
        Kind.TIME,
        ("10:00:00", "09:00:00", "24:00:00", "00:00:00", "10:00:00.000001"),
        operands=("9:00", "10:00", "10:00:00.0000014", "10:00+02", "10:00:00Z", "23:59:60"),
        refused=NO_DAY_TIMES,
    ),
    Case(
        "timetz",
        Kind.TIMETZ,
        ("10:00:00+00", "12:00:00+02", "09:30:00-00:30", "24:00:00+15:59:59", "00:00:00-15", "10:00:00+05:30"),
        operands=("10:00", "12:00 +0200", "10:00Z"),
        refused=NO_DAY_TIMES,
    ),
    Case(
        "timestamp",
        Kind.TIMESTAMP,
        STAMPS,
        operands=(
            "2026-11-22T12:00:00+02:00",
            "2026-11-22T10:00Z",
            "2026-11-22",
            "2026-11-22 24:00:00",
            "2026-11-22 10:00:60",
            "2026-11-22 10:00:00.1234565",
            "2026-11-22 9:00",
        ),
        refused=(*NO_TIMES, "294277-01-01", "294276-12-31 24:00", "294277-01-01 00:00:00.000001", "4714-11-23 BC"),
    ),
    Case(
        "timestamptz",
        Kind.TIMESTAMPTZ,
        (
            *(
                stamp if "infinity" in stamp else stamp.replace(" BC", "+00 BC") if "BC" in stamp else stamp + "+00"
                for stamp in STAMPS
            ),
            "2026-11-22 12:00:00+02",
        ),
        operands=(
            "2026-11-22T12:00:00+02:00",
            "2026-11-22T10:00:00.500Z",
            "2026-11-22 10:00",
            "2026-11-22",
            "2026-11-22 15:30:00+05:30:00",
            "2026-11-22 24:00:00-15:59",
        ),
        refused=(
            *NO_TIMES,
            "294276-12-31 24:00+00",
            "294277-01-01 00:00:01",
            "294276-12-31 23:59:59-01",
            "4714-11-24 00:00:00+01 BC",
        ),
    ),
    Case(
        "interval",
        Kind.INTERVAL,
        (
            "1 day",
            "24:00:00",
            "1 mon",
            "30 days",
            "-00:00:01",
            "1 year 2 mons -3 days +04:05:06.789",
            "00:00:00",
            "178956970 years 7 mons",
            "-1 days +02:03:00",
            "00:00:00.000001",
        ),
        operands=(
            "1 month",
            "1 week 2 days 3 hours 4 minutes 5 seconds",
            "-1 day 02:03",
            "1440 mins",
            "1 DAY",
            "86400 sec",
            "25:00",
        ),
        refused=(
            "nonsense",
            "",
            "1",
            "1 day 1 day",
            "1 fortnight",
            "178956970 years 8 mons",
            "9999999999:00:00",
            "1:60",
            "one day",
            "1day2",
        ),
    ),
    Case(
        "uuid",
        Kind.UUID,
        ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12"),
        operands=("{a0eebc999c0b4ef8bb6d6bb9bd380a11}", "a0eebc99-9c0b4ef8-bb6d-6bb9-bd380a11"),
        refused=(*NONSENSE, "urn:uuid:a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "{a0eebc999c0b4ef8bb6d6bb9bd380a11"),
    ),
    Case(
        'text COLLATE "C"',
        Kind.TEXT,
        ("", " ", "a", "a ", "A", "ab", "ä", "😀", "\uffff", "z", "a%b", "a_b", "a\nb", "a\\b", "null", "1"),
        operators=(*ORDERED, "like"),
        operands=("a%", "%b", "a\\_b", "a\\\\b", "_", "%_%b", "a__"),
    ),
    Case('varchar(9) COLLATE "C"', Kind.TEXT, ("", "a", "a ", "A"), operators=(*ORDERED, "like"), operands=("%a%",)),
    Case("name", Kind.TEXT, ("", "a", "a ", "A"), operators=(*ORDERED, "like")),
    Case(
        'character(4) COLLATE "C"',
        Kind.PADDED,
        ("a", "ab ", "abc", "", "abcd"),
        operators=(*ORDERED, "like"),
        operands=("a   ", "a      ", "a%", "%d", "a\t", "____"),
    ),
    Case("mood", Kind.ENUM, ("sad", "ok", "happy"), operators=EQUAL),
    Case(
        "inet",
        Kind.INET,
        ADDRESSES,
        operands=("10.0.0.1/32", "::1/128", "0:0:0:0:0:0:0:1", "FE80::/10"),
        refused=(*NONSENSE, "10.0.0.1/33", "10.0.0.1/255.0.0.0", "10.0.0.1/", "fe80::1%eth0", "10.0.0.256", "::1/129"),
    ),
    Case(
        "cidr",
        Kind.CIDR,
        ("10.0.0.1/32", "10.0.0.0/8", "10.1.0.0/16", "::/0", "0.0.0.0/0", "fe80::/10"),
        operands=("10.0.0.1", "::1", "10.2.0.0/15", "10.0.0.1/8", "1.2.3.4/0", "::1/64"),
        operand_type="cidr",
        refused=(*NONSENSE, "10.0.0.1/8", "1.2.3.4/0", "10.2.0.0/8", "::1/64"),
    ),
    Case(
        "macaddr",
        Kind.MACADDR,
        ("08:00:2b:01:02:03", "08:00:2b:01:02:04", "ff:00:00:00:00:00"),
        operands=("08002B010203", "08-00-2b-01-02-03", "0800.2b01.0203", "08002b:010203"),
        refused=(*NONSENSE, "08:00:2b-01:02:03"),
    ),
    Case(
        "macaddr8",
        Kind.MACADDR8,
        ("08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:06"),
        operands=("08002B0102030405",),
        refused=NONSENSE,
    ),
    Case(
        "bit(9)",
        Kind.BIT,
        ("000000000", "000000001", "100000000"),
        operands=("1", "0", "00000000", "1000000000", ""),
        refused=("2", "nonsense", " 1"),
    ),
    Case("varbit", Kind.BIT, ("", "0", "1", "01", "10", "0000000011", "00000000"), refused=("2", "nonsense")),
    Case(
        "bytea",
        Kind.BYTEA,
        ("\\x", "\\x00", "\\xff", "\\x00ff", "\\xFF00"),
        operands=(),
        refused=("\\xf", "\\xgg", "nonsense", "\\x0 0"),
    ),
)
# Of these only null, or not.
NULL_ONLY = {
    "citext": "a",
    "text COLLATE ignoring_case": "a",
    "varchar(9) COLLATE ignoring_case": "a",
    "character(4) COLLATE ignoring_case": "a",
    "name_of_any_case": "a",
    "money": "1",
    "int4range": "[1,4]",
    "numrange": "[1,4]",
    "int4multirange": "{[1,4]}",
    "int[]": "{1,2}",
    "text[]": "{}",
    "mood[]": "{ok}",
    "pair[]": '{"(1,a)"}',
    "point": "(1,2)",
    "tsvector": "a b",
    "oid": "1",
    '"char"': "a",
    "pg_lsn": "0/1",
}
DOMAIN_OF_ENUM = "moods"  # which PostgreSQL compares with nothing, unless it is cast
NOTHING = ("json", "jsonb", "document", "pair", "pairs")


DIGITS = st.integers(0, 10**20).map(str)
NUMBERS = st.builds("{}{}.{}".format, st.sampled_from(["", "-"]), DIGITS, DIGITS) | st.decimals(
    -1000, 1000, places=2
).map(str)
OFFSETS = st.builds("{}{:02}:{:02}".format, st.sampled_from("+-"), st.integers(0, 15), st.integers(0, 59))
CLOCKS = st.builds(
    "{:02}:{:02}:{:02}.{:06}".format,
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(0, 59),
    st.integers(0, 999_999),
) | st.sampled_from(["24:00:00", "00:00:00"])
DAYS = st.builds(
    "{:04}-{:02}-{:02}".format, st.integers(1, 9999) | st.integers(1, 290_000), st.integers(1, 12), st.integers(1, 28)
)
ERAS = st.sampled_from(["", "", " BC"])
EARLY = st.builds("{:04}-{:02}-{:02} BC".format, st.integers(1, 4713), st.integers(1, 12), st.integers(1, 28))
HEXADECIMAL = st.binary(max_size=4).map(lambda data: "\\x" + data.hex())
RANDOM = {
    "numeric": NUMBERS | st.sampled_from(["NaN", "Infinity", "-Infinity"]),
    "float8": st.floats().map(lambda number: repr(number).replace("inf", "Infinity")) | NUMBERS,
    "float4": st.floats(width=32).map(lambda number: repr(number).replace("inf", "Infinity")) | NUMBERS,
    "bigint": st.integers(-(2**63), 2**63 - 1).map(str) | st.integers(-3, 3).map(str),
    "date": DAYS | EARLY,
    "time": CLOCKS,
    "timetz": st.builds("{}{}".format, CLOCKS, OFFSETS),
    "timestamp": st.builds("{} {}".format, DAYS, CLOCKS),
    "timestamptz": st.builds("{} {}{}".format, DAYS, CLOCKS, OFFSETS),
    "interval": st.builds(
        "{} mons {} days {}{}".format, st.integers(-3, 3), st.integers(-40, 40), st.sampled_from("+-"), CLOCKS
    ),
    "uuid": st.uuids().map(str),
    'text COLLATE "C"': st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3),
    'character(4) COLLATE "C"': st.text("ab \t", max_size=4),
    "inet": st.builds("{}/{}".format, st.ip_addresses(v=4), st.integers(0, 32))
    | st.builds("{}/{}".format, st.ip_addresses(v=6), st.integers(0, 128)),
    "macaddr": st.binary(min_size=6, max_size=6).map(lambda data: data.hex(":")),
    "varbit": st.text("01", max_size=18),
    "bytea": HEXADECIMAL,
}


def kinds_of(database: Session, type_names: Sequence[str]) -> dict[str, Kind]:
    """By type, as the server reads them from a table with a column of each."""
    columns_of_all = ", ".join(f"c{n} {name}" for n, name in enumerate(type_names))
    database.run(f"CREATE TABLE everything ({columns_of_all})")
    rows = database.run(load_queries("server.sql")["columns"])
    [of_column] = [dict(zip(names, kinds, strict=True)) for _, table, names, kinds, *_ in rows if table == "everything"]
    return {name: Kind(of_column[f"c{n}"]) for n, name in enumerate(type_names)}


def as_row_has_it(text: str | None) -> Any:
    change = Change(f'{{"data": {{"c": {text or "null"}}}}}', "", "")
    return ChangedRow(change).value("c")


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def condition(operator: str, operands: Sequence[str], operand_type: str = "") -> str:
    texts = [quoted(operand) + (f"::{operand_type}" if operand_type else "") for operand in operands]
    return f"v IN ({', '.join(texts)})" if operator == "in" else f"v {SQL[operator]} {texts[0]}"


def a_filter(operator: str, operands: Sequence[str], negation: str = "") -> str:
    if operator == "in":
        listed = ('"' + operand.replace("\\", "\\\\").replace('"', '\\"') + '"' for operand in operands)
        return f"c={negation}in.({','.join(listed)})"
    return f"c={negation}{operator}.{operands[0]}"
