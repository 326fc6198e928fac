r"""Rewrites a query so that rows with text that UTF-8 cannot represent do not fail it. Knows no connection.

PostgreSQL can hold such names and texts: any bytes in a SQL_ASCII database, bytes without a character in WIN1252 and
similar encodings, and roles and databases that were named in a database of another encoding. One such value fails the
whole statement. Then the rewritten query converts each row separately, and returns the bytes of those that fail: such
a text arrives as a StandIn, such as caf\xe9.
"""

import base64
import json
import re
from typing import Any

import psycopg2
from psycopg2.extensions import cursor, encodings

# Each row as JSON, so that all types are handled alike; a row that is no valid text in base64. decode() makes the
# bytes, because convert_to() refuses those that have no character in the database's own encoding.
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
    """Shown in place of a text that UTF-8 cannot represent. No value in the database equals it."""

    __slots__ = ()


class Illegible(psycopg2.DataError):
    """PostgreSQL sent a text as UTF-8 that is not valid UTF-8."""


def is_shown_only(*texts: str | None) -> bool:
    """Whether one of the texts is a StandIn."""
    return any(isinstance(text, StandIn) for text in texts)


def is_illegible(error: psycopg2.Error) -> bool:
    """Whether the statement failed because UTF-8 cannot represent a text of its result."""
    return isinstance(error, Illegible) or error.pgcode in ("22021", "22P05")


def fetched(db_cursor: cursor) -> list[tuple[Any, ...]]:
    """The rows of the executed query. Raises Illegible: from UTF-8 to UTF-8 PostgreSQL sends bytes without a check."""
    try:
        return db_cursor.fetchall()
    except UnicodeDecodeError as error:
        raise Illegible(str(error)) from None


def showing(query: str) -> str:
    """Statements whose answer rows_of() turns into the rows of `query`, a SELECT with its parameters filled in."""
    literal = "'" + query.replace("'", "''") + "'"
    return _SHOW.format(query=literal)


def rows_of(answer: str, server_encoding: str) -> list[tuple[Any, ...]]:
    """The rows of an answer to showing(), with their values as JSON has them."""
    # SQL_ASCII does not say what its bytes mean; the server reads them as UTF-8 if they are valid.
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
