"""Settings of a database (ALTER DATABASE ... SET role) give its owner no other rights."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from changefeed.journal.installation import CannotWatch, Installation
from changefeed.journal.journal import Journal, WrongJournal
from changefeed.journal.watching import Watching
from changefeed.postgres.connection import without_session_options
from changefeed.postgres.named_queries import SQL_DIR, load_queries, read_script
from changefeed.postgres.pool import Database
from tests import postgres
from tests.journal_database import Session
from tests.process.test_doctor import findings

# Run by any statement that calls something of the schema: it takes the session's own role back, and uses it.
EVIL = """
CREATE FUNCTION public.evil() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF session_user <> '{owner}' THEN
        EXECUTE format('SET LOCAL ROLE %I', session_user);
        CREATE ROLE {owner}_was_here;
    END IF;
END $$;
CREATE FUNCTION changefeed.trigger() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM public.evil(); RETURN new; END$$;
CREATE TRIGGER t BEFORE INSERT OR UPDATE ON changefeed.meta FOR EACH ROW EXECUTE FUNCTION changefeed.trigger();
CREATE OR REPLACE FUNCTION changefeed.members(target oid) RETURNS SETOF oid LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.evil(); RETURN NEXT target; END$$;
CREATE OR REPLACE FUNCTION changefeed.refresh() RETURNS SETOF text LANGUAGE plpgsql AS $$BEGIN PERFORM public.evil(); END$$;
CREATE OR REPLACE FUNCTION changefeed.begin_anew_if_restored() RETURNS boolean LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.evil(); RETURN false; END$$;
CREATE OR REPLACE FUNCTION changefeed.status() RETURNS TABLE (
    schema_name text, table_name text, is_complete boolean, omit text[], row_limit bigint, strict boolean, partitions bigint,
    hash text[]
) LANGUAGE plpgsql AS $$BEGIN PERFORM public.evil(); RETURN; END$$;
"""
SETTINGS = (
    "ALTER DATABASE {database} SET role = '{owner}'",
    "ALTER ROLE ALL IN DATABASE {database} SET role = '{owner}'",
)


class Ground:
    """A database whose owner, no superuser, planted all that; `conninfo` is a superuser's, `member` a member's of the owner."""

    def __init__(self) -> None:
        self.conninfo = postgres.new_database()
        self.database = parse_dsn(self.conninfo)["dbname"]
        self.owner, self.member = f"owner_{self.database}", f"member_{self.database}"
        execute = postgres.execute
        execute(self.conninfo, f"CREATE ROLE {self.owner} LOGIN; CREATE ROLE {self.member} LOGIN CREATEROLE")
        execute(
            self.conninfo, f"GRANT {self.owner} TO {self.member}; ALTER DATABASE {self.database} OWNER TO {self.owner}"
        )
        execute(self.conninfo, f"GRANT ALL ON SCHEMA public TO {self.owner}")
        with closing(self.session(self.owner).connection) as connection, connection.cursor() as db_cursor:
            db_cursor.execute(read_script("install.sql"))
            db_cursor.execute(EVIL.format(owner=self.owner))

    def plant(self, setting: str) -> None:
        with closing(self.session(self.owner).connection) as connection, connection.cursor() as db_cursor:
            db_cursor.execute(setting.format(database=self.database, owner=self.owner))

    def session(self, role: str) -> Session:
        return Session(str(make_dsn(self.conninfo, user=role)))

    def psql(self, role: str, *arguments: str, options: str = "") -> "subprocess.CompletedProcess[str]":
        command = [
            str(postgres.cluster().binaries / "psql"),
            "-X",
            "-q",
            *arguments,
            str(make_dsn(self.conninfo, user=role)),
        ]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=False, env={"PGOPTIONS": options})

    @property
    def was_seized(self) -> bool:
        return bool(postgres.execute(self.conninfo, f"SELECT FROM pg_roles WHERE rolname = '{self.owner}_was_here'"))


@pytest.fixture
def ground() -> Iterator[Ground]:
    made = Ground()
    yield made
    postgres.execute(made.conninfo, f"ALTER DATABASE {made.database} RESET role")
    postgres.execute(made.conninfo, f"ALTER ROLE ALL IN DATABASE {made.database} RESET role")


def install(ground: Ground, role: str) -> None:
    done = ground.psql(role, "-f", str(SQL_DIR / "install.sql"))
    assert done.returncode != 0
    assert f"runs as {ground.owner}, whose code could run with the rights of {role}" in done.stderr


def uninstall(ground: Ground, role: str) -> None:
    ground.psql(role, "-f", str(SQL_DIR / "uninstall.sql"))


def look_at(ground: Ground, role: str) -> None:
    told = findings(str(make_dsn(ground.conninfo, user=role)))
    if role == "postgres":
        assert any(f"belongs to {ground.owner}" in finding.says for finding in told)


def serve(ground: Ground, role: str) -> None:
    async def run() -> None:
        database = Database(str(make_dsn(ground.conninfo, user=role)))
        try:
            if role == "postgres":
                with pytest.raises(WrongJournal, match=ground.owner):
                    await Journal(database).identify()
                with pytest.raises(CannotWatch, match=ground.owner):
                    await Watching(database, Installation(database), [], 1.0, 1).start()
            assert await database.fetch("SELECT current_user = session_user") == [(True,)]
        finally:
            database.close()

    asyncio.run(run())


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("use", [install, uninstall, look_at, serve])
def test_a_databases_role_setting_gains_no_superuser_rights(
    ground: Ground, use: Callable[[Ground, str], None], setting: str
):
    ground.plant(setting)
    use(ground, "postgres")
    assert not ground.was_seized


@pytest.mark.parametrize("use", [install, serve])
def test_nor_those_of_a_member_of_the_owner_s_role(ground: Ground, use: Callable[[Ground, str], None]):
    ground.plant(SETTINGS[0])
    use(ground, ground.member)
    assert not ground.was_seized


def test_a_superuser_with_the_role_of_a_lesser_owner_is_refused(ground: Ground):
    done = ground.psql("postgres", "-c", f"SET ROLE {ground.owner}", "-f", str(SQL_DIR / "install.sql"))
    assert done.returncode != 0
    assert "SET ROLE NONE first" in done.stderr
    assert not ground.was_seized


def test_a_member_may_install_as_the_role_set_in_the_session(ground: Ground):
    with closing(ground.session(ground.owner).connection) as connection, connection.cursor() as db_cursor:
        db_cursor.execute(read_script("uninstall.sql"))
    ground.plant(SETTINGS[0])
    role = ("-c", f"SET ROLE {ground.owner}", "-f", str(SQL_DIR / "install.sql"))
    refused = ground.psql(ground.member, *role)  # whose decision it was cannot be told
    assert f"PGOPTIONS='-c role=none', and SET ROLE {ground.owner} then" in refused.stderr
    for _ in range(2):
        done = ground.psql(ground.member, *role, options="-c role=none")
        assert (done.returncode, done.stderr) == (0, "")


def test_distrusted_owners_are_found_in_spite_of_settings(ground: Ground):
    # Where a pooler lets no options through.
    ground.plant(SETTINGS[0])
    conninfo = without_session_options(ground.conninfo)
    distrusted = load_queries("server.sql")["distrusted owner"]
    assert postgres.execute(conninfo, f"SET search_path = pg_catalog; {distrusted}") == [(ground.owner,)]


def test_no_setting_changes_the_sessions_rights(ground: Ground):
    for planted in (
        f"session_authorization = {ground.owner}",
        "session_preload_libraries = 'x'",
        "event_triggers = off",
    ):
        try:
            ground.plant(f"ALTER DATABASE {{database}} SET {planted}")
        except psycopg2.Error:
            continue  # not the owner's to set
        session = ground.session("postgres")
        assert session.run("SELECT session_user::text, current_user::text") == [("postgres", "postgres")]
        session.connection.close()


HARMLESS = {
    "array_nulls": "off",
    "backslash_quote": "off",
    "check_function_bodies": "off",
    "debug_parallel_query": "on",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "plpgsql.extra_errors": "all",
    "quote_all_identifiers": "on",
    "restrict_nonsystem_relation_kind": "view, foreign-table",
    "row_security": "off",
    "search_path": "public",
    "standard_conforming_strings": "off",
    "timezone_abbreviations": "India",
    "transform_null_equals": "on",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_the_owners_settings_do_not_affect_the_install(name: str):
    conninfo = postgres.new_database()
    database = parse_dsn(conninfo)["dbname"]
    if name == "debug_parallel_query" and postgres.major_version() < 16:
        name = "force_parallel_mode"  # as it was called
    postgres.execute(conninfo, f"ALTER DATABASE {database} SET {name} = '{HARMLESS.get(name, 'on')}'")
    session = Session(conninfo)
    for _ in range(2):
        session.run(read_script("install.sql"))
    session.run("BEGIN READ WRITE; CREATE TABLE public.orders (id int, note text)")
    session.run("SELECT changefeed.watch('public.orders', hash => '{note}'); COMMIT")
    session.run(
        "BEGIN READ WRITE; INSERT INTO public.orders VALUES (1, NULL), (2, 'a'); UPDATE public.orders SET id = 3 WHERE id = 1"
    )
    session.run("COMMIT")
    assert session.warnings == []
    entries = "SELECT action::text, data ->> 'id' FROM changefeed.journal ORDER BY id"
    assert session.run(entries) == [("I", "1"), ("I", "2"), ("U", "3")]
    assert not [finding for finding in findings(conninfo) if "could not be examined" in finding.says]
    session.connection.close()
