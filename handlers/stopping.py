"""Ends every connection."""

from tornado.httpserver import HTTPServer

from handlers.activity import ActivitySocket
from handlers.feed_client import FeedClient
from handlers.listen import ListenSocket
from handlers.socket import BaseSocket

REASON = "the server is stopping"


async def stop_serving(http_server: HTTPServer) -> None:
    http_server.stop()
    clients: tuple[FeedClient | BaseSocket, ...] = (*FeedClient.connected, *ActivitySocket.clients, *ListenSocket.all())
    for client in clients:
        client.leave(REASON)
    await http_server.close_all_connections()
