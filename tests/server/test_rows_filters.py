"""A filter finds the rows that it lets through in the feed: /api/rows and /api/changes are asked the same."""

from tornado.escape import url_escape
from tornado.testing import gen_test

from tests.server.test_rows import RowsTestCase

TABLE = """
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TYPE step AS ENUM ('open', 'sent, not paid', 'a"b', '(c)', ' d ', '');
    CREATE DOMAIN amount AS numeric;
    CREATE TABLE samples (
        id int PRIMARY KEY, n amount, f real, t text, c character(4), at timestamptz, day date, zoned timetz, i interval, e mood,
        ip inet, b boolean, bits varbit, bytes bytea, u uuid, list int[], doc jsonb, phone text, "a.b ""c"" d" text,
        s step
    )
"""
ROWS = """
    INSERT INTO samples VALUES
        (1, 'NaN', 'NaN', '', '', 'infinity', 'infinity', '24:00:00+00', '1 mon', 'sad', '::1', true, '', '', NULL, '{}', 'null', '1', '', 'open'),
        (2, '-Infinity', '-0', 'a', 'a', '2026-11-22 10:00:00+02', '0044-03-15 BC', '10:00:00+02', '30 days', 'ok', '10.0.0.1', false,
            B'0', '\\x00', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{1}', '{}', '2', 'a,(b)', 'sent, not paid'),
        (3, 12345678901234567890123456789012345678901234567890.5, 0.1, 'A', 'a b', '0044-03-15 00:00:00+00 BC', '12026-01-01',
            '08:00:00+00', '-1 day +24:00:00', 'happy', '10.0.0.0/8', NULL, B'01', '\\xff', NULL, NULL, NULL, NULL, '"', 'a"b'),
        (4, 1.10, 16777216, 'ä%_\\', 'abcd', '2026-11-22 08:00:00.000001+00', '2026-11-22', '12:00:00+04', '00:00:00.000001',
            NULL, '10.0.0.1/24', true, B'1', NULL, NULL, NULL, NULL, '1', NULL, '(c)'),
        (5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, ' d '),
        (6, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '')
"""
FILTERS = (
    *(f"n={operator}.{n}" for operator in ("eq", "neq", "lt", "gte") for n in ("NaN", "1.1", "-Infinity", "1.0e0")),
    "n=gt.12345678901234567890123456789012345678901234567890.4",
    "f=eq.0.1",
    "f=in.(0,16777216.4,NaN)",
    *(f"t={one}" for one in ("gt.A", "lte.a", "neq.", "like.*%_*", r"like.*\%*", "not.like.a*", "in.(,A)", "eq.ä%_\\")),
    *(f"c={one}" for one in ("eq.a ", "gt.a", "like.a*", "like.a", "not.like.____")),
    *(f"at={one}" for one in ("eq.2026-11-22T08:00:00Z", "gt.2026-11-22T08:00", "lt.0001-01-01", "not.lt.infinity")),
    "day=lte.0044-03-15 BC",
    "day=gt.9999-12-31",
    "zoned=eq.08:00:00+00:00",
    "zoned=gte.10:00+02",
    *(f"i={one}" for one in ("eq.30 days", "eq.00:00:00", "lt.infinity", "gt.-1 days")),
    *(f"e={one}" for one in ("eq.ok", "neq.nothing", "not.in.(sad,nothing)")),
    *(f"s={one}" for one in ("eq.sent, not paid", 'eq.a"b', "eq.(c)", "neq. d ", "eq.")),
    *(
        f"s={one}"
        for one in ('in.(open,"sent, not paid")', 'in.(open, "sent, not paid" ,"a\\"b")', "in.( d ,(c))", "in.()")
    ),
    *(f"or=(s.{one},id.eq.3)" for one in ('eq."sent, not paid"', 'in.("(c)", "sent, not paid")', 'eq."a\\"b"')),
    *(f"ip={one}" for one in ("lt.10.0.0.1", "eq.10.0.0.1/32", "gt.10.0.0.0/8")),
    *(f"b={one}" for one in ("is.true", "not.is.true", "eq.no", "not.eq.no")),
    "bits=gt.0",
    "bytes=gte.\\x00",
    "u=eq.{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}",
    "list=is.null",
    "list=not.is.null",
    "or=(n.eq.1.1,t.eq.a)",
    "not.or=(n.eq.1.1,t.eq.a)",
    "not.and=(n.gt.0,or(t.eq.A,e.is.null),b.is.null)",
    r'or=("a.b \"c\" d".eq."a,(b)",and("a.b \"c\" d".eq."\"",n.gt.1e40),id.eq.5)',
    "and=(id.gte.2,id.lte.4,not.and(b.eq.true,id.eq.4))",
    "or=(phone.is.null,phone.eq.HASH)",
    "phone=not.eq.HASH",
)


class RowsFilterTest(RowsTestCase):
    def prepare_database(self) -> None:
        self.write(TABLE)
        self.watch("public.samples", ", hash => '{phone}'")
        self.write(ROWS)
        [(self.hash,)] = self.write("SELECT changefeed.hash('samples', 'phone', '1')")

    @gen_test
    async def test_a_filter_finds_the_rows_that_it_lets_through(self):
        found = set()
        for text in FILTERS:
            asked = f"table=samples&filter={url_escape(text.replace('HASH', self.hash))}"
            rows = (await self.rows(f"{asked}&columns=id"))["rows"]
            page = await self.fetch_json(f"/api/changes?{asked}")
            ids = sorted(row["id"] for row in rows)
            assert ids == sorted(change["data"]["id"] for change in page["changes"]), text
            found.add(tuple(ids))
        assert len(found) > len(FILTERS) / 4

    @gen_test
    async def test_what_one_refuses_the_other_does_in_the_same_words(self):
        for text in (
            "list=eq.{}",
            "doc=is.null",
            "or=(n.eq.1,doc.eq.{})",
            "or=(n.eq.1,nothing.eq.1)",
            "not.and=(n.eq.one,id.eq.1)",
            "or=(n.eq.1",
            "or=(e.gt.sad,id.eq.1)",
            "or=(s.eq.sent, not paid)",
        ):
            asked = f"table=samples&filter={url_escape(text)}"
            refused = await self.rows(asked, 400)
            assert refused == await self.fetch_json(f"/api/changes?{asked}", 400), text
