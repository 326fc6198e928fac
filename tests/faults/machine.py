"""Faults of the machine: no file descriptors, no room on the disk, a clock that jumps. Each has a site of its own.

Each gives the seconds until all is well after the fault has ended.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2

from changefeed.postgres.embedded import EmbeddedError
from tests.faults.site import FLAGS, WELL_SECONDS, Events, Protocol, Site
from tests.oracle.ground import Start, wait
from tests.oracle.reader import Reader
from tests.oracle.replica import Change
from tests.oracle.transports import get
from tests.raw_client import RawClient
from tests.soak.load import number_of

FILES = 128
CONNECTIONS = 300
JOURNAL_BYTES, DISK_BYTES = 24 << 20, 768 << 20
FAKETIME = next(iter(Path("/usr/lib").glob("**/faketime/libfaketime.so.1")), None)

FEW_FILES = Start(FLAGS, before=("sh", "-c", f'ulimit -n {FILES}; exec "$@"', "sh"))
CAN_MOUNT = os.geteuid() == 0 and shutil.which("mount") is not None


async def files_used_up(site: Site) -> float:
    """A server that may open 128 files; 300 connections and then 300 sockets knock."""
    silent = [RawClient(site.server.port) for _ in range(CONNECTIONS)]
    for client in silent:
        await client.open()
    sockets = [RawClient(site.server.port) for _ in range(CONNECTIONS)]
    refused = 0
    for client in sockets:
        try:
            await client.connect("/ws?table=wide")
        except ConnectionError:
            refused += 1
    assert 0 < refused < CONNECTIONS, refused
    await site.until_well()  # those who follow do not notice
    for client in (*silent, *sockets):
        client.abort()
    while (await _status(site)) != 200:
        pass  # each is a request, which waits for its answer
    return await site.until_well()


async def _status(site: Site) -> int:
    with contextlib.suppress(OSError, EOFError):
        return (await get(site.server.port, "/readyz"))[0]
    return 0


class _ToldOfGaps(Reader):
    """May miss some changes in a row of each writer for each gap that it gets."""

    _due: list[int]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.told = asyncio.Event()
        self._may_skip: set[int] = set()

    def refuse_gap(self, gap: object) -> None:
        self.told.set()
        self._may_skip = {0, 1}

    def take(self, change: Change) -> None:
        writer, number = change["data"]["writer"], number_of(change)
        if writer in self._may_skip and number > self._due[writer]:
            # The gap comes before the changes among which others are missing.
            self._may_skip = self._may_skip - {writer}
            self._due[writer] = number
        super().take(change)


class ToldProtocol(_ToldOfGaps, Protocol):
    pass


class ToldEvents(_ToldOfGaps, Events):
    pass


class FullDisk(Site):
    """PostgreSQL's data is on a disk of its own, which filled() fills to the last byte."""

    kinds = (ToldProtocol, ToldEvents)
    room_bytes = DISK_BYTES

    @property
    def disk(self) -> Path:
        return self.folder / "postgres"

    async def __aenter__(self) -> Any:
        self.disk.mkdir(exist_ok=True)
        self._mount()
        try:
            return await super().__aenter__()
        except BaseException:
            self._unmount()
            raise

    async def __aexit__(self, *raised: Any) -> None:
        try:
            await super().__aexit__(*raised)
        finally:
            self._unmount()

    def _mount(self) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.room_bytes}", "tmpfs", str(self.disk)], check=True)

    def _unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.disk)], check=False)  # it may be gone already
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        filler = self.disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        try:
            yield
        finally:
            filler.unlink()


class FullJournal(FullDisk):
    """Only the journal is on that disk: a tablespace of its own."""

    room_bytes = JOURNAL_BYTES

    @property
    def disk(self) -> Path:
        return self.folder / "journal"

    async def _set_to_work(self) -> None:
        shutil.chown(self.disk, *(os.stat(self.cluster.data_dir).st_uid, os.stat(self.cluster.data_dir).st_gid))
        self.query(f"CREATE TABLESPACE small LOCATION '{self.disk}'")
        for (name,) in self.query(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'changefeed.journal'::regclass"
        ):
            self.query(f"ALTER TABLE {name} SET TABLESPACE small")
        await super()._set_to_work()


async def disk_full(site: Site) -> float:
    """The disk of all of PostgreSQL's data is full, until a statement fails because of it; then there is room again."""
    assert isinstance(site, FullDisk)
    with site.filled():
        with contextlib.suppress(psycopg2.Error):
            while True:  # until nothing can be written any more
                fill = "INSERT INTO wide SELECT max(id) + 1, repeat('x', 100000) FROM (SELECT id FROM wide UNION SELECT 0) AS w"
                await asyncio.to_thread(site.query, fill)
        await wait(asyncio.Event(), 2.0)
    with contextlib.suppress(EmbeddedError):
        await asyncio.to_thread(site.cluster.start)  # where PostgreSQL had ended
    return await site.until_well()


async def journal_full(site: Site) -> float:
    """The disk of the journal alone is full; then there is room again."""
    assert isinstance(site, FullJournal)
    before = sum(site.load.written)
    with site.filled():
        async with asyncio.timeout(WELL_SECONDS):
            await asyncio.gather(*(follower.told.wait() for follower in site.followers))
        assert sum(site.load.written) > before, "a writer suffered"
    return await site.until_well()


def with_clock(file: Path) -> Start:
    """A server whose clock shows what `file` says, such as +3600; its monotonic clock is the machine's."""
    return Start(
        FLAGS,
        environ={
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        },
    )


class OddClock(Site):
    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="clock-")
        self.clock = Path(self._folder.name) / "clock"
        self.clock.write_text("+0")
        super().__init__(with_clock(self.clock))

    async def __aexit__(self, *raised: Any) -> None:
        await super().__aexit__(*raised)
        self._folder.cleanup()


async def clock_jumps(site: Site) -> float:
    """The server's clock jumps an hour ahead, then two hours back, then is right again."""
    assert isinstance(site, OddClock)
    longest = 0.0
    for jump in ("+3600", "-3600", "+0"):
        site.clock.write_text(jump)
        longest = max(longest, await site.until_well())
        assert (await get(site.server.port, "/api/activity"))[0] == 200
    return longest
