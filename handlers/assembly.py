"""The flow, put together: listener -> follower of the journal -> hub -> tally and clients."""

import asyncio
import time
from collections.abc import Callable, Sequence

from changefeed.catalog import Catalog
from changefeed.change import Change
from changefeed.database import Database
from changefeed.follower import Follower
from changefeed.gap import Gap
from changefeed.history import History
from changefeed.hub import PLAIN_CHANNEL, RECENT_LIMIT, Broadcast, Hub
from changefeed.journal import Journal
from changefeed.listener import Listener, ListenerState, Outage
from changefeed.lookout import Lookout
from changefeed.memory import Memory
from changefeed.payload import Payload, reduce
from changefeed.queries import load
from changefeed.settings import Settings
from changefeed.tally import Tally
from changefeed.watching import Watching
from handlers.admission import Admission
from handlers.change_counts import ChangeCounts
from handlers.dashboards import Dashboards
from handlers.deliveries import Deliveries
from handlers.events import event_socket_of
from handlers.feed import Feed, Share
from handlers.gate import Gate, hosts_of
from handlers.live_clients import LiveClients
from handlers.raw_clients import RawClients
from handlers.refusals import Refusals
from handlers.tokens import load_tokens

JOURNAL_CHANNEL = "changefeed"
QUERIES = load("server.sql")
REQUEST_CONNECTIONS = 3
FOLLOWING_CONNECTIONS = 2
KNOWN_DEADLINE_SECONDS = 60.0  # after which a database is taken for one without a journal


def make_feed(
    settings: Settings,
    conninfo: str,
    database_name: str,
    on_state: Callable[[], None] = lambda: None,
    echo: Broadcast | None = None,
    share: Share | None = None,
) -> Feed:
    """Nothing runs yet. Raises SettingsError where the tokens of the settings are none."""
    share = share or Share()
    has_plain_channel = not settings.no_plain_channel
    live_clients, raw_clients, dashboards = LiveClients(), RawClients(), Dashboards()
    event_socket = event_socket_of(live_clients)
    tokens = load_tokens(settings)

    def look_again() -> None:
        live_clients.look_again()
        dashboards.look_again()

    database = Database(conninfo, REQUEST_CONNECTIONS)
    # The follower and the canary wait for nobody's request.
    following = Database(conninfo, FOLLOWING_CONNECTIONS)

    def renew() -> None:
        """What made the listener deaf may have done so to the others."""
        following.renew()
        database.renew()

    catalog = Catalog(database, look_again, settings.payload)
    tally = Tally(time.time(), catalog.has)
    # Changes say by PostgreSQL's clock when they were made; until it is known, by one that agrees with ours.
    deliveries = Deliveries(share.meters, clock=lambda: time.time() + (tally.database_ahead_seconds or 0.0))

    def broadcast(changes: Sequence[Change], cursor: str | None) -> None:
        deliveries.broadcast(event_socket.broadcast(changes, cursor), changes[0].at)

    broadcasts: list[Broadcast] = [broadcast, dashboards.broadcast, *([echo] if echo else [])]

    def reduced(change: Change) -> Change | None:
        return reduce(change, settings.payload, catalog.key)

    hub = Hub(tally, broadcasts, reduce=None if settings.payload is Payload.FULL else reduced)
    change_counts = ChangeCounts(tally, share.meters)
    journal = Journal(following, settings.payload, database, settings.row_limit_bytes)

    history = History(database, journal, tally, apply=change_counts.leave_out)

    telling: set[asyncio.Future[None]] = set()  # a task that nobody holds may vanish

    def tell_gap(gap: Gap) -> None:
        live_clients.tell_gap(gap)
        dashboards.tell_gap(gap)

    def tell_state_of_database() -> None:
        dashboards.tell_database()

    def forget_cursors() -> None:
        live_clients.forget_cursors()
        dashboards.forget_cursors()
        hub.recall([])

    def recall(memory: Memory) -> None:
        forget_cursors()
        hub.recall(memory.newest(RECENT_LIMIT))
        history.begin(memory)

    follower = Follower(
        journal,
        publish=lambda page, cursor: hub.publish(page.changes, cursor, history.uncounted(page)),
        before_first=recall,
        forget_cursors=forget_cursors,
        tell_gap=tell_gap,
        drained=live_clients.drained,
        on_state=tell_state_of_database,
        on_lost_past=renew,
    )

    def on_payloads(payloads: dict[str, list[str]]) -> None:
        # Without it a client of /listen may hear that channel still, and the feed does not.
        if has_plain_channel and (plain := payloads.get(PLAIN_CHANNEL)):
            hub.receive(plain)
        if JOURNAL_CHANNEL in payloads:
            follower.wake()
        deliveries.raw(raw_clients.broadcast(payloads))

    def tell_state() -> None:
        if listener.state is ListenerState.LISTENING:
            follower.reidentify()
        tell_state_of_database()
        on_state()

    def tell_outage(outage: Outage) -> None:
        feed.remember(outage)
        deliveries.deaf(raw_clients.tell_outage())
        telling.add(task := asyncio.ensure_future(tell_of(outage)))
        task.add_done_callback(telling.discard)

    async def tell_of(outage: Outage) -> None:
        """The journal keeps what happened meanwhile; plain notifications nobody keeps."""
        await follower.until_known(KNOWN_DEADLINE_SECONDS)
        tells_plain = has_plain_channel and (hub.has_plain_triggers or await watching.has_plain_triggers())
        if follower.memory is None or tells_plain:
            why = f"the server did not hear PostgreSQL: {outage.reason}"
            tell_gap(Gap(why, since=outage.since, until=outage.until))

    listener = Listener(
        conninfo,
        [PLAIN_CHANNEL, JOURNAL_CHANNEL] if has_plain_channel else [JOURNAL_CHANNEL],
        send=lambda channel, payload: following.fetch(QUERIES["notify"], {"channel": channel, "payload": payload}),
        on_payloads=on_payloads,
        on_state=tell_state,
        on_reached=renew,
        on_outage=tell_outage,
        rest=live_clients.rest,
    )
    watching = Watching(
        database,
        settings.watch,
        settings.retention_hours * 3600,
        settings.retention_bytes,
        # Nobody but this server uses an embedded database.
        may_upgrade=settings.upgrade_schema or settings.database_url is None,
    )
    lookout = Lookout(
        database,
        catalog,
        journal,
        settings.watch,
        edge=lambda: follower.memory.edge if follower.memory else None,
        tell_gap=tell_gap,
        on_change=watching.tend_now,
    )
    feed = Feed(
        settings,
        hub,
        listener,
        journal,
        follower,
        watching,
        database,
        following,
        catalog,
        lookout,
        Admission(settings, share.census, share.meters),
        history,
        database_name,
        share,
        deliveries,
        change_counts,
        Gate(
            tokens,
            settings.session_secret or share.session_secret,
            Refusals(share.meters),
            share.ended_sessions,
            settings.allow_origin,
            hosts_of(settings),
            is_for_here=not (tokens.are_required or settings.allow_anonymous),
        ),
        live_clients,
        event_socket,
        raw_clients,
        dashboards,
    )
    return feed
