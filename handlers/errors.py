"""An error as every route answers it."""

import http

from tornado.web import HTTPError


class ApiError(HTTPError):
    """An answer of the shape {"error": {"code", "message"}}; the message says what to do."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, reason=http.HTTPStatus(status).phrase)
        self.code = code
        self.message = message
