"""An error as every route answers it."""

import contextlib
import http
import logging
from collections.abc import Iterator

import psycopg2
from tornado.web import HTTPError

from changefeed.journal.cursor import NotACursor
from changefeed.postgres.pool import DatabaseUnavailable, one_line

logger = logging.getLogger("handlers.errors")


class ApiError(HTTPError):
    """An answer of the shape {"error": {"code", "message"}}; the message says what to do.

    With 503 it also says when to come back: in `retry_after_seconds`, or at a time drawn at random.
    """

    def __init__(self, status: int, code: str, message: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(status, reason=http.HTTPStatus(status).phrase)
        self.code = code
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    @property
    def fields(self) -> dict[str, dict[str, str]]:
        """As JSON has it."""
        return {"error": {"code": self.code, "message": self.message}}


def foreign_origin(origin: str) -> ApiError:
    return ApiError(
        403, "foreign_origin", f"pages of {origin[:100]} may not connect; start the server with --allow-origin"
    )


def no_journal() -> ApiError:
    return ApiError(404, "no_journal", "nothing is journaled; watch a table: PUT /api/tables/SCHEMA.TABLE/watch")


def not_a_cursor(error: NotACursor) -> ApiError:
    return ApiError(400, "not_a_cursor", str(error))


def whole_number(name: str, text: str, least: int, most: int, unit: str = "") -> int:
    """What a query says of `name`. Raises ApiError where that is no whole number from `least` to `most`."""
    if not (text.isascii() and text.isdigit() and len(text) < 9 and least <= int(text) <= most):
        kind = f"a whole number of {unit}" if unit else "a whole number"
        raise ApiError(400, f"bad_{name}", f"{name} is {kind} from {least} to {most}")
    return int(text)


@contextlib.contextmanager
def database_needed(what_fails: str) -> Iterator[None]:
    """Answers 503 where PostgreSQL does not do within the block what is asked of it; `what_fails` is a sentence."""
    try:
        yield
    except DatabaseUnavailable as error:
        why = str(error)
        if not error.is_late:  # what libpq or PostgreSQL says names hosts, roles and perhaps more
            logger.info("%s: %s", what_fails, why)
            why = "PostgreSQL cannot be reached; the server's log says why"
        raise ApiError(503, "database_unavailable", f"{what_fails}: {why}") from None
    except psycopg2.Error as error:
        # PostgreSQL's words may name what whoever asks may not see.
        logger.warning("%s: %s", what_fails, one_line(error))
        told = f"{what_fails}: PostgreSQL refuses it (SQLSTATE {error.pgcode}); the server's log says why"
        raise ApiError(503, "database_unavailable", told) from None
