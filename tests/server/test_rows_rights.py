"""/api/rows applies rights, omit, hash and --payload as the feed does, and runs no code of untrusted owners."""

import json
from typing import Any, ClassVar
from urllib.parse import quote

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn
from tornado.testing import gen_test

from tests import postgres
from tests.access_case import AccessTestCase, issued
from tests.feed_case import ORDERS
from tests.server.test_illegible_names import new_database as illegible_database
from tests.server.test_rows import RowsTestCase
from tests.sql.test_record_rights import HOSTILE, HOSTILE_VALUES, hostile_casts

QUERIES = (
    "table=orders",
    "table=orders&columns=id",
    "table=orders&order=id.desc&limit=2",
    "table=orders&filter=id=gt.1",
    "table=orders&filter=note=is.null",
    "table=orders&columns=note",
    "table=orders&order=note",
    "table=orders&order=nothing",
    "table=salaries",
    "table=nothing",
)


class RightsTest(AccessTestCase):
    more_flags = ("--row-limit-bytes", "2000", "--rows-limit", "3", "--rows-limit-bytes", str(1 << 20))

    async def rows(self, kind: str, query: str, **headers: str) -> Any:
        status, answer = await self.ask(kind, f"/api/rows?{query}", headers=headers)
        if isinstance(answer, bytes):
            lines = answer.splitlines()
            return status, lines[:-1], sorted(json.loads(lines[-1]))
        return status, {**answer, "cursor": len(answer["cursor"])} if "cursor" in answer else answer

    async def all_answers(self) -> list[Any]:
        accepts = ("application/json", "application/x-ndjson")
        return [await self.rows("narrow", query, Accept=accept) for query in QUERIES for accept in accepts]

    @gen_test
    async def test_what_one_may_not_see_changes_no_answer(self):
        for number in range(1, 4):
            self.order(number)
        before = await self.all_answers()
        assert before[0] == (
            200,
            {"rows": [{"id": n, "customer_id": 42} for n in (1, 2, 3)], "cursor": before[0][1]["cursor"]},
        )
        # More rows than the limit, of others; other values of hidden columns, and too large ones; other tables.
        self.write("INSERT INTO orders SELECT i, 43, 'unseen' FROM generate_series(10, 50) AS i")
        self.write(
            "SET session_replication_role = replica; UPDATE orders SET note = CASE WHEN id < 3 THEN repeat('unseen', 1000) END"
        )
        self.pay(10)
        assert await self.all_answers() == before

    @gen_test
    async def test_a_row_of_others_that_is_too_large_is_not_met(self):
        filtered = {
            "Authorization": f"Bearer {issued({'tables': {'public.orders': {'filter': ['customer_id=eq.42']}}})}"
        }
        self.order(1)
        self.write("SET session_replication_role = replica; INSERT INTO orders VALUES (9, 43, repeat('unseen', 1000))")
        assert (await self.ask("none", "/api/rows?table=orders", headers=filtered))[1]["rows"] == [
            {"id": 1, "customer_id": 42, "note": "unseen"}
        ]
        self.write("ALTER TABLE orders ENABLE ROW LEVEL SECURITY")  # of which the server's role is free
        assert (await self.ask("none", "/api/rows?table=orders", headers=filtered))[0] == 200

    @gen_test
    async def test_only_clients_with_all_rights_see_role_names(self):
        self.write("ALTER TABLE orders RENAME note TO remark; SELECT changefeed.watch('orders', omit => '{remark}')")
        self.write("ALTER TABLE orders RENAME remark TO note")
        await self.feed.catalog.reread()
        for kind, is_told in (("full", True), ("orders", False)):
            status, answer = await self.rows(kind, "table=orders")
            assert (status, answer["error"]["code"]) == (403, "cannot_read")
            assert ("remark" in answer["error"]["message"]) is is_told

    @gen_test
    async def test_only_clients_that_may_see_a_view_learn_of_it(self):
        self.write("CREATE VIEW secrets AS TABLE orders")
        for kind, is_told in (("full", True), ("orders", False)):
            status, answer = await self.rows(kind, "table=secrets")
            assert (status, answer["error"]["code"]) == (400, "unknown_table")
            assert ("a view" in answer["error"]["message"]) is is_told

    @gen_test
    async def test_a_token_sees_the_rows_it_names(self):
        self.order(1)
        self.order(2, customer=43)
        self.pay()
        assert (await self.rows("orders", "table=orders"))[1]["rows"] == [
            {"id": number, "customer_id": customer, "note": "unseen"} for number, customer in ((1, 42), (2, 43))
        ]
        for kind, status, code in (
            ("none", 401, "sign_in"),
            ("wrong", 401, "bad_token"),
            ("nothing", 403, "no_rights"),
            ("orders", 400, "unknown_table"),
        ):
            answer = await self.rows(kind, "table=salaries")
            assert (answer[0], answer[1]["error"]["code"]) == (status, code)
        # A cursor is for its holder's rights too.
        _, answer = await self.ask("narrow", "/api/rows?table=orders")
        assert (await self.ask("narrow", f"/api/changes?since={answer['cursor']}"))[1]["gap"] is None


class HiddenColumnsTest(RowsTestCase):
    def prepare_database(self) -> None:
        self.write("CREATE TABLE people (id int PRIMARY KEY, phone text, pin text, born date)")
        self.watch("public.people", ", omit => '{pin}', hash => '{phone,born}'")
        self.write("INSERT INTO people VALUES (1, '110', 'unseen', '2026-01-01'), (2, NULL, 'unseen', NULL)")

    @gen_test
    async def test_omitted_and_hashed_columns_are_those_of_changes(self):
        answer = await self.rows("table=people&order=id")
        page = await self.fetch_json("/api/changes")
        assert answer["rows"] == [change["data"] for change in page["changes"]]
        hashed = answer["rows"][0]["phone"]
        assert len(hashed) == 64
        assert (await self.rows(f"table=people&filter=phone=eq.{hashed}&columns=id"))["rows"] == [{"id": 1}]
        await self.refused("table=people&order=phone", 400, "bad_order")
        why = await self.refused("table=people&order=pin", 400, "bad_order")
        assert why == "'pin' is no column to sort by; write one of id"  # neither the hidden nor the hashed ones
        await self.refused("table=people&filter=pin=eq.unseen", 400, "unknown_column")

    @gen_test
    async def test_a_column_that_is_gone_may_have_another_name(self):
        self.write("ALTER TABLE people RENAME COLUMN pin TO code")
        why = await self.refused("table=people", 403, "cannot_read")
        assert "the column pin that was to be left out or hashed is gone" in why

    @gen_test
    async def test_a_name_that_has_passed_to_another_column_hides_nothing(self):
        for hidden in ("pin", "phone"):
            self.write(f"ALTER TABLE people RENAME {hidden} TO code; ALTER TABLE people ADD {hidden} text")
            why = await self.refused("table=people", 403, "cannot_read")
            assert f"the column {hidden} that was to be left out or hashed is gone" in why
            self.write(f"ALTER TABLE people DROP {hidden}; ALTER TABLE people RENAME code TO {hidden}")
            assert len((await self.rows("table=people"))["rows"]) == 2


class KeysTest(RowsTestCase):
    flags = ("--payload", "keys")

    def prepare_database(self) -> None:
        self.write(f"{ORDERS}; CREATE TABLE keyless (id int)")
        self.watch()
        self.watch("public.keyless")
        self.write("INSERT INTO orders VALUES (1, 'unseen', 5); INSERT INTO keyless VALUES (7)")

    @gen_test
    async def test_rows_have_only_keys(self):
        assert (await self.rows("table=orders"))["rows"] == [{"id": 1}]
        assert (await self.rows("table=orders&filter=id=gt.0"))["rows"] == [{"id": 1}]
        assert (await self.rows("table=keyless"))["rows"] == [{}]
        await self.refused("table=orders&order=status", 400, "bad_order")
        await self.refused("table=orders&filter=status=eq.unseen", 400, "withheld_column")


class CountsTest(RowsTestCase):
    flags = ("--payload", "off")

    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()

    @gen_test
    async def test_there_are_no_rows(self):
        await self.refused("table=orders", 400, "withheld_column")


class OwnersTest(RowsTestCase):
    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.watch()
        self.mallory = f"mallory_{parse_dsn(self.conninfo)['dbname']}"
        self.write(f"CREATE ROLE {self.mallory}; GRANT CREATE ON SCHEMA public TO {self.mallory}")
        self.addCleanup(self.write, f"DROP OWNED BY {self.mallory} CASCADE; DROP ROLE {self.mallory}")
        self.write(f"CREATE SCHEMA evil AUTHORIZATION {self.mallory}")
        self.as_mallory(
            "CREATE FUNCTION evil.seize(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN IF (SELECT usesuper FROM "
            "pg_user WHERE usename = current_user) THEN RAISE 'seized'; END IF; RETURN 1; END $$"
        )

    def as_mallory(self, statement: str) -> None:
        self.write(f"SET ROLE {self.mallory}; {statement}")

    @gen_test
    async def test_no_table_of_an_untrusted_owner_is_read(self):
        for make in (
            "CREATE TABLE public.t (id int); CREATE INDEX ON public.t ((evil.seize(1)))",
            "CREATE TABLE public.t (id int); CREATE STATISTICS evil.s ON (evil.seize(1)), id FROM public.t",
            "CREATE TABLE public.t (id int) PARTITION BY LIST ((id + evil.seize(1)));"
            "CREATE TABLE public.part PARTITION OF public.t DEFAULT",
        ):
            self.as_mallory(make)
            self.write("SELECT changefeed.watch('public.t')")
            with pytest.raises(psycopg2.errors.RaiseException, match="seized"):
                self.write("SELECT FROM public.t")  # what this test is about
            why = await self.refused("table=public.t", 403, "cannot_read")
            assert f"public.t belongs to {self.mallory}" in why
            assert "--trust-owner" in why
            self.write("DROP TABLE public.t")

    @gen_test
    async def test_neither_is_one_below_such_an_owner(self):
        self.write("CREATE TABLE evil.t (id int); SELECT changefeed.watch('evil.t')")
        await self.refused("table=evil.t", 403, "cannot_read")
        self.write("CREATE TABLE parts (id int) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF parts DEFAULT")
        self.write("SELECT changefeed.watch('parts')")
        assert (await self.rows("table=parts"))["rows"] == []
        self.write(f"ALTER TABLE part OWNER TO {self.mallory}")
        self.as_mallory("CREATE INDEX ON public.part ((evil.seize(1)))")
        await self.refused("table=parts", 403, "cannot_read")

    @gen_test
    async def test_a_type_of_another_owner_runs_no_code_of_theirs(self):
        self.as_mallory(
            "CREATE TYPE evil.mood AS ENUM ('ok'); CREATE FUNCTION evil.j(evil.mood) RETURNS json LANGUAGE sql AS "
            "'SELECT to_json(evil.seize(1))'; CREATE CAST (evil.mood AS json) WITH FUNCTION evil.j(evil.mood)"
        )
        self.write("CREATE TABLE moods (id int, m evil.mood, a evil.mood[]); SELECT changefeed.watch('moods')")
        self.write("INSERT INTO moods VALUES (1, 'ok', '{ok,NULL}')")
        assert (await self.rows("table=moods"))["rows"] == [{"id": 1, "m": "ok", "a": ["ok", None]}]

    @gen_test
    async def test_rows_are_read_without_any_code_of_their_types_owners(self):
        self.write("DROP SCHEMA evil CASCADE")
        seize = f"ALTER ROLE {self.mallory} SUPERUSER"
        self.write(HOSTILE.format(mallory=self.mallory, seize=seize, casts=hostile_casts()))
        for number, (column, value) in enumerate(HOSTILE_VALUES.items()):
            self.write(f"CREATE TABLE w{number} (id int, v {column}); SELECT changefeed.watch('w{number}')")
            self.write(f"GRANT INSERT ON w{number} TO {self.mallory}")
            # By the types' owner, since a domain's constraint runs as the writer.
            self.as_mallory(f"INSERT INTO w{number} VALUES (1, {value}), (2, NULL)")
            first, second = (await self.rows(f"table=w{number}&order=id"))["rows"]
            told = (await self.fetch_json(f"/api/changes?table=w{number}"))["changes"]
            assert [first, second] == [change["data"] for change in told], column
            assert (first["v"] is None, second["v"]) == (False, None), column
        assert self.write("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [self.mallory]) == [(False,)]

    @gen_test
    async def test_a_view_that_takes_the_place_of_a_table_is_not_read(self):
        self.write("ALTER TABLE orders RENAME TO others; CREATE VIEW orders AS TABLE others")
        why = await self.refused("table=orders", 400, "unknown_table")
        assert why == "public.orders is a view, which has no changes: ask for the tables that it takes its rows from"


class TrustedOwnerTest(RowsTestCase):
    flags = ("--trust-owner", "app_rows_test")

    def prepare_database(self) -> None:
        self.write("DROP ROLE IF EXISTS app_rows_test; CREATE ROLE app_rows_test")
        self.addCleanup(self.write, "DROP OWNED BY app_rows_test; DROP ROLE app_rows_test")
        self.write(f"{ORDERS}; ALTER TABLE orders OWNER TO app_rows_test")
        self.watch()

    @gen_test
    async def test_the_settings_may_trust_an_owner(self):
        assert (await self.rows("table=orders"))["rows"] == []


class UnreadableValuesTest(AccessTestCase):
    """In rows that the token may not see there are values on which a filter fails."""

    RIGHTS: ClassVar = {"tables": {"public.people": {"filter": ["customer_id=in.(4,7,8,9,10,11,12)"]}}}

    def new_database(self) -> str:
        return illegible_database("SQL_ASCII")

    def prepare_database(self) -> None:
        super().prepare_database()
        computed = ", inverse int GENERATED ALWAYS AS (10 / (customer_id - 5)) VIRTUAL"
        more = computed if postgres.major_version() >= 18 else ", inverse int DEFAULT 1"
        self.write(f"CREATE TABLE people (id int, customer_id int, name text{more})")
        self.watch("public.people")
        self.write("SET session_replication_role = replica; INSERT INTO people VALUES (1, 4, 'mine')")
        self.write("SET session_replication_role = replica; INSERT INTO people VALUES (2, 5, E'Alice\\351')")

    async def rows(self, *filters: str, rights: Any = None) -> tuple[int, Any]:
        asked = "&".join(f"filter={quote(one)}" for one in filters)
        token = issued(rights or self.RIGHTS)
        status, answer = await self.ask(
            "none", f"/api/rows?table=people&columns=id&{asked}", headers={"Authorization": f"Bearer {token}"}
        )
        return status, answer.get("rows") or answer.get("error", {}).get("code")

    @gen_test
    async def test_a_filter_does_not_fail_on_rows_that_are_hidden(self):
        for more in ("id=eq.2", "id=eq.3", "name=like.Al*", "name=like.Ax*"):
            for failing in ("name=neq.\0", "inverse=gt.0", "name=like.*\0*", "or=(name.neq.\0,inverse.gt.0)"):
                assert await self.rows(more, failing) == (200, None), (more, failing)
        status, code = await self.rows("name=neq.\0", rights={"tables": {"public.people": {}}})
        assert (status, code) == (409, "unreadable_row")

    @gen_test
    async def test_a_filter_of_the_rights_that_fails_does_so_whatever_is_asked(self):
        rights = {"tables": {"public.people": {"filter": ["name=neq.\0"]}}}
        for more in ("id=eq.1", "id=eq.2", "id=eq.3", "name=like.Al*"):
            assert await self.rows(more, rights=rights) == (409, "unreadable_row"), more
