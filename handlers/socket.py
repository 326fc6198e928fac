"""What the WebSockets share: the origin check, the outbox, errors before the handshake, the end of a token."""

import logging
from typing import Any, ClassVar, cast

from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream
from tornado.websocket import WebSocketHandler, WebSocketProtocol, _WebSocketParams

from handlers.base import BaseHandler
from handlers.errors import ApiError, foreign_origin
from handlers.expiry import Expiry
from handlers.gate import Need
from handlers.metered import MeteredProtocol
from handlers.outbox import Outbox
from handlers.pace import BURST_SECONDS

_NO_HEADERS = HTTPHeaders()
logger = logging.getLogger(__name__)

TRY_AGAIN_LATER = 1013  # the registered close code for a client that may come back (IANA WebSocket registry)
GOING_AWAY = 1001
POLICY_VIOLATION = 1008
# Of the range for private use (RFC 6455, 7.4.2), after HTTP's 401 and 419.
SIGN_IN = 4401
TOKEN_EXPIRED = 4419


class BaseSocket(WebSocketHandler, BaseHandler):
    """A WebSocket; its `outbox` takes whole frames.

    A page is not told why its handshake was refused. So who has no token, or one without a right, gets in, and no
    further: entered() is called for somebody only, and the others are closed with SIGN_IN, or refused.
    """

    needs = Need.TOKEN
    told_in_socket: ClassVar[tuple[str, ...]] = ("sign_in", "no_rights")
    is_for_clients = True
    outbox: Outbox
    _holder: str | None = None  # whose clients it is counted among
    _expiry: Expiry | None = None
    kind: ClassVar[str] = "feed"  # as the census counts it

    async def get(self, *args: Any, **kwargs: Any) -> None:
        if self.identity:
            await self.look(*args)
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            raise ApiError(400, "not_a_websocket", 'this path is a WebSocket; connect with new WebSocket("ws://…")')
        self.feed.admission.check(self.request.remote_ip, self.identity.holder if self.identity else None)
        await super().get(*args, **kwargs)

    async def look(self, *args: str) -> None:
        """Before the handshake: raises ApiError where what somebody asks for cannot be had."""

    def entered(self) -> None:
        """Somebody is there, and may be sent what he may see."""

    def ask_who(self) -> None:
        """The socket is open, and nobody knows for whom."""
        self.close(SIGN_IN, "sign in")

    def refuse(self, error: ApiError) -> None:
        """Closes the open socket, and says why."""
        code = {403: POLICY_VIOLATION, 503: TRY_AGAIN_LATER}.get(error.status_code, SIGN_IN)
        self.close(code, error.code)

    def check_origin(self, origin: str) -> bool:
        if self.names_origin(origin) or super().check_origin(origin):
            return True
        raise foreign_origin(origin)

    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)
        self.feed.admission.enter(self.request.remote_ip, self.kind)
        # Under Tornado's write_message, which would frame anew for each client; a test pins what is relied on here.
        stream = cast(IOStream, cast(Any, self.ws_connection).stream)
        self.outbox = Outbox(stream, self.feed.settings.outbox_limit_bytes, self.give_up, self.on_drained)
        self.request.headers = self._headers = _NO_HEADERS  # a tenth of what an idle client would cost
        if self.identity:
            self.enter_as_somebody()
            self.entered()
        elif self.refusal and self.refusal.code != "sign_in":
            self.refuse(self.refusal)
        else:
            self.ask_who()

    def enter_as_somebody(self) -> None:
        assert self.identity
        self._holder = self.identity.holder
        self.feed.admission.enter_with(self._holder)
        self.keep_while_valid()

    def keep_while_valid(self) -> None:
        """Closes the socket when the token expires by which somebody is here."""
        assert self.identity
        if self._expiry:
            self._expiry.cancel()
        self._expiry = Expiry(self.identity, self._expire)

    def _expire(self) -> None:
        self.outbox.close()  # at once: what is sent until the client has closed too is too much
        self.close(TOKEN_EXPIRED, "the token has expired")

    def on_close(self) -> None:
        if hasattr(self, "outbox"):  # else the client was gone before the socket was open
            self.feed.admission.leave(self.request.remote_ip, self.kind, self._holder)
            self.outbox.close()
        if self._expiry:
            self._expiry.cancel()

    def on_drained(self) -> None:
        """The client reads again, after a time in which it did not."""

    def leave(self, reason: str) -> None:
        """Closes the socket; the client may come back elsewhere, or later."""
        self.close(GOING_AWAY, reason)

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        """As Tornado's; of compression there is none."""
        if self.request.headers.get("Sec-WebSocket-Version") != "13":
            return None
        params = _WebSocketParams(self.ping_interval, self.ping_timeout, self.max_message_size)
        return MeteredProtocol(self, False, params)

    @property
    def may_send(self) -> tuple[int, int]:
        settings = self.feed.settings
        return settings.client_messages_per_second, settings.client_bytes_per_second

    def stop_talking(self) -> None:
        logger.info("closed a client that sent too much")
        self.feed.deliveries.sent_too_much(self.kind)
        self.outbox.close()
        self.close(POLICY_VIOLATION, f"you send too much; send less, and come back in {BURST_SECONDS} s")

    def give_up(self) -> None:
        logger.info("closed a client that did not read")
        self.feed.deliveries.outbox_full(self.kind)
        self.close(TRY_AGAIN_LATER, "the outbox is full: read faster, or ask for less")
