"""The table of all routes. Order matters: the first that matches answers."""

import logging
import re

from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler

from handlers.api.changes import ChangesHandler
from handlers.api.health import HealthHandler, ReadyHandler
from handlers.api.lookup import ChangeHandler, PlaceHandler
from handlers.api.openapi import OpenApiHandler
from handlers.api.rows import RowsHandler
from handlers.api.status import StatusHandler
from handlers.api.tables import TablesHandler, WatchHandler
from handlers.dashboard.session import SessionHandler
from handlers.dashboard.socket import ActivityHandler, ActivitySocket
from handlers.dashboard.static import BasePathHandler, DashboardHandler, dashboard_files
from handlers.feed.raw import ListenSocket
from handlers.feed.sse import EventStreamHandler
from handlers.feed.websocket import MESSAGE_LIMIT_BYTES, EventSocket
from handlers.http.base import NotFoundHandler
from handlers.http.compression import SmallAnswersGzip
from handlers.http.context import ServerContext
from handlers.metrics.exposition import MetricsHandler

logger = logging.getLogger(__name__)

PING_SECONDS = 25  # between pings; a client that does not answer within 25 s more is closed, so within 50 s

ROUTES = (
    URLSpec(r"/ws", EventSocket),
    URLSpec(r"/ws/activity", ActivitySocket),
    URLSpec(r"/listen/(.+)", ListenSocket),
    URLSpec(r"/events", EventStreamHandler),
    URLSpec(r"/api/changes", ChangesHandler),
    URLSpec(r"/api/rows", RowsHandler),
    URLSpec(r"/api/change", ChangeHandler),
    URLSpec(r"/api/place", PlaceHandler),
    URLSpec(r"/api/activity", ActivityHandler),
    URLSpec(r"/api/tables", TablesHandler),
    URLSpec(r"/api/tables/(.+)/watch", WatchHandler),
    URLSpec(r"/api/status", StatusHandler),
    URLSpec(r"/api/session", SessionHandler),
    URLSpec(r"/api/openapi\.json", OpenApiHandler),
    URLSpec(r"/healthz", HealthHandler),
    URLSpec(r"/readyz", ReadyHandler),
    URLSpec(r"/metrics", MetricsHandler),
    URLSpec(r"/()", DashboardHandler),
    URLSpec(r"/(favicon\.svg|client\.js|client\.d\.ts|assets/[\w.-]+)", DashboardHandler),
)


def make_app(context: ServerContext) -> Application:
    dashboard_files()  # reads and compresses them before there are clients
    return Application(
        routes_of(context),
        transforms=[SmallAnswersGzip],
        default_handler_class=NotFoundHandler,
        context=context,
        websocket_max_message_size=MESSAGE_LIMIT_BYTES,
        websocket_ping_interval=PING_SECONDS,
        websocket_ping_timeout=PING_SECONDS,
        log_function=_log_request,
    )


def routes_of(context: ServerContext) -> list[URLSpec]:
    """The routes of one server, each below its base path. The path itself redirects to the dashboard.

    /ws is served by the server's own subclass, whose broadcast() reaches only its clients.
    """
    before = re.escape(context.settings.base_path)
    own = {EventSocket: context.event_socket}
    routes = [
        URLSpec(before + route.regex.pattern, own.get(route.handler_class, route.handler_class), route.kwargs)
        for route in ROUTES
    ]
    return [*routes, URLSpec(before, BasePathHandler)] if before else routes


def _log_request(handler: RequestHandler) -> None:
    """Logs nothing: the client reads its refusals, and Tornado logs a failure of ours with its traceback."""
    logger.debug("%d %s", handler.get_status(), handler._request_summary())
