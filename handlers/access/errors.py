"""The errors that routes answer with, all of one shape."""

import contextlib
import http
import logging
from collections.abc import Iterator

import psycopg2
from tornado.web import HTTPError

from changefeed.journal.cursor import NotACursor
from changefeed.journal.entries import BEING_REPLACED
from changefeed.postgres.pool import DatabaseUnavailable, one_line

logger = logging.getLogger("handlers.errors")


class ApiError(HTTPError):
    """An answer of the shape {"error": {"code", "message"}}; the message says what to do.

    A 503 also says when to try again: after `retry_after_seconds`, or after a random time.
    """

    def __init__(self, status: int, code: str, message: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(status, reason=http.HTTPStatus(status).phrase)
        self.code = code
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    @property
    def fields(self) -> dict[str, dict[str, str]]:
        """The answer's JSON."""
        return {"error": {"code": self.code, "message": self.message}}


def foreign_origin(origin: str) -> ApiError:
    return ApiError(
        403, "foreign_origin", f"pages of {origin[:100]} may not connect; start the server with --allow-origin"
    )


def no_journal() -> ApiError:
    return ApiError(404, "no_journal", "no table is watched yet: PUT /api/tables/SCHEMA.TABLE/watch")


def journal_replaced() -> ApiError:
    return ApiError(503, "not_ready", BEING_REPLACED)


def not_a_cursor(error: NotACursor) -> ApiError:
    return ApiError(400, "not_a_cursor", str(error))


def whole_number(name: str, text: str, least: int, most: int, unit: str = "") -> int:
    """Parses the query's parameter `name`. Raises ApiError unless it is a whole number from `least` to `most`."""
    if not (text.isascii() and text.isdigit() and len(text) < 9 and least <= int(text) <= most):
        kind = f"a whole number of {unit}" if unit else "a whole number"
        raise ApiError(400, f"bad_{name}", f"{name} is {kind} from {least} to {most}")
    return int(text)


@contextlib.contextmanager
def database_needed(what_fails: str) -> Iterator[None]:
    """Turns a failure of PostgreSQL in the block into a 503 whose message begins with the sentence `what_fails`."""
    try:
        yield
    except DatabaseUnavailable as error:
        why = str(error)
        if not error.is_late:  # the texts of libpq and PostgreSQL name hosts, roles and perhaps more
            logger.info("%s: %s", what_fails, why)
            why = "PostgreSQL cannot be reached; the server's log says why"
        raise ApiError(503, "database_unavailable", f"{what_fails}: {why}") from None
    except psycopg2.Error as error:
        # PostgreSQL's message may name what the caller may not see.
        logger.warning("%s: %s", what_fails, one_line(error))
        told = f"{what_fails}: PostgreSQL refuses it (SQLSTATE {error.pgcode}); the server's log says why"
        raise ApiError(503, "database_unavailable", told) from None
