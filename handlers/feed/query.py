"""Parses the query of /ws, /events and /api/changes, and the fields of a `subscribe` message."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from changefeed.hub import RECENT_LIMIT
from changefeed.selection.rights import Rights
from changefeed.selection.subscription import ALL_CHANGES, FIELDS, BadSubscription, Subscription
from handlers.access.errors import ApiError, whole_number

NAMES = (*FIELDS, "since", "replay", "rows", "slow")
# Fields that only some routes have. The others refuse them, since a caller who sends one relies on it.
ELSEWHERE = {
    "limit": "/api/changes and /api/rows have it",
    "order": "/api/rows has it",
    "replay": "/ws and /events have it",
    "rows": "/ws and /events have it",
    "slow": "/ws has it",
    "action": "/ws, /events and /api/changes have it",
    "since": "/ws, /events and /api/changes have it",
}
# PostgREST has these fields beside the columns; here, as all conditions, they are in `filter`.
GROUPS = ("or", "and", "not.or", "not.and")
FIELDS_LIMIT = 100  # unknown fields included, as each is compared with the known ones


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


def parse_query(fields: Mapping[str, Sequence[str]], rights: Rights, names: Collection[str] = NAMES) -> FeedQuery:
    """Parses the fields, for a caller with these rights, on a route that has `names`. Raises ApiError.

    An unknown name is ignored, unless it looks like a misspelling or belongs to another route.
    """
    if len(fields) > FIELDS_LIMIT:
        raise ApiError(400, "too_many_fields", f"a query has at most {FIELDS_LIMIT} fields")
    for name in fields:
        if name in ELSEWHERE and name not in names:
            raise ApiError(400, "unknown_field", f"there is no field {name!r} here; {ELSEWHERE[name]}")
        if name in GROUPS:
            raise ApiError(400, "unknown_field", f"there is no field {name!r}; write filter={name}=(…)")
        if name not in names and (close := difflib.get_close_matches(name, names, n=1, cutoff=0.75)):
            raise ApiError(400, "unknown_field", f"there is no field {name[:40]!r}; did you mean {close[0]}?")
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
