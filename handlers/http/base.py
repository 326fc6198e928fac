"""What every HTTP answer has in common: security headers, JSON, and the one shape of an error."""

import http
import random
from asyncio import Future
from collections.abc import Callable
from typing import Any, ClassVar, cast, final

from tornado.web import HTTPError, RequestHandler

from changefeed.selection.rights import Rights
from handlers.access.admitted import AdmittedClient
from handlers.access.authentication import Need
from handlers.access.errors import ApiError, foreign_origin
from handlers.access.forwarded import apply_forwarded_headers
from handlers.access.tokens import Identity
from handlers.http.context import ServerContext
from handlers.http.server import CLOSED, bound_what_is_unread

# The dashboard brings all it needs; nothing is loaded from elsewhere, nothing may frame it. A style-src of 'self'
# forbids style attributes in HTML; what scripts set through the CSSOM is not affected.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


RETRY_AFTER_SECONDS = (2, 10)  # at random in between, so that a crowd does not come back as one
# What pages of other origins may send and read beside what the Fetch standard always lets them (CORS-safelisted).
CORS_REQUEST_HEADERS = "Authorization, Content-Type, Last-Event-ID"
CORS_ANSWER_HEADERS = "Retry-After"
HSTS_SECONDS = 365 * 86400  # by TLS of our own: for how long a browser asks for this host by nothing else (RFC 6797)
CORS_PREFLIGHT_SECONDS = 600  # how long a browser need not ask again


class BaseHandler(RequestHandler):
    """Whoever is not let in by the gate gets no further than prepare()."""

    needs: ClassVar[Need] = Need.ALL_RIGHTS
    # Of those codes of refusals which are told in the open socket, since a refused handshake tells a page nothing.
    told_in_socket: ClassVar[tuple[str, ...]] = ()
    is_for_clients: ClassVar[bool] = False  # who stay, and come in crowds
    identity: Identity | None = None
    refusal: ApiError | None = None  # which is still to be told

    @property
    def context(self) -> ServerContext:
        return cast(ServerContext, self.settings["context"])

    @property
    def rights(self) -> Rights:
        """Of whoever asks: nobody has none."""
        return self.identity.rights if self.identity else Rights()

    @final
    async def prepare(self) -> None:
        self.prepare_answer()
        apply_forwarded_headers(self.request, self.context.settings.trusted_proxies)
        if self.is_preflight:
            # It carries no token, whatever follows it.
            await self.context.authenticator.authenticate(self.request, Need.NOTHING)
            self._answer_preflight()
            return
        try:
            self.identity = await self.context.authenticator.authenticate(self.request, self.needs)
        except ApiError as error:
            self.refusal = error
        if self.is_for_clients:
            self.context.admission.check_rate(self.request.remote_ip, self.identity.holder if self.identity else None)
        if self.refusal and self.refusal.code not in self.told_in_socket:
            raise self.refusal

    def admit(self, kind: str, identity: Identity, on_expired: Callable[[], None]) -> AdmittedClient:
        """Takes a place among the clients of this kind, after Admission.check()."""
        address = self.request.remote_ip
        return AdmittedClient(
            self.context.admission, self.context.authenticator.expiries, address, kind, identity, on_expired
        )

    def prepare_answer(self) -> None:
        """What holds of the answer, whoever asks."""

    def set_default_headers(self) -> None:
        self.set_header("Server", "psqlisten2websocket")
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")  # of requests without CORS
        if self.context.settings.tls_cert and self.request.host_name != "localhost":
            # Of localhost it would be said to whatever else a developer runs there, on any port.
            self.set_header("Strict-Transport-Security", f"max-age={HSTS_SECONDS}")
        if self.context.settings.allow_origin:
            self.set_header("Vary", "Origin")  # also where none was sent: a cache may be asked by a page next
        origin = self.request.headers.get("Origin", "")
        if origin and self.names_origin(origin):
            # Without Access-Control-Allow-Credentials: the cookie is for the server's own pages.
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Access-Control-Expose-Headers", CORS_ANSWER_HEADERS)

    @property
    def is_preflight(self) -> bool:
        """Whether a browser asks, for a page of another origin, if a request may be made (CORS-preflight, Fetch)."""
        headers = self.request.headers
        return self.request.method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers

    def _answer_preflight(self) -> None:
        """Raises ApiError where the settings do not name the origin."""
        origin = self.request.headers["Origin"]
        if not self.names_origin(origin):
            raise foreign_origin(origin)
        self.set_status(204)
        self.set_header("Access-Control-Allow-Methods", ", ".join(self.methods()))
        self.set_header("Access-Control-Allow-Headers", CORS_REQUEST_HEADERS)
        self.set_header("Access-Control-Max-Age", str(CORS_PREFLIGHT_SECONDS))
        self.finish()

    def query_fields(self) -> dict[str, list[str]]:
        """By name; what stands around a value is left out, but not in a filter, where a blank may be part of it."""
        fields = {name: self.get_query_arguments(name) for name in self.request.query_arguments}
        if filters := self.request.query_arguments.get("filter"):
            fields["filter"] = [self.decode_argument(text, "filter") for text in filters]
        return fields

    @classmethod
    def methods(cls) -> list[str]:
        """Those that the route knows."""
        unknown = RequestHandler._unimplemented_method
        return [name for name in cls.SUPPORTED_METHODS if getattr(cls, name.lower()) is not unknown]

    def names_origin(self, origin: str) -> bool:
        """Whether the settings let pages of this origin in."""
        allowed = self.context.settings.allow_origin
        return "*" in allowed or origin.lower() in allowed

    def log_exception(self, *raised: Any) -> None:
        """What is the client's mistake is his to read: nobody may fill the log by making it."""
        if not (isinstance(raised[1], HTTPError) and raised[1].status_code < 500):
            super().log_exception(*raised)

    @final
    def flush(self, include_footers: bool = False) -> "Future[None]":
        written = super().flush(include_footers)
        bound_what_is_unread(self.request, self.context.admission, self.context.slot.meters.meter(CLOSED, "unread"))
        return written

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
    403: "the server does not give this out; docs/http-api.md lists what there is",
    404: "there is nothing at this path; docs/http-api.md lists what there is",
    405: "this path does not know that method; docs/http-api.md lists what there is",
    500: "the server made a mistake; its log says more",
}


class ApiHandler(BaseHandler):
    """A JSON answer that is true only now."""

    def prepare_answer(self) -> None:
        self.set_header("Cache-Control", "no-store")


class NotFoundHandler(ApiHandler):
    needs = Need.NOTHING

    def prepare_answer(self) -> None:
        raise HTTPError(404)
