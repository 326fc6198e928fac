"""Serves the dashboard's files, and the client for other pages, from frontend/dist."""

import mimetypes
from functools import cache
from pathlib import Path

from tornado.web import HTTPError

from handlers.access.authentication import Need
from handlers.http.base import BaseHandler
from handlers.http.compression import UnchangingContent

DIST_DIR = Path(__file__).parents[2] / "frontend" / "dist"
PAGE = "index.html"


class BasePathHandler(BaseHandler):
    needs = Need.NOTHING

    def get(self) -> None:
        self.redirect(f"{self.context.settings.base_path}/", permanent=True)


class DashboardHandler(BaseHandler):
    """Browsers revalidate the page each time; its assets have a hash in their names and are cached for ever."""

    needs = Need.NOTHING  # the files contain no data

    def get(self, path: str) -> None:
        content = dashboard_files().get(path or PAGE)
        if content is None:
            raise HTTPError(404)
        is_hashed = path.startswith("assets/")
        self.set_header("Cache-Control", "public, max-age=31536000, immutable" if is_hashed else "no-cache")
        self.set_header("Content-Type", _content_type(path or PAGE))
        self.finish_unchanging(content)

    head = get


@cache
def dashboard_files() -> dict[str, UnchangingContent]:
    """All files by their paths. They are kept, since anyone may ask for them, as often as they like."""
    return {
        path.relative_to(DIST_DIR).as_posix(): UnchangingContent(path.read_bytes())
        for path in DIST_DIR.rglob("*")
        if path.is_file()
    }


def _content_type(path: str) -> str:
    # In the system's table of types, TypeScript's ending is that of a video.
    if path.endswith(".d.ts"):
        return "text/plain; charset=utf-8"
    return mimetypes.guess_type(path)[0] or "application/octet-stream"
