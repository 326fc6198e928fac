"""Behind a real nginx, with deploy/nginx.conf: the dashboard, sockets and streams below the path, and whom to believe."""

import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests import ROOT
from tests.certificates import trusting, write_certificate
from tests.journal_database import JournalDatabase
from tests.server_process import ServerProcess, free_port

CONF = (ROOT / "deploy" / "nginx.conf").read_text("utf-8")
NGINX = shutil.which("nginx", path=os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/usr/local/sbin")))
HOST = "feed.example.com"
TOKEN = "0123456789abcdef0123456789abcdef"
MAIN = """
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/feed.conf;
}}
"""

pytestmark = [
    pytest.mark.skipif(
        NGINX is None, reason="deploy/nginx.conf is not tried: install nginx (`make test` does, as root with apt-get)"
    ),
    pytest.mark.skipif(sys.platform == "darwin", reason="its loopback has one address only"),
]


@dataclass
class Site:
    """What a client of the proxy sees."""

    port: int
    tls: ssl.SSLContext
    db: JournalDatabase

    def link(self, address: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), source_address=(address, 0), timeout=30)

    def request(
        self, path: str, method: str = "GET", body: str | None = None, token: str | None = TOKEN
    ) -> http.client.HTTPResponse:
        asked = http.client.HTTPSConnection(HOST, self.port, context=self.tls)
        asked.sock = self.tls.wrap_socket(self.link("127.0.0.1"), server_hostname=HOST)
        asked.request(method, path, body, {"Authorization": f"Bearer {token}"} if token else {})
        return asked.getresponse()

    def socket(self, path: str, address: str = "127.0.0.2", **headers: str) -> ClientConnection:
        return connect(
            f"wss://{HOST}:{self.port}{path}",
            sock=self.link(address),
            ssl=self.tls,
            proxy=None,
            additional_headers={"Authorization": f"Bearer {TOKEN}", **headers},
        )


def settings_beside_the_example(token_file: Path) -> list[str]:
    """Those that its comment names, but for where the tokens are."""
    [line] = re.findall(r"^#     (--base-path .+)$", CONF, re.MULTILINE)
    flags: list[str] = line.split()
    flags[flags.index("--token-file") + 1] = str(token_file)
    return flags


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("nginx")
    db = JournalDatabase()
    db.run("CREATE TABLE orders (id int); SELECT changefeed.watch('orders')")
    tokens = folder / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    flags = ("--port", "0", "--client-limit-per-address", "1", *settings_beside_the_example(tokens))
    with (
        ServerProcess(folder, *flags, DATABASE_URL=db.conninfo) as server,
        closing(db),
        behind_nginx(folder, server.port()) as (port, tls),
    ):
        yield Site(port, tls, db)


@contextmanager
def behind_nginx(folder: Path, server_port: int) -> Iterator[tuple[int, ssl.SSLContext]]:
    """The example, in front of this port: the port that it listens on, and whom its clients trust."""
    assert NGINX
    cert, key = write_certificate(folder, HOST)
    port = free_port()
    example = CONF
    for written, meant in (
        ("127.0.0.1:8080", f"127.0.0.1:{server_port}"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        (f"/etc/ssl/{HOST}.pem", str(cert)),
        (f"/etc/ssl/{HOST}.key", str(key)),
    ):
        assert example.count(written) == 1
        example = example.replace(written, meant)
    (folder / "feed.conf").write_text(example)
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    # It goes into the background when it listens.
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield port, trusting(cert)
    finally:
        subprocess.run([*command, "-s", "stop"], check=True)


def test_an_event_source_learns_when_to_retry_during_a_restart(tmp_path: Path):
    with behind_nginx(tmp_path, free_port()) as (port, tls):
        for path, status in (("/feed/events?table=orders", 200), ("/feed/api/changes", 502), ("/feed/ws", 502)):
            asked = http.client.HTTPSConnection("127.0.0.1", port, context=tls)
            asked.sock = tls.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname=HOST)
            asked.request("GET", path, headers={"Accept": "text/event-stream", "Last-Event-ID": "1.abc"})
            answer = asked.getresponse()
            assert answer.status == status
            if status == 200:
                assert answer.headers["Content-Type"] == "text/event-stream"
                assert answer.headers["Cache-Control"] == "no-store"
                assert answer.read() == b"retry: 2000\n\n"
            asked.close()


def test_the_dashboard_and_its_files_are_below_the_path(site: Site):
    page = site.request("/feed/")
    assert page.status == 200
    files = re.findall(r'(?:src|href)="(\./|/feed/)?(assets/[^"]+)"', page.read().decode())
    assert files
    for _, name in files:
        assert site.request(f"/feed/{name}").status == 200
    assert site.request("/feed").status == 301
    assert site.request("/feed/metrics").status == 404


@pytest.mark.parametrize("path", ["/feed/ws", "/feed/ws/activity"])
def test_a_socket_goes_through(site: Site, path: str):
    with site.socket(path) as client:
        site.db.run("INSERT INTO orders VALUES (7)")
        while "orders" not in str(client.recv(timeout=30)):
            pass


def test_a_stream_goes_through_as_it_comes(site: Site):
    answer = site.request("/feed/events")
    assert answer.status == 200
    site.db.run("INSERT INTO orders VALUES (8)")
    told = {"id": 7}  # which a test before this one wrote
    while told == {"id": 7}:
        line = answer.readline()
        assert line
        if line.startswith(b"data:"):
            told = json.loads(line[5:])["data"]
    assert told == {"id": 8}
    answer.close()


def test_the_server_accepts_the_proxys_client_address_and_scheme(site: Site):
    with site.socket("/feed/ws", "127.0.0.2"), site.socket("/feed/ws", "127.0.0.3"):
        with pytest.raises(InvalidStatus) as refused:
            site.socket("/feed/ws", "127.0.0.3", **{"X-Forwarded-For": "192.0.2.7"})
        assert refused.value.response.status_code == 503
    signed_in = site.request("/feed/api/session", "POST", json.dumps({"token": TOKEN}))
    assert "; Secure" in (signed_in.headers["Set-Cookie"] or "")
    assert "Path=/feed;" in (signed_in.headers["Set-Cookie"] or "") + ";"


@pytest.mark.parametrize("path", ["/feed/api/changes", "/feed/api/tables", "/feed/events", "/feed/api/status"])
def test_every_request_needs_a_token(site: Site, path: str):
    assert site.request(path, token=None).status == 401
    assert site.request(path, token="0" * 32).status == 401


def test_watching_needs_a_token(site: Site):
    for method in ("PUT", "DELETE"):
        assert site.request("/feed/api/tables/public.orders/watch", method, token=None).status == 401
    said = json.loads(site.request("/feed/api/session", token=None).read())
    assert (said["is_required"], said["is_signed_in"], said["is_admin"]) == (True, False, False)


@pytest.mark.parametrize("path", ["/feed/ws", "/feed/ws/activity"])
def test_a_socket_without_a_token_gets_nothing(site: Site, path: str):
    with (
        connect(
            f"wss://{HOST}:{site.port}{path}", sock=site.link("127.0.0.4"), ssl=site.tls, proxy=None, max_size=None
        ) as client,
        pytest.raises(ConnectionClosed) as closed,
    ):
        client.recv(timeout=30)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 4401


def test_without_the_tokens_the_example_s_settings_are_refused(tmp_path: Path):
    flags = settings_beside_the_example(tmp_path)
    at = flags.index("--token-file")
    del flags[at : at + 2]
    with ServerProcess(tmp_path, "--port", "0", *flags) as server:
        code, _, said = server.ended()
    assert code == 2
    assert "require tokens" in said
