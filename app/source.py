"""Finds the database to follow: the one in the settings, or an embedded one that it starts. Knows no table."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from changefeed.postgres.connection import complete, display_name
from changefeed.postgres.embedded import EmbeddedPostgres, default_data_dir
from settings.table import Settings


@dataclass(frozen=True)
class DatabaseSource:
    """The database to follow. Only the embedded one has a `psql_command`, which opens it in psql."""

    conninfo: str
    name: str
    psql_command: str | None = None

    @property
    def is_demo(self) -> bool:
        return self.psql_command is not None


@contextlib.contextmanager
def source_of(settings: Settings) -> Iterator[DatabaseSource]:
    """The user's database, or the embedded one, which runs as long as the block does. Raises EmbeddedError."""
    if settings.database_url is not None:
        conninfo = complete(settings.database_url)
        yield DatabaseSource(conninfo, display_name(conninfo))
        return
    embedded = EmbeddedPostgres(settings.data_dir or default_data_dir())
    embedded.start()
    try:
        yield DatabaseSource(complete(embedded.conninfo), "demo (embedded)", embedded.psql_command)
    finally:
        embedded.stop()
