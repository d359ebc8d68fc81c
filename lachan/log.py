"""lachan's own log: one JSON object per line on standard error, field names of ECS.

Built on the standard library: the log is what every process has, so it must cost next to nothing to load. Libraries'
warnings take the same way. Before `configure` (commands, tests) only warnings and worse are shown.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any


class _Lines(logging.Formatter):
    """A record as one line of JSON; control characters of what an attacker wrote are escaped by JSON itself."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        line: dict[str, Any] = {
            "@timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "log.level": record.levelname.lower(),
            "log.logger": record.name,
            "process.pid": record.process,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error.stack_trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Logger:
    """A named logger that takes facts as keywords: ``log.warning("job failed", kind=kind)``."""

    def __init__(self, name: str) -> None:
        self._log = logging.getLogger(name)

    def debug(self, message: str, **fields: Any) -> None:
        """Only for those who look for a mistake."""
        self._write(logging.DEBUG, message, fields)

    def info(self, message: str, **fields: Any) -> None:
        """Something ordinary that an operator may want to know."""
        self._write(logging.INFO, message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Something went wrong and lachan went on."""
        self._write(logging.WARNING, message, fields)

    def error(self, message: str, **fields: Any) -> None:
        """Something went wrong that somebody must look at."""
        self._write(logging.ERROR, message, fields)

    def exception(self, message: str, **fields: Any) -> None:
        """`error`, with the exception being handled."""
        self._log.error(message, exc_info=True, extra={"fields": fields})

    def _write(self, level: int, message: str, fields: dict[str, Any]) -> None:
        if self._log.isEnabledFor(level):
            self._log.log(level, message, extra={"fields": fields})


def configure(level: int = logging.INFO) -> None:
    """Have this process log JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for room in ("lachan", "pki", "ota_signing", "siem_rules", "soar_playbooks", "posture", "api"):
        logging.getLogger(room).setLevel(level)


def get(name: str = "lachan") -> Logger:
    """Give a module its own, asked for once under the name of that module."""
    return Logger(name)
