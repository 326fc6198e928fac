"""Whether the process runs (/healthz), and whether what is committed now would be heard (/readyz)."""

from changefeed import __version__
from handlers.base import ApiHandler
from handlers.errors import ApiError


class HealthHandler(ApiHandler):
    def get(self) -> None:
        self.finish({"status": "ok", "version": __version__})


class ReadyHandler(ApiHandler):
    def get(self) -> None:
        listener = self.feed.listener
        if not listener.is_ready:
            raise ApiError(503, "not_ready", f"the server does not hear PostgreSQL: {listener.not_ready_reason}")
        self.finish({"status": "ready", "database": self.feed.database_state()})
