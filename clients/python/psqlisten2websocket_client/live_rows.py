"""The rows of a table, kept as they are in the database."""

from collections.abc import AsyncIterator, Sequence

from psqlisten2websocket_client.changes import Change
from psqlisten2websocket_client.connection import Connection, Refused, Request, Token, logger
from psqlisten2websocket_client.row_set import Kept, Rows, RowSet


async def rows(
    url: str,
    table: str,
    *,
    filter: str | Sequence[str] = (),
    columns: str | Sequence[str] = (),
    key: str | Sequence[str] = "id",
    since: Kept | None = None,
    token: Token | None = None,
) -> AsyncIterator[Rows]:
    """Yields the rows of the table by key: once they are read, and whenever they have changed.

    What it yields never changes: the next one is another. `key` are the columns that identify a row. `since` is
    Rows.kept of before, of the same table, filter and columns: it yields these rows, and then applies what has changed
    since, instead of reading all.

    After a lost connection it applies the changes that it missed. Where they are not known, after a gap or a statement
    above the table's `row_limit`, it reads the rows again. Raises Refused for what can never work, and ValueError if
    the rows lack a column of the key.
    """
    key = [key] if isinstance(key, str) else key
    connection = Connection(Request(url, {"table": table, "filter": filter, "columns": columns}, token))
    current = reading = RowSet(key)
    cursor: str | None = None  # None while the rows have to be read
    if since:
        kept, cursor = since
        current.add(kept)
        yield current.at(cursor)
    try:
        while True:
            message = await connection.receive({"since": cursor} if cursor else {"rows": "true"})
            match message["type"]:
                case "hello":
                    reading = RowSet(key)
                case "rows" if cursor is None:
                    reading.add(message["rows"])
                    if message.get("is_last"):
                        current, cursor = reading, message["cursor"]
                        yield current.at(cursor)
                case "changes" if cursor is not None:
                    if not all(current.apply(Change.of(value)) for value in message["changes"]):
                        cursor = None
                        await connection.reconnect("a statement changed more rows than its table's row_limit")
                        continue
                    cursor = message["cursor"] or cursor
                    if message["changes"]:
                        yield current.at(cursor)
                case "gap":
                    cursor = None
                    await connection.reconnect(message["why"])
                case "unreadable" if cursor is None:
                    raise Refused("unreadable_row", message["why"])
                case "unreadable":
                    cursor = None
                    await connection.reconnect(message["why"])
                case "error" if cursor is not None:  # before that the server closes the connection, see Connection
                    logger.warning("%s: %s", message["code"], message["message"])
    finally:
        await connection.close()
