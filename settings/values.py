"""The parsers of settings: a setting's text in, its value out, or a ValueError."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import psycopg2
from psycopg2.extensions import parse_dsn

from changefeed.change.table_names import canonical, parse_pattern
from changefeed.postgres.raw_channels import OUR_CHANNELS

Choice = TypeVar("Choice", bound=str)
Value = TypeVar("Value")


class BadValue(ValueError):
    """A well-known mistake; the message says what to write instead, without any secret of the text."""


@dataclass(frozen=True)
class Parser(Generic[Value]):
    """Parses a setting's text, or raises ValueError. `expected` completes the error: 'x' is not …"""

    expected: str
    parse: Callable[[str], Value]

    def __call__(self, text: str) -> Value:
        return self.parse(text)


def expects(expected: str) -> Callable[[Callable[[str], Value]], Parser[Value]]:
    """Makes a Parser of the function below it."""

    def parser_of(parse: Callable[[str], Value]) -> Parser[Value]:
        return Parser(expected, parse)

    return parser_of


def whole(least: int, most: int) -> Parser[int]:
    @expects(f"a whole number from {least} to {most}")
    def parse(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise ValueError
        return number

    return parse


@expects("a number from 0 to 1000000")
def number(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1_000_000:
        raise ValueError
    return value


@expects("a number above 0, at most 1000000")
def positive(text: str) -> float:
    value = number(text)
    if value == 0:
        raise ValueError
    return value


@expects('schema.table or schema.*, as SQL writes names (public."Odd ""Name")')
def pattern(text: str) -> str:
    if all(one.schema is None for one in parse_pattern(text.strip()).meant):
        raise ValueError
    return canonical(text.strip())


@expects(f"a channel's name, or a pattern with * and ?; channels of {OUR_CHANNELS} are internal to the server")
def channels(text: str) -> str:
    if fnmatchcase(text, OUR_CHANNELS):
        raise ValueError
    return words(text)


@expects("yes or no (also true, false, on, off, 1, 0)")
def yes_or_no(text: str) -> bool:
    return {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}[
        text.lower()
    ]


def one_of(*choices: Choice) -> Parser[Choice]:
    @expects(f"one of {', '.join(choices)}")
    def parse(text: str) -> Choice:
        for choice in choices:
            if choice == text:
                return choice
        raise ValueError

    return parse


@expects("text of one line")
def words(text: str) -> str:
    if not text.strip() or _CONTROL.search(text.strip()):
        raise ValueError
    return text.strip()


# Characters that end or garble a line of output, and halves of surrogate pairs, which cannot be encoded.
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@expects("an origin such as https://app.example.com, without a path, or * for any")
def origin(text: str) -> str:
    scheme, _, rest = text.partition("://")
    if text != "*" and (not scheme or not rest or "/" in rest):
        raise ValueError
    return text.lower()


@expects("a token of at least 16 characters, of A-Z a-z 0-9 . _ ~ + / = -, such as openssl rand -hex 32 makes")
def token(text: str) -> str:
    # The characters of a Bearer token (RFC 6750, 2.1).
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]{16,}", text, re.ASCII):
        raise ValueError
    return text


@expects("a secret of at least 32 characters, such as openssl rand -hex 32 makes")
def secret(text: str) -> str:
    if len(text) < 32:
        raise ValueError
    return text


@expects("HS256, RS256 or ES256")
def jwt_algorithm(text: str) -> str:
    if text not in ("HS256", "RS256", "ES256"):
        raise ValueError
    return text


@expects("a URL that begins with https://, or http:// on this machine (localhost, 127.0.0.1)")
def https_url(text: str) -> str:
    url = urlsplit(text.strip())
    is_here = url.hostname in ("localhost", "127.0.0.1", "::1")
    if not url.hostname or not (url.scheme == "https" or (url.scheme == "http" and is_here)):
        raise ValueError
    return text.strip()


@expects("a file")
def file(text: str) -> Path:
    path = _path(text)
    if path.is_dir():
        raise ValueError
    return path


def _path(text: str) -> Path:
    """Raises ValueError for a path that cannot exist, or that names an unknown user (~name)."""
    try:
        path = Path(words(text)).expanduser().absolute()
        path.exists()
    except (OSError, RuntimeError):
        raise ValueError from None
    return path


@expects("a host name or address, without scheme and port")
def host(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", text.lower(), re.ASCII):
        raise ValueError
    return text.lower()


@expects("an IP address, or a network such as 10.0.0.0/8")
def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text.strip())


@expects("a path such as /feed")
def base_path(text: str) -> str:
    path = text.strip().rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path, re.ASCII):
        raise ValueError
    return path


# Parameters that Prisma, node-postgres, JDBC, SQLAlchemy and Rails add to a URL.
_FOREIGN_PARAMETERS = {
    *("schema", "connection_limit", "pool_timeout", "pgbouncer", "socket_timeout", "statement_cache_size", "sslaccept"),
    *("uselibpqcompat", "ssl", "pool", "max", "charset", "encoding", "currentSchema", "ApplicationName", "search_path"),
    *("pool_size", "max_overflow", "prepared_statements", "prepareThreshold", "statement_timeout", "timezone"),
}


@expects(
    "postgresql://user:password@host:5432/dbname (with %40 for @ and %2F for / in the password), or "
    "libpq's host=… user=… dbname=…"
)
def conninfo(text: str) -> str:
    if driver := re.match(r"(?:postgres|postgresql)\+[a-z0-9_]+(?=://)", text.strip(), re.ASCII):
        raise BadValue(f"{driver[0]}:// is for SQLAlchemy; write postgresql://")
    if text.strip().startswith("jdbc:"):
        raise BadValue("URLs with jdbc: are for JDBC; write postgresql://user:password@host:5432/dbname")
    # The driver's own message is not shown: it repeats the text, which holds a password.
    try:
        parts = parse_dsn(text.strip())
    except psycopg2.ProgrammingError as error:
        # Only known names are shown: any other could be part of a password with a ? in it.
        refused = re.search(r'(?:parameter|option):? "(\w+)"', str(error))
        if refused and refused[1] in _FOREIGN_PARAMETERS:
            raise BadValue(f"{refused[1]}=… is for another driver; leave it out") from None
        raise ValueError from None
    if not parts:
        raise ValueError
    # libpq takes the part of a password after its @ or / for a host, port or database, which would be shown.
    _, scheme_end, rest = text.partition("?")[0].partition("://")
    authority, _, path = rest.partition("/")
    if scheme_end and (authority.count("@") > 1 or "@" in path):
        raise ValueError
    if not parts.get("port", "0").replace(",", "").isdigit():
        raise ValueError
    return text.strip()


@expects("a URL that begins with http:// or https:// and names a host")
def http_url(text: str) -> str:
    parts = urlsplit(text.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or re.search(r"\s", text.strip()):
        raise ValueError
    return text.strip()


@expects("a folder that exists or can be made")
def directory(text: str) -> Path:
    path = _path(text)
    if path.exists() and not path.is_dir():
        raise ValueError
    return path
