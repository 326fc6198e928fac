"""`python server.py` from its start to its end: the demo, a database that comes late, signals, and kill -9."""

import json
import signal
import urllib.request
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from psycopg2.extensions import make_dsn
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from app.demo import TABLES
from changefeed.postgres.embedded import EmbeddedPostgres
from changefeed.postgres.named_queries import read_script
from tests import leftovers, postgres
from tests.server_process import ServerProcess, free_port

STARTED_AT = "SELECT pg_postmaster_start_time()"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One for all tests of this file, so that PostgreSQL makes its cluster in it once."""
    with leftovers.folder() as made:
        yield made
        EmbeddedPostgres(made / "data").stop("immediate")


def demo(folder: Path, *flags: str) -> ServerProcess:
    return ServerProcess(folder, "--port", "0", "--data-dir", str(folder / "data"), *flags)


def events(port: int, path: str = "/ws") -> ClientConnection:
    # Without a bound on its queue: a client that is not read would not read the answer to its close either.
    return connect(f"ws://127.0.0.1:{port}{path}", proxy=None, max_queue=None)


def get(port: int, path: str) -> tuple[int, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}{path}") as response:
            return response.status, json.load(response)
    except HTTPError as refused:
        return refused.code, json.load(refused)


def is_running(embedded: EmbeddedPostgres) -> bool:
    return (embedded._cluster / "postmaster.pid").exists()


def test_the_demo_delivers_each_action_of_its_tables(folder: Path):
    with demo(folder, "--demo-rate", "500") as server, events(server.port()) as client:
        seen: dict[str, set[str]] = {table: set() for table in TABLES}
        columns = {"id", "created_on", "url", "termin_id", "user_hash_id", "ev_id", "ev_type"}
        while not all(seen.values()) or len(seen["portal_eventrequests"]) < 3:
            change = json.loads(client.recv())
            seen[change["table"]].add(change["action"])
            assert change["table"] != "portal_eventrequests" or change["data"].keys() == columns


def test_without_a_rate_the_demo_is_still(folder: Path):
    with demo(folder, "--demo-rate", "0") as server, events(server.port()) as client:
        embedded = EmbeddedPostgres(folder / "data")
        row = "INSERT INTO portal_eventrequests (url, termin_id, user_hash_id, ev_id) VALUES ('mine', 1, 1, 1)"
        postgres.execute(embedded.conninfo, row)
        assert json.loads(client.recv())["data"]["url"] == "mine"


def test_echo_into_a_pipe_prints_each_frame_as_a_line(folder: Path):
    with demo(folder, "--demo-rate", "500", "--echo") as server, events(server.port()) as client:
        frames = [client.recv() for _ in range(20)]
        newest: deque[str] = deque(maxlen=len(frames))
        for line in server.stdout:
            newest.append(line.removesuffix("\n"))
            if list(newest) == frames:
                break
        assert list(newest) == frames


def test_an_unread_echo_stalls_no_client(folder: Path):
    conninfo = postgres.new_database()
    with (
        ServerProcess(folder, "--port", "0", "--echo", DATABASE_URL=conninfo) as server,
        events(server.port()) as client,
    ):
        for _ in range(5):  # more than a pipe holds
            postgres.execute(
                conninfo,
                "SELECT pg_notify('events', to_json(i || repeat('x', 500))::text) FROM generate_series(1, 500) i",
            )
            for _ in range(500):
                client.recv()


def test_a_closed_echo_pipe_disturbs_no_client(folder: Path):
    with demo(folder, "--demo-rate", "500", "--echo") as server, events(server.port()) as client:
        server.stdout.readline()
        server.stdout.close()
        server.until_said("the reader of --echo is gone")
        for _ in range(20):
            client.recv()
        code, said = server.end()
    assert (code, "Traceback" in said, "Exception" in said) == (0, False, False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_everything_and_the_clients_learn_of_it(number: signal.Signals, folder: Path):
    embedded = EmbeddedPostgres(folder / "data")
    with demo(folder) as server:
        port = server.port()
        with events(port) as client, events(port, "/ws/activity") as dashboard:
            code, said = server.end(number)
            for socket in (client, dashboard):
                assert all(socket)  # to its end
                assert (socket.close_code, socket.close_reason) == (1001, "the server is stopping")
    assert code == 0
    assert "Traceback" not in said
    assert not is_running(embedded)


def test_the_start_prints_one_line_with_the_address(folder: Path):
    with demo(folder) as server:
        line = server.until_said("shows the changes").string
        port = int(line.partition("http://127.0.0.1:")[2].partition("/")[0])
        assert get(port, "/readyz")[0] == 200
        assert f"psql -h {folder / 'data' / 'socket'} -U postgres" in line
        _, said = server.end()
    assert "http" not in said


def test_a_second_start_keeps_the_data(folder: Path):
    embedded = EmbeddedPostgres(folder / "data")
    with demo(folder) as server:
        server.port()
        postgres.execute(embedded.conninfo, "CREATE TABLE IF NOT EXISTS kept (); COMMENT ON TABLE kept IS 'kept'")
        server.end()
    with demo(folder) as server:
        server.port()
        assert postgres.execute(embedded.conninfo, "SELECT obj_description('kept'::regclass)") == [("kept",)]


def test_a_data_folder_in_use_is_refused(folder: Path):
    with demo(folder, "--demo-rate", "500") as first, events(first.port()) as client:
        with demo(folder) as second:
            code, _, said = second.ended()
        assert (code, said.count("\n")) == (2, 1)
        assert said.startswith(
            f"server.py: another server uses the embedded PostgreSQL in {folder / 'data'}; stop it, or"
        )
        for _ in range(20):
            client.recv()


def test_after_kill_9_the_orphan_is_adopted(folder: Path):
    embedded = EmbeddedPostgres(folder / "data")
    with demo(folder) as server:
        server.port()
        started_at = postgres.execute(embedded.conninfo, STARTED_AT)
        server.kill()
    assert postgres.execute(embedded.conninfo, STARTED_AT) == started_at
    with demo(folder, "--demo-rate", "500") as server, events(server.port()) as client:
        assert postgres.execute(embedded.conninfo, STARTED_AT) == started_at
        client.recv()
        assert server.end()[0] == 0
    assert not is_running(embedded)


# -- with a database of the user's


def test_a_database_that_comes_later_is_waited_for(folder: Path):
    conninfo, port = postgres.new_database(), free_port()
    postgres.cluster().stop()
    try:
        with ServerProcess(folder, "--port", str(port), DATABASE_URL=conninfo) as server:
            server.until_said(r"WARNING .*waiting up to 30 s for the database .*Is the server running")
            status, answer = get(port, "/readyz")
            assert (status, answer["error"]["code"]) == (503, "not_ready")
            assert get(port, "/healthz")[0] == 200
            postgres.cluster().start()
            assert server.port() == port
            assert get(port, "/readyz")[0] == 200
            assert server.end()[0] == 0
    finally:
        postgres.cluster().stop()
        postgres.cluster().start()


def test_a_connection_terminated_at_the_start_is_retried(folder: Path):
    conninfo = postgres.new_database()
    postgres.execute(conninfo, "CREATE TABLE still_refused ()")
    postgres.execute(
        conninfo,
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN"
        " IF current_setting('application_name') = 'psqlisten2websocket' AND to_regclass('public.still_refused') IS NOT NULL"
        " THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; END$$",
    )
    postgres.execute(conninfo, "CREATE EVENT TRIGGER refuse ON login EXECUTE FUNCTION refuse()")
    with ServerProcess(folder, "--port", "0", DATABASE_URL=conninfo) as server:
        server.until_said("waiting up to 30 s for the database .*: FATAL: terminating connection")
        postgres.execute(conninfo, "DROP TABLE still_refused")
        assert get(server.port(), "/readyz")[0] == 200


@pytest.mark.parametrize("flaw", [{"dbname": "nix"}, {"user": "nix"}, {"options": "-c work_mem=nix"}], ids=str)
def test_a_database_that_will_never_let_it_in_is_not_waited_for(flaw: dict[str, str], folder: Path):
    with ServerProcess(folder, "--port", "0", DATABASE_URL=str(make_dsn(postgres.new_database(), **flaw))) as server:
        code, _, said = server.ended()
    assert (code, said.count("\n")) == (2, 1)
    assert "nix" in said
    assert said.endswith("; correct --database-url (user, password, database name)\n")


def test_a_signal_ends_the_waiting_for_a_database(folder: Path):
    conninfo = postgres.new_database()
    postgres.cluster().stop()
    try:
        with ServerProcess(folder, "--port", "0", DATABASE_URL=conninfo) as server:
            server.until_said("waiting up to 30 s")
            code, said = server.end()
    finally:
        postgres.cluster().start()
    assert "Traceback" not in said, said
    assert code == 0


def test_a_users_database_is_served_without_a_demo(folder: Path):
    conninfo = postgres.new_database()
    with ServerProcess(folder, "--port", "0", DATABASE_URL=f"{conninfo} password=hunter2") as server:
        line = server.until_said("shows the changes").string
        port = int(line.partition("http://127.0.0.1:")[2].partition("/")[0])
        assert "demo" not in line
        assert get(port, "/api/tables") == (200, {"tables": []})
        answers = json.dumps([get(port, path) for path in ("/readyz", "/api/activity")])
        _, said = server.end()
    assert "hunter2" not in line + answers + said
    assert postgres.execute(conninfo, "SELECT to_regclass('portal_eventrequests')") == [(None,)]


def test_settings_without_effect_are_logged(folder: Path):
    conninfo = postgres.new_database()
    (folder / ".env").write_text("HOST=0.0.0.0\nPORT=9000\n")
    flags = ("--port", "0", "--demo-rate", "3", "--data-dir", str(folder / "demo"), "--trust-owner", "nobodyx")
    with ServerProcess(folder, *flags, DATABASE_URL=conninfo) as server:
        server.until_said(r"WARNING .*--demo-rate has no effect with --database-url")
        server.until_said(r"WARNING .*--data-dir has no effect with --database-url")
        server.until_said(r"WARNING .*HOST in \.env has no effect: .*; the address to listen on is ADDRESS$")
        server.until_said(r"WARNING .*PORT in \.env has no effect: .*; the server's own port is HTTP_PORT$")
        server.until_said(r"WARNING .*--trust-owner nobodyx: there is no such role")


def test_the_first_start_on_watched_tables_reports_no_gap(folder: Path):
    conninfo = postgres.new_database()
    postgres.execute(conninfo, read_script("install.sql"))
    postgres.execute(conninfo, "CREATE TABLE orders (v text); SELECT changefeed.watch('orders')")
    postgres.execute(conninfo, "INSERT INTO orders VALUES ('a')")
    with ServerProcess(folder, "--port", "0", DATABASE_URL=conninfo) as server:
        server.port()
        while not postgres.execute(conninfo, "SELECT 1 FROM changefeed.recorded"):
            pass  # until the server has looked
        assert postgres.execute(conninfo, "SELECT action FROM changefeed.journal ORDER BY id") == [("I",)]
        _, said = server.end()
    assert "missing" not in said


def test_writes_before_the_new_watch_are_a_gap(folder: Path):
    conninfo = postgres.new_database()
    postgres.execute(conninfo, read_script("install.sql"))
    postgres.execute(conninfo, "CREATE TABLE orders (v text); SELECT changefeed.watch('orders')")
    with ServerProcess(folder, "--port", "0", DATABASE_URL=conninfo) as server:
        address = f"ws://127.0.0.1:{server.port()}/ws?table=public.orders"
        with connect(address, proxy=None, max_queue=None, subprotocols=[Subprotocol("changefeed.v1")]) as client:

            def until(kind: str, text: str) -> list[str]:
                """The gaps until a message of this kind has the text."""
                gaps = []
                while True:
                    told = json.loads(client.recv())
                    gaps += [told["why"]] if told["type"] == "gap" else []
                    if told["type"] == kind and text in json.dumps(told):
                        return gaps

            postgres.execute(conninfo, "INSERT INTO orders VALUES ('a')")
            until("changes", '"a"')
            postgres.execute(conninfo, read_script("uninstall.sql"))
            until("gap", "the journal was removed")
            server.until_said("the journal was removed")
            postgres.execute(conninfo, "INSERT INTO orders VALUES ('lost')")
            postgres.execute(conninfo, read_script("install.sql"))
            assert "can be read again" not in server.until_said("following the journal|can be read again").string
            postgres.execute(conninfo, "SELECT changefeed.watch('orders')")
            gaps = until("gap", "watched again")
            postgres.execute(conninfo, "INSERT INTO orders VALUES ('b')")
            assert gaps + until("changes", '"b"') == ["public.orders is watched again, and was not for a while"]
        server.end()


def test_a_filter_of_the_token_file_that_cannot_be_checked_is_logged(folder: Path):
    conninfo = postgres.new_database()
    postgres.execute(conninfo, "CREATE TABLE orders (id int PRIMARY KEY)")
    file = folder / "tokens"
    file.write_text(
        '0123456789abcdef0123456789abcdef {"tables": {"public.orders": {"filter": ["custmer_id=eq.42"]}}}\n'
    )
    with ServerProcess(folder, "--port", "0", "--token-file", str(file), DATABASE_URL=conninfo) as server:
        server.until_said("filters cannot be checked on custmer_id of public.orders")
