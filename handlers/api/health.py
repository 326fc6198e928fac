"""Whether the process runs (/healthz), and whether a commit now would reach clients (/readyz).

Both answer without a token, since monitoring seldom has one. They give details only if the server requires no tokens.
"""

from changefeed import __version__
from handlers.access.authentication import Need
from handlers.access.errors import ApiError
from handlers.http.base import ApiHandler


class HealthHandler(ApiHandler):
    needs = Need.NOTHING

    def get(self) -> None:
        version = {} if self.context.authenticator.tokens.are_required else {"version": __version__}
        self.finish({"status": "ok", **version})


class ReadyHandler(ApiHandler):
    needs = Need.NOTHING

    def get(self) -> None:
        is_open = not self.context.authenticator.tokens.are_required
        if reason := self.context.readiness.trouble:
            shown = reason if is_open else "a commit now would not reach clients; the server's log says why"
            raise ApiError(503, "not_ready", shown)
        behind = {"behind_seconds": round(self.context.follower.behind_seconds, 1)} if is_open else {}
        database = self.context.readiness.database_state(is_full=is_open)
        self.finish({"status": "ready", "database": database, **behind})
