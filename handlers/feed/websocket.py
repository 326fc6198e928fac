"""/ws: the feed over WebSockets, plain or with the subprotocol changefeed.v1."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from changefeed import __version__
from changefeed.change.change import Change
from handlers.access.errors import ApiError
from handlers.delivery.dialects import PLAIN, V1, Dialect
from handlers.delivery.live_clients import LiveClients
from handlers.feed.client import FeedClient
from handlers.feed.query import fields_of_message, parse_stream_query
from handlers.feed.start import Start, cursor_of, prepare_start
from handlers.http.close_codes import CloseCode
from handlers.http.socket import BaseSocket

MESSAGE_LIMIT_BYTES = 64 * 1024


class EventSocket(BaseSocket):
    """A client of the feed. A plain one gets the original's frames; one with changefeed.v1 gets typed messages.

    Each server has a subclass, see event_socket_of(); this base has no clients to broadcast to.
    """

    live_clients: ClassVar[LiveClients]  # set by event_socket_of(), to those of one server
    knows_protocol = True
    message_types = ("subscribe", "authenticate")
    _start: Start
    _client: FeedClient | None = None  # while the socket is open and authenticated

    @classmethod
    def broadcast(
        cls, changes: Sequence[Change], cursor: str | None, on_sent: Callable[[int], None] = lambda deliveries: None
    ) -> None:
        """Sends the changes to every client of the server, over any transport; see LiveClients.broadcast()."""
        cls.live_clients.broadcast(changes, cursor, on_sent)

    @property
    def dialect(self) -> Dialect:
        return V1 if self.speaks_protocol else PLAIN

    async def check_request(self, *args: str) -> None:
        self._start = await self._prepared(self.query_fields())

    def begin(self) -> None:
        self._say_hello(self._start)
        self._client = FeedClient(self.context, self, self.dialect, self._start, self.owner)

    def on_close(self) -> None:
        super().on_close()
        if self._client:
            self._client.end()

    def refuse_rows(self, error: ApiError) -> None:
        self.tell_error(error)
        self.close(CloseCode.of(error), error.code)

    async def handle_message(self, message: Mapping[str, object]) -> None:
        start = await self._prepared(fields_of_message(message))
        await self.live_clients.settled()  # so that it has all that the subscription before asked for, up to `hello`
        if self._client and not self.is_closed:
            self._say_hello(start)
            self._client.resubscribe(start)

    async def _prepared(self, fields: Mapping[str, Sequence[str]]) -> Start:
        return await prepare_start(self.context, parse_stream_query(fields, self.rights), self.dialect)

    def _say_hello(self, start: Start) -> None:
        if not self.speaks_protocol:
            return
        epoch = self.context.journal.epoch
        self.send_message(
            "hello",
            cursor=cursor_of(self.context, start),
            epoch=epoch.hex() if epoch else None,
            server={"name": "psqlisten2websocket", "version": __version__},
            limits={"message_bytes": MESSAGE_LIMIT_BYTES, "outbox_bytes": self.context.settings.outbox_limit_bytes},
        )


def event_socket_of(clients: LiveClients) -> type[EventSocket]:
    """The handler class of one server. Its broadcast() reaches the clients of this server, and of no other."""

    class ServerEventSocket(EventSocket):
        live_clients = clients

    return ServerEventSocket
