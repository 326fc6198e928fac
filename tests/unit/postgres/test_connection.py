"""The conninfo that is really used, what people are shown of it, and which refusals it is no use to try again after."""

import asyncio
import gc
import re
import sys
import threading
from unittest import mock

import psycopg2
import pytest
from psycopg2.extensions import connection, make_dsn, parse_dsn
from tornado.testing import AsyncTestCase, gen_test

from changefeed.postgres import connection as connecting
from changefeed.postgres.connection import CannotConnect, complete, display_name, open_connection, wait_until_done
from tests import postgres
from tests.proxy import Proxy


def test_what_a_conninfo_leaves_open_is_completed():
    completed = parse_dsn(complete("postgresql://me:p%40ss@db.example.com/shop"))
    given = {"user": "me", "password": "p@ss", "host": "db.example.com", "dbname": "shop"}
    assert given.items() <= completed.items()
    assert completed.keys() - given.keys() == {
        "application_name",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "connect_timeout",
        "target_session_attrs",
        "client_encoding",
        "options",
    }


def test_a_conninfos_own_values_win_except_the_encoding():
    said = {"application_name": "mine", "keepalives_idle": "60", "tcp_user_timeout": "0", "password": "it's \\ me"}
    completed = parse_dsn(complete(psycopg2.extensions.make_dsn(**said, client_encoding="LATIN1")))
    assert said.items() <= completed.items()
    assert completed["client_encoding"] == "UTF8"


@pytest.mark.parametrize(
    ("conninfo", "name"),
    [
        ("postgresql://me:hunter2@db.example.com:5433/shop", "shop@db.example.com:5433"),
        ("postgresql://me:hunter2@db.example.com/shop", "shop@db.example.com"),
        ("postgresql://me:hunter2@a:1,b:2/shop", "shop@a,b:1,2"),
        ("user=me password=hunter2 host=/run/postgresql", "me@/run/postgresql"),
        ("password=hunter2 hostaddr=127.0.0.1", "default database@127.0.0.1"),
        ("service=shop password=hunter2", "default database@shop"),
        ("", "default database@local socket"),
    ],
)
def test_people_are_shown_database_and_host_and_no_password(conninfo: str, name: str):
    assert display_name(conninfo) == name
    assert "hunter2" not in display_name(complete(conninfo))


AT = 'connection to server at "db.example.com" (192.0.2.1), port 5432 failed: '


@pytest.mark.parametrize(
    ("told", "is_hopeless"),
    [
        (AT + 'FATAL:  28P01: password authentication failed for user "me"', True),
        (AT + "FATAL:  28P01: Passwort-Authentifizierung für Benutzer »me« fehlgeschlagen", True),
        (AT + 'ВАЖНО:  3D000: база данных "shop" не существует', True),
        (AT + 'FATAL:  28000: role "me" does not exist', True),
        (AT + 'FATAL:  42501: permission denied for database "shop"\nDETAIL:  User does not have the right.', True),
        (AT + 'FATAL:  22023: invalid value for parameter "work_mem": "x"', True),
        (AT + "fe_sendauth: no password supplied", True),
        (AT + "server does not support SSL, but SSL was required", True),
        (AT + "SSL error: certificate verify failed", True),
        ('invalid sslmode value: "sometimes"', True),
        (AT + "FATAL:  57P03: the database system is starting up", False),
        (AT + "FATAL:  57P03: das Datenbanksystem startet", False),
        (
            AT + "FATAL:  57P01: terminating connection due to administrator command\nserver closed the connection",
            False,
        ),
        (AT + "FATAL:  53300: sorry, too many clients already", False),
        (AT + "FATAL:  28000: no encryption\n" + AT + "FATAL:  53300: sorry, too many clients already", False),
        (AT + 'FATAL:  55000: database "shop" is not currently accepting connections', False),
        (AT + "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?", False),
        (AT + "Connection timed out", False),
        ("could not translate host name to address: Name or service not known", False),
        ("no answer from shop@db.example.com within 5 s (timeout)", False),
        ("server closed the connection unexpectedly", False),
    ],
)
def test_a_hopeless_refusal_is_recognized_in_any_language(told: str, is_hopeless: bool):
    assert CannotConnect(told).is_hopeless is is_hopeless


class OpenConnectionTest(AsyncTestCase):
    @gen_test
    async def test_a_silent_server_is_given_up_at_the_deadline(self):
        proxy = Proxy(postgres.cluster().conninfo)
        await proxy.start()
        proxy.go_deaf()
        with pytest.raises(psycopg2.OperationalError, match=r"no answer from postgres@127.0.0.1"):
            await open_connection(proxy.conninfo, deadline_seconds=0.2)
        await proxy.close()

    @gen_test
    async def test_a_refusal_is_known_by_its_sqlstate_and_shown_without(self):
        with pytest.raises(CannotConnect) as refused:
            await open_connection(str(make_dsn(postgres.cluster().conninfo, dbname="nix")), deadline_seconds=60)
        assert refused.value.is_hopeless
        assert re.search(r'FATAL:  database "nix" does not exist\n$', str(refused.value))

    @gen_test
    async def test_errors_on_an_open_connection_are_worded_as_ever(self):
        opened = await open_connection(postgres.cluster().conninfo, deadline_seconds=60)
        with opened.cursor() as db_cursor:
            db_cursor.execute("SELECT 1 / 0")
            with pytest.raises(psycopg2.errors.DivisionByZero, match=r"^division by zero\n$"):
                await wait_until_done(opened)
        opened.close()

    @gen_test
    async def test_a_notification_is_decoded_without_a_call_of_python(self):
        opened = await open_connection(complete(postgres.cluster().conninfo), deadline_seconds=60)
        self.addCleanup(opened.close)
        called: list[str] = []
        with opened.cursor() as db_cursor:
            db_cursor.execute("LISTEN späti; SELECT pg_notify('späti', 'grüße, 世界')")
            sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_filename) if event == "call" else None)
            try:
                await wait_until_done(opened)
                while not opened.notifies:
                    opened.poll()
            finally:
                sys.setprofile(None)
        [notification] = opened.notifies
        assert (notification.channel, notification.payload) == ("späti", "grüße, 世界")
        assert [path for path in called if "encodings" in path] == []

    @gen_test
    async def test_a_cancelled_caller_leaves_no_unretrieved_error(self):
        may_start = threading.Event()

        def fail_late(conninfo: str) -> connection:
            may_start.wait()
            raise psycopg2.OperationalError("refused")

        with mock.patch.object(connecting, "_start", fail_late):
            opening = asyncio.ensure_future(open_connection("", deadline_seconds=60))
            await asyncio.sleep(0)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            may_start.set()
            await asyncio.get_running_loop().shutdown_default_executor()
            await asyncio.sleep(0)
        del opening
        gc.collect()  # when asyncio complains, which fails a test here

    @gen_test
    async def test_a_connection_that_begins_after_the_deadline_is_closed(self):
        may_start, started = threading.Event(), []

        def look_a_slow_name_up(conninfo: str) -> connection:
            may_start.wait()
            started.append(psycopg2.connect(conninfo, async_=True))
            return started[0]

        with mock.patch.object(connecting, "_start", look_a_slow_name_up):
            with pytest.raises(psycopg2.OperationalError, match="no answer"):
                await open_connection(postgres.cluster().conninfo, deadline_seconds=0.01)
            may_start.set()
            while not (started and started[0].closed):  # noqa: ASYNC110  # psycopg2 tells nobody
                await asyncio.sleep(0)
