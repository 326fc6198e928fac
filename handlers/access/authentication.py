"""The one place that decides who gets in: a request and what its handler needs in, an Identity or an ApiError out.

A handler class says what it `needs`. One that says nothing gives nothing to anybody without all rights. What a token
may see is no matter of the gate: a handler that needs TOKEN gives out what its rights name, and nothing else.
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
from handlers.access.tokens import ANYBODY, CLAIM, BadToken, Identity, Tokens, digest
from settings.table import Settings, is_loopback

COOKIE = "changefeed_session"
# Which no other host, such as one below the same domain, and no page without TLS can set (RFC 6265bis, 4.1.3.2).
HOST_COOKIE = f"__Host-{COOKIE}"
END_INTERVAL_SECONDS = 1.0  # after which what is open by a session ends that was ended in another process
SESSION_DAYS = 30.0  # at most; a token that expires before ends it before
TOKEN_FIELDS = ("token", "access_token", "id_token", "jwt", "bearer", "authorization", "api_key", "apikey")
# Which the public DNS never has: RFC 6761, RFC 6762, RFC 8375, and ICANN's decision on .internal of 2024.
PRIVATE_DOMAINS = (".localhost", ".local", ".internal", ".home.arpa")
# What proxies say of whom they come for. nginx says nothing by itself.
PROXY_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")
SIGN_IN_ADVICE = (
    "sign in: send the header Authorization: Bearer TOKEN, or authenticate with changefeed.v1 in the socket"
)

NO_RIGHTS = (
    f"your token is good, and gives no right to anything: a JSON Web Token names its rights in its claim {CLAIM}, a "
    "token of the token file has them behind it"
)


class Need(enum.Enum):
    """What a handler asks of who comes to it."""

    NOTHING = "nothing"  # what it gives out is everybody's
    TOKEN = "a token"  # any: it gives out what the token's rights name
    ADMIN = "the right admin"  # and no more than the tables of the token
    ALL_RIGHTS = "all rights"


@dataclass(frozen=True)
class Hosts:
    """The names by which the server may be asked for: `named`, and with `takes_private` those that nobody can buy."""

    named: frozenset[str]
    takes_private: bool = False

    def __contains__(self, name: str) -> bool:
        return name in self.named or (self.takes_private and is_private_name(name))


@dataclass(frozen=True)
class Authenticator:
    """`secret` signs the sessions of the dashboard; `allowed_origins` are the settings'.

    `hosts` are the names by which the server may be asked for, None for any: a name that somebody else let point to
    this machine (DNS rebinding) makes his pages ours, for a browser. `is_for_here` where everybody on this machine is
    let in, and nobody else.
    """

    tokens: Tokens
    secret: str
    refusals: Refusals
    ended: EndedSessions
    allowed_origins: tuple[str, ...] = ()
    hosts: Hosts | None = None
    is_for_here: bool = False
    expiries: Expiries = field(default_factory=Expiries)  # of what is open by the identities it has given

    async def authenticate(self, request: HTTPServerRequest, need: Need) -> Identity | None:
        """Who it is; None where nothing is needed. Raises ApiError for who is not let in."""
        self._refuse_foreign_host(request)
        self._refuse_proxied(request)
        refuse_token_in_url(request.arguments)
        is_signed = "Authorization" in request.headers  # which no browser adds by itself
        if request.method not in ("GET", "HEAD", "OPTIONS") and not is_signed:
            self._refuse_foreign(request)
        if need is Need.NOTHING:
            return None
        identity = await self.identify(request)
        rights = identity.rights
        if (need is Need.ADMIN and not rights.is_admin) or (need is Need.ALL_RIGHTS and rights != ALL_RIGHTS):
            raise ApiError(403, "no_right", f"your token gives no right to this; it takes one with {need.value}")
        self.refuse_nothing(rights)
        return identity

    async def identify(self, request: HTTPServerRequest) -> Identity:
        """By the header, or by the session's cookie. Raises ApiError, of the code sign_in where neither is there."""
        if not self.tokens.are_required:
            return ANYBODY
        header = request.headers.get("Authorization")
        if header is not None:
            scheme, _, token = header.partition(" ")
            if scheme.lower() != "bearer":
                self._tell(error := BadToken("bad_token", "the header is Authorization: Bearer TOKEN", "scheme"))
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
        """Raises ApiError for a token that is good and gives nothing, whose holder would wait for ever."""
        if rights.is_nothing:
            self.refusals.tell("no_rights", NO_RIGHTS)
            raise ApiError(403, "no_rights", NO_RIGHTS)

    def _tell(self, error: BadToken) -> None:
        self.refusals.tell(error.code, str(error), error.reason)

    def session(self, token: str) -> str:
        """The cookie's value for a token that was found good.

        Of a token of the settings it says the digest only. A token that was taken out of them ends its sessions.
        """
        is_known = self.tokens.find(digest(token)) is not None
        session = {"id": secrets.token_hex(ID_BYTES), "at": time.time()}
        said = json.dumps(session | ({"digest": digest(token)} if is_known else {"token": token}))
        return create_signed_value(self.secret, COOKIE, said).decode()

    def end_session(self, request: HTTPServerRequest) -> None:
        """From now on its cookie lets nobody in, whoever has it."""
        session = self._session(request)
        if session and not self.ended.has(session):  # or one could fill the list with itself
            self.ended.end(session)
            self.end_what_was_ended()

    def end_what_was_ended(self) -> None:
        """Closes what is open by sessions that were ended, also in another process."""
        if self.ended.news():
            self.expiries.end_all_of(lambda identity: identity.session is not None and self.ended.has(identity.session))

    async def keep_ending(self) -> None:
        while True:
            await asyncio.sleep(END_INTERVAL_SECONDS)
            self.end_what_was_ended()

    def is_own_page(self, request: HTTPServerRequest) -> bool:
        """Whether a page of this server sent it, or no page at all."""
        origin = request.headers.get("Origin")
        if origin is not None:
            return is_same_origin(origin, request.host)
        return request.headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none")

    def _refuse_foreign_host(self, request: HTTPServerRequest) -> None:
        """Raises ApiError."""
        if self.hosts is not None and request.host_name not in self.hosts:
            name = request.host_name[:100]
            raise ApiError(403, "foreign_host", f"this server is not {name}; if it is, say so by --allow-host {name}")

    def _refuse_proxied(self, request: HTTPServerRequest) -> None:
        """Raises ApiError for who comes from elsewhere through a proxy on this machine, where nothing says who may."""
        if self.is_for_here and any(header in request.headers for header in PROXY_HEADERS):
            raise ApiError(
                403,
                "proxied",
                "this came through a proxy, and the server is open to everybody on its own machine only; start it with "
                "tokens (--token, --token-file, --jwt-algorithm), or with --allow-anonymous",
            )

    def _refuse_foreign(self, request: HTTPServerRequest) -> None:
        """Raises ApiError for a page of another origin that would change something, unless the settings name it."""
        if not self.is_own_page(request) and request.headers.get("Origin", "").lower() not in self.allowed_origins:
            raise ApiError(403, "foreign_origin", "pages of another origin may not change anything here")

    def _session(self, request: HTTPServerRequest) -> Session | None:
        """What the cookie says, if this server signed it, and if the browser sent it for a page of this server."""
        cookie = session_cookie(request.headers.get("Cookie", ""))
        if not cookie or not self.is_own_page(request):
            return None
        # Of version 2 only, as it is made: of what looks like an older one Tornado would write a line into the log.
        said = decode_signed_value(self.secret, COOKIE, cookie, max_age_days=SESSION_DAYS, min_version=2)
        found = json.loads(said) if said else {}
        return Session(**found) if "id" in found else None  # else it is of an older server

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
            raise BadToken("bad_token", "the token that you signed in with is good no more", "session")
        return replace(found, session=session)


def session_cookie(header: str) -> str:
    """What the header says of our cookie, by either of its names; nothing where it names none.

    Its quotes hold nothing escaped. Python's own parser undoes escapes, in quadratic time before CVE-2024-7592.
    """
    found: dict[str, str] = {}
    for cookie in header.split(";"):
        name, _, value = cookie.strip().partition("=")
        if (name := name.rstrip()) in (HOST_COOKIE, COOKIE):
            found.setdefault(name, value.strip().strip('"'))
    return found.get(HOST_COOKIE) or found.get(COOKIE, "")


def hosts_of(settings: Settings) -> Hosts | None:
    """None for any name.

    Where a token is asked for beyond loopback, a page that was given our name has none to send. Where none is, it
    would be let in, so there the name counts: as it is in a network of one's own, or as it is set.
    """
    is_here = is_loopback(settings.address)
    if not is_here and settings.asks_for_tokens and not settings.allow_host:
        return None
    address = f"[{settings.address}]" if ":" in settings.address else settings.address
    named = {"localhost", "127.0.0.1", "[::1]", address.lower(), *settings.allow_host}
    if settings.asks_for_tokens or settings.allow_anonymous:  # else it would be a way in past --allow-host
        named |= {split_host_and_port(origin.partition("://")[2])[0] for origin in settings.allow_origin}
    return Hosts(frozenset(named), takes_private=settings.allow_anonymous and not is_here)


def is_private_name(name: str) -> bool:
    """Whether nobody on the Internet can have it for a page of his: an address, or a name without a public domain.

    Such are `feed` of a network of containers and `printer.local`.
    """
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return "." not in name or name.endswith(PRIVATE_DOMAINS)
    return True


def refuse_token_in_url(names: Iterable[str]) -> None:
    """Raises ApiError: a URL stands in logs, histories and the Referer."""
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
    """Whether `origin` has the host and port that the server was asked by; a proxy may have changed the scheme."""
    return origin.partition("://")[2].lower() == host.lower()
