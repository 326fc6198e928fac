"""Runs LISTEN and UNLISTEN for the channels that clients follow, one after the other.

Knows no connection and no client: how to run a statement is an argument.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from psycopg2 import sql

OUR_CHANNELS = "changefeed*"  # the journal's wake-ups and every server's canary
NAME_LIMIT_BYTES = 63  # PostgreSQL truncates a longer one in LISTEN, and refuses it in pg_notify() (NAMEDATALEN)

Run = Callable[[sql.Composable], Awaitable[None]]


class ChannelRefused(Exception):
    """PostgreSQL refuses this channel; the message is its own."""


@dataclass
class _Wanted:
    listening: "asyncio.Future[None]"
    count: int = 0


class RawChannels:
    """Counts the clients of each channel. LISTEN lasts from the first client's enter() to the last one's leave().

    The owner of the connection LISTENs to the channels of `always`.
    """

    def __init__(self, always: Iterable[str]) -> None:
        self._always = frozenset(always)
        self._wanted: dict[str, _Wanted] = {}
        self._unsettled: dict[str, None] = {}  # channels to LISTEN or UNLISTEN, in order
        self._woken = asyncio.Event()

    async def enter(self, channel: str) -> None:
        """Returns once no later payload on `channel` is missed. May raise ChannelRefused; call leave() even then."""
        wanted = self._wanted.get(channel)
        if wanted is None:
            wanted = self._wanted[channel] = _Wanted(asyncio.get_running_loop().create_future())
            self._look_at(channel)
        wanted.count += 1
        await asyncio.shield(wanted.listening)

    def leave(self, channel: str) -> None:
        wanted = self._wanted[channel]
        wanted.count -= 1
        if not wanted.count:
            del self._wanted[channel]
            wanted.listening.cancel()
            self._look_at(channel)

    async def keep(self, run: Run) -> None:
        """Keeps a connection listening to exactly the wanted channels. Runs until cancelled or `run` raises."""
        listened = set(self._always)
        self._unsettled = dict.fromkeys(self._wanted)
        try:
            while True:
                while self._unsettled:
                    channel = next(iter(self._unsettled))
                    del self._unsettled[channel]
                    await self._settle(channel, listened, run)
                self._woken.clear()
                await self._woken.wait()
        finally:
            # Clients that enter from now on wait for the next connection.
            for wanted in self._wanted.values():
                if wanted.listening.done():
                    wanted.listening = wanted.listening.get_loop().create_future()

    async def _settle(self, channel: str, listened: set[str], run: Run) -> None:
        if channel in self._wanted and channel not in listened:
            try:
                await run(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            except ChannelRefused as error:
                self._refuse(channel, error)
                return
            listened.add(channel)
        elif channel not in self._wanted and channel in listened - self._always:
            listened.remove(channel)
            await run(sql.SQL("UNLISTEN {}").format(sql.Identifier(channel)))
        wanted = self._wanted.get(channel)
        if wanted and channel in listened and not wanted.listening.done():
            wanted.listening.set_result(None)
        # If that has changed since the statement began, the channel is unsettled again.

    def _refuse(self, channel: str, error: ChannelRefused) -> None:
        wanted = self._wanted.get(channel)
        if wanted and not wanted.listening.done():
            wanted.listening.set_exception(error)
            wanted.listening.exception()  # retrieves the error, so that nothing is logged if it is not awaited

    def _look_at(self, channel: str) -> None:
        self._unsettled[channel] = None
        self._woken.set()
