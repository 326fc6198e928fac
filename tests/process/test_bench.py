"""`python server.py bench` on a user's PostgreSQL: it measures, and leaves all as it was, however it ends."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from tests import postgres
from tests.journal_database import JournalDatabase
from tests.server_process import ServerProcess

TINY = ("bench", "--seconds", "0.01", "--clients", "3")
FIGURES = r"^\| [^|]+ \| [\d.,]+[^|]* \|$"


@pytest.fixture
def conninfo(db: JournalDatabase) -> Iterator[str]:
    """A user's database, with a table that is watched; afterwards it and the cluster are as before."""
    db.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders'); INSERT INTO orders VALUES (1)")
    before = state(db)
    yield db.conninfo
    assert state(db) == before


def state(db: JournalDatabase) -> list[object]:
    return [
        db.run("SELECT datname FROM pg_database ORDER BY 1"),
        db.run("SELECT relnamespace::regnamespace::text, relname FROM pg_class WHERE relkind <> 't' ORDER BY 1, 2"),
        db.run("SELECT count(*) FROM orders"),
        db.changes(),
    ]


@pytest.mark.parametrize("flags", [(), ("--processes", "2")])
def test_every_figure_is_there_and_nothing_is_left_behind(tmp_path: Path, conninfo: str, flags: tuple[str, ...]):
    with ServerProcess(tmp_path, *TINY, *flags, DATABASE_URL=conninfo) as bench:
        code, table, said = bench.ended()
    assert (code, "Traceback" in said) == (0, False), said
    head, line, *rows = table.splitlines()
    assert "PostgreSQL" in head
    assert line == "|---|---|"
    assert [row for row in rows if not re.match(FIGURES, row)] == [rows[3]]  # that one says what the others are
    assert len(rows) == 12


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("creates the database", signal.SIGINT),
        ("bench: 100 changes/s", signal.SIGINT),
        ("bench: 100 changes/s", signal.SIGTERM),
        ("bench: 100 changes/s", signal.SIGHUP),
        ("what the journal costs", signal.SIGINT),
    ],
)
def test_nothing_is_left_behind_where_it_is_ended(tmp_path: Path, conninfo: str, where: str, number: signal.Signals):
    with ServerProcess(tmp_path, *TINY, DATABASE_URL=conninfo) as bench:
        bench.until_said(where)
        code, said = bench.end(number) if number is signal.SIGINT else bench.end_alone(number)
    assert code == 1
    assert said.strip().splitlines()[-1] == "server.py bench: interrupted"
    assert "Traceback" not in said


PLANTED = """
CREATE FUNCTION public.evil(text, integer) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF current_user <> '{role}' THEN EXECUTE 'CREATE ROLE {role}_was_here'; END IF;
    RETURN $1;
END $$;
CREATE OPERATOR public.|| (FUNCTION = public.evil, LEFTARG = text, RIGHTARG = integer);
"""


def test_other_roles_cannot_use_its_database(tmp_path: Path, conninfo: str, db: JournalDatabase):
    role = db.new_role("mallory")
    with ServerProcess(tmp_path, *TINY, DATABASE_URL=conninfo) as bench:
        bench.until_said("bench: 100 changes/s")
        its = str(make_dsn(conninfo, dbname="changefeed_bench"))
        with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
            postgres.connect(str(make_dsn(its, user=role)))
        assert postgres.execute(its, "SELECT datconnlimit FROM pg_database WHERE datname = current_database()") == [
            (-1,)
        ]
        # As if it had got in, and might create in public, as everybody may on PostgreSQL 14.
        postgres.execute(its, f"GRANT CREATE ON SCHEMA public TO {role}; SET ROLE {role}; {PLANTED.format(role=role)}")
        code, _, said = bench.ended()
    assert code == 0, said
    assert db.run(f"SELECT FROM pg_roles WHERE rolname = '{role}_was_here'") == []


def test_a_role_without_createdb_gets_advice(tmp_path: Path, conninfo: str, db: JournalDatabase):
    guest = db.new_role("guest")
    with ServerProcess(tmp_path, *TINY, DATABASE_URL=str(make_dsn(conninfo, user=guest))) as bench:
        code, table, said = bench.ended()
    assert (code, table) == (2, "")
    assert f'{guest} may not create a database; ALTER ROLE "{guest}" CREATEDB; as a role that may,' in said


def test_a_database_of_that_name_is_left_alone(tmp_path: Path, conninfo: str):
    postgres.execute(conninfo, "CREATE DATABASE changefeed_bench")
    with ServerProcess(tmp_path, *TINY, DATABASE_URL=conninfo) as bench:
        code, _, said = bench.ended()
    postgres.execute(conninfo, "DROP DATABASE changefeed_bench")  # is still there
    assert (code, "the database changefeed_bench exists" in said) == (2, True)


def test_an_unreachable_database_is_reported(tmp_path: Path):
    with ServerProcess(tmp_path, *TINY, DATABASE_URL="postgresql://127.0.0.1:1/nowhere") as bench:
        code, _, said = bench.ended()
    assert (code, said.strip().splitlines()[-1].startswith("server.py bench: cannot reach nowhere@127.0.0.1:1")) == (
        2,
        True,
    )


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--clients", "0"), "0 is not a number from 1 to 50000"),
        (("--seconds", "soon"), "soon is not a number from 0.001 to 3600"),
        (("--prot", "1"), "--prot is not a setting; did you mean --port?"),
    ],
)
def test_a_bad_flag_is_refused_before_anything_is_opened(tmp_path: Path, flags: tuple[str, ...], complaint: str):
    with ServerProcess(tmp_path, "bench", *flags, DATABASE_URL="postgresql://127.0.0.1:1/nowhere") as bench:
        code, _, said = bench.ended()
    assert (code, complaint in said, len(said.splitlines())) == (2, True, 1)
