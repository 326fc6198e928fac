"""A pace in, changes of a watched table out, in an order that anyone can foretell. Knows no server.

Each writer's changes have numbers from 0 on: an INSERT of row n, an UPDATE of it, a DELETE of the row KEPT before it. So
the table stays as large as it is, and whoever follows a writer knows which change comes next.
"""

import multiprocessing
import random
import threading
import time
from typing import Any, Self

import psycopg2

from tests.postgres import execute

KEPT = 800
GROUPS = 8  # KEPT is a multiple, so that the three changes of a cycle concern rows of the same group
WRITERS = 2
CYCLE = ("INSERT", "UPDATE", "DELETE")
# At times many changes commit together, and while they do not yet, the others' go on.
LONG_TRANSACTION_CYCLES = 30

TABLE = (
    "CREATE TABLE load (writer int, id bigint, number bigint, grp int, note text, PRIMARY KEY (writer, id));"
    f"INSERT INTO load SELECT w, -i, 0, {KEPT} - i, 'from before' "
    f"FROM generate_series(0, {WRITERS - 1}) AS w, generate_series(1, {KEPT}) AS i;"
    f"UPDATE load SET grp = grp % {GROUPS}"
)
STATEMENTS = (
    "INSERT INTO load VALUES (%(writer)s, %(id)s, %(number)s, %(grp)s, repeat('a note of a usual length ', 4))",
    "UPDATE load SET number = %(number)s, note = 'changed' WHERE writer = %(writer)s AND id = %(id)s",
    f"DELETE FROM load WHERE writer = %(writer)s AND id = %(id)s - {KEPT}",
)


def number_of(change: dict[str, Any]) -> int:
    """The change's number, as its row tells it."""
    row = change["data"]
    return 3 * (row["id"] + KEPT) + 2 if change["action"] == "DELETE" else int(row["number"])


def group_of(number: int) -> int:
    return number // 3 % GROUPS


class Load:
    """Writes from the start of the block until stop(), in a process of its own."""

    def __init__(self, conninfo: str, changes_per_second: float) -> None:
        execute(conninfo, TABLE)
        context = multiprocessing.get_context("spawn")
        self._stopping = context.Event()
        self._written = context.Array("q", WRITERS)
        self._process = context.Process(
            target=_write_all, args=(conninfo, changes_per_second, self._written, self._stopping), daemon=True
        )

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    @property
    def written(self) -> list[int]:
        """How many changes of each writer are committed."""
        return list(self._written)

    def check(self) -> None:
        if self._process.exitcode is not None:
            raise AssertionError(f"the writers ended with {self._process.exitcode}")

    def stop(self) -> list[int]:
        """What was written in all."""
        self._stopping.set()
        self._process.join()
        return self.written


def _write_all(conninfo: str, changes_per_second: float, written: Any, stopping: Any) -> None:
    threads = [
        threading.Thread(target=_write, args=(conninfo, number, changes_per_second / WRITERS, written, stopping))
        for number in range(WRITERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _write(conninfo: str, writer: int, changes_per_second: float, written: Any, stopping: Any) -> None:
    draw = random.Random(writer)
    connection = psycopg2.connect(conninfo)
    connection.autocommit = True
    db_cursor = connection.cursor()
    cycle, begun = 0, time.perf_counter()
    while not stopping.is_set():
        time.sleep(max(0.0, begun + 3 * cycle / changes_per_second - time.perf_counter()))
        cycles = LONG_TRANSACTION_CYCLES if draw.random() < 0.005 else 1
        if cycles > 1:
            db_cursor.execute("BEGIN")
        for _ in range(cycles):
            for step, statement in enumerate(STATEMENTS):
                number = 3 * cycle + step
                db_cursor.execute(statement, {"writer": writer, "id": cycle, "number": number, "grp": group_of(number)})
                if cycles == 1:
                    written[writer] = number + 1
            cycle += 1
        if cycles > 1:
            db_cursor.execute("COMMIT")
            written[writer] = 3 * cycle
    connection.close()
