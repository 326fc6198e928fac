"""Whose code would run: the functions of the schema changefeed run with the rights of whoever calls them."""

from changefeed.postgres.named_queries import load_queries
from changefeed.postgres.pool import Database

QUERIES = load_queries("server.sql")


async def distrust(database: Database) -> str | None:
    """Why nothing of the schema may be called by this role; None where it may, or where there is no schema."""
    rows = await database.fetch(QUERIES["distrusted owner"])
    if not rows:
        return None
    [(owner,)] = rows
    return (
        f"the schema changefeed, or something in it, belongs to {owner}, whose code would run with the rights of this "
        f"role; connect as {owner}, or as a role with the rights of docs/least-rights.md"
    )
