"""The payloads of a NOTIFY channel, each as it came in one text frame: /listen/CHANNEL, as pg_eventserv has it.

Nobody keeps such payloads: they have no cursor, and who was away has missed them.
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
DEAF = "payloads may be missing: the server did not hear PostgreSQL for a while"


class ListenSocket(BaseSocket):
    """A client of one channel. Its handshake is answered when what is sent from then on reaches it.

    One that offers changefeed.v1, and may authenticate after the handshake, is told so by a `hello`, or by an `error`
    what is wrong. Then the payloads come, as they are.
    """

    kind = "raw"
    told_in_socket = ("sign_in",)
    knows_protocol = True
    _channel: str | None = None  # while it is wanted

    async def get(self, *args: Any, **kwargs: Any) -> None:
        try:
            await super().get(*args, **kwargs)
        finally:
            self._stop_listening()

    async def look(self, *args: str) -> None:
        [channel] = args
        check(self.context, self.rights, channel)
        self._channel = channel
        await self._until_heard(channel)

    def entered(self) -> None:
        assert self._channel is not None
        if self.speaks_protocol:
            self.send_message("hello", channel=self._channel)
        self.context.raw_clients.add(self._channel, self)

    def on_close(self) -> None:
        super().on_close()
        self._stop_listening()

    async def on_message(self, message: str | bytes) -> None:
        """Of one that is in it means nothing, as with pg_eventserv."""
        if not self.identity:
            await super().on_message(message)

    def lose(self) -> None:
        """Payloads may be missing, and this client can be told so by the close of its socket only."""
        self._stop_listening()
        self.close(CloseCode.TRY_AGAIN_LATER, DEAF)

    async def _until_heard(self, channel: str) -> None:
        try:
            async with asyncio.timeout(LISTEN_DEADLINE_SECONDS):
                await self.context.listener.raw_channels.enter(channel)
        except TimeoutError:
            raise ApiError(503, "not_ready", "the server does not hear PostgreSQL just now; try again") from None
        except ChannelRefused as error:
            raise ApiError(400, "bad_channel", f"PostgreSQL does not take this channel: {error}") from None

    def _stop_listening(self) -> None:
        channel, self._channel = self._channel, None
        if channel is None:
            return
        self.context.listener.raw_channels.leave(channel)
        self.context.raw_clients.discard(channel, self)


def check(context: ServerContext, rights: Rights, channel: str) -> None:
    """Raises ApiError for a channel that cannot be had."""
    if len(channel.encode()) > NAME_LIMIT_BYTES or "\0" in channel:
        raise ApiError(400, "bad_channel", f"a channel's name has at most {NAME_LIMIT_BYTES} bytes, none of them zero")
    if fnmatchcase(channel, OUR_CHANNELS):
        raise ApiError(403, "channel_not_allowed", f"channel {channel} is the server's own; follow the tables with /ws")
    if channel == PLAIN_CHANNEL and not rights.sees_everything:
        raise ApiError(
            403,
            "channel_not_allowed",
            f"channel {channel} tells of rows of any table: it takes a token that sees all; follow yours with /ws",
        )
    if not (_matches(channel, context.settings.channels) and _matches(channel, rights.channels)):
        raise ApiError(
            403,
            "channel_not_allowed",
            f"channel {channel} is not open to you; --channels opens it, and so must the rights of a token",
        )


def _matches(channel: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(channel, pattern) for pattern in patterns)
