r"""A query some of whose rows no client can be told in, one that gives them all out. Knows no connection.

PostgreSQL keeps names and texts that have none in UTF-8: any bytes in a SQL_ASCII database, the holes of WIN1252 and
its like, and the roles and databases that were named in a database of another encoding. One such value fails the whole
statement. So where one does, PostgreSQL looks at each row by itself, and gives out the bytes of those that fail: what
is no text there arrives as a StandIn, such as caf\xe9.
"""

import base64
import json
import re
from typing import Any

import psycopg2
from psycopg2.extensions import cursor, encodings

# The rows as JSON, so that of whatever type they are they are looked at alike; in base64 the bytes of those that are no
# text. To bytes by way of decode(), since convert_to() refuses what the database's own encoding has no text for.
_SHOW = r"""
SELECT pg_catalog.set_config('changefeed.query', {query}, true);
DO $show$
DECLARE
    found pg_catalog.record;
    line pg_catalog.text;
    lines pg_catalog.text[] := '{{}}';
BEGIN
    FOR found IN EXECUTE pg_catalog.current_setting('changefeed.query') LOOP
        line := pg_catalog.row_to_json(found)::pg_catalog.text;
        BEGIN
            PERFORM pg_catalog.convert_to(line, 'UTF8');
        EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
            line := pg_catalog.replace(line, pg_catalog.chr(92), pg_catalog.repeat(pg_catalog.chr(92), 2));
            line := pg_catalog.encode(pg_catalog.decode(line, 'escape'), 'base64');
        END;
        lines := lines OPERATOR(pg_catalog.||) line;
    END LOOP;
    PERFORM pg_catalog.set_config('changefeed.rows', pg_catalog.array_to_json(lines)::pg_catalog.text, true);
END
$show$;
SELECT pg_catalog.current_setting('changefeed.rows')
"""
_BYTE = re.compile("[\udc80-\udcff]")  # as Python's surrogateescape has it


class StandIn(str):
    """What is shown of a text that has none in UTF-8. Nothing is to be found by it."""

    __slots__ = ()


class Illegible(psycopg2.DataError):
    """A text arrived that is none in UTF-8, though that is what it was said to be."""


def is_shown_only(*texts: str | None) -> bool:
    """Whether one of them is a StandIn."""
    return any(isinstance(text, StandIn) for text in texts)


def is_illegible(error: psycopg2.Error) -> bool:
    """Whether the statement failed by a text that the client cannot be told in its encoding."""
    return isinstance(error, Illegible) or error.pgcode in ("22021", "22P05")


def fetched(db_cursor: cursor) -> list[tuple[Any, ...]]:
    """The rows of what was executed. Raises Illegible: within UTF-8 PostgreSQL looks at nothing that it gives out."""
    try:
        return db_cursor.fetchall()
    except UnicodeDecodeError as error:
        raise Illegible(str(error)) from None


def showing(query: str) -> str:
    """The statements that give out the rows of `query`, a SELECT with its parameters in it, to rows_of()."""
    literal = "'" + query.replace("'", "''") + "'"
    return _SHOW.format(query=literal)


def rows_of(answer: str, server_encoding: str) -> list[tuple[Any, ...]]:
    """The rows: values as JSON has them."""
    # SQL_ASCII says nothing of what its bytes are; the server takes them for UTF-8 where they can be.
    codec = "utf-8" if server_encoding == "SQL_ASCII" else encodings.get(server_encoding, "ascii")
    return [_row(line, codec) for line in json.loads(answer)]


def _row(line: str, codec: str) -> tuple[Any, ...]:
    if line.startswith("{"):
        return _values(line)
    text = base64.b64decode(line).decode(codec, "surrogateescape")
    return tuple(map(_shown, _values(text)))


def _values(line: str) -> tuple[Any, ...]:
    row: list[tuple[str, Any]] = json.loads(line, object_pairs_hook=list)
    return tuple(value for _, value in row)


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return [_shown(one) for one in value]
    if isinstance(value, str) and _BYTE.search(value):
        return StandIn(_BYTE.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", value))
    return value
