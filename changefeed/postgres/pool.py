"""Runs all of the server's queries through a momoko pool: SQL in, rows out. Knows no table.

Every query has a deadline, so that a half-open connection delays its caller but never hangs it.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

import momoko
import psycopg2
from momoko.connection import Connection, ConnectionContainer
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, TRANSACTION_STATUS_INERROR
from psycopg2.extensions import connection as Psycopg
from psycopg2.sql import Composable
from tornado.ioloop import IOLoop

from changefeed.postgres.connection import give_up, open_connection, settings_for_each
from changefeed.postgres.legible import fetched, is_illegible, rows_of, showing

logger = logging.getLogger("changefeed.database")

CONNECT_DEADLINE_SECONDS = 5.0
QUERY_DEADLINE_SECONDS = 30.0
# How long a query may run that is no longer awaited. Most are over by then, and leave the connection as it was; to
# cancel one costs PostgreSQL a new connection.
UNAWAITED_SECONDS = 1.0

# Makes the block in which an answer is awaited. So a task of several queries can tell silence from its own work.
waiting: ContextVar[Callable[[], contextlib.AbstractContextManager[None]]] = ContextVar(
    "waiting", default=contextlib.nullcontext
)

DbRow = tuple[Any, ...]
Parameters = Sequence[Any] | Mapping[str, Any]
Query = str | Composable


class DatabaseUnavailable(Exception):
    """The database did not answer; the message says what was tried. `is_late`: the deadline passed."""

    is_late = False


class DeadlinePassed(DatabaseUnavailable):
    """The database did not answer in time."""

    is_late = True


class _Connection(Connection):  # type: ignore[misc]  # momoko has no types
    """momoko's connection, opened by open_connection(); connection.py says what momoko's own connect lacks."""

    pool: "_Pool"
    answering: "asyncio.Future[Any] | None" = None  # the answer of the last query
    _restart: "asyncio.Future[None] | None" = None  # of the connect in progress
    _before_each = ""  # put before each statement
    _given_up: asyncio.Event | None = None  # set once what ran on the last connection is cancelled

    def execute(self, operation: str, *args: Any, **kwargs: Any) -> "asyncio.Future[Any]":
        return self.execute_within(self._before_each + operation, *args, **kwargs)

    @property
    def begin(self) -> str:
        """Begins a transaction with SESSION_SETTINGS."""
        return f"BEGIN; {self._before_each}"

    def execute_within(self, operation: Query, *args: Any, **kwargs: Any) -> "asyncio.Future[Any]":
        """The same in a transaction, which has its own settings."""
        answering: asyncio.Future[Any] = super().execute(operation, *args, **kwargs)
        self.answering = answering
        return answering

    def connect(self) -> "asyncio.Future[_Connection]":
        return asyncio.ensure_future(self._connect())

    async def _connect(self) -> "_Connection":
        self.connection = None  # momoko's sign of a closed connection
        await self._until_given_up()
        try:
            while self.connection is None:
                self.connection = await self._open()
        except psycopg2.Error as error:
            # momoko only reports that there is no connection; the reason is kept here.
            self.pool.connect_error = one_line(error)
            raise
        self.fileno = self.connection.fileno()
        self.server_version = self.connection.server_version
        return self

    async def _until_given_up(self) -> None:
        """So that of the statements that hang, each leaves no backend behind when it is given up and run again."""
        if self._given_up:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONNECT_DEADLINE_SECONDS):
                    await self._given_up.wait()

    async def _open(self) -> Any:
        """Opens a connection; None if it is to be opened again."""
        opening = asyncio.ensure_future(self._opened())
        self._restart = asyncio.get_running_loop().create_future()
        try:
            waiting: set[asyncio.Future[Any]] = {opening, self._restart}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return opening.result() if opening.done() else None
        finally:
            self._restart = None
            opening.cancel()

    async def _opened(self) -> Psycopg:
        opened = await open_connection(self.dsn, CONNECT_DEADLINE_SECONDS)
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_SECONDS):
                self._before_each = await settings_for_each(opened)
        except TimeoutError:
            opened.close()
            raise psycopg2.OperationalError("PostgreSQL accepted the connection and then did not answer") from None
        except BaseException:
            opened.close()
            raise
        return opened

    def renew(self) -> None:
        """Replaces the connection: it may be half open, or be connecting over a network that does not answer."""
        if self._restart is None:
            self.abandon("the connection is presumed dead")
        elif not self._restart.done():
            self._restart.set_result(None)

    def _io_callback(self, future: "asyncio.Future[Any]", result: Any, fd: Any = None, events: Any = None) -> None:
        """As momoko's, but removes the descriptor from the IOLoop before each poll().

        libpq closes it there when the connection fails, and uvloop would lose events of whatever gets its number next.
        """
        self.ioloop.remove_handler(self.fileno)
        try:
            state = cast(Any, self.connection).poll()
        except (psycopg2.Warning, psycopg2.Error) as error:
            future.set_exception(error)
            return
        if state == POLL_OK:
            future.set_result(result)
        else:
            event = {POLL_READ: IOLoop.READ, POLL_WRITE: IOLoop.WRITE}[state]
            self.ioloop.add_handler(self.fileno, partial(self._io_callback, future, result), event)

    def abandon(self, why: str) -> None:
        """Closes the connection. A running query is cancelled, and fails with psycopg2.OperationalError."""
        if self.answering and not self.answering.done():
            self.ioloop.remove_handler(self.fileno)  # before another file gets its number
            self.answering.set_exception(psycopg2.OperationalError(why))
            self.answering.exception()  # retrieves the error, so that nothing is logged if it is not awaited
            if self.connection:
                self._given_up = give_up(self.connection)
        self.close()


class _Connections(ConnectionContainer):  # type: ignore[misc]
    def add_dead(self, connection: _Connection) -> None:
        """Overridden: momoko fails all waiting callers when one connection fails, although others may return."""
        self.pending.discard(connection)
        self.dead.add(connection)
        if self.all_dead:
            self.abort_waiting_queue(momoko.Pool.DatabaseNotAvailable())


class _Pool(momoko.Pool):  # type: ignore[misc]
    connect_error = "never tried"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conns = _Connections()

    def putconn(self, connection: _Connection) -> None:
        if self.closed:
            return  # momoko no longer knows it, and would raise an error
        if connection.closed and self.conns.waiting_queue:
            # momoko would leave it closed until the next query, and fail waiting callers if it was the last.
            self.conns.busy.remove(connection)
            self._connect_one(connection)
        else:
            super().putconn(connection)

    def _new_connection(self) -> Any:
        made = _Connection(self.dsn, ioloop=self.ioloop, setsession=self.setsession)
        made.pool = self
        return self._connect_one(made)


_Execute = Callable[[_Connection, Any, Parameters], Awaitable[list[DbRow]]]
Fetch = Callable[[str, Parameters], Awaitable[list[DbRow]]]  # runs a statement, and returns its rows


class Database:
    """A momoko pool of up to `size` connections, opened when needed and reopened after an outage."""

    def __init__(self, conninfo: str, size: int = 4) -> None:
        self._pool = _Pool(
            conninfo, size=1, max_size=size, ioloop=IOLoop.current(), raise_connect_errors=False, reconnect_interval=0
        )
        self._connecting: asyncio.Future[Any] | None = None

    async def fetch(
        self,
        query: str,
        parameters: Parameters = (),
        deadline_seconds: float = QUERY_DEADLINE_SECONDS,
        *,
        with_stand_ins: bool = True,
    ) -> list[DbRow]:
        """The rows of one statement; [] if it returns none.

        If the connection is found dead, it is reopened and the statement is run again, so running a statement twice
        must be harmless. It is also run again if its rows contain text that UTF-8 cannot express, which then becomes a
        StandIn. Raises DatabaseUnavailable, or psycopg2.Error if PostgreSQL refuses the statement.
        """
        try:
            with self._available(), waiting.get()():
                async with asyncio.timeout(deadline_seconds):
                    try:
                        return await self._fetch(self._execute, query, parameters)
                    except psycopg2.Error as error:
                        if not with_stand_ins or not is_illegible(error):
                            raise
                        return await self._fetch(self._show, query, parameters)
        except TimeoutError:
            raise DeadlinePassed(f"PostgreSQL did not answer within {deadline_seconds:g} s") from None

    @contextlib.asynccontextmanager
    async def transaction(self, begin: Query | None = None) -> "AsyncIterator[Fetch]":
        """A transaction; yields what runs its statements. `begin` begins it with what SESSION_SETTINGS would set.

        The caller sets the deadline; when it passes, the running statement is cancelled. Raises DatabaseUnavailable, or
        psycopg2.Error if PostgreSQL refuses a statement.
        """
        with self._available():
            connection = await self._ready()
            try:
                await self._run(self._execute_within, connection, begin or connection.begin, ())
                yield partial(self._execute_within, connection)
                await self._execute_within(connection, "COMMIT", ())
            except psycopg2.Error:
                if not connection.closed:
                    await self._execute_within(connection, "ROLLBACK", ())
                raise
            except BaseException:
                connection.abandon("the transaction was given up")
                raise
            finally:
                self._pool.putconn(connection)

    @contextlib.contextmanager
    def _available(self) -> Iterator[None]:
        """A block that needs a connection: that there is none, or that it broke, is raised as DatabaseUnavailable."""
        try:
            yield
        except momoko.Pool.DatabaseNotAvailable:
            raise DatabaseUnavailable(self._pool.connect_error) from None
        except psycopg2.Error as error:
            if not _is_of_connection(error):
                raise
            raise DatabaseUnavailable(one_line(error)) from error

    async def _fetch(self, execute: "_Execute", query: str, parameters: Parameters) -> list[DbRow]:
        connection = await self._ready()
        try:
            return await self._run(execute, connection, query, parameters)
        except psycopg2.Error:
            await self._end_failed(connection)
            raise
        finally:
            self._pool.putconn(connection)

    async def _end_failed(self, connection: _Connection) -> None:
        """Ends the transaction that a script, such as sql/install.sql, has begun before it failed."""
        if connection.closed:
            return
        opened = cast(Psycopg, connection.connection)
        if opened.info.transaction_status == TRANSACTION_STATUS_INERROR:
            await self._execute_within(connection, "ROLLBACK", ())

    async def _run(
        self, execute: "_Execute", connection: _Connection, query: Query, parameters: Parameters
    ) -> list[DbRow]:
        """Runs the statement, a second time if the connection is found dead."""
        try:
            return await execute(connection, query, parameters)
        except psycopg2.Error as error:
            if self._pool.closed or not (connection.closed and _is_of_connection(error)):
                raise
            await connection.connect()
            return await execute(connection, query, parameters)

    async def _ready(self) -> _Connection:
        """A connection of the pool, once one is free."""
        if self._connecting is None:
            self._connecting = self._pool.connect()
        # Shielded: the future is shared, and a deadline cancels only the waiting.
        await asyncio.shield(self._connecting)
        if self._pool.closed:
            raise DatabaseUnavailable("the server ends")
        return await self._acquire()

    async def _acquire(self) -> _Connection:
        getting: asyncio.Future[_Connection] = self._pool.getconn(ping=False)
        try:
            return await asyncio.shield(getting)
        except asyncio.CancelledError:
            # The deadline passed, or the caller is gone: a connection that arrives later is returned at once.
            with contextlib.suppress(ValueError):
                self._pool.conns.waiting_queue.remove(getting)
            getting.add_done_callback(self._return_unused)
            raise

    def _return_unused(self, getting: "asyncio.Future[_Connection]") -> None:
        if not getting.cancelled() and getting.exception() is None:
            self._pool.putconn(getting.result())

    @classmethod
    async def _execute(cls, connection: _Connection, query: str, parameters: Parameters) -> list[DbRow]:
        return await cls._answer(connection, connection.execute(query, parameters))

    @classmethod
    async def _execute_within(cls, connection: _Connection, query: Query, parameters: Parameters) -> list[DbRow]:
        return await cls._answer(connection, connection.execute_within(query, parameters))

    @staticmethod
    async def _answer(connection: _Connection, answering: "asyncio.Future[Any]") -> list[DbRow]:
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        try:
            db_cursor = await asyncio.shield(answering)
        except asyncio.CancelledError:
            try:
                if (left := begun_at + UNAWAITED_SECONDS - loop.time()) > 0:
                    await asyncio.wait({answering}, timeout=left)
            finally:
                if not answering.done():
                    connection.abandon("the deadline passed")
            answering.exception()  # retrieves it, so that nothing is logged
            raise
        return fetched(db_cursor) if db_cursor.description else []

    @classmethod
    async def _show(cls, connection: _Connection, query: str, parameters: Parameters) -> list[DbRow]:
        """Runs the query with StandIns for text that UTF-8 cannot express."""
        opened = cast(Psycopg, connection.connection)
        with opened.cursor() as db_cursor:
            whole = db_cursor.mogrify(query, parameters or None).decode()
        [(answer,)] = await cls._execute(connection, showing(whole), ())
        return rows_of(answer, str(opened.get_parameter_status("server_encoding")))

    def renew(self) -> None:
        """Replaces every connection, since they may be half open. Running statements are run again on the new ones."""
        conns = self._pool.conns
        for connection in (*conns.free, *conns.busy, *conns.pending):
            connection.renew()

    def close(self) -> None:
        """Closes every connection, and ends what runs on it."""
        for connection in self._pool.conns.busy:
            # momoko leaves the descriptor in the IOLoop, and libuv aborts a process that watches a closed one.
            connection.abandon("the server ends")
        self._pool.close()


def _is_of_connection(error: psycopg2.Error) -> bool:
    """Whether the error is of the connection, or of a stopping server (SQLSTATE 08… and 57P…), not of the statement."""
    if error.pgcode:
        return error.pgcode.startswith(("08", "57P"))
    # psycopg2 raises a plain DatabaseError if libpq gave it no SQLSTATE.
    return (
        isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError) or type(error) is psycopg2.DatabaseError
    )


def one_line(error: BaseException) -> str:
    """The driver's message in one line, with hints but without details, which may contain a row."""
    text = _MARKER_LINE.sub("", _without_detail(error)).strip()
    text = _NEW_SENTENCE.sub(r"\1. ", _NEW_PART.sub(r"\1; ", text))
    return " ".join(text.split()).removesuffix(".") or type(error).__name__


def _without_detail(error: BaseException) -> str:
    if isinstance(error, psycopg2.Error) and (primary := error.diag.message_primary):
        hint = error.diag.message_hint
        return f"{primary}\nHINT:  {hint}" if hint else primary
    return str(error)


# libpq's lines: a continued one is indented; a sentence, or a field such as HINT, begins with a capital.
_MARKER_LINE = re.compile(r"^\s*\^$\n?", re.MULTILINE)
_NEW_SENTENCE = re.compile(r"([^\s.?!:;,])\s*\n\s*(?=[A-Z])")
_NEW_PART = re.compile(r"([^\s.?!:;,])\s*\n(?=[^\sA-Z])")
