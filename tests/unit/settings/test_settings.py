"""Settings from flags, environment and .env: which wins, and what is refused in one line."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from changefeed import __version__
from settings.sources import load_settings
from settings.table import GROUPS, SETTINGS, Setting, Settings, SettingsError
from tests.server_process import SERVER

# For each setting two texts it may have, of two values, and one it may not.
SAMPLES = {
    "port": ("81", "82", "65536"),
    "address": ("::1", "127.0.0.2", " "),
    "database_url": ("postgresql://one/db", "host=two", "one/db"),
    "database_wait_seconds": ("0", "1.5", "nan"),
    "data_dir": ("/one", "~/two", __file__),
    "demo_rate": ("100", "0.5", "-1"),
    "echo": ("yes", "off", "maybe"),
    "log_format": ("json", "text", "xml"),
    "allow_origin": ("https://One.example.com", "*", "one.example.com"),
    "tls_cert": ("/one", "~/two", "/"),
    "tls_key": ("/one", "~/two", "/"),
    "allow_host": ("One.example.com", "[::2]", "http://one.example.com"),
    "trusted_proxies": ("10.0.0.0/8", "::1", "10.0.0.1/8"),
    "base_path": ("/feed", "/a/b/", "feed"),
    "allow_anonymous": ("1", "false", "2"),
    "token": ("0123456789abcdef", "of.forty_~+/=-characters", "0123456789abcde"),
    "token_file": ("/one", "~/two", "/"),
    "jwt_algorithm": ("HS256", "RS256", "none"),
    "jwt_key_file": ("/one", "~/two", "/"),
    "jwt_jwks_url": ("https://one.example.com/keys", "http://localhost:1/", "http://one.example.com/keys"),
    "jwt_audience": ("one", "two", " "),
    "jwt_issuer": ("one", "two", " "),
    "session_secret": ("one" * 12, "two" * 12, "short"),
    "outbox_limit_bytes": ("1024", "2048", "1023"),
    "processes": ("1", "4", "0"),
    "client_limit": ("1", "500", "0"),
    "client_limit_per_address": ("0", "20", "-1"),
    "client_limit_per_token": ("0", "20", "-1"),
    "clients_per_second": ("0", "20", "-1"),
    "clients_per_second_per_address": ("0", "20", "-1"),
    "sign_in_limit": ("1", "20", "0"),
    "request_limit": ("1", "20", "0"),
    "unread_limit_bytes": ("1048576", "2097152", "1000"),
    "client_messages_per_second": ("1", "20", "0"),
    "client_bytes_per_second": ("1", "20", "0"),
    "rows_limit": ("1", "20", "0"),
    "rows_limit_bytes": ("1048576", "2097152", "1000"),
    "rows_seconds": ("0.5", "20", "0"),
    "rows_readings": ("1", "20", "0"),
    "request_seconds": ("0.5", "20", "0"),
    "waiting_connection_limit": ("1", "20", "0"),
    "watch": ("public.orders", "sales.*", "orders"),
    "payload": ("keys", "off", "some"),
    "row_limit_bytes": ("1024", "1073741824", "1023"),
    "trust_owner": ("app", "Odd Role", " "),
    "channels": ("people", "chat_*", "changefeed*"),
    "no_plain_channel": ("yes", "no", "some"),
    "upgrade_schema": ("yes", "no", "some"),
    "retention_hours": ("0.5", "48", "0"),
    "retention_bytes": ("1048576", "2097152", "1048575"),
    "alert": ("no INSERT in public.orders for 5 min", "more than 100 INSERT/s", "no INSERTs in orders"),
    "alert_webhook": ("https://hooks.example.com/one", "http://[::1]:81/", "hooks.example.com"),
}
BEHIND_A_PROXY = ("allow_host", "trusted_proxies", "base_path")
SOURCES = ("flag", "environment", ".env")

each_setting = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)


@pytest.fixture
def dotenv(tmp_path: Path) -> Path:
    return tmp_path / ".env"


class Given:
    """One setting's text from each source that gives it."""

    def __init__(self, setting: Setting, texts: Mapping[str, str], dotenv: Path) -> None:
        flag_text = texts.get("flag")
        is_switch = not setting.metavar
        self.argv = [] if flag_text is None else [setting.flag] if is_switch else [setting.flag, flag_text]
        if setting.name in BEHIND_A_PROXY:
            self.argv.append("--allow-anonymous")
        self.environ = {setting.variable: texts["environment"]} if "environment" in texts else {}
        self.dotenv = dotenv
        if ".env" in texts:
            dotenv.write_text(f"{setting.dotenv_variable or setting.variable}='{texts['.env']}'\n")

    def load(self) -> Settings:
        return load_settings(self.argv, self.environ, self.dotenv)


def value(setting: Setting, text: str) -> Any:
    return (setting.parse(text),) if setting.is_repeatable else setting.parse(text)


def test_every_setting_has_its_samples_here():
    assert set(SAMPLES) == {setting.name for setting in SETTINGS}


@each_setting
def test_without_any_source_a_setting_has_its_default(setting: Setting, dotenv: Path):
    assert getattr(load_settings([], {}, dotenv), setting.name) == setting.default


@each_setting
@pytest.mark.parametrize("winner", SOURCES)
def test_a_source_wins_over_all_below_it(setting: Setting, winner: str, dotenv: Path):
    one, other, _ = SAMPLES[setting.name]
    below = SOURCES[SOURCES.index(winner) + 1 :]
    given = Given(setting, {winner: one, **dict.fromkeys(below, other)}, dotenv)
    assert getattr(given.load(), setting.name) == value(setting, one)
    assert value(setting, one) != value(setting, other)


@each_setting
def test_an_empty_variable_is_not_given(setting: Setting, dotenv: Path):
    assert getattr(Given(setting, {"environment": "", ".env": ""}, dotenv).load(), setting.name) == setting.default


@pytest.mark.parametrize(
    "setting", [setting for setting in SETTINGS if setting.metavar], ids=lambda setting: setting.name
)
def test_an_empty_flag_is_refused(setting: Setting, dotenv: Path):
    with pytest.raises(SettingsError, match=rf"^{setting.flag}: "):
        load_settings([setting.flag, ""], {}, dotenv)


@pytest.mark.parametrize(
    ("setting", "source"),
    [
        pytest.param(setting, source, id=f"{setting.name}-{source}")
        for setting in SETTINGS
        for source in SOURCES
        if setting.metavar or source != "flag"  # a switch has no value
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_its_source(setting: Setting, source: str, dotenv: Path):
    given = Given(setting, {source: SAMPLES[setting.name][2]}, dotenv)
    name = {
        "flag": setting.flag,
        "environment": setting.variable,
        ".env": f"{setting.dotenv_variable or setting.variable} in .env",
    }[source]
    with pytest.raises(SettingsError) as refused:
        given.load()
    assert str(refused.value).startswith(f"{name}: ")
    assert setting.parse.expected in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "1.5", "-1", "8o", "9" * 5000, "٣x"])
def test_a_port_is_a_whole_number(text: str, dotenv: Path):
    with pytest.raises(SettingsError, match="a whole number from 0 to 65535"):
        load_settings(["--port", text], {}, dotenv)


def test_repeatable_settings_are_lists_with_commas(dotenv: Path):
    both = ("https://a.example.com", "https://b.example.com")
    assert load_settings(["--allow-origin", both[0], "--allow-origin", both[1]], {}, dotenv).allow_origin == both
    assert load_settings([], {"ALLOW_ORIGIN": ", ".join(both)}, dotenv).allow_origin == both


# -- the file


def test_dotenv_syntax_is_understood(dotenv: Path):
    dotenv.write_bytes(
        b"\xef\xbb\xbf# ours\r\nexport HTTP_PORT=81 # http\r\nDATABASE_URL='postgresql://u:p%23$a@h/d'\r\n"
    )
    settings = load_settings([], {}, dotenv)
    assert (settings.port, settings.database_url) == (81, "postgresql://u:p%23$a@h/d")


@pytest.mark.parametrize(("name", "meant"), [("DATABSE_URL", "DATABASE_URL"), ("DEMORATE", "DEMO_RATE"), ("host", "")])
def test_an_unknown_name_in_the_file_gets_a_suggestion(name: str, meant: str, dotenv: Path):
    dotenv.write_text(f"{name}=hunter2\n")
    hint = f"did you mean {meant}?" if meant else "see .venv/bin/python server.py --help"
    with pytest.raises(SettingsError, match=rf"^\.env: {name} is not a setting; {hint}"):
        load_settings([], {}, dotenv)


def test_a_file_in_another_encoding_is_refused(dotenv: Path):
    dotenv.write_bytes("DBNAME=Käse\n".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"^\.env cannot be read: "):
        load_settings([], {}, dotenv)


def test_what_the_environment_gave_is_known_by_name(dotenv: Path):
    environ = {"TOKEN": "0123456789abcdef", "WATCH": "public.*", "CHANNELS": "", "PORT": "81", "SHELL": "/bin/sh"}
    assert load_settings(["--port", "82"], environ, dotenv).from_environment == ("WATCH", "TOKEN")
    dotenv.write_text("WATCH=public.orders\n")
    assert load_settings([], {}, dotenv).from_environment == ()


@pytest.mark.parametrize(
    ("in_file", "environ", "names"),
    [
        ("DATABASE_URL=postgresql:///d\nHOST=h\nPORT=9000\n", {}, ("HOST", "PORT")),
        ("PORT=9000\n", {"DATABASE_URL": "postgresql:///d"}, ("PORT",)),
        ("HOST=h\nPGDATABASE=d\n", {"PGHOST": "/tmp"}, ("PGDATABASE", "HOST")),
        ("PGHOST=h\nPORT=9000\n", {}, ("PORT",)),
        ("HOST=h\nPORT=9000\n", {}, ()),
        ("DATABASE_URL=postgresql:///d\nPGPORT=9000\nHTTP_PORT=81\nPORT=\n", {}, ()),
    ],
)
def test_names_in_the_file_that_name_no_database_are_known(
    in_file: str, environ: dict[str, str], names: tuple[str, ...], dotenv: Path
):
    dotenv.write_text(in_file)
    assert load_settings([], environ, dotenv).without_effect == names


# -- help


def test_the_help_shows_every_setting_in_a_group_and_the_commands(dotenv: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        load_settings(["--help"], {}, dotenv)
    shown = capsys.readouterr().out
    titles = [shown.index(f"\n{title}:\n") for title in (*GROUPS, "commands")]
    assert titles == sorted(titles)
    assert all(f"\n  {setting.flag} " in shown for setting in SETTINGS)


def test_a_command_has_a_help_of_its_own(dotenv: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        load_settings(["--help"], {}, dotenv, command="doctor", description="Examines the database.")
    assert capsys.readouterr().out.startswith(
        "usage: .venv/bin/python server.py doctor [SETTING ...]\n\nExamines the database.\n"
    )


# -- slips


def test_a_bad_value_of_a_repeatable_flag_is_shown_as_it_was_typed(dotenv: Path):
    with pytest.raises(SettingsError, match=r"^--watch: 'orders' is not schema\.table"):
        load_settings(["--watch", "public.items", "--watch", "orders"], {}, dotenv)


def test_errors_need_no_docstrings():
    command = [sys.executable, "-OO", str(SERVER), "--demo-rate", "x"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert said == "server.py: --demo-rate: 'x' is not a number from 0 to 1000000\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--databse-url=x"], "--databse-url is not a setting; did you mean --database-url?"),
        (["--data"], "--data is not a setting; did you mean"),
        (["--zzz", "x"], "--zzz is not a setting; see .venv/bin/python server.py --help"),
        (["--data"], "? See .venv/bin/python server.py --help"),
        (["x"], "x is not a command; see .venv/bin/python server.py --help"),
        (["--hlep"], "--hlep is not a setting; did you mean --help?"),
        (["doctor-help"], "a value without a flag"),
        (["-help"], "did you mean --help?"),
        (["help"], "help is not a command; did you mean --help?"),
        (["--versoin"], "did you mean --version?"),
        (["docter"], "docter is not a command; did you mean doctor? See .venv/bin/python server.py --help"),
        (["docter", "--port", "1"], "docter is not a command"),
        (["postgresql://u:p@h/d"], "there is a value without a flag"),
        (["--port", "1", "hunter2"], "there is a value without a flag"),
        (["--port"], "expected one argument"),
        (["--echo=yes"], "--echo"),
    ],
)
def test_a_slip_in_the_flags_is_named(argv: list[str], said: str, dotenv: Path):
    with pytest.raises(SettingsError) as refused:
        load_settings(argv, {}, dotenv)
    assert said in str(refused.value)


def test_an_invalid_line_is_refused_by_its_number(dotenv: Path):
    dotenv.write_text("# ours\nHTTP_PORT=81\nDATABASE_URL\n")
    with pytest.raises(SettingsError, match=r"^\.env: line 3 does not have the form NAME=value"):
        load_settings([], {}, dotenv)


# -- what is shown to whom


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "::", "192.0.2.1", "db.example.com", "128.0.0.1", "localhost.example.com"]
)
def test_an_address_beyond_loopback_needs_allow_anonymous(address: str, dotenv: Path):
    with pytest.raises(SettingsError, match="--allow-anonymous"):
        load_settings(["--address", address], {}, dotenv)
    assert load_settings(["--address", address, "--allow-anonymous"], {}, dotenv).address == address


@pytest.mark.parametrize(
    "flag",
    [
        *("--allow-host=feed.example.com", "--allow-host=192.0.2.1", "--allow-host=[::2]", "--allow-host=feed"),
        *("--trusted-proxies=127.0.0.1", "--trusted-proxies=10.0.0.0/8", "--base-path=/feed"),
    ],
)
def test_a_proxy_in_front_needs_tokens_or_allow_anonymous(flag: str, dotenv: Path):
    name, _, text = flag.partition("=")
    with pytest.raises(SettingsError, match=r"require tokens .*add --allow-anonymous") as refused:
        load_settings([flag], {}, dotenv)
    assert f"{name} {text}" in str(refused.value)
    with pytest.raises(SettingsError):
        load_settings([], {name[2:].upper().replace("-", "_"): text}, dotenv)
    load_settings([flag, "--allow-anonymous"], {}, dotenv)
    load_settings([flag, "--token=0123456789abcdef"], {}, dotenv)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "[::1]", "shop.localhost"])
def test_a_name_that_leads_to_this_machine_needs_no_leave(host: str, dotenv: Path):
    assert load_settings(["--allow-host", host], {}, dotenv).allow_host == (host,)


@pytest.mark.parametrize("flag", ["--token=0123456789abcdef", "--token-file=/one", "--jwt-algorithm=RS256"])
def test_beyond_loopback_clients_need_a_token(flag: str, dotenv: Path):
    assert load_settings(["--address", "0.0.0.0", flag], {}, dotenv).asks_for_tokens


@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if setting.is_secret], ids=lambda one: one.name)
def test_a_secret_is_not_repeated(setting: Setting, dotenv: Path):
    with pytest.raises(SettingsError, match="the value given is not") as refused:
        load_settings([setting.flag, "hunter2/"], {}, dotenv)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_loopback_address_needs_no_leave(address: str, dotenv: Path):
    assert load_settings(["--address", address], {}, dotenv).address == address


@pytest.mark.parametrize("flag", ["--database-url", "--alert-webhook"])
def test_what_may_hold_a_password_is_not_repeated(flag: str, dotenv: Path):
    with pytest.raises(SettingsError) as refused:
        load_settings([flag, "x://hunter2/hunter2@hunter2"], {}, dotenv)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg2://me:hunter2@db/shop", "write postgresql://"),
        ("postgres+asyncpg://me:hunter2@db/shop", "write postgresql://"),
        ("jdbc:postgresql://db/shop?password=hunter2", "are for JDBC; write postgresql://"),
    ],
)
def test_a_foreign_url_gets_advice(url: str, said: str, dotenv: Path):
    with pytest.raises(SettingsError, match=r"^--database-url: ") as refused:
        load_settings(["--database-url", url], {}, dotenv)
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)


# -- the command line's own


def test_help_names_every_setting_and_its_default(
    dotenv: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "1000")  # or lines are broken at hyphens
    with pytest.raises(SystemExit) as ended:
        load_settings(["--help"], {}, dotenv)
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for setting in SETTINGS:
        assert f"{setting.flag} {setting.metavar}".strip() in said
        assert " ".join(setting.help.split()) in said
        default = f"{setting.default:g}" if isinstance(setting.default, float) else setting.default
        assert f"(default: {default})" in said or default in (None, (), False, "")


def test_version_is_the_programs(dotenv: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        load_settings(["--version"], {}, dotenv)
    assert capsys.readouterr().out == f"psqlisten2websocket {__version__}\n"
