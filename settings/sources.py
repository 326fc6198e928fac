"""Flags, environment and .env in, Settings out. A bad setting is a SettingsError of one line.

The order of precedence is flag, environment, .env, default.
"""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dotenv.parser import parse_stream
from psycopg2.extensions import make_dsn, parse_dsn

from changefeed import __version__
from changefeed.change.exposure import Payload
from changefeed.change.table_names import split_list
from settings import values
from settings.table import GROUPS, SETTINGS, Setting, Settings, SettingsError, is_loopback

# libpq's own variables that make up a conninfo string, and the keywords they set (PostgreSQL manual, 34.15).
LIBPQ_VARIABLES = {
    "PGHOST": "host",
    "PGHOSTADDR": "hostaddr",
    "PGPORT": "port",
    "PGDATABASE": "dbname",
    "PGUSER": "user",
    "PGPASSWORD": "password",
    "PGPASSFILE": "passfile",
    "PGSERVICE": "service",
    "PGOPTIONS": "options",
    "PGSSLMODE": "sslmode",
    "PGSSLROOTCERT": "sslrootcert",
    "PGSSLCERT": "sslcert",
    "PGSSLKEY": "sslkey",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
}
# The ones that name a database; the others only say how to reach one that is named elsewhere.
_NAMING_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGDATABASE", "PGSERVICE")

# The original program's names. They count in the file .env only: in the environment USER is the login.
ORIGINAL_VARIABLES = {"HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password", "DBNAME": "dbname"}


_PROGRAM = ".venv/bin/python server.py"
COMMANDS = ("doctor", "bench")
_DESCRIPTION = "Sends the changes of a PostgreSQL database to WebSocket clients, and shows them on a live dashboard."
_COMMANDS = """\
commands:
  doctor    examine the database and report what to fix: .venv/bin/python server.py doctor --help
  bench     measure on this machine, with this PostgreSQL: .venv/bin/python server.py bench --help
"""
_SOURCES = """\
Each setting is also an environment variable (--demo-rate is DEMO_RATE) and a line of
the file .env, where only --port has another name, HTTP_PORT. A flag wins over the
environment, the environment over .env. There, a repeatable flag is a list with commas."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.startswith("argument -h/--help"):  # such as -help
            message = "-h has a value; did you mean --help?"
        see = " See" if message.endswith("?") else "; see"
        raise SettingsError(f"{message}{see} .venv/bin/python server.py --help")

    def parse_flags(self, argv: Sequence[str]) -> dict[str, Any]:
        namespace, unknown = self.parse_known_args(argv)
        if unknown:
            # argparse's own message repeats all values, and one of them may be a password.
            flags = sorted(self._option_string_actions)
            slips = [text.partition("=")[0] for text in unknown if text.startswith("-")]
            # A word in the place of a command is no password; a URL may hold one.
            if self.prog == _PROGRAM and unknown[0] == argv[0] and argv[0].isalpha():
                self.error(f"{argv[0]} is not a command{_did_you_mean(argv[0], [*COMMANDS, '--help', '--version'])}")
            if not slips:
                self.error("there is a value without a flag")
            self.error(f"{slips[0]} is not a setting{_did_you_mean(slips[0], flags)}")
        return vars(namespace)


def _parser(command: str, description: str) -> _Parser:
    parser = _Parser(
        prog=f"{_PROGRAM} {command}".rstrip(),
        usage=f"%(prog)s {'' if command else '[doctor | bench] '}[SETTING ...]",
        description=description or _DESCRIPTION,
        epilog=_SOURCES if command else f"{_COMMANDS}\n{_SOURCES}",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"psqlisten2websocket {__version__}")
    for title, settings in GROUPS.items():
        group = parser.add_argument_group(title)
        for setting in settings:
            if setting.parse is values.yes_or_no:
                group.add_argument(setting.flag, action="store_const", const="yes", help=setting.help)
            else:
                group.add_argument(
                    setting.flag,
                    metavar=setting.metavar,
                    action="append" if setting.is_repeatable else "store",
                    help=setting.help + _default_of(setting),
                )
    return parser


def _default_of(setting: Setting) -> str:
    if setting.default in (None, (), ""):
        return "; repeatable" if setting.is_repeatable else ""
    return (
        f" (default: {setting.default:g})" if isinstance(setting.default, float) else f" (default: {setting.default})"
    )


class _Help(argparse.HelpFormatter):
    """Wraps the help of each flag and the description, and leaves the lines of an epilog as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def load_settings(
    argv: Sequence[str], environ: Mapping[str, str], dotenv_path: Path, *, command: str = "", description: str = ""
) -> Settings:
    """Loads the settings from the command line, the environment and a .env file. Raises SettingsError.

    Exits on --help, which shows `command` with its `description`, or else the server.
    """
    flags = _parser(command, description).parse_flags(argv)
    in_file = _read_dotenv(dotenv_path)
    values: dict[str, Any] = {}
    from_environment: list[str] = []
    for setting in SETTINGS:
        for source, given in (
            (setting.flag, flags[setting.name]),
            (setting.variable, environ.get(setting.variable)),
            (
                f"{setting.dotenv_variable or setting.variable} in .env",
                in_file.get(setting.dotenv_variable or setting.variable),
            ),
        ):
            # Empty in the environment or .env counts as unset. An empty flag is an error: --database-url "$UNSET".
            if given or (given is not None and source == setting.flag):
                values[setting.name] = _parse(setting, source, given)
                if source == setting.variable:
                    from_environment.append(source)
                break
        else:
            values[setting.name] = setting.default
    without_effect = [*_NAMING_VARIABLES, *ORIGINAL_VARIABLES]
    if flags["database_url"] is None and not environ.get("DATABASE_URL"):
        # libpq's variables have the precedence that DATABASE_URL of the same source would have.
        if any(environ.get(name) for name in _NAMING_VARIABLES):
            values["database_url"] = _from_variables(environ, LIBPQ_VARIABLES)
        elif values["database_url"] is None and any(in_file.get(name) for name in _NAMING_VARIABLES):
            values["database_url"] = _from_variables(in_file, LIBPQ_VARIABLES)
            without_effect = [*ORIGINAL_VARIABLES]
        elif values["database_url"] is None and any(in_file.get(name) for name in ORIGINAL_VARIABLES):
            values["database_url"] = _from_variables(in_file, ORIGINAL_VARIABLES)
            without_effect = []
    if values["database_url"] is not None:
        values["database_url"] = _completed(values["database_url"], environ, in_file)
    settings = Settings(
        **values,
        from_environment=tuple(from_environment),
        without_effect=tuple(name for name in without_effect if in_file.get(name)),
    )
    _check_closed(settings)
    if settings.channels and settings.payload is not Payload.FULL:
        raise SettingsError(
            f"--channels sends payloads unchanged, even those with rows, which --payload {settings.payload} is to "
            "withhold; use only one of them"
        )
    return settings


def _check_closed(settings: Settings) -> None:
    """Raises SettingsError if the server is open to other machines and requires no authentication."""
    if settings.asks_for_tokens or settings.allow_anonymous:
        return
    names = [name for name in settings.allow_host if not _is_of_here(name)]
    # Through a proxy on this machine, others reach even a server on loopback.
    if not is_loopback(settings.address):
        way_in = f"--address {settings.address}"
    elif names:
        way_in = f"--allow-host {names[0]}"
    elif settings.trusted_proxies:
        way_in = f"--trusted-proxies {settings.trusted_proxies[0]}"
    elif settings.base_path:
        way_in = f"--base-path {settings.base_path}"
    else:
        return
    reached = "it" if way_in.startswith("--address") else "the proxy that this is for"
    raise SettingsError(
        f"with {way_in} the server would show the database's rows to all that can reach {reached}; require tokens "
        "(--token, --token-file, --jwt-algorithm), or add --allow-anonymous if that is what you want"
    )


def _is_of_here(host: str) -> bool:
    """Whether every browser resolves the name to its own machine (RFC 6761, 6.3)."""
    return host.endswith(".localhost") or is_loopback(host.strip("[]"))


def _parse(setting: Setting, source: str, given: str | list[str]) -> Any:
    if not setting.is_repeatable:
        return _parse_one(setting, source, str(given))
    texts = given if isinstance(given, list) else split_list(given)
    return tuple(_parse_one(setting, source, text.strip()) for text in texts)


def _parse_one(setting: Setting, source: str, text: str) -> Any:
    try:
        return setting.parse(text)
    except values.BadValue as error:
        raise SettingsError(f"{source}: {error}") from None
    except (ValueError, KeyError):
        shown = "the value given" if setting.is_secret else repr(text)
        raise SettingsError(f"{source}: {shown} is not {setting.parse.expected}") from None


def _read_dotenv(path: Path) -> dict[str, str]:
    """The file's names and values. An unknown name is an error: a misspelt DATABASE_URL must not start the demo."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8") as file:
            bindings = list(parse_stream(file))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path.name} cannot be read: {error}") from None
    known = {setting.dotenv_variable or setting.variable for setting in SETTINGS} | {
        *LIBPQ_VARIABLES,
        *ORIGINAL_VARIABLES,
    }
    found = {}
    for name, value, original, is_unreadable in bindings:
        if is_unreadable or (name is not None and value is None):
            # The line itself is never shown: it may hold a password.
            raise SettingsError(f"{path.name}: line {original.line} does not have the form NAME=value")
        if name is not None and value is not None:
            if name not in known:
                hint = _did_you_mean(name, sorted(known)) or "; see .venv/bin/python server.py --help for the names"
                raise SettingsError(f"{path.name}: {name} is not a setting{hint}")
            found[name] = value
    return found


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _completed(conninfo: str, environ: Mapping[str, str], in_file: Mapping[str, str]) -> str:
    """`conninfo` completed by libpq's variables in .env, such as PGPASSWORD; libpq itself reads the environment's.

    As in libpq, `conninfo` itself and a service file take precedence. Variables that name a database are not used.
    """
    given = parse_dsn(conninfo)
    if "service" in given:
        return conninfo
    variables = {
        name: text
        for name, text in in_file.items()
        if name in LIBPQ_VARIABLES.keys() - _NAMING_VARIABLES
        and LIBPQ_VARIABLES[name] not in given
        and not environ.get(name)
    }
    beside = _from_variables(variables, LIBPQ_VARIABLES)
    return str(make_dsn(conninfo, **parse_dsn(beside))) if beside else conninfo


def _from_variables(values: Mapping[str, str], keywords: Mapping[str, str]) -> str:
    given = {keyword: values[name] for name, keyword in keywords.items() if values.get(name)}
    if not given.get("port", "0").replace(",", "").isdigit():
        raise SettingsError(f"the database's port, {given['port']!r}, is not a number")
    return str(make_dsn(**given))
