"""Orders in, changes in PostgreSQL out: by NOTIFY, or as rows of a watched table, in bursts or at a pace.

It is a process of its own, so that neither its work nor its waits are the crowd's.
"""

import multiprocessing
import signal
import time
from enum import Enum
from multiprocessing.connection import Connection
from typing import Self

import psycopg2

from benchmarks.stream import MARK

STATEMENT_ROWS = 1_000
# A change of 260 bytes by NOTIFY; as a journaled row it is somewhat longer on the wire, by its cursor.
NOTE_BYTES = 131
GROUPS = 100

_STAMP = f"(extract(epoch FROM clock_timestamp()) * 1000000)::bigint || '{MARK.decode()}'"
TABLE = "CREATE TABLE orders (id bigint PRIMARY KEY, group_id integer, stamp text, note text)"


class Source(Enum):
    """How a change gets from a statement to the server; $1 to $2 are the rows' ids, $3 is their note."""

    # Put together by hand: json_build_object would be the slowest part of all that is measured.
    NOTIFY = f"""SELECT count(pg_notify('events', '{{"table":"orders","action":"INSERT","data":{{"id":' || id
        || ',"group_id":' || id % {GROUPS} || ',"stamp":"' || {_STAMP} || '","note":"' || $3 || '"}}}}'))
        FROM generate_series($1, $2) AS id"""
    JOURNAL = f"INSERT INTO orders SELECT id, id % {GROUPS}, {_STAMP}, $3 FROM generate_series($1, $2) AS id"


class Publisher:
    """One order at a time, until the end of the block: it returns at once, and done() waits until it is carried out."""

    def __init__(self, conninfo: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other_end = context.Pipe()
        self._process = context.Process(target=_publish, args=(conninfo, other_end), daemon=True)
        self._process.start()
        other_end.close()
        self.done()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # An order that nobody waits for any more, since its server could not keep up, is not carried out to its end.
        self._process.terminate()
        self._process.join()

    def burst(self, source: Source, changes: int, note_bytes: int = NOTE_BYTES) -> None:
        """As fast as PostgreSQL takes them, in statements of STATEMENT_ROWS."""
        self._pipe.send((source, changes, None, note_bytes))

    def paced(self, source: Source, changes: int, per_second: float, note_bytes: int = NOTE_BYTES) -> None:
        """Each change in a transaction of its own."""
        self._pipe.send((source, changes, per_second, note_bytes))

    def done(self) -> None:
        self._pipe.recv()


def _publish(conninfo: str, orders: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started this, and who ends it
    connection = psycopg2.connect(conninfo)
    connection.autocommit = True
    db_cursor = connection.cursor()
    for source in Source:
        db_cursor.execute(f"PREPARE {source.name} (int, int, text) AS {source.value}")
    orders.send("ready")
    next_id = 1_000_000
    while True:
        source, changes, per_second, note_bytes = orders.recv()
        begun = time.perf_counter()
        step = STATEMENT_ROWS if per_second is None else 1
        for written in range(0, changes, step):
            if per_second is not None:
                time.sleep(max(0, begun + written / per_second - time.perf_counter()))
            rows = min(step, changes - written)
            db_cursor.execute(f"EXECUTE {source.name} (%s, %s, %s)", (next_id, next_id + rows - 1, "x" * note_bytes))
            next_id += rows
        orders.send("done")
