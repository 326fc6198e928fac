"""Follows the feed from Python with the package websockets, for ever: each change once and in order.

python examples/follow.py ws://localhost:8080/ws
"""

import asyncio
import json
import random
import sys
from decimal import Decimal

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException


def read(text):
    """A message with every digit of its numbers; a gap where a change is nested too deeply for Python's json."""
    try:
        return json.loads(text, parse_int=integer, parse_float=Decimal)
    except RecursionError:
        cursor = json.loads(text.rpartition('"cursor":')[2][:-1])  # after the changes, at the end of the message
        why = "some changes are nested too deeply for Python to read"
        return {"type": "gap", "why": why, "what_to_do": "read the tables once more", "cursor": cursor}


def integer(digits):
    return int(digits) if len(digits) <= 4300 else Decimal(digits)  # Python makes no int of more


async def follow(url, on_change, on_gap, cursor=None):
    """For ever: on_change(change) once for each change, on_gap(gap) where some may be missing."""
    delay_limit = 0.0  # seconds; the first attempt after a lost connection is made at once
    while True:
        try:
            address = f"{url}?since={cursor}" if cursor else url
            async with connect(address, subprotocols=["changefeed.v1"], max_size=None) as socket:
                hello = read(await socket.recv())
                if hello["type"] == "error":
                    raise ValueError(hello["message"])  # a mistake in the address, which waiting does not mend
                begin = hello["cursor"]  # where the server begins
                cursor = cursor or begin
                async for text in socket:
                    message = read(text)
                    if message["type"] == "gap":
                        on_gap(message)
                        begin = message.get("cursor") or begin
                        cursor = begin  # the old one may be of no use any more
                    elif message["type"] == "changes":
                        for change in message["changes"]:
                            on_change(change)
                        cursor = begin = message["cursor"] or cursor
                        delay_limit = 0.0
                    elif message["type"] == "going_away":
                        await asyncio.sleep(message["reconnect_in_ms"] / 1000)
        except InvalidStatus as refusal:
            if refusal.response.status_code < 500:
                raise
        except (OSError, WebSocketException):
            pass
        await asyncio.sleep(random.uniform(0, delay_limit))
        delay_limit = min(10.0, delay_limit * 2 or 0.3)


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "ws://localhost:8080/ws"
    asyncio.run(follow(address, on_change=print, on_gap=print))
