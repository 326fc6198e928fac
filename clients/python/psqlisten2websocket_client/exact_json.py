"""The text of a message in, its JSON out, with every digit that PostgreSQL wrote."""

import json
from decimal import Decimal
from typing import Any

UNREADABLE = "some values are nested too deeply for Python's json"
INT_LIMIT_DIGITS = 4300  # Python makes no int of more


def read_message(text: str | bytes) -> dict[str, Any]:
    """Numbers become int or Decimal. What Python's json cannot read becomes a message of the type `unreadable`."""
    try:
        message: dict[str, Any] = json.loads(text, parse_int=_integer, parse_float=Decimal)
    except RecursionError:
        return {"type": "unreadable", "why": UNREADABLE, "cursor": _cursor_at_end(str(text))}
    return message


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= INT_LIMIT_DIGITS else Decimal(digits)


def _cursor_at_end(text: str) -> str | None:
    """The cursor of a list of changes, which comes after them."""
    found = text.rpartition('"cursor":')[2].strip(' "}')
    return None if '"' in found or found == "null" else found
