"""A URL in, the messages of all its connections out. It reconnects for ever, and raises what can never work.

Knows the close codes and the `error` of changefeed.v1, and what no other message means.
"""

import asyncio
import inspect
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from psqlisten2websocket_client.exact_json import read_message

SUBPROTOCOL = Subprotocol("changefeed.v1")
ANSWER_SECONDS = 12.0  # longer than the 10 s that the server waits for a token, so that it can say that one is missing
FIRST_DELAY_LIMIT_SECONDS = 0.3
DELAY_LIMIT_SECONDS = 10.0
STEADY_SECONDS = 5.0  # what lasts for less does not end the backoff
POLICY_VIOLATION = 1008  # the close code behind an `error` that holds for later attempts
SIGN_IN = 4401  # that for HTTP's 401
# 4xx, but not the caller's mistake: later the same request may be accepted.
PASSING_STATUSES = (408, 425, 429)
NO_FEED = "the server at this URL does not speak changefeed.v1; write http://HOST:PORT, or ws://HOST:PORT/BASE_PATH/ws"
NO_TOKEN = "the server requires a token: give one as `token`"
TOKEN_CODES = ("bad_token", "token_expired", "sign_in", "no_rights")

Token = str | Callable[[], str | Awaitable[str]]
"""A token, or a function that returns one and is called for each connection."""

logger = logging.getLogger("psqlisten2websocket_client")


class Refused(Exception):
    """The server refuses the request, and would refuse it again. `code` is the server's, such as unknown_table."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Request:
    """The URL, the subscription and the credentials."""

    url: str
    fields: Mapping[str, str | Sequence[str]]
    token: Token | None = None


class Connection:
    """One connection after the other, as if they were one."""

    def __init__(self, request: Request) -> None:
        self._url = _socket_url(request.url)
        self._fields = request.fields
        self._token = request.token
        self._socket: ClientConnection | None = None
        self._opened_at = float("inf")
        self._delays = backoff()
        self._announced_delay: float | None = None
        self._error: Refused | None = None  # why the server may be about to close the connection

    async def receive(self, place: Mapping[str, str]) -> dict[str, Any]:
        """The next message. If it is the first of a connection, that one was asked to begin at `place`.

        Raises Refused; ValueError for an invalid URL; ssl.SSLCertVerificationError.
        """
        while True:
            try:
                if self._socket is None:
                    return await self._open(place)
                message = read_message(await self._socket.recv())
                if message["type"] != "going_away":
                    self._error = _error_in(message)
                    return message
                self._announced_delay = message["reconnect_in_ms"] / 1000
            except InvalidURI as error:
                raise ValueError(str(error)) from None
            except ssl.SSLCertVerificationError:
                raise
            except (OSError, InvalidHandshake, ConnectionClosed, Refused) as error:
                self._raise_if_lasting(error)
                await self.reconnect(error)

    async def close(self) -> None:
        socket, self._socket = self._socket, None
        if socket:
            await socket.close()

    async def reconnect(self, reason: object) -> None:
        """Leaves the connection, and waits until the next attempt is due."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._opened_at >= STEADY_SECONDS:
            self._delays = backoff()
        self._opened_at = float("inf")
        delay = next(self._delays) if self._announced_delay is None else self._announced_delay
        self._announced_delay = None
        logger.info("no connection to %s: %s; next attempt in %.1f s", self._url.netloc, reason, delay)
        await self.close()
        await asyncio.sleep(delay)

    async def _open(self, place: Mapping[str, str]) -> dict[str, Any]:
        """Connects, and returns the server's hello."""
        query = "&".join(filter(None, (self._url.query, urlencode({**self._fields, **place}, doseq=True))))
        token = self._token() if callable(self._token) else self._token
        if inspect.isawaitable(token):
            token = await token
        self._socket = await connect(
            urlunsplit(self._url._replace(query=query)),
            subprotocols=[SUBPROTOCOL],
            # Also without a token: a server that requires one refuses this at once. Else it waits for one in a message.
            additional_headers=None if self._url.username else {"Authorization": f"Bearer {token or ''}".strip()},
            max_size=None,
        )
        self._opened_at = asyncio.get_running_loop().time()
        if self._socket.subprotocol != SUBPROTOCOL:
            raise Refused("not_a_feed", NO_FEED)
        async with asyncio.timeout(ANSWER_SECONDS):
            message = read_message(await self._socket.recv())
        if error := _error_in(message):
            raise error
        return message

    def _raise_if_lasting(self, error: Exception) -> None:
        """Raises Refused if the server would refuse each further attempt as well."""
        refused = self._refusal(error)
        if refused and not (callable(self._token) and refused.code in TOKEN_CODES):
            raise refused from None

    def _refusal(self, error: Exception) -> Refused | None:
        if isinstance(error, Refused):
            return error
        if isinstance(error, InvalidStatus):
            status = error.response.status_code
            if status < 400:
                return Refused("not_a_feed", NO_FEED)
            if status == 401 and not self._token:
                return Refused("sign_in", NO_TOKEN)
            return _refusal_of(error) if status < 500 and status not in PASSING_STATUSES else None
        if isinstance(error, ConnectionClosed) and error.rcvd:
            if error.rcvd.code == SIGN_IN:
                return Refused("sign_in", error.rcvd.reason if self._token else NO_TOKEN)
            if error.rcvd.code == POLICY_VIOLATION:
                return self._error
        return None


def _socket_url(url: str) -> SplitResult:
    """That of the feed. An address of a server alone, such as http://localhost:8080, gets the path /ws."""
    parts = urlsplit(url)
    scheme = parts.scheme.replace("http", "ws") if parts.scheme in ("http", "https") else parts.scheme
    return parts._replace(scheme=scheme, path="/ws" if parts.path in ("", "/") else parts.path, fragment="")


def backoff() -> Iterator[float]:
    """Seconds before each attempt: none before the first, then at random up to a limit that doubles ("full jitter")."""
    yield 0.0
    limit = FIRST_DELAY_LIMIT_SECONDS
    while True:
        yield random.uniform(0, limit)
        limit = min(DELAY_LIMIT_SECONDS, 2 * limit)


def _error_in(message: Mapping[str, Any]) -> Refused | None:
    return Refused(message["code"], message["message"]) if message["type"] == "error" else None


def _refusal_of(answer: InvalidStatus) -> Refused:
    """The error in the body of an HTTP response: {"error": {"code", "message"}}; else its status."""
    status = answer.response.status_code
    try:
        error = read_message(bytes(answer.response.body or b""))["error"]
        return Refused(error["code"], error["message"])
    except (ValueError, TypeError, KeyError):
        return Refused(f"http_{status}", f"the server answered with the status {status}")
