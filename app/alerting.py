"""Checks the alerts every second; logs each that is raised or ends, and sends it to the webhook."""

import asyncio
import logging
import time
from collections.abc import Callable

from app.webhook import AlertMessage
from changefeed.change.times import iso_of
from changefeed.counts.alerts import Alerts, Transition
from handlers.http.context import ServerContext

logger = logging.getLogger("handlers.alerting")

INTERVAL_SECONDS = 1.0


async def keep_alerting(context: ServerContext, send: Callable[[AlertMessage], None]) -> None:
    """Checks until cancelled. After a restart, an alert whose condition still holds is raised again."""
    alerts = Alerts(context.settings.alert, context.hub.tally)
    while True:
        if span := context.counted.span(time.time()):
            for transition in alerts.check(*span):
                log(transition)
                send(message_of(transition))
        await asyncio.sleep(INTERVAL_SECONDS)


def log(transition: Transition) -> None:
    if transition.is_raised:
        logger.warning("alert raised: %s", transition.alert)
    else:
        logger.info("alert ended: %s; it was raised at %s", transition.alert, iso_of(transition.since))


def message_of(transition: Transition) -> AlertMessage:
    return {
        "state": "raised" if transition.is_raised else "ended",
        "what": str(transition.alert),
        "table": transition.alert.table,
        "action": transition.alert.action,
        "value": None if transition.value is None else round(transition.value, 3),
        "since": iso_of(transition.since),
        "now": iso_of(transition.now),
    }
