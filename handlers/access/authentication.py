"""Decides who may make a request: takes the request and what its handler needs, returns an Identity or raises ApiError.

A handler class says what it `needs`. The default admits only tokens with all rights. What a token may see is not
decided here: a handler that needs TOKEN must send only what the token's rights name.
"""

import asyncio
import enum
import ipaddress
import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tornado.httputil import HTTPServerRequest, split_host_and_port
from tornado.web import create_signed_value, decode_signed_value

from changefeed.selection.rights import ALL_RIGHTS, Rights
from handlers.access.ended_sessions import ID_BYTES, EndedSessions, Session
from handlers.access.errors import ApiError
from handlers.access.expiry import Expiries
from handlers.access.jwks import KeysUnavailable
from handlers.access.refusals import Refusals
from handlers.access.tokens import ANONYMOUS, CLAIM, BadToken, Identity, Tokens, digest
from settings.table import Settings, is_loopback

COOKIE = "changefeed_session"
# Neither another host, such as a subdomain, nor a page without TLS can set this one (RFC 6265bis, 4.1.3.2).
HOST_COOKIE = f"__Host-{COOKIE}"
END_INTERVAL_SECONDS = 1.0  # how often this process looks for sessions that another one ended
SESSION_DAYS = 30.0  # at most; a session also ends when its token expires
TOKEN_FIELDS = ("token", "access_token", "id_token", "jwt", "bearer", "authorization", "api_key", "apikey")
# The public DNS never has these: RFC 6761, RFC 6762, RFC 8375, and ICANN's decision on .internal of 2024.
PRIVATE_DOMAINS = (".localhost", ".local", ".internal", ".home.arpa")
# Headers by which proxies name their client. nginx adds none unless configured to.
PROXY_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")
SIGN_IN_ADVICE = (
    "sign in: send the header Authorization: Bearer TOKEN, or authenticate with changefeed.v1 in the socket"
)

NO_RIGHTS = (
    f"your token is valid, but has no rights: a JSON Web Token names its rights in its claim {CLAIM}, a token of the "
    "token file has them after it, on the same line"
)


class Need(enum.Enum):
    """What a handler requires of its caller."""

    NOTHING = "nothing"  # its answer is public
    TOKEN = "a token"  # any token: the answer has what the token's rights name
    ADMIN = "the right admin"  # for the tables of the token
    ALL_RIGHTS = "all rights"


@dataclass(frozen=True)
class Hosts:
    """The Host names that the server accepts: `named`, and with `takes_private` all that cannot be registered."""

    named: frozenset[str]
    takes_private: bool = False

    def __contains__(self, name: str) -> bool:
        return name in self.named or (self.takes_private and is_private_name(name))


@dataclass(frozen=True)
class Authenticator:
    """Identifies callers by token or session, and refuses requests that a browser made for a page of another origin.

    `secret` signs the dashboard's sessions; `allowed_origins` are those of --allow-origin. `hosts` are the Host names
    that are accepted, None for any: with another name that points to this machine (DNS rebinding), a foreign page
    would count as ours. `is_for_here` means that the server is open, but only to this machine.
    """

    tokens: Tokens
    secret: str
    refusals: Refusals
    ended: EndedSessions
    allowed_origins: tuple[str, ...] = ()
    hosts: Hosts | None = None
    is_for_here: bool = False
    expiries: Expiries = field(default_factory=Expiries)  # of the connections that these identities have open

    async def authenticate(self, request: HTTPServerRequest, need: Need) -> Identity | None:
        """The caller's identity, or None if the handler needs none. Raises ApiError if the request is not allowed."""
        self._refuse_foreign_host(request)
        self._refuse_proxied(request)
        refuse_token_in_url(request.arguments)
        # No browser adds the header by itself. Without tokens it says nothing, as a page can make one up.
        is_signed = self.tokens.are_required and "Authorization" in request.headers
        if request.method not in ("GET", "HEAD", "OPTIONS") and not is_signed:
            self._refuse_foreign(request)
        if need is Need.NOTHING:
            return None
        identity = await self.identify(request)
        rights = identity.rights
        if (need is Need.ADMIN and not rights.is_admin) or (need is Need.ALL_RIGHTS and rights != ALL_RIGHTS):
            raise ApiError(403, "no_right", f"your token has no right to this; use one with {need.value}")
        self.refuse_nothing(rights)
        return identity

    async def identify(self, request: HTTPServerRequest) -> Identity:
        """Identifies by the header, else by the session's cookie. Raises ApiError (sign_in if both are missing)."""
        if not self.tokens.are_required:
            return ANONYMOUS
        header = request.headers.get("Authorization")
        if header is not None:
            scheme, _, token = header.partition(" ")
            if scheme.lower() != "bearer":
                self._tell(error := BadToken("bad_token", "send the header as Authorization: Bearer TOKEN", "scheme"))
                raise ApiError(401, error.code, str(error))
            return await self.identify_token(token.strip())
        session = self._session(request)
        if session is None:
            raise ApiError(401, "sign_in", SIGN_IN_ADVICE)
        try:
            return await self._identify_session(session)
        except BadToken as error:
            self._tell(error)
            raise ApiError(401, "sign_in", str(error)) from None

    async def identify_token(self, token: str) -> Identity:
        """Raises ApiError."""
        try:
            return await self.tokens.identify(token)
        except BadToken as error:
            self._tell(error)
            raise ApiError(401, error.code, str(error)) from None
        except KeysUnavailable as error:
            raise ApiError(503, "keys_unavailable", str(error)) from None

    def refuse_nothing(self, rights: Rights) -> None:
        """Raises ApiError for a valid token without any right: its client would wait in vain."""
        if rights.is_nothing:
            self.refusals.tell("no_rights", NO_RIGHTS)
            raise ApiError(403, "no_rights", NO_RIGHTS)

    def _tell(self, error: BadToken) -> None:
        self.refusals.tell(error.code, str(error), error.reason)

    def session(self, token: str) -> str:
        """The session cookie's value for a valid token.

        For a token of the settings, the cookie holds only its digest. Removing the token ends its sessions.
        """
        is_known = self.tokens.find(digest(token)) is not None
        session = {"id": secrets.token_hex(ID_BYTES), "at": time.time()}
        content = json.dumps(session | ({"digest": digest(token)} if is_known else {"token": token}))
        return create_signed_value(self.secret, COOKIE, content).decode()

    def end_session(self, request: HTTPServerRequest) -> None:
        """Ends the session of the request's cookie, for every holder of a copy."""
        session = self._session(request)
        if session and not self.ended.has(session):  # else the same session could fill the list
            self.ended.end(session)
            self.close_ended()

    def close_ended(self) -> None:
        """Closes the connections of sessions that were ended, in this process or another."""
        if self.ended.news():
            self.expiries.end_all_of(lambda identity: identity.session is not None and self.ended.has(identity.session))

    async def keep_ending(self) -> None:
        while True:
            await asyncio.sleep(END_INTERVAL_SECONDS)
            self.close_ended()

    def is_own_page(self, request: HTTPServerRequest) -> bool:
        """Whether a page of this server made the request, or no page at all."""
        origin = request.headers.get("Origin")
        if origin is not None:
            return is_same_origin(origin, request.host)
        return request.headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none")

    def _refuse_foreign_host(self, request: HTTPServerRequest) -> None:
        """Raises ApiError."""
        if self.hosts is not None and request.host_name not in self.hosts:
            name = request.host_name[:100]
            raise ApiError(
                403,
                "foreign_host",
                f"{name} is not a name of this server; if it is one, start the server with --allow-host {name}",
            )

    def _refuse_proxied(self, request: HTTPServerRequest) -> None:
        """Raises ApiError for a request through a proxy, if the server is open, but only to this machine."""
        if self.is_for_here and any(header in request.headers for header in PROXY_HEADERS):
            raise ApiError(
                403,
                "proxied",
                "this request came through a proxy, but the server is open to its own machine only; start it with "
                "tokens (--token, --token-file, --jwt-algorithm), or with --allow-anonymous",
            )

    def _refuse_foreign(self, request: HTTPServerRequest) -> None:
        """Raises ApiError for a writing request by a page of another origin, unless --allow-origin names it."""
        if not self.is_own_page(request) and request.headers.get("Origin", "").lower() not in self.allowed_origins:
            raise ApiError(403, "foreign_origin", "pages of another origin may not change anything here")

    def _session(self, request: HTTPServerRequest) -> Session | None:
        """The cookie's session, if this server signed it and a page of this server sent it."""
        cookie = session_cookie(request.headers.get("Cookie", ""))
        if not cookie or not self.is_own_page(request):
            return None
        # Only version 2, which session() makes: Tornado logs a line for anything that looks like an older one.
        decoded = decode_signed_value(self.secret, COOKIE, cookie, max_age_days=SESSION_DAYS, min_version=2)
        found = json.loads(decoded) if decoded else {}
        return Session(**found) if "id" in found else None  # an older server made a cookie without it

    async def _identify_session(self, session: Session) -> Identity:
        if self.ended.has(session):
            raise BadToken("bad_token", "the session was ended; sign in again", "session")
        if session.token is not None:
            try:
                identity = await self.tokens.identify(session.token)
            except KeysUnavailable as error:
                raise ApiError(503, "keys_unavailable", str(error)) from None
            return replace(identity, session=session)
        found = self.tokens.find(session.digest or "")
        if found is None:
            raise BadToken("bad_token", "your session's token is no longer valid", "session")
        return replace(found, session=session)


def session_cookie(header: str) -> str:
    """The value of our cookie in the header, under either of its names; "" if there is none.

    Nothing in the value is escaped. Python's own parser unescapes, and before CVE-2024-7592 in quadratic time.
    """
    found: dict[str, str] = {}
    for cookie in header.split(";"):
        name, _, value = cookie.strip().partition("=")
        if (name := name.rstrip()) in (HOST_COOKIE, COOKIE):
            found.setdefault(name, value.strip().strip('"'))
    return found.get(HOST_COOKIE) or found.get(COOKIE, "")


def hosts_of(settings: Settings) -> Hosts | None:
    """The accepted Host names; None for any.

    A server that requires tokens need not check: a foreign page under our name has no token to send. An open server
    would answer it, so there the name must be one of a private network, or one of --allow-host.
    """
    is_here = is_loopback(settings.address)
    if not is_here and settings.asks_for_tokens and not settings.allow_host:
        return None
    address = f"[{settings.address}]" if ":" in settings.address else settings.address
    named = {"localhost", "127.0.0.1", "[::1]", address.lower(), *settings.allow_host}
    if settings.asks_for_tokens or settings.allow_anonymous:  # else it would bypass --allow-host
        named |= {split_host_and_port(origin.partition("://")[2])[0] for origin in settings.allow_origin}
    return Hosts(frozenset(named), takes_private=settings.allow_anonymous and not is_here)


def is_private_name(name: str) -> bool:
    """Whether the name cannot be registered on the Internet: it is an address, or has no public domain.

    Examples are `feed`, in a network of containers, and `printer.local`.
    """
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return "." not in name or name.endswith(PRIVATE_DOMAINS)
    return True


def refuse_token_in_url(names: Iterable[str]) -> None:
    """Raises ApiError if a parameter is named like a token: URLs end up in logs, histories and the Referer."""
    for name in names:
        if name.lower() in TOKEN_FIELDS:
            raise ApiError(
                400,
                "token_in_url",
                "a token does not belong in a URL, which others log: send the header Authorization: Bearer TOKEN, or "
                'with changefeed.v1 {"type": "authenticate", "token": "…"} as the first message; and take this token '
                "out of use",
            )


def is_same_origin(origin: str, host: str) -> bool:
    """Whether `origin` has the host and port of the Host header. The scheme may differ: a proxy may have changed it."""
    return origin.partition("://")[2].lower() == host.lower()
