"""Parses the query of /ws, /events and /api/changes, and the fields of a `subscribe` message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from changefeed.hub import RECENT_LIMIT
from changefeed.selection.rights import Rights
from changefeed.selection.subscription import ALL_CHANGES, FIELDS, BadSubscription, Subscription
from handlers.access.errors import ApiError, whole_number
from handlers.http.query_names import check_names

NAMES = (*FIELDS, "since", "replay", "rows", "slow")


@dataclass(frozen=True)
class FeedQuery:
    """What a client asks for: `since` is a cursor's text, `replay` the number of newest changes to send first.

    With `rows`, the rows of the only table come first. If it `conflates`, a client that does not keep up gets the
    newest change of each row, instead of being closed.
    """

    subscription: Subscription = ALL_CHANGES
    since: str | None = None
    replay: int = 0
    conflates: bool = False
    rows: bool = False


def parse_query(fields: Mapping[str, Sequence[str]], rights: Rights) -> FeedQuery:
    """Parses the fields, whose names were checked, for a caller with these rights. Raises ApiError."""
    try:
        subscription = Subscription.parse({name: fields.get(name, ()) for name in FIELDS}, rights.tables)
    except BadSubscription as error:
        raise ApiError(400, error.code, str(error)) from None
    return FeedQuery(
        subscription,
        _last(fields, "since") or None,
        whole_number("replay", _last(fields, "replay") or "0", 0, RECENT_LIMIT),
        _slow(_last(fields, "slow") or "close") == "conflate",
        _yes(_last(fields, "rows") or "false"),
    )


def parse_stream_query(fields: Mapping[str, Sequence[str]], rights: Rights) -> FeedQuery:
    """The same for /ws and /events, which ignore most names that they do not know: the original's clients send any."""
    check_names(fields, NAMES, ignores_others=True)
    return parse_query(fields, rights)


def fields_of_message(message: Mapping[str, object]) -> dict[str, list[str]]:
    """The fields of a `subscribe` message, each a text, a number or a list of texts. Raises ApiError."""
    fields = {}
    for name, value in message.items():
        if name == "type" or value is None:
            continue
        terms = value if isinstance(value, list) else [value]
        if name not in NAMES:
            raise ApiError(400, "unknown_field", f"subscribe has no field {name[:40]!r}; it has {', '.join(NAMES)}")
        other = {"replay": int, "rows": bool}.get(name, str)
        if not all(isinstance(term, str) or type(term) is other for term in terms):
            raise ApiError(400, f"bad_{name}", f"{name} must be a text or a list of texts")
        fields[name] = [str(term).lower() if isinstance(term, bool) else str(term) for term in terms]
    return fields


def _last(fields: Mapping[str, Sequence[str]], name: str) -> str:
    return (fields.get(name) or [""])[-1].strip()


def _slow(text: str) -> str:
    if text not in ("close", "conflate"):
        raise ApiError(400, "bad_slow", f"slow must be close or conflate, not {text[:40]!r}")
    return text


def _yes(text: str) -> bool:
    if text not in ("true", "false"):
        raise ApiError(400, "bad_rows", f"rows must be true or false, not {text[:40]!r}")
    return text == "true"
