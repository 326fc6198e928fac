"""Formats log records as lines: as text for people, or as JSON for programs. No row is ever logged.

A line reports a fact about the server: whether it listens, what it watches, which client was dropped and why. Text from
outside, such as a table's name, is shown without line breaks and control characters of terminals.
"""

import json
import logging
import os
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from changefeed.printable import json_printable, printable

logger = logging.getLogger("changefeed.log_lines")

TEXT, JSON = "text", "json"


MESSAGE_LIMIT_CHARACTERS = 2_000
# The loggers that clients can cause to write lines.
VISITED_LOGGERS = (
    "tornado.",
    "asyncio",
    "handlers.errors",
    "handlers.feed_client",
    "handlers.socket",
    "handlers.tables",
    "changefeed.rows",
)
VISITED_LINES = 10
VISITED_INTERVAL_SECONDS = 60.0


class TextLines(logging.Formatter):
    """A line for people. The lines of a traceback are indented, so that they cannot be taken for log lines."""

    def __init__(self, process: int | None = None) -> None:
        name = "%(name)s" if process is None else f"%(name)s ({process})"
        super().__init__(f"%(asctime)s %(levelname)s {name}: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _cut(record.message)
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


class JsonLines(logging.Formatter):
    """{"at", "level", "logger", "message", "event", "pid", "process"}, and a "traceback" for an unexpected error.

    `event` is the message without its values, so it is the same for all lines of one kind. `process` is the process's
    number if there are several, else null.
    """

    def __init__(self, process: int | None = None) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
            "event": _cut(str(record.msg)),
            "pid": os.getpid(),
            "process": self._process,
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json_printable(json.dumps(fields, ensure_ascii=False))


class VisitedLines(logging.Filter):
    """Passes VISITED_LINES lines per minute of each of those loggers, and reports how many more there were."""

    def __init__(self) -> None:
        super().__init__()
        self._began_at = float("-inf")
        self._passed: Counter[str] = Counter()
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not 0 <= record.created - self._began_at < VISITED_INTERVAL_SECONDS:
            left_out, self._left_out = self._left_out, 0
            self._began_at = record.created
            self._passed.clear()
            if left_out:
                logger.warning("%d lines on what clients sent were left out of the log", left_out)
        if not record.name.startswith(VISITED_LOGGERS):
            return True
        if self._passed[record.name] == VISITED_LINES:
            self._left_out += 1
            return False
        self._passed[record.name] += 1
        return True


def log_to_stderr(log_format: str, process: int | None = None) -> None:
    """Logs to stderr in this format; `process` is this process's number if there are several."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process) if log_format == JSON else TextLines(process))
    handler.addFilter(VisitedLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("tornado.access").setLevel(logging.ERROR)


def _cut(message: str) -> str:
    if len(message) <= MESSAGE_LIMIT_CHARACTERS:
        return message
    return f"{message[:MESSAGE_LIMIT_CHARACTERS]}… ({len(message)} characters)"
