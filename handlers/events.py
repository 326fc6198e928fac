"""The feed over WebSockets: /ws, plain or with the subprotocol changefeed.v1."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from changefeed import __version__
from handlers.dialects import PLAIN, PROTOCOL, message_frame
from handlers.errors import ApiError
from handlers.feed_client import FeedClient, Start
from handlers.feed_query import fields_of_message, parse_query
from handlers.socket import POLICY_VIOLATION, SIGN_IN, BaseSocket

SUBPROTOCOL = "changefeed.v1"
MESSAGE_LIMIT_BYTES = 64 * 1024
AUTHENTICATE_SECONDS = 10.0


class EventSocket(BaseSocket, FeedClient):
    """A client of the feed. Plain, it gets frames as the original had them; with changefeed.v1, typed messages.

    With changefeed.v1 it may say who it is by its first message. Until then, and for AUTHENTICATE_SECONDS at most, it
    is told nothing, not even what is wrong with its subscription.
    """

    _start: Start | ApiError
    _deadline: asyncio.TimerHandle | None = None

    async def get(self, *args: Any, **kwargs: Any) -> None:
        offered = self.request.headers.get("Sec-WebSocket-Protocol", "")
        self.dialect = PROTOCOL if SUBPROTOCOL in map(str.strip, offered.split(",")) else PLAIN
        await BaseSocket.get(self, *args, **kwargs)

    async def look(self, *args: str) -> None:
        try:
            self._start = await self._prepared(self.query_fields())
        except ApiError as error:
            if self.dialect is PLAIN or error.status_code != 400:
                raise
            self._start = error  # a page never sees a refused handshake's reason; it is told in the socket

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return SUBPROTOCOL if self.dialect is PROTOCOL else None

    def entered(self) -> None:
        if isinstance(self._start, ApiError):
            self._send_error(self._start)
            self.close(POLICY_VIOLATION, self._start.code)
            return
        self._say_hello(self._start)
        self.begin(self._start)

    def ask_who(self) -> None:
        if self.dialect is PLAIN:
            super().ask_who()
        else:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(AUTHENTICATE_SECONDS, self.close, SIGN_IN, "authenticate in time")

    def refuse(self, error: ApiError) -> None:
        """Says why to the holder of a token: a page cannot read what HTTP would answer."""
        if self.dialect is PROTOCOL:
            self._send_error(error)
        super().refuse(error)

    def on_close(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        super().on_close()
        self.end()

    def on_drained(self) -> None:
        FeedClient.on_drained(self)

    async def on_message(self, message: str | bytes) -> None:
        """Tornado reads the next message when this one is dealt with."""
        if self.dialect is PLAIN:
            return
        read = None
        try:
            read = _read(message)
            if read["type"] == "authenticate":
                await self._authenticate(read)
            elif self.identity:
                await self._subscribe_anew(read)
            else:
                raise ApiError(401, "sign_in", "authenticate first")
        except ApiError as error:
            if self.identity:
                self._send_error(error)
            elif read is None or read["type"] != "authenticate":
                self.close(SIGN_IN, error.code)  # nothing is told to who does not even try
            else:
                self.refuse(error)

    async def _authenticate(self, message: Mapping[str, object]) -> None:
        """The first time it lets somebody in; later it lets him stay for longer. Raises ApiError."""
        token = message.get("token")
        if not isinstance(token, str):
            raise ApiError(400, "bad_token", 'the message is {"type": "authenticate", "token": "…"}')
        identity = await self.feed.gate.identify_token(token)
        self.feed.gate.refuse_nothing(identity.rights)
        if self.identity and self.identity.rights != identity.rights:
            raise ApiError(403, "other_rights", "this token has other rights than the one before; connect anew with it")
        if self.ws_connection is None:
            return  # it took too long
        if self.identity:
            self.identity = identity
            self.keep_while_valid()
            return
        self.feed.admission.check_token(identity.holder)
        self.identity = identity
        self.enter_as_somebody()
        if self._deadline:
            self._deadline.cancel()
        try:
            self._start = await self._prepared(self.query_fields())
        except ApiError as error:
            self._start = error
        self.entered()

    async def _subscribe_anew(self, message: Mapping[str, object]) -> None:
        start = await self._prepared(fields_of_message(message))
        self._say_hello(start)
        self.subscribe_anew(start)

    async def _prepared(self, fields: Mapping[str, Sequence[str]]) -> Start:
        return await self.prepare_start(parse_query(fields, self.rights))

    def _say_hello(self, start: Start) -> None:
        if self.dialect is PLAIN:
            return
        epoch = self.feed.journal.epoch
        self._send_message(
            "hello",
            cursor=self.cursor_of(start),
            epoch=epoch.hex() if epoch else None,
            server={"name": "psqlisten2websocket", "version": __version__},
            limits={"message_bytes": MESSAGE_LIMIT_BYTES, "outbox_bytes": self.feed.settings.outbox_limit_bytes},
        )

    def _send_error(self, error: ApiError) -> None:
        self._send_message("error", code=error.code, message=error.message)

    def _send_message(self, kind: str, **fields: object) -> None:
        self.outbox.send(message_frame(kind, **fields))


def _read(message: str | bytes) -> dict[str, object]:
    """A message of a type that is known. Raises ApiError, which says why it is none."""
    try:
        parsed = json.loads(message)
    except ValueError as error:
        raise ApiError(400, "not_json", f"a message must be a JSON object with a type: {error}") from None
    except RecursionError:
        raise ApiError(400, "not_json", "a message must be a JSON object with a type: nested too deeply") from None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("type"), str):
        raise ApiError(400, "no_type", 'a message must be a JSON object with a type, as {"type": "subscribe"}')
    if parsed["type"] not in ("subscribe", "authenticate"):
        raise ApiError(400, "unknown_type", f"this server knows no message of type {parsed['type'][:40]!r}")
    return parsed
