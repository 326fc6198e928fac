"""The transports of the feed, one class for each: /ws plain and with changefeed.v1, /events, /api/changes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import websockets
from websockets.asyncio.client import connect

from tests.oracle.ground import Server, wait
from tests.oracle.reader import CONNECT_SECONDS, Dropped, FeedFailed, Reader
from tests.oracle.replica import Change, parse


class PlainReader(Reader):
    """/ws: one change a frame."""

    protocols: tuple[str, ...] = ()

    @contextlib.asynccontextmanager
    async def _connection(self, server: Server) -> AsyncIterator[AsyncIterator[list[Change]]]:
        url = f"ws://127.0.0.1:{server.port}/ws?since={self.cursor}{self.query}"
        try:
            socket = await connect(
                url,
                sock=await self.open_socket(server),
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
                case "rows" if has_hello:
                    self.take_rows(message)
                    yield []
                case "gap":
                    self.refuse_gap(message)
                case "going_away":
                    return
                case "error" if message["code"] == "database_unavailable":
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
            stream, writer = await asyncio.open_connection(sock=await self.open_socket(server), limit=1 << 22)
        try:
            writer.write(
                f"GET /events?{self.query} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {self.cursor}\r\n\r\n".encode()
            )
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
            elif fields.get("event") == "rows":
                self.take_rows(parse(fields["data"]))
                yield []
            elif fields.get("event") == "error" and parse(fields["data"])["error"]["code"] == "database_unavailable":
                return
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
            parsed = parse(await self.ask(server, f"/api/changes?since={self.cursor}&limit={limit}{self.query}"))
            if parsed["gap"]:
                self.refuse_gap(parsed["gap"])
            self._answer_cursor = parsed["cursor"]
            yield parsed["changes"]
            if not parsed["has_more"]:
                await wait(self._never, self._draw.uniform(0.02, 0.3))

    def _all_taken(self) -> None:
        if self._answer_cursor and self._draw.random() < 0.7:
            self.cursor = self._answer_cursor

    async def ask(self, server: Server, path: str) -> str:
        status, body = await get(server.port, path)
        if status != 200:
            check_refusal(self, status, body)
            raise Dropped
        return body.decode()


async def get(port: int, path: str) -> tuple[int, bytes]:
    """The answer's status and body."""
    async with asyncio.timeout(CONNECT_SECONDS * 3):
        stream, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            status, headers = await read_head(stream)
            if "content-length" in headers:
                return status, await stream.readexactly(int(headers["content-length"]))
            body = bytearray()
            while size := int(await stream.readline() or b"0", 16):
                body += await stream.readexactly(size)
                await stream.readline()
            return status, bytes(body)
        finally:
            writer.transport.abort()


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


READERS = (PlainReader, ProtocolReader, StreamReader, PollingReader)
