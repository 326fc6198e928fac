"""Encodes changes and gaps as bytes, in each of the feed's three dialects. Knows no socket.

Each encoding is made once and written to all clients of its dialect.
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from changefeed.change.change import Change, without_losses
from changefeed.change.gap import Gap
from changefeed.change.table_names import TableName
from changefeed.change.times import iso
from changefeed.rows.reading import BETWEEN
from changefeed.selection.subscription import Selection
from handlers.delivery.frames import text_frames

MAY_BE_LOST = "changes may have been lost"  # the only reason that clients with limited rights are given for a gap


@dataclass(frozen=True)
class Dialect:
    """Encodes changes (with the cursor after the last, if there is one), a gap, a place, going_away and rows.

    A place is a cursor to resume from, sent when no change before it matched. going_away says that the server stops,
    and in how many ms to reconnect. What a dialect cannot express is encoded as no bytes.
    """

    changes: Callable[[Sequence[Change], str | None], bytes]
    gap: Callable[[Gap], bytes]
    place: Callable[[str], bytes]
    going_away: Callable[[int], bytes]
    # Rows of a table with BETWEEN between them, and with the last ones the cursor after which changes follow.
    rows: Callable[[TableName, bytes, str | None], bytes] = lambda table, rows, cursor: b""


def message_frame(kind: str, **fields: object) -> bytes:
    """Encodes a message of changefeed.v1 as one frame."""
    return text_frames([json.dumps({"type": kind, **fields}, ensure_ascii=False, separators=(",", ":"))])


def gap_fields(gap: Gap) -> dict[str, object]:
    known = {"skipped": gap.skipped, "table": gap.table}
    return {
        "from": gap.from_cursor,
        "to": gap.to_cursor,
        "since": iso(gap.since) if gap.since else None,
        "until": iso(gap.until) if gap.until else None,
        "why": gap.why,
        "what_to_do": gap.what_to_do,
        **{name: value for name, value in known.items() if value is not None},
    }


def frames(dialect: Dialect, changes: Sequence[Change], cursor: str | None, *, is_restricted: bool = False) -> bytes:
    """Encodes the changes, and each loss among them as a gap in its place; without details if `is_restricted`."""
    if len(without_losses(changes)) == len(changes):
        return dialect.changes(changes, cursor)
    parts: list[bytes] = []
    for is_loss, run in itertools.groupby(changes, key=lambda change: change.is_loss):
        told = list(run)
        if is_loss:
            parts += [dialect.gap(loss_gap(loss, is_restricted=is_restricted)) for loss in told]
            if told[-1].cursor:
                parts.append(dialect.place(told[-1].cursor))
        else:
            parts.append(dialect.changes(told, told[-1].cursor))
    if cursor:
        parts.append(dialect.place(cursor))
    return b"".join(parts)


def gap_within(selection: Selection, gap: Gap) -> Gap | None:
    """The gap as a client of this selection may see it: without details if its rights are limited.

    None if it concerns a table that the client did not ask for or may not see.
    """
    if gap.table and not selection.subscription.concerns(gap.table, gap.columns):
        return None
    if not selection.subscription.is_restricted:
        return gap
    begin, end = selection.cursor(gap.from_cursor), selection.cursor(gap.to_cursor)
    return replace(gap, why=MAY_BE_LOST, from_cursor=begin, to_cursor=end, skipped=None)


def loss_gap(loss: Change, *, is_restricted: bool) -> Gap:
    """The gap for a loss; without details if `is_restricted`."""
    gap = Gap.of_loss(loss)
    return replace(gap, why=MAY_BE_LOST, skipped=None) if is_restricted else gap


def _plain_changes(changes: Sequence[Change], cursor: str | None) -> bytes:
    return text_frames([change.text for change in changes])


def _v1_changes(changes: Sequence[Change], cursor: str | None) -> bytes:
    texts = ",".join([change.text for change in changes if change.table])
    message = f'{{"type":"changes","changes":[{texts}],"cursor":{json.dumps(cursor)}}}'
    return text_frames([message]) if texts else b""


def _sse_changes(changes: Sequence[Change], cursor: str | None) -> bytes:
    # JSON has line breaks only between values, where a space means the same; an event's data is one line.
    return "".join([_event(change.text, change.cursor) for change in changes if not change.is_foreign]).encode()


def _event(text: str, cursor: str | None) -> str:
    data = text.replace("\r", " ").replace("\n", " ")
    return f"id: {cursor}\ndata: {data}\n\n" if cursor else f"data: {data}\n\n"


def _v1_rows(table: TableName, rows: bytes, cursor: str | None) -> bytes:
    return text_frames([f'{{"type":"rows",{_rows_members(table, rows, cursor)}}}'])


def _sse_rows(table: TableName, rows: bytes, cursor: str | None) -> bytes:
    # Only the last event has an id: a client that reconnects before it gets the rows again.
    data = _rows_members(table, rows, cursor).replace("\r", " ").replace("\n", " ")
    return f"event: rows\n{_id(cursor)}data: {{{data}}}\n\n".encode()


def _rows_members(table: TableName, rows: bytes, cursor: str | None) -> str:
    last = f',"is_last":true,"cursor":{json.dumps(cursor)}' if cursor else ""
    named = json.dumps({"schema": table.schema, "table": table.table}, ensure_ascii=False, separators=(",", ":"))
    return f'{named[1:-1]},"rows":[{rows.replace(BETWEEN, b",").decode()}]{last}'


def _id(cursor: str | None) -> str:
    return f"id: {cursor}\n" if cursor else ""


# As in the original: each text frame is one change, and there is nothing else.
PLAIN = Dialect(_plain_changes, lambda gap: b"", lambda cursor: b"", lambda delay_ms: b"")
# JSON messages with a type.
V1 = Dialect(
    _v1_changes,
    lambda gap: message_frame("gap", **gap_fields(gap)),
    lambda cursor: message_frame("changes", changes=[], cursor=cursor),
    lambda delay_ms: message_frame("going_away", reconnect_in_ms=delay_ms),
    _v1_rows,
)
# Server-Sent Events (WHATWG HTML, 9.2), where an event without data moves the last event's id and is not dispatched.
SSE = Dialect(
    _sse_changes,
    lambda gap: f"event: gap\ndata: {json.dumps(gap_fields(gap), ensure_ascii=False)}\n\n".encode(),
    lambda cursor: f"id: {cursor}\n\n".encode(),
    lambda delay_ms: f"retry: {delay_ms}\n\n".encode(),
    _sse_rows,
)
SSE_HEARTBEAT = b":\n\n"


def sse_head(cursor: str | None, retry_ms: int) -> bytes:
    """The start of a stream: the cursor to resume from before the first event, and the delay before reconnecting."""
    return f"{_id(cursor)}retry: {retry_ms}\n\n".encode()


def sse_refusal(fields: Mapping[str, object], cursor: str | None, retry_ms: int) -> bytes:
    """A stream that ends at once, with the reason and a delay. `cursor` is the client's own, which it should keep."""
    data = json.dumps(fields, ensure_ascii=False)
    return f"{_id(cursor)}retry: {retry_ms}\nevent: error\ndata: {data}\n\n".encode()
