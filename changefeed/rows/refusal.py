"""Why rows cannot be read. Knows no HTTP and no client."""

import enum

ALTERED = "the table was altered at this moment; try again"
WATCHED_SOON = "is not watched at this moment, but was until now, or --watch names it; try again"
GONE = "the table was dropped or renamed at this moment; try again"


class Reason(enum.StrEnum):
    """The code that clients get."""

    BAD_ROWS = "bad_rows"  # not a query for the rows of one table
    BAD_ORDER = "bad_order"
    NOT_WATCHED = "not_watched"
    CANNOT_READ = "cannot_read"  # the server's role lacks a right, or must not trust the table's owner
    TOO_MANY_ROWS = "too_many_rows"
    TOO_MANY_BYTES = "too_many_bytes"
    UNREADABLE_ROW = "unreadable_row"
    TOO_SLOW = "rows_too_slow"
    BUSY = "rows_busy"
    ALTERED = "table_altered"  # at this moment
    UNAVAILABLE = "database_unavailable"


class RowsRefused(Exception):
    """The message says what to do. `private` says more, for clients with all rights: roles and what they lack."""

    def __init__(self, reason: Reason, message: str, private: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.private = private
