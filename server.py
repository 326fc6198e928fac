"""Starts the server, or one of its commands: `python server.py --help`."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from app.run import run
from changefeed import doctor
from changefeed.embedded import EmbeddedError
from changefeed.log_lines import JSON, TEXT, log_to_stderr
from changefeed.printable import printable
from changefeed.processes import NeverStarted
from changefeed.settings import SettingsError
from changefeed.settings_sources import load as load_settings
from handlers.starting import StartError

logger = logging.getLogger("server")


def main(argv: Sequence[str]) -> int:
    """The exit code: 0 after SIGINT or SIGTERM, 2 when it could not start; for `doctor` and `bench` see there."""
    log_format = TEXT
    try:
        if argv[:1] == ["doctor"]:
            return doctor.main(
                load_settings(argv[1:], os.environ, Path(".env"), command="doctor", description=doctor.DESCRIPTION)
            )
        if argv[:1] == ["bench"]:
            from benchmarks import own  # the server itself needs none of it

            return own.main(argv[1:], os.environ, Path(".env"))
        settings = load_settings(argv, os.environ, Path(".env"))
        log_to_stderr(log_format := settings.log_format)
        uvloop.run(run(settings, argv))
    except NeverStarted:
        return 2  # the process has said why
    except (SettingsError, StartError, EmbeddedError) as error:
        if log_format == JSON:
            logger.error("%s", error)
        else:
            print(f"server.py: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
