"""Identifies the holder of a token and its rights. Knows no request: handlers/access/authentication.py calls it.

There are two kinds: tokens of the settings, which are compared in constant time, and JSON Web Tokens (RFC 7519) of an
issuer. A JSON Web Token's algorithm is the one in the settings, whatever its header says.
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import jwt
from jwt.utils import base64url_decode

from changefeed.change.json_text import parse_unique
from changefeed.selection.rights import ALL_RIGHTS, BadRights, Grants, Rights
from handlers.access.ended_sessions import Session
from handlers.access.jwks import FileKeys, IssuerKeys, KeySetUrl
from settings import values
from settings.table import Settings, SettingsError

CLAIM = "changefeed"  # its value is the rights
TOKEN_LIMIT_CHARACTERS = 8192


@dataclass(frozen=True)
class Identity:
    """A caller with rights, until `expires_at` (epoch seconds; None for ever).

    The clients of one `holder` are counted together: those of a token, or of all tokens of one subject (`sub`).
    `session` is the sign-in that identified the caller, if any; it does not count when identities are compared.
    """

    rights: Rights
    expires_at: float | None = None
    holder: str | None = None
    session: Session | None = field(default=None, compare=False)


ANONYMOUS = Identity(ALL_RIGHTS)  # if the server requires no tokens


class BadToken(Exception):
    """The token is refused; `code` and the message say why. The message contains nothing of the token.

    `reason` distinguishes errors of the same code, as the message does, but is one of a fixed few.
    """

    def __init__(self, code: str, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class Tokens:
    """The tokens of the settings (`known`: token and rights) and of an issuer. With neither, no token is required."""

    def __init__(self, known: Iterable[tuple[str, Rights]] = (), issuer: "IssuedTokens | None" = None) -> None:
        self._known = [(digest(token), Identity(rights, holder=digest(token))) for token, rights in known]
        self._issuer = issuer

    def take(self, fresh: "Tokens", *, with_issuer: bool) -> list[Identity]:
        """Replaces these tokens by those of `fresh`. Returns the identities that are gone or have other rights now."""
        before, self._known = self._known, fresh._known
        if with_issuer:
            self._issuer = fresh._issuer
        return [identity for known, identity in before if self.find(known) != identity]

    @property
    def are_required(self) -> bool:
        return bool(self._known or self._issuer)

    @property
    def known_grants(self) -> Grants:
        """The rights to tables of all the settings' tokens together."""
        return tuple({grant for _, identity in self._known for grant in identity.rights.tables})

    async def prepare(self) -> None:
        """Reads the issuer's keys; logs a failure."""
        if self._issuer:
            await self._issuer.prepare()

    async def identify(self, token: str) -> Identity:
        """Raises BadToken, or KeysUnavailable if the token cannot be verified now."""
        if found := self.find(digest(token)):
            return found
        if self._issuer is None:
            raise BadToken("bad_token", "this server knows no such token")
        return await self._issuer.identify(token)

    def find(self, token_digest: str) -> Identity | None:
        """The identity of the settings' token with this digest. Compares all, so that the time taken shows nothing."""
        found = None
        for known, identity in self._known:
            if hmac.compare_digest(known, token_digest):
                found = identity
        return found


class IssuedTokens:
    """JSON Web Tokens, signed with `algorithm` by one of `keys`; for `audience` and of `issuer`, if these are given."""

    def __init__(
        self, algorithm: str, keys: IssuerKeys, audience: str | None = None, issuer: str | None = None
    ) -> None:
        self._algorithm = algorithm
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._required = ["exp", *(["aud"] if audience else []), *(["iss"] if issuer else [])]

    async def prepare(self) -> None:
        await self._keys.prepare()

    async def identify(self, token: str) -> Identity:
        """Raises BadToken or KeysUnavailable."""
        try:
            if len(token) > TOKEN_LIMIT_CHARACTERS or not token.isascii():
                raise jwt.DecodeError("it is too long, or has characters that tokens never have")
            key = await self._keys.find(jwt.get_unverified_header(token).get("kid"))
            if key is None:
                raise jwt.InvalidKeyError("it is signed by none of the issuer's keys")
            claims = jwt.decode(
                token,
                key,
                algorithms=[self._algorithm],
                audience=self._audience,
                issuer=self._issuer,
                options={"require": self._required, "verify_iat": False},  # a date of issue does not limit validity
            )
            for part in token.split(".")[:2]:
                parse_unique(base64url_decode(part))  # jwt takes a member twice, the last one counts
            subject = claims.get("sub")
            holder = f"sub {subject}" if subject else digest(token)
            identity = Identity(Rights.parse(claims.get(CLAIM, {})), float(claims["exp"]), holder)
        except jwt.ExpiredSignatureError:
            raise BadToken("token_expired", "the token has expired; get a new one") from None
        except jwt.PyJWTError as error:
            raise BadToken("bad_token", f"the token is refused: {_told(error)}", type(error).__name__) from None
        except BadRights as error:
            raise BadToken("bad_token", f"the token is refused: its claim {CLAIM}: {error}", CLAIM) from None
        except (OverflowError, TypeError):
            raise BadToken("bad_token", "the token is refused: it has an invalid time", "time") from None
        except (ValueError, RecursionError):
            why = "its JSON is nested too deeply, or has a member twice"
            raise BadToken("bad_token", f"the token is refused: {why}", "JSON") from None
        return identity


def _told(error: jwt.PyJWTError) -> str:
    """Its message, without the header's text: it may be unsigned, and any client's text would be in our log."""
    if isinstance(error, jwt.InvalidAlgorithmError):
        return "its algorithm is not that of the settings"
    if type(error) is jwt.InvalidTokenError:
        return "its header requires an extension (crit, b64) that this server does not support"
    if type(error) is jwt.DecodeError:
        return f"it is neither one of --token's nor a JSON Web Token; copy it whole ({error})"
    return str(error)


def digest(token: str) -> str:
    # JSON may escape half a character, which UTF-8 cannot encode.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def load_tokens(settings: Settings) -> Tokens:
    """Reads the tokens that the settings name. Raises SettingsError."""
    known = [(token, ALL_RIGHTS) for token in settings.token]
    if settings.token_file:
        known += _read_tokens(settings.token_file)
    if len({token for token, _ in known}) < len(known):
        raise SettingsError("a token is given twice")
    tokens = Tokens(known, _issued_tokens(settings))
    if tokens.are_required and settings.allow_anonymous:
        raise SettingsError("use either --allow-anonymous or tokens, not both")
    return tokens


def reload_tokens(tokens: Tokens, settings: Settings) -> list[Identity]:
    """Reads the tokens' files again; returns as Tokens.take(). Raises SettingsError, and then changes nothing."""
    # KeySetUrl reads the keys of a URL again by itself.
    return tokens.take(load_tokens(settings), with_issuer=settings.jwt_key_file is not None)


def _read_tokens(path: Path) -> list[tuple[str, Rights]]:
    """Each line is a token, optionally followed by a space and its rights as JSON; without these it has all rights."""
    found = []
    for number, line in enumerate(_read(path, "--token-file").decode("utf-8", "replace").splitlines(), 1):
        token, _, rights = line.strip().partition(" ")
        if not token or token.startswith("#"):
            continue
        where = f"--token-file {path}: line {number}"  # the line itself is never shown: it holds a secret
        try:
            values.token(token)
        except ValueError:
            raise SettingsError(f"{where}: expected {values.token.expected}") from None
        try:
            found.append((token, Rights.parse(parse_unique(rights)) if rights.strip() else ALL_RIGHTS))
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"{where}: expected the token's rights as JSON after it: {error}") from None
    if not found:
        raise SettingsError(f"--token-file {path}: the file has no token")
    return found


def _issued_tokens(settings: Settings) -> IssuedTokens | None:
    algorithm, file, url = settings.jwt_algorithm, settings.jwt_key_file, settings.jwt_jwks_url
    if algorithm is None:
        if file or url or settings.jwt_audience or settings.jwt_issuer:
            raise SettingsError("--jwt-algorithm is missing: the issuer's, HS256, RS256 or ES256")
        return None
    if (file is None) is (url is None):
        raise SettingsError("--jwt-algorithm needs one of --jwt-key-file and --jwt-jwks-url")
    if url is not None:
        if algorithm == "HS256":
            raise SettingsError("--jwt-algorithm HS256 uses a secret, which cannot come from a URL; use --jwt-key-file")
        return IssuedTokens(algorithm, KeySetUrl(url, algorithm), settings.jwt_audience, settings.jwt_issuer)
    assert file
    try:
        keys = FileKeys(_read(file, "--jwt-key-file"), algorithm)
    except ValueError as error:
        raise SettingsError(f"--jwt-key-file {file}: {error}") from None
    return IssuedTokens(algorithm, keys, settings.jwt_audience, settings.jwt_issuer)


def _read(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{flag} {path} cannot be read: {error.strerror}") from None
