"""A schema `changefeed` of another owner runs no code of theirs: not in install.sql, the server, or doctor."""

import asyncio
import subprocess

import pytest
from psycopg2.extensions import parse_dsn

from changefeed.journal.installation import CannotWatch, Installation
from changefeed.journal.journal import Journal, WrongJournal
from changefeed.journal.watching import Watching
from changefeed.postgres.named_queries import SQL_DIR
from tests import postgres
from tests.journal_database import JournalDatabase
from tests.process.test_doctor import findings

PLANTED = """
CREATE SCHEMA changefeed;
CREATE TABLE changefeed.meta (is_only boolean, version integer, epoch uuid, readable_from integer);
INSERT INTO changefeed.meta VALUES (true, 5, gen_random_uuid(), 5);
CREATE TABLE changefeed.journal (id bigint);
GRANT ALL ON SCHEMA changefeed TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA changefeed TO PUBLIC;
CREATE FUNCTION changefeed.refresh() RETURNS SETOF text LANGUAGE plpgsql AS
    $$BEGIN CREATE ROLE {role}_was_here; RETURN NEXT current_user; END$$;
CREATE FUNCTION changefeed.begin_anew_if_restored() RETURNS boolean LANGUAGE plpgsql AS
    $$BEGIN CREATE ROLE {role}_was_here; RETURN false; END$$;
CREATE FUNCTION changefeed.status() RETURNS TABLE (schema_name text, table_name text, is_complete boolean) LANGUAGE plpgsql AS
    $$BEGIN CREATE ROLE {role}_was_here; RETURN; END$$;
"""


@pytest.fixture
def planted(db: JournalDatabase) -> str:
    """The role that made it."""
    role = db.new_role("mallory")
    db.run("DROP SCHEMA changefeed CASCADE; DROP SCHEMA changefeed_secret CASCADE")
    db.run("DROP EVENT TRIGGER IF EXISTS changefeed_new_partitions")
    db.run(f"GRANT CREATE ON DATABASE {db.name} TO {role}; SET ROLE {role}")
    db.run(PLANTED.format(role=role))
    db.run("RESET ROLE")
    return role


def was_called(db: JournalDatabase, role: str) -> bool:
    return bool(db.value("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)", f"{role}_was_here"))


def test_install_ends_at_the_first_refusal(db: JournalDatabase, planted: str):
    psql = [str(postgres.cluster().binaries / "psql"), "-X", "-q", "-f", str(SQL_DIR / "install.sql"), db.conninfo]
    parts = parse_dsn(db.conninfo)
    done = subprocess.run(psql, capture_output=True, encoding="utf-8", check=False, env={"PGHOST": parts["host"]})
    assert done.returncode != 0
    assert "belongs to" in done.stderr
    assert not was_called(db, planted)


def test_doctor_calls_nothing_of_it(db: JournalDatabase, planted: str):
    assert any(f"belongs to {planted}" in finding.says for finding in findings(db.conninfo))
    assert not was_called(db, planted)


def test_neither_does_the_server(db: JournalDatabase, planted: str):
    async def serve() -> None:
        with pytest.raises(WrongJournal, match=planted):
            await Journal(db).identify()  # type: ignore[arg-type]  # it has the one method that is called
        with pytest.raises(CannotWatch, match=planted):
            await Watching(db, Installation(db), [], 1.0, 1).start()  # type: ignore[arg-type]

    asyncio.run(serve())
    assert not was_called(db, planted)
