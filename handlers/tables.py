"""The tables of the database and whether they are watched."""

import psycopg2

from changefeed.database import DatabaseUnavailable, one_line
from changefeed.queries import load
from handlers.base import ApiError, ApiHandler

QUERIES = load("server.sql")


class TablesHandler(ApiHandler):
    async def get(self) -> None:
        try:
            rows = await self.feed.database.fetch(QUERIES["tables"])
        except (DatabaseUnavailable, psycopg2.Error) as error:
            raise ApiError(503, "database_unavailable", f"the tables cannot be listed: {one_line(error)}") from None
        columns = ("schema", "table", "is_watched", "estimated_rows")
        self.finish({"tables": [dict(zip(columns, row, strict=True)) for row in rows]})
