"""Changes the tables: threads, each with a seed, in every way that PostgreSQL has for it.

A write may fail of what writers do to each other, or because PostgreSQL was stopped under it. That it fails because of
the feed is what they watch for: any other error, and any that the feed's own functions have a part in.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import ISOLATION_LEVEL_READ_COMMITTED as READ_COMMITTED

KEYS = 300
# What writers do to each other, and to themselves.
_EXPECTED = (
    errors.UniqueViolation,
    errors.ForeignKeyViolation,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
    errors.SerializationFailure,
    errors.TriggeredDataChangeViolation,
    errors.CardinalityViolation,
    errors.DivisionByZero,
)


def _values(draw: random.Random) -> dict[str, Any]:
    key, other = draw.randrange(KEYS), draw.randrange(KEYS)
    return {
        "key": key,
        "other": other,
        "low": min(key, other),
        "high": min(key, other) + draw.randrange(12),
        "n": draw.randrange(-(10**18), 10**18),
        "small": draw.randrange(10),
        "depth": draw.randrange(4),
        "region": draw.randrange(5),
        "word": draw.choice(
            ["", "x", 'quo"te', "back\\slash", "line\nbreak", "naïve ☃ 🦄", "\u2028", "{}", "y" * 3000]
        ),
        "amount": draw.choice(["0.10", "1e3", "NaN", "123456789012345678901234567890.123456789", None]),
        "bulk": draw.randrange(200, 1500),
    }


# Weight and statement.
STATEMENTS: tuple[tuple[float, str], ...] = (
    (
        9,
        "INSERT INTO items VALUES (%(key)s, %(n)s, %(word)s, %(amount)s, ARRAY[%(word)s, NULL], '{\"a\": [1, {}]}') "
        "ON CONFLICT DO NOTHING",
    ),
    (
        6,
        "INSERT INTO items (id, n, word) SELECT i, %(n)s, %(word)s FROM generate_series(%(low)s, %(high)s) AS i "
        "ON CONFLICT (id) DO UPDATE SET n = excluded.n, word = items.word || 'u' WHERE length(items.word) < 20",
    ),
    (8, "UPDATE items SET n = %(n)s, word = %(word)s WHERE id BETWEEN %(low)s AND %(high)s"),
    (3, "UPDATE items SET n = n WHERE id BETWEEN %(low)s AND %(high)s"),
    (6, "UPDATE items SET id = %(other)s WHERE id = %(key)s"),
    (2, "UPDATE items SET id = id + 1000, amount = %(amount)s WHERE id BETWEEN %(low)s AND %(high)s"),
    (2, "UPDATE items SET id = id - 1000 WHERE id BETWEEN 1000 AND 2000"),
    (6, "DELETE FROM items WHERE id BETWEEN %(low)s AND %(high)s"),
    (
        3,
        "WITH gone AS (DELETE FROM items WHERE id = %(key)s RETURNING *) "
        "INSERT INTO items (id, n, word) SELECT id, n + 1, word FROM gone",
    ),
    (
        2,
        "MERGE INTO items USING generate_series(%(low)s, %(high)s) AS v (id) ON items.id = v.id "
        "WHEN MATCHED AND v.id %% 3 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = %(n)s "
        "WHEN NOT MATCHED THEN INSERT (id, n) VALUES (v.id, 0)",
    ),
    (2, "UPDATE items SET n = 1 / (id - %(key)s) WHERE id BETWEEN %(low)s AND %(high)s"),
    (0.15, "TRUNCATE items"),
    (8, "INSERT INTO nested VALUES (%(key)s, %(small)s, %(depth)s) ON CONFLICT DO NOTHING"),
    (6, "UPDATE nested SET n = %(small)s, depth = %(depth)s WHERE id BETWEEN %(low)s AND %(high)s"),
    (5, "DELETE FROM nested WHERE id BETWEEN %(low)s AND %(high)s"),
    (5, "INSERT INTO replaced VALUES (%(key)s, %(small)s)"),
    (2, "INSERT INTO replaced SELECT i, %(small)s FROM generate_series(%(low)s, %(high)s) AS i"),
    (2, "UPDATE replaced SET id = %(other)s, n = n + 1 WHERE id = %(key)s"),
    (8, "INSERT INTO parts VALUES (%(key)s, %(region)s, %(word)s) ON CONFLICT DO NOTHING"),
    (8, "UPDATE parts SET region = %(region)s, word = %(word)s WHERE id BETWEEN %(low)s AND %(high)s AND region < 3"),
    (3, "UPDATE parts_1 SET region = 1 + %(small)s %% 2 WHERE id = %(key)s"),
    (3, "INSERT INTO parts_0 VALUES (%(key)s, 0, %(word)s) ON CONFLICT DO NOTHING"),
    (4, "DELETE FROM parts WHERE id BETWEEN %(low)s AND %(high)s"),
    (2, "DELETE FROM parts_1_2 WHERE id BETWEEN %(low)s AND %(high)s"),
    (0.1, "TRUNCATE parts"),
    (0.15, "TRUNCATE parts_1_1"),
    (6, "INSERT INTO parents VALUES (%(key)s, %(word)s) ON CONFLICT DO NOTHING"),
    (2, "UPDATE parents SET id = %(other)s WHERE id = %(key)s"),
    (2, "DELETE FROM parents WHERE id = %(key)s"),
    (0.05, "TRUNCATE parents CASCADE"),
    (
        7,
        "INSERT INTO children SELECT %(other)s, id, %(small)s FROM parents WHERE id BETWEEN %(low)s AND %(high)s LIMIT 1 "
        "ON CONFLICT (id) DO UPDATE SET parent_id = excluded.parent_id",
    ),
    (
        3,
        "WITH p AS (INSERT INTO parents VALUES (%(key)s, 'new') ON CONFLICT DO NOTHING) UPDATE children SET n = %(small)s "
        "WHERE id = %(other)s",
    ),
    (2, "DELETE FROM children WHERE id BETWEEN %(low)s AND %(high)s"),
    (6, "INSERT INTO heap SELECT %(word)s, %(small)s FROM generate_series(0, %(depth)s)"),
    (3, "UPDATE heap SET n = n + 1 WHERE n = %(small)s"),
    (5, "DELETE FROM heap WHERE n = %(small)s"),
    (0.1, "TRUNCATE heap, replaced"),
    (
        4,
        'INSERT INTO "Ödd ""näme"".x" VALUES (%(key)s, %(word)s) ON CONFLICT ("Ke y") DO UPDATE SET "te""xt" = '
        'excluded."te""xt" || \'!\'',
    ),
    (2, 'DELETE FROM "Ödd ""näme"".x" WHERE "Ke y" BETWEEN %(low)s AND %(high)s'),
    (
        0.6,
        "INSERT INTO items (id, n) SELECT i, i FROM generate_series(%(key)s %% 40 * 2000 + 10000, "
        "%(key)s %% 40 * 2000 + 10000 + %(bulk)s) AS i ON CONFLICT DO NOTHING",
    ),
    (0.6, "UPDATE items SET n = n + 1 WHERE id >= 10000"),
    (0.9, "DELETE FROM items WHERE id >= 10000"),
    (0.3, "DELETE FROM heap"),
)
HUGE = "INSERT INTO items (id, n) SELECT i, i FROM generate_series(1000000, 1000000 + %(rows)s) AS i ON CONFLICT DO NOTHING"


# A transaction that sent a NOTIFY cannot be prepared. Where it may be prepared, or with a short lock_timeout, none is sent.
_NOTIFYING = "SET lock_timeout = '2s'; SET changefeed.notify = 'on'"
_SILENT = "SET lock_timeout = '300ms'"


class WriteFailed(AssertionError):
    """A write failed, or was not recorded, because of the feed."""


class Writer(threading.Thread):
    """One connection's worth of transactions, until `stopping` is set. `crashes()` counts what was done to PostgreSQL."""

    def __init__(
        self,
        name: str,
        seed: str,
        conninfo: str,
        stopping: threading.Event,
        crashes: Callable[[], int],
        *,
        huge_rows: int,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.failure: BaseException | None = None
        self.done: Counter[str] = Counter()
        self._may_notify = False
        self._draw = random.Random(seed)
        self._conninfo = conninfo
        self._stopping = stopping
        self._crashes = crashes
        self._huge_rows = huge_rows

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._work()
        except BaseException as error:  # noqa: BLE001  # it is the run's, which asks for it
            self.failure = error

    def _work(self) -> None:
        """Transactions on one connection, for as long as it lasts."""
        crashes_before = self._crashes()
        connection = None
        statement = "connect"
        try:
            connection = psycopg2.connect(self._conninfo)
            with connection.cursor() as db_cursor:
                self._may_notify = self._draw.random() < 0.5
                db_cursor.execute(_NOTIFYING if self._may_notify else _SILENT)
                connection.commit()
                while not self._stopping.is_set():
                    statement = "transaction"
                    self._transaction(connection, db_cursor)
                    self._check_notices(connection)
                    self._stopping.wait(self._draw.choice((0, 0, 0.001, 0.01, 0.03)))
        except psycopg2.Error as error:
            if self._crashes() == crashes_before and crashes_before % 2 == 0:
                raise WriteFailed(
                    f"{self.name}: {statement}: {type(error).__name__} {error.pgcode}: {error}"
                ) from error
            self.done["lost connections"] += 1
            self._stopping.wait(0.05)
        finally:
            if connection:
                connection.close()

    def _transaction(self, connection: Any, db_cursor: Any) -> None:
        draw = self._draw
        kind = draw.random()
        if kind < 0.1:
            connection.set_session(isolation_level=draw.choice(["REPEATABLE READ", "SERIALIZABLE", "READ COMMITTED"]))
        try:
            for _ in range(draw.choice((1, 1, 1, 2, 3, 5, 9))):
                self._step(db_cursor)
                if kind < 0.015:
                    self._stopping.wait(draw.uniform(0.3, 2.5))  # a long transaction
            if kind > 0.97 and not self._may_notify:
                self._two_phases(connection, db_cursor)
            elif draw.random() < 0.2:
                connection.rollback()
                self.done["rollbacks"] += 1
            else:
                connection.commit()
                self.done["commits"] += 1
        except _EXPECTED as error:
            self._check_blameless(error)
            connection.rollback()
            self.done["conflicts"] += 1

    def _step(self, db_cursor: Any) -> None:
        draw = self._draw
        if draw.random() > 0.25:
            self._write(db_cursor)
            return
        db_cursor.execute("SAVEPOINT here")
        try:
            for _ in range(draw.randrange(1, 4)):
                self._write(db_cursor)
        except _EXPECTED as error:
            self._check_blameless(error)
            db_cursor.execute("ROLLBACK TO here")
            return
        db_cursor.execute(draw.choice(("ROLLBACK TO here", "RELEASE here")))

    def _write(self, db_cursor: Any) -> None:
        if self._huge_rows and self._draw.random() < 0.001:
            db_cursor.execute(HUGE, {"rows": self._draw.randrange(self._huge_rows)})
            return
        [(_, statement)] = self._draw.choices(STATEMENTS, [weight for weight, _ in STATEMENTS])
        if statement.startswith("TRUNCATE parts_") and db_cursor.connection.isolation_level not in (
            None,
            READ_COMMITTED,
        ):
            return  # which cannot be recorded, and is sent as a gap
        db_cursor.execute(statement, _values(self._draw))

    def _two_phases(self, connection: Any, db_cursor: Any) -> None:
        name = f"{self.name} {self._draw.randrange(10**9)}"
        db_cursor.execute("PREPARE TRANSACTION %s", (name,))
        connection.rollback()  # to psycopg2 it still is in one
        connection.autocommit = True
        try:
            self._stopping.wait(self._draw.uniform(0, 0.5))
            db_cursor.execute(
                self._draw.choice(("COMMIT PREPARED %s", "COMMIT PREPARED %s", "ROLLBACK PREPARED %s")), (name,)
            )
            self.done["two-phase"] += 1
        finally:
            if not connection.closed:
                connection.autocommit = False

    def _check_blameless(self, error: psycopg2.Error) -> None:
        """Ours may be on the stack of a conflict between two writers' own rows, but not cause one of our own."""
        if "changefeed" in str(error.diag.message_primary) or "changefeed" in (error.diag.schema_name or ""):
            raise WriteFailed(f"{self.name}: {error}") from error

    def _check_notices(self, connection: Any) -> None:
        if said := [notice for notice in connection.notices if "changefeed" in notice]:
            raise WriteFailed(f"{self.name}: {said}")
        del connection.notices[:]
