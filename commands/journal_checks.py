"""What the command `doctor` checks of the schema changefeed, its journal, and the tables that it watches."""

import shlex
import time
from collections.abc import Iterator

import psycopg2

from changefeed.change.table_names import parse_pattern, qualified
from changefeed.journal.installation import parts, some_of
from changefeed.journal.journal import VERSION
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import one_line
from commands.examined import LOCK_DEADLINE_MS, ExaminedDatabase, Finding, Level

QUERIES = load_queries("doctor.sql")
SERVER_QUERIES = load_queries("server.sql")
LONGEST_LEASE_MS = 2_000  # one that ends later is not valid; see sql/journal.sql
INSTALL = 'psql -f sql/install.sql "$DATABASE_URL"'


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
            f"{role} may not read the journal; {owner} can grant it, also again after a reinstall",
            grants_command(examined),
        )
        return
    if not examined.may_maintain:
        says = f"{role} may read the journal but not maintain it (retention, new partitions): {owner} owns it"
        yield Finding(Level.WARNING, "rights", says, grants_command(examined))
    else:
        yield Finding(Level.OK, "rights", f"{role} may read and maintain the journal")
    for other, fix in examined.rows(QUERIES["who may write"]):
        yield Finding(Level.PROBLEM, "rights", f"{other} could write anything into the journal", fix)


def check_locks(examined: ExaminedDatabase) -> Iterator[Finding]:
    """Finds who keeps the server from reading: locks that are there at two moments, since retention's are short."""
    if not examined.is_installed:
        return
    if found := examined.rows(QUERIES["locks"]):
        time.sleep(LOCK_DEADLINE_MS / 1000)
        before = {who for who, *_ in found}
        found = [row for row in examined.rows(QUERIES["locks"]) if row[0] in before]
    for who, fix, relations, is_held, waits_for, age_seconds in found:
        age = "" if age_seconds is None else f", in a transaction that is {age_seconds:.0f} s old"
        if is_held:
            says = f"{who} locks {relations} of the schema changefeed{age}: the server cannot read"
        else:
            pids = ", ".join(map(str, waits_for))
            says = f"{who} waits for {pids} to lock {relations} of the schema changefeed{age}: readers wait behind it"
        yield Finding(Level.PROBLEM, "locks", f"{says} until it ends", fix)
    if not found:
        yield Finding(Level.OK, "locks", "no session keeps the server from reading")


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


def grants_command(examined: ExaminedDatabase, *, rows: bool = False) -> str:
    """The command for the schema's owner that grants (a) of docs/least-rights.md; (b) with --watch; (d) for `rows`."""
    asked = {"role": examined.role_name}
    if examined.settings.watch:
        asked["watch"] = "yes"
    if rows:
        asked["rows"] = "yes"
    flags = " ".join(f"-v {shlex.quote(f'{name}={value}')}" for name, value in asked.items())
    return f'psql {flags} -f sql/grants.sql "$OWNER_URL"'


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
    deferrable = examined.rows(QUERIES["tables with deferrable keys"])
    for (table,) in deferrable:
        says = f"{table} has a deferrable primary key: who keeps its rows by key may lack one (docs/database.md)"
        yield Finding(Level.WARNING, "tables", says, advice="make the constraint NOT DEFERRABLE")
    if not found and not deferrable:
        yield Finding(Level.OK, "tables", "no watched table is unlogged or written by a subscription")


def check_rows(examined: ExaminedDatabase) -> Iterator[Finding]:
    """Without these rights there are no rows, but all changes: so none of this is a problem."""
    if not examined.may_read:
        return
    for (role,) in examined.rows(SERVER_QUERIES["missing roles"], roles=list(examined.settings.trust_owner)):
        says = f"--trust-owner {role}: there is no such role, so no table is read for it"
        yield Finding(Level.WARNING, "rows", says, advice="correct the name")
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
    if not may_call:
        advice = f"then, as the tables' owner: {' '.join(lacking)}" if lacking else ""
        yield Finding(Level.OK, "rows", says, grants_command(examined, rows=True), advice)
        return
    advice = f"{refused[0]}: see docs/least-rights.md, (d)" if refused else ""
    yield Finding(Level.OK, "rows", says, " ".join(lacking), advice)


def check_publications(examined: ExaminedDatabase) -> Iterator[Finding]:
    found = examined.rows(QUERIES["publications"])
    for (publication,) in found:
        says = f"{publication} also publishes the journal, so that its subscribers get each change twice"
        yield Finding(
            Level.WARNING, "publications", says, advice="name the tables, or their schemas, in the publication"
        )
    if not found:
        yield Finding(Level.OK, "publications", "none contains the journal")


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
            "max_prepared_transactions is above 0, so no NOTIFY is sent and changes come up to 2 s late; if "
            "no prepared transaction writes watched tables, it can be turned on"
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
