"""A notification's payload or a journal's row in, a Change out. Knows no database, socket or clock.

The texts of values are passed on as PostgreSQL wrote them, byte for byte: JSON numbers may have more digits than a
float holds, so nothing here writes a value anew.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from changefeed.change.json_text import NotJSON, changed_columns, check, half_character, members, string_of
from changefeed.change.table_names import qualified

ACTIONS = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
LOSS = "LOSS"  # of what happened it is only known that it could not be journaled or read, or was not recorded
BY_LETTER = {action[0]: action for action in (*ACTIONS, LOSS)}


class Change(msgspec.Struct, gc=False):  # nothing in it refers to anything, so no cycle can
    """One row's change. `text` is its JSON on the wire; `table` is its qualified() name, or what the trigger called it.

    One from the journal has a place in it (`xid` and `id`, else 0) and `at`, epoch seconds of its statement. `count`
    is more than 1 where it stands for a statement of so many rows. `finding` is JSON that says why, of a loss that a
    look at the schema found (see sql/recorded.sql).
    """

    text: str
    table: str
    action: str
    xid: int = 0
    id: int = 0
    at: float = 0.0
    count: int = 1
    finding: str = ""

    @property
    def cursor(self) -> str | None:
        """The place after this change; None where it did not come from the journal. It stands last in the text."""
        return self.text[self.text.rindex('"', 0, -2) + 1 : -2] if self.id else None

    @property
    def is_journaled(self) -> bool:
        """Whether it comes from the journal, which knows for certain which table it is of."""
        return self.id > 0

    @property
    def is_loss(self) -> bool:
        """Whether it stands for changes that nobody can have, and is a gap to whoever asked for them."""
        return self.action == LOSS

    @property
    def is_foreign(self) -> bool:
        """JSON that names no table and action of ours: whoever asked for everything gets it, nobody else."""
        return not self.table


def without_losses(changes: Sequence[Change]) -> Sequence[Change]:
    """Those that tell of a change; the same object where all do."""
    if LOSS in {change.action for change in changes}:
        return [change for change in changes if change.action != LOSS]
    return changes


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


class _Head(msgspec.Struct, gc=False):
    """What is looked at in a payload. The rest is read too, so that only JSON passes, and no value of it is made."""

    table: str = ""
    action: str = ""
    schema: str | None = None


_read_head = msgspec.json.Decoder(_Head).decode


def parse(payload: str) -> Change:
    """The change that `payload` tells of, foreign JSON included. Raises NotJSON."""
    try:
        head = _read_head(payload)
    except (msgspec.DecodeError, RecursionError):
        return _parse_foreign(payload)
    if head.table and head.action in ACTIONS:
        return Change(payload, qualified(head.schema, head.table) if head.schema else head.table, head.action)
    return Change(payload, "", "")


def _parse_foreign(payload: str) -> Change:
    """For JSON of another shape than ours, nested deeply, or with half of a surrogate pair in it. Raises NotJSON."""
    said = members(payload) or {}
    table, action, schema = (string_of(said.get(name)) for name in ("table", "action", "schema"))
    if table and action in ACTIONS:
        name = qualified(schema, table) if schema else table
        if not half_character(name):
            return Change(payload, name, action)
    return Change(payload, "", "")


def from_journal(row: tuple[Any, ...], cursor_suffix: str) -> Change:
    """The change of a JournalRow, or of a plain tuple like it, which takes a third less time to make.

    `cursor_suffix` is cursor.encode_batch() of its batch. A row that is not JSON, as a type's own cast to json may give
    it, is told like a statement of too many rows: with a `count`, and without data.
    """
    change_id, xid, at, letter, schema, table, data, old, row_count = row
    # What the rows of a table, and of a statement, have in common is put together once.
    action, name, head, middle = _table_parts(schema, table, letter)
    epoch_seconds, transaction, tail = _statement_parts(at, xid)
    finding = ""
    if data is not None and action == LOSS:
        finding, data = data, None  # it is no row, to be filtered like one
    if data is not None:
        try:
            if old is None:
                check(data)
            else:
                middle += f'"old": {changed_columns(old, data)}, '
        except NotJSON:
            data, row_count = None, 1
    if row_count is not None:
        middle += f'"count": {row_count}, '
    text = f'{head}{data if data is not None else "null"}{middle}{tail}{change_id:x}.{cursor_suffix}"}}'
    return Change(text, name, action, transaction, change_id, epoch_seconds, row_count or 1, finding)


@lru_cache(maxsize=4096)
def _table_parts(schema: str, table: str, letter: str) -> tuple[str, str, str, str]:
    """The action, the table's whole name, and the texts before and behind the data."""
    action = BY_LETTER[letter]
    head = f'{{"table": {json.dumps(table, ensure_ascii=False)}, "action": "{action}", "data": '
    return action, qualified(schema, table), head, f', "schema": {json.dumps(schema, ensure_ascii=False)}, '


@lru_cache(maxsize=256)
def _statement_parts(at: str, xid: str) -> tuple[float, int, str]:
    """Its time in epoch seconds, its transaction's id, and the text up to the cursor."""
    return datetime.fromisoformat(at).timestamp(), int(xid), f'"at": "{at}", "xid": "{xid}", "cursor": "'
