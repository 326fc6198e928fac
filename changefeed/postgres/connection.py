"""A conninfo string in, an open psycopg2 connection out, without blocking the IOLoop. Knows no pool and no LISTEN.

psycopg2's own asynchronous connect leaves four things to its caller, and both the listener and momoko's pool need
them: it has no deadline (libpq's connect_timeout counts in the blocking connect only); the descriptor changes when
libpq goes on to a host's next address (localhost is often ::1 and 127.0.0.1), so it may be watched for one event at a
time only; looking a name up blocks, so that the start of it belongs into a thread; and it does not give the SQLSTATE of
a refusal, whose text may be in any language.
"""

import asyncio
import codecs
import ctypes
import re
from collections.abc import Callable
from typing import Any

import psycopg2
from psycopg2 import _psycopg
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, connection, encodings, make_dsn, parse_dsn
from tornado.ioloop import IOLoop

# A peer that is gone without a word (a cable, a firewall, a deaf proxy) is noticed by TCP in at most 5 + 3 * 1 s while
# nothing is sent, and 8 s after something was. What the user's own conninfo says about these wins.
_DEFAULTS = {
    "application_name": "psqlisten2websocket",
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "1",
    "keepalives_count": "3",
    "tcp_user_timeout": "8000",  # milliseconds
    # What a standby, or a restore under way, has replayed so far is no past to go back to; nor can one LISTEN there.
    "target_session_attrs": "primary",
}
# What the server's statements depend on is set by the server, whatever the role's or the database's settings are. A
# search_path that others cannot write to comes first: an exact match of the argument types wins over pg_catalog's own
# (CVE-2018-1058). As startup options, so that they hold from the first statement on and no pooler hands them to others.
SESSION_SETTINGS = {
    "search_path": "pg_catalog,pg_temp",
    "statement_timeout": "0",  # each query has a deadline of the server's own
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "exit_on_error": "off",  # our functions catch some
    "jit": "off",  # to compile takes longer than any of the server's statements
    "client_min_messages": "error",  # nobody reads less, and what it names may be no text in UTF-8
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "TimeZone": "UTC",
    "DateStyle": "ISO,MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
}
_SESSION_OPTIONS = " ".join(
    f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in SESSION_SETTINGS.items()
)
_TRANSACTION_TIMEOUT_SINCE = 170000  # server_version; an older one refuses an option that it does not know
# In front of a statement where a pooler in between lets no options through. For that statement only: a session of a
# transaction pool is somebody else's the next moment.
_LOCAL_SETTINGS = (
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; SET LOCAL search_path = pg_catalog, pg_temp; "
    "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL exit_on_error = off; "
    "SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, MDY'; SET LOCAL standard_conforming_strings = on; "
    "SET LOCAL quote_all_identifiers = off; SET LOCAL client_min_messages = error; "
)
IN_RECOVERY = "server is in hot standby mode"  # libpq's, where it finds no primary
OPTIONS_REFUSED = "unsupported startup parameter"  # PgBouncer's words
# psycopg2 swallows an error in decoding a notification, and the notification with it; with UTF8 there is none.
_FIXED = {"client_encoding": "UTF8"}
# It decodes a notification's channel and its payload with the codec's own decode(), which is written in Python. The
# function in C below that takes a fifth off what reading a burst of notifications costs.
codecs.register({"utf_8_in_c": codecs.CodecInfo(codecs.utf_8_encode, codecs.utf_8_decode, name="utf_8_in_c")}.get)
encodings["UTF8"] = "utf_8_in_c"

# How libpq words errors (its PQerrorVerbosity). It is the libpq that psycopg2 itself is linked with.
_PLAIN, _WITH_SQLSTATE = 1, 2
_set_verbosity = ctypes.PyDLL(_psycopg.__file__).PQsetErrorVerbosity
_set_verbosity.argtypes = (ctypes.c_void_p, ctypes.c_int)
_SQLSTATE = re.compile(r"(?<=: {2})([0-9A-Z]{5}): ")
_LOCATION = re.compile(r"^LOCATION: .*\n?", re.MULTILINE)
# Classes of SQLSTATE in which PostgreSQL refuses what a setting says: feature, value, authorization, database, right.
_HOPELESS_CLASSES = ("0A", "22", "28", "3D", "42")
# Of libpq's own complaints, which have no SQLSTATE and are English, those that a setting is the cause of.
_HOPELESS_WORDS = ("no password supplied", "invalid", "does not support SSL", "certificate")


class CannotConnect(psycopg2.OperationalError):
    """No connection came about; where `is_hopeless`, none will, however often it is tried: a wrong password, say.

    `told` is libpq's text, with SQLSTATEs; the message is the same without them.
    """

    def __init__(self, told: str) -> None:
        super().__init__(_LOCATION.sub("", _SQLSTATE.sub("", told)))
        sqlstates: list[str] = _SQLSTATE.findall(told)
        self.is_hopeless = (
            all(sqlstate.startswith(_HOPELESS_CLASSES) for sqlstate in sqlstates)
            if sqlstates
            else any(word in told for word in _HOPELESS_WORDS)
        )


def complete(conninfo: str) -> str:
    """`conninfo` with keepalives and application name where it does not set them itself, and the session's settings."""
    given = parse_dsn(conninfo)
    options = f"{given.get('options', '')} {_SESSION_OPTIONS}".strip()
    return str(make_dsn(conninfo, **{**_DEFAULTS, **given, **_FIXED, "options": options}))


def without_session_options(conninfo: str) -> str:
    """`conninfo` as it was before complete() added the session's settings."""
    given = parse_dsn(conninfo)
    left = given.pop("options", "").replace(_SESSION_OPTIONS, "").strip()
    return str(make_dsn("", **given, **({"options": left} if left else {})))


def display_name(conninfo: str) -> str:
    """dbname@host:port for people to read: no password, no user."""
    parts = parse_dsn(conninfo)
    host = parts.get("host") or parts.get("hostaddr") or parts.get("service") or "local socket"
    name = f"{parts.get('dbname') or parts.get('user') or 'default database'}@{host}"
    return f"{name}:{parts['port']}" if "port" in parts else name


async def open_connection(conninfo: str, deadline_seconds: float) -> connection:
    """An open connection in psycopg2's asynchronous mode (which is always autocommit).

    Raises CannotConnect, also when it is not open `deadline_seconds` from now. Through a pooler that lets no options
    through it is opened without SESSION_SETTINGS; see settings_for_each().
    """
    try:
        return await _open(conninfo, deadline_seconds)
    except CannotConnect as error:
        if OPTIONS_REFUSED not in str(error):
            raise
        return await _open(without_session_options(conninfo), deadline_seconds)


async def settings_for_each(opened: connection) -> str:
    """What each statement on this connection is to begin with: nothing, where SESSION_SETTINGS hold in the session.

    Only the server behind a pooler can tell that.
    """
    with opened.cursor() as db_cursor:
        db_cursor.execute("SELECT pg_catalog.current_setting('search_path')")
        await wait_until_done(opened)
        [(search_path,)] = db_cursor.fetchall()
        if str(search_path).replace(" ", "") != SESSION_SETTINGS["search_path"]:
            return local_settings(opened)
        if opened.server_version >= _TRANSACTION_TIMEOUT_SINCE:
            db_cursor.execute("SET transaction_timeout = 0")
            await wait_until_done(opened)
    return ""


def local_settings(opened: connection) -> str:
    """The statements that make SESSION_SETTINGS hold for the one that they stand in front of."""
    if opened.server_version >= _TRANSACTION_TIMEOUT_SINCE:
        return _LOCAL_SETTINGS + "SET LOCAL transaction_timeout = 0; "
    return _LOCAL_SETTINGS


async def _open(conninfo: str, deadline_seconds: float) -> connection:
    starting = asyncio.get_running_loop().run_in_executor(None, _start, conninfo)
    try:
        async with asyncio.timeout(deadline_seconds):
            try:
                opening = await asyncio.shield(starting)
            except asyncio.CancelledError:
                # By the deadline or by the caller. The thread goes on; what it still opens is closed once it is there.
                starting.add_done_callback(_close_late)
                raise
            try:
                await wait_until_done(opening)
            except BaseException:
                opening.close()
                raise
    except TimeoutError:
        raise CannotConnect(
            f"no answer from {display_name(conninfo)} within {deadline_seconds:g} s (timeout)"
        ) from None
    except psycopg2.OperationalError as error:
        raise CannotConnect(str(error)) from None
    _set_verbosity(opening.pgconn_ptr, _PLAIN)
    return opening


async def wait_until_done(opening: connection) -> None:
    """Drives libpq until what was begun on this connection (a connect, a query) is done. Raises psycopg2.Error."""
    while (wanted := opening.poll()) != POLL_OK:
        await _readiness(opening.fileno(), {POLL_READ: IOLoop.READ, POLL_WRITE: IOLoop.WRITE}[wanted])


async def _readiness(descriptor: int, event: int) -> None:
    loop = IOLoop.current()
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_event(*_: Any) -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_handler(descriptor, on_event, event)
    try:
        await ready
    finally:
        loop.remove_handler(descriptor)


def _start(conninfo: str) -> connection:
    connect: Callable[..., connection] = psycopg2.connect
    started = connect(conninfo, async_=True)
    _set_verbosity(started.pgconn_ptr, _WITH_SQLSTATE)
    return started


def _close_late(starting: "asyncio.Future[connection]") -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().close()
