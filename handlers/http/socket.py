"""What all WebSockets share: the origin check, the outbox, authentication, errors, the end of a token."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, ClassVar, cast
from urllib.parse import urlsplit

from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream
from tornado.websocket import WebSocketHandler, WebSocketProtocol, _WebSocketParams

from handlers.access.admitted import AdmittedClient
from handlers.access.authentication import SIGN_IN_ADVICE, Need
from handlers.access.errors import ApiError, foreign_origin
from handlers.access.frame_limit import FrameLimitProtocol
from handlers.access.rate import BURST_SECONDS
from handlers.delivery.dialects import message_frame
from handlers.delivery.outbox import Outbox
from handlers.http.base import BaseHandler
from handlers.http.close_codes import CloseCode

_NO_HEADERS = HTTPHeaders()
logger = logging.getLogger("handlers.socket")

SUBPROTOCOL = "changefeed.v1"
AUTHENTICATE_SECONDS = 10.0


class BaseSocket(WebSocketHandler, BaseHandler):
    """A WebSocket; its `outbox` takes whole frames.

    A page cannot send a header, and cannot read why its handshake was refused. So the handshake of a client without a
    token succeeds. If the client offers changefeed.v1, on a socket that `knows_protocol`, its first message may
    authenticate it, within AUTHENTICATE_SECONDS. Until then it is sent nothing, not even what is wrong with its
    request. Any other socket is closed with SIGN_IN, or refused if its token has no right. begin() is called only
    for authenticated clients.
    """

    needs = Need.TOKEN
    told_in_socket: ClassVar[tuple[str, ...]] = ("sign_in", "no_rights")
    is_for_clients = True
    outbox: Outbox
    kind: ClassVar[str] = "feed"  # as ClientCounts names it
    knows_protocol: ClassVar[bool] = False
    message_types: ClassVar[tuple[str, ...]] = ("authenticate",)
    speaks_protocol = False
    _admitted: AdmittedClient | None = None
    is_closed = False
    _deadline: asyncio.TimerHandle | None = None
    _trouble: ApiError | None = None  # an error in the request that made the handshake

    async def get(self, *args: Any, **kwargs: Any) -> None:
        # First: a client whose socket does not open asks for the same address by HTTP, to learn whether it is right.
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            raise ApiError(400, "not_a_websocket", 'this path is a WebSocket; connect with new WebSocket("ws://…")')
        offered = self.request.headers.get("Sec-WebSocket-Protocol", "")
        self.speaks_protocol = self.knows_protocol and SUBPROTOCOL in map(str.strip, offered.split(","))
        if self.identity:
            try:
                await self.check_request(*args)
            except ApiError as error:
                if not self.speaks_protocol or error.status_code >= 500:
                    raise
                self._trouble = error
        refuse_unreadable_origin(self.request.headers.get("Origin", ""))
        if self.identity:
            self.context.admission.check(self.request.remote_ip, self.identity.holder)
        await super().get(*args, **kwargs)

    async def check_request(self, *args: str) -> None:
        """Checks the request before the client is admitted. Raises ApiError."""

    def begin(self) -> None:
        """Called once the client is authenticated and admitted."""

    async def handle_message(self, message: Mapping[str, object]) -> None:
        """Handles a message of changefeed.v1, of one of `message_types`, by an admitted client. Raises ApiError."""

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return SUBPROTOCOL if self.speaks_protocol else None

    def refuse(self, error: ApiError) -> None:
        """Closes the open socket and says why, since a page cannot read an HTTP error.

        A passing trouble is not sent as an error: the close code says enough.
        """
        if self.speaks_protocol and error.status_code < 500:
            self.tell_error(error)
        self.close(CloseCode.of(error), error.code)

    def check_origin(self, origin: str) -> bool:
        if self.names_origin(origin) or super().check_origin(origin):
            return True
        raise foreign_origin(origin)

    def open(self, *args: str, **kwargs: str) -> None:
        self._task = None  # the request is answered
        if self.is_closed:
            return  # the client left before its handshake was answered
        self.set_nodelay(True)
        # Bypasses Tornado's write_message, which would encode a frame per client. A test pins what this uses.
        stream = cast(IOStream, cast(Any, self.ws_connection).stream)
        self.outbox = Outbox(stream, self.context.settings.outbox_limit_bytes, self.give_up)
        self.request.headers = self._headers = _NO_HEADERS  # they are a tenth of the memory of an idle client
        if self.identity:
            self._take_place()
            self._begin()
        else:
            self._wait_outside()

    def _take_place(self) -> None:
        assert self.identity
        self._admitted = self.admit(self.kind, self.identity, self._expire)

    def _begin(self) -> None:
        if self._trouble:
            self.refuse(self._trouble)
        else:
            self.begin()

    def _wait_outside(self) -> None:
        for one in self.context.admission.wait_outside(self, self.request.remote_ip):
            cast(BaseSocket, one).turn_away()
        if self.refusal and self.refusal.code != "sign_in":
            self.refuse(self.refusal)
        elif self.speaks_protocol:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(
                AUTHENTICATE_SECONDS, self.close, CloseCode.SIGN_IN, "authenticate in time"
            )
        else:
            self.close(CloseCode.SIGN_IN, "sign in")

    def turn_away(self) -> None:
        """Closes the socket and makes room at once, without waiting for the client's close frame."""
        self.close(CloseCode.TRY_AGAIN_LATER, "too many others are about to authenticate; try again later")
        self.outbox.abort()

    async def on_message(self, message: str | bytes) -> None:
        """Tornado reads the next message once this returns."""
        if not self.speaks_protocol:
            return
        read = None
        try:
            read = read_message(message, self.message_types)
            if read["type"] == "authenticate":
                await self.while_open(self._authenticate(read))
            elif self.identity:
                await self.while_open(self.handle_message(read))
            else:
                raise ApiError(401, "sign_in", "authenticate first")
        except ApiError as error:
            if self.identity:
                self.tell_error(error)
            elif read is None or read["type"] != "authenticate":
                self.close(CloseCode.SIGN_IN, error.code)  # says no more to a client that does not try to authenticate
            else:
                self.refuse(error)

    async def while_open(self, work: Awaitable[None]) -> None:
        """Does the work for a message, or a part of it if the client leaves meanwhile."""
        self._task = asyncio.current_task()
        try:
            await work
        except asyncio.CancelledError:
            if not self._is_gone:
                raise
        finally:
            self._task = None

    async def _authenticate(self, message: Mapping[str, object]) -> None:
        """Admits the client the first time; later, extends its stay by a newer token. Raises ApiError.

        Without a token the client asks whether it needs one, so that it does not wait for AUTHENTICATE_SECONDS.
        """
        token = message.get("token")
        if self.identity and (token is None or not self.context.authenticator.tokens.are_required):
            return
        if token is None:
            raise ApiError(401, "sign_in", SIGN_IN_ADVICE)
        if not isinstance(token, str):
            raise ApiError(401, "bad_token", 'send {"type": "authenticate", "token": "…"}')
        identity = await self.context.authenticator.identify_token(token)
        self.context.authenticator.refuse_nothing(identity.rights)
        if self.identity and self.identity.rights != identity.rights:
            raise ApiError(
                403, "other_rights", "this token has other rights than the previous one; open a new connection with it"
            )
        if self.ws_connection is None:
            return  # it took too long
        if self.identity:
            self.identity = identity
            if self._admitted:
                self._admitted.renew(identity)
            return
        self.context.admission.check(self.request.remote_ip, identity.holder)
        self.identity = identity
        self._leave_outside()
        self._take_place()
        try:
            await self.check_request(*self.path_args)
        except ApiError as error:
            self._trouble = error
        if self.ws_connection is not None:
            self._begin()

    def _leave_outside(self) -> None:
        self.context.admission.leave_outside(self)
        if self._deadline:
            self._deadline.cancel()

    def tell_error(self, error: ApiError) -> None:
        self.send_message("error", code=error.code, message=error.message)

    def send_message(self, kind: str, **fields: object) -> None:
        """Sends a message of changefeed.v1."""
        self.outbox.send(message_frame(kind, **fields))

    def _expire(self) -> None:
        self.outbox.close()  # at once: nothing more may be sent until the client has closed too
        self.close(CloseCode.TOKEN_EXPIRED, "the token has expired")

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.end()

    def on_close(self) -> None:
        self.is_closed = True
        self._leave_outside()
        if self._admitted:
            self._admitted.leave()
        if hasattr(self, "outbox"):  # else the client left before the socket was open
            self.outbox.close()

    def leave(self, reason: str) -> None:
        """Closes the socket; the client may reconnect, later or elsewhere."""
        self.close(CloseCode.GOING_AWAY, reason)

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        """As Tornado's, but with counted frames and without compression."""
        if self.request.headers.get("Sec-WebSocket-Version") != "13":
            return None
        params = _WebSocketParams(self.ping_interval, self.ping_timeout, self.max_message_size)
        return FrameLimitProtocol(self, False, params)

    @property
    def may_send(self) -> tuple[int, int]:
        settings = self.context.settings
        return settings.client_messages_per_second, settings.client_bytes_per_second

    def stop_talking(self) -> None:
        logger.info("closed a client that sent too much")
        self.context.delivery_counts.count_sent_too_much(self.kind)
        self.outbox.close()
        self.close(CloseCode.POLICY_VIOLATION, f"you send too much; send less, and reconnect in {BURST_SECONDS} s")

    def give_up(self) -> None:
        logger.info("closed a client that did not read")
        self.context.delivery_counts.count_outbox_full(self.kind)
        self.close(CloseCode.TRY_AGAIN_LATER, "the outbox is full: read faster, or ask for less")


def refuse_unreadable_origin(origin: str) -> None:
    """Raises ApiError for what is no URL, as http://[; Tornado's check of the origin would raise ValueError for it."""
    try:
        urlsplit(origin)
    except ValueError:
        raise foreign_origin(origin) from None


def read_message(message: str | bytes, types: Sequence[str]) -> dict[str, object]:
    """Parses a message of one of these types. Raises ApiError if it is not one."""
    try:
        parsed = json.loads(message)
    except ValueError as error:
        raise ApiError(400, "not_json", f"a message must be a JSON object with a type: {error}") from None
    except RecursionError:
        raise ApiError(400, "not_json", "a message must be a JSON object with a type: nested too deeply") from None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("type"), str):
        raise ApiError(400, "no_type", 'a message must be a JSON object with a type, as {"type": "subscribe"}')
    if parsed["type"] not in types:
        known = " or ".join(types)
        raise ApiError(400, "unknown_type", f"unknown type of message: {parsed['type'][:40]!r}; write {known}")
    return parsed
