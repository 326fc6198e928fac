"""The codes that WebSockets are closed with, and the code for each error. Knows no socket."""

import enum

from handlers.access.errors import ApiError


class CloseCode(enum.IntEnum):
    GOING_AWAY = 1001  # the server stops, or the client should reconnect elsewhere (RFC 6455, 7.4.1)
    POLICY_VIOLATION = 1008
    TRY_AGAIN_LATER = 1013  # the client may reconnect later (IANA WebSocket registry)
    # In the range for private use (RFC 6455, 7.4.2), after HTTP's 401 and 419.
    SIGN_IN = 4401
    TOKEN_EXPIRED = 4419

    @classmethod
    def of(cls, error: ApiError) -> "CloseCode":
        """The close code that corresponds to the error's HTTP status."""
        if error.status_code >= 500:
            return cls.TRY_AGAIN_LATER
        return cls.SIGN_IN if error.status_code == 401 else cls.POLICY_VIOLATION
