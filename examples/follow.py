"""Follows the feed from Python with the package websockets, for ever: each change once and in order.

.venv/bin/python examples/follow.py ws://localhost:8080/ws
"""

import asyncio
import json
import os
import random
import sys
from decimal import Decimal

try:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException
except ImportError:
    sys.exit("the package websockets is needed: pip install websockets, or use .venv/bin/python after `make test`")


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


async def follow(url, on_change, on_gap, cursor=None, token=None):
    """For ever: on_change(change) once for each change, on_gap(gap) where some may be missing."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    delay_limit = 0.0  # seconds; the first attempt after a lost connection is made at once
    while True:
        try:
            address = f"{url}{'&' if '?' in url else '?'}since={cursor}" if cursor else url
            async with connect(
                address, subprotocols=["changefeed.v1"], additional_headers=headers, max_size=None
            ) as socket:
                hello = read(await socket.recv())
                if hello["type"] == "error":
                    raise ValueError(hello["message"])  # a mistake in the address, which waiting does not fix
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
        except InvalidURI:
            raise
        except InvalidStatus as refusal:
            if refusal.response.status_code < 500:
                raise
        except (OSError, WebSocketException) as error:
            if isinstance(error, ConnectionClosed) and error.rcvd and error.rcvd.code == 4401:
                raise ValueError("the server needs a token: set TOKEN") from None
            if delay_limit == 0.0:
                print(f"no connection: {error}; trying again", file=sys.stderr)
        await asyncio.sleep(random.uniform(0, delay_limit))
        delay_limit = min(10.0, delay_limit * 2 or 0.3)


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "ws://localhost:8080/ws"
    try:
        asyncio.run(follow(address, on_change=print, on_gap=print, token=os.environ.get("TOKEN")))
    except InvalidStatus as refusal:
        answer = (refusal.response.body or b"").decode(errors="replace")
        sys.exit(f"{address}: {refusal}: {' '.join(answer.split())}")
    except (InvalidURI, ValueError) as error:
        sys.exit(f"{address}: {error}")
    except KeyboardInterrupt:
        pass
