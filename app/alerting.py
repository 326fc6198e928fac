"""The feed's counts in; a log line, and a message for the webhook, for each alert that is raised or ends, out."""

import asyncio
import logging
import time
from collections.abc import Callable

from app.webhook import Message
from changefeed.change.times import iso_of
from changefeed.counts.alerts import Alerts, Transition
from handlers.http.context import ServerContext

logger = logging.getLogger("handlers.alerting")

INTERVAL_SECONDS = 1.0


async def keep_alerting(feed: ServerContext, send: Callable[[Message], None]) -> None:
    """Checks until cancelled. A server that starts anew raises again what is so."""
    alerts = Alerts(feed.settings.alert, feed.hub.tally)
    while True:
        if span := feed.counted.span(time.time()):
            for turn in alerts.check(*span):
                log(turn)
                send(message_of(turn))
        await asyncio.sleep(INTERVAL_SECONDS)


def log(turn: Transition) -> None:
    if turn.is_raised:
        logger.warning("alert raised: %s", turn.alert)
    else:
        logger.info("alert ended: %s; it was raised at %s", turn.alert, iso_of(turn.since))


def message_of(turn: Transition) -> Message:
    return {
        "state": "raised" if turn.is_raised else "ended",
        "what": str(turn.alert),
        "table": turn.alert.table,
        "action": turn.alert.action,
        "value": None if turn.value is None else round(turn.value, 3),
        "since": iso_of(turn.since),
        "now": iso_of(turn.now),
    }
