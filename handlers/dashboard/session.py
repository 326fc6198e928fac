"""The dashboard's sign-in: POST exchanges a token for a session cookie that no script can read; DELETE ends it.

DELETE ends the session for every holder of the cookie: it closes its connections, and refuses it from now on.
"""

import json

from handlers.access.authentication import COOKIE, HOST_COOKIE, Need
from handlers.access.errors import ApiError
from handlers.access.tokens import TOKEN_LIMIT_CHARACTERS, Identity
from handlers.http.base import ApiHandler

COOKIE_LIMIT_CHARACTERS = 3900  # browsers keep 4096 of name, value and attributes (RFC 6265, 6.1)


class SessionHandler(ApiHandler):
    """{"is_required", "is_signed_in", "is_admin", "sees_everything", "not_counted", "expires_at"}

    `not_counted` lists the tables, as the token names them, of which it sees only some rows. `expires_at` is in epoch
    seconds, or null.
    """

    needs = Need.NOTHING
    query_names = ()

    async def get(self) -> None:
        try:
            identity: Identity | None = await self.context.authenticator.identify(self.request)
        except ApiError as error:
            if error.status_code != 401:
                raise
            identity = None
        self._answer(identity)

    async def post(self) -> None:
        authenticator = self.context.authenticator
        if not authenticator.tokens.are_required:
            self._answer(await authenticator.identify(self.request))
            return
        token = self._token()
        identity = await authenticator.identify_token(token)
        authenticator.refuse_nothing(identity.rights)
        session = authenticator.session(token)
        if len(session) > COOKIE_LIMIT_CHARACTERS:
            raise ApiError(400, "token_too_long", "the token is too long: browsers would drop its cookie")
        is_secure, path = self.request.protocol == "https", self.context.settings.base_path or "/"
        name = HOST_COOKIE if is_secure and path == "/" else COOKIE
        self.set_cookie(name, session, path=path, httponly=True, samesite="Strict", secure=is_secure)
        self._answer(identity)

    def delete(self) -> None:
        self.context.authenticator.end_session(self.request)
        self.clear_cookie(COOKIE, path=self.context.settings.base_path or "/")
        self.clear_cookie(HOST_COOKIE, path="/", secure=True)
        self._answer(None)

    def _token(self) -> str:
        try:
            body = json.loads(self.request.body)
        except (ValueError, RecursionError):
            body = None
        token = body.get("token") if isinstance(body, dict) else None
        if not isinstance(token, str) or not 0 < len(token) <= TOKEN_LIMIT_CHARACTERS:
            raise ApiError(400, "bad_sign_in", 'send {"token": "…"} as the body')
        return token

    def _answer(self, identity: Identity | None) -> None:
        grants = identity.rights.tables if identity else ()
        self.finish(
            {
                "is_required": self.context.authenticator.tokens.are_required,
                "is_signed_in": identity is not None,
                "is_admin": identity is not None and identity.rights.is_admin,
                "sees_everything": identity is not None and identity.rights.sees_everything,
                "not_counted": [grant.pattern for grant in grants if grant.filters],
                "expires_at": identity.expires_at if identity else None,
            }
        )
