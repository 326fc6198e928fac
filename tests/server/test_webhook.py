"""The alert webhook: a real HTTP server that takes, delays or refuses, and the whole server that tells it."""

import asyncio
import contextlib
import json
import logging
import re
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any
from urllib.parse import urlsplit

import pytest
from tornado.testing import AsyncHTTPTestCase, bind_unused_port, gen_test
from tornado.web import Application, RequestHandler

from app import webhook
from app.webhook import QUEUE_LIMIT, AlertMessage, Webhook
from tests import postgres
from tests.feed_case import ORDERS
from tests.server_process import ServerProcess

TOKEN = "token-7f3a"


def message(number: int) -> AlertMessage:
    return {"state": "raised", "what": f"alert {number}"}


class Hook(RequestHandler):
    def initialize(self, case: "WebhookTest") -> None:
        self.case = case

    async def post(self) -> None:
        assert self.request.headers["Content-Type"] == "application/json"
        what = json.loads(self.request.body)["what"]
        self.case.asked.put_nowait(what)
        await self.case.may_answer.wait()
        self.set_status(self.case.answers.pop(0) if self.case.answers else 204)
        if self.get_status() == 302:
            self.set_header("Location", "/elsewhere")
        self.case.answered.append((self.get_status(), what))


class Said(logging.Handler):
    """The webhook's log lines, which then are expected: (level, text)."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []
        self._came = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname, record.getMessage()))
        self._came.set()

    @property
    def warnings(self) -> list[str]:
        return [text for level, text in self.lines if level == "WARNING"]

    async def until(self, text: str) -> None:
        while not any(text in line for _, line in self.lines):
            self._came.clear()
            await self._came.wait()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        logger = logging.getLogger("handlers.webhook")
        logger.addHandler(self)
        logger.propagate, level = False, logger.level
        logger.setLevel(logging.INFO)
        yield
        logger.setLevel(level)
        logger.propagate = True
        logger.removeHandler(self)


class WebhookTest(AsyncHTTPTestCase):
    def get_app(self) -> Application:
        self.answers: list[int] = []
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.answered: list[tuple[int, str]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.said = Said()
        return Application([(f"/{TOKEN}", Hook, {"case": self})], log_function=lambda _: None)

    @contextlib.asynccontextmanager
    async def running(self, url: str = "") -> AsyncIterator[Webhook]:
        hook = Webhook(url or self.get_url(f"/{TOKEN}"))
        with self.said.listening():
            task = asyncio.ensure_future(hook.run())
            yield hook
            task.cancel()
            await asyncio.wait([task])
        assert not [line for line in self.said.lines if TOKEN in line[1]]

    @gen_test
    async def test_messages_come_in_their_order_each_once(self):
        async with self.running() as hook:
            for number in range(3):
                hook.send(message(number))
            await self.said.until("alert 2")
        assert self.answered == [(204, f"alert {number}") for number in range(3)]
        assert self.said.warnings == []

    @gen_test
    async def test_a_trouble_that_passes_is_tried_again_and_logged_once(self):
        self.answers = [503, 503, 429]
        async with self.running() as hook:
            hook.send(message(1))
            await self.said.until("sent to")
        assert self.answered == [(code, "alert 1") for code in (503, 503, 429, 204)]
        where = f"the webhook at 127.0.0.1:{self.get_http_port()}"
        assert self.said.warnings == [f"{where}: HTTP {code}; trying again" for code in (503, 429)]

    @gen_test
    async def test_refusals_and_redirects_are_final(self):
        self.answers = [404, 302]
        async with self.running() as hook:
            for number in range(3):
                hook.send(message(number))
            await self.said.until("sent to")
        assert self.answered == [(404, "alert 0"), (302, "alert 1"), (204, "alert 2")]
        where = f"the webhook at 127.0.0.1:{self.get_http_port()}"
        assert self.said.warnings == [
            f"{where} refused with HTTP {code}, which is final: raised: alert {n}" for n, code in enumerate((404, 302))
        ]

    @gen_test
    async def test_when_too_many_wait_the_oldest_is_given_up_and_named(self):
        self.may_answer.clear()
        async with self.running() as hook:
            hook.send(message(0))
            await self.asked.get()
            for number in range(1, QUEUE_LIMIT + 2):
                hook.send(message(number))
            self.may_answer.set()
            await self.said.until(
                f"sent to the webhook at 127.0.0.1:{self.get_http_port()}: raised: alert {QUEUE_LIMIT + 1}"
            )
        assert self.answered == [(204, f"alert {number}") for number in (0, *range(2, QUEUE_LIMIT + 2))]
        [warning] = self.said.warnings
        assert re.search(rf"^{QUEUE_LIMIT} messages wait .* dropped the oldest: raised: alert 1$", warning)

    @gen_test
    async def test_an_unreachable_webhook_is_retried(self):
        closed, port = bind_unused_port()
        closed.close()
        async with self.running(f"http://user:hunter2@127.0.0.1:{port}/{TOKEN}") as hook:
            hook.send(message(1))
            hook.send(message(2))
            await self.said.until("trying again")
        where = f"the webhook at 127.0.0.1:{port}"
        assert self.said.warnings == [
            f"{where}: no answer (ConnectionRefusedError); trying again",
            *(f"stopped before {where} accepted: raised: alert {number}" for number in (1, 2)),
        ]

    @gen_test
    async def test_a_silent_webhook_is_given_up(self):
        self.may_answer.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(webhook, "DEADLINE_SECONDS", 0.05)
            patch.setattr(webhook, "GIVE_UP_SECONDS", 0.2)
            async with self.running() as hook:
                hook.send(message(1))
                hook.send(message(2))
                await self.said.until("gave up after 0.2 s: raised: alert 1")
                patch.undo()
                self.may_answer.set()
                await self.said.until("sent to")
        assert "no answer (HTTPTimeoutError); trying again" in self.said.warnings[0]
        assert self.answered[-1] == (204, "alert 2")


# -- the whole server


@contextlib.contextmanager
def listening() -> Iterator[tuple[str, "Queue[dict[str, Any]]"]]:
    """A URL, and what is posted to it."""
    posted: Queue[dict[str, Any]] = Queue()

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Taker) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{TOKEN}", posted
        server.shutdown()


QUIET = "no INSERT in public.orders for 2 s"
ABOVE = "more than 100 INSERT/s"


@pytest.mark.parametrize("processes", ["1", "2"])
def test_alerts_are_sent_once_when_raised_and_ended(processes: str, tmp_path: Path):
    conninfo = postgres.new_database()
    postgres.execute(conninfo, ORDERS.replace("id bigint", "id bigserial"))
    flags = ("--port", "0", "--processes", processes, "--watch", "public.orders", "--alert", QUIET, "--alert", ABOVE)
    with (
        listening() as (url, posted),
        ServerProcess(tmp_path, *flags, DATABASE_URL=conninfo, ALERT_WEBHOOK=url) as server,
    ):
        server.port()
        first = posted.get(timeout=60)
        assert first == {
            "state": "raised",
            "what": QUIET,
            "table": "public.orders",
            "action": "INSERT",
            "value": None,
            "since": first["now"],
            "now": first["now"],
        }
        told = {QUIET: [first], ABOVE: []}
        while len(told[QUIET]) < 2 or not told[ABOVE]:
            postgres.execute(conninfo, "INSERT INTO orders (status) SELECT 'a secret' FROM generate_series(1, 2000)")
            with contextlib.suppress(Empty):
                message = posted.get(timeout=0.3)
                told[message["what"]].append(message)
        assert told[QUIET][1]["since"] == first["since"]
        assert told[ABOVE][0]["value"] > 100
        while told[QUIET][-1]["state"] == "ended":
            message = posted.get(timeout=60)
            told[message["what"]].append(message)
        assert told[QUIET][-1]["value"] >= 2
        for messages in told.values():
            states = ("raised", "ended") * len(messages)
            assert [message["state"] for message in messages] == list(states[: len(messages)])
        code, said = server.stop()
    assert code == 0
    assert f"alert ended: {QUIET}" in said
    assert f"sent to the webhook at {urlsplit(url).netloc}: ended: {QUIET}" in said
    assert TOKEN not in said
    assert "a secret" not in said
