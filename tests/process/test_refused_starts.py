"""A refused start prints one line that says what to do, exits with code 2, and leaves nothing behind."""

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from changefeed.postgres.named_queries import read_script
from tests import leftovers, postgres
from tests.server_process import ServerProcess


@pytest.fixture
def folder() -> Iterator[Path]:
    with leftovers.folder() as made:
        yield made


def refusal(folder: Path, *flags: str, **environ: str) -> str:
    """The one line that is said."""
    with ServerProcess(folder, *flags, **environ) as server:
        code, out, said = server.ended()
    assert (code, out) == (2, ""), said
    assert re.fullmatch(r"server\.py: .+\n", said), said
    assert "hunter2" not in said
    return said


def test_an_unknown_flag(folder: Path):
    said = refusal(folder, "--databse-url", "postgresql://me:hunter2@db.example.com/shop")
    assert "--databse-url is not a setting; did you mean --database-url?" in said


def test_a_malformed_database_url(folder: Path):
    said = refusal(folder, DATABASE_URL="postgresql//me:hunter2@db.example.com/shop")
    assert said.startswith(
        "server.py: DATABASE_URL: the value given is not postgresql://user:password@host:5432/dbname"
    )


def test_a_slip_in_the_file_of_the_folder_it_is_started_in(folder: Path):
    (folder / ".env").write_text("DATABSE_URL=postgresql://me:hunter2@db.example.com/shop\n")
    assert ".env: DATABSE_URL is not a setting; did you mean DATABASE_URL?" in refusal(folder)


def test_an_address_beyond_loopback(folder: Path):
    assert "add --allow-anonymous" in refusal(folder, "--address", "0.0.0.0")


def test_a_port_in_use(folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(folder, "--port", str(port))
    assert f"127.0.0.1:{port} is in use; stop what listens there, or choose another --port" in said


@pytest.mark.parametrize("address", ["192.0.2.1", ".."])
def test_an_address_that_is_not_this_machines(address: str, folder: Path):
    said = refusal(folder, "--address", address, "--port", "0", "--allow-anonymous")
    assert address in said
    assert "choose another --address" in said


def test_a_data_folder_with_other_files(folder: Path):
    (folder / "letter.txt").touch()
    said = refusal(folder, "--port", "0", "--data-dir", str(folder))
    assert f"{folder} holds other files; choose an empty folder with --data-dir" in said
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]


# -- the database says no


@contextlib.contextmanager
def role(attributes: str = "", hba_line: str = "") -> Iterator[str]:
    """The conninfo of a role of its own in a database of its own; `hba_line` says how it has to prove itself."""
    conninfo = postgres.new_database()
    name = parse_dsn(conninfo)["dbname"]
    hba = postgres.cluster()._cluster / "pg_hba.conf"
    before = hba.read_text()
    postgres.execute(conninfo, f"CREATE ROLE {name} LOGIN {attributes}")
    try:
        hba.write_text(f"local all {name} {hba_line}\n{before}" if hba_line else before)
        reload_settings()
        yield str(make_dsn(conninfo, user=name))
    finally:
        hba.write_text(before)
        reload_settings()
        postgres.execute(conninfo, f"DROP ROLE {name}")


def reload_settings() -> None:
    conninfo = postgres.cluster().conninfo
    [(before, _)] = postgres.execute(conninfo, "SELECT pg_conf_load_time(), pg_reload_conf()")
    while postgres.execute(conninfo, "SELECT pg_conf_load_time()") == [(before,)]:
        pass


@pytest.mark.parametrize(
    ("password", "reason"),
    [({"password": "hunter2"}, "password authentication failed"), ({}, "no password supplied")],
    ids=["wrong", "none"],
)
def test_a_wrong_password(password: dict[str, str], reason: str, folder: Path):
    with role("PASSWORD 'right'", hba_line="scram-sha-256") as conninfo:
        said = refusal(folder, "--port", "0", DATABASE_URL=str(make_dsn(conninfo, **password)))
    assert reason in said
    assert "; correct --database-url (user, password, database name)" in said


def test_a_database_that_is_missing(folder: Path):
    conninfo = make_dsn(postgres.cluster().conninfo, dbname="no_such_database")
    said = refusal(folder, "--port", "0", "--database-url", conninfo)
    assert said.startswith("server.py: cannot use the database no_such_database@")
    assert 'database "no_such_database" does not exist; correct --database-url' in said


def test_a_role_that_may_not_connect(folder: Path):
    with role() as conninfo:
        name = parse_dsn(conninfo)["dbname"]
        postgres.execute(postgres.cluster().conninfo, f"REVOKE CONNECT ON DATABASE {name} FROM public")
        said = refusal(folder, "--port", "0", "--database-url", conninfo)
    assert f'permission denied for database "{name}"' in said


def test_a_database_that_does_not_answer_in_the_time_it_is_given(folder: Path):
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))  # and does not listen
        url = f"postgresql://me:hunter2@127.0.0.1:{refusing.getsockname()[1]}/shop"
        said = refusal(folder, "--port", "0", "--database-url", url, "--database-wait-seconds", "0")
    assert "Connection refused" in said
    assert "is PostgreSQL running" in said
    assert "or wait longer with --database-wait-seconds" in said


def test_a_standby(folder: Path):
    standby = postgres.start()
    try:
        standby.stop()
        (standby._cluster / "standby.signal").touch()
        standby.start()
        said = refusal(folder, "--port", "0", "--database-url", standby.conninfo, "--database-wait-seconds", "0")
    finally:
        postgres.discard(standby)
    assert "it is a standby: name its primary in --database-url" in said


@pytest.mark.parametrize("flags", [(), ("--watch", "public.*"), ("--payload", "keys")])
@pytest.mark.parametrize(
    "lacking",
    [
        "SELECT",  # nothing was granted
        "GRANT USAGE ON SCHEMA changefeed TO {role}",
        "GRANT USAGE ON SCHEMA changefeed TO {role}; GRANT SELECT ON changefeed.meta TO {role}; "
        "ALTER TABLE changefeed.meta DROP COLUMN version",
    ],
)
def test_a_role_without_the_rights(folder: Path, lacking: str, flags: tuple[str, ...]):
    conninfo = postgres.new_database()
    role = f"weak_{parse_dsn(conninfo)['dbname']}"
    postgres.execute(conninfo, f"CREATE TABLE orders (id int); CREATE ROLE {role} LOGIN")
    postgres.execute(conninfo, read_script("install.sql"))
    postgres.execute(conninfo, lacking.format(role=role))
    with ServerProcess(folder, "--port", "0", *flags, DATABASE_URL=str(make_dsn(conninfo, user=role))) as server:
        code, _, said = server.ended()
    *logged, why = said.splitlines()
    assert (code, [line for line in logged if " INFO " not in line]) == (2, []), said
    assert re.match(r"server\.py: the database .* refuses: .*; run server\.py doctor, .*docs/least-rights\.md", why), (
        said
    )
