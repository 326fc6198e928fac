"""Posts messages to one URL, in order, and retries each until it is accepted or too old.

send() never waits. Only the URL's host is logged: the rest may hold a token.
"""

import asyncio
import json
import logging
from collections import deque
from urllib.parse import urlsplit

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from changefeed import __version__
from changefeed.backoff import backoff

logger = logging.getLogger("handlers.webhook")

QUEUE_LIMIT = 100
DEADLINE_SECONDS = 10.0  # of one request
GIVE_UP_SECONDS = 3600.0
MOST_PAUSE_SECONDS = 30.0
ANSWER_LIMIT_BYTES = 1 << 20
WORTH_ANOTHER_TRY = (408, 425, 429)  # and every 5xx; waiting does not help against other refusals

AlertMessage = dict[str, object]


class WebhookRefused(Exception):
    """The webhook will not accept this message later either; the text is its answer."""


class NotAccepted(Exception):
    """The webhook may accept the message later; the text is the reason."""


class Webhook:
    """Holds at most QUEUE_LIMIT waiting messages; beyond that it drops the oldest and logs it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._host = urlsplit(url).netloc.rpartition("@")[2]
        self._waiting: deque[AlertMessage] = deque()
        self._under_way: AlertMessage | None = None
        self._came = asyncio.Event()

    def send(self, message: AlertMessage) -> None:
        self._waiting.append(message)
        if len(self._waiting) > QUEUE_LIMIT:
            oldest = self._waiting.popleft()
            logger.warning(
                "%d messages wait for the webhook at %s; dropped the oldest: %s",
                QUEUE_LIMIT,
                self._host,
                _short(oldest),
            )
        self._came.set()

    async def run(self) -> None:
        """Posts until cancelled."""
        client = AsyncHTTPClient(force_instance=True, max_body_size=ANSWER_LIMIT_BYTES)
        try:
            while True:
                self._came.clear()
                while self._waiting:
                    self._under_way = self._waiting.popleft()
                    await self._deliver(client, self._under_way)
                    self._under_way = None
                await self._came.wait()
        finally:
            client.close()
            for message in (*filter(None, [self._under_way]), *self._waiting):
                logger.warning("stopped before the webhook at %s accepted: %s", self._host, _short(message))

    async def _deliver(self, client: AsyncHTTPClient, message: AlertMessage) -> None:
        delays, complaint = backoff(1.0, MOST_PAUSE_SECONDS), ""
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                while True:
                    try:
                        await self._post(client, message)
                        logger.info("sent to the webhook at %s: %s", self._host, _short(message))
                        return
                    except NotAccepted as reason:
                        if complaint != (complaint := str(reason)):
                            logger.warning("the webhook at %s: %s; trying again", self._host, complaint)
                    await asyncio.sleep(next(delays))
        except WebhookRefused as refusal:
            logger.warning(
                "the webhook at %s refused with %s, which is final: %s", self._host, refusal, _short(message)
            )
        except TimeoutError:
            logger.warning("the webhook at %s: gave up after %g s: %s", self._host, GIVE_UP_SECONDS, _short(message))

    async def _post(self, client: AsyncHTTPClient, message: AlertMessage) -> None:
        """Raises NotAccepted or WebhookRefused."""
        request = HTTPRequest(
            self._url,
            "POST",
            {"Content-Type": "application/json"},
            json.dumps(message),
            user_agent=f"psqlisten2websocket/{__version__}",
            connect_timeout=DEADLINE_SECONDS,
            request_timeout=DEADLINE_SECONDS,
            follow_redirects=False,
        )
        try:
            answer = await client.fetch(request, raise_error=False)
        except (HTTPClientError, OSError, ValueError) as error:
            # Tornado's errors: a deadline, a malformed answer. Their texts are not shown: some contain the URL.
            raise NotAccepted(f"no answer ({type(error).__name__})") from None
        if answer.code >= 500 or answer.code in WORTH_ANOTHER_TRY:
            raise NotAccepted(f"HTTP {answer.code}")
        if not 200 <= answer.code < 300:
            raise WebhookRefused(f"HTTP {answer.code}")


def _short(message: AlertMessage) -> str:
    return f"{message['state']}: {message['what']}"
