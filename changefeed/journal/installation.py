"""sql/install.sql in, what it makes out: by that a schema of the same version, but of an earlier state, is known.

Knows no database.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cache

from changefeed.postgres.named_queries import read_script

SHOWN = 3

_FUNCTION = re.compile(
    r"^CREATE (?:OR REPLACE )?FUNCTION changefeed\.(?P<name>\w+)\(.*?AS (?P<quote>\$\w*\$)(?P<body>.*?)(?P=quote)",
    re.MULTILINE | re.DOTALL,
)
_TABLE = re.compile(
    r"^CREATE (?:UNLOGGED )?TABLE IF NOT EXISTS changefeed\.(?P<name>\w+) \(\n(?P<columns>.*?)\n\)", re.M | re.S
)
_COLUMN = re.compile(r"^    (?P<name>[a-z_]+) ", re.MULTILINE)
_ADDED = re.compile(r"^    ALTER TABLE changefeed\.(?P<name>\w+) ADD COLUMN (?P<column>\w+)", re.MULTILINE)
_SEQUENCE = re.compile(r"^CREATE SEQUENCE IF NOT EXISTS changefeed\.(?P<name>\w+)", re.MULTILINE)


@cache
def parts() -> dict[str, list[str]]:
    """As the query `schema differs` takes them: functions, each with its body's MD5; relations, each with a column."""
    script = read_script("install.sql")
    bodies = [(one["name"], one["body"].encode()) for one in _FUNCTION.finditer(script)]
    columns = [
        (table["name"], column["name"])
        for table in _TABLE.finditer(script)
        for column in _COLUMN.finditer(table["columns"])
    ]
    columns += [(one["name"], one["column"]) for one in _ADDED.finditer(script)]
    columns += [(one["name"], "last_value") for one in _SEQUENCE.finditer(script)]
    return {
        "functions": [name for name, _ in bodies],
        "digests": [hashlib.md5(body, usedforsecurity=False).hexdigest() for _, body in bodies],
        "relations": [relation for relation, _ in columns],
        "columns": [column for _, column in columns],
    }


def some_of(differing: Sequence[str]) -> str:
    """For people."""
    more = len(differing) - SHOWN
    return ", ".join(differing[:SHOWN]) + (f" and {more} more" if more > 0 else "")
