"""Checks who owns the schema changefeed: its functions run with the rights of their caller."""

from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database

QUERIES = load_queries("server.sql")


async def distrust(database: Database) -> str | None:
    """Why this role must not call the schema's functions; None if it may, or without a schema."""
    rows = await database.fetch(QUERIES["distrusted owner"])
    if not rows:
        return None
    [(owner,)] = rows
    return (
        f"the schema changefeed, or something in it, belongs to {owner}, whose code would run with the rights of this "
        f"role; connect as {owner}, or as a role with the rights of docs/least-rights.md"
    )
