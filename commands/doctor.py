"""The command `doctor`: examines the database and this machine for what keeps the change feed from working well.

It prints one line for each finding, with the command that fixes it. It changes nothing.
"""

import contextlib
import select
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT, connection, make_dsn, parse_dsn

from changefeed.change.table_names import parse_pattern, qualified
from changefeed.journal.installation import parts, some_of
from changefeed.journal.journal import VERSION
from changefeed.postgres.connection import (
    IN_RECOVERY,
    OPTIONS_REFUSED,
    complete,
    display_name,
    local_settings,
    without_session_options,
)
from changefeed.postgres.embedded import EmbeddedPostgres, default_data_dir
from changefeed.postgres.legible import fetched, is_illegible, rows_of, showing
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import one_line
from changefeed.printable import printable, sql_printable
from process.open_files import raise_limit
from settings.table import Settings, is_loopback

QUERIES = load_queries("doctor.sql")
SERVER_QUERIES = load_queries("server.sql")
OLDEST_VERSION = 140000
CONNECT_DEADLINE_SECONDS = 10
QUERY_DEADLINE_MS = 10_000
CANARY_DEADLINE_SECONDS = 4.0
LONG_TRANSACTION_SECONDS = 300.0
QUEUE_WARNING, QUEUE_PROBLEM = 0.05, 0.5  # of 1
LONGEST_LEASE_MS = 2_000  # one that ends later is not valid; see sql/journal.sql
OTHER_FILES = 100  # that a process has open besides its clients' sockets
INSTALL = 'psql -f sql/install.sql "$DATABASE_URL"'


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """`fix` is SQL (ending in a semicolon), a command or a setting; `advice` is for findings that have none."""

    level: Level
    about: str
    says: str
    fix: str = ""
    advice: str = ""

    def __str__(self) -> str:
        fix = f"; fix: {sql_printable(self.fix)}" if self.fix else ""
        advice = f"; what to do: {printable(self.advice)}" if self.advice else ""
        return f"{self.level:<7}  {self.about}: {printable(self.says)}{fix}{advice}"


class ExaminedDatabase:
    """The examined database, over a connection of its own, and the settings to use it with."""

    def __init__(self, conninfo: str, settings: Settings) -> None:
        self.conninfo = str(make_dsn(complete(conninfo), connect_timeout=CONNECT_DEADLINE_SECONDS))
        self.settings = settings
        self.before_each = ""
        self.connection = self.connect()
        (
            self.version,
            self.version_text,
            self.is_standby,
            self.prepared_limit,
            self.notify,
            self.role,
            self.database,
        ) = self.row(QUERIES["server"])
        is_installed, self.may_install = self.row(QUERIES["installation"])
        # Other roles whose code would run here with this role's rights.
        self.distrusted = [owner for (owner,) in self.rows(SERVER_QUERIES["distrusted owner"])]
        is_installed = is_installed and not self.distrusted
        self.may_read, self.may_maintain, self.owner = (
            self.row(QUERIES["rights"]) if is_installed else (False, False, "")
        )
        self.is_installed = bool(is_installed)

    def connect(self) -> connection:
        try:
            made: connection = psycopg2.connect(self.conninfo)
        except psycopg2.OperationalError as error:
            if IN_RECOVERY in str(error):  # reported as a finding
                self.conninfo = str(make_dsn(self.conninfo, target_session_attrs="any"))
                return self.connect()
            if OPTIONS_REFUSED not in str(error):
                raise
            # A pooler hands its sessions to others at any moment, so each statement sets what it needs.
            self.conninfo = without_session_options(self.conninfo)
            made = psycopg2.connect(self.conninfo)
            self.before_each = local_settings(made)
        made.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        return made

    def rows(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as db_cursor:
            before = f"{self.before_each}SET LOCAL statement_timeout = {QUERY_DEADLINE_MS}; "
            try:
                db_cursor.execute(before + query, parameters or None)
                return fetched(db_cursor)
            except psycopg2.Error as error:
                if not is_illegible(error):
                    raise
            whole = db_cursor.mogrify(query, parameters or None).decode()
            db_cursor.execute(before + showing(whole))
            [(answer,)] = db_cursor.fetchall()
            return rows_of(answer, str(self.connection.info.parameter_status("server_encoding")))

    def row(self, query: str) -> tuple[Any, ...]:
        [row] = self.rows(query)
        return row


DESCRIPTION = (
    "Examines the database that the settings name, and prints each problem with its fix: SQL, a command, a "
    "setting or advice. Changes nothing. Exits with 0 if it finds no problem, 1 if it finds one, 2 if it cannot reach "
    "the database."
)


def main(settings: Settings) -> int:
    """Prints the findings. Returns the exit code, as DESCRIPTION says."""
    conninfo = settings.database_url or EmbeddedPostgres(settings.data_dir or default_data_dir()).conninfo
    try:
        examined = ExaminedDatabase(conninfo, settings)
    except psycopg2.Error as error:
        where = display_name(complete(conninfo))
        advice = "correct --database-url" if settings.database_url else "name a database with --database-url"
        print(f"server.py doctor: cannot look at {printable(f'{where}: {one_line(error)}')}; {advice}", file=sys.stderr)
        return 2
    with contextlib.closing(examined.connection):
        findings = list(examine(examined))
    for finding in findings:
        print(finding)
    return int(any(finding.level is Level.PROBLEM for finding in findings))


def examine(examined: ExaminedDatabase) -> Iterator[Finding]:
    """Yields every finding, the good ones too."""
    for about, check in CHECKS.items():
        try:
            yield from check(examined)
        except psycopg2.Error as error:
            yield Finding(Level.WARNING, about, f"could not be examined: {one_line(error)}")


def check_version(examined: ExaminedDatabase) -> Iterator[Finding]:
    if examined.version < OLDEST_VERSION:
        yield Finding(Level.PROBLEM, "version", f"PostgreSQL {examined.version_text}; version 14 or newer is required")
    else:
        yield Finding(Level.OK, "version", f"PostgreSQL {examined.version_text}")


def check_rights(examined: ExaminedDatabase) -> Iterator[Finding]:
    role, owner = examined.role, examined.owner
    for trigger, other in examined.rows(QUERIES["borrowed event triggers"]):
        says = f"the event trigger {trigger} runs, in all sessions, a function that {other} may replace"
        yield Finding(Level.PROBLEM, "rights", says, f"DROP EVENT TRIGGER {trigger};")
    if examined.distrusted:
        says = f"part of the schema changefeed belongs to {examined.distrusted[0]}, whose code would run as {role}"
        advice = (
            "connect as the schema's owner or as a role of docs/least-rights.md; if another role owns it, rename it"
        )
        yield Finding(Level.PROBLEM, "rights", says, advice=advice)
        return
    if not examined.is_installed:
        who = (
            "this role can install it"
            if examined.may_install
            else f"{role} may not install it, the database's owner may"
        )
        yield Finding(Level.WARNING, "rights", f"the schema changefeed is missing; {who}", INSTALL)
        return
    if not examined.may_read:
        yield Finding(
            Level.PROBLEM,
            "rights",
            f"{role} may not read the journal",
            grants(QUERIES["what reads"], role),
        )
        return
    if not examined.may_maintain:
        says = f"{role} may read the journal but not maintain it (retention, new partitions): {owner} owns it"
        yield Finding(Level.WARNING, "rights", says, grants(QUERIES["what tends"], role))
    else:
        yield Finding(Level.OK, "rights", f"{role} may read and maintain the journal")
    for other, fix in examined.rows(QUERIES["who may write"]):
        yield Finding(Level.PROBLEM, "rights", f"{other} could write anything into the journal", fix)


def check_schema(examined: ExaminedDatabase) -> Iterator[Finding]:
    if not examined.may_read:
        return
    version, readable_from = examined.row(QUERIES["version"])
    says = f"the schema changefeed has version {version}, this server has {VERSION}"
    if version < VERSION:
        says += "; once no older server is left, upgrade it: docs/upgrading.md"
        yield Finding(Level.WARNING, "schema", says, INSTALL)
    elif readable_from > VERSION:
        yield Finding(Level.PROBLEM, "schema", f"{says} and cannot read it: use the newer server")
    elif version == VERSION and (
        differing := [part for (part,) in examined.rows(SERVER_QUERIES["schema differs"], **parts())]
    ):
        says = f"the schema changefeed has version {version}, but an earlier state of it ({some_of(differing)})"
        yield Finding(Level.PROBLEM, "schema", says, INSTALL)
    else:
        yield Finding(Level.OK, "schema", says)


def grants(script: str, role: str) -> str:
    """The GRANT statements for this role, on one line; those of docs/least-rights.md."""
    statements = [line for line in script.splitlines() if not line.startswith("--")]
    return " ".join(" ".join(statements).split()).replace("changefeed_server", role)


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


def check_triggers(examined: ExaminedDatabase) -> Iterator[Finding]:
    for pattern in examined.settings.watch:
        named = [
            row
            for one in parse_pattern(pattern).possible
            if one.schema
            for row in examined.rows(QUERIES["named tables"], schema=one.schema, table=one.table)
        ]
        if not named and not pattern.endswith(".*"):
            says = f"--watch {pattern} matches no table"
            yield Finding(Level.PROBLEM, "triggers", says, advice="create the table, or write schema.table as in SQL")
        for schema, table, is_watched in named:
            if not is_watched and examined.may_read:
                says = f"{qualified(schema, table)} is not watched, though --watch {pattern} matches it"
                yield Finding(Level.WARNING, "triggers", says, advice="see the server's log for the reason")
    if not examined.may_read:
        return
    watched = examined.rows(QUERIES["triggers"])
    disabled = examined.rows(QUERIES["disabled triggers"])
    version, _ = examined.row(QUERIES["version"])
    gone = examined.rows(SERVER_QUERIES["gone columns"]) if version >= VERSION else []
    for schema, bare, column, is_replaced in gone:
        table = qualified(schema, bare)
        says = f"{table} has no column {column} any more, which watch() omits or hashes: no change is recorded"
        if is_replaced:
            says = f"{column} of {table} is not the column that watch() omits or hashes: no change is recorded"
        advice = f"call changefeed.watch for {table} again, with the column's present name"
        yield Finding(Level.PROBLEM, "triggers", says, advice=advice)
    for table, trigger, _ in disabled:
        fix = f"ALTER TABLE {table} ENABLE TRIGGER {trigger};"
        yield Finding(Level.PROBLEM, "triggers", f"{trigger} of {table} is disabled: changes are missed", fix)
    told = {watched_table for _, _, watched_table in disabled}
    for table, is_complete in watched:
        if not is_complete and table not in told:
            says = f"some triggers of {table} are missing or altered: changes are missed"
            yield Finding(Level.PROBLEM, "triggers", says, "SELECT changefeed.refresh();")
    if not watched:
        fix = "SELECT changefeed.watch('schema.table');"
        yield Finding(Level.WARNING, "triggers", "no table is watched", fix)
    elif not disabled and not gone and all(is_complete for _, is_complete in watched):
        says = (
            "1 table is watched, with all its"
            if len(watched) == 1
            else f"{len(watched)} tables are watched, with all their"
        )
        yield Finding(Level.OK, "triggers", f"{says} triggers")


def check_row_security(examined: ExaminedDatabase) -> Iterator[Finding]:
    if not examined.may_read:
        return
    found = examined.rows(QUERIES["tables with row security"])
    for (table,) in found:
        says = f"{table} has row-level security, which the feed does not apply: clients of the table get all its rows"
        yield Finding(Level.WARNING, "policies", says, advice="give each token a filter for it, or unwatch the table")
    if not found:
        yield Finding(Level.OK, "policies", "no watched table has row-level security, which the feed would not apply")


def check_tables(examined: ExaminedDatabase) -> Iterator[Finding]:
    if not examined.may_read:
        return
    found = examined.rows(QUERIES["tables that lose rows untold"])
    for table, is_unlogged, fix in found:
        if is_unlogged:
            says = f"{table} is unlogged: PostgreSQL empties it after a crash, without a change in the feed"
            yield Finding(Level.WARNING, "tables", says, f"ALTER TABLE {table} SET LOGGED;")
        else:
            says = f"{table} is written by a subscription, whose changes fire no ordinary trigger and are missed"
            yield Finding(Level.WARNING, "tables", says, fix)
    if not found:
        yield Finding(Level.OK, "tables", "no watched table is unlogged or written by a subscription")


def check_rows(examined: ExaminedDatabase) -> Iterator[Finding]:
    """Without these rights there are no rows, but all changes: so none of this is a problem."""
    if not examined.may_read:
        return
    version, _ = examined.row(QUERIES["version"])
    if version < VERSION:
        says = f"a schema of version {version} gives no rows, for /api/rows and rows=true"
        yield Finding(Level.WARNING, "rows", says, INSTALL)
        return
    watched = examined.rows(QUERIES["rows"])
    may_call = all(may_call for may_call, *_ in watched)
    lacking = [missing for *_, missing in watched if missing]
    refused = []
    for _, table, missing in watched if may_call else ():
        try:
            examined.rows(QUERIES["rows source"], target=table, trusted=list(examined.settings.trust_owner))
        except psycopg2.Error as error:
            if not missing:
                refused.append(one_line(error))
    readable = len(watched) - len(lacking) - len(refused) if may_call else 0
    says = f"of {len(watched)} watched tables the rows of {readable} can be read, for /api/rows and rows=true"
    calls = [] if may_call else [grants(QUERIES["what reads rows"], examined.role)]
    advice = f"{refused[0]}: see docs/least-rights.md, (d)" if refused else ""
    yield Finding(Level.OK, "rows", says, " ".join([*calls, *lacking]), advice)


def check_publications(examined: ExaminedDatabase) -> Iterator[Finding]:
    found = examined.rows(QUERIES["publications"])
    for (publication,) in found:
        says = f"{publication} also publishes the journal, so that its subscribers get each change twice"
        yield Finding(
            Level.WARNING, "publications", says, advice="name the tables, or their schemas, in the publication"
        )
    if not found:
        yield Finding(Level.OK, "publications", "none contains the journal")


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
    [sees_everybody] = examined.row(QUERIES["sees everybody"])
    if not sees_everybody:
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


def check_journal(examined: ExaminedDatabase) -> Iterator[Finding]:
    if not examined.may_read:
        return
    size, age_seconds, losses = examined.row(QUERIES["journal"])
    settings, hours = examined.settings, (age_seconds or 0.0) / 3600
    says = f"{size / 1e6:.1f} MB, back to {hours:.1f} h ago"
    if losses:
        lost = f"{losses} statements could not be recorded; PostgreSQL's log says why"
        yield Finding(Level.WARNING, "journal", lost, advice="look for changefeed in PostgreSQL's log")
    if size > 1.5 * settings.retention_bytes or hours > 1.5 * settings.retention_hours:
        seconds = settings.retention_hours * 3600
        fix = f"SELECT changefeed.retain(make_interval(secs => {seconds:g}), {settings.retention_bytes});"
        yield Finding(Level.PROBLEM, "journal", f"{says}: beyond its retention, which no server enforces", fix)
    elif size > 0.8 * settings.retention_bytes and hours < 0.5 * settings.retention_hours:
        fix = f"--retention-bytes {2 * settings.retention_bytes}"
        yield Finding(Level.WARNING, "journal", f"{says}: full long before --retention-hours", fix)
    else:
        yield Finding(Level.OK, "journal", says)


def check_wakeup(examined: ExaminedDatabase) -> Iterator[Finding]:
    if examined.prepared_limit and examined.notify != "on":
        says = (
            "max_prepared_transactions is above 0, so no NOTIFY is sent and changes come up to 2 s late; if nobody "
            "prepares transactions that write watched tables, it can be turned on"
        )
        fix = f"ALTER DATABASE {examined.database} SET changefeed.notify = 'on';"
        yield Finding(Level.WARNING, "wake-up", says, fix)
    elif not examined.prepared_limit and examined.notify not in ("", "on"):
        fix = f"ALTER DATABASE {examined.database} RESET changefeed.notify;"
        yield Finding(Level.WARNING, "wake-up", "changefeed.notify is off, so changes come up to 2 s late", fix)
    else:
        yield Finding(Level.OK, "wake-up", "a NOTIFY announces each change at once")


def check_lease(examined: ExaminedDatabase) -> Iterator[Finding]:
    if not examined.may_read:
        return
    is_switched_on, left_ms = examined.row(QUERIES["lease"])
    if not is_switched_on:
        says = "changefeed.lease is off, so commits wait for each other however often changes come"
        yield Finding(Level.WARNING, "lease", says, f"ALTER DATABASE {examined.database} RESET changefeed.lease;")
    elif 0 <= left_ms <= LONGEST_LEASE_MS:
        yield Finding(
            Level.OK, "lease", "one holds: changes come often, so a server reads anyway and no NOTIFY is sent"
        )
    else:
        yield Finding(Level.OK, "lease", "none holds now, so each commit sends a NOTIFY")


CHECKS: dict[str, Callable[[ExaminedDatabase], Iterator[Finding]]] = {
    "version": check_version,
    "rights": check_rights,
    "schema": check_schema,
    "pooler": check_pooler,
    "triggers": check_triggers,
    "policies": check_row_security,
    "tables": check_tables,
    "rows": check_rows,
    "publications": check_publications,
    "settings": check_settings,
    "queue": check_queue,
    "transactions": check_transactions,
    "replica": check_replica,
    "TLS": check_encryption,
    "ulimit": check_files,
    "journal": check_journal,
    "wake-up": check_wakeup,
    "lease": check_lease,
}
