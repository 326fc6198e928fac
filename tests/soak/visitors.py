"""Clients that come and go in every manner, and check nothing: polite ones, rude ones, stuck ones, dashboards.

A manner is a coroutine that is done when its client is gone.
"""

import asyncio
import contextlib
import json
import random
import struct
from collections import Counter
from collections.abc import Awaitable, Callable

from tests.oracle.transports import read_head
from tests.raw_client import CLOSE_FRAME, TEXT_FRAME, RawClient
from tests.soak.load import GROUPS

LONGEST_STAY_SECONDS = 20.0  # below the server's heartbeat, which nobody here answers
PAGES = ("/", "/api/activity?window=3600&step=10", "/api/tables", "/api/status", "/metrics", "/readyz", "/api/changes")
NORMAL = struct.pack("!H", 1000)


class Visitors:
    """`count` at a time, until cancelled; `gone` counts them by their manner."""

    def __init__(self, port: int, count: int) -> None:
        self.gone: Counter[str] = Counter()
        self._port = port
        self._count = count
        self._draw = random.Random("visitors")
        # The most usual manners stand here more often.
        self._manners: list[Callable[[], Awaitable[None]]] = [
            *(self._plain,) * 3,
            *(self._filtered,) * 4,
            *(self._dashboard,) * 3,
            *(self._events,) * 2,
            *(self._page,) * 4,
            self._subscribing,
            self._raw_channel,
            self._stuck,
            self._conflating,
            self._silent,
            self._half_a_request,
        ]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._count):
                group.create_task(self._come_and_go())

    async def _come_and_go(self) -> None:
        while True:
            manner = self._draw.choice(self._manners)
            # The server may refuse it, or be without PostgreSQL just now.
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                await manner()
            self.gone[manner.__name__.strip("_").replace("_", " ")] += 1
            await asyncio.sleep(self._draw.uniform(0, 2))

    async def _plain(self) -> None:
        await self._read(await self._connected("/ws"))

    async def _filtered(self) -> None:
        group = self._draw.randrange(GROUPS)
        path = self._draw.choice(
            (f"/ws?table=load&filter=grp=eq.{group}", f"/ws?action=DELETE&filter=grp=in.({group},1)", "/ws?replay=50")
        )
        await self._read(await self._connected(path, protocol=True))

    async def _subscribing(self) -> None:
        client = await self._connected("/ws?table=quiet", protocol=True)
        for group in range(3):
            fields = {"type": "subscribe", "table": ["load"], "filter": [f"grp=eq.{group}"]}
            await client.send_frame(TEXT_FRAME, json.dumps(fields).encode())
            await self._read_for(client, 2.0)
        await self._leave(client)

    async def _dashboard(self) -> None:
        client = await self._connected("/ws/activity")
        if self._draw.random() < 0.5:
            await client.send_frame(TEXT_FRAME, b'{"type": "filter", "filter": ["grp=eq.1"]}')
        await self._read(client)

    async def _events(self) -> None:
        client = RawClient(self._port, little_room=False)
        await client.open()
        await client.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await self._read(client, is_socket=False)

    async def _raw_channel(self) -> None:
        await self._read(await self._connected(f"/listen/soak_{self._draw.randrange(1000)}"))

    async def _stuck(self) -> None:
        await self._not_reading("/ws")

    async def _conflating(self) -> None:
        await self._not_reading("/ws?slow=conflate", protocol=True)

    async def _silent(self) -> None:
        """Gone without a word: nothing is sent to it but pings, and it never answers one."""
        await self._not_reading("/ws?table=quiet", seconds=60.0)

    async def _not_reading(self, path: str, protocol: bool = False, seconds: float = 30.0) -> None:
        client = RawClient(self._port)
        await client.connect(path, protocol)
        await asyncio.sleep(seconds)
        client.abort()

    async def _half_a_request(self) -> None:
        client = RawClient(self._port)
        await client.open()
        await client.send(b"GET /ws HTTP/1.1\r\nHost: local")
        await asyncio.sleep(self._draw.uniform(0, LONGEST_STAY_SECONDS))
        client.abort()

    async def _page(self) -> None:
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                for _ in range(self._draw.randrange(1, 4)):
                    writer.write(f"GET {self._draw.choice(PAGES)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                    _, headers = await read_head(reader)
                    await reader.readexactly(int(headers.get("content-length", 0)))
            finally:
                writer.close()

    async def _connected(self, path: str, *, protocol: bool = False) -> RawClient:
        client = RawClient(self._port, little_room=False)
        await client.connect(path, protocol)
        return client

    async def _read(self, client: RawClient, *, is_socket: bool = True) -> None:
        await self._read_for(client, self._draw.uniform(0.1, LONGEST_STAY_SECONDS))
        await self._leave(client, is_socket=is_socket)

    async def _read_for(self, client: RawClient, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await client.read():
                    pass

    async def _leave(self, client: RawClient, *, is_socket: bool = True) -> None:
        manner = self._draw.choice(("politely", "at once", "rudely"))
        if manner == "rudely":
            client.abort()
            return
        if manner == "politely" and is_socket:
            await client.send_frame(CLOSE_FRAME, NORMAL)
            await self._read_for(client, 5.0)
        client.close()
