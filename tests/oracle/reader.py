"""Follows the feed, with nothing but a cursor between two connections. Knows no transport.

A reader connects to either server, takes some changes, drops without reading what is on its way, and goes on from the
last change it took. It refuses a change that does not fit, one that comes twice, and any gap.
"""

import asyncio
import contextlib
import json
import random
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import websockets

from tests.oracle.ground import Server, wait
from tests.oracle.replica import Change, Refused, Replica

CONNECT_SECONDS = 5.0
LINES = (OSError, EOFError, TimeoutError, websockets.WebSocketException)


class FeedFailed(AssertionError):
    """A reader was told what cannot be, or that something was lost; of which change, where it is one."""

    def __init__(self, message: str, change: Change | None = None) -> None:
        super().__init__(message)
        self.change = change


class Dropped(Exception):
    """The connection ended, or the reader ends it."""


class Reader(ABC):
    """Follows until cancelled. `cut` is set to make all readers drop at once."""

    query = ""  # what it asks for beside the place, such as "&table=orders"
    table: str | None = None  # the only one that it follows

    def __init__(self, name: str, draw: random.Random, servers: list[Server], cursor: str, *, is_slow: bool) -> None:
        self.name = name
        self.replica = Replica()
        self.ids: set[int] = set()  # since the last checkpoint
        self.floor = 0  # what was there before came before
        self.markers: set[str] = set()
        self.moved = asyncio.Event()
        self.cut = asyncio.Event()
        self.taken = self.connections = 0
        self.cursor = cursor
        self.last: deque[Change] = deque(maxlen=2000)
        self._draw = draw
        self._servers = servers
        self._is_slow = is_slow
        self._never = asyncio.Event()

    @abstractmethod
    def _connection(self, server: Server) -> "contextlib.AbstractAsyncContextManager[AsyncIterator[list[Change]]]":
        """Connects with the cursor; gives lists of changes, as they arrive."""

    async def open_socket(self, server: Server) -> socket.socket:
        """A connection; that of a slow reader has little room in the kernel."""
        made = socket.socket()
        try:
            if self._is_slow:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            made.setblocking(False)
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", server.port))
        except BaseException:
            made.close()
            raise
        return made

    async def run(self) -> None:
        while True:
            server = self._draw.choice(self._servers)
            try:
                async with asyncio.timeout(None) as deadline:
                    deadline.reschedule(_now() + CONNECT_SECONDS * 3)
                    async with self._connection(server) as arriving:
                        self.connections += 1
                        deadline.reschedule(None)
                        await self._follow(arriving)
            except (Dropped, *LINES):
                await wait(self._never, self._draw.uniform(0, 0.15))

    async def _follow(self, arriving: AsyncIterator[list[Change]]) -> None:
        draw = self._draw
        most, until = draw.choice((1, 3, 30, 300, 3000, 30000)), _now() + draw.uniform(0.05, 6)
        taken, pause_at = 0, _now() + draw.uniform(0.2, 4)
        while True:
            self.cut.clear()
            next_ones = asyncio.ensure_future(anext(arriving))
            cut = asyncio.ensure_future(self.cut.wait())
            try:
                left = max(until - _now(), 0.01)
                await asyncio.wait({next_ones, cut}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if not next_ones.done():
                    raise Dropped
                try:
                    changes = next_ones.result()
                except StopAsyncIteration:
                    raise Dropped from None
            finally:
                cut.cancel()
                next_ones.cancel()
                await asyncio.wait({next_ones})
                if not next_ones.cancelled() and isinstance(failure := next_ones.exception(), FeedFailed):
                    raise failure
            for change in changes:
                self.take(change)
                taken += 1
                if taken >= most:
                    raise Dropped
            self._all_taken()
            if self._is_slow and _now() > pause_at:
                await wait(self._never, draw.uniform(0.2, 2.5))
                pause_at = _now() + draw.uniform(0.2, 4)

    def _all_taken(self) -> None:
        """All changes of what arrived are taken. Nothing to do, unless a kind of reader has something."""
        return

    def take(self, change: Change) -> None:
        self.last.append(change)
        try:
            change_id = int(change["cursor"].partition(".")[0], 16)
            if change_id in self.ids or change_id <= self.floor:
                raise Refused("it came before")
            self.replica.apply(change)
        except (Refused, KeyError, TypeError) as error:
            raise FeedFailed(
                f"{self.name} refuses {_shown(change)}\n  {type(error).__name__}: {error}\n  cursor before it: "
                f"{self.cursor}\n{self._history(change)}",
                change,
            ) from None
        self.ids.add(change_id)
        self.cursor = change["cursor"]
        self.taken += 1
        if change["table"] == "markers" and change["action"] == "INSERT":
            self.markers.add(change["data"]["token"])
            self.moved.set()

    def _history(self, change: Change) -> str:
        """What it got before of the same row, as far as the first column tells."""
        names = _names(change)
        lines = [
            "    " + _shown(before)
            for before in list(self.last)[:-1]
            if before["table"] == change["table"] and (before["action"] == "TRUNCATE" or names & _names(before))
        ]
        return f"  the last of that row ({self.taken} changes, {self.connections} connections):\n" + "\n".join(
            lines[-12:]
        )

    def take_rows(self, message: dict[str, Any]) -> None:
        raise FeedFailed(f"{self.name} got rows that it did not ask for: {str(message)[:300]}")

    def refuse_gap(self, gap: object) -> None:
        raise FeedFailed(f"{self.name} was told of a gap: {gap} (its cursor is {self.cursor})")


def _names(change: Change) -> set[Any]:
    """The first column's value, now and before."""
    row = change["data"] or {}
    return set(list({**row, **change.get("old", {})}.values())[:1] + list(row.values())[:1])


def _shown(change: Change) -> str:
    text = json.dumps({name: value for name, value in change.items() if name != "cursor"}, ensure_ascii=False)
    return f"{change.get('cursor')}: {text[:600]}"


def _now() -> float:
    return asyncio.get_running_loop().time()
