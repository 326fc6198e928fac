"""The feed over WebSockets: /ws, plain or with the subprotocol changefeed.v1."""

import json
from typing import Any

from changefeed import __version__
from handlers.dialects import PLAIN, PROTOCOL, message_frame
from handlers.errors import ApiError
from handlers.feed_client import FeedClient, Start
from handlers.feed_query import fields_of_message, parse_query
from handlers.socket import POLICY_VIOLATION, BaseSocket

SUBPROTOCOL = "changefeed.v1"
MESSAGE_LIMIT_BYTES = 64 * 1024


class EventSocket(BaseSocket, FeedClient):
    """A client of the feed. Plain, it gets frames as the original had them; with changefeed.v1, typed messages."""

    _refusal: ApiError | None = None

    async def get(self, *args: Any, **kwargs: Any) -> None:
        offered = self.request.headers.get("Sec-WebSocket-Protocol", "")
        self.dialect = PROTOCOL if SUBPROTOCOL in map(str.strip, offered.split(",")) else PLAIN
        try:
            self._start = await self.prepare_start(parse_query(self.query_fields()))
        except ApiError as error:
            if self.dialect is PLAIN or error.status_code != 400:
                raise
            self._refusal = error  # a page never sees a refused handshake's reason; it is told in the socket
        await BaseSocket.get(self, *args, **kwargs)

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return SUBPROTOCOL if self.dialect is PROTOCOL else None

    def open(self, *args: str, **kwargs: str) -> None:
        super().open()
        if self._refusal:
            self._send_message("error", code=self._refusal.code, message=self._refusal.message)
            self.close(POLICY_VIOLATION, self._refusal.code)
            return
        self._say_hello(self._start)
        self.begin(self._start)

    def on_close(self) -> None:
        super().on_close()
        self.end()

    def on_drained(self) -> None:
        FeedClient.on_drained(self)

    async def on_message(self, message: str | bytes) -> None:
        """Tornado reads the next message when this one is dealt with."""
        if self.dialect is PLAIN:
            return
        try:
            start = await self.prepare_start(parse_query(fields_of_message(_read(message))))
        except ApiError as error:
            self._send_message("error", code=error.code, message=error.message)
        else:
            self._say_hello(start)
            self.subscribe_anew(start)

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

    def _send_message(self, kind: str, **fields: object) -> None:
        self.outbox.send(message_frame(kind, **fields))


def _read(message: str | bytes) -> dict[str, object]:
    """A `subscribe` message. Raises ApiError, which says why it is none."""
    try:
        parsed = json.loads(message)
    except ValueError as error:
        raise ApiError(400, "not_json", f"a message must be a JSON object with a type: {error}") from None
    except RecursionError:
        raise ApiError(400, "not_json", "a message must be a JSON object with a type: nested too deeply") from None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("type"), str):
        raise ApiError(400, "no_type", 'a message must be a JSON object with a type, as {"type": "subscribe"}')
    if parsed["type"] != "subscribe":
        raise ApiError(400, "unknown_type", f"this server knows no message of type {parsed['type'][:40]!r}")
    return parsed
