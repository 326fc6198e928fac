"""A server's port in, many WebSocket clients of it out, which count what they are sent. Knows no server's dialect.

Python suffices: a client takes all that is there by one recv_into and counts the changes in it by bytes.count, without
looking at frames, 0.05 µs a change; the kernel takes more to bring them. What is printed says how busy the crowd was: it
is no bottleneck while that is well under 100 % of its core.
"""

import contextlib
import heapq
import math
import random
import resource
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Self

from benchmarks.stream import TAIL, Stream, pongs, written_at_us

_READ_BYTES = 256 << 10
_HEAD_BYTES = 4096
HANDSHAKE_SECONDS = 10  # as the client of websockets has it; what is lost in a full backlog comes back late or never
_CLIENTS_PER_ADDRESS = 5_000
_SPARE_FILES = 200  # what a server has open besides


class CouldNot(Exception):
    """Something could not be measured; the message, a few words, stands in the table instead of a figure."""


class State(Enum):
    ABSENT = "has no socket"
    COMING = "shakes hands"
    OPEN = "is sent changes"


class Client:
    """One WebSocket. Its next step is called when the socket is ready for it; once open, it reads until the end."""

    def __init__(self, crowd: "Crowd", path: str, address: str, *, is_stuck: bool) -> None:
        self._crowd = crowd
        self._path = path
        self._address = address
        self._is_stuck = is_stuck
        self.state = State.ABSENT
        self.received = 0

    @property
    def is_overdue(self) -> bool:
        return self.state is State.COMING and self._give_up_at <= time.monotonic()

    def start(self) -> None:
        self._crowd.turn(self, State.COMING)
        self._give_up_at = time.monotonic() + HANDSHAKE_SECONDS
        self._stream = Stream()
        self._socket = socket.socket()
        self._socket.setblocking(False)
        if self._is_stuck:
            # Else the kernel takes some seconds of changes before anything waits in the server.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # All of 127.0.0.0/8 is there on Linux, so that no address runs out of ports; on macOS only 127.0.0.1.
        with contextlib.suppress(OSError):
            self._socket.bind((self._address, 0))
        self._socket.connect_ex(("127.0.0.1", self._crowd.port))
        self._crowd.selector.register(self._socket, selectors.EVENT_WRITE, self._ask)

    def end(self) -> None:
        if self._socket in self._crowd.selector.get_map():
            self._crowd.selector.unregister(self._socket)
        self._socket.close()
        self._crowd.turn(self, State.ABSENT)

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
        self._crowd.turn(self, State.OPEN)
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
        before, self.received = self.received, self.received + self._stream.changes(crowd.buffer, taken)
        if answers := pongs(crowd.buffer, taken):
            with contextlib.suppress(OSError):  # a next read says that it is gone
                self._socket.send(answers)
        if before < crowd.aim <= self.received:
            crowd.arrived += 1
        if crowd.delays_us is not None:
            now_us = time.time_ns() // 1000
            crowd.delays_us += [now_us - then_us for then_us in written_at_us(crowd.buffer, taken)]


class Crowd:
    """Clients of 127.0.0.1:`port`, one for each of `paths`, and `stuck` more that never read what they are sent."""

    def __init__(self, port: int, paths: Sequence[str], *, stuck: int = 0) -> None:
        _check_file_limit(len(paths) + stuck)
        self.port = port
        self.selector = selectors.DefaultSelector()
        self.buffer = bytearray(TAIL + _READ_BYTES)
        self.beyond_tail = memoryview(self.buffer)[TAIL:]
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
        self._count = Counter({State.ABSENT: len(self._clients)})
        self._absent = [(0.0, id(client), client) for client in self._clients]  # a heap, by when they may come

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            if client.state is not State.ABSENT:
                client.end()
        self.selector.close()

    @property
    def _open(self) -> int:
        return self._count[State.OPEN]

    def turn(self, client: Client, state: State) -> None:
        """Each client says so here."""
        self._count[client.state] -= 1
        self._count[state] += 1
        client.state = state
        if state is State.ABSENT:
            heapq.heappush(self._absent, (time.monotonic() + random.random(), id(client), client))

    def connect(self, within_seconds: float = 60, at_once: int = 64) -> None:
        """Until all are open. At most `at_once` handshakes at a time; who fails comes back within a second."""
        deadline = time.monotonic() + within_seconds
        next_look = 0.0
        while self._open < len(self._clients):
            now = time.monotonic()
            if now > deadline:
                raise CouldNot(
                    f"{self._open:,} of {len(self._clients):,} came in within {within_seconds:g} s {self.refusal}"
                )
            if now >= next_look:
                next_look = now + 1
                for client in self._clients:
                    if client.is_overdue:
                        client.end()
            while self._absent and self._absent[0][0] <= now and self._count[State.COMING] < at_once:
                heapq.heappop(self._absent)[2].start()
            self._step(0.01)

    def until_ended(self, within_seconds: float = 60) -> None:
        """Until the server has closed every client's connection."""
        deadline = time.monotonic() + within_seconds
        while self._open:
            if time.monotonic() > deadline:
                raise CouldNot(f"{self._open} clients were not told of the end")
            self._step(0.1)

    def receive(self, more: int, within_seconds: float = 120, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Until each client has received this many changes more than when this was last asked for; calls `meanwhile` often."""
        self.aim += more
        self.arrived = sum(client.received >= self.aim for client in self._clients)
        deadline = time.monotonic() + within_seconds
        while self.arrived < self._readers:
            if self._open < len(self._clients):
                raise CouldNot(f"closed {len(self._clients) - self._open:,} of {len(self._clients):,} clients")
            if time.monotonic() > deadline:
                raise CouldNot(f"can't keep up: {self._readers - self.arrived:,} clients wait for more")
            self._step(0.05)
            meanwhile()
        if any(client.received > self.aim for client in self._clients):
            raise CouldNot("sent more than was asked for")

    def _step(self, seconds: float) -> None:
        """Does what the sockets are ready for, or waits so long for one that is."""
        for key, _ in self.selector.select(seconds):
            key.data()


def raise_file_limit(clients: int) -> None:
    """For this process and the servers that it starts. Where the system forbids it, a Crowd that is too large says so."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = clients + _SPARE_FILES
    if _file_limit() < needed:
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _check_file_limit(clients: int) -> None:
    if _file_limit() < clients + _SPARE_FILES:
        raise CouldNot(f"needs ulimit -n {clients + _SPARE_FILES}, has {_file_limit():.0f}")


def _file_limit() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft
