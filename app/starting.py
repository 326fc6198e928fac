"""Gets what the server needs before it accepts clients: an address, PostgreSQL, triggers. Else raises StartError."""

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Coroutine
from typing import Any

import psycopg2
from tornado.netutil import bind_sockets

from app.demo import make_tables
from changefeed.backoff import backoff
from changefeed.journal.installation import CannotWatch
from changefeed.journal.watching import NoSuchTable
from changefeed.postgres.connection import IN_RECOVERY
from changefeed.postgres.listener import ListenerState
from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import DatabaseUnavailable, one_line
from handlers.http.context import ServerContext

logger = logging.getLogger("handlers.starting")

QUERIES = load_queries("server.sql")

CORRECT_IT = "correct --database-url (user, password, database name)"
A_STANDBY = "it is a standby: name its primary in --database-url, or all hosts, or promote it"
CORRECT_OR_WAIT = "is PostgreSQL running there? Correct --database-url, or wait longer with --database-wait-seconds"
ASK_DOCTOR = (
    "run server.py doctor, which says what to do, and see docs/least-rights.md for the rights of the server's role"
)
BACKLOG = 4096  # connections that the kernel holds until they are accepted, as when a crowd reconnects


class StartError(Exception):
    """The server cannot start; the message is one line that says why and what to do."""


def bind(address: str, port: int, *, is_shared: bool = False) -> list[socket.socket]:
    try:
        return bind_sockets(port, address, backlog=BACKLOG, reuse_port=is_shared)
    except UnicodeError:
        raise StartError(f"{address!r} is not an address; choose another --address, such as 127.0.0.1") from None
    except OSError as error:
        where = f"{address}:{port}"
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"{where} is in use; stop what listens there, or choose another --port") from None
        raise StartError(f"cannot listen on {where} ({error.strerror}); choose another --address or --port") from None


async def first_contact(context: ServerContext, state_changed: asyncio.Event, stopping: asyncio.Event) -> bool:
    """True once the listener is connected, False if the server is to stop before. Raises StartError if it cannot be."""
    listener, wait_seconds = context.listener, context.settings.database_wait_seconds
    deadline = time.monotonic() + wait_seconds
    told = None
    while listener.state is ListenerState.CONNECTING and not stopping.is_set():
        left = deadline - time.monotonic()
        if listener.reason and (listener.is_hopeless or left <= 0):
            advice = (
                CORRECT_IT if listener.is_hopeless else A_STANDBY if IN_RECOVERY in listener.reason else CORRECT_OR_WAIT
            )
            raise StartError(f"cannot use the database {context.database_name}: {listener.reason}; {advice}")
        if listener.reason and listener.reason != told:
            told = listener.reason
            logger.warning("waiting up to %g s for the database %s: %s", wait_seconds, context.database_name, told)
        state_changed.clear()
        await first_of(state_changed.wait(), stopping.wait(), within_seconds=max(left, 0.05))
    return not stopping.is_set()


async def prepare_tables(context: ServerContext, stopping: asyncio.Event, *, is_demo: bool) -> bool:
    """True once the tables of --watch are watched, False if the server is to stop before. Raises StartError."""
    delays, complaint = backoff(), ""
    while not stopping.is_set():
        try:
            await context.watching.start()
            if is_demo:
                await make_tables(context.request_pool, context.watching)
            await context.watching.say_if_no_journal()
            await warn_of_missing_roles(context)
            return True
        except (NoSuchTable, CannotWatch) as error:
            raise StartError(str(error)) from None
        except psycopg2.Error as error:
            raise StartError(f"the database {context.database_name} refuses: {one_line(error)}; {ASK_DOCTOR}") from None
        except DatabaseUnavailable as error:  # it was available a moment ago
            if complaint != (complaint := str(error)):
                logger.warning(
                    "the database %s went away: %s; trying again until it is back", context.database_name, error
                )
        await first_of(stopping.wait(), within_seconds=next(delays))
    return False


async def warn_of_missing_roles(context: ServerContext) -> None:
    asked = {"roles": list(context.settings.trust_owner)}
    for (role,) in await context.request_pool.fetch(QUERIES["missing roles"], asked):
        logger.warning("--trust-owner %s: there is no such role, so no table is read for it; correct the name", role)


async def first_of(*waits: Coroutine[Any, Any, Any], within_seconds: float) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=within_seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
