"""The feed over WebSockets: /ws, plain or with the subprotocol changefeed.v1."""

import json
from typing import Any

from changefeed import __version__
from handlers.dialects import PLAIN, PROTOCOL, message_frame
from handlers.feed_client import FeedClient
from handlers.socket import BaseSocket

SUBPROTOCOL = "changefeed.v1"
MESSAGE_LIMIT_BYTES = 64 * 1024


class EventSocket(BaseSocket, FeedClient):
    """A client of the feed. Plain, it gets frames as the original had them; with changefeed.v1, typed messages."""

    async def get(self, *args: Any, **kwargs: Any) -> None:
        offered = self.request.headers.get("Sec-WebSocket-Protocol", "")
        self.dialect = PROTOCOL if SUBPROTOCOL in map(str.strip, offered.split(",")) else PLAIN
        await self.read_query(self.get_query_argument("since", None))
        await BaseSocket.get(self, *args, **kwargs)

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return SUBPROTOCOL if self.dialect is PROTOCOL else None

    def open(self, *args: str, **kwargs: str) -> None:
        super().open()
        if self.dialect is PROTOCOL:
            self.outbox.send(self._hello())
        self.begin()

    def on_close(self) -> None:
        self.end()

    def on_message(self, message: str | bytes) -> None:
        if self.dialect is PROTOCOL:
            self.outbox.send(message_frame("error", **_refusal(message)))

    def _hello(self) -> bytes:
        epoch = self.feed.journal.epoch
        return message_frame(
            "hello",
            cursor=self.starting_cursor,
            epoch=epoch.hex() if epoch else None,
            server={"name": "psqlisten2websocket", "version": __version__},
            limits={"message_bytes": MESSAGE_LIMIT_BYTES, "outbox_bytes": self.feed.settings.outbox_limit_bytes},
        )


def _refusal(message: str | bytes) -> dict[str, object]:
    """Why a client's message is not understood."""
    try:
        parsed = json.loads(message)
    except ValueError as error:
        return {"code": "not_json", "message": f"a message must be a JSON object with a type: {error}"}
    except RecursionError:
        return {"code": "not_json", "message": "a message must be a JSON object with a type: nested too deeply"}
    if not isinstance(parsed, dict) or not isinstance(parsed.get("type"), str):
        return {"code": "no_type", "message": 'a message must be a JSON object with a type, as {"type": "…"}'}
    return {"code": "unknown_type", "message": f"this server knows no message of type {parsed['type'][:40]!r}"}
