"""How this process stands, into the meters that all share: before an answer, and every second for the others."""

import asyncio

from handlers.delivery import client_counts
from handlers.http.context import ServerContext
from process.shared_numbers import SharedNumbers

INTERVAL_SECONDS = 1.0
OUTBOX_BYTES = "changefeed_outbox_bytes"
UNREAD_BYTES = "changefeed_unread_bytes"
SIGNING_IN = "changefeed_sockets_signing_in"
LISTENER_UP = "changefeed_listener_up"
DELIVERING = "changefeed_delivering"
LOST_STATEMENTS = "changefeed_journal_lost_statements_total"
BEHIND_SECONDS = "changefeed_follower_behind_seconds"
BEHIND_TRANSACTIONS = "changefeed_follower_behind_transactions"
RECONNECTS = "changefeed_listener_reconnects_total"
CANARY_SECONDS = "changefeed_canary_round_trip_seconds"


def sample(context: ServerContext) -> None:
    meters, listener = context.slot.meters, context.listener
    context.change_counts.sample()
    meters.meter(OUTBOX_BYTES).set(sum(client.outbox.waiting_bytes for client in context.connected))
    meters.meter(UNREAD_BYTES).set(context.admission.unread.weight)
    meters.meter(SIGNING_IN).set(len(context.admission.outside))
    meters.meter(LISTENER_UP).set(listener.is_ready)
    meters.meter(DELIVERING).set(context.readiness.trouble is None)
    meters.meter(LOST_STATEMENTS).set(context.follower.lost_statements)
    meters.meter(BEHIND_SECONDS).set(context.follower.behind_seconds)
    meters.meter(BEHIND_TRANSACTIONS).set(context.follower.behind_transactions)
    meters.meter(RECONNECTS).set(listener.reconnects)
    if listener.canary.round_trip_seconds is not None:
        meters.meter(CANARY_SECONDS).set(listener.canary.round_trip_seconds)


async def keep_sampling(context: ServerContext) -> None:
    while True:
        sample(context)
        await asyncio.sleep(INTERVAL_SECONDS)


def one_line_of(meters: SharedNumbers) -> str:
    """How all processes stand."""
    parts = meters.everywhere()
    clients = sum(value for part in parts for (name, *_), value in part.items() if name == client_counts.NAME)
    hearing = sum(part.get((DELIVERING,), 0) for part in parts)
    who = "" if len(parts) == 1 else f"{hearing:.0f} of {len(parts)} processes: "
    return f"{who}PostgreSQL is {'' if hearing else 'not '}heard; {clients:.0f} clients are connected"
