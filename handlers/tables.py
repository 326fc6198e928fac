"""The tables of the database, and the switch that watches each."""

import json

import psycopg2

from changefeed.database import DatabaseUnavailable, one_line
from changefeed.queries import load
from changefeed.rights import bound_of
from changefeed.watching import CannotWatch, NoSuchTable, WatchOptions
from handlers.base import ApiHandler
from handlers.errors import ApiError
from handlers.gate import Need

QUERIES = load("server.sql")


class TablesHandler(ApiHandler):
    """{"tables": [{"schema", "table", "is_watched", "watched_by", "estimated_rows"}, …]}

    The last is null where only some of the rows may be seen.
    """

    needs = Need.TOKEN

    async def get(self) -> None:
        try:
            rows = await self.feed.database.fetch(QUERIES["tables"])
        except (DatabaseUnavailable, psycopg2.Error) as error:
            raise ApiError(503, "database_unavailable", f"the tables cannot be listed: {one_line(error)}") from None
        self.finish(
            {
                "tables": [
                    {
                        "schema": schema,
                        "table": table,
                        "is_watched": watched_by is not None,
                        "watched_by": watched_by,
                        "estimated_rows": None if bound.filters else estimated_rows,
                    }
                    for schema, table, watched_by, estimated_rows in rows
                    if (bound := bound_of(self.rights.tables, f"{schema}.{table}"))
                ]
            }
        )


class WatchHandler(ApiHandler):
    """PUT watches the table that the path names, DELETE ends it.

    The body of PUT is {"omit", "row_limit", "strict", "hash"}, each of them optional.
    """

    needs = Need.ADMIN

    async def put(self, name: str) -> None:
        options = self._options()
        await self._answer(name, is_watched=True, has_changed=await self._change(name, options))

    async def delete(self, name: str) -> None:
        await self._answer(name, is_watched=False, has_changed=await self._change(name, None))

    async def _change(self, name: str, options: WatchOptions | None) -> bool:
        watching = self.feed.watching
        try:
            if bound_of(self.rights.tables, name) is None or not _can_be_name(name):
                raise NoSuchTable(f"the database has no table {name}")
            return await (watching.watch(name, options) if options else watching.unwatch(name))
        except NoSuchTable as error:
            raise ApiError(404, "no_such_table", str(error)) from None
        except CannotWatch as error:
            raise ApiError(409, "cannot_watch", str(error)) from None
        except DatabaseUnavailable as error:
            raise ApiError(503, "database_unavailable", str(error)) from None

    async def _answer(self, name: str, *, is_watched: bool, has_changed: bool) -> None:
        self.feed.follower.reidentify()  # there may be a journal now
        self.finish({"table": name, "is_watched": is_watched, "has_changed": has_changed})

    def _options(self) -> WatchOptions:
        if not self.request.body.strip():
            return WatchOptions()
        try:
            body = json.loads(self.request.body)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, "not_json", f"the body is empty or a JSON object: {error}") from None
        shapes = (
            'the body is {"omit": ["column", …], "row_limit": 1000, "strict": false, "hash": ["column", …]}, each of '
            "them optional"
        )
        if not isinstance(body, dict) or not body.keys() <= {"omit", "row_limit", "strict", "hash"}:
            raise ApiError(400, "bad_options", shapes)
        omit, hashed = body.get("omit") or [], body.get("hash") or []
        row_limit, strict = body.get("row_limit"), body.get("strict", False)
        if (
            not (_are_names(omit) and _are_names(hashed))
            or not (row_limit is None or (type(row_limit) is int and 0 < row_limit < 1 << 62))
            or not isinstance(strict, bool)
        ):
            raise ApiError(400, "bad_options", shapes)
        return WatchOptions(tuple(omit), row_limit, strict, tuple(hashed))


def _are_names(said: object) -> bool:
    return isinstance(said, list) and all(isinstance(column, str) and _can_be_name(column) for column in said)


def _can_be_name(text: str) -> bool:
    """Half a surrogate pair is JSON, but no text of PostgreSQL's, and neither is one with a zero byte."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
