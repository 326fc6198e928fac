"""The feed's state: the journal, the watched tables, the connection to PostgreSQL, the clients."""

import os

from changefeed import __version__
from changefeed.change.table_names import TableName
from changefeed.change.times import iso
from changefeed.postgres.named_queries import load_queries
from changefeed.selection.rights import table_rights_of_any
from handlers.access.authentication import Need
from handlers.access.errors import database_needed
from handlers.http.base import ApiHandler

QUERIES = load_queries("server.sql")


class StatusHandler(ApiHandler):
    """Gives figures of all tables, such as the journal's size, only to callers who may see all tables."""

    needs = Need.ADMIN
    query_names = ()
    waits_its_turn = True

    async def get(self) -> None:
        context, slot = self.context, self.context.slot
        with database_needed("the journal's state cannot be read"):
            journal, watched, not_watched = await self._journal(), await self._watched(), await self._not_watched()
        await self.finish_large(
            {
                "server": {"version": __version__, "started_at": iso(context.slot.started_at)},
                "database": context.readiness.database_state(is_full=self.rights.sees_everything),
                "clients": slot.client_counts.everywhere(),
                "process": {
                    "number": slot.number,
                    "of": slot.of,
                    "pid": os.getpid(),
                    "clients": slot.client_counts.here(),
                },
                "payload": self.context.settings.payload,
                "journal": journal,
                "watched": watched,
                "not_watched": not_watched,
            }
        )

    async def _journal(self) -> dict[str, object] | None:
        """Sizes in bytes, times in UTC; None without a journal."""
        if self.context.journal.epoch is None or not self.rights.sees_everything:
            return None
        [(size, oldest, newest, losses)] = await self.context.request_pool.fetch(QUERIES["journal status"])
        return {
            "schema": "changefeed",
            "epoch": self.context.journal.epoch.hex(),
            "bytes": size,
            "oldest": oldest,
            "newest": newest,
            "lost_statements": losses,
            "retention_hours": self.context.settings.retention_hours,
            "retention_bytes": self.context.settings.retention_bytes,
        }

    async def _not_watched(self) -> list[dict[str, object]]:
        """The tables of --watch that could not be watched."""
        return [
            {"schema": table.schema, "table": table.table, "reason": reason}
            for table, reason in (await self.context.watching.not_watched()).items()
            if table_rights_of_any(self.rights.tables, (table,))
        ]

    async def _watched(self) -> list[dict[str, object]]:
        if self.context.journal.epoch is None:
            return []
        columns = ("schema", "table", "is_complete", "omit", "row_limit", "strict", "partitions", "hash")
        rows = await self.context.request_pool.fetch(QUERIES["watched tables"])
        found = [dict(zip(columns, row, strict=True)) for row in rows]
        shown = []
        for one in found:
            if granted := table_rights_of_any(self.rights.tables, (TableName(one["schema"], one["table"]),)):
                # without the columns that the caller may not see
                named = {name: [column for column in one[name] if granted.shows(column)] for name in ("omit", "hash")}
                shown.append({**one, **named})
        return shown
