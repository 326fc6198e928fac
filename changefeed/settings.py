"""Every setting: its name, how its text becomes a value, its default, its help. Opens nothing and reads nothing.

SETTINGS is the one table of all of them; the command line's help and the README's table (by a test) follow it.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from changefeed import alerts, log_lines, setting_values
from changefeed.payload import Payload


class SettingsError(Exception):
    """A setting is unknown or bad; the message is one line that says what to write instead."""


@dataclass(frozen=True)
class Settings:
    """What the server was told. Durations are seconds, sizes are bytes."""

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
    session_secret: str | None  # None means one drawn at the start

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
    unread_limit_bytes: int
    client_messages_per_second: int
    client_bytes_per_second: int
    request_seconds: float
    waiting_connection_limit: int
    watch: tuple[str, ...]
    payload: Payload
    channels: tuple[str, ...]
    no_plain_channel: bool
    upgrade_schema: bool
    retention_hours: float
    retention_bytes: int
    alert: tuple[alerts.Alert, ...]
    alert_webhook: str | None
    # Names that the environment gave: they have no prefix, so one may be there for another program.
    from_environment: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """One row of the table of settings. `parse` turns its text into its value or raises ValueError."""

    name: str
    parse: Callable[[str], Any]
    default: Any
    metavar: str
    help: str
    is_repeatable: bool = False
    is_secret: bool = False  # then its value is not repeated in an error
    dotenv_variable: str = ""  # where the name in .env is not the one in the environment

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return self.name.upper()


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "port",
        setting_values.whole(0, 65535),
        8080,
        "N",
        "TCP port of the server; 0 takes a free one",
        dotenv_variable="HTTP_PORT",
    ),
    Setting(
        "address",
        setting_values.words,
        "127.0.0.1",
        "IP",
        "address to listen on; beyond loopback tokens are asked for (see --token), or say --allow-anonymous",
    ),
    Setting(
        "database_url",
        setting_values.conninfo,
        None,
        "URL",
        "PostgreSQL to feed from, as a URL or conninfo; without it libpq's PGHOST, PGDATABASE, … are used, and "
        "without those an embedded PostgreSQL with a demo table is started",
        is_secret=True,
    ),
    Setting(
        "database_wait_seconds",
        setting_values.number,
        30.0,
        "SECONDS",
        "how long a start waits for a database that cannot be reached yet; later it waits for ever",
    ),
    Setting(
        "data_dir",
        setting_values.directory,
        None,
        "DIR",
        "where the embedded PostgreSQL keeps its data (default: the user's cache)",
    ),
    Setting(
        "demo_rate", setting_values.number, 4.0, "PER_SECOND", "changes per second, on average, of the demo; 0 for none"
    ),
    Setting(
        "echo", setting_values.yes_or_no, False, "", "print each change to the console; JSON lines where that is a pipe"
    ),
    Setting(
        "log_format",
        setting_values.one_of(log_lines.TEXT, log_lines.JSON),
        log_lines.TEXT,
        "FORMAT",
        "how the log on stderr is written: as text, or as json, one object a line",
    ),
    Setting(
        "allow_origin",
        setting_values.origin,
        (),
        "ORIGIN",
        "web origin, beside the server's own, whose pages may connect, such as https://app.example.com; * for any",
        is_repeatable=True,
    ),
    Setting(
        "tls_cert",
        setting_values.file,
        None,
        "FILE",
        "certificate chain in PEM, to serve by TLS; read again when it is changed, and at SIGHUP",
    ),
    Setting("tls_key", setting_values.file, None, "FILE", "its private key in PEM, without a password"),
    Setting(
        "allow_host",
        setting_values.host,
        (),
        "NAME",
        "host name, beside those of loopback, by which pages may ask for the server, as behind a proxy; with tokens",
        is_repeatable=True,
    ),
    Setting(
        "trusted_proxies",
        setting_values.network,
        (),
        "NETWORK",
        "proxy, or network such as 10.0.0.0/8, whose X-Forwarded-For and X-Forwarded-Proto are believed; with tokens",
        is_repeatable=True,
    ),
    Setting(
        "base_path",
        setting_values.base_path,
        "",
        "PATH",
        "path before every route, such as /feed, where a proxy passes that on; with tokens",
    ),
    Setting(
        "allow_anonymous",
        setting_values.yes_or_no,
        False,
        "",
        "serve everybody, without authentication, beyond loopback or behind a proxy; a public name is named with "
        "--allow-host",
    ),
    Setting(
        "token",
        setting_values.token,
        (),
        "TOKEN",
        "token that may see and do everything; once there is one, every client needs a token; better given as TOKEN "
        "in the environment or by --token-file, since others can read the command line",
        is_repeatable=True,
        is_secret=True,
    ),
    Setting(
        "token_file",
        setting_values.file,
        None,
        "FILE",
        "tokens, one a line, each with its rights behind it as JSON, or without for all rights; read again at SIGHUP",
    ),
    Setting(
        "jwt_algorithm",
        setting_values.jwt_algorithm,
        None,
        "NAME",
        "take JSON Web Tokens signed with HS256, RS256 or ES256; their claim changefeed is their rights",
    ),
    Setting(
        "jwt_key_file", setting_values.file, None, "FILE", "the secret of HS256, or the issuer's public key in PEM"
    ),
    Setting("jwt_jwks_url", setting_values.https_url, None, "URL", "where the issuer's public keys are, a JWK Set"),
    Setting("jwt_audience", setting_values.words, None, "TEXT", "what must stand in a token as aud"),
    Setting("jwt_issuer", setting_values.words, None, "TEXT", "what must stand in a token as iss"),
    Setting(
        "session_secret",
        setting_values.secret,
        None,
        "TEXT",
        "signs the dashboard's cookies; without it one is drawn at each start, and everybody signs in again",
        is_secret=True,
    ),
    Setting(
        "outbox_limit_bytes",
        setting_values.whole(1024, 1 << 30),
        1 << 20,
        "BYTES",
        "what may wait for one slow client before it is closed with code 1013",
    ),
    Setting(
        "processes",
        setting_values.whole(1, 256),
        1,
        "N",
        "how many processes share the port, each with a LISTEN connection and up to four others",
    ),
    Setting(
        "client_limit",
        setting_values.whole(1, 1_000_000),
        20_000,
        "N",
        "how many sockets and event streams may be open at once, in each process; more are answered with 503",
    ),
    Setting(
        "client_limit_per_address",
        setting_values.whole(0, 1_000_000),
        0,
        "N",
        "how many of them from one IP address, in each process; 0 for no such limit, as behind a proxy",
    ),
    Setting(
        "client_limit_per_token",
        setting_values.whole(0, 1_000_000),
        0,
        "N",
        "how many of them with one token, or with tokens of one sub, in each process; 0 for no such limit",
    ),
    Setting(
        "clients_per_second",
        setting_values.whole(0, 1_000_000),
        1_000,
        "PER_SECOND",
        "how many with a token may come anew in a second, and how many without, ten seconds' worth at once, in each "
        "process; more are answered with 503 and told when to come back; 0 for no such limit",
    ),
    Setting(
        "clients_per_second_per_address",
        setting_values.whole(0, 1_000_000),
        200,
        "PER_SECOND",
        "how many of those without a token may come from one IP address; of IPv6 from one /64; 0 for no such limit",
    ),
    Setting(
        "sign_in_limit",
        setting_values.whole(1, 1_000_000),
        1_000,
        "N",
        "how many sockets may be about to authenticate, in each process; for one more the oldest is closed, of the "
        "address that has most",
    ),
    Setting(
        "unread_limit_bytes",
        setting_values.whole(1 << 20, 1 << 40),
        64 << 20,
        "BYTES",
        "how much of all answers may wait for those who do not read them, in each process; for more the oldest is "
        "closed, of the address that has most",
    ),
    Setting(
        "client_messages_per_second",
        setting_values.whole(1, 1_000_000),
        100,
        "PER_SECOND",
        "how many frames a client may send on its socket, ten seconds' worth at once, before code 1008 closes it",
    ),
    Setting(
        "client_bytes_per_second",
        setting_values.whole(1, 1 << 30),
        256 << 10,
        "BYTES",
        "how much a client may send on its socket, ten seconds' worth at once, before code 1008 closes it",
    ),
    Setting(
        "request_seconds",
        setting_values.positive,
        75.0,
        "SECONDS",
        "how long a connection may take to say its request, and stay open without one, before it is closed",
    ),
    Setting(
        "waiting_connection_limit",
        setting_values.whole(1, 1_000_000),
        4_096,
        "N",
        "how many connections may wait for a request, in each process; for one more the oldest is closed",
    ),
    Setting(
        "watch",
        setting_values.pattern,
        (),
        "TABLE",
        "table whose changes to journal, schema.table or schema.*; makes triggers on it, and the schema changefeed",
        is_repeatable=True,
    ),
    Setting(
        "payload",
        setting_values.one_of(*Payload),
        Payload.FULL,
        "WHAT",
        "what of a row leaves the server, on every route: full, keys (the primary key's columns), or off (counts only)",
    ),
    Setting(
        "channels",
        setting_values.channels,
        (),
        "CHANNEL",
        "NOTIFY channel whose payloads /listen/CHANNEL gives out; * and ? stand for any text and any character",
        is_repeatable=True,
    ),
    Setting(
        "no_plain_channel",
        setting_values.yes_or_no,
        False,
        "",
        "do not listen to the channel events, of the original's trigger, on which any role of the database can make up "
        "changes",
    ),
    Setting("retention_hours", setting_values.positive, 24.0, "HOURS", "how long the journal keeps changes"),
    Setting(
        "upgrade_schema",
        setting_values.yes_or_no,
        False,
        "",
        "upgrade an older schema changefeed at the start; servers that are older than this one cannot read it then",
    ),
    Setting(
        "retention_bytes",
        setting_values.whole(1 << 20, 1 << 50),
        1 << 30,
        "BYTES",
        "how large the journal grows before that",
    ),
    Setting(
        "alert",
        alerts.parse,
        (),
        "ALERT",
        "what to log and to tell the webhook, such as 'no INSERT in public.orders for 5 min', 'more than 100 INSERT/s'",
        is_repeatable=True,
    ),
    Setting(
        "alert_webhook",
        setting_values.http_url,
        None,
        "URL",
        "where to POST a JSON object when an alert is raised, and when it ends",
        is_secret=True,
    ),
)


def is_loopback(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
