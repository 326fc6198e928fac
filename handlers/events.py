"""The feed over WebSockets: /ws, plain or with the subprotocol changefeed.v1."""

from collections.abc import Mapping, Sequence

from changefeed import __version__
from handlers.dialects import PLAIN, PROTOCOL, Dialect
from handlers.feed_client import FeedClient, Start
from handlers.feed_query import fields_of_message, parse_query
from handlers.socket import BaseSocket

MESSAGE_LIMIT_BYTES = 64 * 1024


class EventSocket(BaseSocket, FeedClient):
    """A client of the feed. Plain, it gets frames as the original had them; with changefeed.v1, typed messages."""

    knows_protocol = True
    message_types = ("subscribe", "authenticate")
    _start: Start

    @property
    def dialect(self) -> Dialect:  # type: ignore[override]
        return PROTOCOL if self.speaks_protocol else PLAIN

    async def look(self, *args: str) -> None:
        self._start = await self._prepared(self.query_fields())

    def entered(self) -> None:
        self._say_hello(self._start)
        self.begin(self._start)

    def on_close(self) -> None:
        super().on_close()
        self.end()

    def on_drained(self) -> None:
        FeedClient.on_drained(self)

    async def heard(self, message: Mapping[str, object]) -> None:
        start = await self._prepared(fields_of_message(message))
        self._say_hello(start)
        self.subscribe_anew(start)

    async def _prepared(self, fields: Mapping[str, Sequence[str]]) -> Start:
        return await self.prepare_start(parse_query(fields, self.rights))

    def _say_hello(self, start: Start) -> None:
        if not self.speaks_protocol:
            return
        epoch = self.feed.journal.epoch
        self.send_message(
            "hello",
            cursor=self.cursor_of(start),
            epoch=epoch.hex() if epoch else None,
            server={"name": "psqlisten2websocket", "version": __version__},
            limits={"message_bytes": MESSAGE_LIMIT_BYTES, "outbox_bytes": self.feed.settings.outbox_limit_bytes},
        )
