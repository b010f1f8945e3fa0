"""How lines of the log look: for people, or JSON for machines. In JSON, one event is one line, its traceback too; as text, a traceback has lines of its own."""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]

DOOR_FORMAT = '{"time":"%Y-%m-%dT%T.%e%z","level":"%l","logger":"envoy.%n","message":"%j"}'
"""The same keys for the lines of Envoy, in its own words."""


def begin(log_format: LogFormat) -> None:
    """Let all lines from now on go to stderr in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def about(**fields: object) -> Mapping[str, Any]:
    """What a line is about, to be given to a logger as `extra`; what is empty is left out."""
    return {"about": {name: value for name, value in fields.items() if value not in ("", None)}}


def _about(record: logging.LogRecord) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(record, "about", {})
    return found


class TextFormatter(logging.Formatter):
    """`LEVEL logger: message`, and behind it what names the request, quoted: callers choose those names."""

    NAMES = ("request_id", "trace_id", "span_id")

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = _about(record)
        names = [f"{name}={json.dumps(fields[name])}" for name in self.NAMES if name in fields]
        return " ".join([super().formatMessage(record), *names])


class JsonFormatter(logging.Formatter):
    """`time` is RFC 3339 in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_about(record),
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str)
