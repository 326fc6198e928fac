"""Lists the tables of the database, and watches or unwatches one."""

import logging
from dataclasses import fields, replace
from typing import Any

from changefeed.change.json_text import parse_unique
from changefeed.change.table_names import TableName, qualified
from changefeed.journal.installation import CannotWatch
from changefeed.journal.watching import (
    NoSuchTable,
    PostgresRefused,
    WatchOptions,
    ambiguous,
    no_such_table,
)
from changefeed.postgres.named_queries import load_queries
from changefeed.selection.rights import TableRights, table_rights_of_any
from handlers.access.authentication import Need
from handlers.access.errors import ApiError, database_needed
from handlers.http.base import ApiHandler
from handlers.http.server import BODY_LIMIT_BYTES

logger = logging.getLogger("handlers.tables")

QUERIES = load_queries("server.sql")
OPTIONS_SHAPE = (
    'send {"omit": ["column", …], "row_limit": 1000, "strict": false, "hash": ["column", …]}, each of them optional'
)


class TablesHandler(ApiHandler):
    """{"tables": [{"schema", "table", "is_watched", "watched_by", "estimated_rows", "can_change"}, …]}

    `estimated_rows` is null if the caller may see only some of the rows. `can_change` is whether the server's
    role has the rights to watch the table or, if the journal watches it, to end that.
    """

    needs = Need.TOKEN
    query_names = ()
    waits_its_turn = True

    async def get(self) -> None:
        with database_needed("the tables cannot be listed"):
            rows = await self.context.request_pool.fetch(QUERIES["tables"])
        await self.finish_large(
            {
                "tables": [
                    {
                        "schema": schema,
                        "table": table,
                        "is_watched": watched_by is not None,
                        "watched_by": watched_by,
                        "estimated_rows": None if granted.filters else estimated_rows,
                        "can_change": can_change,
                    }
                    for schema, table, watched_by, estimated_rows, can_change in rows
                    if (granted := table_rights_of_any(self.rights.tables, (TableName(schema, table),)))
                ]
            }
        )


class WatchHandler(ApiHandler):
    """PUT watches the table of the path, DELETE unwatches it.

    The body of PUT is {"omit", "row_limit", "strict", "hash"}, all optional: what is missing stays as it is. Only a
    token with all rights may expose a column that was omitted or hashed before.
    """

    needs = Need.ADMIN
    query_names = ()
    waits_its_turn = True

    async def put(self, name: str) -> None:
        asked = self._asked()
        try:
            with database_needed("the table cannot be watched"):
                name, granted = await self._find(name)

                def choose(before: WatchOptions, replaced: set[str]) -> WatchOptions:
                    options = self._options(name, granted, before, asked)
                    self._check_replaced(name, replaced, before, asked)
                    return options

                has_changed = await self.context.watching.change(name, choose)
        except (NoSuchTable, CannotWatch) as error:
            raise self._api_error(name, error, "cannot_watch") from None
        self._answer(name, is_watched=True, has_changed=has_changed)

    async def delete(self, name: str) -> None:
        try:
            with database_needed("the table cannot be unwatched"):
                name, _ = await self._find(name)

                def refuse_to_forget(before: WatchOptions, _: set[str]) -> None:
                    if (before.omit or before.hash) and not self.rights.sees_everything:
                        raise _needs_all_rights(f"{name} has omitted or hashed columns, which would be forgotten")

                has_changed = await self.context.watching.change(name, refuse_to_forget)
        except (NoSuchTable, CannotWatch) as error:
            raise self._api_error(name, error, "cannot_unwatch") from None
        self._answer(name, is_watched=False, has_changed=has_changed)

    async def _find(self, name: str) -> tuple[str, TableRights]:
        """The table's qualified() name, and what the caller may see of it. Raises NoSuchTable for a hidden one, too."""
        granted_by_name = {}
        for table in await self.context.watching.named(name) if _can_be_name(name) else ():
            if granted := table_rights_of_any(self.rights.tables, (table,)):
                granted_by_name[qualified(str(table.schema), table.table)] = granted
        if not granted_by_name:
            raise no_such_table(name)
        if len(granted_by_name) > 1:
            raise ApiError(409, "ambiguous_table", ambiguous(name, granted_by_name))
        return next(iter(granted_by_name.items()))

    def _answer(self, name: str, *, is_watched: bool, has_changed: bool) -> None:
        self.context.follower.reidentify()  # there may be a journal now
        self.finish({"table": name, "is_watched": is_watched, "has_changed": has_changed})

    def _options(self, name: str, granted: TableRights, before: WatchOptions, asked: dict[str, Any]) -> WatchOptions:
        """The new options. Those of columns that the caller may not see stay as they are, and are never mentioned."""
        options = replace(before, **asked)
        if self.rights.sees_everything:
            return options
        for column in (*asked.get("omit", ()), *asked.get("hash", ())):
            if not granted.shows(column):
                raise CannotWatch(f"{name} has no column {column}")
        hidden = [tuple(one for one in of if not granted.shows(one)) for of in (before.omit, before.hash)]
        if "omit" in asked:
            options = replace(options, omit=(*options.omit, *hidden[0]))
        if "hash" in asked:
            options = replace(options, hash=(*options.hash, *hidden[1]))
        if set(before.omit) - set(options.omit) or set(before.hash) - set(options.hash) - set(options.omit):
            raise _needs_all_rights("this would expose a column that is omitted or hashed")
        return options

    def _check_replaced(self, name: str, replaced: set[str], before: WatchOptions, asked: dict[str, Any]) -> None:
        """Raises an error if the request would expose a column by keeping its name, which another column has now."""
        if replaced and not self.rights.sees_everything:
            raise _needs_all_rights(f"a column of {name} that is omitted or hashed was renamed or dropped")
        kept = {column for option in {"omit", "hash"} - asked.keys() for column in getattr(before, option)}
        if kept & replaced:
            raise CannotWatch(
                f"{name}: the column {min(kept & replaced)} that was to be left out or hashed is gone; say in omit and "
                "in hash which columns it is now"
            )

    def _api_error(self, name: str, error: NoSuchTable | CannotWatch, code: str) -> ApiError:
        """The error, without names that the caller may not see."""
        match error:
            case NoSuchTable():
                return ApiError(404, "no_such_table", str(error))
            case PostgresRefused() if not self.rights.sees_everything:
                logger.info("refused: %s", error)
                why = "PostgreSQL refuses it; the log says why, and so does the answer to a token with all rights"
                return ApiError(409, code, f"{name}: {why}")
            case CannotWatch():
                return ApiError(409, code, str(error))

    def _asked(self) -> dict[str, Any]:
        """The options in the body. Raises ApiError."""
        if len(self.request.body) > BODY_LIMIT_BYTES:
            raise ApiError(
                413,
                "body_too_large",
                f"the body is larger than {BODY_LIMIT_BYTES} bytes; SELECT changefeed.watch(…) takes longer lists",
            )
        if not self.request.body.strip():
            return {}
        try:
            body = parse_unique(self.request.body)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, "not_json", f"the body must be empty or a JSON object: {error}") from None
        if not isinstance(body, dict) or not body.keys() <= {field.name for field in fields(WatchOptions)}:
            raise ApiError(400, "bad_options", OPTIONS_SHAPE)
        asked = dict(body)
        for name in asked.keys() & {"omit", "hash"}:
            if not _are_names(asked[name] or []):
                raise ApiError(400, "bad_options", OPTIONS_SHAPE)
            asked[name] = tuple(asked[name] or [])
        row_limit, strict = asked.get("row_limit"), asked.get("strict", False)
        if not (row_limit is None or (type(row_limit) is int and 0 < row_limit < 1 << 62)) or not isinstance(
            strict, bool
        ):
            raise ApiError(400, "bad_options", OPTIONS_SHAPE)
        return asked


def _needs_all_rights(why: str) -> ApiError:
    return ApiError(403, "needs_all_rights", f"{why}; use a token with all rights, or SQL as the owner")


def _are_names(asked: object) -> bool:
    return isinstance(asked, list) and all(isinstance(column, str) and _can_be_name(column) for column in asked)


def _can_be_name(text: str) -> bool:
    """Whether PostgreSQL can store the text: not half a surrogate pair, which JSON allows, nor a zero byte."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
