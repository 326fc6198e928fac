"""Python websockets and asyncpg: each notification goes to all clients by broadcast(), as its manual advises.

On asyncio's own loop: with uvloop it is no cheaper, and later under load.
"""

import asyncio
import sys

import asyncpg
from websockets.asyncio.server import broadcast, serve

clients = set()


async def on_client(client):
    clients.add(client)
    try:
        await client.wait_closed()
    finally:
        clients.discard(client)


def on_notification(connection, pid, channel, payload):
    broadcast(clients, payload)


async def main(port):
    connection = await asyncpg.connect()  # libpq's variables name the database
    await connection.add_listener("events", on_notification)
    async with serve(on_client, "127.0.0.1", port):
        print(f"serving at http://127.0.0.1:{port}/", file=sys.stderr, flush=True)
        await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1])))
