"""What every HTTP answer has in common: security headers, JSON, and the one shape of an error."""

import http
import random
from typing import Any, ClassVar, cast, final

from tornado.web import HTTPError, RequestHandler

from changefeed.rights import Rights
from handlers.errors import ApiError
from handlers.feed import Feed
from handlers.gate import Need
from handlers.proxies import believe_proxies
from handlers.tokens import Identity

# The dashboard brings all it needs; nothing is loaded from elsewhere, nothing may frame it. A style-src of 'self'
# forbids style attributes in HTML; what scripts set through the CSSOM is not affected.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


RETRY_AFTER_SECONDS = (2, 10)  # at random in between, so that a crowd does not come back as one


class BaseHandler(RequestHandler):
    """Whoever is not let in by the gate gets no further than prepare()."""

    needs: ClassVar[Need] = Need.EVERYTHING
    is_told_in_socket: ClassVar[bool] = False  # that a token is missing, which a refused handshake tells no page
    is_for_clients: ClassVar[bool] = False  # who stay, and come in crowds
    identity: Identity | None = None

    @property
    def feed(self) -> Feed:
        return cast(Feed, self.settings["feed"])

    @property
    def rights(self) -> Rights:
        """Of whoever asks: nobody has none."""
        return self.identity.rights if self.identity else Rights()

    @final
    async def prepare(self) -> None:
        self.prepare_answer()
        if self.is_for_clients:
            self.feed.admission.knock()  # before a signature is looked at
        believe_proxies(self.request, self.feed.settings.trusted_proxies)
        try:
            self.identity = await self.feed.gate.admit(self.request, self.needs)
        except ApiError as error:
            if error.code != "sign_in" or not self.is_told_in_socket:
                raise

    def prepare_answer(self) -> None:
        """What holds of the answer, whoever asks."""

    def set_default_headers(self) -> None:
        self.set_header("Server", "psqlisten2websocket")
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        origin = self.request.headers.get("Origin", "")
        if origin and self.names_origin(origin):
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Vary", "Origin")

    def query_fields(self) -> dict[str, list[str]]:
        return {name: self.get_query_arguments(name) for name in self.request.query_arguments}

    @classmethod
    def methods(cls) -> list[str]:
        """Those that the route knows."""
        unknown = RequestHandler._unimplemented_method
        return [name for name in cls.SUPPORTED_METHODS if getattr(cls, name.lower()) is not unknown]

    def names_origin(self, origin: str) -> bool:
        """Whether the settings let pages of this origin in."""
        allowed = self.feed.settings.allow_origin
        return "*" in allowed or origin.lower() in allowed

    def log_exception(self, *raised: Any) -> None:
        """What is the client's mistake is his to read: nobody may fill the log by making it."""
        if not (isinstance(raised[1], HTTPError) and raised[1].status_code < 500):
            super().log_exception(*raised)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        raised = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(raised, ApiError):
            code, message = raised.code, raised.message
        else:
            phrase = http.HTTPStatus(status_code).phrase
            code = phrase.lower().replace(" ", "_")
            message = _ADVICE.get(status_code, phrase)
        self.set_header("Cache-Control", "no-store")
        if status_code == http.HTTPStatus.UNAUTHORIZED:
            self.set_header("WWW-Authenticate", "Bearer")  # RFC 9110, 11.6.1
        if status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", ", ".join(self.methods()))  # RFC 9110, 15.5.6
        if status_code == http.HTTPStatus.SERVICE_UNAVAILABLE:
            wait_seconds = raised.retry_after_seconds if isinstance(raised, ApiError) else None
            self.set_header("Retry-After", str(wait_seconds or random.randint(*RETRY_AFTER_SECONDS)))
        self.finish({"error": {"code": code, "message": message}})


_ADVICE = {
    403: "the server does not give this out; the README lists what there is",
    404: "there is nothing at this path; the README lists what there is",
    405: "this path does not know that method; the README lists what there is",
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
