"""A server's port in, many WebSocket clients of it out, which count what they are sent. Knows no server's dialect.

Python suffices: a client takes all that is there by one recv_into and counts the changes in it by bytes.count, without
looking at frames, 0.05 µs a change; the kernel takes more to bring them. What is printed says how busy the crowd was: it
is no bottleneck while that is well under 100 % of its core.
"""

import contextlib
import heapq
import random
import resource
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from typing import Self

# Each change carries sixteen digits, which say when it was written, and after them these words.
MARK = b" microseconds since 1970"
_DIGITS = 16
# The end of what was read is kept, since a mark and its digits may be cut anywhere. It is a byte too short for a whole one,
# which would count twice.
_TAIL = _DIGITS + len(MARK) - 1
_READ_BYTES = 256 << 10
_HEAD_BYTES = 4096
_CLIENTS_PER_ADDRESS = 5_000
_SPARE_FILES = 200  # what a server has open besides


class CouldNot(Exception):
    """Something could not be measured; the message, a few words, stands in the table instead of a figure."""


class Client:
    """Absent, then shaking hands, then open, perhaps absent again. Each step is called when its socket is ready for it."""

    def __init__(self, crowd: "Crowd", path: str, address: str, *, is_stuck: bool) -> None:
        self._crowd = crowd
        self._path = path
        self._address = address
        self._is_stuck = is_stuck
        self._tail = bytes(_TAIL)
        self.is_open = False
        self.received = 0

    def start(self) -> None:
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._tail = bytes(_TAIL)
        if self._is_stuck:
            # Else the kernel takes some seconds of changes before anything waits in the server.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # All of 127.0.0.0/8 is there on Linux, so that no address runs out of ports; on macOS only 127.0.0.1.
        with contextlib.suppress(OSError):
            self._socket.bind((self._address, 0))
        self._socket.connect_ex(("127.0.0.1", self._crowd.port))
        self._crowd.selector.register(self._socket, selectors.EVENT_WRITE, self._ask)

    def end(self) -> None:
        with contextlib.suppress(KeyError):
            self._crowd.selector.unregister(self._socket)
        self._socket.close()
        self._crowd.on_end(self)
        self.is_open = False

    def _ask(self) -> None:
        try:
            self._socket.send(
                f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1:{self._crowd.port}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
        except OSError:
            self.end()
        else:
            self._crowd.selector.modify(self._socket, selectors.EVENT_READ, self._read_head)

    def _read_head(self) -> None:
        try:
            head = self._socket.recv(_HEAD_BYTES, socket.MSG_PEEK)
            length = head.find(b"\r\n\r\n") + 4
            if head and length < 4:
                return  # the rest is still to come
            self._socket.recv(length)
        except OSError:
            head = b""
        if not head.startswith(b"HTTP/1.1 101 "):
            self._crowd.refusal = head.partition(b"\r\n")[0].decode()
            self.end()
            return
        self.is_open = True
        self._crowd.on_open()
        if self._is_stuck:
            self._crowd.selector.unregister(self._socket)
        else:
            self._crowd.selector.modify(self._socket, selectors.EVENT_READ, self._read)

    def _read(self) -> None:
        crowd = self._crowd
        try:
            taken = self._socket.recv_into(crowd.beyond_tail)
        except OSError:
            taken = 0
        if not taken:
            self.end()
            return
        buffer, end = crowd.buffer, _TAIL + taken
        buffer[:_TAIL] = self._tail
        self._tail = buffer[end - _TAIL : end]
        before, self.received = self.received, self.received + buffer.count(MARK, _DIGITS, end)
        if before < crowd.aim <= self.received:
            crowd.arrived += 1
        if crowd.delays_us is not None:
            now_us = time.time_ns() // 1000
            found = buffer.find(MARK, _DIGITS, end)
            while found >= 0:
                crowd.delays_us.append(now_us - int(buffer[found - _DIGITS : found]))
                found = buffer.find(MARK, found + len(MARK), end)


class Crowd:
    """Clients of 127.0.0.1:`port`, one for each of `paths`, and `stuck` more that never read what they are sent."""

    def __init__(self, port: int, paths: Sequence[str], *, stuck: int = 0) -> None:
        _check_file_limit(len(paths) + stuck)
        self.port = port
        self.selector = selectors.DefaultSelector()
        self.buffer = bytearray(_TAIL + _READ_BYTES)
        self.beyond_tail = memoryview(self.buffer)[_TAIL:]
        self.aim = 0
        self.arrived = 0  # clients that have received `aim` changes
        self.refusal = ""
        # How long each change was on its way, in microseconds, while somebody wants to know.
        self.delays_us: list[int] | None = None
        self._clients = [
            Client(self, path, f"127.0.0.{2 + number // _CLIENTS_PER_ADDRESS}", is_stuck=number >= len(paths))
            for number, path in enumerate([*paths, *["/ws"] * stuck])
        ]
        self._readers = len(paths)
        self._opening = 0
        self._open = 0
        self._absent = [(0.0, id(client), client) for client in self._clients]  # a heap, by when they may come

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            if client.is_open:
                client.end()
        self.selector.close()

    def on_open(self) -> None:
        self._opening -= 1
        self._open += 1

    def on_end(self, client: Client) -> None:
        if client.is_open:
            self._open -= 1
        else:
            self._opening -= 1
        heapq.heappush(self._absent, (time.monotonic() + random.random(), id(client), client))

    def connect(self, within_seconds: float = 120, at_once: int = 64) -> None:
        """Until all are open. At most `at_once` handshakes at a time; who is refused comes back within a second."""
        deadline = time.monotonic() + within_seconds
        while self._open < len(self._clients):
            now = time.monotonic()
            if now > deadline:
                raise CouldNot(f"{self._open} of {len(self._clients)} clients came in {self.refusal}")
            while self._absent and self._absent[0][0] <= now and self._opening < at_once:
                heapq.heappop(self._absent)[2].start()
                self._opening += 1
            self._step(0.01)

    def until_ended(self, within_seconds: float = 60) -> None:
        """Until the server has closed every client's connection."""
        deadline = time.monotonic() + within_seconds
        while self._open:
            if time.monotonic() > deadline:
                raise CouldNot(f"{self._open} clients were not told of the end")
            self._step(0.1)

    def receive(self, more: int, within_seconds: float = 120, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Until each client has received so many changes more than when this was last asked for; calls `meanwhile` often."""
        self.aim += more
        self.arrived = sum(client.received >= self.aim for client in self._clients)
        deadline = time.monotonic() + within_seconds
        while self.arrived < self._readers:
            if self._open < len(self._clients):
                raise CouldNot(f"closed {len(self._clients) - self._open} of {len(self._clients)} clients")
            if time.monotonic() > deadline:
                raise CouldNot(f"can't keep up: {self._readers - self.arrived} clients still wait")
            self._step(0.05)
            meanwhile()

    def _step(self, seconds: float) -> None:
        """Does what the sockets are ready for, or waits so long for one that is."""
        for key, _ in self.selector.select(seconds):
            key.data()


def raise_file_limit(clients: int) -> None:
    """For this process and the servers that it starts; where the system forbids it, a Crowd too large says so."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (clients + _SPARE_FILES, hard))


def _check_file_limit(clients: int) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and clients + _SPARE_FILES > soft:
        raise CouldNot(f"needs ulimit -n {clients + _SPARE_FILES}, has {soft}")
