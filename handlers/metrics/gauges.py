"""Writes this process's gauges into the shared numbers: before each answer, and every second for other processes."""

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
    numbers, listener = context.slot.numbers, context.listener
    context.change_counts.sample()
    numbers.number(OUTBOX_BYTES).set(sum(client.outbox.waiting_bytes for client in context.connected))
    numbers.number(UNREAD_BYTES).set(context.admission.unread.weight)
    requests = context.admission.requests
    numbers.number(REQUESTS, "waiting").set(requests.waiting)
    numbers.number(REQUESTS, "answering").set(len(requests) - requests.waiting)
    numbers.number(SIGNING_IN).set(len(context.admission.outside))
    numbers.number(LISTENER_UP).set(listener.is_ready)
    numbers.number(DELIVERING).set(context.readiness.trouble is None)
    numbers.number(LOST_STATEMENTS).set(context.follower.losses.reported)
    numbers.number(BEHIND_SECONDS).set(context.follower.behind_seconds)
    numbers.number(BEHIND_TRANSACTIONS).set(context.follower.behind_transactions)
    numbers.number(LEASE_HELD).set(context.follower.lease.is_held)
    numbers.number(NOTIFIES_SAVED).set(context.follower.lease.saved_notifies)
    for cause, reads in context.follower.reads.items():
        numbers.number(READS, cause).set(reads)
    numbers.number(TAKEN_OVER).set(context.follower.exchange.taken_over)
    for ended, readings in context.readings.counts.items():
        numbers.number(ROWS_READINGS, ended).set(readings)
    numbers.number(ROWS_READ).set(context.readings.rows)
    numbers.number(ROWS_WAITING).set(context.readings.waiting)
    numbers.number(RECONNECTS).set(listener.reconnects)
    if listener.canary.round_trip_seconds is not None:
        numbers.number(CANARY_SECONDS).set(listener.canary.round_trip_seconds)


async def keep_sampling(context: ServerContext) -> None:
    while True:
        sample(context)
        await asyncio.sleep(INTERVAL_SECONDS)


def one_line_of(numbers: SharedNumbers) -> str:
    """The state of all processes, in one line for systemd."""
    parts = numbers.everywhere()
    clients = sum(value for part in parts for (name, *_), value in part.items() if name == client_counts.NAME)
    delivering = sum(part.get((DELIVERING,), 0) for part in parts)
    who = "" if len(parts) == 1 else f"{delivering:.0f} of {len(parts)} processes: "
    return f"{who}{'' if delivering else 'not '}connected to PostgreSQL; {clients:.0f} clients are connected"
