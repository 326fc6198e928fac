"""Follows the change feed of a psqlisten2websocket server: each change once and in order, through lost connections.

    async for change in follow("ws://localhost:8080/ws", table="orders"):
        print(change.action, change.data)

It needs Python 3.11 and the package websockets. Install it with pip, or copy this folder.
"""

from psqlisten2websocket_client.changes import Change, Gap, Row
from psqlisten2websocket_client.connection import Refused, Token
from psqlisten2websocket_client.feed import ChangesMissing, Feed, follow

__all__ = ["Change", "ChangesMissing", "Feed", "Gap", "Refused", "Row", "Token", "follow"]
