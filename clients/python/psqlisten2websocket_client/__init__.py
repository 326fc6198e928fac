"""Follows the change feed of a psqlisten2websocket server: each change once and in order, through lost connections.

    async for change in follow("ws://localhost:8080/ws", table="orders"):
        print(change.action, change.data)

    async for orders in rows("ws://localhost:8080/ws", "orders"):
        print(len(orders), "orders")

It needs Python 3.11 and the package websockets. Install it with pip, or copy this folder.
"""

from psqlisten2websocket_client.changes import Change, Gap, Row
from psqlisten2websocket_client.connection import Refused, Token
from psqlisten2websocket_client.feed import ChangesMissing, Feed, follow
from psqlisten2websocket_client.live_rows import rows
from psqlisten2websocket_client.row_set import Kept, Key, Rows

__all__ = [
    "Change",
    "ChangesMissing",
    "Feed",
    "Gap",
    "Kept",
    "Key",
    "Refused",
    "Row",
    "Rows",
    "Token",
    "follow",
    "rows",
]
