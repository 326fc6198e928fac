"""The dashboard's files and the client for other pages, as the build left them in frontend/dist."""

from pathlib import Path

from tornado.web import StaticFileHandler

from handlers.access.authentication import Need
from handlers.http.base import BaseHandler

DIST_DIR = Path(__file__).parents[2] / "frontend" / "dist"


class BasePathHandler(BaseHandler):
    needs = Need.NOTHING

    def get(self) -> None:
        self.redirect(f"{self.context.settings.base_path}/", permanent=True)


class DashboardHandler(StaticFileHandler, BaseHandler):
    """The page itself is asked for anew each time; what it names carries a hash in its name and is kept."""

    needs = Need.NOTHING  # they hold no data: what the page shows it must ask for

    def set_extra_headers(self, path: str) -> None:
        is_hashed = path.startswith("assets/")
        self.set_header("Cache-Control", "public, max-age=31536000, immutable" if is_hashed else "no-cache")

    def get_content_type(self) -> str:
        # TypeScript's ending is, for the system's table of types, that of a video.
        return "text/plain; charset=utf-8" if self.path.endswith(".d.ts") else super().get_content_type()
