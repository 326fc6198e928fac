"""Faults of PostgreSQL, of the network to it, and of the server's own process. Each gives the seconds until all is well."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from changefeed.postgres.embedded import EmbeddedError
from tests.faults.site import Site
from tests.oracle.faults import TERMINATE

AWAY_SECONDS = 2.0
DEAF_SECONDS = 10.0


async def postgres_killed(site: Site) -> float:
    """`kill -9` of PostgreSQL's first process; started again after 2 s."""
    postmaster = int((Path(site.cluster.data_dir) / "postgresql-18" / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    await asyncio.sleep(AWAY_SECONDS)
    site.cluster.stop()  # only so that it may be started again
    while True:
        # Its other processes notice that it is gone, and hold its memory until then.
        with contextlib.suppress(EmbeddedError):
            await asyncio.to_thread(site.cluster.start)
            return await site.until_well()
        site.cluster.stop()


async def postgres_stopped_at_once(site: Site) -> float:
    """`pg_ctl stop -m immediate`, which is a crash; started again after 2 s."""
    await site.restart_postgres("immediate", AWAY_SECONDS, asyncio.Event())
    return await site.until_well()


async def postgres_restarted(site: Site) -> float:
    """`pg_ctl restart`."""
    await site.restart_postgres("fast", 0, asyncio.Event())
    return await site.until_well()


async def backend_killed(site: Site) -> float:
    """`kill -9` of one of PostgreSQL's backends: it ends all others, and recovers by itself."""
    await site.crash_backend()
    return await site.until_well()


async def connections_terminated(site: Site) -> float:
    """`pg_terminate_backend` of all the server's connections."""
    await asyncio.to_thread(site.query, TERMINATE, ([True, False],))
    return await site.until_well()


async def network_cut(site: Site) -> float:
    """All connections between the server and PostgreSQL are cut."""
    site.server.line.cut()
    return await site.until_well()


async def network_deaf(site: Site) -> float:
    """For 10 s the network takes every byte between the two and delivers none; neither side gets an error."""
    site.server.line.go_deaf()
    await asyncio.sleep(DEAF_SECONDS)
    site.server.line.hear_again()
    return await site.until_well()


async def server_killed(site: Site) -> float:
    """`kill -9` of the server; started again at once."""
    await asyncio.to_thread(site.server.kill)
    site.server.start()
    return await site.until_well()


async def server_stopped(site: Site) -> float:
    """SIGTERM to the server, as a deployment sends it; started again at once."""
    await asyncio.to_thread(site.server.kill, signal.SIGTERM)
    site.server.start()
    return await site.until_well()


async def server_frozen(site: Site) -> float:
    """SIGSTOP for 10 s, as a machine that is paused."""
    site.server.send(signal.SIGSTOP)
    await asyncio.sleep(DEAF_SECONDS)
    site.server.send(signal.SIGCONT)
    return await site.until_well()
