"""Starts the server, or one of its commands: `.venv/bin/python server.py --help`."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from app.run import run
from app.starting import StartError
from changefeed.postgres.embedded import EmbeddedError
from changefeed.printable import printable
from commands import doctor
from process.logs import JSON, TEXT, log_to_stderr
from process.supervisor import NeverStarted
from settings.sources import load_settings
from settings.table import SettingsError

logger = logging.getLogger("server")


def main(argv: Sequence[str]) -> int:
    """Returns the exit code: 0 after SIGINT or SIGTERM, 2 if the server could not start, or the code of a command."""
    log_format = TEXT
    try:
        if argv[:1] == ["doctor"]:
            return doctor.main(
                load_settings(argv[1:], os.environ, Path(".env"), command="doctor", description=doctor.DESCRIPTION)
            )
        if argv[:1] == ["bench"]:
            from commands import bench  # imported here, as the server needs none of it

            return bench.main(argv[1:], os.environ, Path(".env"))
        settings = load_settings(argv, os.environ, Path(".env"))
        log_to_stderr(log_format := settings.log_format)
        uvloop.run(run(settings, argv))
    except NeverStarted:
        return 2  # the process has logged why
    except (SettingsError, StartError, EmbeddedError) as error:
        if log_format == JSON:
            logger.error("%s", error)
        else:
            print(f"server.py: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
