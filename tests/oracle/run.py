"""Rounds of faults under load, and checkpoints: the writers stop, and each reader must hold what the tables hold."""

import asyncio
import contextlib
import random
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import psycopg2

from tests.oracle.faults import Faults
from tests.oracle.ground import Ground, Start, wait
from tests.oracle.reader import FeedFailed, Reader
from tests.oracle.replica import parse
from tests.oracle.rows import ROWS_READERS, RowsReader
from tests.oracle.schema import DEFINITION, TABLES, WATCH
from tests.oracle.transports import READERS, PollingReader
from tests.oracle.writers import Writer


@dataclass(frozen=True)
class Plan:
    """A run. `every_kind` has each kind of fault once, in any order, then `rounds` more."""

    seed: str
    rounds: int
    every_kind: bool = False
    rounds_between_checkpoints: int = 25
    writers: int = 4
    readers_of_each_kind: int = 2
    pause_seconds: float = 1.0
    huge_rows: int = 30_000
    stuck_seconds: float = 60.0  # without a change taken by a reader that is behind
    kinds: tuple[str, ...] = ()
    processes: int = 3  # of the second server
    server_flags: tuple[str, ...] = ("--retention-bytes", str(256 << 20))


class Oracle:
    """One run, whose failure is an AssertionError that says how to have it again."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.draw = random.Random(plan.seed)
        self.rounds: Counter[str] = Counter()
        self.writes: Counter[str] = Counter()
        self.changes = self.checkpoints = 0
        self._stopping = threading.Event()
        self._writers: list[Writer] = []
        self._pause = asyncio.Event()
        self._started = time.monotonic()

    async def run(self) -> None:
        try:
            async with Ground(DEFINITION, self._starts()) as self.ground:
                await self._until_watched()
                cursor = await self._first_cursor()
                try:
                    async with self._reading(cursor):
                        await self._rounds()
                except* FeedFailed as group:
                    for failure in _failures(group):
                        failure.add_note(self._in_journal(failure))
                    raise
        except BaseException as error:
            told = [
                "\n".join([str(failure) or repr(failure), *getattr(failure, "__notes__", [])])
                for failure in _failures(error)
            ]
            if told:
                text = "\n".join(dict.fromkeys(told))
                raise AssertionError(f"seed {self.plan.seed}, after {self.summary()}:\n{text}") from error
            raise
        finally:
            self._stopping.set()

    def _starts(self) -> dict[str, Start]:
        """Of the two servers, B has several processes, and closes a client that does not read rather soon."""
        flags = (*WATCH, *self.plan.server_flags)
        return {
            "A": Start(flags),
            "B": Start((*flags, "--outbox-limit-bytes", "65536", "--processes", str(self.plan.processes))),
        }

    def summary(self) -> str:
        return (
            f"{sum(self.rounds.values())} fault rounds, {self.changes} changes to each of "
            f"{len(self.readers) if hasattr(self, 'readers') else 0} readers, {self.checkpoints} checkpoints, "
            f"{self.writes['commits']} commits, {self._gaps()} gaps followed by rows, {time.monotonic() - self._started:.0f} s"
        )

    def _gaps(self) -> int:
        return sum(reader.gaps for reader in getattr(self, "readers", []) if isinstance(reader, RowsReader))

    async def _until_watched(self) -> None:
        deadline = time.monotonic() + 30
        statement = "SELECT count(*) FROM pg_trigger WHERE tgname = '~changefeed_insert' AND tgparentid = 0"
        while self.ground.query(statement) < [(len(TABLES),)]:
            for server in self.ground.servers:
                server.check()
            assert time.monotonic() < deadline, "the servers did not watch the tables within 30 s"
            await wait(self._pause, 0.05)

    async def _first_cursor(self) -> str:
        """That of a feed in which nothing happened yet."""
        probe = PollingReader("probe", self.draw, self.ground.servers, "", is_slow=False)
        while True:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                for server in self.ground.servers:
                    cursor = parse(await probe.ask(server, "/api/changes"))["cursor"]
                return str(cursor)
            await wait(self._pause, 0.05)

    @contextlib.asynccontextmanager
    async def _reading(self, cursor: str) -> AsyncIterator[None]:
        self.readers: list[Reader] = [
            kind(
                f"{kind.__name__} {number}",
                random.Random(f"{self.plan.seed} {kind.__name__} {number}"),
                self.ground.servers,
                cursor,
                is_slow=number % 2 == 1,
            )
            for kind in (*READERS, *ROWS_READERS)
            for number in range(self.plan.readers_of_each_kind)
        ]
        foreign_cursor = self.ground.cursor_of_another_journal()
        for reader in self.readers:
            if isinstance(reader, RowsReader):
                reader.foreign_cursor = foreign_cursor
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(reader.run(), name=reader.name) for reader in self.readers]
            yield
            for task in tasks:
                task.cancel()

    async def _rounds(self) -> None:
        faults = Faults(self.ground, self.readers, self.draw)
        allowed = {name: fault for name, fault in faults.kinds.items() if name in (self.plan.kinds or faults.kinds)}
        names = sorted(allowed) if self.plan.every_kind else []
        self.draw.shuffle(names)
        # What takes longest to be noticed goes first.
        names.sort(key=lambda name: name != "line deaf")
        names += [self.draw.choice(sorted(allowed)) for _ in range(self.plan.rounds)]
        for begin in range(0, len(names), self.plan.rounds_between_checkpoints):
            self._start_writers()
            async with asyncio.TaskGroup() as group:
                for name in names[begin : begin + self.plan.rounds_between_checkpoints]:
                    group.create_task(self._fault(name, allowed[name]), name=name)
                    await wait(self._pause, self.draw.uniform(0.1, 2 * self.plan.pause_seconds))
                    self._check()
            await self._checkpoint()

    async def _fault(self, name: str, fault: object) -> None:
        await fault()  # type: ignore[operator]
        self.rounds[name] += 1

    def _start_writers(self) -> None:
        self._stopping.clear()
        self._writers = [
            Writer(
                f"writer {number}",
                f"{self.plan.seed} {number} {self.checkpoints}",
                self.ground.conninfo,
                self._stopping,
                lambda: self.ground.crashes,
                huge_rows=self.plan.huge_rows,
            )
            for number in range(self.plan.writers)
        ]
        for writer in self._writers:
            writer.start()

    def _check(self) -> None:
        for writer in self._writers:
            if writer.failure:
                raise writer.failure
        for server in self.ground.servers:
            server.check()

    async def _checkpoint(self) -> None:
        self._stopping.set()
        for writer in self._writers:
            await asyncio.to_thread(writer.join)
            self.writes += writer.done
        self._check()
        self._end_prepared()
        token = uuid.UUID(int=self.draw.getrandbits(128)).hex
        self.ground.query("INSERT INTO markers VALUES (%s)", (token,))
        began = time.monotonic()
        taken_before = {reader: reader.taken for reader in self.readers}
        last = self.readers[0]
        for reader in self.readers:
            if token not in reader.markers:
                last = reader
                await self._until_converged(reader, token)
        seconds = time.monotonic() - began
        meanwhile = last.taken - taken_before[last]
        self._compare()
        self._check()
        self.checkpoints += 1
        print(
            f"  {self.summary()}; together again after {seconds:.1f} s ({last.name}, which took {meanwhile} meanwhile)",
            file=sys.stderr,
            flush=True,
        )

    def _activity(self) -> str:
        """What PostgreSQL is doing."""
        rows = self.ground.query(
            "SELECT pid, application_name, state, wait_event_type, wait_event, now() - query_start, left(query, 150) "
            "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return "".join(f"    {' '.join(map(str, row))}\n" for row in rows)

    def _in_journal(self, failure: BaseException) -> str:
        """What the journal holds around the change that was refused."""
        change = failure.change if isinstance(failure, FeedFailed) else None
        if not change:
            return ""
        try:
            rows = self.ground.query(
                "SELECT id, xid::text, action::text, table_name, left(data::text, 200), left(old::text, 200) "
                "FROM changefeed.journal WHERE xid = %s::text::xid8 AND id <= %s ORDER BY id DESC LIMIT 30",
                (change["xid"], int(change["cursor"].partition(".")[0], 16)),
            )
        except psycopg2.Error as error:
            return f"the journal cannot be looked at: {error}"
        return "  its transaction in the journal, the newest first:\n" + "\n".join(f"    {row}" for row in rows)

    async def _until_converged(self, reader: Reader, token: str) -> None:
        """All is written, and no change is taken twice: so whoever takes some now and then gets there."""
        taken, moved_at = reader.taken, time.monotonic()
        while token not in reader.markers:
            reader.moved.clear()
            if reader.taken > taken:
                taken, moved_at = reader.taken, time.monotonic()
            if time.monotonic() - moved_at > self.plan.stuck_seconds:
                behind = [other.name for other in self.readers if token not in other.markers]
                logs = "\n".join(f"{server.name}:\n{server.tail()}" for server in self.ground.servers)
                raise AssertionError(
                    f"{', '.join(behind)} did not get the last write, and {reader.name} nothing for "
                    f"{self.plan.stuck_seconds:g} s; "
                    + ", ".join(f"{other.name} took {other.taken} in {other.connections}" for other in self.readers)
                    + f"; {reader.name} stands at {reader.cursor}\n{self._activity()}{logs}"
                )
            await wait(reader.moved, 5)
            self._check()

    def _end_prepared(self) -> None:
        """Transactions whose writer was cut off between the two phases."""
        for (name,) in self.ground.query("SELECT gid FROM pg_prepared_xacts"):
            how = self.draw.choice(("COMMIT", "ROLLBACK"))
            with contextlib.suppress(psycopg2.errors.UndefinedObject):
                self.ground.query(f"{how} PREPARED %s", (name,))

    def _compare(self) -> None:
        """Every reader's rows with the real ones, and the changes it got with the journal's."""
        real = {}
        for name in TABLES:
            quoted = '"' + name.replace('"', '""') + '"'
            real[name] = [
                parse(text) for (text,) in self.ground.query(f"SELECT row_to_json(t)::text FROM {quoted} AS t")
            ]
        floor = self.readers[0].floor
        journal = {
            row[0]: row
            for row in self.ground.query(
                "SELECT id, xid::text, action::text, table_name, data::text FROM changefeed.journal WHERE id > %s",
                (floor,),
            )
        }
        for reader in self.readers:
            whole = reader.table is None
            if whole and (missing := sorted(journal.keys() - reader.ids)):
                shown = "\n".join(f"    {journal[number]}" for number in missing[:8])
                raise AssertionError(f"{reader.name} never got {len(missing)} changes:\n{shown}")
            if whole and (invented := sorted(reader.ids - journal.keys())):
                raise AssertionError(f"{reader.name} got changes that the journal does not have: {invented[:8]}")
            for name, rows in reader.replica.tables.items():
                if (whole or name == reader.table) and (differences := rows.differences(real[name])):
                    raise AssertionError(
                        f"{reader.name} has {len(differences)} rows of {name} otherwise:\n    "
                        + "\n    ".join(differences[:8])
                    )
            reader.ids.clear()
            reader.floor = max(journal)
        self.changes += len(journal)


def _failures(error: BaseException) -> Sequence[BaseException]:
    """What went wrong, out of the groups that tasks wrap it in."""
    if isinstance(error, BaseExceptionGroup):
        return [inner for outer in error.exceptions for inner in _failures(outer)]
    return [error] if isinstance(error, Exception) else []
