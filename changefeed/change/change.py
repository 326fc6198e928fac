"""A notification's payload or a journal's row in, a Change out. Knows no database, socket or clock.

Values keep the text that PostgreSQL wrote, byte for byte: JSON numbers may have more digits than a float holds, so
nothing here converts a value and back.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from changefeed.change.json_text import NotJSON, changed_columns, check_json, half_character, members, string_of
from changefeed.change.table_names import qualified

ACTIONS = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
LOSS = "LOSS"  # changes that could not be recorded or read, or that no trigger saw
BY_LETTER = {action[0]: action for action in (*ACTIONS, LOSS)}


# Without gc, since it holds no references and so can be in no cycle. As an array it is smaller for other processes.
class Change(msgspec.Struct, gc=False, array_like=True):
    """One row's change. `text` is its JSON on the wire; `table` is its qualified() name, or the name the trigger sent.

    A change from the journal has a place in it (`xid` and `id`, else 0), and `at`, the epoch seconds of its statement.
    A `count` above 1 means that it represents a statement of that many rows. `finding` is the reason, as JSON, for a
    loss that a look at the schema found (see sql/unrecorded.sql).
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
        """The cursor after this change, which is last in the text; None if it is not from the journal."""
        return self.text[self.text.rindex('"', 0, -2) + 1 : -2] if self.id else None

    @property
    def is_from_journal(self) -> bool:
        """Whether it is from the journal, so that its table is certain."""
        return self.id > 0

    @property
    def is_loss(self) -> bool:
        """Whether it represents lost changes; clients that asked for these get a gap."""
        return self.action == LOSS

    @property
    def is_foreign(self) -> bool:
        """Whether it is JSON without a table and action: only clients that asked for everything get it."""
        return not self.table


def without_losses(changes: Sequence[Change]) -> Sequence[Change]:
    """The changes that are no losses; the same object if none is."""
    if LOSS in {change.action for change in changes}:
        return [change for change in changes if change.action != LOSS]
    return changes


class JournalRow(NamedTuple):
    """A row of changefeed.read(), as the driver returns it."""

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
    """The members of a payload that are used. The rest is validated as JSON, but not decoded."""

    table: str = ""
    action: str = ""
    schema: str | None = None


_read_head = msgspec.json.Decoder(_Head).decode


def parse_payload(payload: str) -> Change:
    """Parses a NOTIFY payload, even JSON of another shape. Raises NotJSON."""
    try:
        head = _read_head(payload)
    except (msgspec.DecodeError, RecursionError):
        return _parse_foreign(payload)
    if head.table and head.action in ACTIONS:
        return Change(payload, qualified(head.schema, head.table) if head.schema else head.table, head.action)
    return Change(payload, "", "")


def _parse_foreign(payload: str) -> Change:
    """Parses JSON of another shape, deeply nested, or with half of a surrogate pair. Raises NotJSON."""
    parsed = members(payload) or {}
    table, action, schema = (string_of(parsed.get(name)) for name in ("table", "action", "schema"))
    if table and action in ACTIONS:
        name = qualified(schema, table) if schema else table
        if not half_character(name):
            return Change(payload, name, action)
    return Change(payload, "", "")


def from_journal(row: tuple[Any, ...], cursor_suffix: str) -> Change:
    """Makes the change of a JournalRow, or of a plain tuple like it, which is a third faster.

    `cursor_suffix` is cursor.encode_batch() of its batch. A row that is not JSON, which a type's own cast to json may
    produce, becomes a change with a `count` and without data, like a statement of too many rows.
    """
    change_id, xid, at, letter, schema, table, data, old, row_count = row
    # The parts that rows of a table, or of a statement, share are made once.
    action, name, head, middle = _table_parts(schema, table, letter)
    epoch_seconds, transaction, tail = _statement_parts(at, xid)
    finding = ""
    if data is not None and action == LOSS:
        finding, data = data, None  # it is not a row, and must not be filtered like one
    if data is not None:
        try:
            if old is None:
                check_json(data)
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
    """The action, the table's qualified name, and the texts before and after the data."""
    action = BY_LETTER[letter]
    head = f'{{"table": {json.dumps(table, ensure_ascii=False)}, "action": "{action}", "data": '
    return action, qualified(schema, table), head, f', "schema": {json.dumps(schema, ensure_ascii=False)}, '


@lru_cache(maxsize=256)
def _statement_parts(at: str, xid: str) -> tuple[float, int, str]:
    """Its time in epoch seconds, its transaction's id, and the text up to the cursor."""
    return datetime.fromisoformat(at).timestamp(), int(xid), f'"at": "{at}", "xid": "{xid}", "cursor": "'
