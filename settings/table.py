"""The table of all settings: name, parser, default and help of each. Reads nothing.

GROUPS holds them all, in the order of --help and, which a test checks, of docs/settings.md.
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from changefeed.change.exposure import Payload
from changefeed.counts import alerts
from process import logs
from settings import values

# The connections of each process to PostgreSQL, beside those of --rows-readings.
LISTEN_CONNECTIONS = 1
FOLLOWING_CONNECTIONS = 2
REQUEST_CONNECTIONS = 3
DEMO_RATE = 4.0


class SettingsError(Exception):
    """A setting is unknown or invalid; the message is one line that says what to write instead."""


@dataclass(frozen=True)
class Settings:
    """The values of all settings. Durations are in seconds, sizes in bytes."""

    port: int
    address: str
    database_url: str | None  # a conninfo string; None means the embedded PostgreSQL and its demo
    database_wait_seconds: float
    data_dir: Path | None  # None means embedded.default_data_dir()
    demo_rate: float
    echo: bool
    log_format: str
    allow_origin: tuple[str, ...]
    tls_cert: Path | None
    tls_key: Path | None
    allow_host: tuple[str, ...]
    trusted_proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    base_path: str  # before every route; empty or /some/path
    allow_anonymous: bool
    token: tuple[str, ...]
    token_file: Path | None
    jwt_algorithm: str | None
    jwt_key_file: Path | None
    jwt_jwks_url: str | None
    jwt_audience: str | None
    jwt_issuer: str | None
    session_secret: str | None  # None means a random one, made at the start

    @property
    def connections(self) -> int:
        """The most that all processes together have to PostgreSQL."""
        of_each = LISTEN_CONNECTIONS + FOLLOWING_CONNECTIONS + REQUEST_CONNECTIONS + self.rows_readings
        return self.processes * of_each

    @property
    def asks_for_tokens(self) -> bool:
        return bool(self.token or self.token_file or self.jwt_algorithm)

    outbox_limit_bytes: int
    processes: int
    client_limit: int
    client_limit_per_address: int
    client_limit_per_token: int
    clients_per_second: int
    clients_per_second_per_address: int
    sign_in_limit: int
    request_limit: int
    unread_limit_bytes: int
    client_messages_per_second: int
    client_bytes_per_second: int
    rows_limit: int
    rows_limit_bytes: int
    rows_seconds: float
    rows_readings: int
    request_seconds: float
    waiting_connection_limit: int
    watch: tuple[str, ...]
    payload: Payload
    row_limit_bytes: int
    trust_owner: tuple[str, ...]
    channels: tuple[str, ...]
    no_plain_channel: bool
    upgrade_schema: bool
    retention_hours: float
    retention_bytes: int
    alert: tuple[alerts.Alert, ...]
    alert_webhook: str | None
    # Names that the environment set: they have no prefix, so one may be meant for another program.
    from_environment: tuple[str, ...] = ()
    # Names in .env that would name the database, which something of a higher precedence names.
    without_effect: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """One row of the table of settings."""

    name: str
    parse: values.Parser[Any]
    default: Any
    metavar: str
    help: str
    is_repeatable: bool = False
    is_secret: bool = False  # its value is never shown in an error
    dotenv_variable: str = ""  # the name in .env, if it differs from the one in the environment

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return self.name.upper()


SERVER = (
    Setting(
        "port",
        values.whole(0, 65535),
        8080,
        "N",
        "TCP port to serve on; 0 takes a free one",
        dotenv_variable="HTTP_PORT",
    ),
    Setting(
        "address",
        values.words,
        "127.0.0.1",
        "IP",
        "IP address to serve on; beyond loopback this needs tokens (see --token), or --allow-anonymous",
    ),
    Setting(
        "base_path",
        values.base_path,
        "",
        "PATH",
        "path before every route, such as /feed, if a proxy passes it on; needs tokens",
    ),
    Setting(
        "processes",
        values.whole(1, 256),
        1,
        "N",
        "server processes that share the port, each with one LISTEN connection, up to five others, and --rows-readings",
    ),
    Setting(
        "tls_cert",
        values.file,
        None,
        "FILE",
        "certificate chain in PEM, to serve TLS; read again when the file changes, and at SIGHUP",
    ),
    Setting(
        "tls_key",
        values.file,
        None,
        "FILE",
        "private key of the certificate in PEM, without a password",
    ),
    Setting(
        "log_format",
        values.one_of(logs.TEXT, logs.JSON),
        logs.TEXT,
        "FORMAT",
        "format of the log on stderr: text, or json (one object a line)",
    ),
    Setting(
        "echo",
        values.yes_or_no,
        False,
        "",
        "print each change to the console; JSON lines if stdout is a pipe",
    ),
)
DATABASE = (
    Setting(
        "database_url",
        values.conninfo,
        None,
        "URL",
        "PostgreSQL to follow, as a URL or conninfo; without it libpq's PGHOST, PGDATABASE, … are used, and "
        "without those an embedded PostgreSQL with demo tables",
        is_secret=True,
    ),
    Setting(
        "database_wait_seconds",
        values.number,
        30.0,
        "SECONDS",
        "how long a start waits for an unreachable database; once started, the server waits for ever",
    ),
    Setting(
        "watch",
        values.pattern,
        (),
        "TABLE",
        "table to watch, as schema.table or schema.*; adds triggers that record its changes, and the schema changefeed",
        is_repeatable=True,
    ),
    Setting(
        "payload",
        values.one_of(*Payload),
        Payload.FULL,
        "WHAT",
        "row data that leaves the server, on every route: full, keys (the primary key's columns), or off (counts only)",
    ),
    Setting(
        "row_limit_bytes",
        values.whole(1024, 1 << 30),
        16 << 20,
        "BYTES",
        "maximum size of a changed row with its old values; a larger one is not read, and clients get a gap instead",
    ),
    Setting(
        "trust_owner",
        values.words,
        (),
        "ROLE",
        "owner of tables whose rows the server may read, although code of that role can then run with the server's "
        "rights; superusers, the owner of the schema changefeed and the server's own role are trusted already",
        is_repeatable=True,
    ),
    Setting(
        "retention_hours",
        values.positive,
        24.0,
        "HOURS",
        "how long the journal keeps changes",
    ),
    Setting(
        "retention_bytes",
        values.whole(1 << 20, 1 << 50),
        1 << 30,
        "BYTES",
        "maximum size of the journal; the oldest changes go first",
    ),
    Setting(
        "upgrade_schema",
        values.yes_or_no,
        False,
        "",
        "upgrade an older schema changefeed at the start; older servers cannot read it afterwards",
    ),
    Setting(
        "channels",
        values.channels,
        (),
        "CHANNEL",
        "NOTIFY channel whose payloads /listen/CHANNEL sends; * and ? stand for any text and any character",
        is_repeatable=True,
    ),
    Setting(
        "no_plain_channel",
        values.yes_or_no,
        False,
        "",
        "do not listen to the channel events, of the original's trigger, on which any role of the database can "
        "make up changes",
    ),
    Setting(
        "data_dir",
        values.directory,
        None,
        "DIR",
        "folder of the embedded PostgreSQL's data (default: ~/.cache/psqlisten2websocket; on macOS in "
        "~/Library/Caches; for root in /var/cache)",
    ),
    Setting(
        "demo_rate",
        values.number,
        DEMO_RATE,
        "PER_SECOND",
        "changes per second, on average, of the demo; 0 = none",
    ),
)
ACCESS = (
    Setting(
        "token",
        values.token,
        (),
        "TOKEN",
        "token with all rights; once there is one, every client needs a token; better given as TOKEN in the "
        "environment or by --token-file, because others can read the command line",
        is_repeatable=True,
        is_secret=True,
    ),
    Setting(
        "token_file",
        values.file,
        None,
        "FILE",
        "file of tokens, one a line, each followed by its rights as JSON, or by nothing for all rights; read "
        "again at SIGHUP",
    ),
    Setting(
        "jwt_algorithm",
        values.jwt_algorithm,
        None,
        "NAME",
        "accept JSON Web Tokens signed with HS256, RS256 or ES256; their claim changefeed holds their rights",
    ),
    Setting(
        "jwt_key_file",
        values.file,
        None,
        "FILE",
        "secret of HS256, or the issuer's public key in PEM",
    ),
    Setting(
        "jwt_jwks_url",
        values.https_url,
        None,
        "URL",
        "URL of the issuer's public keys, a JWK Set",
    ),
    Setting(
        "jwt_audience",
        values.words,
        None,
        "TEXT",
        "required aud claim of a JSON Web Token",
    ),
    Setting(
        "jwt_issuer",
        values.words,
        None,
        "TEXT",
        "required iss claim of a JSON Web Token",
    ),
    Setting(
        "session_secret",
        values.secret,
        None,
        "TEXT",
        "secret that signs the dashboard's cookies; without it each start makes a new one, and all users sign in again",
        is_secret=True,
    ),
    Setting(
        "allow_anonymous",
        values.yes_or_no,
        False,
        "",
        "serve all clients without authentication, beyond loopback or behind a proxy; name a public name with "
        "--allow-host",
    ),
    Setting(
        "allow_origin",
        values.origin,
        (),
        "ORIGIN",
        "web origin, in addition to the server's own, whose pages may connect, such as https://app.example.com; * "
        "= any",
        is_repeatable=True,
    ),
    Setting(
        "allow_host",
        values.host,
        (),
        "NAME",
        "host name, in addition to those of loopback, under which pages may reach the server, as behind a proxy; "
        "needs tokens",
        is_repeatable=True,
    ),
    Setting(
        "trusted_proxies",
        values.network,
        (),
        "NETWORK",
        "proxy, or network such as 10.0.0.0/8, whose X-Forwarded-For and X-Forwarded-Proto are trusted; needs tokens",
        is_repeatable=True,
    ),
)
LIMITS = (
    Setting(
        "client_limit",
        values.whole(1, 1_000_000),
        20_000,
        "N",
        "maximum open sockets and event streams, per process; more get 503",
    ),
    Setting(
        "client_limit_per_address",
        values.whole(0, 1_000_000),
        0,
        "N",
        "maximum of them per IP address, per process; 0 = unlimited, as behind a proxy",
    ),
    Setting(
        "client_limit_per_token",
        values.whole(0, 1_000_000),
        0,
        "N",
        "maximum of them per token, or per sub of several tokens, per process; 0 = three quarters of --client-limit",
    ),
    Setting(
        "clients_per_second",
        values.whole(0, 1_000_000),
        1_000,
        "PER_SECOND",
        "new clients per second, counted apart with and without a token, per process; bursts up to 10 s' worth, "
        "of which one token or address leaves a part; more get 503 with Retry-After; 0 = unlimited",
    ),
    Setting(
        "clients_per_second_per_address",
        values.whole(0, 1_000_000),
        200,
        "PER_SECOND",
        "new clients without a token per second and IP address (IPv6: per /64), per process; 0 = unlimited",
    ),
    Setting(
        "sign_in_limit",
        values.whole(1, 1_000_000),
        1_000,
        "N",
        "maximum sockets that have not authenticated yet, per process; beyond it the oldest of the address with "
        "the most is closed",
    ),
    Setting(
        "request_limit",
        values.whole(1, 1_000_000),
        1_000,
        "N",
        "maximum requests without an answer yet, per process; beyond it the newest one of the token, and then of the "
        "address, with the most gets 503",
    ),
    Setting(
        "client_messages_per_second",
        values.whole(1, 1_000_000),
        100,
        "PER_SECOND",
        "frames per second that a client may send on its socket; bursts up to 10 s' worth; beyond it code 1008 "
        "closes the socket",
    ),
    Setting(
        "client_bytes_per_second",
        values.whole(1, 1 << 30),
        256 << 10,
        "BYTES",
        "bytes per second that a client may send on its socket; bursts up to 10 s' worth; beyond it code 1008 "
        "closes the socket",
    ),
    Setting(
        "outbox_limit_bytes",
        values.whole(1024, 1 << 30),
        1 << 20,
        "BYTES",
        "maximum bytes that wait for one slow client; beyond it code 1013 closes the socket",
    ),
    Setting(
        "unread_limit_bytes",
        values.whole(1 << 20, 1 << 40),
        64 << 20,
        "BYTES",
        "maximum bytes of all answers that are being made or wait for clients that do not read them, per process; "
        "beyond it the oldest of the token, and then of the address, with the most is closed",
    ),
    Setting(
        "rows_limit",
        values.whole(1, 1 << 40),
        1_000_000,
        "N",
        "maximum rows of one reading of a table, for /api/rows and rows=true; for more it is refused",
    ),
    Setting(
        "rows_limit_bytes",
        values.whole(1 << 20, 1 << 40),
        256 << 20,
        "BYTES",
        "maximum bytes of these rows; beyond the first MB they wait in a temporary file, four times this in all",
    ),
    Setting(
        "rows_seconds",
        values.positive,
        30.0,
        "SECONDS",
        "maximum time of one reading; so long, ALTER TABLE and TRUNCATE of the table wait for it",
    ),
    Setting(
        "rows_readings",
        values.whole(1, 100),
        4,
        "N",
        "maximum readings at the same time, per process, each with a connection of its own; others wait their turn",
    ),
    Setting(
        "request_seconds",
        values.positive,
        75.0,
        "SECONDS",
        "timeout for receiving a request, and for idle connections",
    ),
    Setting(
        "waiting_connection_limit",
        values.whole(1, 1_000_000),
        4_096,
        "N",
        "maximum connections without a request, per process; beyond it the oldest is closed",
    ),
)
ALERTS = (
    Setting(
        "alert",
        values.Parser(alerts.EXPECTED, alerts.parse_alert),
        (),
        "ALERT",
        "condition to log and to send to the webhook, such as 'no INSERT in public.orders for 5 min', 'more than "
        "100 INSERT/s'",
        is_repeatable=True,
    ),
    Setting(
        "alert_webhook",
        values.http_url,
        None,
        "URL",
        "URL that gets a POST with a JSON object when an alert is raised, and when it ends",
        is_secret=True,
    ),
)
# The groups of --help and docs/settings.md, in their order.
GROUPS: dict[str, tuple[Setting, ...]] = {
    "server": SERVER,
    "database": DATABASE,
    "access": ACCESS,
    "limits": LIMITS,
    "alerts": ALERTS,
}
SETTINGS: tuple[Setting, ...] = tuple(setting for group in GROUPS.values() for setting in group)


def is_loopback(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
