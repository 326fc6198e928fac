"""An error of PostgreSQL and where a reading met it in, why the rows cannot be read out. Knows no connection."""

import enum

import psycopg2

from changefeed.journal.entries import BEING_REPLACED
from changefeed.postgres.legible import is_illegible
from changefeed.postgres.pool import one_line
from changefeed.rows.query import RowsQuery
from changefeed.rows.refusal import ALTERED, GONE, Reason, RowsRefused


class Step(enum.Enum):
    """Of a reading."""

    LOCK = enum.auto()
    SOURCE = enum.auto()
    ROWS = enum.auto()


def lacks_right(error: psycopg2.Error, step: Step) -> bool:
    """Whether the server's role may not read the table."""
    return step is not Step.SOURCE and error.pgcode == "42501"


def refusal_of(error: psycopg2.Error, step: Step, query: RowsQuery, row_limit_bytes: int) -> RowsRefused | None:
    """None if the error is PostgreSQL's trouble, not a mistake. The codes CF… are those of sql/rows.sql."""
    match step, error.pgcode:
        case Step.LOCK, "55P03":
            return RowsRefused(Reason.BUSY, "the table is locked, as by ALTER TABLE; try again later")
        case Step.LOCK, "42P01" | "3F000":
            return RowsRefused(Reason.ALTERED, GONE)
        case Step.SOURCE, _ if is_illegible(error):
            return RowsRefused(
                Reason.UNREADABLE_ROW,
                "a column's name is not text in UTF-8, so that its rows cannot be written as JSON: rename the column",
            )
        case Step.SOURCE, _:
            return _refusal_of_source(error, query.name)
        case Step.ROWS, "CF006":
            return RowsRefused(
                Reason.UNREADABLE_ROW,
                f"a row has over {row_limit_bytes} bytes (--row-limit-bytes); ask for fewer columns",
            )
        case Step.ROWS, "42883" if query.order:
            return RowsRefused(Reason.BAD_ORDER, "a column to sort by has a type without an order, such as json")
        case Step.ROWS, "42883" | "42703":  # a filter's column has another type, or is gone
            return RowsRefused(Reason.ALTERED, ALTERED)
        case Step.ROWS, _ if is_illegible(error):
            return RowsRefused(Reason.UNREADABLE_ROW, "a row has a text that UTF-8 cannot represent")
    return None


def _refusal_of_source(error: psycopg2.Error, table: str) -> RowsRefused | None:
    told = one_line(error)
    match error.pgcode:
        case "CF001":
            return RowsRefused(Reason.NOT_WATCHED, f"{table} is not watched: PUT /api/tables/{table}/watch first")
        case "CF002":
            return cannot_read(f"{told}; start the server with --trust-owner, or see docs/least-rights.md")
        case "CF003" | "CF004":
            return cannot_read(f"{told}; see docs/least-rights.md")
        case "CF005":
            return cannot_read(f"{told}; call changefeed.watch again")
        case "0A000":
            return RowsRefused(
                Reason.UNAVAILABLE, "the server is connected to a standby, whose snapshots have no place"
            )
        case "3F000":
            return RowsRefused(Reason.ALTERED, BEING_REPLACED)
        case "42883" | "42P01" | "42703":
            return RowsRefused(
                Reason.UNAVAILABLE,
                "the schema changefeed is older than this server, and gives no rows: run psql -f sql/install.sql of "
                "this version",
            )
        case "42501":
            return cannot_read(
                f"{told}; run sql/install.sql of this version, and the grants of docs/least-rights.md for rows"
            )
    return None


def cannot_read(why: str) -> RowsRefused:
    """`why` names roles and their rights."""
    return RowsRefused(
        Reason.CANNOT_READ, "the server may not read this table; ask its operator (docs/least-rights.md)", why
    )
