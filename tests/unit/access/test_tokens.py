"""Tokens are accepted or refused by the algorithm and key of the settings alone."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tornado.httpserver import HTTPServer
from tornado.testing import ExpectLog, bind_unused_port
from tornado.web import Application, RequestHandler

from changefeed.selection.rights import ALL_RIGHTS, Rights
from handlers.access import jwks
from handlers.access.jwks import KeySetUrl, KeysUnavailable
from handlers.access.tokens import BadToken, Identity, Tokens, digest, load_tokens
from settings.sources import load_settings
from settings.table import SettingsError

SECRET = "a secret of the issuer, of at least 32 bytes"
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ORDERS = {"tables": {"orders": {}}}
# A limit, and the slip that would lift it.
TWICE = (
    '{"tables": {"orders": {"columns": ["id"], "filter": ["c=eq.1"]}, "orders": {}}}',
    '{"tables": {"orders": {}}, "tables": {"*": {}}}',
    '{"tables": {"orders": {"columns": ["id"], "columns": ["id", "secret"]}}}',
    '{"tables": {"orders": {"columns": ["id"], "c\\u006flumns": ["id", "secret"]}}}',
    '{"admin": false, "admin": true}',
)


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def claims(**more: Any) -> dict[str, Any]:
    return {"exp": time.time() + 60, "changefeed": ORDERS, **more}


class Given:
    """Settings of tokens, with the files they name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, name: str, content: bytes | str) -> str:
        path = self._folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def load(self, *flags: str) -> Tokens:
        return load_tokens(load_settings(flags, {}, self._folder / ".env"))

    def issued(self, algorithm: str, key: bytes | str, *flags: str) -> Tokens:
        return self.load("--jwt-algorithm", algorithm, "--jwt-key-file", self.file("key", key), *flags)


@pytest.fixture
def given(tmp_path: Path) -> Given:
    return Given(tmp_path)


def identify(tokens: Tokens, token: str) -> Identity:
    return asyncio.run(tokens.identify(token))


def refusal(tokens: Tokens, token: str) -> str:
    with pytest.raises(BadToken) as refused:
        identify(tokens, token)
    return f"{refused.value.code}: {refused.value}"


# -- of the settings


def test_without_settings_no_token_is_asked_for(given: Given):
    assert not given.load().are_required


def test_several_tokens_each_have_their_rights(given: Given):
    narrow = json.dumps(ORDERS)
    file = given.file("tokens", f"# for pages\nfor-narrow-clients {narrow}\n\n  for-the-operators  \n")
    tokens = given.load("--token", "one-of-the-flags", "--token", "another-of-the-flags", "--token-file", file)
    for token in ("one-of-the-flags", "another-of-the-flags", "for-the-operators"):
        assert identify(tokens, token) == Identity(ALL_RIGHTS, holder=digest(token))
    assert identify(tokens, "for-narrow-clients").rights == Rights.parse(ORDERS)
    for token in ("", "one-of-the-flag", "one-of-the-flags ", "# for pages", "{}"):
        assert refusal(tokens, token) == "bad_token: this server knows no such token"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the file has no token"),
        ("# none\n", "the file has no token"),
        ("good-enough-token\nhunter2\n", "line 2: expected a token of at least 16 characters"),
        ("good-enough-token hunter2", "line 1: expected the token's rights as JSON after it"),
        ('good-enough-token {"table": "orders"}', "line 1: expected the token's rights as JSON after it"),
        ("good-enough-token\ngood-enough-token {}", "a token is given twice"),
        *((f"good-enough-token {twice}", "is given twice") for twice in TWICE),
    ],
)
def test_a_file_without_tokens_is_refused_in_one_line(given: Given, content: str, said: str):
    with pytest.raises(SettingsError) as refused:
        given.load("--token-file", given.file("tokens", content))
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--token-file", "/nonexistent/file"], "cannot be read"),
        (["--token", "0123456789abcdef", "--allow-anonymous"], "use either --allow-anonymous or tokens"),
        (["--jwt-issuer", "me"], "--jwt-algorithm is missing"),
        (["--jwt-algorithm", "RS256"], "needs one of --jwt-key-file and --jwt-jwks-url"),
        (["--jwt-algorithm", "RS256", "--jwt-key-file", "/x", "--jwt-jwks-url", "https://x"], "needs one of"),
        (["--jwt-algorithm", "HS256", "--jwt-jwks-url", "https://x"], "use --jwt-key-file"),
        (["--jwt-algorithm", "HS256", "--jwt-key-file", "/nonexistent/file"], "cannot be read"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given: Given, flags: list[str], said: str):
    with pytest.raises(SettingsError, match=said):
        given.load(*flags)


@pytest.mark.parametrize(
    ("algorithm", "key", "said"),
    [
        ("HS256", b"short", "at least 32 bytes"),
        ("RS256", b"rubbish", "not a public key in PEM"),
        ("RS256", public_pem(EC), "not a public key for RS256"),
        ("ES256", public_pem(RSA), "not a public key for ES256"),
        ("ES256", public_pem(ec.generate_private_key(ec.SECP384R1())), "not a public key for ES256"),
        ("RS256", public_pem(rsa.generate_private_key(65537, 1024)), "at least 2048 bits"),
        (
            "RS256",
            RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "private key, which this server must not have",
        ),
    ],
)
def test_a_key_of_another_algorithm_is_refused(given: Given, algorithm: str, key: bytes, said: str):
    with pytest.raises(SettingsError, match=said):
        given.issued(algorithm, key)


# -- of an issuer


@pytest.mark.parametrize(
    ("algorithm", "signing", "checking"),
    [("HS256", SECRET, SECRET), ("RS256", RSA, public_pem(RSA)), ("ES256", EC, public_pem(EC))],
)
def test_a_token_has_the_rights_of_its_claim_until_it_expires(
    given: Given, algorithm: str, signing: Any, checking: bytes | str
):
    tokens = given.issued(algorithm, checking)
    said = claims()
    identity = identify(tokens, jwt.encode(said, signing, algorithm))
    assert (identity.rights, identity.expires_at) == (Rights.parse(ORDERS), said["exp"])


def test_a_token_without_the_claim_has_no_rights(given: Given):
    token = jwt.encode({"exp": time.time() + 60}, SECRET, "HS256")
    assert identify(given.issued("HS256", SECRET), token).rights == Rights()


@pytest.mark.parametrize(
    "said",
    [
        {"changefeed": None},
        {"changefeed": {"table": {}}},
        {"exp": None},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"exp": 10**400},
        {"nbf": 4e9},  # in 2096
        {"aud": "somebody else"},
    ],
)
def test_a_token_with_odd_claims_is_refused(given: Given, said: dict[str, Any]):
    token = jwt.encode(claims(**said), SECRET, "HS256")
    assert refusal(given.issued("HS256", SECRET), token).startswith("bad_token: ")


def signed(header: str, payload: str) -> str:
    parts = (base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in (header, payload))
    unsigned = ".".join(parts)
    signature = hmac.new(SECRET.encode(), unsigned.encode(), hashlib.sha256).digest()
    return f"{unsigned}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


@pytest.mark.parametrize("rights", TWICE)
def test_a_token_with_a_right_twice_is_refused(given: Given, rights: str):
    tokens = given.issued("HS256", SECRET)
    token = signed('{"alg": "HS256"}', f'{{"exp": {time.time() + 60}, "changefeed": {rights}}}')
    assert refusal(tokens, token).startswith("bad_token: ")
    for header, payload in (
        ('{"alg": "HS256", "alg": "HS256"}', f'{{"exp": {time.time() + 60}}}'),
        ('{"alg": "HS256"}', f'{{"exp": {time.time() - 60}, "exp": {time.time() + 60}}}'),
    ):
        assert refusal(tokens, signed(header, payload)).startswith("bad_token: ")


@pytest.mark.parametrize("deep", ["[" * 5_000, '{"a":' * 1_200, '{"exp": ' + "9" * 5_000 + "}", "NaN", "\ufeff{}"])
def test_a_token_of_odd_json_is_refused(given: Given, deep: str):
    tokens = given.issued("HS256", SECRET)
    assert refusal(tokens, signed(deep, "{}")).startswith("bad_token: ")
    assert refusal(tokens, signed('{"alg": "HS256"}', deep)).startswith("bad_token: ")


@pytest.mark.parametrize("odd", ["[]", "{}", "null", "true", '"soon"', "NaN", "-Infinity", "1e999", "[[1]]"])
@pytest.mark.parametrize("claim", ["exp", "nbf", "iat", "sub", "aud", "iss", "jti", "changefeed"])
def test_a_signed_claim_of_an_odd_type_raises_nothing_else(given: Given, claim: str, odd: str):
    tokens = given.issued("HS256", SECRET, "--jwt-audience", "us", "--jwt-issuer", "us")
    good = {"exp": time.time() + 60, "aud": "us", "iss": "us"}
    said = {name: json.dumps(value) for name, value in good.items()} | {claim: odd}
    payload = ", ".join(f'"{name}": {value}' for name, value in said.items())
    with suppress(BadToken):
        identify(tokens, signed('{"alg": "HS256"}', f"{{{payload}}}"))


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["MARK"]},
        {"crit": ["b64"], "b64": "MARK"},
        {"crit": ["b64"]},
        {"crit": ["MARK"], "MARK": 1},
        {"crit": "MARK"},
        {"crit": {"MARK": 1}},
        {"b64": False},
        {"alg": "MARK"},
        {"alg": ["MARK"]},
        {"alg": None, "MARK": 1},
        {"kid": "MARK"},
        {"kid": ["MARK"]},
        {"typ": "MARK", "cty": "MARK", "zip": "MARK", "jku": "https://MARK", "jwk": {"MARK": 1}, "x5u": "MARK"},
    ],
)
def test_a_refusal_repeats_no_unsigned_text(given: Given, header: dict[str, Any]):
    for tokens in (given.issued("HS256", SECRET), given.issued("RS256", public_pem(RSA))):
        assert "MARK" not in refusal(tokens, by_hand({"alg": "HS256", **header}, b"MARK"))


def test_an_expired_token_gets_the_reason(given: Given):
    token = jwt.encode(claims(exp=time.time() - 1), SECRET, "HS256")
    assert refusal(given.issued("HS256", SECRET), token).startswith("token_expired: ")


def test_a_token_that_never_expires_is_refused(given: Given):
    token = jwt.encode({"changefeed": ORDERS}, SECRET, "HS256")
    assert 'missing the "exp" claim' in refusal(given.issued("HS256", SECRET), token)


@pytest.mark.parametrize("name", ["aud", "iss"])
def test_audience_and_issuer_must_be_those_of_the_settings(given: Given, name: str):
    flags = ("--jwt-audience", "us") if name == "aud" else ("--jwt-issuer", "us")
    tokens = given.issued("HS256", SECRET, *flags)
    assert identify(tokens, jwt.encode(claims(**{name: "us"}), SECRET, "HS256")).rights.tables
    for other in ({name: "them"}, {}):
        assert refusal(tokens, jwt.encode(claims(**other), SECRET, "HS256")).startswith("bad_token: ")


def by_hand(header: dict[str, Any], signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims()).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_the_tokens_header_cannot_choose_the_algorithm(given: Given):
    by_rsa = given.issued("RS256", public_pem(RSA))
    for token in (
        by_hand({"alg": "none"}),
        by_hand({"alg": "None", "typ": "JWT"}),
        jwt.encode(claims(), SECRET, "HS256"),
        jwt.encode(claims(), RSA, "RS512"),
        jwt.encode(claims(), RSA, "PS256"),
        jwt.encode(claims(), EC, "ES256"),
        jwt.encode(claims(), OTHER_RSA, "RS256"),
        with_public_key_as_secret(),
    ):
        assert refusal(by_rsa, token).startswith("bad_token: ")
    assert refusal(given.issued("HS256", SECRET), by_hand({"alg": "none"})).startswith("bad_token: ")


def with_public_key_as_secret() -> str:
    """The forger has the public key, and signs as if it were a secret."""
    unsigned = by_hand({"alg": "HS256", "typ": "JWT"}).rpartition(".")[0]
    signature = hmac.new(public_pem(RSA), unsigned.encode(), hashlib.sha256).digest()
    return f"{unsigned}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "x" * 9000, "ä.ö.ü", "\x00"])
def test_what_is_no_token_at_all_is_refused(given: Given, token: str):
    assert refusal(given.issued("HS256", SECRET), token).startswith("bad_token: ")


# -- the issuer's key set


class KeySet(RequestHandler):
    """Answers while the event `answers` is set."""

    keys: ClassVar[list[dict[str, Any]]] = []
    answers = asyncio.Event()
    asked = 0
    status = 200

    async def get(self) -> None:
        KeySet.asked += 1
        await self.answers.wait()
        self.set_status(self.status)
        self.finish({"keys": self.keys})


def jwk(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), **({"kid": kid} if kid else {}), **more}


class Issuer:
    """An issuer's URL, and a clock that the tests set."""

    def __init__(self) -> None:
        self.now = 0.0
        KeySet.keys, KeySet.asked, KeySet.status, KeySet.answers = [], 0, 200, asyncio.Event()
        KeySet.answers.set()

    async def __aenter__(self) -> "Issuer":
        socket, port = bind_unused_port()
        self._server = HTTPServer(Application([("/keys", KeySet)], log_function=lambda handler: None))
        self._server.add_socket(socket)
        self.keys = KeySetUrl(f"http://127.0.0.1:{port}/keys", "RS256", lambda: self.now)
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._server.stop()
        await self._server.close_all_connections()


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_a_key_is_found_by_its_name_and_read_when_it_is_asked_for(loop: asyncio.Runner):
    async def run() -> None:
        async with Issuer() as issuer:
            KeySet.keys = [jwk(RSA, "one"), jwk(OTHER_RSA, "two")]
            assert KeySet.asked == 0
            found = await asyncio.gather(*(issuer.keys.find(name) for name in ("one", "two", "one")))
            assert [key.public_numbers() for key in found] == [  # type: ignore[union-attr]
                key.public_key().public_numbers() for key in (RSA, OTHER_RSA, RSA)
            ]
            assert KeySet.asked == 1
            assert await issuer.keys.find(None) is None  # which of two?

    loop.run(run())


def test_a_key_that_is_new_is_found_but_not_asked_for_too_often(loop: asyncio.Runner):
    async def run() -> None:
        async with Issuer() as issuer:
            KeySet.keys = [jwk(RSA, "one")]
            assert await issuer.keys.find("one")
            for _ in range(5):
                assert await issuer.keys.find("two") is None
            assert KeySet.asked == 1
            KeySet.keys = [jwk(RSA, "two")]
            issuer.now += jwks.READ_INTERVAL_SECONDS
            assert await issuer.keys.find("two")
            assert await issuer.keys.find("one") is None
            assert await issuer.keys.find(None)
            assert KeySet.asked == 2

    loop.run(run())


def test_a_key_that_the_issuer_revoked_is_refused(loop: asyncio.Runner):
    async def run() -> None:
        async with Issuer() as issuer:
            KeySet.keys = [jwk(RSA, "one")]
            assert await issuer.keys.find("one")
            KeySet.keys = []
            issuer.now += jwks.READ_AGAIN_SECONDS + 1
            assert await issuer.keys.find("one")  # meanwhile they are read again
            assert await issuer.keys.find("two") is None  # which waits for that
            assert await issuer.keys.find("one") is None
            assert KeySet.asked == 2

    loop.run(run())


def test_a_known_key_does_not_wait_for_its_issuer(loop: asyncio.Runner):
    async def run() -> None:
        async with Issuer() as issuer:
            KeySet.keys = [jwk(RSA, "one")]
            assert await issuer.keys.find("one")
            KeySet.answers.clear()
            issuer.now += jwks.READ_AGAIN_SECONDS + 1
            while KeySet.asked < 2:
                assert await issuer.keys.find("one")
                await asyncio.sleep(0)
            assert await issuer.keys.find("one")
            stranger = asyncio.create_task(issuer.keys.find("two"))
            assert await issuer.keys.find("one")
            assert not stranger.done()
            KeySet.answers.set()
            assert await stranger is None
            assert KeySet.asked == 2

    loop.run(run())


def test_keys_of_another_kind_or_use_are_none(loop: asyncio.Runner):
    async def run() -> None:
        async with Issuer() as issuer:
            secret = {"kty": "oct", "kid": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode()}
            KeySet.keys = [
                jwk(EC, "ec"),
                jwk(RSA, "enc", use="enc"),
                jwk(RSA, "other", alg="PS256"),
                secret,
                {**secret, "kid": "liar", "alg": "RS256"},
                {"kty": "RSA", "kid": "cut", "n": "!", "e": "AQAB"},
                jwk(rsa.generate_private_key(65537, 1024), "weak"),
                {},
            ]
            for name in ("ec", "enc", "other", "oct", "liar", "cut", "weak", None):
                assert await issuer.keys.find(name) is None, name

    loop.run(run())


def test_a_silent_issuer_is_logged_and_its_keys_stay(loop: asyncio.Runner):
    async def run() -> None:
        async with Issuer() as issuer:
            KeySet.status = 500
            with (
                ExpectLog("handlers.issuer_keys", "could not read the keys of .*: HTTP 500", level=30),
                pytest.raises(KeysUnavailable),
            ):
                await issuer.keys.find("one")
            KeySet.status, KeySet.keys = 200, [jwk(RSA, "one")]
            issuer.now += jwks.READ_INTERVAL_SECONDS
            assert await issuer.keys.find("one")
            KeySet.status = 500
            issuer.now += jwks.READ_AGAIN_SECONDS + 1
            with ExpectLog("handlers.issuer_keys", "could not read the keys of .*: HTTP 500", level=30) as told:
                while not told.matched:
                    assert await issuer.keys.find("one")
                    await asyncio.sleep(0)

    loop.run(run())


def test_keys_that_cannot_be_read_again_are_not_good_for_ever(loop: asyncio.Runner):
    async def run() -> None:
        async with Issuer() as issuer:
            KeySet.keys = [jwk(RSA, "one")]
            assert await issuer.keys.find("one")
            KeySet.status = 500
            with ExpectLog("handlers.issuer_keys", "could not read the keys of .*: HTTP 500"):
                issuer.now += jwks.GOOD_SECONDS
                assert await issuer.keys.find("one")
                issuer.now += jwks.READ_INTERVAL_SECONDS
                with pytest.raises(KeysUnavailable):
                    await issuer.keys.find("one")
            KeySet.status = 200
            issuer.now += jwks.READ_INTERVAL_SECONDS
            assert await issuer.keys.find("one")

    loop.run(run())


def test_the_secrets_of_the_issuer_s_url_are_not_logged(loop: asyncio.Runner, caplog: pytest.LogCaptureFixture):
    async def run() -> None:
        with (
            ExpectLog("handlers.issuer_keys", r"could not read the keys of https://localhost:1/keys: .+"),
            pytest.raises(KeysUnavailable),
        ):
            await KeySetUrl("https://user:hunter2@localhost:1/keys?key=hunter2", "RS256").find("one")

    loop.run(run())
    assert "hunter2" not in caplog.text


def test_unreadable_keys_are_retried_by_the_first_token(loop: asyncio.Runner):
    async def run() -> None:
        keys = KeySetUrl("http://127.0.0.1:1/keys", "RS256")
        with ExpectLog("handlers.issuer_keys", "could not read the keys of http://127.0.0.1:1/keys"):
            await keys.prepare()
        with ExpectLog("handlers.issuer_keys", "could not read the keys of"), pytest.raises(KeysUnavailable):
            await keys.find("one")

    loop.run(run())
