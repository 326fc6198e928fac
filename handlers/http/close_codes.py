"""The codes that a WebSocket is closed with, and which of them an error comes to. Knows no socket."""

import enum

from handlers.access.errors import ApiError


class CloseCode(enum.IntEnum):
    GOING_AWAY = 1001  # the server stops, or the client is to come back elsewhere (RFC 6455, 7.4.1)
    POLICY_VIOLATION = 1008
    TRY_AGAIN_LATER = 1013  # registered for a client that may come back (IANA WebSocket registry)
    # Of the range for private use (RFC 6455, 7.4.2), after HTTP's 401 and 419.
    SIGN_IN = 4401
    TOKEN_EXPIRED = 4419

    @classmethod
    def of(cls, error: ApiError) -> "CloseCode":
        """What says of a socket what the error's status says of a request."""
        if error.status_code >= 500:
            return cls.TRY_AGAIN_LATER
        return cls.SIGN_IN if error.status_code == 401 else cls.POLICY_VIOLATION
