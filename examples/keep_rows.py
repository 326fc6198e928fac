"""A worker that keeps a table's rows in a file, through restarts of itself and of all others; prints how many they are.

.venv/bin/python examples/keep_rows.py http://localhost:8080 portal_tickets tickets.pickle
"""

import asyncio
import os
import pickle
import sys
from pathlib import Path

try:
    sys.path.append(str(Path(__file__).parent.parent / "clients" / "python"))  # unless it is installed
    from psqlisten2websocket_client import Kept, Refused, rows
except ImportError:
    sys.exit("the package websockets is needed: pip install websockets, or use .venv/bin/python after `make test`")


def load(file: Path) -> Kept | None:
    return pickle.loads(file.read_bytes()) if file.exists() else None


def save(kept: Kept, file: Path) -> None:
    """The rows and their place together, so that a crash leaves the ones before, or these."""
    new = file.with_suffix(".new")
    with new.open("wb") as opened:
        pickle.dump(kept, opened)
        opened.flush()
        os.fsync(opened.fileno())
    new.replace(file)


async def main(url: str, table: str, file: Path, *filters: str) -> None:
    async for now in rows(url, table, filter=filters, since=load(file), token=os.environ.get("TOKEN")):
        save(now.kept, file)
        print(len(now), flush=True)  # your work with the rows


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: keep_rows.py URL TABLE FILE [FILTER...]")
    url, table, file, *filters = sys.argv[1:]
    try:
        asyncio.run(main(url, table, Path(file), *filters))
    except (Refused, ValueError) as error:
        sys.exit(f"{url}: {error}")
    except KeyboardInterrupt:
        pass
