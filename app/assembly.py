"""Builds a server's objects and connects them: listener -> follower of the journal -> hub -> tally and clients."""

import time
from collections.abc import Callable
from functools import partial
from typing import ParamSpec

from changefeed.change.exposure import Payload, reduce
from changefeed.change.table_names import TableName
from changefeed.counts.backfill import CountsBackfill
from changefeed.counts.tally import Tally
from changefeed.hub import RECENT_LIMIT, Broadcast, Hub
from changefeed.journal.exchange import PageExchange
from changefeed.journal.follower import Follower
from changefeed.journal.installation import Installation
from changefeed.journal.journal import Journal
from changefeed.journal.lease import Lease
from changefeed.journal.lookout import Lookout
from changefeed.journal.page_cache import Page, PageCache
from changefeed.journal.watching import Watching
from changefeed.postgres.listener import Listener
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database
from changefeed.rows.reading import Limits
from changefeed.rows.readings import Readings
from changefeed.selection.catalog import Catalog
from changefeed.turns import Stopwatch, TurnSize, WorkQueue
from handlers.access.admission import Admission
from handlers.access.authentication import Authenticator, hosts_of
from handlers.access.refusals import Refusals
from handlers.access.tokens import load_tokens
from handlers.delivery.change_counts import ChangeCounts
from handlers.delivery.counted_time import CountedTime
from handlers.delivery.dashboards import Dashboards
from handlers.delivery.delivery_counts import DeliveryCounts
from handlers.delivery.live_clients import LiveClients
from handlers.delivery.notifications import Notifications
from handlers.delivery.outages import Outages, has_plain_triggers
from handlers.delivery.raw_clients import RawClients
from handlers.delivery.readiness import Readiness
from handlers.feed.websocket import event_socket_of
from handlers.http.context import ProcessSlot, ServerContext
from settings.table import FOLLOWING_CONNECTIONS, REQUEST_CONNECTIONS, Settings

QUERIES = load_queries("server.sql")

Arguments = ParamSpec("Arguments")


def make_context(
    settings: Settings,
    conninfo: str,
    database_name: str,
    on_state: Callable[[], None] = lambda: None,
    echo: Broadcast | None = None,
    slot: ProcessSlot | None = None,
) -> ServerContext:
    """Builds everything and starts nothing. Raises SettingsError if the settings' tokens are invalid."""
    slot = slot or ProcessSlot()
    takes_plain = not settings.no_plain_channel

    # These ask parts that are built below.
    def is_known(table: str) -> bool:
        return catalog.may_mean_some(table)

    def can_lead() -> bool:
        return listener.is_ready

    def will_watch(table: TableName) -> bool:
        return watching.will_watch(table) or lookout.was_watched(lambda one: one == table)

    # What clients are sent, in order; and how long it takes to send the same to each.
    work, sending, sending_raw = WorkQueue(), Stopwatch(), Stopwatch()
    live_clients = LiveClients(is_known, work, sending)
    raw_clients, dashboards = RawClients(sending_raw), Dashboards(work)
    event_socket = event_socket_of(live_clients)

    request_pool = Database(conninfo, REQUEST_CONNECTIONS)
    # Connections of their own, so that the follower and the canary never wait for a request.
    follower_pool = Database(conninfo, FOLLOWING_CONNECTIONS)
    # And these, so that no request and no change waits for a reading of rows.
    rows_pool = Database(conninfo, settings.rows_readings)
    # What broke the listener's connection may have broken these too.
    renew = calling_each(follower_pool.renew, request_pool.renew, rows_pool.renew)

    catalog = Catalog(
        request_pool, calling_each(live_clients.refresh_columns, dashboards.refresh_columns), settings.payload
    )
    journal = Journal(follower_pool, settings.payload, request_pool, settings.row_limit_bytes, catalog.confirm)
    readings = make_readings(settings, rows_pool, journal, catalog, will_watch)
    # Before clients get what is a reason to read rows again, no rows from before are shared.
    tell_gap = calling_each(readings.outdate_by, live_clients.tell_gap, dashboards.tell_gap)
    tally = Tally(time.time(), catalog.has)
    delivery_counts = DeliveryCounts(slot.numbers, clock=tally.database_now)
    deliver = delivery_counts.counting(event_socket.broadcast)
    broadcasts = [readings.outdate, deliver, dashboards.broadcast, *([echo] if echo else [])]
    reduced = partial(reduce, payload=settings.payload, key_of=catalog.key)
    hub = Hub(tally, broadcasts, reduce=None if settings.payload is Payload.FULL else reduced)

    installation = make_installation(settings, slot, request_pool)
    change_counts = ChangeCounts(tally, slot.numbers)
    backfill = CountsBackfill(request_pool, journal, tally, apply=change_counts.leave_out)
    follower = Follower(
        journal,
        Lease(follower_pool),
        make_exchange(slot, can_lead),
        publish=partial(publish, hub, backfill),
        delivered=work.emptied,
        turn=TurnSize(partial(publishing_seconds, work, sending)),
        before_first=calling_each(partial(recall, hub), backfill.begin),
        forget_cursors=calling_each(live_clients.forget_cursors, dashboards.forget_cursors, hub.forget_journal),
        tell_gap=tell_gap,
        drained=live_clients.drained,
        on_looked=installation.note_looked,
        on_state=dashboards.tell_database,
        on_lost_past=renew,
    )
    installation.on_missing = follower.reidentify
    watching = Watching(
        request_pool, installation, settings.watch, settings.retention_hours * 3600, settings.retention_bytes
    )
    lookout = Lookout(
        request_pool,
        catalog,
        journal,
        settings.watch,
        create_missing_triggers=watching.create_missing_triggers,
        edge=lambda: follower.edge,
        tell_gap=tell_gap,
        on_change=watching.maintain_now,
    )
    outages = Outages(
        follower,
        hub,
        raw_clients,
        delivery_counts,
        takes_plain=takes_plain,
        has_plain_triggers=partial(has_plain_triggers, request_pool),
        tell_gap=tell_gap,
    )
    notifications = Notifications(hub, follower.wake, raw_clients, delivery_counts, takes_plain=takes_plain)
    listener = Listener(
        conninfo,
        notifications.channels,
        send=partial(notify, follower_pool),
        on_payloads=notifications.hand_on,
        on_listening=follower.reidentify,
        on_state=calling_each(dashboards.tell_database, on_state),
        on_reached=renew,
        on_outage=outages.tell,
        backpressure=live_clients.backpressure,
        turn=TurnSize(partial(receiving_seconds, sending, sending_raw)),
    )
    return ServerContext(
        settings=settings,
        hub=hub,
        listener=listener,
        journal=journal,
        follower=follower,
        watching=watching,
        request_pool=request_pool,
        follower_pool=follower_pool,
        rows_pool=rows_pool,
        readings=readings,
        catalog=catalog,
        lookout=lookout,
        admission=Admission(settings, slot.client_counts, slot.numbers),
        backfill=backfill,
        database_name=database_name,
        slot=slot,
        delivery_counts=delivery_counts,
        change_counts=change_counts,
        authenticator=make_authenticator(settings, slot),
        live_clients=live_clients,
        event_socket=event_socket,
        raw_clients=raw_clients,
        dashboards=dashboards,
        outages=outages,
        counted=CountedTime(hub, listener, follower, backfill, outages),
        readiness=Readiness(
            listener, follower, installation, database_name, needs_journal=not (takes_plain or settings.channels)
        ),
    )


def make_exchange(slot: ProcessSlot, can_lead: Callable[[], bool]) -> PageExchange:
    return PageExchange(slot.number, slot.siblings.send if slot.siblings.has_receivers else None, can_lead=can_lead)


def make_readings(
    settings: Settings, database: Database, journal: Journal, catalog: Catalog, will_watch: Callable[[TableName], bool]
) -> Readings:
    limits = Limits(settings.rows_limit, settings.rows_limit_bytes, settings.rows_seconds, settings.row_limit_bytes)
    return Readings(
        database,
        journal,
        catalog,
        limits,
        settings.rows_readings,
        settings.payload,
        settings.trust_owner,
        will_watch,
    )


def make_installation(settings: Settings, slot: ProcessSlot, database: Database) -> Installation:
    # No other server uses an embedded database.
    may_upgrade = settings.upgrade_schema or settings.database_url is None
    return Installation(database, may_upgrade=may_upgrade, has_been_seen=slot.has_seen_schema)


def make_authenticator(settings: Settings, slot: ProcessSlot) -> Authenticator:
    """Raises SettingsError if the settings' tokens are invalid."""
    tokens = load_tokens(settings)
    return Authenticator(
        tokens,
        settings.session_secret or slot.session_secret,
        Refusals(slot.numbers),
        slot.ended_sessions,
        settings.allow_origin,
        hosts_of(settings),
        is_for_here=not (tokens.are_required or settings.allow_anonymous),
    )


def calling_each(*calls: Callable[Arguments, object]) -> Callable[Arguments, None]:
    """Returns a function that calls all of these, in order and with the same arguments."""

    def call_each(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        for call in calls:
            call(*args, **kwargs)

    return call_each


def publish(hub: Hub, backfill: CountsBackfill, page: Page, cursor: str) -> None:
    """Publishes a page; changes that another process has counted already are not counted again."""
    hub.publish(page.changes, cursor, backfill.uncounted(page))


async def notify(database: Database, channel: str, payload: str) -> None:
    """Sends a NOTIFY."""
    await database.fetch(QUERIES["notify"], {"channel": channel, "payload": payload})


def publishing_seconds(work: WorkQueue, sending: Stopwatch) -> float:
    """The clock of the follower's turns.

    Sending the same to each client is left out: it costs more with more clients, and with smaller turns.
    """
    return work.seconds - sending.seconds


def receiving_seconds(*sending: Stopwatch) -> float:
    """The clock of the listener's turns, which leaves sending out, too."""
    return time.monotonic() - sum(stopwatch.seconds for stopwatch in sending)


def recall(hub: Hub, cache: PageCache) -> None:
    """Fills newest() with the journal's latest changes, which an earlier server published."""
    hub.recall(cache.newest(RECENT_LIMIT))
