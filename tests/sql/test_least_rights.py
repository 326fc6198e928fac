"""The server with a role that has exactly what docs/least-rights.md grants, and what that role may not."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn
from tornado.testing import ExpectLog, gen_test

from changefeed.postgres.named_queries import read_script
from commands import doctor
from commands.examined import ExaminedDatabase, Finding, Level
from tests import ROOT, postgres
from tests.feed_case import ORDERS, FeedTestCase, message
from tests.journal_database import Session
from tests.server_process import ServerProcess

DOCUMENT = (ROOT / "docs" / "least-rights.md").read_text("utf-8")
ROLE = "changefeed_server"
# The role itself; reading; tending; for the doctor; watching; a back end's; rows.
MAKE, READ, TEND, SEE, WATCH, BACKEND, ROWS = re.findall(r"^```sql\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)


def test_the_script_grants_what_the_document_has():
    """Of (b) and (d) what is not of a table of the user's."""
    script = (ROOT / "sql" / "grants.sql").read_text("utf-8").replace(':"role"', ROLE)
    statements = re.findall(r"^GRANT [^;]*;", script, re.MULTILINE)
    wanted = re.findall(r"^GRANT [^;]*;", "".join((READ, TEND, WATCH, ROWS)), re.MULTILINE)
    assert statements == [grant for grant in wanted if " ON TABLE " not in grant]


@pytest.mark.parametrize("asked", [{"watch"}, {"rows"}, set()], ids=str)
@pytest.mark.parametrize("others", ["left out", "no"])
def test_the_script_grants_only_what_was_asked_for(asked: set[str], others: str):
    conninfo = postgres.new_database()
    postgres.execute(conninfo, read_script("install.sql"))
    role = f'odd "role" {parse_dsn(conninfo)["dbname"]}'
    quoted = '"' + role.replace('"', '""') + '"'
    postgres.execute(conninfo, f"CREATE ROLE {quoted}")
    options = {option: "yes" if option in asked else others for option in ("watch", "rows")}
    flags = [part for option, value in options.items() if value != "left out" for part in ("-v", f"{option}={value}")]
    script = str(ROOT / "sql" / "grants.sql")
    for _ in range(2):
        subprocess.run(
            [shutil.which("psql") or "psql", "-q", "-v", f"role={role}", *flags, "-f", script, conninfo], check=True
        )
    calls = "SELECT has_function_privilege(%s, 'changefeed.{}', 'EXECUTE')"
    granted = {
        what: postgres.execute(conninfo, calls.format(function), (role,)) == [(True,)]
        for what, function in (("", "status()"), ("watch", "request()"), ("rows", "cursor()"))
    }
    assert granted == {"": True, "watch": "watch" in asked, "rows": "rows" in asked}
    postgres.execute(conninfo, f"DROP OWNED BY {quoted}; DROP ROLE {quoted}")


def test_a_back_end_gets_its_cursor_and_nothing_else():
    conninfo = postgres.new_database()
    postgres.execute(conninfo, read_script("install.sql"))
    role = f"backend_{parse_dsn(conninfo)['dbname']}"
    postgres.execute(conninfo, f"CREATE ROLE {role} LOGIN")
    begin = "ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    backend = postgres.connect(str(make_dsn(conninfo, user=role)))
    with backend.cursor() as db_cursor:
        db_cursor.execute(begin)
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            db_cursor.execute("SELECT changefeed.cursor()")
        postgres.execute(conninfo, BACKEND.replace("backend", role))
        db_cursor.execute(begin)
        db_cursor.execute("SELECT changefeed.cursor()")
        for forbidden in (
            "SELECT * FROM changefeed.meta",
            "SELECT * FROM changefeed.journal",
            "SELECT changefeed.status()",
        ):
            db_cursor.execute(begin)
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                db_cursor.execute(forbidden)
    backend.close()
    postgres.execute(conninfo, f"DROP OWNED BY {role}; DROP ROLE {role}")


class LeastRightsCase(FeedTestCase):
    __test__ = False
    granted: ClassVar[tuple[str, ...]] = (READ, TEND, SEE)

    def server_conninfo(self) -> str:
        self.role = f"server_{parse_dsn(self.conninfo)['dbname']}"
        self.write(self.of_role(MAKE))
        return str(make_dsn(self.conninfo, user=self.role))

    def prepare_database(self) -> None:
        self.write(ORDERS)
        self.write("CREATE TABLE parts (k int, phone text) PARTITION BY LIST (k)")
        self.write("CREATE TABLE part PARTITION OF parts DEFAULT")
        self.watch()
        self.watch("public.parts", ", hash => '{phone}'")
        for block in self.granted:
            self.write(self.of_role(block))

    def tearDown(self) -> None:
        super().tearDown()
        self.write(f"DROP OWNED BY {self.role}; DROP ROLE {self.role}")

    def of_role(self, block: str) -> str:
        assert ROLE in block
        return block.replace(ROLE, self.role)

    def findings(self) -> dict[str, Finding]:
        examined = ExaminedDatabase(str(make_dsn(self.conninfo, user=self.role)), self.feed.settings)
        try:
            return {finding.about: finding for finding in doctor.examine(examined)}
        finally:
            examined.connection.close()


class FollowingTest(LeastRightsCase):
    __test__ = True
    flags = ("--retention-hours", "0.000001", "--client-limit", "100")

    @gen_test
    async def test_it_feeds_and_resumes(self):
        socket = await self.connect()
        self.write("INSERT INTO orders VALUES (1, 'new'); INSERT INTO part VALUES (1, '110'); UPDATE orders SET id = 2")
        got = [json.loads(await socket.read_message()) for _ in range(3)]
        assert [change["table"] for change in got] == ["orders", "parts", "orders"]
        assert len(got[1]["data"]["phone"]) == 64
        resumed = await self.connect(f"/ws?since={got[0]['cursor']}&filter=id=gte.2")
        assert json.loads(await resumed.read_message())["data"]["id"] == 2
        assert len((await self.fetch_json("/api/changes"))["changes"]) == 3

    @gen_test
    async def test_it_reports_the_journals_and_tables_state(self):
        status = await self.fetch_json("/api/status")
        assert [table["table"] for table in status["watched"]] == ["orders", "parts"]
        assert all(table["is_complete"] for table in status["watched"])
        assert status["journal"]["bytes"] > 0
        tables = (await self.fetch_json("/api/tables"))["tables"]
        assert [(table["table"], table["watched_by"]) for table in tables] == [
            ("orders", "journal"),
            ("parts", "journal"),
        ]
        assert (await self.http_client.fetch(self.get_url("/metrics"))).code == 200

    @gen_test
    async def test_doctor_examines_tables_of_closed_schemas(self):
        self.write("CREATE SCHEMA priv; CREATE TABLE priv.t (id int, note text); CREATE TABLE priv.u (id int)")
        self.write("SELECT changefeed.watch('priv.t', omit => '{note}'), changefeed.watch('priv.u')")
        for table in ("priv.t", "public.orders"):
            self.write(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        self.write("ALTER TABLE priv.t RENAME COLUMN note TO remark; ALTER TABLE priv.u SET UNLOGGED")
        self.write('ALTER TABLE priv.u DISABLE TRIGGER "~changefeed_update"')
        examined = ExaminedDatabase(str(make_dsn(self.conninfo, user=self.role)), self.feed.settings)
        found = list(doctor.examine(examined))
        examined.connection.close()
        assert not [finding for finding in found if "could not be examined" in finding.says]
        told = [(finding.about, finding.says) for finding in found if finding.level is not Level.OK]
        for about, what in (
            ("policies", "priv.t has row-level security"),
            ("policies", "public.orders has row-level security"),
            ("triggers", "priv.t has no column note"),
            ("triggers", "of priv.u is disabled"),
            ("tables", "priv.u is unlogged"),
        ):
            assert [says for subject, says in told if subject == about and what in says], what

    @gen_test
    async def test_it_tends_the_journal(self):
        self.write("INSERT INTO orders VALUES (1)")
        self.write("CREATE TABLE part_7 PARTITION OF parts FOR VALUES IN (7); INSERT INTO part_7 VALUES (7)")
        self.write('DROP TRIGGER "~changefeed_delete" ON orders')
        with ExpectLog("changefeed.watching", "retention emptied partition 0 of the journal", level=20):
            for _ in range(2):  # the first ends the partition that is written
                await self.feed.watching._maintain_once()
        assert self.write("SELECT count(*) FROM changefeed.journal") == [(0,)]

    @gen_test
    async def test_a_new_partition_without_rights_is_a_gap(self):
        self.write("DROP EVENT TRIGGER IF EXISTS changefeed_new_partitions")  # as where no superuser installed
        self.write(f"REVOKE EXECUTE ON FUNCTION changefeed.refresh(oid[]) FROM {self.role}")
        await self.feed.lookout.look()
        socket = await self.connect("/ws?table=parts", protocol=True)
        await message(socket, "hello")
        self.write("CREATE TABLE part_7 PARTITION OF parts FOR VALUES IN (7)")
        with ExpectLog("changefeed.lookout", ".*public.parts.*triggers of a new partition are missing"):
            await self.feed.lookout.look()
        gap = await message(socket)
        assert (gap["type"], gap["table"]) == ("gap", "public.parts")
        self.write("INSERT INTO part_7 VALUES (7)")
        await self.feed.lookout.look()  # which says it once
        metrics = (await self.http_client.fetch(self.get_url("/metrics"))).body.decode()
        assert "changefeed_incomplete_tables 1.0" in metrics
        self.write("SELECT changefeed.refresh()")
        with ExpectLog("changefeed.lookout", ".*recorded again", level=20):
            await self.feed.lookout.look()
        assert "recorded again" in (await message(socket, "gap"))["why"]

    @gen_test
    async def test_it_starts_a_restored_journal_over(self):
        self.write("INSERT INTO orders VALUES (1)")
        before = self.write("SELECT epoch FROM changefeed.meta")
        self.write("UPDATE changefeed.journal SET xid = (xid::text::bigint + 1000000)::text::xid8")
        await self.feed.journal.identify()
        assert self.write("SELECT epoch FROM changefeed.meta") != before
        assert self.write("SELECT count(*) FROM changefeed.journal") == [(0,)]

    def test_the_doctor_agrees(self):
        assert {about: finding.level for about, finding in self.findings().items()} == dict.fromkeys(
            doctor.CHECKS, Level.OK
        )
        self.write(f"REVOKE TRUNCATE ON changefeed.journal_3 FROM {self.role}")
        rights = self.findings()["rights"]
        assert rights.level == Level.WARNING
        postgres.paste(rights.fix, self.conninfo)
        assert self.findings()["rights"].level == Level.OK

    def test_after_a_reinstall_the_doctor_s_command_grants_it_all_again(self):
        self.write(read_script("uninstall.sql"))
        self.write(read_script("install.sql"))
        self.watch()
        rights = self.findings()["rights"]
        assert rights.level == Level.PROBLEM
        assert rights.fix == f'psql -v role={self.role} -f sql/grants.sql "$OWNER_URL"'
        postgres.paste(rights.fix, self.conninfo)
        assert self.findings()["rights"].level == Level.OK

    def test_it_may_do_no_more(self):
        for statement in (
            "SELECT * FROM orders",
            "SELECT * FROM changefeed_secret.secret",
            "SELECT changefeed.hash('parts', 'phone', '110')",
            "SELECT changefeed.watch('orders')",
            "SELECT changefeed.unwatch('orders')",
            "INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name) VALUES (0, now(), 'T', 's', 't')",
            "UPDATE changefeed.journal SET data = NULL",
            "UPDATE changefeed.meta SET version = 9",
            "CREATE TABLE changefeed.mine ()",
            "SELECT changefeed.record()",
        ):
            with self.subTest(statement), pytest.raises(psycopg2.errors.InsufficientPrivilege):
                postgres.execute(str(make_dsn(self.conninfo, user=self.role)), statement)

    @gen_test
    async def test_it_is_refused_to_watch_with_a_reason(self):
        answer = await self.fetch_json("/api/tables/public.orders/watch", 409, method="PUT", body="")
        assert answer["error"]["code"] == "cannot_watch"
        assert "permission denied for function watch" in answer["error"]["message"]
        assert "needs the right TRIGGER on the table" in answer["error"]["message"]
        answer = await self.fetch_json("/api/tables/public.orders/watch", 409, method="DELETE")
        assert answer["error"]["code"] == "cannot_unwatch"
        assert (
            "; only the table's owner can unwatch it: call changefeed.unwatch as that role"
            in answer["error"]["message"]
        )
        tables = (await self.fetch_json("/api/tables"))["tables"]
        assert not any(table["can_change"] for table in tables)


class ReadingTest(LeastRightsCase):
    __test__ = True
    granted = (READ, TEND, SEE, ROWS)

    @gen_test
    async def test_it_reads_the_rows_of_the_tables_that_it_was_granted(self):
        self.write("INSERT INTO orders VALUES (1, 'new')")
        assert (await self.fetch_json("/api/rows?table=orders"))["rows"] == [{"id": 1, "status": "new", "total": None}]
        self.write("CREATE SCHEMA priv; ALTER TABLE parts SET SCHEMA priv; INSERT INTO priv.parts VALUES (1, '110')")
        await self.feed.catalog.reread()
        for grant in (f"GRANT USAGE ON SCHEMA priv TO {self.role}", f"GRANT SELECT ON priv.parts TO {self.role}"):
            rows = self.findings()["rows"]
            assert (rows.level, "of 2 watched tables the rows of 1" in rows.says, f"{grant};" in rows.fix) == (
                Level.OK,
                True,
                True,
            )
            error = (await self.fetch_json("/api/rows?table=parts", 403))["error"]
            assert error["code"] == "cannot_read"
            assert grant in error["message"]
            self.write(grant)
        [row] = (await self.fetch_json("/api/rows?table=parts"))["rows"]
        [change] = (await self.fetch_json("/api/changes?table=parts"))["changes"]
        assert row == change["data"]
        assert len(row["phone"]) == 64

    @gen_test
    async def test_values_of_every_shape_equal_the_feeds(self):
        self.write(
            "CREATE TYPE mood AS ENUM ('ok'); CREATE TYPE pair AS (m mood, n int); CREATE DOMAIN positive AS int CHECK (VALUE >= 0);"
            "CREATE TABLE shapes (id int, moods mood[], pairs pair[][], positives positive[], pair pair);"
            f"SELECT changefeed.watch('shapes'); GRANT SELECT ON shapes TO {self.role}"
        )
        self.write("INSERT INTO shapes VALUES (1, '{ok}', ARRAY[[ROW('ok', 1)::pair]], '{1,2}', ROW('ok', NULL))")
        [row] = (await self.fetch_json("/api/rows?table=shapes"))["rows"]
        [change] = (await self.fetch_json("/api/changes?table=shapes"))["changes"]
        assert row == change["data"]
        assert row["pairs"] == [[{"m": "ok", "n": 1}]]

    @gen_test
    async def test_a_socket_learns_which_grant_is_missing(self):
        self.write(f"REVOKE SELECT ON orders FROM {self.role}")
        socket = await self.connect("/ws?table=orders&rows=true", protocol=True)
        error = await message(socket, "error")
        assert error["code"] == "cannot_read"
        assert f"GRANT SELECT ON public.orders TO {self.role}" in error["message"]
        assert await socket.read_message() is None
        assert socket.close_code == 1008

    @gen_test
    async def test_no_policy_of_row_level_security_is_applied_or_run(self):
        self.write("ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON orders USING (1 / 0 = 0)")
        error = (await self.fetch_json("/api/rows?table=orders", 403))["error"]
        assert "row-level security hides rows of public.orders" in error["message"]
        rows = self.findings()["rows"]
        assert "the rows of 0" in rows.says
        assert "row-level security hides rows of public.orders" in rows.advice
        self.write(f"ALTER ROLE {self.role} BYPASSRLS")
        assert (await self.fetch_json("/api/rows?table=orders"))["rows"] == []

    @gen_test
    async def test_a_role_without_select_on_the_column_gets_no_hash(self):
        self.write(f"REVOKE SELECT ON ALL TABLES IN SCHEMA public FROM {self.role}")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="permission denied for the column"):
            postgres.execute(
                str(make_dsn(self.conninfo, user=self.role)),
                "SELECT changefeed.hash_of_row('parts'::regclass, 'phone', '110')",
            )

    @gen_test
    async def test_without_the_functions_it_gives_advice(self):
        self.write(f"REVOKE EXECUTE ON FUNCTION changefeed.rows_source FROM {self.role}")
        error = (await self.fetch_json("/api/rows?table=orders", 403))["error"]
        assert "permission denied for function rows_source" in error["message"]
        postgres.paste(self.findings()["rows"].fix, self.conninfo)
        assert await self.fetch_json("/api/rows?table=orders")


class WatchingTest(LeastRightsCase):
    __test__ = True
    granted = (READ, TEND, WATCH)
    flags = ("--watch", "public.orders")

    def prepare_database(self) -> None:
        super().prepare_database()
        self.write("SELECT changefeed.unwatch('orders')")

    @gen_test
    async def test_it_watches_what_it_was_granted_and_nothing_else(self):
        with ExpectLog("changefeed.watching", "watching public.orders", level=20):
            await self.feed.watching.start()
        await self.feed.watching.start()  # and again, which changes nothing
        socket = await self.connect()
        self.write("INSERT INTO orders VALUES (1); TRUNCATE orders")
        assert [json.loads(await socket.read_message())["action"] for _ in range(2)] == ["INSERT", "TRUNCATE"]
        path = "/api/tables/public.orders/watch"
        changed = await self.fetch_json(path, method="PUT", body='{"hash": ["status"], "strict": true}')
        assert changed["has_changed"]
        await self.feed.watching._maintain_once()
        self.write("INSERT INTO orders VALUES (2, 'open')")
        assert len(json.loads(await socket.read_message())["data"]["status"]) == 64
        assert self.findings()["triggers"].level == Level.OK
        self.write("CREATE TABLE other (id int)")
        answer = await self.fetch_json("/api/tables/public.other/watch", 409, method="PUT", body="")
        assert "permission denied for table other" in answer["error"]["message"]
        await self.fetch_json(path, 409, method="DELETE")
        assert not await self.can_change("orders")
        self.write(
            f"ALTER TABLE orders OWNER TO {self.role}; GRANT EXECUTE ON FUNCTION changefeed.unwatch, changefeed.try_to_apply TO {self.role}"
        )
        assert await self.can_change("orders")
        assert (await self.fetch_json(path, method="DELETE"))["has_changed"]
        assert await self.can_change("orders")

    async def can_change(self, name: str) -> bool:
        [table] = [one for one in (await self.fetch_json("/api/tables"))["tables"] if one["table"] == name]
        return bool(table["can_change"])


class Ground:
    """A database in which `owner` installed the schema, and somebody's tables; roles with the document's blocks."""

    def __init__(self, *, is_superuser: bool) -> None:
        self.conninfo = postgres.new_database()
        name = parse_dsn(self.conninfo)["dbname"]
        self.root = Session(self.conninfo)
        self.roles = {who: f"{who}_{name}" for who in ("owner", "reading", "tending", "watching", "app")}
        for role in self.roles.values():
            self.root.run(f"CREATE ROLE {role} LOGIN")
        self.root.run(f"GRANT CREATE ON DATABASE {name} TO {self.roles['owner']}")
        self.root.run(f"CREATE SCHEMA app AUTHORIZATION {self.roles['app']}")
        for who in ("reading", "tending", "watching"):  # as on PostgreSQL 14
            self.root.run(f"GRANT CREATE ON SCHEMA public TO {self.roles[who]}")
        if is_superuser:
            self.root.run(f"ALTER ROLE {self.roles['owner']} SUPERUSER")
        self.owner = self.session("owner")
        self.owner.run(read_script("install.sql"))
        self.app = self.session("app")
        self.app.run("CREATE TABLE app.orders (id int, secret text); CREATE TABLE app.other (id int)")
        self.app.run(
            "CREATE TABLE app.parts (k int) PARTITION BY LIST (k); CREATE TABLE app.p1 PARTITION OF app.parts DEFAULT"
        )
        self.app.run(f"GRANT USAGE ON SCHEMA app TO {self.roles['watching']}, {self.roles['owner']}")
        self.app.run(f"GRANT TRIGGER ON app.orders, app.parts, app.p1 TO {self.roles['owner']}")
        for who, blocks in {"reading": [READ], "tending": [READ, TEND], "watching": [READ, TEND, WATCH]}.items():
            for block in blocks:
                self.owner.run(block.split("GRANT TRIGGER")[0].replace(ROLE, self.roles[who]))
        self.app.run(f"GRANT TRIGGER ON app.orders, app.parts TO {self.roles['watching']}")

    def session(self, who: str) -> Session:
        return Session(str(make_dsn(self.conninfo, user=self.roles[who])))


@pytest.fixture(params=[True, False], ids=["a superuser's", "an owner's"])
def ground(request: pytest.FixtureRequest) -> Ground:
    return Ground(is_superuser=request.param)


ROAD_TO_THE_OWNER = (
    "CREATE TEMP TABLE t (a int)",
    "CREATE FUNCTION pg_temp.pwn() RETURNS int LANGUAGE plpgsql AS $$ BEGIN "
    "IF current_user <> session_user THEN RAISE EXCEPTION 'ran as %', current_user; END IF; RETURN 1; END $$",
    "CREATE TEMP VIEW new_rows AS SELECT pg_temp.pwn() AS a",
    "CREATE TEMP VIEW old_rows AS SELECT pg_temp.pwn() AS a",
)
RECORDERS = ("record", "record_strict", "read_truncated", "record_truncated")


@pytest.mark.parametrize("who", ["reading", "tending", "watching"])
def test_other_roles_cannot_use_recording_functions(ground: Ground, who: str):
    session = ground.session(who)
    for statement in ROAD_TO_THE_OWNER:
        session.run(statement)
    for function in RECORDERS:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            session.run(
                f"CREATE TRIGGER x AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION changefeed.{function}()"
            )


@pytest.mark.parametrize("who", ["reading", "tending", "watching"])
def test_no_role_gets_at_more_than_it_was_granted(ground: Ground, who: str):
    session = ground.session(who)
    for statement in (
        "SELECT * FROM app.orders",
        "SELECT changefeed.watch('app.other')",
        "SELECT changefeed.grant_request('app.other')",
        "SELECT changefeed.grant_request('app.orders')",
        "SELECT changefeed.try_to_apply('app.other'::regclass, '{}', 1)",
        "SELECT changefeed.refresh_tables(NULL)",
        "SELECT changefeed.set_secret('0123456789abcdef')",
        "SELECT * FROM changefeed_secret.secret",
        "INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name) VALUES (0, now(), 'T', 's', 't')",
        "CREATE FUNCTION changefeed.watch(oid) RETURNS text LANGUAGE sql AS 'SELECT 1'",
        "CREATE TRIGGER x BEFORE DELETE ON changefeed.journal EXECUTE FUNCTION changefeed.request()",
        "ALTER TABLE changefeed.meta ADD x int",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            session.run(statement)


@pytest.mark.parametrize(
    "call",
    [
        "note_retyped(repeat('x', 1000), '{a}', now())",
        "note_retyped('t', ARRAY[repeat('x', 1000)], now())",
        "note_retyped('t', array_fill('x'::text, ARRAY[1601]), now())",
        "note_retyped('t', '{NULL}', now())",
        "note_retyped('t', '{a}', 'infinity')",
        "look(NULL, '{}', '{}', ARRAY[repeat('x', 1000)], '{t}')",
        "look(NULL, '{}', '{}', '{s}', ARRAY[repeat('x', 1000)])",
        "look(NULL, '{}', '{}', '{s}', '{NULL}')",
        "look(NULL, '{}', '{}', array_fill('x'::text, ARRAY[100001]), array_fill('x'::text, ARRAY[100001]))",
        "look('infinity', '{}', '{}', '{s}', '{t}')",
        "note_rotation(8)",
        "note_rotation(-1)",
    ],
)
def test_what_a_server_s_role_may_have_noted_has_bounds(ground: Ground, call: str):
    with pytest.raises(psycopg2.Error, match=r"at most|may be|finite|has no partition"):
        ground.session("tending").run(f"SELECT changefeed.{call}")


def test_a_request_of_one_s_own_opens_nothing_that_watch_refuses(ground: Ground):
    session = ground.session("watching")
    session.run("CREATE TEMP TABLE t (a int); CREATE TABLE public.mine (a int) PARTITION BY LIST (a)")
    session.run("CREATE TABLE public.part PARTITION OF public.mine DEFAULT; CREATE UNLOGGED TABLE public.fast (a int)")
    for table in ("pg_temp.t", "public.part", "public.fast"):
        session.run(
            f"CREATE TRIGGER changefeed_request AFTER INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION changefeed.request('{{}}')"
        )
        with pytest.raises(psycopg2.errors.WrongObjectType):
            session.run(f"SELECT changefeed.grant_request('{table}')")


def test_requests_of_other_roles_change_no_option(ground: Ground):
    session = ground.session("watching")
    session.run(
        "CREATE TRIGGER aaa AFTER INSERT ON app.orders FOR EACH STATEMENT EXECUTE FUNCTION changefeed.request('{}')"
    )
    assert session.value("SELECT changefeed.watch('app.orders', omit => '{secret}')") is True
    assert session.value("SELECT changefeed.watch('app.orders', omit => '{secret}')") is False
    ground.app.run("INSERT INTO app.orders VALUES (1, 'x')")
    assert session.run("SELECT data::text FROM changefeed.journal") == [('{"id":1}',)]


def test_watching_includes_present_and_later_partitions(ground: Ground):
    session = ground.session("watching")
    assert session.value("SELECT changefeed.watch('app.parts')") is True
    ground.app.run("CREATE TABLE app.p7 PARTITION OF app.parts FOR VALUES IN (7)")
    ground.app.run(f"GRANT TRIGGER ON app.p7 TO {ground.roles['owner']}")
    ground.session("tending").run("SELECT changefeed.refresh()")
    ground.app.run("INSERT INTO app.p1 VALUES (1); INSERT INTO app.p7 VALUES (7)")
    assert session.run("SELECT table_name, data::text FROM changefeed.journal ORDER BY id") == [
        ("parts", '{"k":1}'),
        ("parts", '{"k":7}'),
    ]
    assert session.run("SELECT is_complete FROM changefeed.status()") == [(True,)]


NARROW = {"tables": {"app.orders": {"columns": ["id"], "filter": ["id=lt.10"]}}}


def asked(port: int, token: str, path: str, method: str = "GET") -> tuple[int, Any]:
    """On a connection of its own, so by any process."""
    request = Request(f"http://127.0.0.1:{port}{path}", method=method, headers={"Authorization": f"Bearer {token}"})
    try:
        with urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.parametrize("who", ["reading", "tending", "watching"])
def test_two_processes_serve_with_publications_of_all_tables(ground: Ground, who: str, tmp_path: Path):
    ground.root.run("SET client_min_messages = error; CREATE PUBLICATION everything FOR ALL TABLES")
    ground.app.run("ALTER TABLE app.orders REPLICA IDENTITY FULL; ALTER TABLE app.p1 REPLICA IDENTITY FULL")
    ground.owner.run("SELECT changefeed.watch('app.orders', omit => '{secret}')")
    (tmp_path / "tokens").write_text(f"a-token-with-all-rights\na-token-of-few-rights {json.dumps(NARROW)}\n")
    flags = ["--port", "0", "--processes", "2", "--token-file", str(tmp_path / "tokens")]
    if who == "watching":
        flags += ["--watch", "app.parts"]
    conninfo = str(make_dsn(ground.conninfo, user=ground.roles[who]))
    with ServerProcess(tmp_path, *flags, DATABASE_URL=conninfo) as server:
        port = server.port()
        ground.app.run("INSERT INTO app.orders VALUES (1, 'x'), (11, 'y')")
        ground.app.run("UPDATE app.orders SET secret = 'z'")  # which is left out
        for _ in range(8):
            status, page = asked(port, "a-token-of-few-rights", "/api/changes")
            assert status == 200, page
            assert [change["data"] for change in page["changes"]] == [{"id": 1}]
            cursor = page["changes"][0]["cursor"]
            for path in (f"/api/change?cursor={cursor}", f"/api/changes?since={cursor}"):
                assert asked(port, "a-token-of-few-rights", path)[0] == 200
            status, said = asked(port, "a-token-with-all-rights", "/api/status")
            assert status == 200
            assert all(table["is_complete"] for table in said["watched"])
            assert ("parts" in [table["table"] for table in said["watched"]]) is (who == "watching")
            assert asked(port, "a-token-of-few-rights", "/api/status")[0] == 403
        for table in ("app.other", "changefeed.meta", "changefeed.journal_0"):
            assert asked(port, "a-token-with-all-rights", f"/api/tables/{table}/watch", "PUT")[0] in (404, 409)
        ground.app.run("INSERT INTO app.parts VALUES (1); DELETE FROM app.orders; TRUNCATE app.p1")
    tending = ground.session(who)
    if who == "reading":
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            tending.run("SELECT changefeed.retain('0 s', 0)")
    else:
        for _ in range(2):
            tending.run("SELECT changefeed.retain('0 s', 0), changefeed.begin_anew_if_restored(), changefeed.refresh()")
        assert ground.root.value("SELECT count(*) FROM changefeed.journal") == 0
