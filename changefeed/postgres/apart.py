"""Reads rows of which some may fail any statement: each failing one costs itself alone. Knows no table."""

from collections.abc import Awaitable, Callable, Sequence

import psycopg2

from changefeed.postgres.legible import is_illegible
from changefeed.postgres.pool import DatabaseUnavailable, DbRow, one_line


def may_be_of_a_row(error: Exception) -> bool:
    """Whether reading fewer rows may help: against bytes that are not text, large values, lack of memory or time."""
    if isinstance(error, psycopg2.Error):
        # PostgreSQL up to 17 has no code for JSON's \u00e9 in a SQL_ASCII database but "feature not supported".
        if error.diag.source_function == "pg_unicode_to_server":
            return True
        return is_illegible(error) or (error.pgcode or "").startswith(("22", "53", "54", "57014", "XX"))
    return isinstance(error, DatabaseUnavailable) and error.is_late


async def read_apart(
    ids: Sequence[int], read: Callable[[Sequence[int]], Awaitable[list[DbRow]]]
) -> tuple[list[DbRow], dict[int, str]]:
    """What read() returns for these ids, in parts if it fails; and for which single ones it fails, and why."""
    rows: list[DbRow] = []
    failures: dict[int, str] = {}
    parts = [ids] if ids else []
    while parts:
        part = parts.pop()
        try:
            rows += await read(part)
        except (DatabaseUnavailable, psycopg2.Error) as error:
            if not may_be_of_a_row(error):
                raise
            if len(part) == 1:
                failures[part[0]] = one_line(error)
            else:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
    return rows, failures
