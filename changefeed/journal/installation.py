"""Lists what sql/install.sql creates, to detect a schema of this version in an earlier state. Knows no database."""

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
_ADDED = re.compile(r"^ +ALTER TABLE changefeed\.(?P<name>\w+) ADD COLUMN (?P<column>\w+)", re.MULTILINE)
_SEQUENCE = re.compile(r"^CREATE SEQUENCE IF NOT EXISTS changefeed\.(?P<name>\w+)", re.MULTILINE)


@cache
def parts() -> dict[str, list[str]]:
    """Parameters of the query `schema differs`: functions with their bodies' MD5, relations with their columns."""
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
    """The first few names, for display."""
    more = len(differing) - SHOWN
    return ", ".join(differing[:SHOWN]) + (f" and {more} more" if more > 0 else "")
