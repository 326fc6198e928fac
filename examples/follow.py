"""Follows the feed from Python, for ever: prints each change once and in order.

.venv/bin/python examples/follow.py http://localhost:8080 orders
"""

import asyncio
import os
import sys
from pathlib import Path

try:
    sys.path.append(str(Path(__file__).parent.parent / "clients" / "python"))  # unless it is installed
    from psqlisten2websocket_client import Gap, Refused, follow
except ImportError:
    sys.exit("the package websockets is needed: pip install websockets, or use .venv/bin/python after `make test`")


def print_gap(gap: Gap) -> None:
    print(f"changes may be missing: {gap.why}; {gap.what_to_do}", file=sys.stderr)


async def main(url: str, tables: list[str]) -> None:
    async for change in follow(url, table=tables, token=os.environ.get("TOKEN"), on_gap=print_gap):
        print(change)


if __name__ == "__main__":
    url, *tables = sys.argv[1:] or ["http://localhost:8080"]
    try:
        asyncio.run(main(url, tables))
    except (Refused, ValueError) as error:
        sys.exit(f"{url}: {error}")
    except KeyboardInterrupt:
        pass
