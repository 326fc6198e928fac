"""Tornado as one writes it first: psycopg2's connection on the IOLoop, write_message for each change and client."""

import asyncio
import sys

import psycopg2
from tornado.ioloop import IOLoop
from tornado.web import Application
from tornado.websocket import WebSocketHandler

clients = set()


class Events(WebSocketHandler):
    def open(self):
        clients.add(self)

    def on_close(self):
        clients.discard(self)


async def main(port):
    connection = psycopg2.connect("")  # libpq's variables name the database
    connection.autocommit = True
    connection.cursor().execute("LISTEN events")

    def on_readable(descriptor, event):
        connection.poll()
        while connection.notifies:
            payload = connection.notifies.pop(0).payload
            for client in clients:
                client.write_message(payload)

    IOLoop.current().add_handler(connection.fileno(), on_readable, IOLoop.READ)
    Application([("/ws", Events)]).listen(port, "127.0.0.1")
    print(f"serving at http://127.0.0.1:{port}/", file=sys.stderr, flush=True)
    await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1])))
