"""Several processes that serve one port (`--processes`): the parent and its workers."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path

from app.announcement import announce, url_of
from app.assembly import calling_each
from app.hang_up import HangUp
from app.running import running
from app.serve import serve
from app.source import DatabaseSource, source_of
from app.starting import bind
from handlers.access.ended_sessions import ENDED_SESSIONS_BYTES, EndedSessions
from handlers.http.context import ProcessSlot
from handlers.metrics.gauges import one_line_of
from process.logs import log_to_stderr
from process.shared_numbers import SharedNumbers, shared_memory
from process.siblings import RING_BYTES, Siblings, tell_ended
from process.siblings import bells as bells_of
from process.supervisor import Supervisor, SupervisorLink
from process.systemd import ServiceManager
from settings.table import Settings

SERVER_PROGRAM = Path(__file__).parents[1] / "server.py"


async def run_supervisor(
    settings: Settings, argv: Sequence[str], stopping: asyncio.Event, manager: ServiceManager, hang_up: HangUp
) -> None:
    """The parent process of --processes, which serves no client itself."""
    # First without SO_REUSEPORT: so a port that another server holds is refused rather than shared with it.
    checked = bind(settings.address, settings.port)
    url, port = url_of(checked, settings), checked[0].getsockname()[1]
    for free in checked:
        free.close()
    with (
        source_of(settings) as source,
        shared_memory(settings.processes) as memory,
        shared_memory(settings.processes, ENDED_SESSIONS_BYTES) as ended_sessions,
        shared_memory(settings.processes, RING_BYTES) as rings,
        bells_of(settings.processes) as bells,
    ):
        orders = {
            "source": asdict(source),
            "port": port,
            "memory": memory,
            "ended_sessions": ended_sessions,
            "rings": rings,
            "bells": bells,
            "started_at": datetime.now(UTC).isoformat(),
            "session_secret": ProcessSlot().session_secret,
        }
        numbers = SharedNumbers(1, settings.processes, memory)
        supervisor = Supervisor(
            (sys.executable, str(SERVER_PROGRAM), *argv),
            settings.processes,
            orders=orders,
            inherited=(memory, ended_sessions, rings, *chain.from_iterable(bells)),
            ended=calling_each(numbers.clear, partial(tell_ended, bells=bells)),
        )
        hang_up.reloads.append(supervisor.hang_up)
        async with running(manager.keep_telling(lambda: one_line_of(numbers))):
            await supervisor.run(stopping, on_ready=lambda: announce(url, source, settings, manager))


async def run_worker(settings: Settings, parent: SupervisorLink, stopping: asyncio.Event, hang_up: HangUp) -> None:
    """One of the processes of --processes. It ends when its parent ends, for whatever reason."""
    orders = parent.orders
    number, port = orders["number"], orders["port"]
    log_to_stderr(settings.log_format, number)
    slot = ProcessSlot(
        number,
        settings.processes,
        prepares=number == 1 and orders["is_first_start"],
        others_are_ready=orders["others_are_ready"],
        numbers=SharedNumbers(number, settings.processes, orders["memory"]),
        started_at=datetime.fromisoformat(orders["started_at"]),
        session_secret=orders["session_secret"],
        ended_sessions=EndedSessions(number, settings.processes, orders["ended_sessions"]),
        siblings=Siblings(number, orders["bells"], orders["rings"]),
        has_seen_schema=orders.get("has_seen_schema", False),
    )
    await serve(
        settings,
        DatabaseSource(**orders["source"]),
        slot,
        stopping,
        hang_up,
        listen=lambda: bind(settings.address, port, is_shared=True),
        ready=parent.say_ready,
        parent=parent,
    )
