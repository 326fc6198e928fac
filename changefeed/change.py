"""A notification's payload in, a Change out. Knows no database, socket or clock.

The payload's text is passed on as PostgreSQL wrote it, byte for byte: JSON numbers may have more digits than a float
holds, so nothing here writes JSON anew.
"""

import json
import re
from dataclasses import dataclass

ACTIONS = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")


# A surrogate on its own, which JSON may escape and UTF-8 cannot encode.
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


class NotJSON(ValueError):
    """The payload is not JSON; the message says where it stops being so."""


@dataclass(slots=True)
class Change:
    """One row's change. `text` is its JSON on the wire; `table` is "schema.table", or what the trigger called it."""

    text: str
    table: str
    action: str

    @property
    def is_foreign(self) -> bool:
        """JSON that names no table and action of ours: whoever asked for everything gets it, nobody else."""
        return not self.table


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
