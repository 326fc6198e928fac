"""A TCP door to the tests' PostgreSQL that can be cut, or made deaf: it then accepts and forwards nothing.

It can also let something happen between two statements of a client.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from psycopg2.extensions import make_dsn, parse_dsn


class Proxy:
    """Between whoever connects to `conninfo` and the cluster behind `target_conninfo` (a Unix socket)."""

    def __init__(self, target_conninfo: str) -> None:
        self._target = parse_dsn(target_conninfo)
        self._is_deaf = False
        self.swallowed = asyncio.Event()  # whether anything was said to it while it was deaf
        self._intervention: Callable[[bytes], None] = lambda _: None
        self._links: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._link, "127.0.0.1", 0)

    @property
    def conninfo(self) -> str:
        port = self._server.sockets[0].getsockname()[1]
        return str(
            make_dsn(
                host="127.0.0.1",
                port=port,
                user=self._target["user"],
                dbname=self._target["dbname"],
                sslmode="disable",
                gssencmode="disable",
            )
        )

    def lead_to(self, target_conninfo: str) -> None:
        """New links go there, as where a name or an address was given to another machine."""
        self._target = parse_dsn(target_conninfo)

    def go_deaf(self) -> None:
        """From now on every byte is taken and none is passed on, on the links there are and on new ones."""
        self._is_deaf = True

    def intervene(self, act: Callable[[], object], *, before: int = 1, of: str = "") -> asyncio.Event:
        """Calls act() once, before it passes on the so-many-th statement that has the text `of`; sets the event then."""
        is_done = asyncio.Event()
        left = before

        def intervention(taken: bytes) -> None:
            nonlocal left
            left -= of.encode() in taken
            if left == 0 and not is_done.is_set():
                is_done.set()
                act()

        self._intervention = intervention
        return is_done

    def hear_again(self) -> None:
        """New links work; those that went deaf stay so, as half-open connections do."""
        self._is_deaf = False

    def cut(self) -> None:
        """Ends the links there are."""
        for link in self._links:
            link.cancel()

    async def close(self) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._links.add(task)
        # RuntimeError is uvloop's word for a link that was closed meanwhile.
        with contextlib.suppress(OSError, RuntimeError, asyncio.CancelledError):
            path = Path(self._target["host"]) / f".s.PGSQL.{self._target['port']}"
            try:
                far_reader, far_writer = await asyncio.open_unix_connection(str(path))
                try:
                    await asyncio.gather(
                        self._pump(reader, far_writer, is_from_client=True), self._pump(far_reader, writer)
                    )
                finally:
                    far_writer.close()
            finally:
                writer.close()
        self._links.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_from_client: bool = False
    ) -> None:
        link_is_deaf = False
        while taken := await reader.read(65536):
            if is_from_client:
                self._intervention(taken)
            link_is_deaf = link_is_deaf or self._is_deaf
            if link_is_deaf:
                self.swallowed.set()
            else:
                writer.write(taken)
                await writer.drain()
        writer.close()
