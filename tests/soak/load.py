"""A pace in, changes of a watched table out, in an order that anyone can foretell. Knows no server.

Each writer's changes have numbers from 0 on: an INSERT of row n, an UPDATE of it, a DELETE of the row KEPT before it. So
the table stays as large as it is, and whoever follows a writer knows which change comes next.
"""

import contextlib
import multiprocessing
import random
import threading
import time
from typing import Any, Self

import psycopg2

KEPT = 800
GROUPS = 8  # KEPT is a multiple, so that the three changes of a cycle concern rows of the same group
WRITERS = 2
CYCLE = ("INSERT", "UPDATE", "DELETE")
# At times many changes commit together, and while they do not yet, the others' go on.
LONG_TRANSACTIONS_SHARE = 0.002
LONG_TRANSACTION_CHANGES = 100

DEFINITION = (
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

# What the next number is, also where nobody knows whether the last statement was committed.
WRITTEN = f"""
SELECT coalesce(max(3 * last.id + CASE WHEN last.number %% 3 = 0 THEN 1 WHEN kept.id IS NOT NULL THEN 2 ELSE 3 END), 0)
FROM (SELECT * FROM load WHERE writer = %s AND id >= 0 ORDER BY id DESC LIMIT 1) AS last
LEFT JOIN load AS kept ON kept.writer = last.writer AND kept.id = last.id - {KEPT}
"""


def number_of(change: dict[str, Any]) -> int:
    """The change's number, as its row tells it."""
    row = change["data"]
    return 3 * (row["id"] + KEPT) + 2 if change["action"] == "DELETE" else int(row["number"])


def group_of(number: int) -> int:
    return number // 3 % GROUPS


class Load:
    """Writes from the start of the block until stop(), in a process of its own.

    The database has the DEFINITION. A PostgreSQL that goes away and comes back is written to again, from where it stands.
    """

    def __init__(self, conninfo: str, changes_per_second: float) -> None:
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
        threading.Thread(target=_write_on, args=(conninfo, number, changes_per_second / WRITERS, written, stopping))
        for number in range(WRITERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _write_on(conninfo: str, writer: int, changes_per_second: float, written: Any, stopping: Any) -> None:
    while not stopping.is_set():
        with contextlib.suppress(psycopg2.Error), contextlib.closing(psycopg2.connect(conninfo)) as connection:
            connection.autocommit = True
            with connection.cursor() as db_cursor:
                _write(db_cursor, writer, changes_per_second, written, stopping)
        stopping.wait(0.02)  # PostgreSQL is away


def _write(db_cursor: Any, writer: int, changes_per_second: float, written: Any, stopping: Any) -> None:
    def write(number: int) -> None:
        cycle, step = divmod(number, 3)
        row = {"writer": writer, "id": cycle, "number": number, "grp": group_of(number)}
        db_cursor.execute(STATEMENTS[step], row)

    draw = random.Random(writer)
    db_cursor.execute(WRITTEN, (writer,))
    [(first,)] = db_cursor.fetchall()
    number, begun = first, time.perf_counter()
    while not stopping.is_set():
        written[writer] = number
        time.sleep(max(0.0, begun + (number - first) / changes_per_second - time.perf_counter()))
        if draw.random() < LONG_TRANSACTIONS_SHARE:
            db_cursor.execute("BEGIN")
            for _ in range(LONG_TRANSACTION_CHANGES):
                write(number)
                number += 1
            db_cursor.execute("COMMIT")
        else:
            write(number)
            number += 1
