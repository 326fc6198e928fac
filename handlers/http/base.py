"""What all HTTP answers share: security headers, JSON, one shape of errors, and an end when the client is gone."""

import asyncio
import http
import random
from asyncio import Future
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast, final

from tornado.escape import json_encode
from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler

from changefeed.owners import Owner
from changefeed.selection.rights import Rights
from handlers.access.admitted import AdmittedClient
from handlers.access.authentication import Need
from handlers.access.errors import ApiError, foreign_origin
from handlers.access.forwarded import apply_forwarded_headers, network_of
from handlers.access.requests import RequestUnderWay
from handlers.access.tokens import Identity
from handlers.http.compression import PIECE_BYTES, UnchangingContent, accepts_gzip, compress_in_pieces
from handlers.http.context import ServerContext
from handlers.http.query_names import check_names
from handlers.http.server import CLOSED, bound_what_is_held, bound_what_is_unread, is_connected, note_owner
from process.shared_numbers import SharedNumber

# The dashboard loads nothing from elsewhere, and no page may frame it. A style-src of 'self'
# forbids style attributes in HTML; what scripts set through the CSSOM is not affected.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # which change nothing (RFC 9110, 9.2.1)
RETRY_AFTER_SECONDS = (2, 10)  # a random time in between, so that a crowd does not return all at once
# What pages of other origins may send and read, besides what the Fetch standard always allows (CORS-safelisted).
CORS_REQUEST_HEADERS = "Authorization, Content-Type, Last-Event-ID"
CORS_ANSWER_HEADERS = "Retry-After"
HSTS_SECONDS = 365 * 86400  # with our own TLS: for how long browsers use only HTTPS for this host (RFC 6797)
CORS_PREFLIGHT_SECONDS = 600  # how long a browser may remember the answer


class BaseHandler(RequestHandler):
    """Authenticates each request in prepare(); one that is refused gets no further.

    A request ends when its client is gone, as the task that answers it is cancelled. One that changes something is
    finished in any case, once it has begun.
    """

    needs: ClassVar[Need] = Need.ALL_RIGHTS
    # The codes of refusals that are sent in the open socket: a page cannot read why its handshake was refused.
    told_in_socket: ClassVar[tuple[str, ...]] = ()
    query_names: ClassVar[Sequence[str] | None] = None  # of its query, the only ones; None: any
    is_for_clients: ClassVar[bool] = False  # its callers stay connected, and may come in crowds
    waits_its_turn: ClassVar[bool] = False  # its answer needs much of the database, of memory or of time
    identity: Identity | None = None
    _task: "asyncio.Task[Any] | None" = None  # what answers, while it may be cancelled
    _is_gone = False
    _given_way: ApiError | None = None  # why the request was ended in favor of another
    refusal: ApiError | None = None  # not yet sent to the caller
    _etag: str | None = None  # of what never changes

    @property
    def context(self) -> ServerContext:
        return cast(ServerContext, self.settings["context"])

    @property
    def rights(self) -> Rights:
        """The caller's rights; without an identity none."""
        return self.identity.rights if self.identity else Rights()

    @property
    def owner(self) -> Owner:
        """Whose request it is, for what all share."""
        return Owner(self.identity.holder if self.identity else None, network_of(self.request.remote_ip or ""))

    @final
    async def prepare(self) -> None:
        self._task = asyncio.current_task()
        assert self._task
        self._task.add_done_callback(self._forget_task)
        if self._is_gone:
            self.end()
            await asyncio.sleep(0)
        self.prepare_answer()
        apply_forwarded_headers(self.request, self.context.settings.trusted_proxies)
        if self.is_preflight:
            # A preflight never carries a token.
            await self.context.authenticator.authenticate(self.request, Need.NOTHING)
            self._answer_preflight()
            return
        try:
            self.identity = await self.context.authenticator.authenticate(self.request, self.needs)
        except ApiError as error:
            self.refusal = error
        note_owner(self.request, self.owner)
        if self.is_for_clients:
            self.context.admission.check_rate(self.request.remote_ip, self.identity.holder if self.identity else None)
        if self.refusal and self.refusal.code not in self.told_in_socket:
            raise self.refusal
        if self.query_names is not None:
            check_names(self.query_fields(), self.query_names)
        if self.needs is not Need.NOTHING and not self.is_for_clients:
            await self._enter()

    async def _enter(self) -> None:
        """Counts the request until it is over, and returns when it may work. Raises ApiError."""
        entry = self.context.admission.requests.enter(self.owner, self._give_way)
        assert self._task
        self._task.add_done_callback(lambda _: self._leave(entry))
        if self.waits_its_turn:
            await entry.until_turn()
            if not is_connected(self.request):
                self.end()
                await asyncio.sleep(0)  # where the cancellation arrives
        if self.request.method not in SAFE_METHODS:
            self._task = entry.give_way = None

    def _forget_task(self, _: object) -> None:
        """Otherwise a cancelled one, with all that it has read, would stay until the garbage collector comes."""
        self._task = None

    def _leave(self, entry: RequestUnderWay) -> None:
        entry.leave()
        self._bound_what_is_unread()

    def _give_way(self, error: ApiError) -> None:
        self._given_way = error
        if self._task:
            self._task.cancel()

    def on_connection_close(self) -> None:
        self.end()

    def end(self) -> None:
        """Called when the client is gone: ends what answers it."""
        self._is_gone = True
        if self._task and not self._task.done() and not self._task.cancelling():
            self.context.admission.requests.give_up()
            self._task.cancel()

    def admit(self, kind: str, identity: Identity, on_expired: Callable[[], None]) -> AdmittedClient:
        """Takes a place among the clients of this kind, after Admission.check()."""
        address = self.request.remote_ip
        return AdmittedClient(
            self.context.admission, self.context.authenticator.expiries, address, kind, identity, on_expired
        )

    def prepare_answer(self) -> None:
        """Sets headers that every answer of this route has, errors too."""

    def set_default_headers(self) -> None:
        self.set_header("Server", "psqlisten2websocket")
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")  # for requests without CORS
        if self.context.settings.tls_cert and self.request.host_name != "localhost":
            # Not for localhost, where it would also bind what else a developer runs there, on any port.
            self.set_header("Strict-Transport-Security", f"max-age={HSTS_SECONDS}")
        if self.context.settings.allow_origin:
            self.set_header("Vary", "Origin")  # also if no Origin was sent: a cache may serve a page next
        origin = self.request.headers.get("Origin", "")
        if origin and self.names_origin(origin):
            # Without Access-Control-Allow-Credentials: the cookie is for the server's own pages.
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Access-Control-Expose-Headers", CORS_ANSWER_HEADERS)

    @property
    def is_preflight(self) -> bool:
        """Whether a browser asks if a page of another origin may make a request (CORS-preflight, Fetch)."""
        headers = self.request.headers
        return self.request.method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers

    def _answer_preflight(self) -> None:
        """Raises ApiError if the settings do not name the origin."""
        origin = self.request.headers["Origin"]
        if not self.names_origin(origin):
            raise foreign_origin(origin)
        self.set_status(204)
        self.set_header("Access-Control-Allow-Methods", ", ".join(self.methods()))
        self.set_header("Access-Control-Allow-Headers", CORS_REQUEST_HEADERS)
        self.set_header("Access-Control-Max-Age", str(CORS_PREFLIGHT_SECONDS))
        self.finish()

    def query_fields(self) -> dict[str, list[str]]:
        """The query's values by name, stripped of spaces. A filter is not, as a space may be part of its value.

        Tornado's get_query_arguments would replace control characters, which may be part of a name, by spaces.
        """
        return {
            name: [text if name == "filter" else text.strip(" ") for text in self._decoded(name, values)]
            for name, values in self.request.query_arguments.items()
        }

    def _decoded(self, name: str, values: Sequence[bytes]) -> list[str]:
        return [self.decode_argument(value, name) for value in values]

    @classmethod
    def methods(cls) -> list[str]:
        """The HTTP methods of the route."""
        unknown = RequestHandler._unimplemented_method
        return [name for name in cls.SUPPORTED_METHODS if getattr(cls, name.lower()) is not unknown]

    def names_origin(self, origin: str) -> bool:
        """Whether --allow-origin names this origin."""
        allowed = self.context.settings.allow_origin
        return "*" in allowed or origin.lower() in allowed

    def log_exception(self, *raised: Any) -> None:
        """Does not log what clients cause, so that they cannot flood the log: 4xx errors, and that they are gone."""
        error = raised[1]
        if not isinstance(error, StreamClosedError) and not (isinstance(error, HTTPError) and error.status_code < 500):
            super().log_exception(*raised)

    @final
    def flush(self, include_footers: bool = False) -> "Future[None]":
        written = super().flush(include_footers)
        self._bound_what_is_unread()
        return written

    def finish_unchanging(self, content: UnchangingContent) -> None:
        chosen = content.representation_for(self.request)
        self._etag = chosen.etag
        if chosen.is_gzipped:
            self.set_header("Content-Encoding", "gzip")
        self.finish(chosen.body)

    async def finish_large(self, answer: str | bytes | dict[str, Any]) -> None:
        """As finish(), for an answer that may be large; a dict is sent as JSON."""
        if isinstance(answer, dict):
            self.set_header("Content-Type", "application/json; charset=UTF-8")
            answer = json_encode(answer)
        body = answer.encode() if isinstance(answer, str) else answer
        if len(body) > PIECE_BYTES and accepts_gzip(self.request):
            body = await compress_in_pieces(body)
            self.set_header("Content-Encoding", "gzip")
        self.finish(body)

    def compute_etag(self) -> str | None:
        return self._etag or super().compute_etag()

    def hold(self, size_bytes: int) -> None:
        """Counts what the answer has so far, until it is written or the request ends."""
        bound_what_is_held(self.request, self.owner, self.context.admission, self._closed_unread, size_bytes)

    def _bound_what_is_unread(self) -> None:
        bound_what_is_unread(self.request, self.owner, self.context.admission, self._closed_unread)

    @property
    def _closed_unread(self) -> SharedNumber:
        return self.context.slot.numbers.number(CLOSED, "unread")

    @final
    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        if self._is_gone or (self._given_way and self._headers_written):
            cast(HTTP1Connection, self.request.connection).close()
            return
        if self._given_way:
            status_code, kwargs = self._given_way.status_code, {"exc_info": (ApiError, self._given_way, None)}
        super().send_error(status_code, **kwargs)

    @final
    def write_error(self, status_code: int, **kwargs: Any) -> None:
        raised = kwargs.get("exc_info", (None, None, None))[1]
        if not isinstance(raised, ApiError):
            phrase = http.HTTPStatus(status_code).phrase
            code = phrase.lower().replace(" ", "_")
            raised = ApiError(status_code, code, _ADVICE.get(status_code, phrase))
        self.answer_error(raised)

    def answer_error(self, error: ApiError) -> None:
        status = error.status_code
        self.set_header("Cache-Control", "no-store")
        if status == http.HTTPStatus.UNAUTHORIZED:
            self.set_header("WWW-Authenticate", "Bearer")  # RFC 9110, 11.6.1
        if status == http.HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", ", ".join(self.methods()))  # RFC 9110, 15.5.6
        if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
            self.set_header("Retry-After", str(error.retry_after_seconds or random.randint(*RETRY_AFTER_SECONDS)))
        self.finish(error.fields)


_ADVICE = {
    403: "not available here; docs/http-api.md lists the routes",
    404: "there is nothing at this path; docs/http-api.md lists the routes",
    405: "this path does not support that method; docs/http-api.md lists the routes",
    500: "the server failed; its log says why",
}


class ApiHandler(BaseHandler):
    """A JSON answer that must not be cached."""

    def prepare_answer(self) -> None:
        self.set_header("Cache-Control", "no-store")


class NotFoundHandler(ApiHandler):
    needs = Need.NOTHING

    def prepare_answer(self) -> None:
        raise HTTPError(404)
