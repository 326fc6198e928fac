"""Two rows' JSON in, the old values of the columns that changed out, each value byte for byte."""

from changefeed.change.json_text import check, members, write


def changed_columns(old_row: str, new_row: str) -> str:
    """A JSON object of the old row's members that the new row has otherwise, or not at all. Raises NotJSON."""
    if old_row == new_row:
        check(new_row)
        return "{}"
    old, new = members(old_row) or {}, members(new_row) or {}
    return write({key: value for key, value in old.items() if new.get(key) != value}, space=" ")
