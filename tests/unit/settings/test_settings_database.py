"""How the settings name a database: a URL, libpq's variables, the original's; and that no password is ever repeated."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn

from settings.sources import LIBPQ_VARIABLES, load_settings
from settings.table import SettingsError
from settings.values import BadValue, conninfo


@pytest.fixture
def dotenv(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def database_of(
    dotenv: Path, in_file: str = "", environ: Mapping[str, str] | None = None, argv: Sequence[str] = ()
) -> dict[str, str] | None:
    dotenv.write_text(in_file)
    conninfo = load_settings(argv, environ or {}, dotenv).database_url
    return None if conninfo is None else parse_dsn(conninfo)


@pytest.mark.parametrize("source", ["environment", ".env"])
def test_libpqs_variables_name_a_database(source: str, dotenv: Path):
    values = {variable: f"{keyword} '\\ value" for variable, keyword in LIBPQ_VARIABLES.items()} | {
        "PGPORT": "5433,5434"
    }
    expected = {LIBPQ_VARIABLES[variable]: text for variable, text in values.items()}
    if source == "environment":
        assert database_of(dotenv, environ=values) == expected
    else:
        assert database_of(dotenv, "".join(f"{name}={text}\n" for name, text in values.items())) == expected


@pytest.mark.parametrize("variable", ["PGPASSWORD", "PGSSLMODE", "PGOPTIONS", "PGPASSFILE"])
def test_a_variable_that_names_no_database_makes_none(variable: str, dotenv: Path):
    assert database_of(dotenv, environ={variable: "x"}) is None
    assert database_of(dotenv, f"{variable}=x\n") is None


def test_the_originals_names_in_the_file_name_the_database(dotenv: Path):
    in_file = "HOST=db.example.com\nPORT=5433\nUSER=me\nPASSWORD=se$cret#1\nDBNAME=shop\n"
    dotenv.write_text(in_file)
    settings = load_settings([], {}, dotenv)
    assert parse_dsn(settings.database_url or "") == {
        "host": "db.example.com",
        "port": "5433",
        "user": "me",
        "password": "se$cret#1",
        "dbname": "shop",
    }
    assert settings.port == 8080


def test_the_originals_names_mean_nothing_in_the_environment(dotenv: Path):
    environ = {"HOST": "db.example.com", "USER": "me", "PASSWORD": "secret", "DBNAME": "shop"}
    assert load_settings([], environ, dotenv) == load_settings([], {}, dotenv)


def test_port_means_different_things_by_source(dotenv: Path):
    dotenv.write_text("PORT=5433\nHTTP_PORT=8082\n")
    assert load_settings([], {"PORT": "8081", "HTTP_PORT": "8083"}, dotenv).port == 8081
    assert load_settings([], {"HTTP_PORT": "8083"}, dotenv).port == 8082
    assert database_of(dotenv, "PORT=5433\n", {"PORT": "8081"}) == {"port": "5433"}


def test_the_nearest_source_of_a_database_is_used_alone(dotenv: Path):
    in_file = "HOST=original\nPASSWORD=original\nPGHOST=file\nPGPASSWORD=file\nDATABASE_URL=host=file_url\n"
    environ = {"PGHOST": "environment", "DATABASE_URL": "host=environment_url"}
    assert database_of(dotenv, in_file, environ, ["--database-url", "host=flag"])["host"] == "flag"
    assert database_of(dotenv, in_file, environ)["host"] == "environment_url"
    assert database_of(dotenv, in_file, {"PGHOST": "environment"})["host"] == "environment"
    assert database_of(dotenv, in_file)["host"] == "file_url"
    without_url = in_file.replace("DATABASE_URL", "#")
    assert database_of(dotenv, without_url) == {"host": "file", "password": "file"}
    assert database_of(dotenv, "HOST=original\nPASSWORD=original\n") == {"host": "original", "password": "original"}


@pytest.mark.parametrize(
    ("url", "environ", "password"),
    [
        ("postgresql://me@db.example.com/shop", {}, "file"),
        ("host=db.example.com", {}, "file"),
        ("postgresql://me:url@db.example.com/shop", {}, "url"),
        ("postgresql://me@db.example.com/shop", {"PGPASSWORD": "environment"}, None),  # which libpq itself reads
        ("service=shop", {}, None),  # whose file may say another
    ],
)
def test_what_a_url_leaves_open_libpqs_variables_in_the_file_say(
    url: str, environ: dict[str, str], password: str | None, dotenv: Path
):
    in_file = "PGPASSWORD=file\nPGHOST=elsewhere\nPGDATABASE=elsewhere\n"
    for told in (
        database_of(dotenv, f"{in_file}DATABASE_URL={url}", environ),
        database_of(dotenv, in_file, {**environ, "DATABASE_URL": url}),
        database_of(dotenv, in_file, environ, ["--database-url", url]),
    ):
        assert told == {**parse_dsn(url), **({"password": password} if password else {})}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:p%40%2Fw@db.example.com:5432/shop?sslmode=require",
        "postgres://db.example.com",
        "postgresql:///shop?host=/run/postgresql",
        "postgresql://[::1]:5432/shop",
        "postgresql://a:1,b:2/shop?target_session_attrs=read-write&application_name=x@y",
        "host=db.example.com password='a@b/c' port=5432",
        "service=shop",
    ],
)
def test_libpqs_syntax_is_accepted(url: str, dotenv: Path):
    assert load_settings(["--database-url", f" {url}\n"], {}, dotenv).database_url == url


SECRET = "postgresql://me:hunter2@db.example.com:port/shop"


@pytest.mark.parametrize(
    ("argv", "environ", "in_file"),
    [
        (["--database-url", SECRET], {}, ""),
        (["--databse-url", SECRET.replace(":port", "")], {}, ""),
        (["--databse-url=" + SECRET.replace(":port", "")], {}, ""),
        ([SECRET], {}, ""),
        (["--database-url", "postgresql://me:x@hunter2@db.example.com/shop"], {}, ""),
        (["--database-url", "postgresql://me:1/hunter2@db.example.com/shop"], {}, ""),
        (["--database-url", "host=h password=hunter2 nonsense"], {}, ""),
        (["--database-url", "password='hunter2"], {}, ""),
        ([], {"DATABASE_URL": SECRET.replace("://", ":/")}, ""),
        ([], {}, f"DATABASE_URL={SECRET.replace('://', ':/')}"),
        ([], {}, f"DATABASE_URL {SECRET}"),
        ([], {}, f"DATABASE_URL: {SECRET}"),
        ([], {}, SECRET),
        ([], {}, "PASSWORT=hunter2"),
        ([], {}, "DATABASE_URL='hunter2"),
        ([], {"PGHOST": "h", "PGPORT": "x", "PGPASSWORD": "hunter2"}, ""),
        ([], {}, "HOST=h\nPORT=x\nPASSWORD=hunter2"),
    ],
)
def test_a_typo_near_a_password_is_refused_without_it(
    argv: list[str], environ: dict[str, str], in_file: str, dotenv: Path
):
    dotenv.write_text(in_file)
    with pytest.raises(SettingsError) as refused:
        load_settings(argv, environ, dotenv)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("parameter", ["schema", "connection_limit", "pgbouncer"])
def test_a_parameter_of_another_driver_is_named(parameter: str):
    with pytest.raises(BadValue, match=f"{parameter}=… is for another driver"):
        conninfo(f"postgresql://me:hunter2@localhost/shop?{parameter}=1")
    with pytest.raises(BadValue, match=f"{parameter}=… is for another driver"):
        conninfo(f"host=localhost {parameter}=1")
