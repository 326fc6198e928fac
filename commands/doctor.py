"""The command `doctor`: examines the database and this machine for what keeps the change feed from working well.

It prints one line for each finding, with the command that fixes it. It changes nothing.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator

import psycopg2

from changefeed.postgres.connection import complete, display_name
from changefeed.postgres.embedded import EmbeddedPostgres, default_data_dir
from changefeed.postgres.pool import one_line
from changefeed.printable import printable
from commands import journal_checks, server_checks
from commands.examined import ExaminedDatabase, Finding, Level
from settings.table import Settings

DESCRIPTION = (
    "Examines the database that the settings name, and prints each problem with its fix: SQL, a command, a "
    "setting or advice. Changes nothing. Exits with 0 if it finds no problem, 1 if it finds one, 2 if it cannot reach "
    "the database."
)

CHECKS: dict[str, Callable[[ExaminedDatabase], Iterator[Finding]]] = {
    "version": server_checks.check_version,
    "rights": journal_checks.check_rights,
    "locks": journal_checks.check_locks,
    "schema": journal_checks.check_schema,
    "pooler": server_checks.check_pooler,
    "triggers": journal_checks.check_triggers,
    "policies": journal_checks.check_row_security,
    "tables": journal_checks.check_tables,
    "rows": journal_checks.check_rows,
    "publications": journal_checks.check_publications,
    "settings": server_checks.check_settings,
    "queue": server_checks.check_queue,
    "transactions": server_checks.check_transactions,
    "replica": server_checks.check_replica,
    "TLS": server_checks.check_encryption,
    "ulimit": server_checks.check_files,
    "connections": server_checks.check_connections,
    "journal": journal_checks.check_journal,
    "wake-up": journal_checks.check_wakeup,
    "lease": journal_checks.check_lease,
}


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
