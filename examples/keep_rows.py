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


class CannotKeep(Exception):
    """The message says why, and what to do."""


def load(file: Path) -> Kept | None:
    try:
        return pickle.loads(file.read_bytes()) if file.exists() else None
    except Exception as error:  # noqa: BLE001  # pickle raises whatever the bytes make it do
        why = f"{file} has no rows that can be read: {error}; delete it to begin again, or name another file"
        raise CannotKeep(why) from None


def save(kept: Kept, file: Path) -> None:
    """The rows and their place together, so that a crash leaves the ones before, or these."""
    new = file.with_suffix(".new")
    try:
        with new.open("wb") as opened:
            pickle.dump(kept, opened)
            opened.flush()
            os.fsync(opened.fileno())
        new.replace(file)
    except OSError as error:
        why = f"the rows cannot be kept in {file}: {error}; make room there, or name a file that can be written"
        raise CannotKeep(why) from None


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
    except CannotKeep as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
