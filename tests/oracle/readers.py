"""Who follows the feed: one class for each transport, all of them with nothing but a cursor between two connections.

A reader connects to either server, takes some changes, drops without reading what is on its way, and goes on from the
last change it took. It refuses a change that does not fit, one that comes twice, and any gap.
"""

import asyncio
import contextlib
import json
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import websockets
from websockets.asyncio.client import connect

from tests.oracle.ground import Server, wait
from tests.oracle.replica import Change, Refused, Replica, parse

CONNECT_SECONDS = 5.0
# The feed is alive when a marker is awaited; silence of this length makes a reader try elsewhere.
SILENCE_SECONDS = 12.0
_LINES = (OSError, EOFError, TimeoutError, websockets.WebSocketException)


class FeedFailed(AssertionError):
    """A reader was told what cannot be, or that something was lost; of which change, where it is one."""

    def __init__(self, message: str, change: Change | None = None) -> None:
        super().__init__(message)
        self.change = change


class Dropped(Exception):
    """The connection ended, or the reader ends it."""


class Reader(ABC):
    """Follows until cancelled. `cut` is set to make all readers drop at once."""

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
            except (Dropped, *_LINES):
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
                left = min(max(until - _now(), 0.01), SILENCE_SECONDS)
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
                with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, Dropped, *_LINES):
                    await next_ones
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

    def refuse_gap(self, gap: object) -> None:
        raise FeedFailed(f"{self.name} was told of a gap: {gap} (its cursor is {self.cursor})")


class PlainReader(Reader):
    """/ws: one change a frame."""

    protocols: tuple[str, ...] = ()

    @contextlib.asynccontextmanager
    async def _connection(self, server: Server) -> AsyncIterator[AsyncIterator[list[Change]]]:
        url = f"ws://127.0.0.1:{server.port}/ws?since={self.cursor}"
        try:
            socket = await connect(
                url,
                subprotocols=self.protocols or None,
                compression=None,
                max_size=None,
                max_queue=16,
                ping_interval=None,
                open_timeout=CONNECT_SECONDS,
                proxy=None,
            )
        except websockets.InvalidStatus as error:
            check_refusal(self, error.response.status_code, error.response.body)
            raise Dropped from None
        try:
            yield self._arriving(socket)
        finally:
            socket.transport.abort()
            await socket.wait_closed()

    async def _arriving(self, socket: Any) -> AsyncIterator[list[Change]]:
        async for frame in socket:
            yield [parse(frame)]


class ProtocolReader(PlainReader):
    """/ws with changefeed.v1: its cursors are those of the messages, and sometimes those of the changes."""

    protocols = ("changefeed.v1",)
    _message_cursor: str | None = None

    async def _arriving(self, socket: Any) -> AsyncIterator[list[Change]]:
        has_hello = False
        async for frame in socket:
            message = parse(frame)
            self._message_cursor = None
            match message["type"]:
                case "hello" if not has_hello:
                    has_hello = True
                    self._message_cursor = message["cursor"]
                    yield []
                case "changes" if has_hello:
                    self._message_cursor = message["cursor"]
                    yield message["changes"]
                case "gap":
                    self.refuse_gap(message)
                case "going_away":
                    return
                case _:
                    raise FeedFailed(f"{self.name} does not understand {frame[:300]!r}")

    def _all_taken(self) -> None:
        if self._message_cursor and self._draw.random() < 0.7:
            self.cursor = self._message_cursor


class StreamReader(Reader):
    """/events: Server-Sent Events, resumed as EventSource does."""

    @contextlib.asynccontextmanager
    async def _connection(self, server: Server) -> AsyncIterator[AsyncIterator[list[Change]]]:
        async with asyncio.timeout(CONNECT_SECONDS):
            stream, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 22)
        try:
            writer.write(f"GET /events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {self.cursor}\r\n\r\n".encode())
            async with asyncio.timeout(CONNECT_SECONDS * 2):
                status, headers = await read_head(stream)
                if status != 200:
                    check_refusal(self, status, await stream.read(int(headers.get("content-length", 0))))
                    raise Dropped
            yield self._arriving(stream)
        finally:
            writer.transport.abort()

    async def _arriving(self, stream: asyncio.StreamReader) -> AsyncIterator[list[Change]]:
        fields: dict[str, str] = {}
        while line := (await stream.readline()).decode():
            if not line.endswith("\n"):
                return
            name, _, value = line.rstrip("\r\n").partition(": ")
            if name:
                fields[name] = value
                continue
            if fields.get("event") == "gap":
                self.refuse_gap(fields)
            elif "data" in fields:
                change = parse(fields["data"])
                if fields.get("id") != change["cursor"]:
                    raise FeedFailed(f"{self.name}: the event's id is not its cursor: {fields}")
                yield [change]
            fields = {}


class PollingReader(Reader):
    """/api/changes, again and again."""

    _answer_cursor: str | None = None

    @contextlib.asynccontextmanager
    async def _connection(self, server: Server) -> AsyncIterator[AsyncIterator[list[Change]]]:
        yield self._arriving(server)

    async def _arriving(self, server: Server) -> AsyncIterator[list[Change]]:
        while True:
            limit = self._draw.choice((1, 7, 100, 1000, 10000))
            parsed = parse(await self._ask(server, f"/api/changes?since={self.cursor}&limit={limit}"))
            if parsed["gap"]:
                self.refuse_gap(parsed["gap"])
            self._answer_cursor = parsed["cursor"]
            yield parsed["changes"]
            if not parsed["has_more"]:
                await wait(self._never, self._draw.uniform(0.02, 0.3))

    def _all_taken(self) -> None:
        if self._answer_cursor and self._draw.random() < 0.7:
            self.cursor = self._answer_cursor

    async def _ask(self, server: Server, path: str) -> str:
        async with asyncio.timeout(CONNECT_SECONDS * 3):
            stream, writer = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                status, headers = await read_head(stream)
                body = await stream.readexactly(int(headers["content-length"]))
            finally:
                writer.transport.abort()
        if status != 200:
            check_refusal(self, status, body)
            raise Dropped
        return body.decode()


def _names(change: Change) -> set[Any]:
    """The first column's value, now and before."""
    row = change["data"] or {}
    return set(list({**row, **change.get("old", {})}.values())[:1] + list(row.values())[:1])


def _shown(change: Change) -> str:
    text = json.dumps({name: value for name, value in change.items() if name != "cursor"}, ensure_ascii=False)
    return f"{change.get('cursor')}: {text[:600]}"


def _now() -> float:
    return asyncio.get_running_loop().time()


async def read_head(stream: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await stream.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split(" ")[1]), headers


def check_refusal(reader: Reader, status: int, body: bytes | None) -> None:
    """A server may say that it is not ready; anything else is a mistake, of which a gap is the worst."""
    if status != 503:
        raise FeedFailed(
            f"{reader.name} was refused with {status}: {bytes(body or b'')[:600]!r} (its cursor is {reader.cursor})"
        )
