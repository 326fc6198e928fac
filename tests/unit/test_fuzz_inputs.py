"""Any text where a setting, a cursor, a filter, a payload, a header, a cookie or a file of tokens is expected.

FUZZ_EXAMPLES is how many of each, 100 without it.
"""

# ruff: noqa: PT017  # whether anything is raised is what is not known

import asyncio
import base64
import json
import os
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from changefeed.change.change import ACTIONS, Change, parse_payload
from changefeed.change.json_text import NotJSON
from changefeed.counts.tally import Tally
from changefeed.hub import Hub
from changefeed.journal.cursor import NotACursor, Place, Snapshot, decode, encode
from changefeed.journal.journal import VERSION, ForeignCursor, Journal
from changefeed.journal.sealed_cursor import NO_HOLDER, Seal
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.rights import EVERY_TABLE, Rights
from changefeed.selection.subscription import BadSubscription, Selection, Subscription
from handlers.access.authentication import COOKIE, Authenticator
from handlers.access.ended_sessions import EndedSessions
from handlers.access.errors import ApiError
from handlers.access.forwarded import apply_forwarded_headers
from handlers.access.refusals import Refusals
from handlers.access.tokens import BadToken, Tokens, load_tokens
from handlers.feed.query import FeedQuery, fields_of_message, parse_stream_query
from process.shared_numbers import SharedNumbers
from settings.sources import load_settings
from settings.table import SETTINGS, SettingsError

settings.register_profile(
    "inputs",
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
fuzz = settings.get_profile("inputs")

NOWHERE = Path("/nonexistent")
# Half a character and a zero byte included; a flag or a variable of the system has none of these two.
TEXTS = st.text(max_size=40)
SYSTEM_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
NEAR_MISSES = st.sampled_from(
    [
        "~nobody-of-this-name",
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        "1" * 5000,
        "٣",
        "1_000",
        " ",
        "=",
        "postgresql://",
        "host='",
        "://",
        "[::",
        "*",
    ]
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)
DEEP = "[" * 100_000
SECRET = "hunter2-Zq"


def is_one_line(text: str) -> bool:
    return len(text.splitlines()) == 1


# -- settings


@st.composite
def given_settings(draw: st.DrawFn) -> tuple[list[str], dict[str, str]]:
    argv: list[str] = []
    environ: dict[str, str] = {}
    for setting in draw(st.lists(st.sampled_from(SETTINGS), min_size=1, max_size=4)):
        text = draw(SYSTEM_TEXTS | NEAR_MISSES)
        if draw(st.booleans()):
            environ[setting.variable] = text
        else:
            argv += [setting.flag, text] if setting.metavar else [setting.flag]
    return argv + draw(st.lists(SYSTEM_TEXTS, max_size=1)), environ


def load_or_say(argv: list[str], environ: dict[str, str], dotenv: Path = NOWHERE) -> str:
    """What is said where they are none."""
    try:
        loaded = load_settings(argv, environ, dotenv)
        load_tokens(loaded)
    except SettingsError as error:
        return str(error)
    except SystemExit as ended:  # --help and --version are somebody's text too
        assert not ended.code
    return ""


@fuzz
@given(given_settings())
@example((["--data-dir", "1" * 5_000], {}))
@example((["--token-file", "~nobody-of-this-name/tokens"], {}))
@example((["--address", "1\n2"], {}))
def test_any_flags_and_variables_are_settings_or_one_line(given_ones: tuple[list[str], dict[str, str]]):
    argv, environ = given_ones
    assume(not {"-h", "--help", "--version"} & set(argv))
    said = load_or_say(argv, environ)
    assert not said or is_one_line(said), said


@fuzz
@given(st.sampled_from([setting for setting in SETTINGS if setting.is_secret]), SYSTEM_TEXTS, st.booleans())
def test_a_secret_is_not_repeated_however_it_is_spoilt(setting: Any, around: str, is_flag: bool):
    text = around[:20] + SECRET + around[20:]
    said = load_or_say([setting.flag, text], {}) if is_flag else load_or_say([], {setting.variable: text})
    assert SECRET not in said
    assert SECRET not in load_or_say([f"{setting.flag}x", text], {})


@fuzz
@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from(SETTINGS).flatmap(lambda one: st.tuples(st.just(one.variable), TEXTS))).map(
        lambda lines: "\n".join(f"{name}={text}" for name, text in lines).encode("utf-8", "surrogatepass")
    )
)
@example(b"DATABASE_URL='unfinished\nTOKEN=x")
def test_any_file_of_settings_is_settings_or_one_line(content: bytes):
    with tempfile.TemporaryDirectory() as folder:
        dotenv = Path(folder) / ".env"
        dotenv.write_bytes(content)
        said = load_or_say([], {}, dotenv)
        assert not said or is_one_line(said), said


@fuzz
@given(
    st.binary(max_size=200)
    | st.lists(st.tuples(SYSTEM_TEXTS, JSON_VALUES), max_size=4).map(
        lambda lines: "\n".join(f"{SECRET}{token} {json.dumps(rights)}" for token, rights in lines).encode(
            "utf-8", "replace"
        )
    )
)
@example(f"{SECRET}-of-enough-characters {DEEP}".encode())
def test_any_file_of_tokens_is_tokens_or_one_line_without_them(content: bytes):
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        tokens.write_bytes(content)
        said = load_or_say(["--token-file", str(tokens)], {})
        assert not said or is_one_line(said), said
        assert SECRET not in said


# -- cursors


NARROW = Rights.parse({"tables": {"public.orders": {}}}).tables


def journal_of(epoch: bytes, key: bytes = b"k" * 32) -> Journal:
    made = Journal(None)  # type: ignore[arg-type]  # reads nothing
    made.epoch, made._seal, made.version = epoch, Seal(key), VERSION
    return made


@fuzz
@given(
    TEXTS | st.from_regex(r"\A[0-9a-f]{1,16}\.[A-Za-z0-9_-]{8,60}\Z") | TEXTS.map(lambda text: "s." + text),
    st.booleans(),
)
def test_any_text_is_a_cursor_or_is_refused_as_none(text: str, is_restricted: bool):
    try:
        journal_of(b"123456").decode(text, NARROW if is_restricted else EVERY_TABLE)
    except (NotACursor, ForeignCursor) as error:
        assert is_one_line(str(error))


@fuzz
@given(st.integers(1, 2**40), st.integers(0, 100), st.integers(0, 2**62))
def test_a_sealed_cursor_opens_for_its_own_journal_only(xmin: int, span: int, change_id: int):
    place = Place.after(Snapshot(xmin, xmin + span))
    journal = journal_of(b"123456")
    sealed = journal.seal_for(NARROW)(encode(b"123456", Place(place.previous, place.batch, change_id)))
    assert journal.decode(sealed, NARROW).id == change_id
    for other, within in (
        (journal_of(b"654321"), NARROW),
        (journal_of(b"123456", b"o" * 32), NARROW),
        (journal, EVERY_TABLE),
        (journal, Rights.parse({"tables": {"public.orders": {"columns": ["id"]}}}).tables),
    ):
        with pytest.raises(ForeignCursor):
            other.decode(sealed, within)


def test_an_older_servers_sealed_cursor_needs_its_epoch():
    journal = journal_of(b"123456")
    journal._former_epoch = b"former"
    place = replace(Place.after(Snapshot(5, 6)), id=7)
    former, newer = (Seal(b"k" * 32).seal(encode(epoch, place), NO_HOLDER) for epoch in (b"former", b"123456"))
    assert journal.decode(former, NARROW).id == 7
    with pytest.raises(ForeignCursor):
        journal.decode(newer, NARROW)


@fuzz
@given(st.binary(max_size=100))
def test_forged_cursors_are_a_place_or_refused(rest: bytes):
    packed = b"\x01" + b"123456" + rest
    text = "1." + base64.urlsafe_b64encode(packed + zlib.crc32(packed).to_bytes(4, "big")[:3]).rstrip(b"=").decode()
    try:
        _, place = decode(text)
    except NotACursor:
        return
    for snapshot in (place.previous, place.batch):
        assert 0 < snapshot.xmin <= snapshot.xmax < 2**64
        assert all(snapshot.xmin <= xid < snapshot.xmax for xid in snapshot.xip)


# -- subscriptions and filters

FILTERS = st.builds(
    lambda column, negation, operator, operand: f"{column}={negation}{operator}.{operand}",
    st.sampled_from(["n", '"n"', "", "ä"]) | TEXTS,
    st.sampled_from(["", "not."]),
    st.sampled_from(["eq", "neq", "lt", "lte", "gt", "gte", "in", "is", "like", "nonsense"]),
    TEXTS
    | NEAR_MISSES
    | st.sampled_from(["(1,2)", '("a', "null", "%%*_\\", "1e999999999", "-Infinity", "sNaN", "2026-99-99", "0" * 9000]),
)
GROUPS = st.builds(
    lambda word, parts, end: f"{word}=({','.join(parts)}{end}",
    st.sampled_from(["or", "and", "not.or"]),
    st.lists(
        st.recursive(
            FILTERS.map(lambda text: text.replace("=", ".", 1)) | TEXTS,
            lambda parts: st.builds("{}({},{})".format, st.sampled_from(["or", "not.and"]), parts, parts),
            max_leaves=5,
        ),
        max_size=3,
    ),
    st.sampled_from([")", "", ")x"]),
)
VALUES = st.sampled_from(
    [
        "null",
        "true",
        "1",
        "-0",
        "1e400",
        "1" * 5000,
        '""',
        '"x"',
        "[]",
        "{}",
        '"infinity"',
        '"\\ud800"',
        '"NaN"',
        '"\\u0000"',
    ]
) | JSON_VALUES.map(json.dumps)


@fuzz
@given(st.lists(FILTERS | GROUPS, min_size=1, max_size=2), st.sampled_from([None, *Kind]), VALUES, VALUES)
def test_any_filter_is_refused_or_never_raises(filters: list[str], kind: Kind | None, new: str, old: str):
    try:
        asked = Subscription.parse({"filter": filters})
    except BadSubscription as error:
        assert is_one_line(str(error))
        return
    columns = dict.fromkeys(("n", "ä"), kind) if kind else None
    selection = Selection(asked, lambda table: columns)
    for action in ACTIONS:
        text = f'{{"table": "t", "action": "{action}", "data": {{"n": {new}, "ä": {new}}}, "old": {{"n": {old}}}}}'
        selection.pick([Change(text, "t", action)])
        selection.pick([Change(f'{{"table": "t", "action": "{action}", "data": {new}}}', "t", action)])


@fuzz
@given(
    st.dictionaries(
        st.sampled_from(["table", "action", "filter", "columns", "since", "replay", "slow", "tabel"]) | TEXTS,
        st.lists(TEXTS | NEAR_MISSES | FILTERS | GROUPS, max_size=3),
    )
)
def test_any_query_is_a_subscription_or_refused(fields: dict[str, list[str]]):
    try:
        assert isinstance(parse_stream_query(fields, Rights(EVERY_TABLE)), FeedQuery)
    except ApiError as error:
        assert error.status_code == 400
        assert is_one_line(error.message)


@fuzz
@given(st.dictionaries(st.sampled_from(["type", "table", "filter", "replay"]) | TEXTS, JSON_VALUES))
def test_any_message_is_fields_or_refused(message: dict[str, Any]):
    try:
        fields_of_message(message)
    except ApiError as error:
        assert error.status_code == 400
        assert is_one_line(error.message)


# -- payloads of plain triggers

PAYLOADS = (
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=100)
    | JSON_VALUES.map(json.dumps)
    | st.builds(
        lambda table, action, data: f'{{"table": {table}, "action": {action}, "data": {data}}}',
        VALUES,
        st.sampled_from([f'"{action}"' for action in ACTIONS]) | VALUES,
        VALUES,
    )
)


@fuzz
@given(PAYLOADS)
@example(DEEP)
@example('{"table": "t", "action": "INSERT", "data": ' + DEEP)
@example('{"table": "t", "action": "INSERT", "data": {"n": ' + "9" * 7000 + "}}")
@example('{"table": "\\ud800", "action": "INSERT", "data": {"n": "\\u0000\\udfff"}}')
@example('{"table": "t", "action": "INSERT", "data": 1e999999}')
def test_any_payload_is_published_or_counted(payload: str):
    published: list[str] = []
    hub = Hub(Tally(0.0), [lambda changes, cursor: published.extend(change.text for change in changes)])
    hub._complained_at = float("inf")  # what it would log is another test's
    hub.receive([payload, '{"table": "t", "action": "INSERT", "data": {}}'])
    assert hub.tally.not_json + len(published) == 2
    assert published[-1] == '{"table": "t", "action": "INSERT", "data": {}}'
    try:
        change = parse_payload(payload)
    except NotJSON:
        return
    asked = Subscription.parse({"table": ["t"], "filter": ["n=gt.1"], "columns": ["n"]})
    for picked in Selection(asked, lambda table: {"n": Kind.NUMBER}).pick([change]):
        json.loads(picked.text, parse_int=str)


# -- what is said of a client


class Connection:
    """What HTTPServerRequest looks at."""

    class context:
        remote_ip = "127.0.0.1"
        protocol = "http"


def request(headers: dict[str, str]) -> HTTPServerRequest:
    line = RequestStartLine("GET", "/", "HTTP/1.1")
    made = HTTPServerRequest(headers=HTTPHeaders({"Host": "localhost"}), connection=Connection(), start_line=line)  # type: ignore[arg-type]
    for name, value in headers.items():
        made.headers[name] = value
    return made


HEADER_VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60)
TRUSTED = load_settings(["--trusted-proxies", "127.0.0.0/8", "--allow-anonymous"], {}, NOWHERE).trusted_proxies


@fuzz
@given(
    HEADER_VALUES
    | st.lists(st.sampled_from(["127.0.0.1", "::1", "10.0.0.1", "", "1.2.3.4:5", "[::1]", "unknown"])).map(",".join),
    HEADER_VALUES,
)
@example("fe80::1%eth0, ::ffff:127.0.0.1", "HTTPS ")
def test_any_forwarded_header_yields_an_address_and_a_scheme(forwarded_for: str, scheme: str):
    asked = request({"X-Forwarded-For": forwarded_for, "X-Forwarded-Proto": scheme})
    apply_forwarded_headers(asked, TRUSTED)
    assert asked.remote_ip
    assert asked.protocol in ("http", "https")


@fuzz
@given(HEADER_VALUES, st.booleans())
@example("Bearer " + "a." * 5_000, True)
@example(f"{COOKIE}=2|1:0|10:1700000000|18:{COOKIE}|4:e30=|abc", False)
def test_any_authorization_and_any_cookie_are_answered_with_401(value: str, is_header: bool):
    gate = Authenticator(
        Tokens([("the-token-of-the-settings", Rights())]), "secret", Refusals(SharedNumbers()), EndedSessions()
    )
    headers = {"Authorization": value} if is_header else {"Cookie": f"{COOKIE}={value}"}
    try:
        asyncio.run(gate.identify(request(headers)))
    except ApiError as error:
        assert error.status_code == 401
        assert is_one_line(error.message)
    else:
        raise AssertionError("let in")


@fuzz
@given(TEXTS)
@example("\ud800")
@example("a." * 5_000)
def test_any_text_is_no_token(token: str):
    tokens = load_tokens(load_settings(["--token", "the-token-of-the-settings"], {}, NOWHERE))
    try:
        asyncio.run(tokens.identify(token))
    except BadToken as error:
        assert is_one_line(str(error))
    else:
        raise AssertionError("let in")
