"""An error as every route answers it."""

import http

from tornado.web import HTTPError


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
