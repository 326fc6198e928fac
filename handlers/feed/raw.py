"""/listen/CHANNEL: the payloads of a NOTIFY channel, each unchanged in one text frame, as pg_eventserv sends them.

Such payloads are stored nowhere: they have no cursor, and a client that was disconnected has missed them.
"""

import asyncio
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from changefeed.hub import PLAIN_CHANNEL
from changefeed.postgres.raw_channels import NAME_LIMIT_BYTES, OUR_CHANNELS, ChannelRefused
from changefeed.selection.rights import Rights
from handlers.access.errors import ApiError
from handlers.http.close_codes import CloseCode
from handlers.http.context import ServerContext
from handlers.http.socket import BaseSocket

LISTEN_DEADLINE_SECONDS = 5.0
RAW_OUTAGE = "payloads may be missing: the server received no notifications for a while"


class ListenSocket(BaseSocket):
    """A client of one channel. Its handshake is answered once no later payload can be missed.

    A client that offers changefeed.v1 may authenticate after the handshake; it is answered by a `hello` or an `error`.
    After that come the payloads, unchanged.
    """

    kind = "raw"
    told_in_socket = ("sign_in",)
    knows_protocol = True
    _channel: str | None = None  # None unless the client follows it

    async def get(self, *args: Any, **kwargs: Any) -> None:
        try:
            await super().get(*args, **kwargs)
        finally:
            self._stop_listening()

    async def check_request(self, *args: str) -> None:
        [channel] = args
        check_channel(self.context, self.rights, channel)
        self._channel = channel
        await self._until_listening(channel)

    def begin(self) -> None:
        assert self._channel is not None
        if self.speaks_protocol:
            self.send_message("hello", channel=self._channel)
        self.context.raw_clients.add(self._channel, self)

    def on_close(self) -> None:
        super().on_close()
        self._stop_listening()

    async def on_message(self, message: str | bytes) -> None:
        """Ignores messages of an admitted client, as pg_eventserv does."""
        if not self.identity:
            await super().on_message(message)

    def lose(self) -> None:
        """Closes the socket: there is no other way to tell this client that payloads may be missing."""
        self._stop_listening()
        self.close(CloseCode.TRY_AGAIN_LATER, RAW_OUTAGE)

    async def _until_listening(self, channel: str) -> None:
        try:
            async with asyncio.timeout(LISTEN_DEADLINE_SECONDS):
                await self.context.listener.raw_channels.enter(channel)
        except TimeoutError:
            raise ApiError(503, "not_ready", "the server receives no notifications now; try again") from None
        except ChannelRefused as error:
            raise ApiError(400, "bad_channel", f"PostgreSQL refuses this channel: {error}") from None

    def _stop_listening(self) -> None:
        channel, self._channel = self._channel, None
        if channel is None:
            return
        self.context.listener.raw_channels.leave(channel)
        self.context.raw_clients.discard(channel, self)


def check_channel(context: ServerContext, rights: Rights, channel: str) -> None:
    """Raises ApiError if the caller may not follow the channel."""
    if len(channel.encode()) > NAME_LIMIT_BYTES or "\0" in channel:
        raise ApiError(
            400, "bad_channel", f"a channel's name must have at most {NAME_LIMIT_BYTES} bytes, none of them zero"
        )
    if fnmatchcase(channel, OUR_CHANNELS):
        raise ApiError(
            403, "channel_not_allowed", f"channel {channel} is internal to the server; follow the tables with /ws"
        )
    if channel == PLAIN_CHANNEL and not rights.sees_everything:
        raise ApiError(
            403,
            "channel_not_allowed",
            f"channel {channel} carries rows of any table: use a token that sees all, or follow yours with /ws",
        )
    if not (_matches(channel, context.settings.channels) and _matches(channel, rights.channels)):
        raise ApiError(
            403,
            "channel_not_allowed",
            f"channel {channel} is not open to you; --channels and the token's rights must both name it",
        )


def _matches(channel: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(channel, pattern) for pattern in patterns)
