"""Supervises worker processes, and links each to its parent. Knows no HTTP and no database.

A link is a socket pair that carries JSON lines. Its first line tells the worker what to do. When it ends, for whatever
reason, the worker stops.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from changefeed.backoff import backoff

logger = logging.getLogger("changefeed.processes")

VARIABLE = "CHANGEFEED_LINK"  # holds the link's descriptor, by which a process knows that it is a worker
STEADY_SECONDS = 30.0  # a worker that ran for this long is restarted at once
STOP_DEADLINE_SECONDS = 15.0
ANSWER_DEADLINE_SECONDS = 5.0
BEAT_SECONDS = 5.0
# A minute. It is counted in beats, so that a parent that was itself stopped, or starved, takes no worker for hung.
MISSED_BEATS_LIMIT = 12
LINE_LIMIT_BYTES = 256 << 20  # counts of a day, of a thousand tables

LinkMessage = dict[str, Any]


class NeverStarted(Exception):
    """The first process ended before it was ready, and has logged why."""


class _Link:
    """One end of a link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "_Link":
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LINE_LIMIT_BYTES))

    async def read(self) -> LinkMessage | None:
        """The next message; None if the other end is gone."""
        with contextlib.suppress(OSError):
            line = await self._reader.readline()
            if line.endswith(b"\n"):
                message: LinkMessage = json.loads(line)
                return message
        return None

    def write(self, **message: Any) -> None:
        with contextlib.suppress(OSError):
            self._writer.write(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        self._writer.close()


class Worker:
    """A worker process, as its parent sees it."""

    def __init__(self, process: Process, link: _Link) -> None:
        self.process = process
        self.link = link
        self.started_at = time.monotonic()
        self.is_ready = False
        self.missed_beats = 0


class Supervisor:
    """Keeps `count` workers running `command`, and restarts each that ends.

    `orders` is sent to each, with its `number`, `is_first_start` and `others_are_ready`. ended(number) is called when
    one has ended. The others are started once the first is ready. A worker whose event loop hangs is killed: it serves
    no client, and would not end by itself.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        *,
        orders: Mapping[str, Any],
        inherited: Sequence[int] = (),
        ended: Callable[[int], None] = lambda number: None,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        self._beat_seconds = beat_seconds
        self._command = tuple(command)
        self._numbers = range(1, count + 1)
        self._orders = dict(orders)
        self._inherited = tuple(inherited)
        self._ended = ended
        self._workers: dict[int, Worker] = {}
        self._ready = {
            number: asyncio.Event() for number in self._numbers
        }  # set once each has been ready for the first time

    async def run(self, stopping: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Runs until `stopping` and until all have ended. Calls on_ready() when all are ready. Raises NeverStarted."""
        keeping = [asyncio.create_task(self._keep(1, stopping))]
        beating = asyncio.create_task(self._beat())
        try:
            if await self._until(self._ready[1], stopping, keeping[0]):
                keeping += [asyncio.create_task(self._keep(number, stopping)) for number in self._numbers[1:]]
                for event in self._ready.values():
                    await self._until(event, stopping, keeping[0])
                if not stopping.is_set():
                    on_ready()
            await asyncio.wait({asyncio.create_task(stopping.wait()), *keeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.set()
            beating.cancel()
            await self._stop(keeping)
        for kept in keeping:
            kept.result()

    @staticmethod
    async def _until(event: asyncio.Event, stopping: asyncio.Event, keeping: "asyncio.Task[None]") -> bool:
        waits = [asyncio.create_task(event.wait()), asyncio.create_task(stopping.wait())]
        await asyncio.wait({*waits, keeping}, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return event.is_set()

    async def _keep(self, number: int, stopping: asyncio.Event) -> None:
        delays = backoff()
        is_first_start = True
        while not stopping.is_set():
            worker = await self._start(number, is_first_start)
            if stopping.is_set():
                worker.process.terminate()  # it did not exist yet when the others were signalled
            code = await self._attend(number, worker)
            self._ended(number)
            if stopping.is_set():
                return
            if number == 1 and not self._ready[1].is_set():
                raise NeverStarted
            is_first_start = False
            if time.monotonic() - worker.started_at > STEADY_SECONDS:
                delays = backoff()
            delay = next(delays)
            logger.warning(
                "process %d (pid %d) ended %s; restarting it%s",
                number,
                worker.process.pid,
                f"with code {code}" if code >= 0 else f"by {signal.Signals(-code).name}",
                f" in {delay:.1f} s" if delay else "",
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await stopping.wait()

    async def _start(self, number: int, is_first_start: bool) -> Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env={**os.environ, VARIABLE: str(theirs.fileno())},
                pass_fds=(theirs.fileno(), *self._inherited),
            )
        worker = self._workers[number] = Worker(process, await _Link.over(ours))
        worker.link.write(
            **self._orders,
            number=number,
            is_first_start=is_first_start,
            others_are_ready=any(other.is_ready for other in self._others(number)),
        )
        return worker

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._beat_seconds)
            for number, worker in self._workers.items():
                if not worker.is_ready:  # it has no clients yet, and may take long to start
                    continue
                if worker.missed_beats == MISSED_BEATS_LIMIT:
                    seconds = MISSED_BEATS_LIMIT * self._beat_seconds
                    logger.warning(
                        "process %d (pid %d) has hung for %g s; killing it", number, worker.process.pid, seconds
                    )
                    worker.process.kill()
                worker.missed_beats += 1
                worker.link.write(kind="beat")

    async def _attend(self, number: int, worker: Worker) -> int:
        """Handles the worker's messages until it ends. Returns its exit code, negative after a signal."""
        while message := await worker.link.read():
            match message:
                case {"kind": "ready"}:
                    worker.is_ready = True
                    self._ready[number].set()
                case {"kind": "beat"}:
                    worker.missed_beats = 0
                case {"kind": "remember", "facts": facts}:
                    self._orders |= facts
                case {"kind": "ask"}:
                    other = next((other for other in self._others(number) if other.is_ready), None)
                    (other or worker).link.write(kind="asked" if other else "answer", by=number, state=None)
                case {"kind": "answer", "by": by, "state": state} if by in self._workers:
                    self._workers[by].link.write(kind="answer", state=state)
        worker.is_ready = False
        code = await worker.process.wait()
        worker.link.close()
        del self._workers[number]
        return code

    def _others(self, number: int) -> list[Worker]:
        return [worker for other, worker in self._workers.items() if other != number]

    async def _stop(self, keeping: "list[asyncio.Task[None]]") -> None:
        self._signal(signal.SIGTERM)
        _, left = await asyncio.wait(keeping, timeout=STOP_DEADLINE_SECONDS)
        if left:
            logger.warning("%d processes did not stop within %g s and were killed", len(left), STOP_DEADLINE_SECONDS)
            self._signal(signal.SIGKILL)
            await asyncio.wait(left)

    def hang_up(self) -> None:
        """Makes each worker reload its files, except those still starting, which the signal might end."""
        for worker in self._workers.values():
            if worker.is_ready:
                with contextlib.suppress(ProcessLookupError):
                    worker.process.send_signal(signal.SIGHUP)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            with contextlib.suppress(ProcessLookupError):
                worker.process.send_signal(number)


class SupervisorLink:
    """The parent, as a worker sees it; `orders` is the parent's first message."""

    def __init__(self, link: _Link, orders: LinkMessage) -> None:
        self.orders = orders
        self._link = link
        self._answer: asyncio.Future[Any] | None = None

    @classmethod
    async def find(cls) -> "SupervisorLink | None":
        """The link to the parent; None if this process is not a worker."""
        descriptor = os.environ.pop(VARIABLE, None)
        if descriptor is None:
            return None
        link = await _Link.over(socket.socket(fileno=int(descriptor)))
        return cls(link, await link.read() or {})

    def say_ready(self) -> None:
        self._link.write(kind="ready")

    def remember(self, **facts: Any) -> None:
        """Lets every process that is started from now on be told so."""
        self._link.write(kind="remember", facts=facts)

    async def ask_others(self) -> Any:
        """The answer of a ready worker's `tell`; None if there is no such worker, or it does not answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._link.write(kind="ask")
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_SECONDS):
                return await self._answer
        except TimeoutError:
            return None

    async def attend(self, tell: Callable[[], Any]) -> None:
        """Answers the parent's messages until the parent is gone."""
        while message := await self._link.read():
            match message:
                case {"kind": "beat"}:
                    self._link.write(kind="beat")
                case {"kind": "asked", "by": by}:
                    self._link.write(kind="answer", by=by, state=tell())
                case {"kind": "answer", "state": state} if self._answer and not self._answer.done():
                    self._answer.set_result(state)
