"""Writes this process's gauges into the shared meters: before each answer, and every second for other processes."""

import asyncio

from handlers.delivery import client_counts
from handlers.http.context import ServerContext
from process.shared_numbers import SharedNumbers

INTERVAL_SECONDS = 1.0
OUTBOX_BYTES = "changefeed_outbox_bytes"
UNREAD_BYTES = "changefeed_unread_bytes"
REQUESTS = "changefeed_requests"
SIGNING_IN = "changefeed_sockets_signing_in"
LISTENER_UP = "changefeed_listener_up"
DELIVERING = "changefeed_delivering"
LOST_STATEMENTS = "changefeed_journal_lost_statements_total"
BEHIND_SECONDS = "changefeed_follower_behind_seconds"
BEHIND_TRANSACTIONS = "changefeed_follower_behind_transactions"
RECONNECTS = "changefeed_listener_reconnects_total"
CANARY_SECONDS = "changefeed_canary_round_trip_seconds"
READS = "changefeed_journal_reads_total"
TAKEN_OVER = "changefeed_pages_taken_over_total"
LEASE_HELD = "changefeed_lease_held"
NOTIFIES_SAVED = "changefeed_notifies_saved_total"
ROWS_READINGS = "changefeed_rows_readings_total"
ROWS_READ = "changefeed_rows_read_total"
ROWS_WAITING = "changefeed_rows_waiting"


def sample(context: ServerContext) -> None:
    meters, listener = context.slot.meters, context.listener
    context.change_counts.sample()
    meters.meter(OUTBOX_BYTES).set(sum(client.outbox.waiting_bytes for client in context.connected))
    meters.meter(UNREAD_BYTES).set(context.admission.unread.weight)
    requests = context.admission.requests
    meters.meter(REQUESTS, "waiting").set(requests.waiting)
    meters.meter(REQUESTS, "answering").set(len(requests) - requests.waiting)
    meters.meter(SIGNING_IN).set(len(context.admission.outside))
    meters.meter(LISTENER_UP).set(listener.is_ready)
    meters.meter(DELIVERING).set(context.readiness.trouble is None)
    meters.meter(LOST_STATEMENTS).set(context.follower.lost_statements)
    meters.meter(BEHIND_SECONDS).set(context.follower.behind_seconds)
    meters.meter(BEHIND_TRANSACTIONS).set(context.follower.behind_transactions)
    meters.meter(LEASE_HELD).set(context.follower.lease.is_held)
    meters.meter(NOTIFIES_SAVED).set(context.follower.lease.saved_notifies)
    for cause, reads in context.follower.reads.items():
        meters.meter(READS, cause).set(reads)
    meters.meter(TAKEN_OVER).set(context.follower.exchange.taken_over)
    for ended, readings in context.readings.counts.items():
        meters.meter(ROWS_READINGS, ended).set(readings)
    meters.meter(ROWS_READ).set(context.readings.rows)
    meters.meter(ROWS_WAITING).set(context.readings.waiting)
    meters.meter(RECONNECTS).set(listener.reconnects)
    if listener.canary.round_trip_seconds is not None:
        meters.meter(CANARY_SECONDS).set(listener.canary.round_trip_seconds)


async def keep_sampling(context: ServerContext) -> None:
    while True:
        sample(context)
        await asyncio.sleep(INTERVAL_SECONDS)


def one_line_of(meters: SharedNumbers) -> str:
    """The state of all processes, in one line for systemd."""
    parts = meters.everywhere()
    clients = sum(value for part in parts for (name, *_), value in part.items() if name == client_counts.NAME)
    delivering = sum(part.get((DELIVERING,), 0) for part in parts)
    who = "" if len(parts) == 1 else f"{delivering:.0f} of {len(parts)} processes: "
    return f"{who}{'' if delivering else 'not '}connected to PostgreSQL; {clients:.0f} clients are connected"
