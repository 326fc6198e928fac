"""The feed for clients: /ws, plain or with the subprotocol changefeed.v1.

Plain, as the original had it: one change a text frame, nothing else, ever. With changefeed.v1: JSON messages with a
type, which also tell of gaps and errors.
"""

import json
from collections.abc import Sequence

from changefeed import __version__
from changefeed.change import Change
from changefeed.listener import Outage
from handlers.feed import iso
from handlers.framing import text_frame
from handlers.socket import BaseSocket

PROTOCOL = "changefeed.v1"
MESSAGE_LIMIT_BYTES = 64 * 1024


class EventSocket(BaseSocket):
    """A client of the feed."""

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return PROTOCOL if PROTOCOL in subprotocols else None

    def open(self, *args: str, **kwargs: str) -> None:
        super().open()
        if self.speaks_protocol:
            self.send(
                message_frame(
                    "hello",
                    cursor=None,
                    epoch=None,
                    server={"name": "psqlisten2websocket", "version": __version__},
                    limits={
                        "message_bytes": MESSAGE_LIMIT_BYTES,
                        "outbox_bytes": self.feed.settings.outbox_limit_bytes,
                    },
                )
            )

    @property
    def speaks_protocol(self) -> bool:
        return self.selected_subprotocol == PROTOCOL

    def on_message(self, message: str | bytes) -> None:
        if self.speaks_protocol:
            self.send(message_frame("error", **_refusal(message)))

    @classmethod
    def broadcast(cls, changes: Sequence[Change]) -> None:
        """Sends the changes to every client: each framed once, all of them to a client in one write."""
        plain = protocol = b""
        for client in tuple(cls.clients):
            if client.speaks_protocol:
                protocol = protocol or _changes_frame(changes)
                client.send(protocol)
            else:
                plain = plain or b"".join(text_frame(change.text) for change in changes)
                client.send(plain)

    @classmethod
    def tell_gap(cls, outage: Outage) -> None:
        """Tells those who can be told that changes may have been lost."""
        frame = message_frame("gap", **gap_of(outage))
        for client in tuple(cls.clients):
            if client.speaks_protocol:
                client.send(frame)


def message_frame(kind: str, **fields: object) -> bytes:
    return text_frame(json.dumps({"type": kind, **fields}, ensure_ascii=False, separators=(",", ":")))


def gap_of(outage: Outage) -> dict[str, object]:
    """The fields of a `gap` message."""
    return {
        "from": None,
        "to": None,
        "since": iso(outage.since),
        "until": iso(outage.until),
        "why": f"the server did not hear PostgreSQL: {outage.reason}",
        "what_to_do": "read the tables you follow once more; the feed goes on from here",
    }


def _changes_frame(changes: Sequence[Change]) -> bytes:
    texts = ",".join(change.text for change in changes if not change.is_foreign)
    return text_frame('{"type":"changes","changes":[' + texts + '],"cursor":null}') if texts else b""


def _refusal(message: str | bytes) -> dict[str, object]:
    """Why a client's message is not understood."""
    try:
        parsed = json.loads(message)
    except ValueError as error:
        return {"code": "not_json", "message": f"a message must be a JSON object with a type: {error}"}
    except RecursionError:
        return {"code": "not_json", "message": "a message must be a JSON object with a type: nested too deeply"}
    if not isinstance(parsed, dict) or not isinstance(parsed.get("type"), str):
        return {"code": "no_type", "message": 'a message must be a JSON object with a type, as {"type": "…"}'}
    return {"code": "unknown_type", "message": f"this server knows no message of type {parsed['type'][:40]!r}"}
