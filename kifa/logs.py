"""Log messages on standard error, as ``KIFA_LOG`` and ``KIFA_LOG_FORMAT`` say.

For example ``KIFA_LOG=info``, ``KIFA_LOG=warning,kifa.sources=debug``, ``KIFA_LOG_FORMAT=json``.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping

from kifa.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")


class _Text(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s")
        self.datefmt = "%Y-%m-%dT%H:%M:%S"


class _Json(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        import json

        fields = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "module": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def set_up_logging(environment: Mapping[str, str]) -> None:
    """Send log messages to standard error as the variables say.

    Raises:
        ConfigError: a level or a format is unknown.
    """
    form = environment.get("KIFA_LOG_FORMAT", "text")
    if form not in ("text", "json"):
        raise ConfigError(f"environment: KIFA_LOG_FORMAT is {form!r}; it must be text or json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.getLogger().addHandler(handler)
    logging.getLogger("kifa").setLevel(logging.INFO)
    for part in filter(None, environment.get("KIFA_LOG", "").split(",")):
        module, equals, level = part.strip().rpartition("=")
        if level.lower() not in LEVELS or (equals and not module):
            raise ConfigError(
                f"environment: KIFA_LOG is {environment['KIFA_LOG']!r}; it must be a level"
                f" ({', '.join(LEVELS)}) or a list of module=level"
            )
        logging.getLogger(module or "kifa").setLevel(level.upper())
