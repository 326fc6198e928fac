"""A conninfo string in, an open psycopg2 connection out, without blocking the IOLoop. Knows no pool and no LISTEN.

psycopg2's own asynchronous connect lacks four things that both the listener and momoko's pool need. It has no deadline:
libpq's connect_timeout applies to blocking connects only. Its descriptor changes when libpq tries a host's next address
(localhost is often ::1 and 127.0.0.1), so it may be watched for only one event at a time. Looking up a name blocks, so
the start must run in a thread. And it does not give the SQLSTATE of a refusal, whose text may be in any language.
"""

import asyncio
import codecs
import contextlib
import ctypes
import re
import threading
from collections.abc import Callable
from typing import Any

import psycopg2
from psycopg2 import _psycopg
from psycopg2.extensions import (
    POLL_OK,
    POLL_READ,
    POLL_WRITE,
    connection,
    encodings,
    make_dsn,
    parse_dsn,
    register_adapter,
)
from tornado.ioloop import IOLoop

from changefeed.postgres.text_literal import TextLiteral

# TCP notices a silently lost peer (a cable, a firewall, a dead proxy) within 5 + 3 * 1 s while nothing is sent, and
# 8 s after something was. Values in the user's own conninfo take precedence.
_DEFAULTS = {
    "application_name": "psqlisten2websocket",
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "1",
    "keepalives_count": "3",
    "tcp_user_timeout": "8000",  # milliseconds
    "connect_timeout": "5",  # of a request to cancel, as of all that blocks
    # A standby, or a server in a restore, allows no LISTEN, and what is replayed so far may not be final.
    "target_session_attrs": "primary",
}
# Settings that the server's statements depend on, whatever those of the role or the database are. A
# search_path that others cannot write to comes first: an exact match of the argument types wins over pg_catalog's own
# (CVE-2018-1058). As startup options, so that they hold from the first statement on and no pooler hands them to others.
SESSION_SETTINGS = {
    # The owner of a database may choose one for all sessions (ALTER DATABASE ... SET role); and code that runs as a set
    # role can take the session's own back.
    "role": "none",
    "search_path": "pg_catalog,pg_temp",
    "statement_timeout": "0",  # each query has a deadline of the server instead
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "exit_on_error": "off",  # our functions catch some errors
    "jit": "off",  # compiling takes longer than any of the server's statements
    "client_min_messages": "error",  # lesser messages are not read, and names in them may have no text in UTF-8
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
_TRANSACTION_TIMEOUT_SINCE = 170000  # server_version; older ones refuse an unknown option
# Put before a statement if a pooler in between passes no options. They apply to that statement only: a transaction pool
# may give the session to another client next.
_LOCAL_SETTINGS = (
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; SET LOCAL ROLE none; "
    "SET LOCAL search_path = pg_catalog, pg_temp; "
    "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL exit_on_error = off; "
    "SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, MDY'; SET LOCAL standard_conforming_strings = on; "
    "SET LOCAL quote_all_identifiers = off; SET LOCAL client_min_messages = error; "
)
IN_RECOVERY = "server is in hot standby mode"  # libpq's message if it finds no primary
OPTIONS_REFUSED = "unsupported startup parameter"  # PgBouncer's message
# psycopg2 drops a notification that it cannot decode, without an error; with UTF8 that cannot happen.
_FIXED = {"client_encoding": "UTF8"}
# psycopg2 decodes a notification's channel and payload with the codec's decode(), which is written in Python. Using the
# C function below it makes reading a burst of notifications cheaper by a fifth.
codecs.register({"utf_8_in_c": codecs.CodecInfo(codecs.utf_8_encode, codecs.utf_8_decode, name="utf_8_in_c")}.get)
encodings["UTF8"] = "utf_8_in_c"
register_adapter(str, TextLiteral)

# The verbosity of libpq's errors (PQerrorVerbosity), in the libpq that psycopg2 is linked with.
_PLAIN, _WITH_SQLSTATE = 1, 2
_set_verbosity = ctypes.PyDLL(_psycopg.__file__).PQsetErrorVerbosity
_set_verbosity.argtypes = (ctypes.c_void_p, ctypes.c_int)
# A request to cancel takes a connection of its own, encrypted like the first. CDLL, since waiting for it needs no GIL.
_libpq = ctypes.CDLL(_psycopg.__file__)
_cancel_create, _cancel, _cancel_finish = _libpq.PQcancelCreate, _libpq.PQcancelBlocking, _libpq.PQcancelFinish
_cancel_create.argtypes, _cancel_create.restype = (ctypes.c_void_p,), ctypes.c_void_p
_cancel.argtypes, _cancel.restype = (ctypes.c_void_p,), ctypes.c_int
_cancel_finish.argtypes, _cancel_finish.restype = (ctypes.c_void_p,), None
_SQLSTATE = re.compile(r"(?<=: {2})([0-9A-Z]{5}): ")
_LOCATION = re.compile(r"^LOCATION: .*\n?", re.MULTILINE)
# Classes of SQLSTATE of refusals that a setting causes: feature, value, authorization, database, right.
_HOPELESS_CLASSES = ("0A", "22", "28", "3D", "42")
# libpq's own errors that a setting causes; they have no SQLSTATE, and are in English.
_HOPELESS_WORDS = ("no password supplied", "invalid", "does not support SSL", "certificate")


class CannotConnect(psycopg2.OperationalError):
    """No connection could be made. If `is_hopeless`, retrying does not help, as with a wrong password.

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
    """`conninfo` with the session's settings, and with keepalives and an application name unless it sets them."""
    given = parse_dsn(conninfo)
    options = f"{given.get('options', '')} {_SESSION_OPTIONS}".strip()
    return str(make_dsn(conninfo, **{**_DEFAULTS, **given, **_FIXED, "options": options}))


def without_session_options(conninfo: str) -> str:
    """`conninfo` without the session's settings that complete() added."""
    given = parse_dsn(conninfo)
    left = given.pop("options", "").replace(_SESSION_OPTIONS, "").strip()
    return str(make_dsn("", **given, **({"options": left} if left else {})))


def display_name(conninfo: str) -> str:
    """dbname@host:port, for display: without password and user."""
    parts = parse_dsn(conninfo)
    host = parts.get("host") or parts.get("hostaddr") or parts.get("service") or "local socket"
    name = f"{parts.get('dbname') or parts.get('user') or 'default database'}@{host}"
    return f"{name}:{parts['port']}" if "port" in parts else name


async def open_connection(conninfo: str, deadline_seconds: float) -> connection:
    """An open connection in psycopg2's asynchronous mode (which is always autocommit).

    Raises CannotConnect, also if that takes longer than `deadline_seconds`. Through a pooler that passes no options,
    it is opened without SESSION_SETTINGS; see settings_for_each().
    """
    try:
        return await _open(conninfo, deadline_seconds)
    except CannotConnect as error:
        if OPTIONS_REFUSED not in str(error):
            raise
        return await _open(without_session_options(conninfo), deadline_seconds)


async def settings_for_each(opened: connection) -> str:
    """What to put before each statement on this connection: nothing if SESSION_SETTINGS apply to the session.

    Only a query can find out, as there may be a pooler in between.
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
    """The statements that apply SESSION_SETTINGS to the statement after them."""
    if opened.server_version >= _TRANSACTION_TIMEOUT_SINCE:
        return _LOCAL_SETTINGS + "SET LOCAL transaction_timeout = 0; "
    return _LOCAL_SETTINGS


def give_up(opened: connection) -> asyncio.Event:
    """Closes the connection, and asks PostgreSQL to cancel what runs on it; the event is set once that is asked.

    A backend that waits for a lock, or in a COMMIT for a synchronous standby, does not notice that its client is gone.
    """
    is_asked = asyncio.Event()
    if opened.closed or not opened.isexecuting():
        is_asked.set()
    else:
        request, loop = _cancel_create(opened.pgconn_ptr), asyncio.get_running_loop()

        def ask() -> None:
            _cancel(request)
            _cancel_finish(request)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(is_asked.set)

        threading.Thread(target=ask, name="cancel", daemon=True).start()
    opened.close()
    return is_asked


async def _open(conninfo: str, deadline_seconds: float) -> connection:
    starting = asyncio.get_running_loop().run_in_executor(None, _start, conninfo)
    try:
        async with asyncio.timeout(deadline_seconds):
            try:
                opening = await asyncio.shield(starting)
            except asyncio.CancelledError:
                # The deadline passed, or the caller cancelled. The thread goes on; its connection is closed once open.
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
    """Drives libpq until the pending connect or query on this connection is done. Raises psycopg2.Error."""
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
