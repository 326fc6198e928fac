"""What the command `doctor` checks of PostgreSQL, the connection to it, and this machine."""

import select
import time
import uuid
from collections.abc import Iterator

from psycopg2.extensions import parse_dsn

from changefeed.postgres.named_queries import load_queries
from commands.examined import OWN_CONNECTIONS, ExaminedDatabase, Finding, Level
from process.open_files import raise_limit
from settings.table import is_loopback

QUERIES = load_queries("doctor.sql")
OLDEST_VERSION = 140000
CANARY_DEADLINE_SECONDS = 4.0
LONG_TRANSACTION_SECONDS = 300.0
QUEUE_WARNING, QUEUE_PROBLEM = 0.05, 0.5  # of 1
OTHER_FILES = 100  # that a process has open besides its clients' sockets


def check_version(examined: ExaminedDatabase) -> Iterator[Finding]:
    if examined.version < OLDEST_VERSION:
        yield Finding(Level.PROBLEM, "version", f"PostgreSQL {examined.version_text}; version 14 or newer is required")
    else:
        yield Finding(Level.OK, "version", f"PostgreSQL {examined.version_text}")


def check_pooler(examined: ExaminedDatabase) -> Iterator[Finding]:
    """Detects a pooler by its own process ids; one that pools transactions loses the LISTEN."""
    if examined.is_standby:
        return
    [pid] = examined.row(QUERIES["backend"])
    is_pooled = pid != examined.connection.info.backend_pid
    if not _receives(examined):
        says = "LISTEN is accepted, but no notification arrives: there is a transaction pooler in between"
        yield Finding(
            Level.PROBLEM,
            "pooler",
            says,
            advice="point --database-url at PostgreSQL itself, or at a pool with pool_mode=session",
        )
    elif is_pooled:
        says = "there is a pooler in between, which passes notifications now; it must keep pool_mode=session"
        yield Finding(Level.WARNING, "pooler", says, advice="point --database-url at PostgreSQL itself")
    else:
        yield Finding(Level.OK, "pooler", "none in between; a notification arrives")


def _receives(examined: ExaminedDatabase) -> bool:
    """Whether a session that listens receives a notification of another one."""
    channel = f"changefeed_doctor_{uuid.uuid4().hex}"
    listening = examined.connect()
    try:
        with listening.cursor() as db_cursor:
            db_cursor.execute(f"LISTEN {channel}")
        examined.rows("SELECT pg_notify(%(channel)s, '')", channel=channel)
        deadline = time.monotonic() + CANARY_DEADLINE_SECONDS
        while not listening.notifies and (left := deadline - time.monotonic()) > 0:
            select.select([listening], [], [], left)
            listening.poll()
        return bool(listening.notifies)
    finally:
        listening.close()


# Settings that the server cannot override for itself, or that affect other sessions: consequence and fix.
_CONSEQUENCES = {
    "transaction_timeout": ("it ends longer reads by the server", "RESET transaction_timeout"),
    "event_triggers": ("new partitions are not watched at once", "RESET event_triggers"),
    "default_transaction_read_only": (
        "the server can write all the same, but others cannot call changefeed.retain",
        "RESET default_transaction_read_only",
    ),
}


def check_settings(examined: ExaminedDatabase) -> Iterator[Finding]:
    found = examined.rows(QUERIES["settings"])
    harmless = []
    for entry, whom in found:
        name = entry.split("=")[0]
        if name in _CONSEQUENCES and not entry.endswith(("=0", "=off" if name != "event_triggers" else "=on")):
            what, fix = _CONSEQUENCES[name]
            yield Finding(Level.WARNING, "settings", f"{entry} for {whom}: {what}", f"ALTER {whom} {fix};")
        else:
            harmless.append(f"{entry} for {whom}")
    if len(harmless) == len(found):
        told = f"{', '.join(harmless)}: the server overrides them" if harmless else "none interferes"
        yield Finding(Level.OK, "settings", told)


def check_queue(examined: ExaminedDatabase) -> Iterator[Finding]:
    [usage] = examined.row(QUERIES["notification queue"])
    says = f"PostgreSQL's queue of notifications is {usage:.0%} full"
    if usage < QUEUE_WARNING:
        yield Finding(Level.OK, "queue", says)
        return
    oldest = examined.rows(QUERIES["oldest transaction"])
    fix = f"SELECT pg_terminate_backend({oldest[0][1]});" if oldest else ""
    advice = "" if oldest else "end the sessions that LISTEN and are busy"
    level = Level.WARNING if usage < QUEUE_PROBLEM else Level.PROBLEM
    yield Finding(
        level, "queue", f"{says}, and at 100% writers fail: a session with LISTEN is in a transaction", fix, advice
    )


def check_transactions(examined: ExaminedDatabase) -> Iterator[Finding]:
    """Old transactions delay retention, and VACUUM everywhere."""
    found = False
    for age_seconds, pid, user, state in examined.rows(QUERIES["oldest transaction"]):
        if found := age_seconds > LONG_TRANSACTION_SECONDS:
            says = f"the oldest is {age_seconds:.0f} s old: session {pid} of {user}, {state}"
            yield Finding(Level.WARNING, "transactions", says, f"SELECT pg_terminate_backend({pid});")
    for age_seconds, name in examined.rows(QUERIES["oldest prepared transaction"]):
        if age_seconds > LONG_TRANSACTION_SECONDS:
            found = True
            says = (
                f"{name} was prepared {age_seconds:.0f} s ago, and holds its locks until it is committed or rolled back"
            )
            yield Finding(Level.WARNING, "transactions", says, f"ROLLBACK PREPARED {name};")
    [sees_all] = examined.row(QUERIES["sees all sessions"])
    if not sees_all:
        says = f"{examined.role} can see only its own"
        yield Finding(Level.WARNING, "transactions", says, f"GRANT pg_read_all_stats TO {examined.role};")
    elif not found:
        yield Finding(Level.OK, "transactions", f"none is older than {LONG_TRANSACTION_SECONDS:.0f} s")


def check_replica(examined: ExaminedDatabase) -> Iterator[Finding]:
    if examined.is_standby:
        says = "this is a standby, which allows no LISTEN"
        yield Finding(Level.PROBLEM, "replica", says, advice="point --database-url at the primary")
        return
    found = False
    for role, database in examined.rows(QUERIES["replica roles"]):
        found = True
        whom = f"ROLE {role}" + (f" IN DATABASE {database}" if database else "")
        fix = f"ALTER DATABASE {database}" if role == "ALL" else f"ALTER {whom}"
        says = "session_replication_role is replica, so no trigger fires"
        yield Finding(Level.PROBLEM, "replica", f"{whom}: {says}", f"{fix} RESET session_replication_role;")
    [replication_role] = examined.row(QUERIES["replication role"])
    if replication_role == "replica" and not found:
        says = "session_replication_role is replica for all sessions, so no trigger fires"
        fix = "ALTER SYSTEM RESET session_replication_role; SELECT pg_reload_conf();"
        yield Finding(Level.PROBLEM, "replica", says, fix)
    elif not found:
        yield Finding(Level.OK, "replica", "this is a primary, where triggers fire")


def check_encryption(examined: ExaminedDatabase) -> Iterator[Finding]:
    told = parse_dsn(examined.conninfo)
    mode = told.get("sslmode", "prefer")
    host = examined.connection.info.host or ""
    yield encryption(host, bool(examined.connection.info.ssl_in_use), mode)


def encryption(host: str, is_encrypted: bool, mode: str) -> Finding:
    if host.startswith(("/", "@")) or not host:
        return Finding(Level.OK, "TLS", "not needed on a Unix socket")
    if is_loopback(host):
        return Finding(Level.OK, "TLS", "not needed within this machine")
    advice = "add sslmode=verify-full, and sslrootcert, to --database-url"
    if not is_encrypted:
        return Finding(Level.WARNING, "TLS", f"rows and the password are sent to {host} unencrypted", advice=advice)
    if mode not in ("verify-ca", "verify-full"):
        return Finding(
            Level.WARNING, "TLS", f"encrypted, but sslmode={mode} does not verify that it is {host}", advice=advice
        )
    return Finding(Level.OK, "TLS", f"encrypted, and {host} is verified")


def check_files(examined: ExaminedDatabase) -> Iterator[Finding]:
    files, clients = raise_limit(), examined.settings.client_limit
    if files < clients + OTHER_FILES:
        says = f"a process may open {files:.0f} files, too few for --client-limit {clients}"
        yield Finding(Level.WARNING, "ulimit", says, f"ulimit -n {clients + OTHER_FILES}")
    else:
        yield Finding(Level.OK, "ulimit", f"a process may open {files:.0f} files, for --client-limit {clients}")


def check_connections(examined: ExaminedDatabase) -> Iterator[Finding]:
    settings = examined.settings
    needed = settings.connections + OWN_CONNECTIONS
    says = (
        f"the server has up to {settings.connections}: --processes {settings.processes}, --rows-readings "
        f"{settings.rows_readings}; and this examination {OWN_CONNECTIONS} more"
    )
    is_enough = True
    for limit, what, fix in examined.rows(QUERIES["connection limits"], needed=needed):
        if limit < needed:
            is_enough = False
            yield Finding(Level.WARNING, "connections", f"{says}; {what} allows {limit}", fix)
    if is_enough:
        yield Finding(Level.OK, "connections", says)
