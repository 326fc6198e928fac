"""Announces that the server is ready: prints or logs its URL, and notifies systemd."""

import logging
import socket
import sys
from collections.abc import Sequence

from app.source import DatabaseSource
from changefeed import __version__
from process.logs import JSON
from process.systemd import ServiceManager
from settings.table import Settings

logger = logging.getLogger("server")


def url_of(listening: Sequence[socket.socket], settings: Settings) -> str:
    host, port = listening[0].getsockname()[:2]
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{settings.base_path}/"


def announce(url: str, source: DatabaseSource, settings: Settings, manager: ServiceManager) -> None:
    manager.ready()
    if settings.from_environment:
        logger.info("settings from the environment: %s", ", ".join(settings.from_environment))
    demo = f" (demo; look into its database with: {source.psql_command})" if source.is_demo else ""
    if settings.log_format == JSON:
        logger.info("psqlisten2websocket %s shows the changes at %s%s", __version__, url, demo)
    else:
        print(f"psqlisten2websocket {__version__} shows the changes at {url}{demo}", file=sys.stderr, flush=True)
