"""Serves the dashboard's files, and the client for other pages, from frontend/dist."""

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
    """Browsers revalidate the page each time; its assets have a hash in their names and are cached for ever."""

    needs = Need.NOTHING  # the files contain no data

    def set_extra_headers(self, path: str) -> None:
        is_hashed = path.startswith("assets/")
        self.set_header("Cache-Control", "public, max-age=31536000, immutable" if is_hashed else "no-cache")

    def get_content_type(self) -> str:
        # In the system's table of types, TypeScript's ending is that of a video.
        return "text/plain; charset=utf-8" if self.path.endswith(".d.ts") else super().get_content_type()
