"""Installing, upgrading and taking away: twice, at once, without superuser rights, without a trace."""

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from changefeed.journal.journal import VERSION
from changefeed.postgres.named_queries import SQL_DIR, load_queries, read_script
from tests import postgres
from tests.journal_database import JournalDatabase, Session

CATALOG = """
    SELECT 'class', oid::regclass::text FROM pg_class UNION ALL
    SELECT 'proc', oid::regprocedure::text FROM pg_proc UNION ALL
    SELECT 'trigger', tgname FROM pg_trigger UNION ALL
    SELECT 'event trigger', evtname FROM pg_event_trigger UNION ALL
    SELECT 'type', oid::regtype::text FROM pg_type UNION ALL
    SELECT 'role', rolname FROM pg_roles UNION ALL
    SELECT 'namespace', nspname FROM pg_namespace
"""


@pytest.fixture
def empty() -> Iterator[Session]:
    session = Session(postgres.new_database())
    yield session
    session.connection.close()


def install(session: Session) -> None:
    session.run(read_script("install.sql"))


def catalog(session: Session) -> set[tuple[Any, ...]]:
    return {row for row in session.run(CATALOG) if "pg_temp" not in row[1] and "pg_toast" not in row[1]}


def definitions(session: Session) -> list[tuple[Any, ...]]:
    return session.run(
        "SELECT 'trigger', oid, pg_get_triggerdef(oid) FROM pg_trigger UNION ALL "
        "SELECT 'class', oid, relname FROM pg_class WHERE relnamespace = 'changefeed'::regnamespace UNION ALL "
        "SELECT 'epoch', 0, epoch::text FROM changefeed.meta ORDER BY 1, 2"
    )


def test_uninstall_leaves_no_trace(empty: Session):
    empty.run("CREATE TABLE orders (id int); CREATE TABLE parts (k int) PARTITION BY LIST (k)")
    empty.run("CREATE TABLE part PARTITION OF parts DEFAULT")
    before = catalog(empty)
    install(empty)
    empty.run("SELECT changefeed.watch('orders', hash => '{id}'), changefeed.watch('parts')")
    empty.run("INSERT INTO orders VALUES (1); INSERT INTO parts VALUES (1)")
    assert catalog(empty) != before
    empty.run(read_script("uninstall.sql"))
    assert catalog(empty) == before
    empty.run("INSERT INTO orders VALUES (2); DELETE FROM parts")


def test_uninstall_where_nothing_is_installed_does_nothing(empty: Session):
    before = catalog(empty)
    empty.run(read_script("uninstall.sql"))
    assert catalog(empty) == before


def test_a_second_install_changes_nothing(db: JournalDatabase):
    db.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders')")
    db.run("INSERT INTO orders VALUES (1)")
    before = definitions(db)
    db.run(read_script("install.sql"))
    assert definitions(db) == before
    assert len(db.changes()) == 1


def test_an_install_over_changed_triggers_mends_them(db: JournalDatabase):
    db.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders', row_limit => 7)")
    db.run('DROP TRIGGER "~changefeed_update" ON orders')
    db.run("CREATE OR REPLACE FUNCTION changefeed.mark() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE; END'")
    db.run(read_script("install.sql"))
    db.run("INSERT INTO orders VALUES (1); UPDATE orders SET id = 2")
    assert db.changes() == [("I", {"id": 1}), ("U", {"id": 2})]
    assert db.run("SELECT is_complete, row_limit FROM changefeed.status()") == [(True, 7)]


def test_psql_runs_the_same_file():
    conninfo = postgres.new_database()
    psql = postgres.cluster().binaries / "psql"
    program = str(psql) if psql.exists() else shutil.which("psql")
    if program is None:
        pytest.skip("there is no psql here")
    done = subprocess.run(
        [program, "--no-psqlrc", "-d", conninfo, "-f", SQL_DIR / "install.sql"],
        capture_output=True,
        text=True,
        check=False,
    )
    said = f"installed, schema version {VERSION}; next: SELECT changefeed.watch('public.orders');\n"
    assert (done.returncode, done.stderr, done.stdout) == (0, "", said)
    assert postgres.execute(conninfo, "SELECT count(*) FROM changefeed.meta") == [(1,)]
    done = subprocess.run(
        [program, "--no-psqlrc", "-d", conninfo, "-f", SQL_DIR / "uninstall.sql"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("uninstalled: ")
    assert done.stdout.count("\n") == 1


def test_a_role_that_may_not_install_gets_advice(empty: Session):
    database = parse_dsn(empty.connection.dsn)["dbname"]
    empty.run(f"CREATE ROLE weak_{database} LOGIN")
    weak = Session(str(make_dsn(empty.connection.dsn, user=f"weak_{database}")))
    with pytest.raises(psycopg2.errors.InsufficientPrivilege) as raised:
        install(weak)
    assert f"GRANT CREATE ON DATABASE {database} TO weak_{database};" in (raised.value.diag.message_hint or "")
    weak.connection.close()


def test_two_installs_at_once_both_succeed(empty: Session):
    conninfo = make_dsn(empty.connection.dsn)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            postgres.execute(conninfo, read_script("install.sql"))
        except psycopg2.Error as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert empty.value("SELECT count(*) FROM changefeed.meta") == 1


def test_an_install_that_waited_for_an_uninstall_says_so(db: JournalDatabase):
    uninstalling = Session(db.connection.dsn)
    uninstalling.run("BEGIN; DROP SCHEMA changefeed, changefeed_secret CASCADE")
    refused: list[psycopg2.Error] = []

    def run() -> None:
        try:
            postgres.execute(db.connection.dsn, read_script("install.sql"))
        except psycopg2.Error as error:
            refused.append(error)

    installing = threading.Thread(target=run)
    installing.start()
    while not db.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'ShareUpdateExclusiveLock'"):
        pass
    uninstalling.run("COMMIT")
    installing.join()
    uninstalling.connection.close()
    assert [error.diag.message_primary for error in refused] == ["the schema changefeed was removed meanwhile"]
    assert db.value("SELECT to_regnamespace('changefeed')") is None


@pytest.fixture
def owner(empty: Session) -> Iterator[Session]:
    """The owner of a database, who is no superuser."""
    name = parse_dsn(empty.connection.dsn)["dbname"]
    empty.run(f"CREATE ROLE owner_{name} LOGIN; ALTER DATABASE {name} OWNER TO owner_{name}")
    if empty.connection.server_version < 150000:
        empty.run(f"GRANT CREATE ON SCHEMA public TO owner_{name}")
    session = Session(str(make_dsn(empty.connection.dsn, user=f"owner_{name}")))
    yield session
    session.connection.close()


def test_a_database_owner_needs_no_superuser(owner: Session):
    install(owner)
    install(owner)
    owner.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders')")
    owner.run("INSERT INTO orders VALUES (1)")
    assert owner.value("SELECT count(*) FROM changefeed.journal") == 1
    assert owner.value("SELECT count(*) FROM pg_event_trigger WHERE evtname LIKE 'changefeed%%'") == 0
    owner.run(read_script("uninstall.sql"))
    assert owner.value("SELECT to_regnamespace('changefeed')") is None


def test_without_the_event_trigger_refresh_finds_new_partitions(owner: Session):
    install(owner)
    owner.run("CREATE TABLE parts (k int) PARTITION BY LIST (k); SELECT changefeed.watch('parts')")
    owner.run("CREATE TABLE part PARTITION OF parts DEFAULT")
    assert owner.value("SELECT is_complete FROM changefeed.status()") is False
    assert owner.run("SELECT * FROM changefeed.refresh()") == [("public.parts",)]
    owner.run("INSERT INTO part VALUES (1)")
    assert owner.run("SELECT table_name FROM changefeed.journal") == [("parts",)]


def test_a_role_without_create_is_refused_and_nothing_is_left(db: JournalDatabase):
    conninfo = postgres.new_database()
    guest = db.new_role("guest")
    session = Session(str(make_dsn(conninfo, user=guest)))
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        install(session)
    session.connection.close()
    assert postgres.execute(conninfo, "SELECT to_regnamespace('changefeed')") == [(None,)]


def test_a_restored_dump_with_future_transactions_starts_over(db: JournalDatabase):
    db.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders')")
    db.run("INSERT INTO orders VALUES (1)")
    epoch = db.value("SELECT epoch FROM changefeed.meta")
    assert db.value("SELECT changefeed.begin_anew_if_restored()") is False
    # As after a restore into a younger cluster.
    db.run("UPDATE changefeed.journal SET xid = (xid::text::bigint + 1000000)::text::xid8")
    db.run(read_script("install.sql"))
    assert db.changes() == []
    assert db.value("SELECT epoch FROM changefeed.meta") != epoch


def test_a_transaction_s_own_changes_are_no_sign_of_a_restore(db: JournalDatabase):
    db.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders')")
    db.run("BEGIN; INSERT INTO orders VALUES (1); SELECT * FROM changefeed.retain('1 day', 1000000000); COMMIT")
    assert len(db.changes()) == 1


def test_an_upgrade_serves_and_updates_old_triggers(db: JournalDatabase):
    db.run("CREATE TABLE parts (k int) PARTITION BY LIST (k); CREATE TABLE part PARTITION OF parts DEFAULT")
    db.run("SELECT changefeed.watch('parts'); UPDATE changefeed.meta SET version = 1")
    epoch = db.value("SELECT epoch FROM changefeed.meta")
    db.run(
        'CREATE OR REPLACE TRIGGER "~changefeed_update" AFTER UPDATE ON parts REFERENCING OLD TABLE AS old_rows '
        "NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION changefeed.record('{\"moves\": true}')"
    )
    db.run("INSERT INTO parts VALUES (1), (2); UPDATE parts SET k = 3 WHERE k = 1")
    db.run(read_script("install.sql"))
    db.run("UPDATE parts SET k = k + 5")
    db.assert_rebuilds("public.parts")
    assert db.run("SELECT is_complete FROM changefeed.status()") == [(True,)]
    assert db.run("SELECT version, epoch FROM changefeed.meta") == [(VERSION, epoch)]


def test_an_upgrade_from_version_2_keeps_one_watch(db: JournalDatabase):
    db.run("CREATE TABLE orders (id int, secret int); SELECT changefeed.watch('orders', omit => '{secret}')")
    db.run(
        "DROP SCHEMA changefeed_secret CASCADE; UPDATE changefeed.meta SET version = 2; DROP FUNCTION changefeed.status()"
    )
    db.run("DROP FUNCTION changefeed.watch; DROP FUNCTION changefeed.hash")
    db.run(
        "CREATE FUNCTION changefeed.watch(target regclass, omit text[] DEFAULT '{}', row_limit bigint DEFAULT NULL, "
        "strict boolean DEFAULT false) RETURNS boolean LANGUAGE sql AS 'SELECT true'"
    )
    db.run(
        "CREATE FUNCTION changefeed.status() RETURNS TABLE (schema_name text, table_name text, is_complete boolean, "
        "omit text[], row_limit bigint, strict boolean, partitions bigint) LANGUAGE plpgsql AS 'BEGIN END'"
    )
    before = db.run("SELECT oid, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'orders'::regclass ORDER BY 1")
    assert db.run(load_queries("server.sql")["watched tables"]) == []  # the server asks the older one too
    db.run(read_script("install.sql"))
    assert db.run("SELECT omit, hash, is_complete FROM changefeed.status()") == [(["secret"], [], True)]
    assert before == db.run(
        "SELECT oid, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'orders'::regclass ORDER BY 1"
    )
    assert db.value("SELECT changefeed.watch('orders')") is True
    assert db.value("SELECT changefeed.watch('orders', hash => '{secret}')") is True
    db.run("INSERT INTO orders VALUES (1, 42)")
    assert db.changes() == [("I", {"id": 1, "secret": db.value("SELECT changefeed.hash('orders', 'secret', '42')")})]


def test_a_superuser_is_refused_to_run_what_another_owns(owner: Session, empty: Session):
    install(owner)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="the schema changefeed belongs to owner_"):
        install(empty)
    empty.run("ROLLBACK")
    assert empty.value("SELECT count(*) FROM pg_event_trigger WHERE evtname LIKE 'changefeed%%'") == 0


@pytest.mark.parametrize(
    ("prepared", "named"),
    [
        ("CREATE TABLE changefeed.meta (is_only boolean PRIMARY KEY, version integer)", "table changefeed.meta"),
        (
            "CREATE FUNCTION changefeed.refresh() RETURNS text LANGUAGE sql AS 'SELECT 1'",
            "function changefeed.refresh()",
        ),
        ("CREATE TYPE changefeed.mood AS ENUM ('ok')", "type changefeed.mood"),
        ("CREATE OPERATOR changefeed.|| (LEFTARG = name, RIGHTARG = text, FUNCTION = textcat)", "operator"),
    ],
)
def test_what_a_stranger_put_into_the_schema_before_is_never_run(empty: Session, prepared: str, named: str):
    name = parse_dsn(empty.connection.dsn)["dbname"]
    empty.run(
        f"CREATE ROLE stranger_{name}; CREATE SCHEMA changefeed; GRANT ALL ON SCHEMA changefeed TO stranger_{name}"
    )
    empty.run(f"SET ROLE stranger_{name}")
    if "OPERATOR" in prepared:
        prepared = (
            "CREATE FUNCTION changefeed.f(name, text) RETURNS text LANGUAGE sql AS 'SELECT $2';"
            "CREATE OPERATOR changefeed.|| (LEFTARG = name, RIGHTARG = text, FUNCTION = changefeed.f)"
        )
    empty.run(prepared)
    empty.run("RESET ROLE")
    with pytest.raises(
        psycopg2.errors.InsufficientPrivilege,
        match="another role can change the schema changefeed or changefeed_secret",
    ):
        install(empty)
    empty.run("ROLLBACK")


def test_a_schema_of_a_stranger_is_refused(empty: Session):
    name = parse_dsn(empty.connection.dsn)["dbname"]
    empty.run(f"CREATE ROLE stranger_{name}; CREATE SCHEMA changefeed AUTHORIZATION stranger_{name}")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match=f"belongs to stranger_{name}, this is postgres"):
        install(empty)
    empty.run("ROLLBACK")


@pytest.mark.parametrize(
    "harm",
    [
        "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON changefeed.meta FOR EACH ROW EXECUTE FUNCTION {stranger}.f()",
        "ALTER TABLE changefeed.meta ALTER epoch SET DEFAULT {stranger}.g()",
        "ALTER TABLE changefeed.meta ADD CHECK ({stranger}.g() IS NOT NULL)",
        "CREATE RULE r AS ON UPDATE TO changefeed.meta DO ALSO SELECT {stranger}.g()",
        "CREATE INDEX ON changefeed.meta ({stranger}.g())",
    ],
)
def test_a_stranger_s_function_on_a_table_of_ours_is_refused(db: JournalDatabase, harm: str):
    stranger = db.new_role("stranger")
    db.run(f"CREATE SCHEMA AUTHORIZATION {stranger}; SET ROLE {stranger}")
    db.run(f"CREATE FUNCTION {stranger}.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    db.run(f"CREATE FUNCTION {stranger}.g() RETURNS uuid LANGUAGE sql IMMUTABLE AS 'SELECT NULL::uuid'")
    db.run("RESET ROLE")
    db.run(harm.format(stranger=stranger) if "CHECK" not in harm else harm.format(stranger=stranger) + " NOT VALID")
    with pytest.raises(
        psycopg2.errors.InsufficientPrivilege,
        match="another role can change the schema changefeed or changefeed_secret",
    ):
        install(db)
    db.run("ROLLBACK")


def test_another_superuser_s_install_leaves_all_to_the_owner(empty: Session):
    name = parse_dsn(empty.connection.dsn)["dbname"]
    empty.run(f"CREATE ROLE admin_{name} SUPERUSER LOGIN")
    install(empty)
    admin = Session(str(make_dsn(empty.connection.dsn, user=f"admin_{name}")))
    admin.run("DROP FUNCTION changefeed.journal_bytes CASCADE; DROP EVENT TRIGGER changefeed_new_partitions")
    install(admin)
    admin.connection.close()
    assert empty.run(
        "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'changefeed'::regnamespace"
    ) == [("postgres",)]
    empty.run(f"DROP ROLE admin_{name}")


def test_an_upgrade_takes_back_the_right_to_write_the_journal(db: JournalDatabase):
    role = db.new_role("server")
    db.run(f"GRANT EXECUTE ON FUNCTION changefeed.record, changefeed.record_strict, changefeed.watch TO {role}")
    install(db)
    can = "SELECT has_function_privilege(%s, %s::regproc, 'EXECUTE')"
    assert [db.value(can, role, f"changefeed.{name}") for name in ("record", "record_strict", "watch")] == [
        False,
        False,
        True,
    ]


def test_unprivileged_roles_cannot_block_install_or_retention(db: JournalDatabase):
    guest = db.session(user=db.new_role("guest"))
    guest.run("SELECT pg_advisory_lock(hashtext('changefeed')), pg_advisory_lock(hashtext('changefeed.retain'))")
    db.run("SET statement_timeout = '20s'")
    install(db)
    db.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders'); INSERT INTO orders VALUES (1)")
    for _ in range(2):  # the first ends the partition that is written
        emptied = db.run("SELECT changefeed.retain('0 s', 0)")
    assert emptied == [(0,)]


def test_uninstall_ends_no_writer(empty: Session):
    install(empty)
    empty.run("CREATE TABLE a (id int); CREATE TABLE b (id int); SELECT changefeed.watch('a'), changefeed.watch('b')")
    empty.run("ALTER DATABASE " + parse_dsn(empty.connection.dsn)["dbname"] + " SET deadlock_timeout = '200ms'")
    writers = [Session(empty.connection.dsn) for _ in range(2)]
    writers[0].run("BEGIN; INSERT INTO b VALUES (1)")
    uninstalling = threading.Thread(target=postgres.execute, args=(empty.connection.dsn, read_script("uninstall.sql")))
    uninstalling.start()
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
    while not empty.value(waiting):
        pass
    writers[0].run("INSERT INTO a VALUES (1)")
    writers[0].run("COMMIT")
    uninstalling.join()
    for writer in writers:
        writer.connection.close()
    assert empty.value("SELECT to_regnamespace('changefeed')") is None


def test_an_orphaned_event_trigger_fails_no_command(db: JournalDatabase):
    db.run("DROP FUNCTION changefeed.warn(text), changefeed.watched(oid[])")
    db.run("CREATE TABLE orders (id int); ALTER TABLE orders ADD v text")


def dump(conninfo: str, *flags: str) -> str:
    """A dump as statements for psycopg2: one with COPY needs psql."""
    program = postgres.cluster().binaries / "pg_dump"
    if not program.exists():
        pytest.skip("there is no pg_dump here")
    dumped = subprocess.run([program, "--inserts", *flags, "-d", conninfo], capture_output=True, text=True, check=False)
    assert (dumped.returncode, dumped.stderr) == (0, "")
    return "\n".join(line for line in dumped.stdout.splitlines() if not line.startswith("\\"))


def test_dumps_keep_watches_but_not_the_secret():
    source, target = postgres.new_database(), postgres.new_database()
    postgres.execute(source, read_script("install.sql"))
    postgres.execute(source, "CREATE TABLE orders (id int, secret int, phone int); INSERT INTO orders VALUES (1)")
    postgres.execute(source, "SELECT changefeed.watch('orders', omit => '{secret}', hash => '{phone}')")
    postgres.execute(source, "INSERT INTO orders VALUES (2, 0, 110)")
    [(key,)] = postgres.execute(source, "SELECT key FROM changefeed_secret.secret")
    statements = dump(source)
    assert bytes(key).hex() not in statements
    postgres.execute(target, statements)
    assert postgres.execute(target, "SELECT table_name, is_complete, omit, hash FROM changefeed.status()") == [
        ("orders", True, ["secret"], ["phone"])
    ]
    postgres.execute(target, read_script("install.sql"))
    hash_of_110 = "SELECT changefeed.hash('public.orders', 'phone', '110')"
    assert postgres.execute(source, hash_of_110) != postgres.execute(target, hash_of_110)
    postgres.execute(target, "SELECT changefeed.set_secret(%s)", [key])
    assert postgres.execute(source, hash_of_110) == postgres.execute(target, hash_of_110)
    postgres.execute(target, "INSERT INTO public.orders VALUES (3, 0, 110)")
    rows = postgres.execute(target, "SELECT data ->> 'phone' FROM changefeed.journal WHERE data ->> 'id' = '3'")
    assert rows == postgres.execute(source, hash_of_110)


@pytest.mark.parametrize("option", ["omit", "hash"])
@pytest.mark.parametrize(
    ("ddl", "is_recorded"),
    [
        ("", True),
        ("ALTER TABLE orders RENAME secret TO other; ALTER TABLE orders ADD secret text", False),
        # A restore gives the columns new numbers, without those that were dropped.
        ("ALTER TABLE orders DROP note", False),
    ],
)
def test_a_restored_table_gives_out_no_column_that_was_kept_back(
    option: str, ddl: str, is_recorded: bool, db: JournalDatabase
):
    db.run("CREATE TABLE orders (id int, note text, secret text)")
    db.run(f"SELECT changefeed.watch('orders', {option} => '{{secret}}'); {ddl}")
    target = postgres.new_database()
    postgres.execute(target, dump(db.conninfo))
    postgres.execute(target, read_script("install.sql"))
    last = "other" if "other" in ddl else "secret"
    write = f"INSERT INTO public.orders (id, {last}) VALUES (1, 'S3CRET')"
    postgres.execute(target, write)
    journal = "SELECT action::text, position('S3CRET' IN j::text) FROM changefeed.journal AS j"
    assert postgres.execute(target, journal) == [("I" if is_recorded else "L", 0)]
    postgres.execute(target, f"SELECT changefeed.watch('public.orders', {option} => '{{{last}}}')")
    postgres.execute(target, write)
    assert postgres.execute(target, f"{journal} ORDER BY j.id DESC LIMIT 1") == [("I", 0)]


def test_a_schemas_dump_restores_its_triggers(db: JournalDatabase):
    db.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders', row_limit => 7)")
    target = postgres.new_database()
    postgres.execute(target, "DROP SCHEMA public")
    postgres.execute(target, read_script("install.sql"))
    postgres.execute(target, dump(db.conninfo, "-n", "public"))
    assert postgres.execute(target, "SELECT is_complete, row_limit FROM changefeed.status()") == [(True, 7)]
    db.run("INSERT INTO orders VALUES (1)")
    rows = "INSERT INTO changefeed.journal_0 VALUES"
    assert rows in dump(db.conninfo)
    assert rows not in dump(db.conninfo, "--exclude-table-data=changefeed.journal*")


def test_a_role_that_may_read_all_data_can_still_dump_the_database(db: JournalDatabase):
    db.run("CREATE TABLE orders (id int, phone text); SELECT changefeed.watch('orders', hash => '{phone}')")
    db.run("INSERT INTO orders VALUES (1, '110')")
    role = db.new_role("backup")
    db.run(f"GRANT pg_read_all_data TO {role}")
    statements = dump(str(make_dsn(db.conninfo, user=role)), "--no-owner")
    target = postgres.new_database()
    postgres.execute(target, statements)
    postgres.execute(target, read_script("install.sql"))
    postgres.execute(target, "INSERT INTO public.orders VALUES (2, '110')")
    rows = postgres.execute(target, "SELECT data ->> 'phone' FROM changefeed.journal WHERE data ->> 'id' = '2'")
    assert rows == postgres.execute(target, "SELECT changefeed.hash('public.orders', 'phone', '110')")


def test_a_restored_schema_works_after_an_install(db: JournalDatabase):
    db.run("CREATE TABLE orders (id int, phone text); SELECT changefeed.watch('orders', hash => '{phone}')")
    target = postgres.new_database()
    postgres.execute(target, dump(db.conninfo, "--schema-only"))
    postgres.execute(target, read_script("install.sql"))
    postgres.execute(target, "INSERT INTO public.orders VALUES (1, '110')")
    assert postgres.execute(target, "SELECT count(*) FROM changefeed.journal") == [(1,)]
    assert postgres.execute(target, "SELECT is_complete FROM changefeed.status()") == [(True,)]


def test_a_publication_of_all_tables_has_no_secret(db: JournalDatabase):
    db.run("CREATE TABLE orders (id int PRIMARY KEY, phone text); CREATE TABLE audit (id int)")
    db.run(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NULL; END'"
    )
    db.run("CREATE TRIGGER note AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION note()")
    db.run(
        "SELECT changefeed.watch('orders', hash => '{phone}', strict => true), changefeed.watch('audit', strict => true)"
    )
    db.run("SET client_min_messages = error; CREATE PUBLICATION everything FOR ALL TABLES")
    assert db.run("SELECT FROM pg_publication_tables WHERE schemaname = 'changefeed_secret'") == []
    db.run("INSERT INTO orders VALUES (1, '110'); UPDATE orders SET phone = '112'")
    assert [action for action, _ in db.changes()] == ["I", "I", "U"]
    # As after a restore into a younger cluster.
    db.run("UPDATE changefeed.journal SET xid = (xid::text::bigint + 1000000)::text::xid8")
    db.run(read_script("install.sql"))
    assert db.changes() == []


def test_an_upgrade_keeps_the_readers(db: JournalDatabase):
    reader = db.new_role("reader")
    db.run("CREATE TABLE orders (id int PRIMARY KEY, v int); SELECT changefeed.watch('orders')")
    db.run("CREATE TABLE busy (id int); SELECT changefeed.watch('busy'); UPDATE changefeed.meta SET version = 4")
    db.run("DROP FUNCTION changefeed.read; DROP INDEX changefeed.journal_0_losses, changefeed.journal_1_losses")
    db.run(
        "CREATE FUNCTION changefeed.read(previous pg_snapshot, batch pg_snapshot, after bigint, row_limit int, byte_limit bigint) "
        "RETURNS TABLE (id bigint, xid text, at text, action text, schema_name text, table_name text, data text, old text, "
        "row_count bigint, snapshot text, has_more boolean, epoch text, lost_xid text, lost_id bigint, losses bigint) "
        "LANGUAGE sql AS $$ SELECT 7::bigint, '1', '', 'I', 's', 't', NULL, NULL, 1::bigint, '', false, '', '0', 0::bigint, 0::bigint $$"
    )
    db.run(f"GRANT EXECUTE ON FUNCTION changefeed.read TO {reader}")
    db.run("CREATE FUNCTION changefeed.mark() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    for table in ("orders", "busy"):
        db.run(
            "CREATE TRIGGER zzz_changefeed_mark BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE "
            f"ON {table} FOR EACH STATEMENT EXECUTE FUNCTION changefeed.mark()"
        )
    page = {"previous": "1:1:", "batch": None, "after": None, "row_limit": 9, "byte_limit": 9, "row_limit_bytes": 9}
    [old] = asyncio.run(
        db.fetch(load_queries("server.sql")["read of version 4"], page)
    )  # the server asks the older one too
    assert old[0] == 7
    assert old[9] is None
    db.run("INSERT INTO orders VALUES (1, 1)")
    holder = db.session()
    holder.run("BEGIN; INSERT INTO busy VALUES (1)")
    db.run(read_script("install.sql"))
    holder.run("INSERT INTO busy VALUES (2); COMMIT")  # whose table keeps its mark until nobody uses it
    db.run(read_script("install.sql"))
    assert db.run("SELECT FROM pg_trigger WHERE tgname = 'zzz_changefeed_mark'") == []
    assert db.value("SELECT to_regproc('changefeed.mark')") is None
    assert db.value(f"SELECT has_function_privilege('{reader}', oid, 'EXECUTE') FROM pg_proc WHERE proname = 'read'")
    db.run("UPDATE orders SET v = 2")
    db.assert_rebuilds("public.orders")
    # Of a partition in use no index is built, which would keep writers waiting.
    assert db.value("SELECT to_regclass('changefeed.journal_0_losses')") is None
    assert db.value("SELECT to_regclass('changefeed.journal_1_losses')") is not None
    db.run("SELECT changefeed.empty_partition(0)")
    assert db.value("SELECT to_regclass('changefeed.journal_0_losses')") is not None


def test_what_is_installed_is_ascii():
    """A client of SQL_ASCII or LATIN1 can install nothing else."""
    assert read_script("install.sql").isascii()
