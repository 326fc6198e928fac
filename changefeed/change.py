"""A notification's payload or a journal's row in, a Change out. Knows no database, socket or clock.

The texts of values are passed on as PostgreSQL wrote them, byte for byte: JSON numbers may have more digits than a
float holds, so nothing here writes a value anew.
"""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from changefeed.old_values import changed_columns

ACTIONS = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
BY_LETTER = {action[0]: action for action in ACTIONS}


# A surrogate on its own, which JSON may escape and UTF-8 cannot encode.
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


class NotJSON(ValueError):
    """The payload is not JSON; the message says where it stops being so."""


@dataclass(slots=True)
class Change:
    """One row's change. `text` is its JSON on the wire; `table` is "schema.table", or what the trigger called it.

    One from the journal has a place in it (`xid` and `id`, else 0) and `at`, epoch seconds of its statement. `count`
    is more than 1 where it stands for a statement of so many rows.
    """

    text: str
    table: str
    action: str
    xid: int = 0
    id: int = 0
    at: float = 0.0
    count: int = 1

    @property
    def cursor(self) -> str | None:
        """The place after this change; None where it did not come from the journal. It stands last in the text."""
        return self.text[self.text.rindex('"', 0, -2) + 1 : -2] if self.id else None

    @property
    def is_foreign(self) -> bool:
        """JSON that names no table and action of ours: whoever asked for everything gets it, nobody else."""
        return not self.table


class JournalRow(NamedTuple):
    """A row of changefeed.read(), as the driver gives it."""

    id: int
    xid: str
    at: str
    action: str
    schema_name: str
    table_name: str
    data: str | None
    old: str | None
    row_count: int | None


def parse(payload: str) -> Change:
    """The change that `payload` tells of, foreign JSON included. Raises NotJSON."""
    try:
        # No number is looked at; an int of more than 4300 digits is one that Python refuses to make.
        message = json.loads(payload, parse_int=len, parse_constant=_refuse)
    except ValueError as error:
        raise NotJSON(str(error)) from None
    except RecursionError:
        raise NotJSON("nested too deeply") from None
    if isinstance(message, dict):
        table, action, schema = message.get("table"), message.get("action"), message.get("schema")
        if isinstance(table, str) and table and action in ACTIONS:
            name = f"{schema}.{table}" if isinstance(schema, str) and schema else table
            if not _HALF_CHARACTER.search(name):
                return Change(payload, name, action)
    return Change(payload, "", "")


def _refuse(constant: str) -> None:
    """Python's json takes NaN and Infinity; JSON and browsers do not."""
    raise ValueError(f"{constant} is not JSON")


def from_journal(row: JournalRow, cursor_suffix: str) -> Change:
    """The change of a journal's row; `cursor_suffix` is cursor.encode_batch() of its batch."""
    action = BY_LETTER[row.action]
    head, schema = _names(row.schema_name, row.table_name)
    old = f'"old": {changed_columns(row.old, row.data)}, ' if row.old is not None and row.data is not None else ""
    count = f'"count": {row.row_count}, ' if row.row_count is not None else ""
    text = (
        f'{{{head}, "action": "{action}", "data": {row.data if row.data is not None else "null"}, {schema}, '
        f'{old}{count}"at": "{row.at}", "xid": "{row.xid}", "cursor": "{row.id:x}.{cursor_suffix}"}}'
    )
    table = f"{row.schema_name}.{row.table_name}"
    return Change(text, table, action, int(row.xid), row.id, _epoch_seconds(row.at), row.row_count or 1)


@lru_cache(maxsize=1024)
def _names(schema: str, table: str) -> tuple[str, str]:
    return (
        f'"table": {json.dumps(table, ensure_ascii=False)}',
        f'"schema": {json.dumps(schema, ensure_ascii=False)}',
    )


@lru_cache(maxsize=256)  # all rows of a statement have the same
def _epoch_seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
