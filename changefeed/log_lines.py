"""A log record in, a line out: for people, or an object of JSON for programs. Knows no change: no row is ever logged.

A line tells a fact of the server's life: that it listens, or does not; what it watches; who was dropped and why.
"""

import json
import logging
import os
import sys
from datetime import UTC, datetime

TEXT, JSON = "text", "json"


class JsonLines(logging.Formatter):
    """{"at", "level", "logger", "message", "event", "pid", "process"} and, of a mistake of ours, its "traceback".

    `event` is the message before its values were put in: the same for all that tell of the same. `process` is the
    number of one of several, else null.
    """

    def __init__(self, process: int | None = None) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "event": str(record.msg),
            "pid": os.getpid(),
            "process": self._process,
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def log_to_stderr(log_format: str, process: int | None = None) -> None:
    """From now on in this format; `process` is the number of this one where there are several."""
    name = "%(name)s" if process is None else f"%(name)s ({process})"
    as_text = logging.Formatter(f"%(asctime)s %(levelname)s {name}: %(message)s")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process) if log_format == JSON else as_text)
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
