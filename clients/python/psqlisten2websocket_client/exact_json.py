"""The text of a message in, its JSON out, with every digit that PostgreSQL wrote."""

import json
from decimal import Decimal
from typing import Any

INT_LIMIT_DIGITS = 4300  # Python makes no int of more


def read_message(text: str | bytes) -> dict[str, Any]:
    """Numbers become int or Decimal. Changes that Python's json cannot read become a gap."""
    try:
        message: dict[str, Any] = json.loads(text, parse_int=_integer, parse_float=Decimal)
    except RecursionError:
        return {
            "type": "gap",
            "why": "some changes are nested too deeply for Python's json",
            "what_to_do": "read the tables you follow again; the feed continues from here",
            "cursor": json.loads(str(text).rpartition('"cursor":')[2][:-1]),  # is last in the message
        }
    return message


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= INT_LIMIT_DIGITS else Decimal(digits)
