"""Whether the process runs (/healthz), and whether what is committed now would be heard (/readyz).

Whoever asks is told that, since what watches a server seldom has a token; more only where no tokens are asked for.
"""

from changefeed import __version__
from handlers.base import ApiHandler
from handlers.errors import ApiError
from handlers.gate import Need


class HealthHandler(ApiHandler):
    needs = Need.NOTHING

    def get(self) -> None:
        version = {} if self.feed.gate.tokens.are_required else {"version": __version__}
        self.finish({"status": "ok", **version})


class ReadyHandler(ApiHandler):
    needs = Need.NOTHING

    def get(self) -> None:
        listener, is_open = self.feed.listener, not self.feed.gate.tokens.are_required
        if not listener.is_ready:
            why = f": {listener.not_ready_reason}" if is_open else "; its log says why"
            raise ApiError(503, "not_ready", f"the server does not hear PostgreSQL{why}")
        self.finish({"status": "ready", "database": self.feed.database_state(is_full=is_open)})
