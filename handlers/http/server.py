"""The HTTP server, with bounds that Tornado's own lacks: on waiting connections and on unread answers.

Tornado bounds times only: `idle_connection_timeout` from the connection or the last answer until TLS is negotiated and
all headers have arrived, and `body_timeout` for the body after them. It bounds neither the number of such connections,
nor how long an unread answer may wait, nor the memory of all unread answers.
"""

import contextlib
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream
from tornado.web import Application

from changefeed.owners import Owner
from changefeed.turns import LimitedStarts
from handlers.access.admission import Admission
from handlers.access.forwarded import network_of
from handlers.http.context import ServerContext
from process.open_files import raise_limit
from process.shared_numbers import SharedNumber, SharedNumbers

CLOSED = "changefeed_connections_closed_total"
HEADERS_LIMIT_BYTES = 32 << 10
BODY_LIMIT_BYTES = 16 << 10  # it is held before the caller is authenticated
DISCARDED_LIMIT_BYTES = 256 << 10  # a larger body is read up to here and discarded, so that the client reads the answer
STARTS_PER_TURN = 8  # of requests on connections that had one before: some 8 ms in one turn of the loop
SPARE_FILES = 64  # open besides the clients: connections to the database, files being read
# Linux has TCP_USER_TIMEOUT in milliseconds, macOS TCP_RXT_CONNDROPTIME in seconds.
DROP_OPTION, DROP_UNITS_PER_SECOND = (socket.TCP_USER_TIMEOUT, 1000) if sys.platform == "linux" else (0x80, 1)
TCP_ESTABLISHED = 1  # the first byte of TCP_INFO
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nConnection: close\r\n"
    b"Content-Type: application/json; charset=UTF-8\r\nContent-Length: 110\r\n\r\n"
    b'{"error": {"code": "too_many_connections", "message": "the server can open no more files; try again in 10 s"}}'
)


class BoundedServer(HTTPServer):
    """Holds at most `waiting_limit` connections whose request has not arrived; beyond it the oldest is closed.

    It also closes the oldest when there are `open_limit` connections and clients, since a process that is out of file
    descriptors can accept no connection. If none is waiting, the newcomer gets a 503. `clients` counts the clients.

    All but the first requests of a connection take turns, each owner's in turn: they can all arrive at once.
    """

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        self._waiting_limit: int = kwargs.pop("waiting_limit")
        self._open_limit: float = kwargs.pop("open_limit")
        self._clients: Callable[[], int] = kwargs.pop("clients")
        numbers: SharedNumbers = kwargs.pop("numbers")
        self._request_seconds: float = kwargs["idle_connection_timeout"]
        # The next request of each connection and since when it waits, oldest first. A connection whose request has
        # arrived stays here until it is looked at.
        self._waiting: dict[object, tuple[HTTP1Connection, float]] = {}
        self._starts = LimitedStarts(STARTS_PER_TURN)
        self._closed = {reason: numbers.number(CLOSED, reason) for reason in ("slow", "crowded", "files")}
        super().initialize(*args, **kwargs)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if self._clients() + len(self._connections) >= self._open_limit and not self._close_oldest("files"):
            self._closed["files"].add(1)
            with contextlib.suppress(OSError):
                stream.socket.send(FULL)
            stream.close()
            return
        set_tcp_user_timeout(stream.socket, self._request_seconds)
        super().handle_stream(stream, address)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        self._waiting.pop(server_conn, None)
        self._waiting[server_conn] = (cast(HTTP1Connection, request_conn), time.monotonic())
        while len(self._waiting) > self._waiting_limit:
            self._look_at_oldest("crowded")
        connection = cast(Any, request_conn).context
        until_turn = partial(self._starts.take, connection.owner) if hasattr(connection, "owner") else None
        connection.owner = Owner(None, network_of(connection.remote_ip))
        return _PacedRequest(super().start_request(server_conn, request_conn), until_turn)

    def on_close(self, server_conn: object) -> None:
        request, since = self._waiting.pop(server_conn, (None, 0.0))
        # By this clock, a timer may fire a little early.
        if request and not has_arrived(request) and time.monotonic() - since >= 0.9 * self._request_seconds:
            self._closed["slow"].add(1)
        super().on_close(server_conn)

    def _close_oldest(self, reason: str) -> bool:
        """False if no connection is waiting for its request."""
        while self._waiting:
            if self._look_at_oldest(reason):
                return True
        return False

    def _look_at_oldest(self, reason: str) -> bool:
        """Takes the oldest from `_waiting`, and closes it if its request has not arrived."""
        request, _ = self._waiting.pop(next(iter(self._waiting)))
        if has_arrived(request):
            return False
        self._closed[reason].add(1)
        request.close()
        return True


class _PacedRequest(HTTPMessageDelegate):
    """Passes on a request in its turn, and its body up to one byte more than BODY_LIMIT_BYTES: that is too large."""

    def __init__(self, request: HTTPMessageDelegate, until_turn: Callable[[], Awaitable[None]] | None) -> None:
        self._request = request
        self._until_turn = until_turn
        self._left = BODY_LIMIT_BYTES + 1

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        if self._until_turn is None:
            return self._request.headers_received(start_line, headers)
        return self._go_on_in_turn(self._until_turn(), start_line, headers)

    async def _go_on_in_turn(
        self, turn: Awaitable[None], start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        await turn
        if going_on := self._request.headers_received(start_line, headers):
            await going_on

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        kept = chunk[: self._left]
        self._left -= len(kept)
        return self._request.data_received(kept) if kept else None

    def finish(self) -> None:
        self._request.finish()

    def on_connection_close(self) -> None:
        self._request.on_connection_close()


def has_arrived(request: HTTP1Connection) -> bool:
    """Whether the whole request has arrived. A test pins what this uses of Tornado."""
    return request._read_finished or request.stream is None


def bound_what_is_unread(request: HTTPServerRequest, owner: Owner, admission: Admission, closed: SharedNumber) -> None:
    """Called after a write: counts the bytes that the kernel has not taken yet, until it has or the connection ends."""
    connection = cast(HTTP1Connection, request.connection)
    written, stream = connection._pending_write, connection.stream
    if stream and stream.error:
        # Its frames have the answer, and the stream is in cycles: it would stay until the garbage collector comes.
        stream.error.__traceback__ = None
    if written is None or written.done() or stream is None:
        admission.unread.discard(connection)
        return
    written.add_done_callback(lambda _: admission.unread.discard(connection))
    _forget_what_is_taken(stream._write_buffer)
    bound_what_is_held(request, owner, admission, closed, len(stream._write_buffer))


def bound_what_is_held(
    request: HTTPServerRequest, owner: Owner, admission: Admission, closed: SharedNumber, size_bytes: int
) -> None:
    """Counts the bytes of an answer that is not read yet, in place of what was counted for this connection before."""
    for other in admission.unread.add(request.connection, owner, size_bytes):
        closed.add(1)
        # Its stream, so that the request notices, as when the client is gone.
        cast(HTTP1Connection, other).stream.close()


def note_owner(request: HTTPServerRequest, owner: Owner) -> None:
    """The next request on the connection takes its turn as this owner's."""
    cast(Any, request.connection).context.owner = owner


def is_connected(request: HTTPServerRequest) -> bool:
    """Whether the client has closed nothing yet, as far as the system can tell; Tornado notices in a later turn.

    Tornado does not notice at all while there are bytes to read, such as those of a next request.
    """
    stream = cast(HTTP1Connection, request.connection).stream
    if stream is None or stream.closed():
        return False
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or not TCP
        return stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_ESTABLISHED
    return True


def _forget_what_is_taken(buffer: Any) -> None:
    """Frees what the kernel has taken of an answer; Tornado keeps it all until the last byte is taken."""
    rest = []
    while len(buffer):
        with buffer.peek(len(buffer)) as part:
            rest.append(bytes(part))
        buffer.advance(len(rest[-1]))
    for part in rest:
        buffer.append(part)


def set_tcp_user_timeout(connection: socket.socket, seconds: float) -> None:
    """Lets TCP end the connection if sent data stays unacknowledged for this long (RFC 5482)."""
    connection.setsockopt(socket.IPPROTO_TCP, DROP_OPTION, round(seconds * DROP_UNITS_PER_SECOND))


def make_server(app: Application, context: ServerContext, **options: Any) -> BoundedServer:
    """`options` are Tornado's; not xheaders, since handlers/access/forwarded.py reads the headers of proxies."""
    settings = context.settings
    return BoundedServer(
        app,
        waiting_limit=settings.waiting_connection_limit,
        open_limit=raise_limit() - SPARE_FILES,
        clients=lambda: context.admission.count,
        numbers=context.slot.numbers,
        idle_connection_timeout=settings.request_seconds,
        body_timeout=settings.request_seconds,
        max_header_size=HEADERS_LIMIT_BYTES,
        max_body_size=DISCARDED_LIMIT_BYTES,
        chunk_size=BODY_LIMIT_BYTES,
        xheaders=False,
        **options,
    )
