"""The fields of a query in; an ApiError that says what to write instead out, if some name is not known."""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence

from changefeed.selection.filters import OPERATORS
from handlers.access.errors import ApiError

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
# PostgREST has these fields in addition to the columns; here, as all conditions, they are in `filter`.
GROUPS = ("or", "and", "not.or", "not.and")
# PostgREST's columns and their conditions: status=eq.open.
_CONDITION = re.compile(rf"(not\.)?({'|'.join(OPERATORS)})\.", re.ASCII)
CACHE_BUSTER = "_"  # jQuery's; every route ignores it
FIELDS_LIMIT = 100  # unknown fields included, as each is compared with the known ones
SHOWN_CHARACTERS = 40


def check_names(fields: Mapping[str, Sequence[str]], names: Collection[str], *, ignores_others: bool = False) -> None:
    """Raises ApiError for a name that is not among `names`.

    If it `ignores_others`, it refuses only what a caller surely relies on: misspelled names, fields of other routes,
    and what PostgREST would take for a condition.
    """
    if len(fields) > FIELDS_LIMIT:
        raise ApiError(400, "too_many_fields", f"a query has at most {FIELDS_LIMIT} fields")
    for name, values in fields.items():
        if name not in names and name != CACHE_BUSTER and (advice := _advice(name, values, names, ignores_others)):
            raise ApiError(400, "unknown_field", f"there is no field {name[:SHOWN_CHARACTERS]!r} here; {advice}")


def _advice(name: str, values: Sequence[str], names: Collection[str], ignores_others: bool) -> str:
    """What to write instead; empty if the field is ignored."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    if "filter" in names:
        if name in GROUPS:
            return f"write filter={name}=(…)"
        if conditions := [value for value in values if _CONDITION.match(value)]:
            return f"write filter={name[:SHOWN_CHARACTERS]}={conditions[0][:SHOWN_CHARACTERS]}"
    if name == "select" and "columns" in names:
        return "write columns=…"
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.75):
        return f"did you mean {close[0]}?"
    if ignores_others:
        return ""
    return f"this route has {', '.join(names)}" if names else "this route has none"
