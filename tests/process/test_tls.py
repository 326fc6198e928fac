"""The server by TLS: the same feed, a secure cookie, and a certificate that is renewed while it runs."""

import asyncio
import json
import signal
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPRequest
from tornado.testing import AsyncHTTPSTestCase, ExpectLog, gen_test
from tornado.websocket import websocket_connect

from handlers.http import certificate
from handlers.http.certificate import Certificate, load_certificate
from settings.sources import load_settings
from settings.table import SettingsError
from tests.access_case import AccessTestCase, token_of
from tests.certificates import trusting, write_certificate
from tests.feed_case import message
from tests.server_process import ServerProcess

BIG = "x" * 500_000


class TLSTest(AccessTestCase, AsyncHTTPSTestCase):
    """The outbox, which writes below Tornado's stream where it can, must leave the writing to that one here."""

    def get_ssl_options(self) -> Any:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.cert_file, key_file = write_certificate(Path(folder.name))
        return Certificate(self.cert_file, key_file).context

    async def secure_socket(self, path: str, *, protocol: bool = False) -> Any:
        url = f"wss://127.0.0.1:{self.get_http_port()}{path}"
        request = HTTPRequest(url, headers=self.headers("full"), ssl_options=trusting(self.cert_file))
        opened = await websocket_connect(request, subprotocols=["changefeed.v1"] if protocol else None)
        self.sockets.append(opened)
        return opened

    @gen_test
    async def test_changes_of_every_size_arrive_in_their_order(self):
        reader, plain = await self.secure_socket("/ws", protocol=True), await self.secure_socket("/ws")
        await message(reader, "hello")
        self.write("INSERT INTO orders SELECT n, n, repeat('x', 10 * n::int) FROM generate_series(1, 300) AS n")
        self.write("INSERT INTO orders VALUES (301, 1, %s)", (BIG,))
        got: list[int] = []
        while len(got) < 301:
            got += [change["data"]["id"] for change in (await message(reader, "changes"))["changes"]]
        assert got == list(range(1, 302))
        assert [(await message(plain))["data"]["id"] for _ in range(301)] == got

    @gen_test
    async def test_a_stream_arrives_too(self):
        arrived = asyncio.Event()
        got: list[bytes] = []

        def take(chunk: bytes) -> None:
            got.append(chunk)
            if b"\n\n" in b"".join(got).rpartition(b"event: ")[2] and b'"id":7' in b"".join(got):
                arrived.set()

        self.order(7)
        while not self.feed.hub.newest(1):
            await self.feed.follower.until_moved()
        streaming = self.http_client.fetch(
            self.get_url("/events?replay=1"),
            headers=self.headers("full"),
            streaming_callback=take,
            request_timeout=0,
            validate_cert=False,
        )
        await arrived.wait()
        for client in tuple(self.feed.live_clients.connected):
            client.leave("")
        await streaming

    @gen_test
    async def test_the_dashboards_cookie_is_for_tls_only(self):
        answer = await self.http_client.fetch(
            self.get_url("/api/session"),
            method="POST",
            body=json.dumps({"token": token_of("full")}),
            validate_cert=False,
        )
        assert "Secure" in answer.headers["Set-Cookie"]


# -- the files


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def shown_by(context: ssl.SSLContext) -> bytes | None:
    """The certificate that a client of this context's server is shown."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client.getpeercert(binary_form=True)


def der(cert_file: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(cert_file.read_text())


def test_files_that_were_renewed_are_taken(tmp_path: Path):
    cert_file, key_file = write_certificate(tmp_path)
    current = Certificate(cert_file, key_file)
    before = der(cert_file)
    assert shown_by(current.context) == before
    write_certificate(tmp_path)
    current.reload()
    assert shown_by(current.context) == der(cert_file) != before


def test_files_that_do_not_fit_are_not_taken(tmp_path: Path):
    cert_file, key_file = write_certificate(tmp_path)
    current = Certificate(cert_file, key_file)
    before = der(cert_file)
    old_key = key_file.read_bytes()
    write_certificate(tmp_path)
    key_file.write_bytes(old_key)
    with ExpectLog("handlers.certificate", "could not reload the certificate .*", level=30):
        current.reload()
    assert shown_by(current.context) == before
    cert_file.unlink()
    with ExpectLog("handlers.certificate", "could not reload the certificate .*", level=30):
        current.reload()
    assert shown_by(current.context) == before


def test_a_change_of_the_files_is_noticed(tmp_path: Path, loop: asyncio.Runner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(certificate, "LOOK_SECONDS", 0.01)

    async def run() -> None:
        current = Certificate(*write_certificate(tmp_path))
        reloaded = asyncio.Event()
        monkeypatch.setattr(current, "reload", reloaded.set)
        following = asyncio.create_task(current.follow())
        await asyncio.sleep(0)
        write_certificate(tmp_path)
        await reloaded.wait()
        following.cancel()

    loop.run(run())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--tls-cert", "cert.pem"), "must be used together"),
        (("--tls-key", "key.pem"), "must be used together"),
        (("--tls-cert", "cert.pem", "--tls-key", "nothing.pem"), "cannot be used: No such file"),
        (("--tls-cert", "key.pem", "--tls-key", "key.pem"), "cannot be used: "),
    ],
)
def test_what_is_no_certificate_is_refused_in_one_line(tmp_path: Path, flags: tuple[str, ...], said: str):
    write_certificate(tmp_path)
    given = [flag if flag.startswith("--") else str(tmp_path / flag) for flag in flags]
    with pytest.raises(SettingsError, match=said) as refused:
        load_certificate(load_settings(given, {}, Path("/nonexistent")))
    assert "\n" not in str(refused.value)


def test_a_server_takes_a_renewed_certificate_at_sighup(tmp_path: Path):
    cert_file, key_file = write_certificate(tmp_path)
    flags = ("--port", "0", "--demo-rate", "0", "--tls-cert", str(cert_file), "--tls-key", str(key_file))
    with ServerProcess(tmp_path, *flags) as server:
        port = int(server.until_said(r"at https://127\.0\.0\.1:(\d+)/")[1])

        def pinned(host: str) -> bool:
            """Whether browsers must use TLS for this host."""
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                trusting(cert_file).wrap_socket(plain, server_hostname="localhost") as secure,
            ):
                secure.sendall(f"GET /healthz HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
                return b"Strict-Transport-Security: max-age=31536000\r\n" in secure.makefile("rb").read()

        assert pinned("127.0.0.1")
        assert not pinned("localhost")  # where a developer runs other servers

        def shown() -> bytes | None:
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                trusting(cert_file).wrap_socket(plain, server_hostname="localhost") as secure,
            ):
                return secure.getpeercert(binary_form=True)

        assert shown() == der(cert_file)
        write_certificate(tmp_path)
        server.send(signal.SIGHUP)
        server.until_said("reloaded the certificate")
        assert shown() == der(cert_file)
        code, _ = server.stop()
        assert code == 0
