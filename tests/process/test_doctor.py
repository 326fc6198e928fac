"""`python server.py doctor`: each finding seen on a real PostgreSQL, and gone when its own command was run."""

import asyncio
import contextlib
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import make_dsn, parse_dsn, quote_ident

from changefeed.journal.journal import VERSION
from changefeed.postgres.connection import complete
from changefeed.postgres.embedded import EmbeddedPostgres
from changefeed.postgres.named_queries import read_script
from commands import doctor, journal_checks, server_checks
from commands.examined import ExaminedDatabase, Finding, Level
from settings.sources import load_settings
from settings.table import Settings
from tests import postgres
from tests.journal_database import JournalDatabase
from tests.proxy import Proxy
from tests.server_process import SERVER

OK, WARNING, PROBLEM = Level.OK, Level.WARNING, Level.PROBLEM


def settings(conninfo: str, *flags: str) -> Settings:
    return load_settings(["--database-url", conninfo, "--client-limit", "100", *flags], {}, Path("/nonexistent"))


def findings(conninfo: str, *flags: str) -> list[Finding]:
    examined = ExaminedDatabase(conninfo, settings(conninfo, *flags))
    try:
        found = list(doctor.examine(examined))
        for one in found:  # what mends it can be pasted: SQL, a command or a setting
            assert re.fullmatch(r"|[A-Z]+ .*;|(psql|ulimit) -.*|--[a-z-]+ .*", one.fix, re.DOTALL), one
        return found
    finally:
        examined.connection.close()


def only(about: str, conninfo: str, *flags: str) -> Finding:
    """What is found about one thing, where that is one thing."""
    [found] = [finding for finding in findings(conninfo, *flags) if finding.about == about]
    return found


@pytest.fixture
def watched(db: JournalDatabase) -> JournalDatabase:
    db.run("CREATE TABLE orders (id int PRIMARY KEY); SELECT changefeed.watch('orders')")
    return db


def run(conninfo: str, *flags: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SERVER), "doctor", "--database-url", conninfo, *flags]
    return subprocess.run(command, capture_output=True, encoding="utf-8", cwd="/tmp", check=False, **options)


def test_where_all_is_well_each_line_is_ok_and_the_exit_code_0(watched: JournalDatabase):
    answer = run(watched.conninfo, "--client-limit", "100")
    assert (answer.returncode, answer.stderr) == (0, "")
    lines = answer.stdout.splitlines()
    assert [line.split(":")[0].split() for line in lines] == [["ok", about] for about in doctor.CHECKS]


def test_a_problem_is_exit_code_1_and_shows_its_fix(watched: JournalDatabase):
    watched.run('ALTER TABLE orders DISABLE TRIGGER "~changefeed_update"')
    answer = run(watched.conninfo)
    assert answer.returncode == 1
    assert (
        'problem  triggers: "~changefeed_update" of public.orders is disabled: changes are missed; '
        'fix: ALTER TABLE public.orders ENABLE TRIGGER "~changefeed_update";\n' in answer.stdout
    )


def test_an_unexaminable_database_is_exit_code_2():
    answer = run("postgresql://me:hunter2@127.0.0.1:1/x")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("server.py doctor: cannot look at x@127.0.0.1:1: ")
    assert "hunter2" not in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_it_changes_nothing(watched: JournalDatabase):
    watched.run('DROP TRIGGER "~changefeed_update" ON orders; INSERT INTO orders VALUES (1)')
    tables = ("pg_trigger", "pg_class", "pg_proc")
    look = " UNION ALL ".join(f"SELECT '{table}', oid::text, xmin::text FROM {table}" for table in tables)
    before = set(watched.run(look))
    findings(watched.conninfo, "--retention-hours", "0.000001", "--watch", "public.orders")
    assert set(watched.run(look)) == before
    assert len(watched.entries()) == 1


def test_an_old_postgresql_is_refused(watched: JournalDatabase):
    examined = ExaminedDatabase(watched.conninfo, settings(watched.conninfo))
    examined.version, examined.version_text = 130012, "13.12"  # no such one is here
    assert [finding.level for finding in server_checks.check_version(examined)] == [PROBLEM]
    examined.connection.close()


@pytest.mark.parametrize(
    "name",
    ["x\x1b[2J\x1b]0;pwned\x07\nok       all: is well\u202e", "a'); DROP TABLE orders; --", 'a"\x9bb\\c', "a\tb"],
)
@pytest.mark.parametrize("trigger", ["~changefeed_insert", "~changefeed_update"])
def test_a_tables_name_is_safe_in_a_terminal_and_pasted(name: str, trigger: str, watched: JournalDatabase):
    quoted = watched.value("SELECT quote_ident(%s)", name)
    watched.run(f"CREATE TABLE {quoted} (id int); SELECT changefeed.watch(%s)", quoted)
    watched.run(f'DROP TRIGGER "{trigger}" ON {quoted}')
    answer = run(watched.conninfo)
    [line] = [line for line in answer.stdout.split("\n") if line.startswith("problem")]
    assert len(answer.stdout.split("\n")) == len(doctor.CHECKS) + 1
    assert line.isprintable()
    postgres.execute(watched.conninfo, line.partition("fix: ")[2].replace("%", "%%"))
    assert "problem" not in run(watched.conninfo, "--client-limit", "100").stdout


def test_policies_that_the_feed_does_not_apply_are_named(watched: JournalDatabase):
    assert only("policies", watched.conninfo).level is OK
    watched.run("CREATE TABLE parts (k int) PARTITION BY LIST (k); CREATE TABLE part PARTITION OF parts DEFAULT")
    watched.run("CREATE TABLE unwatched (id int); SELECT changefeed.watch('parts')")
    for table in ("orders", "part", "unwatched"):
        watched.run(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    told = [finding for finding in findings(watched.conninfo) if finding.about == "policies"]
    assert [finding.level for finding in told] == [WARNING, WARNING]
    assert [finding.says.split()[0] for finding in told] == ["public.orders", "public.parts"]


# -- rights


def test_the_schema_may_be_missing():
    conninfo = postgres.new_database()
    found = only("rights", conninfo)
    assert (found.level, found.fix) == (WARNING, journal_checks.INSTALL)
    assert "this role can install it" in found.says
    postgres.execute(conninfo, read_script("install.sql"))
    assert only("rights", conninfo).level is OK


def test_a_role_is_granted_what_it_lacks(watched: JournalDatabase):
    role = f'odd "reader" of {watched.name}'
    quoted = quote_ident(role, watched.connection)
    watched.run(f"CREATE ROLE {quoted} LOGIN")
    conninfo = str(make_dsn(watched.conninfo, user=role))
    found = only("rights", conninfo)
    assert found.level == PROBLEM
    postgres.paste(found.fix, watched.conninfo)
    assert only("rights", conninfo).level == OK
    watched.run(f"REVOKE DELETE ON changefeed.journal FROM {quoted}")
    found = only("rights", conninfo, "--watch", "public.orders")
    assert (found.level, "-v watch=yes" in found.fix) == (WARNING, True)
    postgres.paste(found.fix, watched.conninfo)
    assert only("rights", conninfo).level == OK


def test_reading_takes_no_right_on_the_secret(watched: JournalDatabase):
    role = watched.new_role("reader")
    postgres.paste(f'psql -v role={role} -f sql/grants.sql "$OWNER_URL"', watched.conninfo)
    watched.run(f"REVOKE DELETE ON changefeed.journal FROM {role}")
    found = only("rights", str(make_dsn(watched.conninfo, user=role)))
    assert (found.level, "may read the journal but not maintain it" in found.says) == (WARNING, True)
    assert watched.value("SELECT has_schema_privilege(%s, 'changefeed_secret', 'USAGE')", role) is False


@pytest.mark.parametrize(
    ("version", "readable_from", "level"),
    [
        (VERSION - 1, VERSION - 1, WARNING),
        (VERSION, VERSION, OK),
        (VERSION + 1, VERSION, OK),
        (VERSION + 1, VERSION + 1, PROBLEM),
    ],
)
def test_the_schema_is_of_another_version(version: int, readable_from: int, level: Level, watched: JournalDatabase):
    watched.run("UPDATE changefeed.meta SET version = %s, readable_from = %s", version, readable_from)
    found = only("schema", watched.conninfo)
    assert found.level == level
    assert f"version {version}, this server has {VERSION}" in found.says


EARLIER_STATES = [
    "ALTER FUNCTION changefeed.read RENAME TO read_as_it_was",
    "ALTER TABLE changefeed.meta DROP COLUMN readable_from",
    "DROP TABLE changefeed.retyped",
    "DROP SEQUENCE changefeed.lost_at",
    "CREATE OR REPLACE FUNCTION changefeed.recorders() RETURNS oid[] LANGUAGE sql AS 'SELECT NULL::oid[]'",
]


@pytest.mark.parametrize("harm", EARLIER_STATES)
def test_an_earlier_state_of_the_schema_is_a_problem(harm: str, watched: JournalDatabase):
    watched.run(harm)
    found = only("schema", watched.conninfo)
    assert (found.level, found.fix) == (PROBLEM, journal_checks.INSTALL)
    watched.run(read_script("install.sql"))
    assert only("schema", watched.conninfo).level == OK


# -- the way to PostgreSQL


class Pooler(Proxy):
    """What a pooler does to what PostgreSQL says: another process id and, for transactions, no notification."""

    def __init__(self, target_conninfo: str, *, is_for_transactions: bool) -> None:
        super().__init__(target_conninfo)
        self._drops = b"A" if is_for_transactions else b""

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_from_client: bool = False
    ) -> None:
        if is_from_client:
            await super()._pump(reader, writer, is_from_client=True)
            return
        while kind := await reader.read(1):
            length = await reader.readexactly(4)
            rest = await reader.readexactly(int.from_bytes(length, "big") - 4)
            if kind == b"K":
                rest = (4711).to_bytes(4, "big") + rest[4:]
            if kind != self._drops:
                writer.write(kind + length + rest)
        writer.close()


@pytest.mark.parametrize(("is_for_transactions", "level"), [(True, PROBLEM), (False, WARNING)])
def test_a_pooler_in_between_is_known(
    is_for_transactions: bool, level: Level, watched: JournalDatabase, monkeypatch: pytest.MonkeyPatch
):
    if is_for_transactions:
        monkeypatch.setattr(server_checks, "CANARY_DEADLINE_SECONDS", 0.2)

    async def look() -> Finding:
        pooler = Pooler(watched.conninfo, is_for_transactions=is_for_transactions)
        await pooler.start()
        try:
            return await asyncio.to_thread(only, "pooler", pooler.conninfo)
        finally:
            await pooler.close()

    found = asyncio.run(look())
    assert found.level is level
    assert "--database-url" in found.advice


@pytest.mark.parametrize(
    ("host", "is_encrypted", "mode", "level"),
    [
        ("/var/run/postgresql", False, "prefer", OK),
        ("127.0.0.1", False, "prefer", OK),
        ("db.example.com", False, "prefer", WARNING),
        ("db.example.com", True, "require", WARNING),
        ("db.example.com", True, "verify-full", OK),
    ],
)
def test_rows_do_not_go_through_a_network_in_the_clear(host: str, is_encrypted: bool, mode: str, level: Level):
    assert server_checks.encryption(host, is_encrypted, mode).level is level


def test_a_few_files_are_too_few_for_many_clients(watched: JournalDatabase):
    few = 256

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))

    answer = run(watched.conninfo, "--client-limit", "1000", preexec_fn=limit)
    assert f"warning  ulimit: a process may open {few} files, too few for --client-limit 1000" in answer.stdout
    assert "ulimit -n 1100\n" in answer.stdout
    assert answer.returncode == 0


@pytest.mark.parametrize("whom", ["ROLE {role}", "DATABASE {database}"])
def test_too_few_connections_for_the_processes_are_reported(whom: str, watched: JournalDatabase):
    database = parse_dsn(watched.conninfo)["dbname"]
    role = f"few_{database}"
    conninfo = str(make_dsn(watched.conninfo, user=role))
    whom = whom.format(role=role, database=database)
    watched.run(f"CREATE ROLE {role} LOGIN; ALTER {whom} CONNECTION LIMIT 22")
    found = only("connections", conninfo, "--processes", "2")
    says = "the server has up to 20: --processes 2, --rows-readings 4; and this examination 2 more"
    assert (found.level, found.says) == (OK, says)
    found = only("connections", conninfo, "--processes", "2", "--rows-readings", "5")
    assert (found.level, found.says.split("; ")[-1]) == (WARNING, f"the {whom.lower()} allows 22")
    watched.run(found.fix)
    assert only("connections", conninfo, "--processes", "2", "--rows-readings", "5").level is OK
    watched.run(f"DROP ROLE {role}")


def test_an_examination_has_as_many_connections_as_the_documents_say(watched: JournalDatabase):
    """With the limit of the ten steps it runs beside a server that has all of its own."""
    text = (SERVER.parent / "docs/deployment.md").read_text("utf-8")
    [limit] = map(int, re.findall(r"ALTER ROLE changefeed_server CONNECTION LIMIT (\d+)", text))
    role = f"limited_{parse_dsn(watched.conninfo)['dbname']}"
    watched.run(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT {limit}")
    conninfo = str(make_dsn(watched.conninfo, user=role))
    with contextlib.ExitStack() as stack:
        for _ in range(load_settings([], {}, Path("/nonexistent")).connections):
            stack.callback(postgres.connect(conninfo).close)
        answer = run(conninfo)
        assert "connections: the server has up to 10" in answer.stdout, answer.stderr
        assert "a notification arrives" in answer.stdout
        stack.callback(postgres.connect(conninfo).close)  # one more than it may have
        assert "too many connections for role" in run(conninfo).stdout
    watched.run(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_trusted_owner_that_is_no_role_is_reported(watched: JournalDatabase):
    found = findings(watched.conninfo, "--trust-owner", "nobodyx")
    assert [one.says for one in found if one.level is WARNING and one.about == "rows"] == [
        "--trust-owner nobodyx: there is no such role, so no table is read for it"
    ]


# -- triggers


@pytest.mark.parametrize(
    "harm",
    [
        'ALTER TABLE orders DISABLE TRIGGER "~changefeed_insert"',
        'ALTER TABLE orders ENABLE REPLICA TRIGGER "~changefeed_delete"',
        'DROP TRIGGER "~changefeed_update" ON orders',
        'DROP TRIGGER "~changefeed_insert" ON orders',
        'CREATE OR REPLACE TRIGGER "!changefeed_truncate" AFTER TRUNCATE ON orders EXECUTE FUNCTION changefeed.read_truncated()',
    ],
)
def test_altered_triggers_are_fixed(harm: str, watched: JournalDatabase):
    watched.run(harm)
    found = only("triggers", watched.conninfo)
    assert found.level is PROBLEM
    assert "orders" in found.says
    watched.run(found.fix)
    mended = only("triggers", watched.conninfo)
    assert (mended.level, mended.says) == (OK, "1 table is watched, with all its triggers")


def test_a_partitions_disabled_trigger_is_reported(db: JournalDatabase):
    db.run('CREATE TABLE "Parts" (k int) PARTITION BY LIST (k)')
    db.run('CREATE TABLE one PARTITION OF "Parts" FOR VALUES IN (1)')
    db.run('SELECT changefeed.watch(\'"Parts"\'); ALTER TABLE one DISABLE TRIGGER "~changefeed_insert"')
    found = only("triggers", db.conninfo)
    assert (found.level, found.fix) == (PROBLEM, 'ALTER TABLE public.one ENABLE TRIGGER "~changefeed_insert";')
    db.run(found.fix)
    assert only("triggers", db.conninfo).level is OK


@pytest.mark.parametrize("option", ["omit", "hash"])
def test_a_missing_omitted_or_hashed_column_is_a_problem(option: str, watched: JournalDatabase):
    watched.run(f"SELECT changefeed.watch('orders', {option} => '{{id}}'); ALTER TABLE orders RENAME id TO number")
    found = only("triggers", watched.conninfo)
    assert (found.level, "public.orders has no column id any more" in found.says) == (PROBLEM, True)
    watched.run(f"SELECT changefeed.watch('orders', {option} => '{{number}}')")
    assert only("triggers", watched.conninfo).level is OK


@pytest.mark.parametrize("option", ["omit", "hash"])
def test_another_column_under_the_name_of_one_to_be_left_out_or_hashed_is_a_problem(
    option: str, watched: JournalDatabase
):
    watched.run(f"SELECT changefeed.watch('orders', {option} => '{{id}}')")
    watched.run("ALTER TABLE orders RENAME id TO number; ALTER TABLE orders ADD id int")
    found = only("triggers", watched.conninfo)
    assert (found.level, "id of public.orders is not the column that" in found.says) == (PROBLEM, True)
    watched.run(f"SELECT changefeed.watch('orders', {option} => '{{number}}')")
    assert only("triggers", watched.conninfo).level is OK


def test_no_watched_table_is_a_warning(db: JournalDatabase):
    assert only("triggers", db.conninfo).level is WARNING


def test_a_table_of_the_settings_that_is_not_watched_is_reported(watched: JournalDatabase):
    watched.run('CREATE SCHEMA "Odd.Schema"; CREATE TABLE "Odd.Schema".t (id int)')
    found = [one for one in findings(watched.conninfo, "--watch", '"Odd.Schema".*') if one.about == "triggers"]
    says = '"Odd.Schema".t is not watched, though --watch "Odd.Schema".* matches it'
    assert (found[0].level, found[0].says) == (WARNING, says)


def test_a_table_of_the_settings_that_is_not_there_is_a_problem(watched: JournalDatabase):
    flags = ("--watch", "public.order_s", "--watch", "public.orders", "--watch", "sales.*")
    found = [finding for finding in findings(watched.conninfo, *flags) if finding.about == "triggers"]
    assert [(finding.level, "public.order_s" in finding.says) for finding in found] == [(PROBLEM, True), (OK, False)]


@pytest.mark.parametrize("whom", ["DATABASE {database}", "ROLE {role}", "ROLE {role} IN DATABASE {database}"])
def test_where_triggers_do_not_fire_is_a_problem(whom: str, watched: JournalDatabase):
    named = whom.format(database=watched.name, role=watched.new_role("writer"))
    watched.run(f"ALTER {named} SET session_replication_role = 'replica'")
    found = only("replica", watched.conninfo)
    assert found.level is PROBLEM
    watched.run(found.fix)
    assert only("replica", watched.conninfo).level is OK


# -- whose hands are in it


@pytest.mark.parametrize(
    "harm",
    [
        "GRANT CREATE ON SCHEMA changefeed TO {role}",
        "GRANT EXECUTE ON FUNCTION changefeed.record TO {role}",
        "GRANT EXECUTE ON FUNCTION changefeed.record_truncated TO {role}",
        "GRANT INSERT ON changefeed.journal TO {role}",
        "GRANT TRIGGER ON changefeed.meta TO {role}",
    ],
)
def test_roles_that_could_write_the_journal_are_named(harm: str, watched: JournalDatabase):
    role = watched.new_role("intruder")
    watched.run(harm.format(role=role))
    found = [finding for finding in findings(watched.conninfo) if finding.level is not OK]
    assert [(finding.level, finding.about) for finding in found] == [(PROBLEM, "rights")]
    assert role in found[0].says
    watched.run(found[0].fix)
    assert only("rights", watched.conninfo).level is OK


def test_a_replaceable_event_trigger_function_is_reported(watched: JournalDatabase):
    role = watched.new_role("feed_owner")
    watched.run(f"ALTER FUNCTION changefeed.refresh_after_ddl OWNER TO {role}")
    found = [finding for finding in findings(watched.conninfo) if finding.level is not OK]
    assert [finding.level for finding in found] == [PROBLEM, PROBLEM]
    assert found[0].fix == "DROP EVENT TRIGGER changefeed_new_partitions;"
    assert f"belongs to {role}" in found[1].says  # and nothing of theirs is called
    watched.run(found[0].fix)
    assert only("rights", watched.conninfo).says == found[1].says


# -- the database's other guests


def test_a_publication_of_the_journal_is_named(watched: JournalDatabase):
    watched.run('SET client_min_messages = error; CREATE PUBLICATION "All of it" FOR ALL TABLES')
    found = only("publications", watched.conninfo)
    assert (found.level, '"All of it" also publishes the journal' in found.says) == (WARNING, True)
    watched.run('DROP PUBLICATION "All of it"; CREATE PUBLICATION orders FOR TABLE orders')
    assert only("publications", watched.conninfo).level is OK


def test_a_watched_table_that_became_unlogged_is_named(db: JournalDatabase):
    db.run(
        'CREATE TABLE "Odd ""one""" (id int); SELECT changefeed.watch(oid) FROM pg_class WHERE relname LIKE \'Odd%%\''
    )
    db.run('ALTER TABLE "Odd ""one""" SET UNLOGGED')
    found = only("tables", db.conninfo)
    assert (found.level, found.fix) == (WARNING, 'ALTER TABLE public."Odd ""one""" SET LOGGED;')
    db.run(found.fix)
    assert only("tables", db.conninfo).level is OK


def test_a_deferrable_primary_key_is_named(watched: JournalDatabase):
    watched.run("CREATE TABLE late (id int PRIMARY KEY DEFERRABLE); SELECT changefeed.watch('late')")
    found = only("tables", watched.conninfo)
    assert (found.level, found.says.split()[0]) == (WARNING, "public.late")


def test_a_table_that_a_subscription_writes_is_named(watched: JournalDatabase):
    watched.run(
        "SET client_min_messages = error;"
        "CREATE SUBSCRIPTION s CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false, slot_name = NONE)"
    )
    watched.run(
        "INSERT INTO pg_subscription_rel VALUES ((SELECT oid FROM pg_subscription WHERE subname = 's'), 'orders'::regclass, 'i')"
    )
    found = only("tables", watched.conninfo)
    assert (found.level, "public.orders is written by a subscription" in found.says) == (WARNING, True)
    triggers = watched.run(
        "SELECT quote_ident(tgname) FROM pg_trigger WHERE tgrelid = 'orders'::regclass AND NOT tgisinternal"
    )
    for (trigger,) in triggers:
        watched.run(f"ALTER TABLE orders ENABLE ALWAYS TRIGGER {trigger}")
    assert only("tables", watched.conninfo).level is OK
    watched.run("DROP SUBSCRIPTION s")


@pytest.mark.parametrize(
    ("setting", "level"),
    [
        ("statement_timeout = '5min'", OK),
        ("default_transaction_isolation = 'serializable'", OK),
        ("default_transaction_read_only = on", WARNING),
        ("default_transaction_read_only = off", OK),
    ],
)
def test_settings_of_the_role_or_database_are_named(setting: str, level: Level, watched: JournalDatabase):
    watched.run(f"ALTER DATABASE {watched.name} SET {setting}")
    found = only("settings", watched.conninfo)
    assert (found.level, setting.split(maxsplit=1)[0] in found.says) == (level, True)
    if found.fix:
        watched.run(found.fix)
        assert only("settings", watched.conninfo).level is OK


# -- locks


@pytest.mark.parametrize("relation", ["meta", "journal"])
def test_a_session_that_locks_the_schema_is_a_problem(relation: str, watched: JournalDatabase):
    locking = watched.session()
    pid = locking.value("SELECT pg_backend_pid()")
    locking.run("BEGIN")
    locking.run(f"LOCK TABLE changefeed.{relation}")
    waiting = run(watched.conninfo)
    assert waiting.returncode == 1
    assert re.search(
        rf"problem  locks: the session with pid {pid} locks .*\b{relation}\b.* of the schema changefeed, in a transaction "
        rf"that is \d+ s old: the server cannot read until it ends; fix: SELECT pg_terminate_backend\({pid}\);",
        waiting.stdout,
    )
    assert "statement timeout" not in waiting.stdout  # none waits as long as that
    locking.run("COMMIT")
    assert only("locks", watched.conninfo).level is OK


def test_a_session_that_waits_to_lock_the_schema_is_a_problem(watched: JournalDatabase):
    reading, locking = watched.session(), watched.session()
    pids = [session.value("SELECT pg_backend_pid()") for session in (locking, reading)]
    reading.run("BEGIN")
    reading.run("SELECT FROM changefeed.meta")
    with ThreadPoolExecutor() as threads:
        locked = threads.submit(locking.run, "ALTER TABLE changefeed.meta ADD spare int")
        try:
            while not watched.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s", pids[0]):
                pass
            found = only("locks", watched.conninfo)
        finally:
            reading.run("COMMIT")
        locked.result()
    assert found.level is PROBLEM
    assert "with pid {} waits for {} to lock meta".format(*pids) in found.says


# -- transactions


def test_an_old_transaction_is_named(watched: JournalDatabase, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server_checks, "LONG_TRANSACTION_SECONDS", 0.0)
    session = watched.session()
    pid = session.value("SELECT pg_backend_pid()")
    session.run("BEGIN")
    session.run("SELECT 1")
    found = only("transactions", watched.conninfo)
    assert (found.level, found.fix) == (WARNING, f"SELECT pg_terminate_backend({pid});")


def test_a_role_that_sees_no_other_sessions_is_advised(watched: JournalDatabase):
    role = watched.new_role("blind")
    conninfo = str(make_dsn(watched.conninfo, user=role))
    found = only("transactions", conninfo)
    assert found.level is WARNING
    watched.run(found.fix)
    assert only("transactions", conninfo).level is OK


# -- the journal


def test_a_journal_without_retention_is_a_problem(watched: JournalDatabase):
    watched.run("INSERT INTO orders VALUES (1)")
    flags = ("--retention-hours", "0.000001")
    found = only("journal", watched.conninfo, *flags)
    assert found.level is PROBLEM
    for _ in range(2):  # the first ends the partition that is written
        watched.run(found.fix)
    assert only("journal", watched.conninfo, *flags).level is OK


def test_a_journal_that_is_full_too_soon_is_a_warning(watched: JournalDatabase):
    watched.run("INSERT INTO orders SELECT generate_series(1, 20000)")
    size = watched.value("SELECT bytes FROM changefeed.journal_status()")
    found = only("journal", watched.conninfo, "--retention-bytes", str(int(size / 1.1)))
    assert found.level is WARNING
    assert only("journal", watched.conninfo, *found.fix.split()).level is OK


def test_statements_that_could_not_be_recorded_are_reported(watched: JournalDatabase):
    watched.run("ALTER TABLE changefeed.journal ADD CHECK (action <> 'I')")
    watched.run("INSERT INTO orders VALUES (1)")
    found = [finding for finding in findings(watched.conninfo) if finding.about == "journal"]
    assert [finding.level for finding in found] == [WARNING, OK]
    assert found[0].says.startswith("1 statement")


# -- of a whole cluster


@pytest.fixture
def cluster() -> Iterator[EmbeddedPostgres]:
    """One that may prepare transactions, and whose queue of notifications is small where that can be set."""
    [(version,)] = postgres.execute(postgres.cluster().conninfo, "SELECT current_setting('server_version_num')::int")
    queue = {"max_notify_queue_pages": "64"} if version >= 170000 else {}
    started = postgres.start(max_prepared_transactions="2", **queue)
    postgres.execute(started.conninfo, read_script("install.sql"))
    yield started
    postgres.discard(started)


def test_with_prepared_transactions_no_notify_is_sent(cluster: EmbeddedPostgres):
    found = only("wake-up", cluster.conninfo)
    assert (found.level, found.fix) == (WARNING, "ALTER DATABASE postgres SET changefeed.notify = 'on';")
    postgres.execute(cluster.conninfo, found.fix)
    assert only("wake-up", cluster.conninfo).level is OK


def test_whether_a_lease_holds_and_that_it_is_switched_off(cluster: EmbeddedPostgres):
    def lease_until(ends_in_ms: int) -> str:
        postgres.execute(
            cluster.conninfo,
            "SELECT setval('changefeed.awake_until', (extract(epoch FROM clock_timestamp()) * 1000)::bigint + %s)",
            (ends_in_ms,),
        )
        return only("lease", cluster.conninfo).says

    assert only("lease", cluster.conninfo).says.startswith("none holds")
    assert lease_until(1_990).startswith("one holds")
    assert lease_until(1_000_000).startswith("none holds")
    assert lease_until(-1).startswith("none holds")
    postgres.execute(cluster.conninfo, "ALTER DATABASE postgres SET changefeed.lease = 'off'")
    found = only("lease", cluster.conninfo)
    assert (found.level, found.fix) == (WARNING, "ALTER DATABASE postgres RESET changefeed.lease;")
    postgres.execute(cluster.conninfo, found.fix)
    assert only("lease", cluster.conninfo).level is OK


def test_a_transaction_that_stays_prepared_is_named(cluster: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch):
    preparing = postgres.connect(cluster.conninfo)
    with preparing.cursor() as db_cursor:
        for statement in ("BEGIN", "CREATE TABLE t ()", "PREPARE TRANSACTION 'it''s'"):
            db_cursor.execute(statement)
    preparing.close()
    monkeypatch.setattr(server_checks, "LONG_TRANSACTION_SECONDS", 0.0)
    found = only("transactions", cluster.conninfo)
    assert (found.level, found.fix) == (WARNING, "ROLLBACK PREPARED 'it''s';")
    postgres.execute(cluster.conninfo, found.fix)
    assert only("transactions", cluster.conninfo).level is OK


def test_triggers_that_never_fire_are_a_problem(cluster: EmbeddedPostgres):
    postgres.execute(cluster.conninfo, "ALTER SYSTEM SET session_replication_role = 'replica'")
    postgres.execute(cluster.conninfo, "SELECT pg_reload_conf()")
    while (found := only("replica", cluster.conninfo)).level is not PROBLEM:
        pass  # the signal is under way
    for statement in filter(None, map(str.strip, found.fix.split(";"))):
        postgres.execute(cluster.conninfo, statement)
    while only("replica", cluster.conninfo).level is not OK:
        pass


def test_a_standby_is_a_problem(cluster: EmbeddedPostgres):
    cluster.stop()
    (cluster._cluster / "standby.signal").touch()
    cluster.start()
    found = [finding for finding in findings(cluster.conninfo) if finding.about in ("pooler", "replica")]
    assert [(finding.level, finding.says) for finding in found] == [
        (PROBLEM, "this is a standby, which allows no LISTEN")
    ]


def test_a_queue_that_fills_names_the_session_that_holds_it(cluster: EmbeddedPostgres):
    conninfo = complete(cluster.conninfo)
    if postgres.execute(conninfo, "SELECT current_setting('max_notify_queue_pages', true)") == [(None,)]:
        pytest.skip("only since PostgreSQL 17 can the queue be small enough to be filled by a test")
    holding = postgres.connect(conninfo)
    levels = [only("queue", conninfo).level]
    with holding.cursor() as db_cursor:
        db_cursor.execute("LISTEN x")
        db_cursor.execute("BEGIN")
        db_cursor.execute("SELECT pg_backend_pid()")
        [(pid,)] = db_cursor.fetchall()
    while levels[-1] is not PROBLEM:
        postgres.execute(conninfo, "SELECT pg_notify('x', repeat('x', 7000) || gen_random_uuid())")
        found = only("queue", conninfo)
        if found.level is not levels[-1]:
            levels.append(found.level)
    assert levels == [OK, WARNING, PROBLEM]
    assert found.fix == f"SELECT pg_terminate_backend({pid});"
    postgres.execute(conninfo, found.fix)
    while only("queue", conninfo).level is not OK:
        pass  # the session is ending
    holding.close()
