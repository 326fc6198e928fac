"""Loads the keys that verify an issuer's tokens, from a file or from the URL of its key set (RFC 7517).

Only keys for the algorithm of the settings are used.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from tornado.httpclient import AsyncHTTPClient, HTTPError
from tornado.simple_httpclient import SimpleAsyncHTTPClient

logger = logging.getLogger("handlers.issuer_keys")

VerificationKey = bytes | RSAPublicKey | EllipticCurvePublicKey

SECRET_LEAST_BYTES = 32  # RFC 7518, 3.2
RSA_LEAST_BITS = 2048  # RFC 7518, 3.3
READ_DEADLINE_SECONDS = 5.0
READ_AGAIN_SECONDS = 600.0  # after which a key that the issuer revoked is no longer accepted
# How long keys stay valid if the URL fails: blocking the issuer must not keep a revoked key alive.
GOOD_SECONDS = 3600.0
# The least time between two requests to the URL, since any client may send a token that names an unknown key.
READ_INTERVAL_SECONDS = 10.0
KEY_SET_LIMIT_BYTES = 1 << 20


class KeysUnavailable(Exception):
    """The issuer's keys are not available now."""


class IssuerKeys(Protocol):
    async def prepare(self) -> None: ...

    async def find(self, key_id: object) -> VerificationKey | None:
        """The key that a token names by `key_id`, None if there is none. Raises KeysUnavailable."""


class FileKeys:
    """The single key of a file: a secret, or a public key in PEM. Raises ValueError if it cannot be used."""

    def __init__(self, content: bytes, algorithm: str) -> None:
        self._key = _secret(content) if algorithm == "HS256" else _public_key(content, algorithm)

    async def prepare(self) -> None:
        """Does nothing: the key is read already."""

    async def find(self, key_id: object) -> VerificationKey | None:
        return self._key


class KeySetUrl:
    """The keys of a URL: read when first needed, and again when a token names an unknown key.

    A token with a known key never waits for the issuer: old keys are read again in the background.
    """

    def __init__(self, url: str, algorithm: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._algorithm = algorithm
        self._clock = clock
        self._keys: Mapping[str | None, VerificationKey] | None = None
        self._read_at = self._tried_at = float("-inf")
        self._reading = asyncio.Lock()
        self._reading_again: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """Reads the keys before a token needs them, so that a failure is logged at the start."""
        async with self._reading:
            await self._read()
            if self._keys is None:
                self._tried_at = float("-inf")  # the first token tries again at once

    async def find(self, key_id: object) -> VerificationKey | None:
        key = self._choose(key_id)
        age = self._clock() - self._read_at
        if key is None or age > GOOD_SECONDS:
            await self._read_in_turn()
        elif age > READ_AGAIN_SECONDS and (self._reading_again is None or self._reading_again.done()):
            self._reading_again = asyncio.create_task(self._read_in_turn())
        if self._keys is None or self._clock() - self._read_at > GOOD_SECONDS:
            raise KeysUnavailable("the issuer's keys are not available now; try again")
        return self._choose(key_id)

    async def _read_in_turn(self) -> None:
        """Reads the keys, unless another caller has just tried to."""
        async with self._reading:
            if self._clock() - self._tried_at >= READ_INTERVAL_SECONDS:
                await self._read()

    def _choose(self, key_id: object) -> VerificationKey | None:
        keys = self._keys or {}
        if key_id is None and len(keys) == 1:
            return next(iter(keys.values()))
        return keys.get(key_id) if isinstance(key_id, str) else None

    async def _read(self) -> None:
        self._tried_at = self._clock()
        client: AsyncHTTPClient = SimpleAsyncHTTPClient(force_instance=True, max_body_size=KEY_SET_LIMIT_BYTES)
        try:
            answer = await client.fetch(self._url, request_timeout=READ_DEADLINE_SECONDS, follow_redirects=False)
            self._keys = _key_set(json.loads(answer.body), self._algorithm)
            self._read_at = self._clock()
        except (HTTPError, OSError, ValueError, RecursionError) as error:
            # The earlier keys stay for a while. Not every error has a message; ours never repeat the URL.
            logger.warning("could not read the keys of %s: %s", _shown(self._url), str(error) or type(error).__name__)
        finally:
            client.close()


def _shown(url: str) -> str:
    """The URL without its user, password and query, which may be secret."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _key_set(parsed: Any, algorithm: str) -> dict[str | None, VerificationKey]:
    """Parses a key set; skips keys that cannot be used. Raises ValueError if it is not a key set."""
    if not isinstance(parsed, dict) or not isinstance(parsed.get("keys"), list):
        raise ValueError("it is not a JSON Web Key Set")
    keys: dict[str | None, VerificationKey] = {}
    for one in parsed["keys"]:
        if not isinstance(one, dict) or one.get("use", "sig") != "sig" or one.get("alg", algorithm) != algorithm:
            continue
        try:
            keys[one.get("kid")] = _checked(jwt.PyJWK(one, algorithm).key, algorithm)
        except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
            continue
    return keys


def _secret(content: bytes) -> VerificationKey:
    secret = content.strip()
    if len(secret) < SECRET_LEAST_BYTES:
        raise ValueError(
            f"a secret for HS256 needs at least {SECRET_LEAST_BYTES} bytes: openssl rand -hex 32 makes one"
        )
    return secret


def _public_key(content: bytes, algorithm: str) -> VerificationKey:
    if b"PRIVATE KEY" in content:
        raise ValueError("it is the issuer's private key, which this server must not have; use the public key")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it is not a public key in PEM, which begins with -----BEGIN PUBLIC KEY-----") from None
    return _checked(key, algorithm)


def _checked(key: object, algorithm: str) -> VerificationKey:
    if algorithm == "RS256" and isinstance(key, RSAPublicKey):
        if key.key_size < RSA_LEAST_BITS:
            raise ValueError(f"an RSA key needs at least {RSA_LEAST_BITS} bits")
        return key
    if algorithm == "ES256" and isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key
    raise ValueError(f"it is not a public key for {algorithm}")
